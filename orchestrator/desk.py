"""The desk: a process beside the sweep that brings its runs to W&B and watches the sweep's page.

It is `python -m orchestrator.desk STORAGE NAME`, started where the sweep was, and so with the user's own key. It hears
what happens on its standard input and tells what happened on its output, a JSON line each (`tracking.py` is the other
end). Nobody waits for it: what it cannot bring up now it tries again, and what it never could is still on disk.
"""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from orchestrator import runlog, workspace
from orchestrator.delivery import Delivery, alone
from orchestrator.errors import OrchestratorError, StorageError, TrackingError, UndeliverableError
from orchestrator.folder import SweepFolder
from orchestrator.messages import (
    GOOD,
    Asked,
    Command,
    Delivered,
    Ended,
    Job,
    Joined,
    Landed,
    Notice,
    Outcome,
    StopTrial,
    first_line,
)
from orchestrator.page import REMADE, Page
from orchestrator.spec import Spec
from orchestrator.tracking import LEAVE_TIMEOUT_S, close_dead, decode, encode

# How often the page is looked at, and the most that is waited after trouble until it is tried again.
LOOK_EVERY_S, MAX_WAIT_S = 2.0, 30.0
# What is waited after the first trouble.
FIRST_WAIT_S = 2.0
# How long the sweep's end waits for what is still under way; less where the server does not answer anyway.
FINISH_TIMEOUT_S, UNREACHABLE_TIMEOUT_S = 60.0, 5.0
# How often a run is sent, at the end, of which something was refused or got lost; what is left then is for `sync`.
TRIES = 4
# Runs that are sent at once, besides those that are live.
AT_ONCE = 4

ASKS = {
    "PAUSED": Command.PAUSE,
    "RUNNING": Command.RESUME,
    "FINISHED": Command.STOP,
    "STOPPED": Command.STOP,
    "CANCELED": Command.CANCEL,
}


@dataclass
class _Trial:
    """One trial's run, on its way."""

    number: int
    over: bool = False
    opened: bool = False
    """Whether a run of it was opened: there are files of it then."""
    left: Job | None = None
    """What is known of it, where its workers may not have got to log its checkpoints."""
    evicted: bool = False
    admitted: bool = False
    """Whether its run is a member of the sweep in W&B."""
    arrived: bool = False
    carried: bool = False
    """Whether a thread is at it."""
    news: int = 0
    """How often something was noted of it."""
    places: list[str] = field(default_factory=list)
    """The folders that its run was written to, in the sweep's."""
    failed: int = 0
    """How often bringing it up failed since it last did not."""
    lost: bool = False
    """Whether no further try would bring it there."""
    stop_told: bool = False
    refused: bool = False
    """Whether it was said that the server did not take all of it."""


