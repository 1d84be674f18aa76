"""What to make of a sweep, and what to try next: rules over its trials, in the spirit of the Tuning Playbook.

Source: https://github.com/google-research/tuning_playbook
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from orchestrator.messages import Outcome
from orchestrator.parameter import Float, Int, Parameter
from orchestrator.ranking import Goal, Ranked, ranked
from orchestrator.space import Space
from orchestrator.spec import Spec

# The best is "on the edge" within this share of a range, on its own scale.
EDGE = 0.05
# From this share of trials that came to nothing on, it is worth a look.
MANY_FAILED = 0.2
# What becomes of a trial that comes to nothing by its hyperparameters, and what to do about it.
CAME_TO_NOTHING = {
    Outcome.DIVERGED: "diverged; a smaller learning rate or a warm-up would not waste them",
    Outcome.OUT_OF_MEMORY: "ran out of memory; take what is too large out of the space, or give a trial more",
    Outcome.INFEASIBLE: "broke a constraint; narrow the space to where it is kept",
}
# Below this rank correlation between an early epoch and the last, early stopping threw good trials away.
WEAK_AGREEMENT = 0.5
# Trials that a rank correlation is worked out from, at least.
MIN_COMPARED = 8
# Shares of importance worth naming.
MATTERS, HARDLY_MATTERS = 0.2, 0.02


class Trial(Ranked, Protocol):
    """What advice needs of a trial."""

    @property
    def params(self) -> Mapping[str, Any]:
        """Its hyperparameters."""

    @property
    def curve(self) -> Mapping[int, float]:
        """The metric by epoch."""

    @property
    def outcome(self) -> str:
        """How it ended, as `messages.Outcome`."""

    @property
    def repeat_of(self) -> int | None:
        """The trial that it repeats."""


def advice(spec: Spec, space: Space, trials: Sequence[Trial], importances: Mapping[str, float]) -> list[str]:
    """Everything worth saying, a sentence each, the most useful first.

    Args:
        spec: the sweep.
        space: what was searched.
        trials: all of them.
        importances: each hyperparameter's share in what decided, as `importance.importances` gives it.
    """
    searched = [trial for trial in trials if trial.repeat_of is None]
    best = next(iter(ranked(spec.goal, searched)), None)
    found = [] if best is None else list(on_the_edge(space, best.params))
    found += _what_mattered(importances)
    found += _failures(searched)
    found += _pruning(spec, searched)
    if best is not None:
        found += _noise(spec, best, trials)
    return found


def on_the_edge(space: Space, params: Mapping[str, Any]) -> Iterator[str]:
    """The parameters whose best value is at an end of their range: the optimum may lie beyond it."""
    for name, parameter in space.items():
        if name not in params or not isinstance(parameter, Float | Int) or parameter.size == 1:
            continue
        share = _share(parameter, params[name])
        if share <= EDGE and parameter.low == 0:
            continue  # what cannot be less than nothing
        if share <= EDGE or share >= 1 - EDGE:
            end, verb = ("lower", "lower") if share <= EDGE else ("upper", "raise")
            yield (
                f"the best {name} ({params[name]:.4g}) is at the {end} end of its range ({parameter.describe()});"
                f" {verb} it, there may be better beyond"
            )


def rank_agreement(trials: Sequence[Trial], early: int, late: int) -> float | None:
    """Spearman's rank correlation between two epochs, over the trials that reached both; None with too few of them."""
    both = [trial.curve for trial in trials if early in trial.curve and late in trial.curve]
    if len(both) < MIN_COMPARED:
        return None
    first, last = (_ranks([curve[epoch] for curve in both]) for epoch in (early, late))
    if len(set(first)) == 1 or len(set(last)) == 1:
        return None
    return statistics.correlation(first, last)


def _what_mattered(importances: Mapping[str, float]) -> Iterator[str]:
    mattered = [f"{name} ({share:.0%})" for name, share in importances.items() if share >= MATTERS]
    if mattered:
        yield f"what decided between the best trials and the rest: {', '.join(mattered)}"
    hardly = [name for name, share in importances.items() if share <= HARDLY_MATTERS]
    if hardly and mattered:
        them = "it" if len(hardly) == 1 else "them"
        yield f"{', '.join(hardly)} hardly mattered; fix {them} to search the rest better"


def _failures(trials: Sequence[Trial]) -> Iterator[str]:
    ended = [trial for trial in trials if trial.state != "RUNNING"]
    failed = sum(trial.state == "FAIL" for trial in ended)
    if failed and failed >= MANY_FAILED * len(ended):
        yield f"{failed} of {len(ended)} trials failed; see `error` in results.json before you trust the rest"
    for outcome, what in CAME_TO_NOTHING.items():
        count = sum(trial.outcome == outcome for trial in ended)
        if count and count >= MANY_FAILED * len(ended):
            yield f"{count} of {len(ended)} trials {what}"


def _pruning(spec: Spec, trials: Sequence[Trial]) -> Iterator[str]:
    if spec.schedule.scheduler not in ("asha", "hyperband", "median"):
        return
    whole = [trial for trial in trials if trial.state == "COMPLETE"]
    late = max((epoch for trial in whole for epoch in trial.curve), default=0)
    early = spec.schedule.grace_epochs
    agreement = rank_agreement(whole, early, late) if late > early else None
    if agreement is None:
        return
    said = f"ranks at epoch {early} and epoch {late} agree by {agreement:.2f} (Spearman, {len(whole)} whole trials)"
    if agreement < WEAK_AGREEMENT:
        yield f"early stopping may be too eager: {said}; raise schedule.grace_epochs"
    else:
        yield f"early stopping looks sound: {said}"


def _noise(spec: Spec, best: Trial, trials: Sequence[Trial]) -> Iterator[str]:
    again = [trial.value for trial in trials if trial.repeat_of == best.number and trial.value is not None]
    if len(again) < 2 or best.value is None:
        return
    spread, mean = statistics.stdev(again), statistics.fmean(again)
    yield (
        f"with {len(again)} other seeds the best configuration gives {spec.metric} {mean:.4g} +- {spread:.2g}"
        f" (standard deviation); the search saw {best.value:.4g}"
    )
    close = _within(spec.goal, best, [t for t in trials if t.repeat_of is None and t.state == "COMPLETE"], spread)
    if close:
        others = "1 other trial is" if close == 1 else f"{close} other trials are"
        yield f"{others} within two standard deviations of the best: no worse, as far as seeds tell"


def _within(goal: Goal, best: Trial, trials: Sequence[Trial], spread: float) -> int:
    others = [trial for trial in ranked(goal, trials) if trial.number != best.number]
    return sum(
        abs((trial.value or 0.0) - (best.value or 0.0)) <= 2 * spread for trial in others if trial.value is not None
    )


def _share(parameter: Parameter, value: float) -> float:
    """Where in its range a value is, from 0 to 1, on the range's own scale."""
    if not isinstance(parameter, Float | Int):
        raise TypeError(f"{parameter.kind} is no range")
    low, high = parameter.low, parameter.last
    if parameter.log:
        low, high, value = math.log(low), math.log(high), math.log(value)
    return (value - low) / (high - low) if high > low else 0.5


def _ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 0, equal values sharing the mean of theirs."""
    order = sorted(values)
    return [order.index(value) + (order.count(value) - 1) / 2 for value in values]
