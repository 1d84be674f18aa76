"""Which value is better, which trial is best, which checkpoints are kept: rules, without side effects."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal, Protocol, TypeVar

Goal = Literal["maximize", "minimize"]
Keep = Literal["best", "best_and_last", "all", "none"]


class Ranked(Protocol):
    """What ranking needs of a trial."""

    @property
    def number(self) -> int:
        """Counted from 0, in the order in which trials were proposed."""

    @property
    def state(self) -> str:
        """COMPLETE, PRUNED, FAIL or RUNNING."""

    @property
    def value(self) -> float | None:
        """The best of its curve; None before the first epoch."""


class Measured(Ranked, Protocol):
    """What the Pareto front needs of one."""

    @property
    def measured(self) -> Mapping[str, float]:
        """At its best epoch, further metrics by name."""


T = TypeVar("T", bound=Ranked)
M = TypeVar("M", bound=Measured)


def best_epoch(goal: Goal, curve: Mapping[int, float]) -> int | None:
    """The epoch of the best finite value of a curve, the earliest of equals; None where there is none."""
    finite = {epoch: value for epoch, value in curve.items() if math.isfinite(value)}
    if not finite:
        return None
    sign = -1 if goal == "maximize" else 1
    return min(finite, key=lambda epoch: (sign * finite[epoch], epoch))


def ranked(goal: Goal, trials: Iterable[T]) -> list[T]:
    """Trials with a finite value, best first; of equals, the first proposed.

    Those that had their whole budget (COMPLETE) come before all others, as in Optuna: a value from a few epochs is
    not comparable to theirs. Failed trials are left out.
    """
    sign = -1 if goal == "maximize" else 1
    valued = [(trial, trial.value) for trial in trials if trial.value is not None and trial.state != "FAIL"]
    finite = [(trial, value) for trial, value in valued if math.isfinite(value)]
    finite.sort(key=lambda pair: (pair[0].state != "COMPLETE", sign * pair[1], pair[0].number))
    return [trial for trial, _ in finite]


def front(goals: Mapping[str, Goal], trials: Iterable[M]) -> list[M]:
    """The COMPLETE trials that no other one beats in all objectives, best first by the first; of equals, the first.

    Args:
        goals: every objective's, by its metric, the sweep's own first; with that alone there is no front.
        trials: all of them; a trial that breaks a constraint is not COMPLETE.
    """
    others = list(goals)[1:]
    if not others:
        return []
    signs = [-1 if goal == "maximize" else 1 for goal in goals.values()]
    costs: list[tuple[list[float], M]] = []
    for trial in trials:
        if trial.state == "COMPLETE" and trial.value is not None:
            values = [trial.value, *(trial.measured[name] for name in others)]
            costs.append(([sign * value for sign, value in zip(signs, values, strict=True)], trial))
    taken: list[tuple[list[float], M]] = []
    # In this order whatever beats a trial comes before it.
    for cost, trial in sorted(costs, key=lambda pair: (pair[0], pair[1].number)):
        if not any(all(a <= b for a, b in zip(other, cost, strict=True)) for other, _ in taken):
            taken.append((cost, trial))
    return [trial for _, trial in taken]


def kept_epochs(keep: Keep, epochs: Sequence[int], best: int | None) -> set[int]:
    """Of an ended trial's checkpoints, by epoch, those that stay."""
    if not epochs or keep == "none":
        return set()
    if keep == "all":
        return set(epochs)
    wanted = {best} if keep == "best" else {best, max(epochs)}
    return {epoch for epoch in epochs if epoch in wanted}


def aliases(kept: Collection[int], best: int | None) -> dict[int, list[str]]:
    """The artifact aliases of an ended trial's checkpoints that are kept, by epoch: the best first, then the newest."""
    return {
        epoch: ["best"] * (epoch == best) + ["latest"] * (epoch == max(kept))
        for epoch in sorted(kept, key=lambda epoch: (epoch != best, -epoch))
    }


def evicted(goal: Goal, trials: Iterable[T], keep_trials: int | None) -> list[T]:
    """Ended trials whose checkpoints go, because enough better ones that have ended keep theirs."""
    if keep_trials is None:
        return []
    ended = [trial for trial in trials if trial.state != "RUNNING"]
    kept = {trial.number for trial in ranked(goal, ended)[:keep_trials]}
    return [trial for trial in ended if trial.number not in kept]
