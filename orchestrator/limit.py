"""A limit: a bound that one of a model's metrics has to keep."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

LIMIT = re.compile(r"\s*(\S.*?)\s*(<=|>=)\s*(\S+)\s*")


@dataclass(frozen=True, kw_only=True)
class Limit:
    """Such as `latency_ms <= 5`."""

    metric: str
    at_most: bool
    """Whether it is an upper one."""
    bound: float

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `latency_ms <= 5`.

        Raises:
            ValueError: it is none.
        """
        found = LIMIT.fullmatch(text)
        if found is None:
            raise ValueError(f"'{text}' is no limit")
        return cls(metric=found[1], at_most=found[2] == "<=", bound=float(found[3]))

    def __str__(self) -> str:
        return f"{self.metric} {'<=' if self.at_most else '>='} {self.bound:g}"

    def violation(self, value: float) -> float:
        """How far a value is beyond it, at most 0 where it keeps it, as Optuna counts."""
        return value - self.bound if self.at_most else self.bound - value
