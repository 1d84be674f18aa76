"""The record of a sweep: an Optuna study in the sweep's folder (optuna). One process writes it, any may read it.

It is a journal (`optuna.storages.JournalStorage`): appended to line by line and synced, so that a killed process
leaves at most one unfinished line, which is cut off when the sweep is resumed; `optuna-dashboard` opens it as it is.
"""

from __future__ import annotations

import copy
import json
import math
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import RandomSampler
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

from orchestrator import auto, distributions, importance, ranking
from orchestrator.costs import EPOCH_S
from orchestrator.errors import StorageError
from orchestrator.folder import SweepFolder, patiently, refusal
from orchestrator.improvement import Improvement
from orchestrator.known import from_text
from orchestrator.messages import Change, Ended, Landed, Outcome, Report, Started, Step
from orchestrator.naming import trial_seed
from orchestrator.samplers import Proposer
from orchestrator.spec import Spec

optuna.logging.set_verbosity(optuna.logging.WARNING)
# Of a trial that began while another slot was free: the one as of whose beginning the next proposal knows the record.
AS_OF = "next_as_of"
# Of a trial's run in W&B, by number, among the attributes of the study.
ADDRESS = "wandb_run/"
STATES = {
    Outcome.COMPLETE: TrialState.COMPLETE,
    Outcome.PRUNED: TrialState.PRUNED,
    Outcome.STOPPED: TrialState.PRUNED,
    Outcome.DIVERGED: TrialState.PRUNED,  # Optuna's samplers learn from a pruned trial's curve, not from a failed one
    Outcome.OUT_OF_MEMORY: TrialState.PRUNED,  # with a constraint that it breaks: a failed trial teaches nothing
    Outcome.INFEASIBLE: TrialState.PRUNED,  # so that it ranks below all that keep the constraints
    Outcome.FAILED: TrialState.FAIL,
    Outcome.REJECTED: TrialState.FAIL,
    Outcome.BROKEN: TrialState.FAIL,
}


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One stretch of a trial on a slot."""

    slot: str
    """The slot's id, another one each time that a slot is started."""
    started: datetime
    ended: datetime | None
    """None while it runs, and where its end was not seen: it was retried, or the sweep was killed."""
    workers: int
    """How many trained it."""


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """What the ledger says of one trial."""

    number: int
    state: str
    """COMPLETE, PRUNED, FAIL or RUNNING, as in Optuna; RUNNING is also what waits to be resumed."""
    params: Mapping[str, Any]
    """Its hyperparameters, the fixed ones too; the last ones, where they changed as it trained."""
    value: float | None
    """The best value of the curve; None before the first epoch."""
    best_epoch: int | None
    curve: Mapping[int, float]
    """The metric by epoch, epochs counted from 1."""
    seed: int
    wandb_run: str | None
    checkpoint: str | None
    """Of the best epoch, relative to the sweep's folder; None where none is kept."""
    error: str | None
    started: datetime | None
    ended: datetime | None
    attempts: tuple[Attempt, ...]
    """Every time its workers began."""
    changes: tuple[Change, ...] = ()
    """What became of its hyperparameters as it trained, in order."""
    proposed: Mapping[str, Any] = field(default_factory=dict)
    """Its hyperparameters when it began."""
    repeat_of: int | None = None
    """The trial whose configuration it runs again, with another seed; None for a proposal."""
    outcome: str = "running"
    """How it ended, as `messages.Outcome`."""
    measured: Mapping[str, float] = field(default_factory=dict)
    """At its best epoch, the further metrics that the spec's objectives and constraints name."""

    def worked_s(self, now: datetime) -> float | None:
        """For how many seconds it had workers, until `now` where it has; what lies between attempts does not count."""
        if not self.attempts:
            return None
        *before, last = self.attempts
        until = last.ended or (now if self.state == "RUNNING" else self.ended or last.started)
        worked = [(each.ended - each.started).total_seconds() for each in before if each.ended]
        return sum(worked) + (until - last.started).total_seconds()


