"""W&B's distributions, to and from parameters: the entries under `parameters` of a sweep; W&B itself is not imported.

Their JSON schema and what they draw: https://github.com/wandb/sweeps (src/sweeps/config/schema.json,
src/sweeps/params.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

from orchestrator.naming import hint
from orchestrator.parameter import Choice, Fixed, Float, Int, Parameter
from orchestrator.plain import one_line, thaw
from orchestrator.prior import Beta, LogUniform, Normal

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


# Out: a parameter as an entry.


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
    back, _ = read(found)
    same_range = isinstance(back, type(parameter)) and (back.low, back.last) == (parameter.low, parameter.last)
    return found if same_range else None


# In: an entry as a parameter.


def read(given: Any) -> tuple[Parameter | None, list[str]]:
    """The parameter that an entry means, None where there is none, and why, as phrases."""
    if not isinstance(given, Mapping):
        return None, [f"is {given!r}, which is not a mapping; write one such as {{min: 0.0, max: 1.0}}"]
    kind = given.get("distribution", _implied(given))
    if not isinstance(kind, str) or kind not in DISTRIBUTIONS:
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


def as_ours(given: Any) -> str | None:
    """The entry of a space of ours that means the same as one of W&B's, in a line of YAML; None where it is none."""
    if not isinstance(given, Mapping) or given.keys() <= {"value"}:
        return None
    parameter, _ = read(given)
    return None if parameter is None or parameter.problems() else one_line(parameter.to_data())


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
