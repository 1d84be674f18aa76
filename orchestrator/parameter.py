"""Parameters: a float, an int, a choice or a fixed value; with conditions, a default and a prior; plain data."""

from __future__ import annotations

import math
import random
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, fields, replace
from enum import Enum
from fractions import Fraction
from typing import Any, ClassVar, Final, Self, TypeAlias, cast

from orchestrator.naming import hint
from orchestrator.plain import Frozen, FrozenMapping, Value, encoded, freeze, is_plain, same, settle, text, thaw
from orchestrator.prior import RangePrior, draw_log, read_prior


class _Unset(Enum):
    UNSET = "unset"

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final = _Unset.UNSET
"""No default: None can be a value."""


class Conditions(FrozenMapping):
    """A parameter's conditions, hashable: parent's name -> the values that switch the parameter on."""

    __slots__ = ()

    def __init__(self, given: Mapping[str, Any]) -> None:
        super().__init__(
            {
                name: tuple(map(freeze, given[name]))
                if isinstance(given[name], list | tuple)
                else (freeze(given[name]),)
                for name in sorted(given, key=str)
            }
        )

    def __repr__(self) -> str:
        return repr(self.to_data())

    def to_data(self) -> dict[str, Any]:
        """As it is written by hand: a value where there is one, a list where there are more."""
        return {
            name: thaw(wanted if len(wanted) != 1 or isinstance(wanted[0], tuple) else wanted[0])
            for name, wanted in self.items()
        }


class _Parameter(ABC):
    """What every parameter can do. One that breaks a rule can be made; the `Space` it is put in reports it."""

    kind: ClassVar[str]
    when: Mapping[str, Any] | None

    def __repr__(self) -> str:
        positional, named = [], []
        for field in fields(self):  # type: ignore[arg-type]
            value = thaw(getattr(self, field.name))
            if not field.kw_only:
                positional.append(repr(value))
            elif getattr(self, field.name) != field.default:
                named.append(f"{field.name}={value!r}")
        return f"{type(self).__name__}({', '.join(positional + named)})"

    @property
    def conditions(self) -> Mapping[str, tuple[Frozen, ...]]:
        """Every parent's name, with the values of it that this parameter is active for; empty if it always is."""
        return self.when if isinstance(self.when, Conditions) else {}

    def to_data(self) -> dict[str, Any]:
        """The plain data that `read_parameter` reads back; what is as it would be without saying is left out."""
        data: dict[str, Any] = {"type": self.kind}
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if value != field.default:
                data[field.name] = value.to_data() if hasattr(value, "to_data") else thaw(value)
        return data

    def with_conditions(self, conditions: Mapping[str, Any]) -> Self:
        """The same parameter, active under other conditions."""
        return replace(self, when=conditions)  # type: ignore[type-var]

    def equals(self, value: object, wanted: Frozen) -> bool:
        """Whether `value` is this parameter's value `wanted`; True is not 1."""
        return same(value, wanted)

    @property
    def best_guess(self) -> Any:
        """Its default; UNSET where it has none."""
        return UNSET

    @property
    @abstractmethod
    def size(self) -> int | None:
        """How many values it can take; None if they are endless."""

    @abstractmethod
    def values(self) -> Iterator[Value]:
        """Every value it can take, in order. Only for a parameter whose `size` is not None."""

    @abstractmethod
    def draw(self, rng: random.Random) -> Value:
        """A value by its prior; without one all are as likely, on a log scale where it is on one."""

    @abstractmethod
    def problems(self) -> list[str]:
        """The rules it breaks by itself, each a phrase that its name goes in front of."""

    @abstractmethod
    def objection(self, value: object) -> str | None:
        """Why it cannot be `value`, a phrase that the value goes in front of; None if it can."""

    @abstractmethod
    def describe(self) -> str:
        """What it ranges over, in a few words; its conditions are not part of it."""

    def beyond(self, other: Parameter) -> str | None:
        """Why `other` can take values that this one cannot, a phrase; None if it takes none but this one's."""
        if other.size is None:
            return f"takes endless values, {other.describe()}"
        objections = ((value, self.objection(value)) for value in other.values())
        return next((f"can be {value!r}, which {why}" for value, why in objections if why is not None), None)

    def _default_problems(self) -> list[str]:
        if self.best_guess is UNSET or (why := self.objection(self.best_guess)) is None:
            return []
        return [f"has default {self.best_guess!r}, which {why}"]


