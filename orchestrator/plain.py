"""Plain values: what JSON, YAML, Optuna and W&B all keep; frozen to be compared and hashed, thawed to be used."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import yaml

Value: TypeAlias = bool | int | float | str | list["Value"] | dict[str, "Value"] | None
"""What a parameter can be in one configuration."""

Frozen: TypeAlias = Any
"""A plain value in which lists are tuples and mappings `FrozenMapping`s."""


class FrozenMapping(Mapping[Any, Any]):
    """A mapping that never changes, hashable, equal to any mapping of the same items."""

    __slots__ = ("_items",)

    def __init__(self, given: Mapping[Any, Any]) -> None:
        self._items = dict(given)

    def __getitem__(self, key: Any) -> Any:
        return self._items[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(frozenset(self._items.items()))

    def __repr__(self) -> str:
        return repr(thaw(self))


def freeze(value: Any) -> Frozen:
    """A value whose lists and mappings, at any depth, can no longer change; anything else as it is."""
    if isinstance(value, list | tuple):
        return tuple(map(freeze, value))
    return FrozenMapping({k: freeze(v) for k, v in value.items()}) if isinstance(value, Mapping) else value


def thaw(value: Frozen) -> Any:
    """What was frozen, as lists and dicts of one's own."""
    if isinstance(value, tuple):
        return [thaw(each) for each in value]
    return {k: thaw(v) for k, v in value.items()} if isinstance(value, FrozenMapping) else value


def is_scalar(value: object) -> bool:
    """Whether it is None, a bool, an int, a finite float or text."""
    return value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value))


def is_plain(value: object) -> bool:
    """Whether it is a scalar, or a list or a mapping from text of such, at any depth."""
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and is_plain(each) for key, each in value.items())
    return is_scalar(value)


def same(one: object, other: object) -> bool:
    """Equal, and True is not 1, at any depth."""
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def encoded(value: Frozen) -> bool | int | float | str | None:
    """A scalar as it is, anything else as JSON, for where only scalars are kept: Optuna's categories are such."""
    return value if is_scalar(value) else json.dumps(thaw(value), sort_keys=True, allow_nan=False)


def text(value: Frozen) -> str:
    """A value as a person writes it: 0 for 0.0."""
    return str(thaw(value)).removesuffix(".0") if isinstance(value, float) else str(thaw(value))


def one_line(data: Mapping[str, Any] | list[Any]) -> str:
    """Plain data as a line of YAML."""
    return str(yaml.safe_dump(data, default_flow_style=True, sort_keys=False, width=sys.maxsize)).strip()


def settle(frozen: object, **attributes: object) -> None:
    """Set attributes of a frozen dataclass that is still being made."""
    for name, value in attributes.items():
        object.__setattr__(frozen, name, value)
