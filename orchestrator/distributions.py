"""Spaces to and from Optuna's distributions (optuna)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)

from orchestrator.errors import SpaceError
from orchestrator.parameter import Choice, Fixed, Float, Int, Parameter
from orchestrator.plain import encoded, is_scalar
from orchestrator.space import Space


def distribution(parameter: Parameter) -> BaseDistribution:
    """What Optuna draws a parameter from; lists and mappings among its values are kept as JSON."""
    match parameter:
        case Float():
            return FloatDistribution(parameter.low, parameter.last, log=parameter.log, step=parameter.step)
        case Int():
            return IntDistribution(parameter.low, parameter.last, log=parameter.log, step=parameter.step)
        case Choice():
            return CategoricalDistribution([encoded(option) for option in parameter.options])
        case Fixed():
            return CategoricalDistribution([encoded(parameter.value)])


def suggest(trial: optuna.Trial, name: str, parameter: Parameter) -> Any:
    """Have Optuna choose the parameter's value in a trial."""
    found = distribution(parameter)
    match found:
        case FloatDistribution():
            return trial.suggest_float(name, found.low, found.high, log=found.log, step=found.step)
        case IntDistribution():
            return trial.suggest_int(name, found.low, found.high, log=found.log, step=found.step)
        case CategoricalDistribution():
            return value(parameter, trial.suggest_categorical(name, found.choices))
        case _:
            raise TypeError(type(found).__name__)


def value(parameter: Parameter, chosen: Any) -> Any:
    """The parameter's value that Optuna keeps as `chosen`."""
    if not isinstance(parameter, Choice | Fixed):
        return chosen
    return next((each for each in parameter.values() if encoded(each) == chosen), chosen)


def params_of(space: Space, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration that Optuna keeps as `chosen`."""
    return {name: value(space[name], each) if name in space else each for name, each in chosen.items()}


def chosen_for(params: Mapping[str, Any]) -> dict[str, Any]:
    """What Optuna keeps a configuration as; `params_of` turned round."""
    return {name: encoded(each) for name, each in params.items()}


def unsayable(parameter: Parameter) -> str | None:
    """What of a parameter, besides its conditions, Optuna's distributions have no word for; None for nothing."""
    if isinstance(parameter, Choice | Fixed) and not all(map(is_scalar, parameter.values())):
        return "values that are lists or mappings"
    return "a prior" if getattr(parameter, "prior", None) is not None else None


def to_optuna(space: Space) -> dict[str, BaseDistribution]:
    """Every parameter's distribution, for `study.ask(to_optuna(space))`; conditions are not in it."""
    return {name: distribution(parameter) for name, parameter in space.items()}


def to_json(space: Space) -> dict[str, Any]:
    """The same as plain data, each as Optuna's own `distribution_to_json` has it."""
    return {name: json.loads(distribution_to_json(each)) for name, each in to_optuna(space).items()}


def from_optuna(distributions: Mapping[str, BaseDistribution]) -> Space:
    """The space of Optuna's distributions; a category without others is a fixed value.

    Raises:
        SpaceError: one is of a kind that Optuna has not had so far, or the names or values break rules.
    """
    parameters: dict[str, Parameter] = {}
    unknown = []
    for name, each in distributions.items():
        match each:
            case FloatDistribution():
                parameters[name] = Float(each.low, each.high, log=each.log, step=each.step)
            case IntDistribution():
                parameters[name] = Int(each.low, each.high, log=each.log, step=each.step)
            case CategoricalDistribution(choices=[only]):
                parameters[name] = Fixed(only)
            case CategoricalDistribution():
                parameters[name] = Choice(each.choices)
            case _:
                unknown.append(f"space: {name!r} has a {type(each).__name__}, which no parameter corresponds to")
    if unknown:
        raise SpaceError(unknown)
    return Space(parameters)
