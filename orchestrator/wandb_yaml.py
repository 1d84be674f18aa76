"""W&B sweep configurations, to and from spaces and specs; W&B itself is not imported.

The format: https://docs.wandb.ai/models/sweeps/sweep-config-keys, its JSON schema and what its distributions draw:
https://github.com/wandb/sweeps (src/sweeps/config/schema.json, src/sweeps/params.py).
"""

from __future__ import annotations

import math
import re
from collections.abc import Container, Iterator, Mapping
from types import MappingProxyType
from typing import Any, cast

from orchestrator.errors import SpaceError, SpecError
from orchestrator.naming import hint
from orchestrator.parameter import Choice, Fixed, Float, Int, Parameter
from orchestrator.plain import thaw
from orchestrator.prior import Beta, LogUniform, Normal
from orchestrator.space import Space

SIGMAS = 4
"""W&B's bells have no bounds; ours end so many standard deviations from their centre: one draw in 16,000 is beyond."""

_BOUNDED = ("min", "max")
# Each distribution of W&B, and the keys it takes besides `distribution`.
DISTRIBUTIONS: dict[str, tuple[str, ...]] = {
    "constant": ("value",),
    "categorical": ("values",),
    "categorical_w_probabilities": ("values", "probabilities"),
    "int_uniform": _BOUNDED,
    "uniform": _BOUNDED,
    "q_uniform": (*_BOUNDED, "q"),
    "log_uniform": _BOUNDED,
    "log_uniform_values": _BOUNDED,
    "q_log_uniform": (*_BOUNDED, "q"),
    "q_log_uniform_values": (*_BOUNDED, "q"),
    "inv_log_uniform": _BOUNDED,
    "inv_log_uniform_values": _BOUNDED,
    "normal": ("mu", "sigma"),
    "q_normal": ("mu", "sigma", "q"),
    "log_normal": ("mu", "sigma"),
    "q_log_normal": ("mu", "sigma", "q"),
    "beta": ("a", "b"),
    "q_beta": ("a", "b", "q"),
}
_DEFAULTS = {"mu": 0.0, "sigma": 1.0, "a": 1.0, "b": 1.0, "q": 1.0}


# Out: a space as W&B `parameters`.