class _Range(_Parameter):
    """A parameter between two bounds, both included."""

    low: float
    high: float
    log: bool
    step: float | None
    default: float | None
    prior: Any
    _no_step: ClassVar[int | None]  # the `step` of a range that was given none
    _noun: ClassVar[str]
    _example: ClassVar[float]

    @property
    @abstractmethod
    def last(self) -> float:
        """The greatest value it can take: `high`, or the last step that is not above it."""

    @property
    def best_guess(self) -> Any:
        """Its default; UNSET where it has none."""
        return UNSET if self.default is None else self.default

    @property
    def has_steps(self) -> bool:
        """Whether it was given a step."""
        return self.step != self._no_step

    @abstractmethod
    def _is_number(self, value: object) -> bool: ...

    @abstractmethod
    def _contains(self, value: Any) -> bool: ...

    def problems(self) -> list[str]:
        """The rules it breaks by itself, each a phrase that its name goes in front of."""
        numbers = {"low": self.low, "high": self.high}
        if not same(self.step, self._no_step):
            numbers["step"] = cast(float, self.step)
        found = [
            f"has {key} {value!r}, which is not {self._noun}; write one such as {self._example}"
            for key, value in numbers.items()
            if not self._is_number(value)
        ]
        if not isinstance(self.log, bool):
            found.append(f"has log {self.log!r}, which is neither true nor false; write one of them")
        if self.prior is not None and not isinstance(self.prior, RangePrior):
            bell = "{centre: 0.01, spread: 3} (a factor)" if self.log else "{centre: 0.1, spread: 0.05}"
            found.append(f"has prior {thaw(self.prior)!r}; write {bell}, {{alpha: 2, beta: 5}} or log")
        return found or self._contradictions()

    def _contradictions(self) -> list[str]:
        # The rules are Optuna's, https://optuna.readthedocs.io/en/stable/reference/generated/optuna.trial.Trial.html
        found = []
        if self.low > self.high:
            found.append(f"has low {text(self.low)} above high {text(self.high)}; swap them")
        if self.step is not None and self.step <= 0:
            found.append(f"has step {text(self.step)}; give a step above 0, or leave it out")
        if self.log and self.low <= 0:
            found.append(f"is on a log scale, which needs a low above 0, not {text(self.low)}; raise low or drop log")
        if self.log and self.has_steps:
            found.append(f"is on a log scale, which takes no step, but has step {text(self.step)}; drop log or step")
        if found:
            return found
        beliefs = self.prior.problems(self.low, self.high, self.log) if self.prior is not None else []
        return self._default_problems() + beliefs

    def objection(self, value: object) -> str | None:
        """Why it cannot be `value`, a phrase that the value goes in front of; None if it can."""
        if self._is_number(value) and self._contains(value):
            return None
        steps = f" in steps of {text(self.step)}" if self.has_steps else ""
        return f"is not {self._noun} from {text(self.low)} to {text(self.high)}{steps}"

    def beyond(self, other: Parameter) -> str | None:
        """Why `other` can take values that this one cannot, a phrase; None if it takes none but this one's."""
        if not isinstance(other, _Range):
            return super().beyond(other)
        for bound in (other.low, other.last):
            if (why := self.objection(bound)) is not None:
                return f"can be {text(bound)}, which {why}"
        if other.low == other.high or not self.has_steps:
            return None
        if other.step is None or (_exact(other.step) / _exact(cast(float, self.step))).denominator != 1:
            return f"takes values between those of {self.describe()}"
        return None

    def describe(self) -> str:
        """What it ranges over, in a few words; its conditions are not part of it."""
        step = f", step {text(self.step)}" if self.has_steps else ""
        return f"{text(self.low)} to {text(self.high)}{step}{', log' if self.log else ''}{self._beliefs()}"

    def _beliefs(self) -> str:
        prior = f", believed {self.prior.describe()}" if isinstance(self.prior, RangePrior) else ""
        return prior + ("" if self.default is None else f", first {text(self.default)}")


