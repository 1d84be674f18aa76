"""Priors: where in a range the good values are believed to be, as plain data that can be drawn from.

A prior is a belief, not a bound: samplers begin by it and are free to leave it.
"""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from statistics import NormalDist
from typing import Any

from orchestrator.plain import settle, text

LOG = "log"


class RangePrior(ABC):
    """A belief about a number between two bounds."""

    def __post_init__(self) -> None:
        for field in fields(self):  # type: ignore[arg-type]
            given = getattr(self, field.name)
            settle(self, **{field.name: given if (number := _number(given)) is None else number})

    def problems(self, low: float, high: float, log: bool) -> list[str]:
        """The rules it breaks on that range, each a phrase that the parameter's name goes in front of."""
        return [
            f"has a prior of {name} {value!r}, which is not a finite number; write one such as 0.1"
            for name, value in ((field.name, getattr(self, field.name)) for field in fields(self))  # type: ignore[arg-type]
            if not isinstance(value, float)
        ] or self._contradictions(low, high, log)

    @abstractmethod
    def _contradictions(self, low: float, high: float, log: bool) -> list[str]: ...

    @abstractmethod
    def draw(self, rng: random.Random, low: float, high: float, log: bool) -> float:
        """A number in [low, high]."""

    @abstractmethod
    def describe(self) -> str:
        """What is believed, in a few words."""

    def to_data(self) -> Any:
        """The plain data that `read_prior` reads back."""
        return {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]


@dataclass(frozen=True)
class Normal(RangePrior):
    """A bell around a value, cut off at the range's bounds.

    Attributes:
        centre: the value believed best, within the range.
        spread: one standard deviation: a distance above 0, or on a log scale a factor above 1, so that
            `Normal(1e-3, 3)` puts two thirds of the belief between 1e-3 / 3 and 1e-3 * 3.
    """

    centre: float
    spread: float

    def _contradictions(self, low: float, high: float, log: bool) -> list[str]:
        found = []
        if not low <= self.centre <= high:
            found.append(
                f"has a prior around {text(self.centre)}, outside {text(low)} to {text(high)}; move one of them"
            )
        if log and self.spread <= 1:
            found.append(
                f"has a prior of spread {text(self.spread)}; on a log scale the spread is a factor: give one above 1"
            )
        elif self.spread <= 0:
            found.append(f"has a prior of spread {text(self.spread)}; give a distance above 0")
        return found

    def draw(self, rng: random.Random, low: float, high: float, log: bool) -> float:
        """A number in [low, high]."""
        scale = math.log if log else float
        bell = NormalDist(scale(self.centre), scale(self.spread))
        chance = rng.uniform(bell.cdf(scale(low)), bell.cdf(scale(high)))
        # inv_cdf takes no 0 and no 1, which a bound far from the centre comes to.
        drawn = bell.inv_cdf(min(max(chance, 1e-16), 1 - 1e-16))
        return min(max(math.exp(drawn) if log else drawn, low), high)

    def describe(self) -> str:
        """What is believed, in a few words."""
        return f"about {text(self.centre)}"


@dataclass(frozen=True)
class Beta(RangePrior):
    """A beta distribution stretched over the range, on a log scale where the range is on one.

    Attributes:
        alpha: above 0; the larger, the more is believed near the range's high end.
        beta: above 0; the larger, the more is believed near its low end.
    """

    alpha: float
    beta: float

    def _contradictions(self, low: float, high: float, log: bool) -> list[str]:
        return [
            f"has a prior of {name} {text(value)}; give a number above 0"
            for name, value in (("alpha", self.alpha), ("beta", self.beta))
            if value <= 0
        ]

    def draw(self, rng: random.Random, low: float, high: float, log: bool) -> float:
        """A number in [low, high]."""
        share = rng.betavariate(self.alpha, self.beta)
        if log:
            return min(max(low * math.exp(share * math.log(high / low)), low), high)
        return min(max(low + share * (high - low), low), high)

    def describe(self) -> str:
        """What is believed, in a few words."""
        return f"beta({text(self.alpha)}, {text(self.beta)})"


@dataclass(frozen=True)
class LogUniform(RangePrior):
    """Every factor as likely as any other, for a range that has steps and so no log scale: 8, 16, 24, ... 256."""

    def _contradictions(self, low: float, high: float, log: bool) -> list[str]:
        return [] if low > 0 else [f"has a prior on a log scale, which needs a low above 0, not {text(low)}; raise low"]

    def draw(self, rng: random.Random, low: float, high: float, log: bool) -> float:
        """A number in [low, high]."""
        return draw_log(rng, low, high)

    def describe(self) -> str:
        """What is believed, in a few words."""
        return "as on a log scale"

    def to_data(self) -> Any:
        """The plain data that `read_prior` reads back."""
        return LOG


def draw_log(rng: random.Random, low: float, high: float) -> float:
    """A number in [low, high], every factor as likely as any other."""
    return min(max(math.exp(rng.uniform(math.log(low), math.log(high))), low), high)


def read_prior(given: Any) -> Any:
    """The prior that plain data says, `{centre, spread}`, `{alpha, beta}` or `log`; anything else as it is."""
    if given == LOG:
        return LogUniform()
    for kind in (Normal, Beta):
        names = [field.name for field in fields(kind)]
        if isinstance(given, Mapping) and set(given) == set(names):
            return kind(**given)
    return given


def _number(given: Any) -> float | None:
    if isinstance(given, bool) or not isinstance(given, int | float | str):
        return None
    try:
        number = float(given)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
