"""Which value is better, which trial is best, which checkpoints are kept: rules, without side effects."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, Protocol, TypeVar

Goal = Literal["maximize", "minimize"]
Keep = Literal["best", "best_and_last", "all", "none"]


class Ranked(Protocol):
    """What ranking needs of a trial."""

    @property
    def number(self) -> int: ...
    @property
    def state(self) -> str: ...
    @property
    def value(self) -> float | None: ...


T = TypeVar("T", bound=Ranked)


def better(goal: Goal, a: float, b: float | None) -> bool:
    """Whether `a` is strictly better than `b`; anything finite is better than nothing or NaN."""
    if not math.isfinite(a):
        return False
    if b is None or not math.isfinite(b):
        return True
    return a > b if goal == "maximize" else a < b


def best_epoch(goal: Goal, curve: Mapping[int, float]) -> int | None:
    """The epoch of the best finite value of a curve, the earliest of equals; None where there is none."""
    finite = {epoch: value for epoch, value in curve.items() if math.isfinite(value)}
    if not finite:
        return None
    sign = -1 if goal == "maximize" else 1
    return min(finite, key=lambda epoch: (sign * finite[epoch], epoch))


def ranked(goal: Goal, trials: Iterable[T]) -> list[T]:
    """Trials with a value, best first.

    Those that had their whole budget (COMPLETE) come before all others, as in Optuna: a value from a few epochs is
    not comparable to theirs. Failed trials are left out.
    """
    sign = -1 if goal == "maximize" else 1
    valued = [trial for trial in trials if trial.value is not None and trial.state != "FAIL"]
    return sorted(valued, key=lambda t: (t.state != "COMPLETE", sign * (t.value or 0.0), t.number))


def kept_epochs(keep: Keep, epochs: Sequence[int], best: int | None) -> set[int]:
    """Of an ended trial's checkpoints, by epoch, those that stay."""
    if not epochs or keep == "none":
        return set()
    wanted = {"best": {best}, "best_and_last": {best, max(epochs)}, "all": set(epochs)}[keep]
    return wanted & set(epochs)


def evicted(goal: Goal, trials: Iterable[T], keep_trials: int | None) -> list[T]:
    """Ended trials whose checkpoints go, because enough better trials keep theirs."""
    if keep_trials is None:
        return []
    trials = list(trials)
    kept = {trial.number for trial in ranked(goal, trials)[:keep_trials]}
    return [trial for trial in trials if trial.state != "RUNNING" and trial.number not in kept]
