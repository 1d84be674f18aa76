"""Single trials outside of any search, on a worker group of their own: what replays and tests them (ray)."""

from __future__ import annotations

import os
import signal
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Thread
from typing import Any

import ray

from orchestrator import cluster
from orchestrator.errors import SpecError, SweepError
from orchestrator.folder import SweepFolder
from orchestrator.messages import Ended, Job, Lost, Outcome, Place, Report, Task, Verdict, first_line
from orchestrator.slot import POLL_S, worker_group
from orchestrator.spec import Spec
from orchestrator.switchboard import Switchboard

# How long workers may take to leave: after Ctrl-C they are in the middle of a trial.
LEAVE_TIMEOUT_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Ran:
    """What came of a trial."""

    ended: Ended
    reports: list[Report] = field(default_factory=list)


def run(spec: Spec, jobs: list[Job], judge: Callable[[Report], Verdict] = lambda _: Verdict.CONTINUE) -> list[Ran]:
    """Run trials one after the other on a worker group as the spec says.

    Args:
        spec: its storage and name say where checkpoints go.
        jobs: what is to be run.
        judge: what is made of every epoch.

    Raises:
        SweepError: a trial failed, or its workers did not start. It is not tried again.
        SpecError: the trainable does not fit.
    """
    folder = SweepFolder(spec.storage, spec.name or "")
    folder.create()
    for job in jobs:
        if job.task is not Task.TEST:
            folder.drop_checkpoints(job.number)  # it begins, whatever an earlier run of it has left
    with cluster.connected():
        board = ray.remote(num_cpus=0, max_concurrency=1000)(Switchboard).remote()
        group = _Group(spec, board, len(jobs))
        group.start()
        try:
            return [_run(board, group, job, judge) for job in jobs]
        finally:
            ray.get(board.close.remote(group.slot))
            board.interrupt.remote(Outcome.INTERRUPTED)  # where it was, a trial still trains
            group.join(LEAVE_TIMEOUT_S)  # what is left of it then goes with the connection
            if group.is_alive() and isinstance(sys.exception(), KeyboardInterrupt):
                # Shut down under a thread that still uses it, Ray ends the process with an exit code of its own.
                os._exit(128 + signal.SIGINT)


class _Group(Thread):
    """Keeps the worker group while trials run."""

    def __init__(self, spec: Spec, board: Any, trials: int) -> None:
        super().__init__(name="worker-group", daemon=True)
        self._spec, self._board = spec, board
        self.slot = f"solo-{uuid.uuid4().hex[:8]}"  # others may run trials on this machine
        self.error = "its workers ended"
        self._groups = trials if spec.isolation == "process" else 1

    def run(self) -> None:
        """Until the board is closed, or a worker fails."""
        place = Place(folder=os.getcwd(), environ={})
        try:
            for _ in range(self._groups):
                worker_group(
                    self._spec, self._board, self.slot, place,
                    workers=self._spec.resources.fewest_workers, max_failures=0,
                ).fit()  # fmt: skip
        except Exception as exc:  # noqa: BLE001 - whatever it is, who waits for the trial must hear of it
            self.error = first_line(exc)


def _run(board: Any, group: _Group, job: Job, judge: Callable[[Report], Verdict]) -> Ran:
    ray.get(board.assign.remote(group.slot, job))
    reports: list[Report] = []
    while True:
        match ray.get(board.next_event.remote(group.slot, POLL_S)):
            case Report() as report:
                reports.append(report)
                ray.get(board.answer.remote(group.slot, judge(report)))
            case Ended() as ended:
                return Ran(ended=ended, reports=[*reports, *([ended.report] if ended.report else [])])
            case Lost() as lost:
                raise (SpecError if lost.outcome is Outcome.REJECTED else SweepError)(lost.error)
            case _ if not group.is_alive():
                raise SweepError(f"the trial's workers are gone: {group.error}")
