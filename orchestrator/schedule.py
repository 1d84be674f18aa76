"""Which trials live: Ray Tune's schedulers, on epochs and on the trials' own numbers (Ray Tune)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from orchestrator.ledger import TrialRecord
from orchestrator.spec import Spec


@dataclass(frozen=True)
class _Numbered:
    """A trial under its durable name: Tune's own ids are new ones after every resume."""

    trial_id: str


class EpochAsha(FIFOScheduler):
    """Tune's ASHA, which remembers trials by number and can be told of a past that it did not see.

    Source: Li et al., A System for Massively Parallel Hyperparameter Tuning, 2020 (arXiv:1810.05934).
    """

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self._asha = ASHAScheduler(
            time_attr="epoch",
            metric="value",
            mode="max" if spec.goal == "maximize" else "min",
            max_t=spec.schedule.max_epochs,
            grace_period=spec.schedule.grace_epochs,
            reduction_factor=spec.schedule.reduction_factor,
        )

    def replay(self, records: Iterable[TrialRecord]) -> None:
        """Fill the rungs with the curves that are on record, as if they had just been reported."""
        for record in records:
            trial = _Numbered(str(record.number))
            self._asha.on_trial_add(None, trial)
            for epoch, value in record.curve.items():
                self._asha.on_trial_result(None, trial, {"epoch": epoch, "value": value})

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """A trial begins, or goes on after a resume."""
        self._asha.on_trial_add(tune_controller, _numbered(trial))

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Whether a trial goes on after an epoch."""
        return str(self._asha.on_trial_result(tune_controller, _numbered(trial), result))

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """A trial ended by itself."""
        self._asha.on_trial_complete(tune_controller, _numbered(trial), result)

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        """A trial failed, or was taken back."""
        self._asha.on_trial_remove(tune_controller, _numbered(trial))


def build(spec: Spec, records: Iterable[TrialRecord]) -> TrialScheduler:
    """The scheduler of a sweep, in the state that the trials on record have brought it to."""
    if spec.schedule.scheduler == "none":
        return FIFOScheduler()
    asha = EpochAsha(spec)
    asha.replay(records)
    return asha


def _numbered(trial: Trial) -> _Numbered:
    return _Numbered(str(trial.config["number"]))