@dataclass(frozen=True, repr=False)
class Float(_Range):
    """A real number from `low` to `high`.

    Numbers may be given as text, because YAML 1.1 reads `1e-4`, which has no dot, as text
    (https://github.com/yaml/pyyaml/issues/173).

    Attributes:
        low: the least value.
        high: the greatest value; with a step, the greatest is the last step that is not above it.
        log: whether to search on a log scale; needs `low` above 0 and no step.
        step: the distance between values, counted from `low`; None for every number in between.
        default: the value tried first; None for no opinion.
        prior: where good values are believed to be, a `Normal`, a `Beta`, a `LogUniform`, or their plain data.
        when: other parameters' names, each with the value or list of values that it must have for this one to be
            active.
    """

    low: float
    high: float
    _: KW_ONLY
    log: bool = False
    step: float | None = None
    default: float | None = None
    prior: RangePrior | Mapping[str, Any] | str | None = None
    when: Mapping[str, Any] | None = None

    kind: ClassVar[str] = "float"
    _no_step: ClassVar[int | None] = None
    _noun: ClassVar[str] = "a finite number"
    _example: ClassVar[float] = 0.1

    def __post_init__(self) -> None:
        given = {name: as_float(getattr(self, name)) for name in ("low", "high", "step", "default")}
        settle(self, **given, prior=freeze(read_prior(self.prior)), when=_when(self.when))

    @property
    def size(self) -> int | None:
        """How many values it can take; None if they are endless, which they are without a step."""
        if self.low == self.high:
            return 1
        if self.step is None:
            return None
        return math.floor((_exact(self.high) - _exact(self.low)) / _exact(self.step)) + 1

    @property
    def last(self) -> float:
        """The greatest value it can take: `high`, or the last step that is not above it."""
        if self.step is None or self.low == self.high:
            return self.high
        return self._at(cast(int, self.size) - 1)

    def values(self) -> Iterator[float]:
        """Every value it can take, in order, as the decimals one would write: 0.3, not 0.30000000000000004."""
        return map(self._at, range(cast(int, self.size)))

    def draw(self, rng: random.Random) -> float:
        """A value by its prior; without one all are as likely, on a log scale where it is on one."""
        if self.size is not None and self.prior is None:
            return self._at(rng.randrange(self.size))
        drawn = _draw(rng, self.low, self.high, self.log, self.prior)
        if self.size is None:
            return drawn
        nearest = round((drawn - self.low) / self.step) if self.step else 0
        return self._at(min(nearest, self.size - 1))

    def equals(self, value: object, wanted: Frozen) -> bool:
        """Whether `value` is `wanted`, up to rounding: a sampler's third step of 0.1 is 0.30000000000000004."""
        slack = 1e-9 * (self.step or 0)
        return self._is_number(value) and math.isclose(cast(float, value), wanted, abs_tol=slack)

    def _at(self, index: int) -> float:
        return float(_exact(self.low) + index * _exact(self.step or 0))

    def _is_number(self, value: object) -> bool:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and abs(cast(float, value)) <= sys.float_info.max

    def _contains(self, value: float) -> bool:
        if not self.low <= value <= self.high or self.step is None:
            return self.low <= value <= self.high
        steps = (_exact(value) - _exact(self.low)) / _exact(self.step)
        return abs(steps - round(steps)) < 1e-8  # the slack that Optuna's FloatDistribution gives


@dataclass(frozen=True, repr=False)
class Int(_Range):
    """A whole number from `low` to `high`.

    Numbers may be given as text or as a float that is whole, as YAML reads `1e3` and `16.0`.

    Attributes:
        low: the least value.
        high: the greatest value; with a step, the greatest is the last step that is not above it.
        log: whether to search on a log scale; needs `low` above 0 and a step of 1.
        step: the distance between values, counted from `low`.
        default: the value tried first; None for no opinion.
        prior: where good values are believed to be, a `Normal`, a `Beta`, a `LogUniform`, or their plain data.
        when: other parameters' names, each with the value or list of values that it must have for this one to be
            active.
    """

    low: int
    high: int
    _: KW_ONLY
    log: bool = False
    step: int = 1
    default: int | None = None
    prior: RangePrior | Mapping[str, Any] | str | None = None
    when: Mapping[str, Any] | None = None

    kind: ClassVar[str] = "int"
    _no_step: ClassVar[int | None] = 1
    _noun: ClassVar[str] = "a whole number"
    _example: ClassVar[float] = 8

    def __post_init__(self) -> None:
        given = {name: as_int(getattr(self, name)) for name in ("low", "high", "step", "default")}
        settle(self, **given, prior=freeze(read_prior(self.prior)), when=_when(self.when))

    @property
    def size(self) -> int:
        """How many values it can take."""
        return (self.high - self.low) // self.step + 1

    @property
    def last(self) -> int:
        """The greatest value it can take: `high`, or the last step that is not above it."""
        return self.low + (self.size - 1) * self.step

    def values(self) -> Iterator[int]:
        """Every value it can take, in order."""
        return iter(range(self.low, self.high + 1, self.step))

    def draw(self, rng: random.Random) -> int:
        """A value by its prior; without one all are as likely, on a log scale where it is on one."""
        if self.prior is None and not self.log:
            return self.low + self.step * rng.randrange(self.size)
        # Half a step more at either end, as Optuna does, or the bounds would be half as likely as they should be.
        half = self.step / 2
        low, high = (self.low - half, self.high + half) if self.prior is None else (self.low, self.high)
        nearest = round((_draw(rng, low, high, self.log, self.prior) - self.low) / self.step)
        return self.low + self.step * min(max(nearest, 0), self.size - 1)

    def describe(self) -> str:
        """What it ranges over, in a few words; its conditions are not part of it."""
        words = replace(self, prior=None, default=None)
        return f"{super(Int, words).describe()}, whole{self._beliefs()}"

    def _is_number(self, value: object) -> bool:
        return isinstance(value, int) and not isinstance(value, bool)

    def _contains(self, value: int) -> bool:
        return value in range(self.low, self.high + 1, self.step)


