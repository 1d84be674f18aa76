"""What a population does: who copies whom, and how hyperparameters change. Rules, reproducible from a seed."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping
from typing import Any

from orchestrator.parameter import Choice, Float, Int, Parameter
from orchestrator.ranking import Goal
from orchestrator.space import Space

# Ray Tune's defaults, which are those of the paper (arXiv:1711.09846).
RESAMPLE = 0.25
FACTORS = (0.8, 1.2)
# Changes tried before a hyperparameter set that breaks a constraint of the space is given up.
ATTEMPTS = 16


def donor(goal: Goal, scores: Mapping[int, float], number: int, *, quantile: float, rng: random.Random) -> int | None:
    """The trial that one copies, by their scores at the same epoch; None where it is not among the worst.

    Args:
        goal: which way is better.
        scores: the metric by trial number, the trial's own among them.
        number: the trial.
        quantile: the share of trials that is the worst, and the best.
        rng: draws the donor among the best.
    """
    sign = 1 if goal == "maximize" else -1
    order = sorted(scores, key=lambda other: (sign * scores[other], -other))
    few = min(math.ceil(len(order) * quantile), len(order) // 2)
    if number not in order[:few]:
        return None
    return rng.choice(order[len(order) - few :])


def explored(space: Space, params: Mapping[str, Any], names: Iterable[str], rng: random.Random) -> dict[str, Any]:
    """Hyperparameters near `params`: each of `names` a step away, or drawn anew; those given if nothing is valid."""
    names = set(names)
    for _ in range(ATTEMPTS):
        changed: dict[str, Any] = {}
        for name, parameter in space.items():
            if not space.is_active(name, changed):
                continue
            if name not in params or (name in names and rng.random() < RESAMPLE):
                changed[name] = parameter.draw(rng)
            else:
                changed[name] = _moved(parameter, params[name], rng) if name in names else params[name]
        if not space.problems_with(changed):
            return changed
    return {name: params[name] for name in space if name in params}


def snapped(parameter: Parameter, value: float) -> Any:
    """The value of a range that is nearest to a number."""
    if not isinstance(parameter, Float | Int):
        raise TypeError(f"{parameter.kind} is no range")
    value = min(max(value, parameter.low), parameter.last)
    if parameter.step is not None:
        steps = round((value - parameter.low) / parameter.step)
        # As the decimals one would write: 0.3, not 0.30000000000000004.
        value = type(parameter.low)(f"{parameter.low + steps * parameter.step:.12g}")
    return value


def _moved(parameter: Parameter, value: Any, rng: random.Random) -> Any:
    """A value a step away: the option beside it, or up or down by a fifth, and at least by one step."""
    if isinstance(parameter, Choice):
        options = list(parameter.values())
        return options[min(max(options.index(value) + rng.choice((-1, 1)), 0), len(options) - 1)]
    if not isinstance(parameter, Float | Int):
        return value
    factor = rng.choice(FACTORS)
    moved = snapped(parameter, value * factor)
    if moved == value and parameter.step is not None:
        moved = snapped(parameter, value + math.copysign(parameter.step, factor - 1))
    return moved