def to_wandb(space: Mapping[str, Parameter], fixed: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
    """`parameters` of a W&B sweep, with a group for each, as people write them: `optimizer: {parameters: {lr: ...}}`.

    W&B knows no conditions, constraints or defaults, and few priors; what it cannot say is left out (`unsayable`).

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


def entry(parameter: Parameter) -> dict[str, Any]:
    """A parameter's entry under `parameters`."""
    match parameter:
        case Fixed():
            return {"value": thaw(parameter.value)}
        case Choice():
            values = {"values": list(parameter.values())}
            weights = cast(Any, parameter.prior)
            return values if weights is None else {**values, "probabilities": list(weights)}
        case _ if parameter.low == parameter.last:
            return {"value": parameter.low}  # W&B wants min below max
        case _:
            return _bell(parameter) or _uniform(parameter)


def unsayable(parameter: Parameter) -> str | None:
    """What of a parameter, besides its conditions and its default, W&B has no word for; None for nothing."""
    if not isinstance(parameter, Float | Int):
        return None
    steps = parameter.low / cast(float, parameter.step) if parameter.has_steps else 0.0
    if abs(steps - round(steps)) > 1e-9:
        return f"steps of {parameter.step} that are counted from {parameter.low}: W&B counts them from 0"
    if parameter.prior is None or _bell(parameter) or (isinstance(parameter.prior, LogUniform) and parameter.has_steps):
        return None
    return "a prior on a range with these bounds"


def _uniform(parameter: Float | Int) -> dict[str, Any]:
    bounds = {"min": parameter.low, "max": parameter.last}
    match parameter:
        case Float(log=True):
            return {"distribution": "log_uniform_values", **bounds}
        case Int(log=True):  # W&B has no log distribution of integers
            return {"distribution": "q_log_uniform_values", **bounds, "q": 1}
        case Int(step=1):
            return {"distribution": "int_uniform", **bounds}
        case Float(step=None):
            return {"distribution": "uniform", **bounds}
        case _:
            name = "q_log_uniform_values" if isinstance(parameter.prior, LogUniform) else "q_uniform"
            return {"distribution": name, **bounds, "q": parameter.step}


def _bell(parameter: Float | Int) -> dict[str, Any] | None:
    """The distribution of W&B that is this range with its prior; None where there is none."""
    prior, steps = parameter.prior, {"q": parameter.step} if isinstance(parameter, Int) or parameter.step else {}
    mark = "q_" if steps else ""
    found: dict[str, Any]
    match prior:
        case Beta():
            found = {"distribution": f"{mark}beta", "a": prior.alpha, "b": prior.beta, **steps}
        case Normal() if parameter.log:
            found = {"distribution": f"{mark}log_normal", "mu": math.log(prior.centre),
                     "sigma": math.log(prior.spread), **steps}  # fmt: skip
        case Normal():
            found = {"distribution": f"{mark}normal", "mu": prior.centre, "sigma": prior.spread, **steps}
        case _:
            return None
    back, _ = _read(found)
    same_range = isinstance(back, type(parameter)) and (back.low, back.last) == (parameter.low, parameter.last)
    return found if same_range else None


# In: W&B `parameters` as a space.


def from_wandb(parameters: Mapping[str, Any]) -> Space:
    """The space of a W&B sweep's `parameters`; nested ones become groups (`optimizer.lr`).

    Distributions without bounds end `SIGMAS` standard deviations from their centre.

    Raises:
        SpaceError: anything is unknown, missing or cannot be expressed; every such problem, with the parameter's name.
    """
    if not isinstance(parameters, Mapping):
        raise SpaceError(f"space: 'parameters' is {parameters!r}, which is no mapping from name to parameter")
    found: list[str] = []
    read: dict[str, Parameter] = {}
    for name, given in _entries(parameters):
        parameter, phrases = _read(given) if name not in read else (None, ["is there twice; drop one"])
        found += [f"space: {name!r} {phrase}" for phrase in phrases]
        if parameter is not None:
            read[name] = parameter
    try:
        space = Space(read)
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


def _read(given: Any) -> tuple[Parameter | None, list[str]]:
    """The parameter that an entry means, None where there is none, and why, as phrases."""
    if not isinstance(given, Mapping):
        return None, [f"is {given!r}, which is not a mapping; write one such as {{min: 0.0, max: 1.0}}"]
    kind = given.get("distribution", _implied(given))
    if kind not in DISTRIBUTIONS:
        return None, [f"has distribution {kind!r}, which W&B has none of; {hint(kind, list(DISTRIBUTIONS))}"]
    keys = DISTRIBUTIONS[kind]
    phrases = [f"has a key {key!r}, which {kind} does not take; {hint(key, keys)}"
               for key in given if key not in (*keys, "distribution")]  # fmt: skip
    phrases += [
        f"has no {key}, which {kind} needs; add it" for key in keys if key not in given and key not in _DEFAULTS
    ]
    arguments = {key: given.get(key, _DEFAULTS.get(key)) for key in keys}
    phrases += [
        f"has {key} {value!r}, which is not a finite number; write one such as 0.1"
        for key, value in arguments.items()
        if key in given and key not in ("value", "values", "probabilities") and not _is_number(value)
    ]
    if phrases:
        return None, phrases
    try:
        return _parameter(kind, arguments), []
    except (ValueError, OverflowError) as exc:
        return None, [f"is {kind}, which cannot be expressed here: {exc}"]


def _implied(given: Mapping[str, Any]) -> str:
    """The distribution that W&B takes where none is said."""
    if "value" in given:
        return "constant"
    if "values" in given:
        return "categorical_w_probabilities" if "probabilities" in given else "categorical"
    whole = all(isinstance(given.get(key), int) for key in _BOUNDED)
    return "int_uniform" if whole else "uniform"


def _parameter(kind: str, given: Mapping[str, Any]) -> Parameter:
    """The parameter of a distribution; ValueError says what cannot be expressed."""
    match kind:
        case "constant":
            return Fixed(given["value"])
        case "categorical" | "categorical_w_probabilities":
            return Choice(given["values"], prior=given.get("probabilities"))
        case "int_uniform":
            return Int(given["min"], given["max"])
        case "uniform":
            return Float(given["min"], given["max"])
        case "q_uniform":
            return _stepped(given["min"], given["max"], given["q"])
        case "log_uniform_values" | "inv_log_uniform_values":  # of log(1/x) evenly is of log(x) evenly
            return Float(given["min"], given["max"], log=True)
        case "log_uniform":
            return Float(_decimal(math.exp(given["min"])), _decimal(math.exp(given["max"])), log=True)
        case "inv_log_uniform":
            return Float(_decimal(math.exp(-given["max"])), _decimal(math.exp(-given["min"])), log=True)
        case "q_log_uniform_values":
            return _stepped_log(given["min"], given["max"], given["q"])
        case "q_log_uniform":
            return _stepped_log(math.exp(given["min"]), math.exp(given["max"]), given["q"])
        case "beta":
            return Float(0, 1, prior=Beta(given["a"], given["b"]))
        case "q_beta":
            return _stepped(0, 1, given["q"], prior=Beta(given["a"], given["b"]))
        case _:
            return _of_bell(kind, given)


def _of_bell(kind: str, given: Mapping[str, Any]) -> Parameter:
    mu, sigma, q = given["mu"], given["sigma"], given.get("q")
    if sigma < 0:
        raise ValueError(f"sigma is {sigma}, below 0")
    low, high = mu - SIGMAS * sigma, mu + SIGMAS * sigma
    if "log" not in kind:
        centre = Normal(mu, sigma)
        if q is not None:
            return _stepped(low, high, q, prior=centre)
        return Float(_decimal(low), _decimal(high), prior=centre) if sigma else Fixed(mu)
    low, high, bell = math.exp(low), math.exp(high), Normal(_decimal(math.exp(mu)), _decimal(math.exp(sigma)))
    if q is None:
        return Float(_decimal(low), _decimal(high), log=True, prior=bell) if sigma else Fixed(bell.centre)
    if q != 1 or not isinstance(q, int):
        raise ValueError(f"a bell on a log scale takes no steps of {q}; use q: 1, or q_log_uniform_values")
    first, last = max(round(low), 1), round(high)
    return Int(first, last, log=True, prior=bell) if first < last else Fixed(first)


def _stepped(low: float, high: float, q: float, **more: Any) -> Parameter:
    """Multiples of q; whole ones are whole numbers, as W&B has them."""
    if q <= 0:
        raise ValueError(f"q is {q}; give a q above 0")
    first, last = round(low / q), round(high / q)
    if first == last:
        return Fixed(_multiple(q, first))
    if isinstance(q, int):
        return Int(q * first, q * last, step=q, **more)
    return Float(_multiple(q, first), _multiple(q, last), step=q, **more)


def _stepped_log(low: float, high: float, q: float) -> Parameter:
    if q <= 0:
        raise ValueError(f"q is {q}; give a q above 0")
    if round(low / q) <= 0:
        raise ValueError(f"min {low:g} is rounded to 0, which no log scale has; raise it to {q:g}, the q")
    if q == 1 and isinstance(q, int):
        return Int(round(low), round(high), log=True)
    return _stepped(low, high, q, prior=LogUniform())


def _multiple(q: float, times: int) -> float:
    return q * times if isinstance(q, int) else _decimal(q * times)


def _decimal(number: float) -> float:
    """A number without the last digits, in which there is only rounding: the 0.001 of exp(log(0.001))."""
    return float(f"{number:.12g}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


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