class Ledger:
    """The study of one sweep."""

    def __init__(self, folder: SweepFolder, spec: Spec, *, create: bool = False, read_only: bool = False) -> None:
        """Open the study, or create it.

        A sweep may have been killed at any moment: what it had begun to write of the study, or of a new trial, is
        completed here, except for a reader.

        Raises:
            StorageError: there is none, or it cannot be read.
        """
        self._spec, self._space = spec, spec.load_space()
        if create:
            folder.ledger.unlink(missing_ok=True)  # of a sweep that was killed before it had begun
        else:
            folder.pull(folder.ledger.name)
        if not create and not folder.ledger.is_file():
            raise StorageError(f"{folder.show(folder.ledger.name)} is missing: there is no record of this sweep")
        if not read_only and not create:
            _cut_unfinished_line(folder.ledger)
        try:
            self._journal = _Journal(str(folder.ledger), lock_obj=_OneWriter(str(folder.ledger)))
            self._storage = JournalStorage(self._journal)
            self._study = self._open(create=create, read_only=read_only)
            self._study_id = self._storage.get_study_id_from_name(spec.name or "")
        except (OSError, ValueError, KeyError, optuna.exceptions.OptunaError) as exc:
            raise StorageError(f"{folder.ledger} cannot be read as an Optuna journal: {exc}") from exc
        self._addresses = {
            int(name.removeprefix(ADDRESS)): address
            for name, address in self._study.user_attrs.items()
            if name.startswith(ADDRESS)
        }
        self._records = {trial.number: self._record(trial) for trial in self._study.get_trials(deepcopy=False)}
        if not read_only:
            settled, _ = auto.settle(spec, at_once=1)  # a sweep settles it itself, and knows how many run at once
            known = from_text(folder.read_text(folder.known)) if folder.has(folder.known) else []
            self._proposer = Proposer(
                settled.search, self._space, points=spec.warm_start.points, known=known,
                trials=spec.trials + len(self._records) - self.proposed,  # repetitions have numbers, too
            )  # fmt: skip
            self._study.sampler = self._proposer
            # As many proposals are made ahead as slots were free together lately, each time one less, and two at least.
            self._spare, self._together = 2, 0
            self._improvement = Improvement()
            self._complete()

    def _open(self, *, create: bool, read_only: bool) -> optuna.Study:
        name, sampler = self._spec.name or "", RandomSampler()
        if read_only:
            return optuna.load_study(storage=self._storage, study_name=name, sampler=sampler)
        study = optuna.create_study(
            storage=self._storage, study_name=name, sampler=sampler,
            directions=list(self._spec.goals.values()), load_if_exists=not create,
        )  # fmt: skip
        with warnings.catch_warnings():
            # Marked experimental since 3.x; covered by a test.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            if study.metric_names is None:
                study.set_metric_names(list(self._spec.goals))
        return study

    def _complete(self) -> None:
        """Finish what a killed process had begun: a proposal, or an ending that was written ahead."""
        if any(trial.state is TrialState.WAITING for trial in self._study.get_trials(deepcopy=False)):
            self._study.ask()  # a repetition that was about to begin
        trials = self._study.get_trials(deepcopy=False)
        for trial in trials:
            if "seed" in trial.user_attrs:
                self._proposer.saw(distributions.params_of(self._space, trial.params))
        for trial in trials:
            if "seed" not in trial.user_attrs:
                if "repeat_of" not in trial.user_attrs:
                    self._prepare_again(trial.number)
                self._propose(self._trial(trial.number))
                self._refresh(trial.number)
            elif trial.state is TrialState.RUNNING and "ending" in trial.user_attrs:
                self._end(trial.number, trial.user_attrs["ending"])
        if self.proposed < self._spec.trials:
            self._prepare_again(len(trials))

    def _prepare_again(self, number: int) -> None:
        """Begin to make the proposal of a trial, which a killed process had begun to make."""
        if self._proposer.learns:
            as_of = self._as_of(number)
            past = JournalStorage(_Past(self._journal, as_of)) if as_of >= 0 else None
            self._known = past.get_all_trials(self._study_id) if past else []
            self._prepare(number, 1)

    def _as_of(self, number: int) -> int:
        """The trial as of whose beginning a trial's proposal knows the record; -1 for before all."""
        before = self._storage.get_trial(self._id(number - 1)).user_attrs if number else {}
        return int(before.get(AS_OF, number - 1))

    def _prepare(self, number: int, count: int) -> None:
        """Begin to make proposals, from a trial's on: from what they know, and that those since have begun."""
        since = [self._records[each] for each in range(self._as_of(number) + 1, number)]
        begun = [self._proposer.begun(record.number, record.proposed) for record in since]
        left = self._spec.trials - self.proposed
        self._proposer.prepare(self._study, number, [*self._known, *begun], min(count, max(left, 1)))

    @property
    def records(self) -> list[TrialRecord]:
        """Every trial, by number."""
        return list(self._records.values())

    @property
    def proposed(self) -> int:
        """How many trials were proposed; those that repeat another one were not."""
        return sum(record.repeat_of is None for record in self._records.values())

    @property
    def exhausted(self) -> bool:
        """Whether every configuration of a finite space was proposed."""
        return self._proposer.exhausted()

    @property
    def ready(self) -> bool:
        """Whether `ask` answers at once; the proposals of samplers that learn are made ahead, in a thread."""
        return self._proposer.is_ready(len(self._records))

    def ask(self, *, free: int = 0) -> TrialRecord:
        """Begin a new trial.

        Args:
            free: how many slots are free besides its own. The trials for them know what this one does, and that it
                runs, so that their proposals need not wait for it to begin.
        """
        record = self._begin(free)
        if self.proposed < self._spec.trials and self._proposer.learns:
            self._look_ahead(record.number + 1, free)
        return record

    def _look_ahead(self, number: int, free: int) -> None:
        """Begin to make the proposals from a trial's on, unless its own is in the making already."""
        self._together += 1
        if not free:
            self._spare, self._together = max(2, self._together, self._spare - 1), 0
        if self._as_of(number) == number - 1:
            self._known = [_still(trial) for trial in self._study.get_trials(deepcopy=False)]
            self._prepare(number, self._spare)
        elif not self._proposer.is_ahead(number):
            self._prepare(number, free)

    def _begin(self, free: int = 0) -> TrialRecord:
        with self._journal.together():
            trial = self._study.ask()
            if free and self._proposer.learns:
                as_of = self._as_of(trial.number)
                # Not for ever, should a slot that seems free be none: what comes of the first of them is to be known.
                if as_of + 1 == trial.number or self._records[as_of + 1].state == "RUNNING":
                    trial.set_user_attr(AS_OF, as_of)
            self._propose(trial)
        return self._refresh(trial.number)

    def troubles(self) -> list[str]:
        """What went wrong in search of a proposal, or of an end, since the last call; the sweep goes on without."""
        return [*self._proposer.troubles(), *self._improvement.troubles()]

    def repeat(self, number: int) -> TrialRecord:
        """Begin a new trial with another one's hyperparameters and a seed of its own."""
        original = self._storage.get_trial(self._id(number))
        # Optuna's own way: a waiting trial, whose parameters are fixed, and which the next `ask` takes.
        self._study.enqueue_trial(original.params, user_attrs={"repeat_of": number})
        return self._begin()

    def history(self) -> Iterator[Step]:
        """Everything that happened to trials, in the order in which it was recorded."""
        created = 0
        for log in self._journal.read_logs(0):
            if "datetime_start" in log and "trial_id" not in log:
                yield Step(number=created, what="begun")
                created += 1
            elif "intermediate_value" in log:
                yield Step(number=log["trial_id"], what="reported", epoch=log["step"], value=log["intermediate_value"])
            elif "resumed" in log.get("user_attr", ()):
                yield Step(number=log["trial_id"], what="resumed")
            elif "changes" in log.get("user_attr", ()):
                change = Change(**log["user_attr"]["changes"][-1])
                yield Step(number=log["trial_id"], what="resumed", change=change)
            elif "datetime_complete" in log and "trial_id" in log:
                yield Step(number=log["trial_id"], what="ended")

    def start(self, started: Started) -> TrialRecord:
        """A trial's workers have begun; news of a trial that has ended is ignored."""
        if self._records[started.number].state != "RUNNING":
            return self._records[started.number]
        trial = self._trial(started.number)
        attempts = trial.user_attrs.get("attempts", [])
        began = _now() if started.at is None else datetime.fromtimestamp(started.at).astimezone()
        attempt = {"slot": started.slot, "started": began.isoformat(), "workers": started.workers}
        trial.set_user_attr("attempts", [*attempts, attempt])
        if started.wandb_run:
            trial.set_user_attr("wandb_run", started.wandb_run)
        return self._refresh(started.number)

    def left(self, number: int) -> TrialRecord:
        """A trial's workers are gone, whether or not it is tried again: their stretch of it has ended."""
        if self._records[number].state != "RUNNING":
            return self._records[number]
        trial = self._trial(number)
        self._end_attempt(trial)
        return self._refresh(number)

    @staticmethod
    def _end_attempt(trial: optuna.Trial) -> None:
        """Note that the last stretch has ended, unless it has: a trial that pauses may be ended long after it."""
        attempts = trial.user_attrs.get("attempts", [])
        if attempts and "ended" not in attempts[-1]:
            trial.set_user_attr("attempts", [*attempts[:-1], {**attempts[-1], "ended": _now().isoformat()}])

    def landed(self, landed: Landed) -> TrialRecord:
        """A trial's run has got an address in W&B."""
        if self._addresses.get(landed.number) != landed.url:
            # Of the study, since Optuna lets nobody change a trial that has ended.
            self._study.set_user_attr(f"{ADDRESS}{landed.number}", landed.url)
            self._addresses[landed.number] = landed.url
        return self._refresh(landed.number)

    def report(self, report: Report) -> TrialRecord:
        """An epoch; one that is recorded already is left as it is."""
        with self._journal.together():
            self._report(report.number, **self._noted(report))
        return self._refresh(report.number)

    def _noted(self, report: Report) -> dict[str, Any]:
        """What is kept of an epoch."""
        noted: dict[str, Any] = {"epoch": report.epoch, "value": report.value, "checkpoint": report.best_checkpoint}
        if report.epoch_s is not None:
            noted[EPOCH_S] = report.epoch_s
        if report.epoch == report.best_epoch and (names := self._spec.measured):
            noted["measured"] = {name: report.metrics[name] for name in names}
        return noted

    def _report(
        self,
        number: int,
        *,
        epoch: int,
        value: float,
        checkpoint: str | None,
        measured: Mapping[str, float] | None = None,
        epoch_s: float | None = None,
    ) -> None:
        trial = self._trial(number)
        if epoch in self._storage.get_trial(self._id(number)).intermediate_values:
            return
        if self._spec.checkpoints.keep != "none":
            trial.set_user_attr("checkpoint", checkpoint)
        if measured:
            trial.set_user_attr("measured", measured)
        # The least of its epochs: what made one longer, such as a start or other programs, is not the trial's own cost.
        if epoch_s is not None and epoch_s < trial.user_attrs.get(EPOCH_S, math.inf):
            trial.set_user_attr(EPOCH_S, epoch_s)
        # As `Trial.report` does it, which refuses where there are several objectives.
        self._storage.set_trial_intermediate_value(self._id(number), epoch, value)

    def go_on(self, number: int, change: Change | None) -> TrialRecord:
        """A paused trial takes a slot again, as it was or changed."""
        trial, record = self._trial(number), self._records[number]
        if change is None:
            trial.set_user_attr("resumed", max(record.curve, default=0))
        else:
            trial.set_user_attr("changes", [asdict(each) for each in (*record.changes, change)])
        return self._refresh(number)

    def end(self, ended: Ended) -> TrialRecord:
        """A trial is over; a second ending is ignored. Paused and interrupted trials stay RUNNING: they will go on.

        The ending is written ahead, with the epoch that comes with it, as one line: a trial that was to end does so
        also where the sweep is killed before the rest is written.
        """
        with self._journal.together():
            return self._ended(ended)

    def _ended(self, ended: Ended) -> TrialRecord:
        record, report = self._records[ended.number], ended.report
        if record.state != "RUNNING":
            return record
        trial = self._trial(ended.number)
        self._end_attempt(trial)
        if ended.outcome not in STATES:
            return self.report(report) if report else self._refresh(ended.number)
        ending: dict[str, Any] = {"outcome": str(ended.outcome), "error": ended.error}
        if report is not None:
            ending["report"] = self._noted(report)
        trial.set_user_attr("ending", ending)
        return self._end(ended.number, ending)

    def _end(self, number: int, ending: Mapping[str, Any]) -> TrialRecord:
        if "report" in ending:
            self._report(number, **ending["report"])
        record, state = self._refresh(number), STATES[Outcome(ending["outcome"])]
        trial = self._trial(number)
        if state is TrialState.COMPLETE and (broken := self._broken(record)):
            trial.set_user_attr("ending", {**ending, "outcome": str(Outcome.INFEASIBLE), "error": broken})
            state = TrialState.PRUNED
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a pruned trial that never reported, of a constraint that is said again
            if ending["outcome"] == Outcome.OUT_OF_MEMORY:
                trial.set_constraint("memory", 1.0)
            for limit in self._spec.limits if record.value is not None else ():
                trial.set_constraint(str(limit), limit.violation(self._of(record, limit.metric)))
            if self._spec.objectives and state is TrialState.PRUNED:
                trial.set_constraint("whole", 1.0)  # TPE compares the curves of one objective only
            values = [self._of(record, name) for name in self._spec.goals]
            self._study.tell(trial, values if state is TrialState.COMPLETE else None, state=state)
        return self._refresh(number)

    def _of(self, record: TrialRecord, metric: str) -> float:
        """What a trial measured at its best epoch."""
        value = record.value if metric == self._spec.metric else record.measured.get(metric)
        return float("nan") if value is None else value

    def _broken(self, record: TrialRecord) -> str | None:
        """Which constraints a trial breaks, in words; None where it keeps all."""
        measured = {limit: self._of(record, limit.metric) for limit in self._spec.limits}
        broken = [f"{limit.metric} is {value:.4g}, beyond {limit}" for limit, value in measured.items()
                  if limit.violation(value) > 0]  # fmt: skip
        return "; ".join(broken) or None

    def room_left(self) -> float | None:
        """How much better than the best a further trial can be, in the metric's unit; None while nobody knows."""
        return self._improvement.left(self._study)

    def remember(self, key: str, value: Any) -> None:
        """Note something of the sweep as a whole, such as its W&B sweep id."""
        self._study.set_user_attr(key, value)

    def recall(self, key: str) -> Any:
        """What was noted, or None."""
        return self._study.user_attrs.get(key)

    def importances(self) -> dict[str, float]:
        """Each hyperparameter's share in a trial's rank, largest first; empty while there is too little to tell."""
        ranked = ranking.ranked(self._spec.goal, self.records)
        return importance.importances(self._study, [record.number for record in ranked])

    def _propose(self, trial: optuna.Trial) -> None:
        """Give a trial its hyperparameters, those it has not got yet, and last its seed."""
        for name, parameter in self._space.items():
            if self._space.is_active(name, distributions.params_of(self._space, trial.params)):
                distributions.suggest(trial, name, parameter)
        self._proposer.saw(distributions.params_of(self._space, trial.params))
        trial.set_user_attr("seed", trial_seed(self._spec.search.seed or 0, trial.number))

    def _trial(self, number: int) -> optuna.Trial:
        return optuna.Trial(self._study, self._id(number))

    def _id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)

    def _refresh(self, number: int) -> TrialRecord:
        self._records[number] = self._record(self._storage.get_trial(self._id(number)))
        return self._records[number]

    def _record(self, trial: FrozenTrial) -> TrialRecord:
        attributes = trial.user_attrs
        curve = dict(sorted(trial.intermediate_values.items()))
        best = ranking.best_epoch(self._spec.goal, curve)
        workers = self._spec.resources.most_workers  # before they were noted, their number was fixed
        attempts = tuple(_attempt(each, workers) for each in attributes.get("attempts", ()))
        proposed = {**self._spec.params, **distributions.params_of(self._space, trial.params)}
        ending = attributes.get("ending", {})
        changes = tuple(Change(**change) for change in attributes.get("changes", ()))
        return TrialRecord(
            number=trial.number,
            state=trial.state.name,
            params=changes[-1].params if changes else proposed,
            value=curve[best] if best is not None else None,
            best_epoch=best,
            curve=curve,
            seed=attributes.get("seed", 0),
            wandb_run=self._addresses.get(trial.number, attributes.get("wandb_run")),
            checkpoint=attributes.get("checkpoint"),
            error=ending.get("error"),
            started=attempts[0].started if attempts else None,
            ended=trial.datetime_complete.astimezone() if trial.datetime_complete else None,
            attempts=attempts,
            changes=changes,
            proposed=proposed,
            repeat_of=attributes.get("repeat_of"),
            outcome=ending.get("outcome", "running"),
            measured=attributes.get("measured", {}),
        )


