"""The watch over a trial: a thread that ends one whose steps do not end, and hears of interruption (ray)."""

from __future__ import annotations

import contextlib
import faulthandler
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import ray

from orchestrator.messages import Job, Outcome


@dataclass
class _Watched:
    """One trial under watch. A new object for each, so that what is heard late of one cannot pass for the next's."""

    job: Job
    signal: Any
    interrupted: Outcome | None = None


class Watch:
    """One for each worker, for as long as it lives."""

    def __init__(self, board: Any, slot: str, limit_s: float, stalled: Callable[[Job, float], None]) -> None:
        self._board, self._slot, self._limit_s, self._stalled = board, slot, limit_s, stalled
        self._watched: _Watched | None = None
        self._last_beat = math.inf  # infinite while nothing is expected to happen
        threading.Thread(target=self._look, name="watch", daemon=True).start()

    @property
    def interrupted(self) -> Outcome | None:
        """What the trial is to end as at its next step, where it is to end."""
        return self._watched.interrupted if self._watched else None

    def beat(self) -> None:
        """A step ended, or began."""
        self._last_beat = time.monotonic()

    @contextlib.contextmanager
    def over(self, job: Job) -> Iterator[None]:
        """Watch over a trial."""
        self._watched = _Watched(job, self._board.interrupted.remote(self._slot, job.number))
        self.beat()
        try:
            yield
        finally:
            self._last_beat = math.inf

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """While waiting for others, which has limits of its own."""
        self._last_beat = math.inf
        try:
            yield
        finally:
            self.beat()

    def _look(self) -> None:
        tick_s = min(1.0, self._limit_s / 4)
        while True:
            watched = self._watched
            if watched is None or watched.signal is None:
                time.sleep(tick_s)
            elif ray.wait([watched.signal], timeout=tick_s)[0]:
                watched.interrupted, watched.signal = ray.get(watched.signal), None
            if watched is None or self._last_beat == math.inf:
                faulthandler.cancel_dump_traceback_later()
                continue
            # The second line of defence, in C: a hang that holds the interpreter's lock stops this thread as well.
            faulthandler.dump_traceback_later(self._limit_s + 10 * tick_s, exit=True)
            if time.monotonic() - self._last_beat > self._limit_s:
                self._stalled(watched.job, self._limit_s)
