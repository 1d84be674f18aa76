"""W&B as the sweep sees it: a process of its own, the desk, which is told what happens and tells what is asked.

The SDK is kept out of the sweep's process: it leaves a service and environment variables behind, and waits for servers.
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from orchestrator.folder import SweepFolder
from orchestrator.messages import Asked, Delivered, Ended, Job, Joined, Landed, Notice, StopTrial
from orchestrator.naming import run_id

if TYPE_CHECKING:
    from orchestrator.ledger import Ledger

News = Asked | Delivered | Joined | Landed | Notice | StopTrial
KINDS = {kind.__name__: kind for kind in (Asked, Delivered, Joined, Landed, Notice, StopTrial)}
# More than the desk itself waits for at the end.
FINISH_TIMEOUT_S = 90.0
# How long it may take to leave when the sweep has ended badly.
LEAVE_TIMEOUT_S = 15.0


def encode(event: News) -> str:
    """What the desk tells, as a line."""
    return json.dumps([type(event).__name__, asdict(event)])


def decode(line: str) -> tuple[str, dict[str, Any]]:
    """A line's first word, and the rest by name."""
    word, values = json.loads(line)
    return word, values


def succeed(ledger: Ledger, winner: int) -> list[int]:
    """Note who won; those who had won at earlier ends of the sweep, and whose checkpoints are its best no more."""
    won: list[int] = ledger.recall("winners") or []
    if winner not in won:
        ledger.remember("winners", [*won, winner])
    return [number for number in won if number != winner]


def close_dead(folder: SweepFolder, ended: Ended) -> None:
    """Say in the files of a trial's run how it ended, where its workers died without doing so, or it only paused."""
    from orchestrator import runlog

    paths = folder.run_files(run_id(folder.name, ended.number))
    for path in paths:
        with suppress(OSError):  # the disk is full: `sync` says it for a run that does not say how it ended
            runlog.say_last_words(path, outcome=ended.outcome, error=ended.error)
            if path is paths[-1]:
                runlog.end_paused(path, ended.outcome)


class Tracking:
    """The sweep's end of the line to the desk."""

    def __init__(self, folder: SweepFolder, *, sweep_id: str | None, command: str) -> None:
        self._folder = folder
        self._heard: queue.SimpleQueue[News] = queue.SimpleQueue()
        self._missing: list[str] | None = None
        with folder.log.open("a", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "orchestrator.desk", folder.storage, folder.name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # Ctrl-C is for the sweep, which then tells the desk
            )
        self._listener = threading.Thread(target=self._listen, name="desk", daemon=True)
        self._listener.start()
        self._tell("open", sweep_id=sweep_id, command=command)

    def follow(self, number: int, segment: str) -> None:
        """A trial's run was opened, in this folder."""
        self._tell("follow", number=number, segment=segment)

    def ended(self, number: int, outcome: str, error: str | None, *, closed: bool, job: Job | None = None) -> None:
        """A trial is over; whether its workers closed its run, and what describes the checkpoints that they left."""
        told = asdict(job) if job else None
        self._tell("ended", number=number, outcome=outcome, error=error, closed=closed, job=told)

    def evict(self, numbers: Sequence[int]) -> None:
        """The checkpoints of these trials are no longer kept."""
        self._tell("evict", numbers=list(numbers))

    def state(self, state: str) -> None:
        """How the sweep stands, in W&B's words."""
        self._tell("state", state=state)

    def news(self) -> Iterable[News]:
        """What was heard since the last call."""
        with suppress(queue.Empty):
            while True:
                yield self._heard.get_nowait()

    def finish(self, state: str, winner: int | None, former: Sequence[int] = ()) -> list[str] | None:
        """The sweep has ended: let the desk bring up what is left; what it could not, None where it did not say."""
        self._tell("finish", state=state, winner=winner, former=list(former))
        self._listener.join(FINISH_TIMEOUT_S)
        self.close()
        return self._missing

    def close(self) -> None:
        """End the desk; where the sweep ended without `finish`, it says on the page first that nobody runs it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(LEAVE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._listener.join(LEAVE_TIMEOUT_S)
        if not self._listener.is_alive():
            self._process.stdout.close()

    def _tell(self, method: str, **arguments: Any) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):  # it died, which `_listen` says
            self._process.stdin.write(json.dumps([method, arguments]) + "\n")
            self._process.stdin.flush()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            word, values = decode(line)
            event = KINDS[word](**values)
            if isinstance(event, Delivered):
                self._missing = event.missing
            self._heard.put(event)
        if self._missing is None:
            text = f"uploads to W&B ended ({self._folder.log}); runs are on disk:"
            self._heard.put(Notice(text=f"{text} python -m orchestrator sync {self._folder.show('').rstrip('/')}"))