def _still(trial: FrozenTrial) -> FrozenTrial:
    """A trial as it is now: `optuna.Trial.set_user_attr` changes the very objects that were given out."""
    if trial.state is not TrialState.RUNNING:
        return trial
    still = copy.copy(trial)
    still.user_attrs = dict(trial.user_attrs)
    return still


class _Journal(JournalFileBackend):
    """Optuna's journal, synced once for all lines that belong together: a sync can take 100 ms, a proposal has ten."""

    def __init__(self, path: str, lock_obj: JournalFileOpenLock) -> None:
        super().__init__(path, lock_obj)
        self._path, self._waits = Path(path), False

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write lines, which a killed process leaves behind; synced, so does a machine that loses power.

        Raises:
            StorageError: the disk does not take them.
        """
        data = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        patiently(lambda: self._append(data))
        if not self._waits:
            patiently(self._sync)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Sync at the end of a block, not after each line."""
        if self._waits:
            yield
            return
        self._waits = True
        try:
            yield
        finally:
            self._waits = False
            patiently(self._sync)

    def _append(self, data: bytes) -> None:
        """Write lines, or nothing: half of one would spoil what follows it."""
        whole = self._path.stat().st_size if self._path.exists() else 0
        try:
            with self._path.open("ab") as file:
                file.write(data)
        except OSError as exc:
            with suppress(OSError):
                os.truncate(self._path, whole)
            raise refusal(str(self._path), exc) from exc

    def _sync(self) -> None:
        try:
            with self._path.open("ab") as file:
                os.fsync(file.fileno())
        except OSError as exc:
            raise refusal(str(self._path), exc) from exc


class _Past(BaseJournalBackend):
    """A journal as it was when a trial's proposal was whole."""

    def __init__(self, journal: JournalFileBackend, number: int) -> None:
        self._logs = []
        for log in journal.read_logs(0):
            self._logs.append(log)
            if log.get("trial_id") == number and "seed" in log.get("user_attr", ()):
                break

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        """The lines from a number on."""
        return self._logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Nothing: the past stays what it was."""


class _OneWriter(JournalFileOpenLock):
    """No lock on the journal itself: the sweep's own lock lets only one process write, and dies with it."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


def _cut_unfinished_line(path: Path) -> None:
    """Take off the line that a killed process did not finish; Optuna would refuse the whole journal once it grows."""
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        with path.open("r+b") as journal:
            journal.truncate(whole)


def _attempt(noted: Mapping[str, Any], workers: int) -> Attempt:
    ended = noted.get("ended")
    return Attempt(
        slot=noted["slot"],
        started=datetime.fromisoformat(noted["started"]),
        ended=datetime.fromisoformat(ended) if ended else None,
        workers=noted.get("workers", workers),
    )


def _now() -> datetime:
    return datetime.now().astimezone()