@dataclass(frozen=True, repr=False)
class Choice(_Parameter):
    """One of a list of values, with no order among them.

    Each option of a choice may bring parameters of its own, by a mapping from option to these: `Choice({"sgd":
    {"momentum": Float(0, 0.99)}, "adamw": {}})`. A space takes them in beside the choice, each active when the choice
    is that option; one that several options bring alike is active for all of them.

    Attributes:
        options: the values, each None, a bool, an int, a finite float, text, or a list or mapping of such; or a mapping
            from value to the parameters that it brings.
        default: the value tried first; UNSET for no opinion.
        prior: how likely each option is believed to be the best, a weight an option in their order; scaled to sum 1.
        when: other parameters' names, each with the value or list of values that it must have for this one to be
            active.
    """

    options: Sequence[Any] | Mapping[Any, Any]
    _: KW_ONLY
    default: Any = UNSET
    prior: Sequence[float] | Mapping[Any, float] | None = None
    when: Mapping[str, Any] | None = None

    kind: ClassVar[str] = "choice"

    def __post_init__(self) -> None:
        listed = isinstance(self.options, Sequence | Mapping) and not isinstance(self.options, str | bytes)
        if listed and not isinstance(self.options, Mapping):
            settle(self, options=tuple(map(freeze, self.options)))
        elif listed:
            settle(self, options=FrozenMapping(cast(Mapping[Any, Any], self.options)))
        settle(self, default=freeze(self.default), prior=self._weights(), when=_when(self.when))

    def _weights(self) -> Any:
        """The prior as shares in the order of the options; as it is where that cannot be, for the space to report."""
        given: Any = self.prior
        if isinstance(given, Mapping) and set(given) == set(self.options):
            given = [given[option] for option in self.options]
        if not isinstance(given, list | tuple) or not given:
            return freeze(given)
        weights = [as_float(weight) for weight in given]
        total = math.fsum(weights) if all(isinstance(weight, float) for weight in weights) else 0.0
        if not math.isfinite(total) or total <= 0 or math.isclose(total, 1):
            return tuple(weights)
        return tuple(weight / total for weight in weights)

    @property
    def best_guess(self) -> Any:
        """Its default; UNSET where it has none."""
        return thaw(self.default)

    @property
    def size(self) -> int:
        """How many values it can take."""
        return len(self.options)

    def values(self) -> Iterator[Value]:
        """Every value it can take, in order."""
        return map(thaw, self.options)

    def draw(self, rng: random.Random) -> Value:
        """An option by its prior; without one all are as likely."""
        weights = None if self.prior is None else list(cast(Sequence[float], self.prior))
        return cast(Value, thaw(rng.choices(list(self.options), weights)[0]))

    def problems(self) -> list[str]:
        """The rules it breaks by itself, each a phrase that its name goes in front of."""
        if not isinstance(self.options, tuple | FrozenMapping):
            return [f"has options {self.options!r}, which is not a list; write one such as [small, large]"]
        if not self.options:
            return ["has no options; give at least one"]
        found = []
        options = tuple(self.options)
        for index, option in enumerate(options):
            if not is_plain(option):
                found.append(
                    f"has option {thaw(option)!r}, which is neither null, a bool, a finite number nor text, nor a list "
                    "or mapping of such; write text"
                )
                continue
            # Not `same`: Optuna looks a value up by ==, so of True and 1 it would give back the first for either
            # (optuna.distributions.CategoricalDistribution.to_internal_repr says so).
            earlier = [each for each in options[:index] if is_plain(each) and _alike(each, option)]
            if earlier and same(earlier[0], option):
                found.append(f"has option {thaw(option)!r} more than once; drop one")
            elif earlier:
                alike = f"{thaw(earlier[0])!r} and {thaw(option)!r}"
                found.append(f"has options {alike}, which are equal to Optuna; drop one")
        return found or self._default_problems() + self._prior_problems()

    def _prior_problems(self) -> list[str]:
        if self.prior is None:
            return []
        sound = isinstance(self.prior, tuple) and len(self.prior) == len(self.options)
        numbers = sound and all(isinstance(share, float) and 0 <= share < math.inf for share in self.prior)
        if numbers and any(self.prior):
            return []
        return [
            f"has prior {thaw(self.prior)!r}; give each of its {len(self.options)} options a weight from 0, not all 0"
        ]

    def objection(self, value: object) -> str | None:
        """Why it cannot be `value`, a phrase that the value goes in front of; None if it can."""
        if any(same(value, option) for option in self.options):
            return None
        return f"is not one of its options; {hint(value, [thaw(option) for option in self.options])}"

    def describe(self) -> str:
        """What it ranges over, in a few words; its conditions are not part of it."""
        shares: Sequence[float] = cast(Sequence[float], self.prior or [0.0] * len(self.options))
        options = [
            f"{text(option)} ({share:.0%})" if self.prior else text(option)
            for option, share in zip(self.options, shares, strict=True)
        ]
        return ", ".join(options) + ("" if self.default is UNSET else f", first {text(self.default)}")


