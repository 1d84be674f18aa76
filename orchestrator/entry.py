"""A parameter written down as plain data, and what was probably meant where that is wrong."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import MISSING, fields

from orchestrator.naming import closest, hint
from orchestrator.parameter import Choice, Fixed, Float, Int, Parameter
from orchestrator.wandb_distributions import as_ours

_KINDS: dict[str, type[Float] | type[Int] | type[Choice] | type[Fixed]] = {
    each.kind: each for each in (Float, Int, Choice, Fixed)
}
_KEYS = list(dict.fromkeys(["type", *(field.name for kind in _KINDS.values() for field in fields(kind))]))
# A key that says by itself of which type an entry is.
_TELLING = {"options": Choice.kind, "value": Fixed.kind}
# What W&B, Optuna, Ray Tune, or people, call the keys of an entry, and its types.
_ALSO_CALLED = {
    **dict.fromkeys(("min", "lower", "lo", "minimum"), "low"),
    **dict.fromkeys(("max", "upper", "hi", "maximum"), "high"),
    **dict.fromkeys(("values", "choices", "choice", "categories"), "options"),
    **dict.fromkeys(("probabilities", "weights"), "prior"),
    **dict.fromkeys(("if", "condition", "conditions"), "when"),
    **dict.fromkeys(("distribution", "kind"), "type"),
    "q": "step",
}
_TYPES_ALSO_CALLED = {
    **dict.fromkeys(("uniform", "double", "number", "quniform", "q_uniform"), "'float'"),
    **dict.fromkeys(("loguniform", "log_uniform", "log_uniform_values", "log"), "'float' with log: true"),
    **dict.fromkeys(("randint", "int_uniform"), "'int'"),
    **dict.fromkeys(("categorical", "enum", "options"), "'choice'"),
    **dict.fromkeys(("constant", "value"), "'fixed'"),
}


def is_group(entry: object) -> bool:
    """Whether plain data is a group of entries rather than one: its values are mappings, all of them."""
    if not isinstance(entry, Mapping) or not entry or entry.keys() & _TELLING.keys():
        return False
    return all(isinstance(each, Mapping) for each in entry.values())


def is_entry(given: object) -> bool:
    """Whether plain data says of which type a parameter is."""
    return isinstance(given, Mapping) and not {"type", *_TELLING}.isdisjoint(given)


def read_parameter(entry: object) -> tuple[Parameter | None, list[str]]:
    """The parameter that `entry` writes down, None if it cannot be made, and the mistakes in its keys as phrases."""
    if not isinstance(entry, Mapping):
        return None, [f"is {entry!r}, which is not a mapping; write one such as {{type: float, low: 0.0, high: 1.0}}"]
    kind = entry.get("type", next((kind for key, kind in _TELLING.items() if key in entry), None))
    if (kind is None or "distribution" in entry) and (ours := as_ours(entry)):
        return None, [f"is written as W&B has it; here it is {ours}"]
    if kind is None:
        return None, _without_type(entry)
    if not isinstance(kind, str) or kind not in _KINDS:
        called = _TYPES_ALSO_CALLED.get(str(kind).lower())
        remedy = f"did you mean {called}?" if called else hint(kind, _KINDS)
        return None, [f"has type {kind!r}, which there is none of; {remedy}"]
    required = {field.name: field.default is MISSING for field in fields(_KINDS[kind])}
    given = {key: value for key, value in entry.items() if key in required}
    unknown = [key for key in entry if key != "type" and key not in required]
    phrases = [
        f"has a key {key!r}, which a parameter of type {kind} does not take; {key_hint(key, required)}"
        for key in unknown
    ]
    missing = [key for key in required if required[key] and key not in given]
    meant = {_meant(key, required) for key in unknown}
    phrases += [f"has no {key}, which a parameter of type {kind} needs; add it" for key in missing if key not in meant]
    return (None if missing else _KINDS[kind](**given)), phrases


def key_hint(key: object, keys: Collection[str]) -> str:
    """What a wrong key of an entry was probably meant to be, or all that there are."""
    meant = _meant(key, keys)
    return f"available: {', '.join(map(repr, keys))}" if meant is None else f"did you mean {meant!r}?"


def _without_type(entry: Mapping[str, object]) -> list[str]:
    """What is wrong with an entry that says neither of which type it is, nor has a key that does."""
    unknown = [key for key in entry if key not in _KEYS]
    phrases = [f"has a key {key!r}, which no parameter has; {key_hint(key, _KEYS)}" for key in unknown]
    if not {"type", *_TELLING} & {_meant(key, _KEYS) for key in unknown}:
        phrases.append(f"has no type; add one of {', '.join(_KINDS)}")
    return phrases


def _meant(key: object, keys: Collection[str]) -> str | None:
    """The one of an entry's keys that another one was probably meant to be; None where none is close."""
    called = _ALSO_CALLED.get(str(key).lower(), "")
    return called if called in keys else closest(str(key), keys)
