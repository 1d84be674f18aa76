"""The watch over a trial: a thread that ends one whose steps do not end, and hears of interruption (ray)."""

from __future__ import annotations

import contextlib
import faulthandler
import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import ray

from orchestrator.messages import Job, Outcome


class Watch:
    """One for each worker, for as long as it lives."""

    def __init__(self, board: Any, slot: str, limit_s: float, stalled: Callable[[Job, float], None]) -> None:
        self._board, self._slot, self._limit_s, self._stalled = board, slot, limit_s, stalled
        self._job: Job | None = None
        self._last_beat = math.inf  # infinite while nothing is expected to happen
        self.interrupted: Outcome | None = None
        self._signal: Any = None
        threading.Thread(target=self._look, name="watch", daemon=True).start()

    def beat(self) -> None:
        """A step ended, or began."""
        self._last_beat = time.monotonic()

    @contextlib.contextmanager
    def over(self, job: Job) -> Iterator[None]:
        """Watch over a trial."""
        self._job, self.interrupted = job, None
        self._signal = self._board.interrupted.remote(self._slot, job.number)
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
            if (signal := self._signal) is None:
                time.sleep(tick_s)
            elif ray.wait([signal], timeout=tick_s)[0]:
                outcome = ray.get(signal)
                if signal is self._signal:  # and not the next trial's already
                    self.interrupted, self._signal = outcome, None
            if self._last_beat == math.inf or self._job is None:
                faulthandler.cancel_dump_traceback_later()
                continue
            # The second line of defence, in C: a hang that holds the interpreter's lock stops this thread as well.
            faulthandler.dump_traceback_later(self._limit_s + 10 * tick_s, exit=True)
            if time.monotonic() - self._last_beat > self._limit_s:
                self._stalled(self._job, self._limit_s)