@dataclass(frozen=True, repr=False)
class Fixed(_Parameter):
    """One value, in every configuration in which the parameter is active.

    Attributes:
        value: None, a bool, an int, a finite float, text, or a list or mapping of such.
        when: other parameters' names, each with the value or list of values that it must have for this one to be
            active.
    """

    value: Any
    _: KW_ONLY
    when: Mapping[str, Any] | None = None

    kind: ClassVar[str] = "fixed"

    def __post_init__(self) -> None:
        settle(self, value=freeze(self.value), when=_when(self.when))

    @property
    def best_guess(self) -> Any:
        """Its value."""
        return thaw(self.value)

    @property
    def size(self) -> int:
        """One."""
        return 1

    def values(self) -> Iterator[Value]:
        """The one value."""
        return iter([thaw(self.value)])

    def draw(self, rng: random.Random) -> Value:
        """The one value."""
        return cast(Value, thaw(self.value))

    def problems(self) -> list[str]:
        """The rules it breaks by itself, each a phrase that its name goes in front of."""
        if is_plain(self.value):
            return []
        return [
            f"has value {thaw(self.value)!r}, which is no plain value; write null, a bool, a number, text or a list"
        ]

    def objection(self, value: object) -> str | None:
        """Why it cannot be `value`, a phrase that the value goes in front of; None if it can."""
        return None if same(value, self.value) else f"is not {thaw(self.value)!r}, at which it is fixed"

    def describe(self) -> str:
        """What it is, in a few words; its conditions are not part of it."""
        return f"fixed at {text(self.value)}"


Parameter: TypeAlias = Float | Int | Choice | Fixed


def condition_text(parameter: Parameter) -> str:
    """When it is active, in words; nothing where it always is."""
    conditions = [f"{parent} is {' or '.join(map(text, wanted))}" for parent, wanted in parameter.conditions.items()]
    return f"when {' and '.join(conditions)}" if conditions else ""


def describe(parameter: Parameter) -> str:
    """What a parameter ranges over and when it is active, in a few words."""
    return ", ".join(filter(None, [parameter.describe(), condition_text(parameter)]))


def as_float(value: Any) -> Any:
    """The float that a number or its text says; anything else as it is, for the space to report."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return value
    try:
        return float(value)
    except (ValueError, OverflowError):
        return value


def as_int(value: Any) -> Any:
    """The int that a whole number or its text says; anything else as it is, for the space to report."""
    number = as_float(value)
    if isinstance(value, int) or not isinstance(number, float) or not number.is_integer():
        return value
    try:
        return int(value)
    except ValueError:
        return int(number)


def _when(given: Any) -> Any:
    """Conditions made hashable, None for none; anything else as it is, for the space to report."""
    return (Conditions(given) if given else None) if isinstance(given, Mapping) else given


def _exact(number: float) -> Fraction:
    """A number as it is written, so that 0.1 is a tenth and steps of it add up."""
    return Fraction(str(number))


def _alike(one: Frozen, other: Frozen) -> bool:
    return same(one, other) or encoded(one) == encoded(other)


def _draw(rng: random.Random, low: float, high: float, log: bool, prior: Any) -> float:
    """A number in [low, high], by its prior where there is one."""
    if prior is not None:
        return cast(RangePrior, prior).draw(rng, low, high, log)
    if not log:
        return rng.uniform(low, high)
    return draw_log(rng, low, high)