class Desk:
    """Minds one sweep's page; a thread looks at it, and one per run carries that run there."""

    def __init__(self, spec: Spec, folder: SweepFolder, out: TextIO) -> None:
        self._spec, self._folder, self._out = spec, folder, out
        self._page = Page(spec)
        self._delivery = Delivery(spec, folder, self._page, lambda text: self._say(Notice(text=text)))
        self._changed, self._telling = threading.Condition(), threading.Lock()
        self._trials: dict[int, _Trial] = {}
        self._state, self._told = "RUNNING", ""
        self._joined: str | None = None
        self._connected, self._cut_off_at = False, time.monotonic()
        self._closing = self._closed = False
        self._at_once = threading.Semaphore(AT_ONCE)

    # What the sweep tells.

    def open(self, sweep_id: str | None, command: str) -> None:
        """Begin: the sweep's id in W&B where it has one from before, and the command that made it."""
        self._page.sweep_id = self._joined = sweep_id
        self._fetch("wandb")  # what earlier processes of the sweep left
        threading.Thread(target=self._attend, args=[command], name="page", daemon=True).start()

    def follow(self, number: int, segment: str) -> None:
        """A trial's workers have opened its run; earlier ones of the same trial, if any, are dead."""
        for path in self._delivery.segments(number):
            if path.parent.name != Path(segment).name:
                self._say_last_words(path, Outcome.FAILED, "its workers died; it was tried again")
        self._note(number, over=False, opened=True)
        self._trials[number].places.append(segment)

    def ended(
        self, number: int, outcome: str, error: str | None, *, closed: bool, job: Mapping[str, Any] | None = None
    ) -> None:
        """A trial is over; what its workers did not get to say in its run is said for them."""
        places = self._trials[number].places if number in self._trials else []
        self._fetch(*(place for place in places if not Path(place).is_absolute()), f"wandb/checkpoints/{number}")
        # Also where they did: a part of the run whose disk was full cannot say that it goes on elsewhere.
        close_dead(self._folder, Ended(number=number, outcome=Outcome(outcome), error=error))
        # Whoever goes down with an error closes its run, and leaves the rest to the next attempt, if there is one.
        if job and (not closed or outcome not in GOOD - {Outcome.STOPPED}):
            curve = {int(epoch): value for epoch, value in job["curve"].items()}  # in JSON every name is a text
            self._note(number, left=Job(**{**job, "curve": curve}), over=True)
        else:
            self._note(number, over=True)

    def _fetch(self, *places: str) -> None:
        """Bring folders of the sweep's to this machine, where its storage is not local."""
        with contextlib.suppress(StorageError):  # not there now; `sync` looks again
            for place in places:
                self._folder.download_tree(place)

    def evict(self, numbers: Sequence[int]) -> None:
        """The checkpoints of these trials are no longer kept."""
        for number in numbers:
            self._note(number, evicted=True, over=True)

    def state(self, state: str) -> None:
        """How the sweep stands now, in W&B's words."""
        with self._changed:
            self._state = state
            self._changed.notify_all()

    def finish(self, state: str, winner: int | None, former: Sequence[int]) -> None:
        """The sweep has ended: bring up what is left, say how it ended, and leave.

        Args:
            state: how the sweep ended, in W&B's words.
            winner: the trial whose checkpoint is the sweep's best.
            former: those whose were at earlier ends of it.
        """
        for trial in self._trials.values():
            for path in () if trial.over else self._delivery.segments(trial.number):
                self._say_last_words(path, Outcome.INTERRUPTED, None)
            trial.over, trial.failed = True, 0
        with self._changed:
            self._closing, self._state = True, state
            self._changed.notify_all()
            began = time.monotonic()
            while not (self._is_all_done() or self._is_hopeless(began)):
                self._changed.wait(0.5)
        missing = [self._delivery.run_id(t.number) for t in self._trials.values() if not t.arrived]
        with self.trouble_is_said():
            missing += self._conclude(winner, former)
        self._say(Delivered(missing=missing))
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _is_all_done(self) -> bool:
        """Whether no run is under way any more, and the page can be told of the end."""
        return self._connected and not any(trial.carried for trial in self._trials.values())

    def _is_hopeless(self, began: float) -> bool:
        """Whether what is left since the end began is not waited for any more; `sync` brings it up."""
        now = time.monotonic()
        cut_off = not self._connected and now - max(began, self._cut_off_at) > UNREACHABLE_TIMEOUT_S
        return cut_off or now - began > FINISH_TIMEOUT_S

    def leave(self) -> None:
        """The sweep's process is gone without a last word: nobody runs the sweep now, which its page should say."""
        if self._connected and self._state in ("RUNNING", "PAUSED"):
            with self.trouble_is_said():
                self._state, self._closing = "PAUSED", True
                self._tell_state()

    def _conclude(self, winner: int | None, former: Sequence[int]) -> Iterable[str]:
        """Say how the sweep ended and what it found, where W&B can be reached; what did not arrive of that."""
        if not self._connected:
            return ["how the sweep ended"]
        missing = self._delivery.conclude(self._tell_state, winner, former)
        missing |= self._delivery.keep_exports([] if winner is None else [winner])
        for name, why in missing.items():
            self._say(Notice(text=f"not in W&B: {name} ({why})"))
        return missing

    def _note(self, number: int, **changes: Any) -> None:
        with self._changed:
            trial = self._trials.setdefault(number, _Trial(number))
            for name, value in changes.items():
                setattr(trial, name, value)
            trial.arrived, trial.news = False, trial.news + 1  # until `_carry` has seen what changed
            if not trial.carried:
                trial.carried = True
                threading.Thread(target=self._carry, args=[trial], name=f"run-{number}", daemon=True).start()
            self._changed.notify_all()

    def _say_last_words(self, path: Path, outcome: Outcome, error: str | None) -> None:
        with contextlib.suppress(OSError):  # the disk is full, or the folder gone: W&B will say that it crashed
            runlog.say_last_words(path, outcome=outcome, error=error)

    # The page.

    def _attend(self, command: str) -> None:
        """Connect, make the sweep, and from then on say how it stands and hear what is asked. In its own thread."""
        wait_s = 0.0
        while not self._closed:
            closing = self._closing
            try:
                if not self._connected:
                    self._reach(command)
                    with self._changed:
                        self._connected = True
                        self._changed.notify_all()
                self._look()
                wait_s = LOOK_EVERY_S
            except Exception as exc:  # noqa: BLE001 - whatever it is, the page is looked at again
                self._cut_off()
                self._say(Notice(text=self._advice(exc)))
                wait_s = min(max(wait_s * 2, FIRST_WAIT_S), MAX_WAIT_S)
            if self._closing:
                wait_s = min(wait_s, 1.0)
            with self._changed:
                self._changed.wait_for(partial(self._has_news, closing), wait_s)

    def _reach(self, command: str) -> None:
        """Connect to the sweep's page, which is made where there is none, or none any more."""
        self._page.connect()
        if self._page.sweep_id is None:
            self._page.make_sweep(command)
            self._told = ""
        if self._page.deleted:
            self._say(Notice(text=f"{REMADE} (it was {self._page.deleted})"))
            self._delivery.join_all()
        if (made := self._page.sweep_id) and made != self._joined:  # once all of it is in there
            self._joined = made
            self._say(Joined(sweep_id=made))
            threading.Thread(target=self._save_view, args=[made], name="view", daemon=True).start()

    def _cut_off(self) -> None:
        with self._changed:
            if self._connected:
                self._connected, self._cut_off_at = False, time.monotonic()

    def _has_news(self, closing: bool) -> bool:
        """Whether there is something to do at once: to leave, to say how the sweep stands, to try again as it ends."""
        ends = self._closing is not closing
        return self._closed or ends or (self._connected and not self._closing and self._state != self._told)

    def _save_view(self, sweep_id: str) -> None:
        """Save the view made for comparing the trials. In a thread of its own: nothing waits for it."""
        try:
            workspace.save(self._spec, sweep_id)
        except Exception as exc:  # noqa: BLE001 - whatever it is, the sweep goes on without
            said = str(exc) if isinstance(exc, OrchestratorError) else first_line(exc)
            self._say(Notice(text=f"no view for comparing its trials was saved on the sweep's page: {said}"))

    def _look(self) -> None:
        if not self._closing:
            self._tell_state()
        with self._changed:  # the main thread adds to them
            trials = list(self._trials.values())
        live = {self._delivery.run_id(t.number): t for t in trials if t.admitted and not t.over and not t.stop_told}
        state, stopped = self._page.look(list(live))
        if state in ASKS and self._take_over(state):
            self._say(Asked(command=ASKS[state], where="on its W&B page"))
        for name in stopped:
            live[name].stop_told = True
            self._say(StopTrial(number=live[name].number))

    def _tell_state(self) -> None:
        """Say on the page how the sweep stands; one thread at a time, so that what is said last stays."""
        with self._telling:
            state = self._state  # while the page answers, it may change again
            if state != self._told:
                self._page.set_state(state)
                self._told = state

    def _take_over(self, state: str) -> bool:
        """Take the page's state for the sweep's, unless that is what it was told, or the sweep's own is newer."""
        with self._changed:
            asked = self._state == self._told != state and not self._closing
            if asked:
                self._state = self._told = state
            return asked

    # The runs.

    def _carry(self, trial: _Trial) -> None:
        """Bring a trial's run to the server, trying again where that fails. In a thread of its own."""
        while self._goes_on(trial):
            try:
                self._carry_on(trial)
                trial.failed = 0
            except UndeliverableError as exc:
                trial.lost = True
                self._say(Notice(text=str(exc)))
            except Exception as exc:  # noqa: BLE001 - whatever it is, the run is on disk, and is sent again
                trial.failed += self._connected
                if not trial.refused:
                    self._say(Notice(text=self._advice(exc)))
                if not self._gives_up(trial):
                    self._rest(min(2.0 ** min(trial.failed, TRIES + 1), MAX_WAIT_S))

    def _rest(self, wait_s: float) -> None:
        """Wait before the next try, which comes at once where the sweep ends meanwhile."""
        with self._changed:
            closing = self._closing
            self._changed.wait_for(lambda: self._closing is not closing, wait_s)

    def _goes_on(self, trial: _Trial) -> bool:
        """Whether there is something to bring, or may be; not once the sweep has ended and it failed too often."""
        with self._changed:
            trial.carried = not (trial.lost or (trial.over and (trial.arrived or self._gives_up(trial))))
            if trial.carried:
                self._changed.wait_for(lambda: self._connected)
            self._changed.notify_all()
            return trial.carried

    def _gives_up(self, trial: _Trial) -> bool:
        """Whether nothing more is tried: the sweep has ended, and this failed too often."""
        return self._closing and trial.failed >= TRIES

    def _carry_on(self, trial: _Trial) -> None:
        over, news, name = trial.over, trial.news, self._delivery.run_id(trial.number)
        unlogged = self._log_left(trial) if over else None
        waiting = self._delivery.waiting(trial.number)
        if waiting and not trial.admitted:
            self._page.admit(name)
            self._say(Landed(number=trial.number, url=self._page.address(name)))
            trial.admitted = True
        for path in waiting:
            live = not trial.over and path is waiting[-1]
            with contextlib.nullcontext() if live else self._at_once:
                self._delivery.send(path, live=live, said=lambda text: self._refused(trial, name, text))
        if not over:
            with self._changed:
                self._changed.wait(LOOK_EVERY_S)
            return
        with self._at_once:
            self._settle(trial, name)
        if unlogged:
            raise unlogged
        waits = bool(self._delivery.waiting(trial.number))
        with self._changed:
            trial.arrived = not waits and trial.news == news
            self._changed.notify_all()

    def _log_left(self, trial: _Trial) -> TrackingError | None:
        """Log the checkpoints that its workers left; what is in the way of that keeps nothing else from W&B."""
        try:
            if trial.left and not trial.evicted:
                with self._at_once:
                    self._delivery.log_left(trial.left)
            trial.left = None
        except TrackingError as exc:
            return exc
        return None

    def _settle(self, trial: _Trial, name: str) -> None:
        """See that all of the run of a trial that is over is there, and nothing that is not kept."""
        if self._delivery.segments(trial.number):
            self._delivery.settle(trial.number, evicted=trial.evicted)
        elif trial.opened:
            raise UndeliverableError(f"the files of W&B run {name} are not in {self._folder.work / 'wandb'}")
        if trial.evicted:
            self._delivery.drop_checkpoints(trial.number)

    def _refused(self, trial: _Trial, name: str, text: str) -> None:
        trial.refused = True
        self._say(
            Notice(text=f"W&B stopped taking run {name} ({text}); it is on disk, and is sent again once it ended")
        )

    def _advice(self, trouble: Exception) -> str:
        if not isinstance(trouble, OrchestratorError):
            traceback.print_exception(trouble)  # to the sweep's log
        said = str(trouble) if isinstance(trouble, OrchestratorError) else first_line(trouble)
        return (
            f"{said}. Training goes on; runs are kept on disk and go up when they can, or later:"
            f" python -m orchestrator sync {self._folder.show('').rstrip('/')}"
        )

    @contextlib.contextmanager
    def trouble_is_said(self) -> Iterator[None]:
        """Say what goes wrong, and go on."""
        try:
            yield
        except Exception as exc:  # noqa: BLE001 - whatever it is, the sweep goes on
            self._say(Notice(text=self._advice(exc)))

    def _say(self, event: Any) -> None:
        with self._changed:
            print(encode(event), file=self._out, flush=True)


def main(storage: str, name: str) -> None:
    """Serve until the sweep has ended, or its process has."""
    # What this process starts gets others: it may outlive this one, and the sweep would wait for it.
    said, out = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # the SDK prints
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    # Read at once, whatever is being done: the sweep must never wait until it can say something.
    threading.Thread(target=_read, args=[said, lines], name="ear", daemon=True).start()
    folder = SweepFolder(storage, name)
    with alone(folder):
        _serve(Desk(Spec.from_yaml(folder.read_text("sweep.yaml")), folder, out), lines)
        os._exit(0)  # threads that still wait for the server wait in vain


def _serve(desk: Desk, lines: queue.SimpleQueue[str]) -> None:
    while line := lines.get():
        method, arguments = decode(line)
        with desk.trouble_is_said():
            getattr(desk, method)(**arguments)
        if method == "finish":
            return
    desk.leave()


def _read(said: TextIO, lines: queue.SimpleQueue[str]) -> None:
    for line in said:
        lines.put(line)
    lines.put("")  # the sweep's process is gone
    time.sleep(LEAVE_TIMEOUT_S)
    os._exit(1)  # whoever goes on with the sweep waits for this one to leave


if __name__ == "__main__":
    main(*sys.argv[1:])
