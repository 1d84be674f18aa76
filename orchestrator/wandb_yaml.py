"""W&B sweep configurations, to and from spaces and specs; W&B itself is not imported.

The format: https://docs.wandb.ai/models/sweeps/sweep-config-keys, and its JSON schema:
https://github.com/wandb/sweeps (src/sweeps/config/schema.json).
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from orchestrator.errors import SpaceError, SpecError
from orchestrator.naming import closest, hint
from orchestrator.parameter import Parameter
from orchestrator.space import Space
from orchestrator.wandb_distributions import entry, read

# Out: a space as W&B `parameters`.


def to_wandb(space: Mapping[str, Parameter], fixed: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
    """`parameters` of a W&B sweep, with a group for each, as people write them: `optimizer: {parameters: {lr: ...}}`.

    W&B knows no conditions, constraints or defaults, and few priors; what it cannot say is left out
    (`wandb_distributions.unsayable`).

    Args:
        space: parameters by name.
        fixed: values of hyperparameters that are not varied, by name.
    """
    entries = {name: entry(parameter) for name, parameter in space.items()}
    entries |= {name: {"value": value} for name, value in fixed.items()}
    found: dict[str, Any] = {}
    for name, each in entries.items():
        *groups, last = path_of(name, entries)
        place = found
        for group in groups:
            place = place.setdefault(group, {"parameters": {}})["parameters"]
        place[last] = each
    return found


def to_config(params: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as the config of a W&B run in such a sweep: `optimizer.lr` is `{optimizer: {lr: ...}}`."""
    found: dict[str, Any] = {}
    for name, value in params.items():
        *groups, last = path_of(name, params)
        place = found
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = value
    return found


def path_of(name: str, names: Container[str]) -> list[str]:
    """Where W&B has a hyperparameter, one of several: in its groups, outermost first, and what it is called there.

    W&B wants no dots in names, and its panels take them for groups. It has either a value or a group under one name, so
    below a hyperparameter that is a value itself there are dots all the same.
    """
    *groups, last = name.split(".")
    for index in range(len(groups)):
        if ".".join(groups[: index + 1]) in names:
            return [*groups[:index], ".".join([*groups[index:], last])]
    return [*groups, last]


# In: W&B `parameters` as a space.


def from_wandb(parameters: Mapping[str, Any]) -> Space:
    """The space of a W&B sweep's `parameters`; nested ones become groups (`optimizer.lr`).

    Distributions without bounds end `wandb_distributions.SIGMAS` standard deviations from their centre.

    Raises:
        SpaceError: anything is unknown, missing or cannot be expressed; every such problem, with the parameter's name.
    """
    if not isinstance(parameters, Mapping):
        raise SpaceError(f"space: 'parameters' is {parameters!r}, which is no mapping from name to parameter")
    found: list[str] = []
    known: dict[str, Parameter] = {}
    for name, given in _entries(parameters):
        parameter, phrases = read(given) if name not in known else (None, ["is there twice; drop one"])
        found += [f"space: {name!r} {phrase}" for phrase in phrases]
        if parameter is not None:
            known[name] = parameter
    try:
        space = Space(known)
    except SpaceError as exc:
        found += exc.problems
    if found:
        raise SpaceError(found)
    return space


def _entries(parameters: Mapping[str, Any], group: str = "") -> Iterator[tuple[str, Any]]:
    """Entries by whole name, of nested parameters too."""
    for name, given in parameters.items():
        inner = given.get("parameters") if isinstance(given, Mapping) and set(given) == {"parameters"} else None
        if isinstance(inner, Mapping):
            yield from _entries(inner, f"{group}{name}.")
        else:
            yield f"{group}{name}" if group else name, given


# In: a whole sweep's file as a spec.

METHODS = {"grid": "grid", "random": "random", "bayes": "tpe", "custom": "tpe"}
GOALS = ("minimize", "maximize")
WITH_MEANING = ("method", "parameters", "metric", "early_terminate", "name", "run_cap", "project", "entity")
# Keys that mean nothing here: what they say is said by the trainable, or is W&B's own machinery.
WITHOUT_MEANING = (
    "program",
    "command",
    "description",
    "apiVersion",
    "kind",
    "controller",
    "job",
    "image_uri",
    "scheduler",
)


def is_sweep(data: Any) -> bool:
    """Whether plain data is a W&B sweep's configuration, rather than a spec or a space."""
    return isinstance(data, Mapping) and "method" in data and isinstance(data.get("parameters"), Mapping)


