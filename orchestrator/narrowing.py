"""Narrowing a parameter: what it may become, and what would widen it by accident."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from orchestrator.entry import key_hint, read_parameter
from orchestrator.parameter import UNSET, Choice, Parameter


def narrowed_by(parameter: Parameter, change: Any) -> tuple[Parameter, list[str]]:
    """A parameter after a change, and why that is no narrowing, as phrases."""
    if isinstance(change, list | tuple):
        change = {"options": change} if isinstance(parameter, Choice) else Choice(change)
    if isinstance(change, Mapping) and change.keys() & {"type", "value"}:
        change, phrases = read_parameter(change)
        if change is None or phrases:
            return parameter, phrases
    if isinstance(change, Parameter):
        if change.when is not None and change.conditions != parameter.conditions:
            return parameter, ["would be active at other times, which is no narrowing; use replace for that"]
        after: Parameter = change.with_conditions(parameter.conditions)
    elif isinstance(change, Mapping):
        names = [each.name for each in fields(parameter) if each.name != "when"]
        if wrong := [key for key in change if key not in names]:
            return parameter, [f"has no {key!r} to narrow; {key_hint(key, names)}" for key in wrong]
        after = _changed(parameter, change)
    else:
        return parameter, [f"is narrowed to {change!r}; give a parameter, the attributes that change, or options"]
    if own := after.problems():
        return parameter, own
    why = parameter.beyond(after)
    return after, [] if why is None else [f"is to be narrowed, but {why}; use replace to widen it"]


def _changed(parameter: Parameter, change: Mapping[str, Any]) -> Parameter:
    """The parameter after the change, without a default or a prior that fits no more."""
    opinions = [each for each in ("prior", "default") if each not in change and hasattr(parameter, each)]
    after = replace(parameter, **{each: _none(parameter, each) for each in opinions}, **change)
    if after.problems():
        return after
    for each in opinions:
        kept = replace(after, **{each: _kept(parameter, after, each)})
        after = after if kept.problems() else kept
    return after


def _none(parameter: Parameter, opinion: str) -> Any:
    return UNSET if isinstance(parameter, Choice) and opinion == "default" else None


def _kept(before: Parameter, after: Parameter, opinion: str) -> Any:
    """A default or prior as it was; of a choice's prior the weights of the options that stay."""
    held = getattr(before, opinion)
    if opinion == "default" or held is None or not isinstance(before, Choice) or not isinstance(after, Choice):
        return held
    weights = dict(zip(before.options, held, strict=True))
    return [weights.get(option, 0.0) for option in after.options]
