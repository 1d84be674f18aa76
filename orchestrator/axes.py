"""A space as coordinates, for models that work on numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.distributions import params_of
from orchestrator.parameter import Choice, Fixed, Float, Int, Parameter
from orchestrator.population import snapped
from orchestrator.space import Space

Array = NDArray[np.float64]


class Axes:
    """A space as coordinates: (parameters,) numbers, NaN for a parameter that is not active.

    Ranges go from 0 to 1 on their scale; a choice is the index of its option.
    """

    def __init__(self, space: Space) -> None:
        self._space = space
        self._placed: dict[tuple[Any, ...], Array] = {}  # thousands of trials, for every proposal
        self.options = np.array([len(list(p.values())) if isinstance(p, Choice | Fixed) else 0 for p in space.values()])
        """(parameters,): how many options a choice has, 0 for a range."""
        self._endless = np.array([isinstance(p, Float | Int) and p.size is None for p in space.values()])
        edges = [_edges(p) for p in space.values()]
        self.low, self.high = np.array(edges).reshape(-1, 2).T
        """(parameters,): what rounds to the ends of a range; half a step beyond them."""
        index = {name: column for column, name in enumerate(space)}
        self._conditions = [
            [
                (index[parent], [_place(space[parent], each) for each in wanted])
                for parent, wanted in p.conditions.items()
            ]
            for p in space.values()
        ]

    def __len__(self) -> int:
        return len(self._space)

    def place(self, chosen: Mapping[str, Any]) -> Array:
        """(parameters,): where a configuration is, given as Optuna keeps it."""
        key = (*chosen.items(), *map(type, chosen.values()))  # 1 is not True
        if key not in self._placed:
            params = params_of(self._space, chosen)
            places = (_place(p, params[name]) if name in params else np.nan for name, p in self._space.items())
            self._placed[key] = np.array(list(places))
        return self._placed[key]

    def params(self, place: Array) -> dict[str, Any]:
        """The configuration at a place."""
        found = zip(self._space.items(), place, strict=True)
        return {name: _value(parameter, float(at)) for (name, parameter), at in found if not math.isnan(at)}

    def settle(self, places: Array) -> Array:
        """(n, parameters): places rounded to values that exist, and NaN where a parameter is not active."""
        settled = places.copy()
        for column, (parameter, conditions) in enumerate(zip(self._space.values(), self._conditions, strict=True)):
            if not isinstance(parameter, Choice | Fixed):
                settled[:, column] = _rounded(parameter, places[:, column])
            for parent, wanted in conditions:
                settled[~np.isin(settled[:, parent], wanted), column] = np.nan
        return settled

    def cells(self, places: Array) -> Array:
        """(n, parameters): the same for places that differ by less than a hundredth of a range without steps."""
        return np.asarray(np.where(self._endless, np.round(places, 2), places) + 0.0)  # not the zero below 0

    def uniform(self, rng: np.random.Generator, size: int) -> Array:
        """(size, parameters): places drawn at random, not settled."""
        drawn = rng.random((size, len(self)))
        ranges = self.low + drawn * (self.high - self.low)
        return np.asarray(np.where(self.options > 0, np.floor(drawn * self.options), ranges))


@lru_cache(maxsize=8)
def axes_of(space: Space) -> Axes:
    """The axes of a space, with the places that are known already."""
    return Axes(space)


def _edges(parameter: Parameter) -> tuple[float, float]:
    """From where to where places round to a range's values."""
    if not isinstance(parameter, Float | Int) or parameter.low == parameter.last or (size := parameter.size) is None:
        return 0.0, 1.0
    if parameter.log:
        return _share(parameter, parameter.low - 0.5), _share(parameter, parameter.last + 0.5)
    return -0.5 / (size - 1), 1 + 0.5 / (size - 1)


def _place(parameter: Parameter, value: Any) -> float:
    if not isinstance(parameter, Float | Int):
        return float(next(i for i, option in enumerate(parameter.values()) if parameter.equals(value, option)))
    return float(_rounded(parameter, np.array(_share(parameter, value))))


def _share(parameter: Float | Int, value: float) -> float:
    """How far into a range a value is, on its scale."""
    if parameter.low == parameter.last:
        return 0.0
    if parameter.log:
        return math.log(value / parameter.low) / math.log(parameter.last / parameter.low)
    return (value - parameter.low) / (parameter.last - parameter.low)


def _rounded(parameter: Parameter, share: Array) -> Array:
    """The same place for what is the same value."""
    if not isinstance(parameter, Float | Int) or parameter.size is None:
        return np.asarray(np.clip(share, 0.0, 1.0))
    if parameter.size == 1:
        return np.zeros_like(share)
    if parameter.log:
        ratio = parameter.last / parameter.low
        whole = np.clip(np.rint(parameter.low * ratio**share), parameter.low, parameter.last)
        return np.asarray(np.log(whole / parameter.low) / math.log(ratio))
    steps = parameter.size - 1
    return np.asarray(np.clip(np.rint(share * steps), 0, steps) / steps + 0.0)  # not the zero below 0


def _value(parameter: Parameter, place: float) -> Any:
    if not isinstance(parameter, Float | Int):
        return list(parameter.values())[int(place)]
    if parameter.low == parameter.last:
        return parameter.low
    if parameter.log:
        return snapped(parameter, parameter.low * (parameter.last / parameter.low) ** place)
    return snapped(parameter, parameter.low + place * (parameter.last - parameter.low))
