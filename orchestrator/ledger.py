"""The record of a sweep: an Optuna study in the sweep's folder (optuna). One process writes it, any may read it.

It is a journal (`optuna.storages.JournalStorage`): appended to line by line and synced, so that a killed process
leaves at most one unfinished line, which is cut off when the sweep is resumed; `optuna-dashboard` opens it as it is.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

from orchestrator import distributions, importance, ranking
from orchestrator.errors import StorageError
from orchestrator.folder import SweepFolder
from orchestrator.messages import Ended, Outcome, Report, Started
from orchestrator.naming import trial_seed
from orchestrator.plain import encoded
from orchestrator.space import Space
from orchestrator.spec import Spec

optuna.logging.set_verbosity(optuna.logging.WARNING)
STATES = {
    Outcome.COMPLETE: TrialState.COMPLETE,
    Outcome.PRUNED: TrialState.PRUNED,
    Outcome.DIVERGED: TrialState.PRUNED,  # Optuna's samplers learn from a pruned trial's curve, not from a failed one
    Outcome.OUT_OF_MEMORY: TrialState.PRUNED,  # with a constraint that it breaks: a failed trial teaches nothing
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


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """What the ledger says of one trial."""

    number: int
    state: str
    """COMPLETE, PRUNED, FAIL or RUNNING, as in Optuna; RUNNING is also what waits to be resumed."""
    params: Mapping[str, Any]
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
            journal = JournalFileBackend(str(folder.ledger), lock_obj=_OneWriter(str(folder.ledger)))
            self._storage = JournalStorage(journal)
            name = spec.name or ""
            self._study = (
                optuna.load_study(storage=self._storage, study_name=name)
                if read_only
                else optuna.create_study(
                    storage=self._storage, study_name=name, direction=spec.goal, load_if_exists=not create
                )
            )
            self._study_id = self._storage.get_study_id_from_name(name)
        except (OSError, ValueError, KeyError, optuna.exceptions.OptunaError) as exc:
            raise StorageError(f"{folder.ledger} cannot be read as an Optuna journal: {exc}") from exc
        trials = self._study.get_trials(deepcopy=False)
        if not read_only:
            with warnings.catch_warnings():
                # What is marked experimental here has been in Optuna since 3.x; each is covered by a test.
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                if self._study.metric_names is None:
                    self._study.set_metric_names([spec.metric])
                self._study.sampler = _sampler(spec, self._space, seen=len(trials))
            for trial in trials:
                if trial.state is TrialState.RUNNING and "seed" not in trial.user_attrs:
                    self._propose(self._trial(trial.number))
            trials = self._study.get_trials(deepcopy=False)
        self._records = {trial.number: self._record(trial) for trial in trials}

    @property
    def records(self) -> list[TrialRecord]:
        """Every trial, by number."""
        return list(self._records.values())

    def ask(self) -> TrialRecord:
        """Begin a new trial."""
        trial = self._study.ask()
        self._propose(trial)
        return self._refresh(trial.number)

    def start(self, started: Started) -> TrialRecord:
        """A trial's workers have begun; news of a trial that has ended is ignored."""
        if self._records[started.number].state != "RUNNING":
            return self._records[started.number]
        trial = self._trial(started.number)
        attempts = trial.user_attrs.get("attempts", [])
        trial.set_user_attr("attempts", [*attempts, {"slot": started.slot, "started": _now().isoformat()}])
        if started.wandb_run:
            trial.set_user_attr("wandb_run", started.wandb_run)
        return self._refresh(started.number)

    def report(self, report: Report) -> TrialRecord:
        """An epoch; one that is recorded already is left as it is."""
        if report.epoch in self._records[report.number].curve:
            return self._records[report.number]
        trial = self._trial(report.number)
        if self._spec.checkpoints.keep != "none":
            trial.set_user_attr("checkpoint", report.best_checkpoint)
        trial.report(report.value, report.epoch)
        return self._refresh(report.number)

    def end(self, ended: Ended) -> TrialRecord:
        """A trial is over; a second ending is ignored. Paused and interrupted trials stay RUNNING: they will go on."""
        if self._records[ended.number].state != "RUNNING":
            return self._records[ended.number]
        if ended.report is not None:
            self.report(ended.report)
        trial = self._trial(ended.number)
        if attempts := trial.user_attrs.get("attempts"):
            trial.set_user_attr("attempts", [*attempts[:-1], {**attempts[-1], "ended": _now().isoformat()}])
        if (state := STATES.get(ended.outcome)) is None:
            return self._refresh(ended.number)
        trial.set_user_attr("outcome", str(ended.outcome))
        if ended.error:
            trial.set_user_attr("error", ended.error)
        if ended.outcome is Outcome.OUT_OF_MEMORY:
            trial.set_constraint("memory", 1.0)
        record = self._records[ended.number]
        if state is TrialState.COMPLETE:
            self._study.tell(trial, record.value, state=state)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # optuna warns of a pruned trial that never reported
                self._study.tell(trial, state=state)
        return self._refresh(ended.number)

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
        attempts = tuple(_attempt(each) for each in attributes.get("attempts", ()))
        return TrialRecord(
            number=trial.number,
            state=trial.state.name,
            params={**self._spec.params, **distributions.params_of(self._space, trial.params)},
            value=curve[best] if best is not None else None,
            best_epoch=best,
            curve=curve,
            seed=attributes.get("seed", 0),
            wandb_run=attributes.get("wandb_run"),
            checkpoint=attributes.get("checkpoint"),
            error=attributes.get("error"),
            started=attempts[0].started if attempts else None,
            ended=trial.datetime_complete.astimezone() if trial.datetime_complete else None,
            attempts=attempts,
        )


class _OneWriter(JournalFileOpenLock):
    """No lock on the journal itself: the sweep's own lock lets only one process write, and dies with it."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


class _Grid(RandomSampler):
    """Every configuration of a finite space, by the trial's number; Optuna's own knows no conditions."""

    def __init__(self, space: Space) -> None:
        super().__init__(seed=0)
        self._points = list(space.grid())

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """The parameter's value at the trial's point."""
        return encoded(self._points[trial.number][param_name])


def _sampler(spec: Spec, space: Space, seen: int) -> BaseSampler:
    """The sampler; `seen` trials into the sweep its seed is another one, or a resumed sweep would repeat itself."""
    seed = trial_seed(spec.search.seed or 0, -1 - seen) if seen else spec.search.seed
    if spec.search.sampler == "tpe":
        # multivariate and constant_liar are Optuna 5's defaults; group is what makes multivariate know conditions.
        return TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)
    return _Grid(space) if spec.search.sampler == "grid" else RandomSampler(seed=seed)


def _cut_unfinished_line(path: Path) -> None:
    """Take off the line that a killed process did not finish; Optuna would refuse the whole journal once it grows."""
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        with path.open("r+b") as journal:
            journal.truncate(whole)


def _attempt(noted: Mapping[str, str]) -> Attempt:
    ended = noted.get("ended")
    return Attempt(
        slot=noted["slot"],
        started=datetime.fromisoformat(noted["started"]),
        ended=datetime.fromisoformat(ended) if ended else None,
    )


def _now() -> datetime:
    return datetime.now().astimezone()