def flaw(data: Mapping[str, Any]) -> str | None:
    """What plain data lacks that was meant to be a W&B sweep's configuration, in a sentence; None for any other."""
    if "space" in data or is_sweep(data):
        return None
    others = [key for key in data if key not in (*WITH_MEANING, *WITHOUT_MEANING)]
    if "method" in data:
        missing, example, is_meant = "parameters", "{lr: {min: 0.0, max: 1.0}}", str(data["method"]) in METHODS
    else:
        missing, example = "method", "bayes"
        marked = isinstance(data.get("metric"), Mapping) or not {"program", "early_terminate", "run_cap"}.isdisjoint(
            data
        )
        is_meant = isinstance(data.get("parameters"), Mapping) and (marked or closest(missing, others) is not None)
    if not is_meant:
        return None
    close = closest(missing, others)
    return f"a W&B sweep needs '{missing}'; " + (
        f"add it, as in {missing}: {example}" if close is None else f"is '{close}' meant to be it?"
    )


def to_spec(data: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The spec, as plain data, of a W&B sweep's configuration; and what of it means nothing here, a note each.

    Keys that are not W&B's are taken as they are.

    Raises:
        SpecError: anything cannot be expressed; every such problem.
    """
    problems: list[str] = []
    space: dict[str, Any] = {}
    try:
        space = from_wandb(data["parameters"]).to_data()
    except SpaceError as exc:
        problems += exc.problems
    method = str(data["method"])
    if method not in METHODS:
        problems.append(f"method is {method!r}, which W&B has none of; {hint(method, list(METHODS))}")
    spec: dict[str, Any] = {"space": space, "search": {"sampler": METHODS.get(method)}, **_metric(data, problems)}
    if "name" in data:
        spec["name"] = re.sub(r"[^A-Za-z0-9_]+", "-", str(data["name"])).strip("-")[:56]
    stopping = data.get("early_terminate")
    spec["schedule"] = {"scheduler": "none"} if stopping is None else _schedule(stopping, problems)
    if budget := _budget(data):
        spec["budget"] = budget
    if tracking := {key: data[key] for key in ("project", "entity") if key in data}:
        spec["tracking"] = tracking
    if problems:
        raise SpecError(problems)
    others = {key: value for key, value in data.items() if key not in (*WITH_MEANING, *WITHOUT_MEANING)}
    return spec | others, [*_notes(data)]


def _budget(data: Mapping[str, Any]) -> dict[str, Any]:
    """When the sweep is over."""
    metric = data.get("metric")
    budget = {"trials": data["run_cap"]} if "run_cap" in data else {}
    return budget | ({"target": metric["target"]} if isinstance(metric, Mapping) and "target" in metric else {})


def _metric(data: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    """What is optimised, and which way: `minimize` where nothing is said, as in W&B."""
    if "metrics" in data:
        problems.append(f"metrics is {data['metrics']!r}; a sweep here has one objective: name it under 'metric'")
    metric = data.get("metric") or {}
    if not isinstance(metric, Mapping):
        problems.append(f"metric is {metric!r}; write {{name: val/loss, goal: minimize}}")
        return {}
    if (goal := metric.get("goal", "minimize")) not in GOALS:
        problems.append(f"metric.goal is {goal!r}; {hint(str(goal), GOALS)}")
    return {"metric": metric["name"], "goal": goal} if "name" in metric else {}


def _schedule(stopping: Any, problems: list[str]) -> dict[str, Any]:
    """`early_terminate` as a schedule: W&B's hyperband has brackets of iterations, as ASHA has rungs of epochs."""
    if not isinstance(stopping, Mapping) or stopping.get("type") != "hyperband":
        problems.append(f"early_terminate is {stopping!r}; its type can be hyperband only")
        return {}
    eta = stopping.get("eta", 3)
    found = {"scheduler": "asha", "reduction_factor": eta}
    if "min_iter" in stopping:
        return {**found, "grace_epochs": stopping["min_iter"], **_at_least(stopping)}
    try:
        grace = max(1, round(stopping["max_iter"] / eta ** stopping["s"]))
    except (KeyError, TypeError, ArithmeticError):
        problems.append("early_terminate: hyperband needs min_iter, or max_iter and s; add them")
        return {}
    return {**found, "grace_epochs": grace, **_at_least(stopping)}


def _at_least(stopping: Mapping[str, Any]) -> dict[str, Any]:
    return {"max_epochs": stopping["max_iter"]} if "max_iter" in stopping else {}


def _notes(data: Mapping[str, Any]) -> Iterator[str]:
    ignored = [key for key in WITHOUT_MEANING if key in data]
    metric = data.get("metric") or {}
    ignored += [f"metric.{key}" for key in ("impute", "impute_while_running") if key in metric]
    ignored += ["early_terminate.strict"] if "strict" in (data.get("early_terminate") or {}) else []
    if ignored:
        yield f"left out, since it means nothing here: {', '.join(ignored)}"
    if data["method"] == "bayes":
        yield "method bayes is search.sampler=tpe here"
    if data["method"] == "custom":
        yield "method custom is search.sampler=tpe here"
