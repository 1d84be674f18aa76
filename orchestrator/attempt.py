"""An attempt: one trial's time on one rank, whatever trains it: reports, verdicts and end (torch, Lightning)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import asdict, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning.fabric.utilities.seed import _collect_rng_states, _set_rng_states

from orchestrator import ranking, scaling
from orchestrator.checkpoint import Writer
from orchestrator.context import RECORD
from orchestrator.errors import SpecError, StorageError, StorageFullError
from orchestrator.folder import SweepFolder
from orchestrator.messages import Ended, Job, Outcome, Report, Started, Verdict
from orchestrator.naming import near_miss
from orchestrator.preemption import Preemption
from orchestrator.spec import Spec
from orchestrator.tracker import Tracker
from orchestrator.watch import Watch

T = TypeVar("T")
ENDS_AS = {
    Verdict.PRUNE: Outcome.PRUNED,
    Verdict.PAUSE: Outcome.PAUSED,
    Verdict.STOP: Outcome.STOPPED,
    Verdict.INTERRUPT: Outcome.INTERRUPTED,
    Verdict.MOVE: Outcome.MOVED,
}


class StoppedAlone(Exception):
    """One trial was stopped in mid-epoch. Its ranks hear of it at different steps and cannot leave together, so their
    group goes down; the sweep goes on with a new one."""


class Attempt:
    """What a loop reports to and is told by. Every method is called on all ranks alike."""

    def __init__(
        self,
        *,
        job: Job,
        spec: Spec,
        folder: SweepFolder,
        rank: int,
        world_size: int,
        slot: str,
        tracker: Tracker,
        watch: Watch,
        say: Callable[..., Any],
        notify: Callable[[str], None],
        scratch: Path,
    ) -> None:
        self.job, self.spec, self.rank, self.world_size, self.scratch = job, spec, rank, world_size, scratch
        self.params = scaling.scaled({**spec.params, **job.params}, spec.training, world_size)
        self.tracker, self.watch = tracker, watch
        self._folder, self._slot, self._say, self.notify = folder, slot, say, notify
        self._curve = dict(job.curve)
        self._pending: Report | None = None
        self._random: list[dict[str, Any]] = []
        self._began: list[dict[str, Any]] = []
        self._begins: dict[str, Any] | None = None
        self._final = False
        self._epoch_began: float | None = None
        self._outcome = Outcome.COMPLETE
        self._error: str | None = None
        self._last: Report | None = None
        self._unsent: Report | None = None
        self.batch_size: int | None = None
        """The largest that fits, where that was looked for; the trial goes on with it."""
        self.epochs_done = 0
        """Of the checkpoint to go on from."""
        self._preemption = Preemption(self.broadcast)
        self._full = self._said_away = False
        self._unsaved: set[str] = set()
        self.logged: Iterable[str] = ()
        """Names of what was logged, for the message that says that the sweep's metric is not among them."""
        self._writer = Writer(folder, scratch)
        self._written: Future[None] | None = None
        self._answer: Future[Verdict] | None = None
        self._waiting: Report | None = None
        self.handover = scratch / "handover.ckpt"
        """Where a loop saves to; what `take` is given instead is written where it belongs."""
        self.stopped = False
        """Whether the trial is to train no further."""

    def begin(self) -> None:
        """Open the trial's run and say that its workers have begun; when all that it needs is built."""
        wandb_run = self.tracker.open(self.job)
        if self.rank == 0:
            started = Started(number=self.job.number, slot=self._slot, wandb_run=wandb_run, workers=self.world_size)
            self._say("started", started)

    # Going on from a checkpoint.

    @cached_property
    def start_from(self) -> Path | None:
        """The checkpoint to go on from, as a local file: the one the job names, else the trial's newest."""
        path = self.job.start_from or self._folder.newest(self.job.number)
        return self._folder.local_copy(path, self.scratch) if path else None

    def turn_to_best(self) -> None:
        """Let `start_from` be the best of the attempt's own checkpoints, once it has finished."""
        epoch = ranking.best_epoch(self.spec.goal, self._curve) or 0
        self.start_from = self._folder.local_copy(self._folder.checkpoint(self.job.number, epoch), self.scratch)

    @cached_property
    def weights(self) -> Path | None:
        """The checkpoint whose weights the trial starts from, as a local file, where it has none of its own."""
        if self.spec.start_from is None or self.start_from is not None:
            return None
        return self._folder.local_copy(self._folder.weights, self.scratch)

    @property
    def record(self) -> dict[str, Any]:
        """What goes into a checkpoint under `RECORD`, so that whoever goes on from it can report it again."""
        return {
            "number": self.job.number,
            "curve": dict(self._curve),
            "report": asdict(self._pending) if self._pending else None,
            "final": self._final,
            "random": self._random,
            "began": self._began,
            "batch_size": self.batch_size,
        }

    def resume(self, checkpoint: Mapping[str, Any]) -> Report | None:
        """Take up the curve in a checkpoint and report its epoch again: the sweep may have died before it was recorded.

        Returns:
            That report; None where the checkpoint is not this trial's own.
        """
        record = checkpoint.get(RECORD)
        if record is None:
            return None
        self._random, self._began = record["random"], record["began"]
        if record["report"] is None:  # in a trial's first epoch
            return None
        self.epochs_done = record["report"]["epoch"]
        if record["number"] != self.job.number:
            return None
        self._curve = dict(record["curve"])
        self._pending = report = Report(**record["report"])
        self._catch_up(before=report.epoch)
        if self.stopped:
            return None
        self._hand_in(report, final=record["final"])
        return report

    def _catch_up(self, *, before: int) -> None:
        """Report the epochs that the ledger lacks: where it is copied up now and then it may be behind."""
        curve: dict[int, float] = {}
        for epoch, value in sorted(self._curve.items()):
            curve[epoch] = value
            if epoch >= before or epoch in self.job.curve or self.stopped:
                continue
            best = ranking.best_epoch(self.spec.goal, curve) or epoch
            report = Report(
                number=self.job.number,
                epoch=epoch,
                value=value,
                metrics={self.spec.metric: value},
                best_epoch=best,
                checkpoint=self._folder.checkpoint(self.job.number, epoch),
                best_checkpoint=self._folder.checkpoint(self.job.number, best),
            )
            said: Verdict = self._say("report", report) if self.rank == 0 else Verdict.CONTINUE
            verdict = self.broadcast(said)
            if verdict is not Verdict.CONTINUE:
                self._stop(ENDS_AS[verdict])

    def restore_random_state(self, *, of_the_epoch: bool = False) -> None:
        """Go on drawing random numbers where the checkpoint's trial was; just before the first epoch that is left.

        Args:
            of_the_epoch: where it was when the epoch began, in the middle of which the checkpoint was saved.
        """
        states = self._began if of_the_epoch else self._random
        if len(states) == self.world_size:  # otherwise the trial goes on with more workers than it had, or fewer
            _set_rng_states(states[self.rank])
            if of_the_epoch:
                self._begins = states[self.rank]
        if of_the_epoch:  # the rest of it says nothing of how long one takes
            self._epoch_began = None

    def epoch_begins(self) -> None:
        """Keep the random state that the order of an epoch's data follows from, for reports in the middle of it."""
        self._begins = _random_state()
        self._epoch_began = time.monotonic()

    # Steps and epochs.

    def beat(self) -> None:
        """A step begins."""
        self.watch.beat()
        if self.stopped or (outcome := self.watch.interrupted) is None:
            return
        if outcome is Outcome.STOPPED and self.world_size > 1:
            raise StoppedAlone
        if self.rank == 0:  # the others step on with it: one that left before would have it wait for what never comes
            self._stop(outcome)

    def take(self, state: Mapping[str, Any]) -> None:
        """Be handed a checkpoint over, on rank 0, by what `report` calls to save it."""
        self._handed_over = True
        try:
            self._written = self._writer.write(state, self._path)
        except StorageError as exc:
            self._go_on_without(self._path, exc)

    def settle(self, *, wait: bool = False) -> None:
        """Obey the verdict on the last epoch, where training went on without: no scheduler judged that epoch, or its
        checkpoint took long.

        Args:
            wait: until there is one.
        """
        if self._waiting is None:
            return
        verdict: Verdict | None = None
        if self._answer is not None and (wait or self._answer.done()):
            with self.watch.paused():
                verdict = self._answer.result()
        with self.watch.paused():
            verdict = self.broadcast(verdict)
        if verdict is not None:
            report, self._waiting, self._answer = self._waiting, None, None
            self._obey(verdict, report)

    def stepped(self, save: Callable[[Path], None]) -> None:
        """A training step is over: save and leave, where a node of the trial's is about to be taken away.

        Args:
            save: as for `report`; what it saves goes on after this step.
        """
        if self.stopped or not self._preemption.is_announced():
            return
        self.settle(wait=True)
        if not self.stopped:
            self._keep_random_state(within_epoch=True)
            self._save(self._folder.partial(self.job.number, max(self._curve, default=0)), save)
            self._error = "a node of its was about to be taken away"
            self._stop(Outcome.MOVED)

    def report(
        self, metrics: Mapping[str, float], *, epoch: int, save: Callable[[Path], None], final: bool = False
    ) -> None:
        """Check an epoch, save its checkpoint, hand it in, and obey.

        Args:
            metrics: rank 0's count: ranks that judged for themselves could part, and wait for each other.
            epoch: how many are done, this one included.
            save: saves the checkpoint, `record` in it, to `handover`; called on all ranks, only rank 0's counts.
            final: whether the trial is over with this epoch.

        Raises:
            SpecError: the sweep's metric is not among the metrics.
        """
        took_s = None if self._epoch_began is None else time.monotonic() - self._epoch_began
        self.settle(wait=True)
        if self.stopped:  # at the end of the epoch before: this one does not count
            return
        metrics = self.broadcast(metrics)
        for name in (self.spec.metric, *self.spec.measured):
            if name not in metrics:
                self.logged = metrics
                raise self._nothing_reported(name)
            if not math.isfinite(metrics[name]):
                self._error = f"{name} is {metrics[name]} at epoch {epoch}: the trial diverged"
                self._stop(Outcome.DIVERGED)
                return
        value = metrics[self.spec.metric]
        self._curve[epoch] = value
        best = ranking.best_epoch(self.spec.goal, self._curve) or epoch
        report = Report(
            number=self.job.number,
            epoch=epoch,
            value=value,
            metrics=metrics,
            best_epoch=best,
            checkpoint=self._folder.checkpoint(self.job.number, epoch),
            best_checkpoint=self._folder.checkpoint(self.job.number, best),
            epoch_s=None if took_s is None else took_s * self.world_size,
        )
        self._pending, self._final = report, final
        self._keep_random_state(within_epoch=self.spec.training.report_every_steps is not None)
        self._save(self._folder.checkpoint(self.job.number, epoch), save)
        self._hand_in(report, final=final)
        self._epoch_began = time.monotonic()

    def _keep_random_state(self, *, within_epoch: bool) -> None:
        """For the record, of every rank; within an epoch, also what it was when that began."""
        self._random = self._gather(_random_state())
        self._began = self._gather(self._begins) if within_epoch and self._begins else []

    def _save(self, path: str, save: Callable[[Path], None]) -> None:
        """Save to a path of the sweep's folder, on all ranks; nothing more after a storage that was full."""
        if self.broadcast(self._full):
            self._unsaved.add(path)
            return
        self._path, self._handed_over, self._written = path, False, None
        save(self.handover)
        if self.rank == 0 and not self._handed_over:  # by a strategy that writes by itself
            try:
                self._folder.upload(self.handover, path)
            except StorageError as exc:
                self._go_on_without(path, exc)
            self.handover.unlink()

    def _go_on_without(self, path: str, exc: StorageError) -> None:
        """A checkpoint that cannot be written fails no trial; on rank 0, which writes them. It is said once."""
        self._unsaved.add(path)
        self._full = self._full or isinstance(exc, StorageFullError)
        if self._full or not self._said_away:
            more = "it writes no more" if self._full else "each of the next is tried again"
            self.notify(f"trial {self.job.number} goes on without a checkpoint, and {more}: {exc}")
        self._said_away = True

    def _as_saved(self, report: Report) -> Report:
        """A report that names no checkpoint that could not be written."""
        saved, best = report.checkpoint, report.best_checkpoint
        return replace(
            report,
            checkpoint=None if saved in self._unsaved else saved,
            best_checkpoint=None if best in self._unsaved else best,
        )

    def _hand_in(self, report: Report, *, final: bool) -> None:
        """Report, on rank 0, and obey, on all; the last epoch's report is handed in with the trial's end.

        Training goes on meanwhile where the scheduler does not stop trials at this epoch: what else may end it, such as
        the user, is obeyed some steps later.
        """
        self._last = report
        self.tracker.reported(report)
        if self.spec.resources.is_elastic:
            self.tracker.log({"workers": self.world_size})
        if final:
            self._unsent, self.stopped = report, True
            return
        verdict: Verdict | None = None
        waits = self._may_be_stopped_at(report.epoch)
        with self.watch.paused():
            if self.rank == 0 and (self._written is not None or not waits):
                self._answer = self._writer.then(partial(self._report_written, self._written, report))
            elif self.rank == 0:
                verdict = self._say("report", self._as_saved(report))
            verdict = self.broadcast(verdict) if waits else None
        if verdict is None:
            self._waiting = report
        else:
            self._obey(verdict, report)

    def _may_be_stopped_at(self, epoch: int) -> bool:
        """Whether the scheduler may stop the trial there; where it has not reported every epoch, anywhere."""
        return epoch - 1 != max((each for each in self._curve if each < epoch), default=0) or (
            self.spec.schedule.may_stop_at(epoch)
        )

    def _report_written(self, written: Future[None] | None, report: Report) -> Verdict:
        """In the writer's thread: what a report names is there before it is handed in."""
        if written is not None:
            self._wait_for(written)
        verdict: Verdict = self._say("report", self._as_saved(report))
        return verdict

    def _wait_for(self, written: Future[None]) -> None:
        try:
            written.result()
        except StorageError as exc:
            if self._path not in self._unsaved:  # it is asked for twice
                self._go_on_without(self._path, exc)

    def _obey(self, verdict: Verdict, report: Report) -> None:
        if verdict is not Verdict.CONTINUE:
            self._stop(ENDS_AS[verdict])
        elif self.rank == 0 and self.spec.checkpoints.keep != "all" and report.checkpoint not in self._unsaved:
            self._folder.drop_checkpoints(self.job.number, kept={report.epoch, report.best_epoch, *self._shared})

    @property
    def _shared(self) -> set[int]:
        """The epochs whose checkpoints other trials may yet copy; the sweep deletes them at its end."""
        return {epoch for epoch in self._curve if self.spec.schedule.copies_at(epoch)}

    def _stop(self, outcome: Outcome) -> None:
        self._outcome, self.stopped = outcome, True

    def broadcast(self, value: T) -> T:
        """Rank 0's value, on every rank."""
        if self.world_size == 1:
            return value
        values = [value]
        torch.distributed.broadcast_object_list(values, src=0)
        return values[0]

    def _gather(self, value: T) -> list[T]:
        """Every rank's value, by rank, on every rank."""
        values: list[Any] = [value]
        if self.world_size > 1:
            values *= self.world_size
            torch.distributed.all_gather_object(values, value)
        return values

    # The end.

    def finish(self) -> Ended:
        """Put the trial's checkpoints and its run in order.

        Raises:
            SpecError: the trial is over and has never reported.
        """
        with self.watch.paused():
            self._writer.close()
        if self._written is not None:
            self._wait_for(self._written)
        # Not agreed on with the other ranks: of one that was interrupted in mid-step, these may not be listening.
        # One that is over does not move: the others would not hear of it.
        if self._answer is not None and (verdict := self._answer.result()) not in (Verdict.CONTINUE, Verdict.MOVE):
            self._stop(ENDS_AS[verdict])
        if self._outcome is Outcome.COMPLETE and self._last is None:
            raise self._nothing_reported(self.spec.metric)
        kept = self._tidy() if self.rank == 0 else {}
        closed = self.tracker.close(self._outcome, self._error, checkpoints=kept, curve=self._curve)
        report = self._as_saved(self._unsent) if self._unsent else None
        return Ended(number=self.job.number, outcome=self._outcome, report=report, error=self._error, run_closed=closed)

    def _tidy(self) -> dict[str, list[str]]:
        """Delete the checkpoints that are not kept; those that are, best first, with their artifact aliases."""
        if self._outcome in (Outcome.PAUSED, Outcome.MOVED):
            return {}  # it goes on from the newest
        epochs = self._folder.checkpoints(self.job.number)
        best = ranking.best_epoch(self.spec.goal, self._curve)
        kept = ranking.kept_epochs(self.spec.checkpoints.keep, list(epochs), best)
        if self._outcome is not Outcome.INTERRUPTED:  # it may go on, from the newest
            # Not the newest: until the trial's end is on record it is what the trial would go on from.
            self._folder.drop_checkpoints(self.job.number, kept={*kept, *self._shared, max(epochs, default=0)})
        return {epochs[epoch]: names for epoch, names in ranking.aliases(kept, best).items()}

    def _nothing_reported(self, name: str) -> SpecError:
        """The error for a metric that never appears."""
        known = sorted(map(str, self.logged))
        said = "objectives name" if name in self.spec.objectives else "constraints name"
        return SpecError(
            f"{'metric is' if name == self.spec.metric else said} '{name}', which the trainable does not log"
            f"{near_miss(name, known) or ';'} it logs: {', '.join(known) or 'nothing'}"
        )


def _random_state() -> dict[str, Any]:
    """Of Python, NumPy, torch and CUDA, as `torch.load` takes it from anybody: `load_from_checkpoint` reads it."""
    state = _collect_rng_states()
    name, keys, *rest = state["numpy"]
    return {**state, "numpy": (name, keys.tolist(), *rest)}
