"""When a sweep is over before its trials are: rules, from what is on record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from orchestrator.ranking import Goal, Ranked
from orchestrator.spec import Spec


class Stretch(Protocol):
    """A trial's time on a slot."""

    @property
    def started(self) -> datetime:
        """When it took it."""

    @property
    def ended(self) -> datetime | None:
        """When it left it."""

    @property
    def workers(self) -> int:
        """How many trained it."""


class Trial(Ranked, Protocol):
    """What is read of a trial."""

    @property
    def attempts(self) -> Sequence[Stretch]:
        """Every time its workers began."""


@dataclass(frozen=True, kw_only=True)
class End:
    """Why a sweep is over, and how."""

    reason: str
    at_once: bool
    """Whether what runs is stopped, too; otherwise no further trial begins."""


def reached(
    spec: Spec, trials: Sequence[Trial], *, elapsed_s: float, now: datetime, left: float | None = None
) -> End | None:
    """The end that a sweep has come to, if any.

    Args:
        spec: the sweep.
        trials: all of them.
        elapsed_s: seconds since this run of the sweep began.
        now: the present.
        left: how much better than the best value Optuna's terminator thinks a further trial can be, if it was asked.
    """
    budget = spec.budget
    if budget.wall_time_s is not None and elapsed_s > budget.wall_time_s:
        return End(reason=f"budget.wall_time_s={budget.wall_time_s:g} is over", at_once=True)
    if budget.gpu_hours is not None and gpu_hours(spec, trials, now) >= budget.gpu_hours:
        return End(reason=f"budget.gpu_hours={budget.gpu_hours:g} are used up", at_once=True)
    if any(hits(spec, trial.value) for trial in trials if trial.state != "FAIL"):
        return End(reason=f"{spec.metric} has reached budget.target={budget.target:g}", at_once=True)
    if budget.patience is not None and (waited := since_improvement(spec.goal, trials)) >= budget.patience:
        return End(
            reason=f"no improvement in the last {waited} trials (budget.patience={budget.patience})", at_once=False
        )
    if budget.min_improvement is not None and left is not None and left < budget.min_improvement:
        return End(
            reason=f"a further trial is expected to improve {spec.metric} by {left:.3g} at most"
            f" (budget.min_improvement={budget.min_improvement:g})",
            at_once=False,
        )
    return None


def hits(spec: Spec, value: float | None) -> bool:
    """Whether a value reaches the target."""
    target = spec.budget.target
    if target is None or value is None:
        return False
    return value >= target if spec.goal == "maximize" else value <= target


def gpu_hours(spec: Spec, trials: Sequence[Trial], now: datetime) -> float:
    """GPU hours that trials have used, a share of a GPU as that share.

    A stretch whose end was not seen counts as nothing, unless its trial may still be in it.
    """
    seconds = 0.0
    for trial in trials:
        for index, stretch in enumerate(trial.attempts):
            runs = trial.state == "RUNNING" and index == len(trial.attempts) - 1
            if (ended := stretch.ended or (now if runs else None)) is not None:
                seconds += stretch.workers * (ended - stretch.started).total_seconds()
    return spec.resources.gpus_per_worker * seconds / 3600


def since_improvement(goal: Goal, trials: Sequence[Trial]) -> int:
    """How many trials have ended since the best one, in order of their numbers."""
    sign = 1 if goal == "maximize" else -1
    best, waited = None, 0
    for trial in trials:
        if trial.state == "RUNNING":
            continue
        if trial.state != "FAIL" and trial.value is not None and (best is None or sign * trial.value > best):
            best, waited = sign * trial.value, 0
        else:
            waited += 1
    return waited
