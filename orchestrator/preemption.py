"""Whether a node that trains the trial is announced to go: asked now and then, by all ranks at the same step (ray)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import ray.train

# How often it is asked, in seconds: to ask takes a few milliseconds, and a cloud gives half a minute or two minutes.
EVERY_S = 2.0


class Preemption:
    """One for each attempt, on every rank."""

    def __init__(self, broadcast: Callable[[Any], Any]) -> None:
        self._broadcast = broadcast
        self._steps = 0
        self._began = time.monotonic()
        self._ask_at = 1 if broadcast(_is_watched()) else 0

    def is_announced(self) -> bool:
        """Whether one is; to be called after every step, by all ranks alike."""
        self._steps += 1
        if self._steps != self._ask_at:
            return False
        step_s = (time.monotonic() - self._began) / self._steps
        self._ask_at += self._broadcast(max(1, int(EVERY_S / step_s)))  # at the same step on every rank
        return ray.train.get_preemption_info() is not None


def _is_watched() -> bool:
    """Whether Ray Train looks for announcements: a machine of one's own makes none (cluster.py)."""
    return os.environ.get("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "1") != "0"
