"""Search spaces: typed, conditional parameters as plain data.

A `Space` maps names to `Float`, `Int` and `Choice` parameters. It knows nothing of the libraries that sample it; they
are compiled to by walking it, parents before the parameters they switch on:

    >>> space = Space({
    ...     "lr": Float(1e-4, 0.1, log=True),
    ...     "optimizer": Choice(["sgd", "adamw"]),
    ...     "momentum": Float(0, 0.99, when={"optimizer": "sgd"}),
    ... })
    >>> space.is_active("momentum", {"lr": 0.01, "optimizer": "adamw"})
    False

A space is extended by `Space({**space, "depth": Int(1, 8)})`, and a parameter narrowed by `dataclasses.replace`.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, MISSING, dataclass, fields
from fractions import Fraction
from types import MappingProxyType
from typing import Any, ClassVar, Self, TypeAlias, cast

from orchestrator.errors import SpaceError
from orchestrator.naming import closest

Value: TypeAlias = bool | int | float | str | None
"""What a parameter can be in one configuration: plain values, which JSON, YAML, Optuna and W&B all keep."""


class _When(Mapping[str, tuple[Value, ...]]):
    """A parameter's conditions, hashable: parent's name -> the values that switch the parameter on."""

    __slots__ = ("_wanted",)

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._wanted: dict[str, tuple[Value, ...]] = {
            name: tuple(given[name]) if isinstance(given[name], list | tuple) else (given[name],)
            for name in sorted(given, key=str)
        }

    def __getitem__(self, name: str) -> tuple[Value, ...]:
        return self._wanted[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._wanted)

    def __len__(self) -> int:
        return len(self._wanted)

    def __hash__(self) -> int:
        return hash(tuple(self._wanted.items()))

    def __repr__(self) -> str:
        return repr(self.to_data())

    def to_data(self) -> dict[str, Any]:
        """As it is written by hand: a value where there is one, a list where there are more."""
        return {name: wanted[0] if len(wanted) == 1 else list(wanted) for name, wanted in self.items()}


class _Parameter(ABC):
    """What every parameter can do. One that breaks a rule can be made; the `Space` it is put in reports it."""

    kind: ClassVar[str]
    when: Mapping[str, Any] | None

    @property
    def conditions(self) -> Mapping[str, tuple[Value, ...]]:
        """Every parent's name, with the values of it that this parameter is active for; empty if it always is."""
        return self.when if isinstance(self.when, _When) else {}

    def equals(self, value: object, wanted: Value) -> bool:
        """Whether `value` is this parameter's value `wanted`; True is not 1."""
        return _same(value, wanted)

    @property
    @abstractmethod
    def size(self) -> int | None:
        """How many values it can take; None if they are endless."""

    @abstractmethod
    def values(self) -> Iterator[Value]:
        """Every value it can take, in order. Only for a parameter whose `size` is not None."""

    @abstractmethod
    def problems(self) -> list[str]:
        """The rules it breaks by itself, each a phrase that its name goes in front of."""

    @abstractmethod
    def objection(self, value: object) -> str | None:
        """Why it cannot be `value`, a phrase that the value goes in front of; None if it can."""

    @abstractmethod
    def to_wandb(self) -> dict[str, Any]:
        """Its entry under `parameters` in a W&B sweep (https://docs.wandb.ai/models/sweeps/sweep-config-keys)."""

    @abstractmethod
    def describe(self) -> str:
        """What it ranges over, in a few words; its conditions are not part of it."""


class _Range(_Parameter):
    """A parameter between two bounds, both included."""

    low: float
    high: float
    log: bool
    step: float | None
    _no_step: ClassVar[int | None]  # the `step` of a range that was given none
    _noun: ClassVar[str]
    _example: ClassVar[float]

    @abstractmethod
    def _is_number(self, value: object) -> bool: ...

    @abstractmethod
    def _contains(self, value: Any) -> bool: ...

    @abstractmethod
    def _distribution(self) -> dict[str, Any]: ...

    def problems(self) -> list[str]:
        numbers = {"low": self.low, "high": self.high}
        if not _same(self.step, self._no_step):
            numbers["step"] = cast(float, self.step)
        found = [
            f"has {key} {value!r}, which is not {self._noun}; write one such as {self._example}"
            for key, value in numbers.items()
            if not self._is_number(value)
        ]
        if not isinstance(self.log, bool):
            found.append(f"has log {self.log!r}, which is neither true nor false; write one of them")
        return found or self._contradictions()

    def _contradictions(self) -> list[str]:
        # The rules are Optuna's, https://optuna.readthedocs.io/en/stable/reference/generated/optuna.trial.Trial.html
        found = []
        if self.low > self.high:
            found.append(f"has low {_text(self.low)} above high {_text(self.high)}; swap them")
        if self.step is not None and self.step <= 0:
            found.append(f"has step {_text(self.step)}; give a step above 0, or leave it out")
        if self.log and self.low <= 0:
            found.append(f"is on a log scale, which needs a low above 0, not {_text(self.low)}; raise low or drop log")
        if self.log and self.step != self._no_step:
            found.append(f"is on a log scale, which takes no step, but has step {_text(self.step)}; drop log or step")
        return found

    def objection(self, value: object) -> str | None:
        if self._is_number(value) and self._contains(value):
            return None
        steps = "" if self.step == self._no_step else f" in steps of {_text(self.step)}"
        return f"is not {self._noun} from {_text(self.low)} to {_text(self.high)}{steps}"

    def to_wandb(self) -> dict[str, Any]:
        if self.low == self.high:
            return {"value": self.low}  # W&B wants min below max
        return {"min": self.low, "max": self.high, **self._distribution()}

    def describe(self) -> str:
        step = "" if self.step == self._no_step else f", step {_text(self.step)}"
        return f"{_text(self.low)} to {_text(self.high)}{step}{', log' if self.log else ''}"


@dataclass(frozen=True)
class Float(_Range):
    """A real number from `low` to `high`.

    Numbers may be given as text, because YAML 1.1 reads `1e-4`, which has no dot, as text
    (https://github.com/yaml/pyyaml/issues/173).

    Attributes:
        low: the least value.
        high: the greatest value; with a step, the greatest is the last step that is not above it.
        log: whether to search on a log scale; needs `low` above 0 and no step.
        step: the distance between values, counted from `low`; None for every number in between.
        when: other parameters' names, each with the value or list of values that it must have for this one to be
            active.
    """

    low: float
    high: float
    _: KW_ONLY
    log: bool = False
    step: float | None = None
    when: Mapping[str, Any] | None = None

    kind: ClassVar[str] = "float"
    _no_step: ClassVar[int | None] = None
    _noun: ClassVar[str] = "a finite number"
    _example: ClassVar[float] = 0.1

    def __post_init__(self) -> None:
        _settle(self, low=_float(self.low), high=_float(self.high), step=_float(self.step), when=_when(self.when))

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
        return float(_exact(self.low) + (cast(int, self.size) - 1) * _exact(self.step))

    def values(self) -> Iterator[float]:
        """Every value it can take, in order, as the decimals one would write: 0.3, not 0.30000000000000004."""
        step = _exact(self.step or 0)
        return (float(_exact(self.low) + index * step) for index in range(cast(int, self.size)))

    def equals(self, value: object, wanted: Value) -> bool:
        """Whether `value` is `wanted`, up to rounding: a sampler's third step of 0.1 is 0.30000000000000004."""
        slack = 1e-9 * (self.step or 0)
        return self._is_number(value) and math.isclose(cast(float, value), cast(float, wanted), abs_tol=slack)

    def _is_number(self, value: object) -> bool:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and abs(cast(float, value)) <= sys.float_info.max

    def _contains(self, value: float) -> bool:
        if not self.low <= value <= self.high or self.step is None:
            return self.low <= value <= self.high
        steps = (_exact(value) - _exact(self.low)) / _exact(self.step)
        return abs(steps - round(steps)) < 1e-8  # the slack that Optuna's FloatDistribution gives

    def _distribution(self) -> dict[str, Any]:
        if self.log:
            return {"distribution": "log_uniform_values"}
        if self.step is None:
            return {"distribution": "uniform"}
        # W&B rounds to multiples of q, so it cannot express steps counted from a low that is not one.
        return {"distribution": "q_uniform", "q": self.step}


@dataclass(frozen=True)
class Int(_Range):
    """A whole number from `low` to `high`.

    Numbers may be given as text or as a float that is whole, as YAML reads `1e3` and `16.0`.

    Attributes:
        low: the least value.
        high: the greatest value; with a step, the greatest is the last step that is not above it.
        log: whether to search on a log scale; needs `low` above 0 and a step of 1.
        step: the distance between values, counted from `low`.
        when: other parameters' names, each with the value or list of values that it must have for this one to be
            active.
    """

    low: int
    high: int
    _: KW_ONLY
    log: bool = False
    step: int = 1
    when: Mapping[str, Any] | None = None

    kind: ClassVar[str] = "int"
    _no_step: ClassVar[int | None] = 1
    _noun: ClassVar[str] = "a whole number"
    _example: ClassVar[float] = 8

    def __post_init__(self) -> None:
        _settle(self, low=_int(self.low), high=_int(self.high), step=_int(self.step), when=_when(self.when))

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

    def describe(self) -> str:
        """What it ranges over, in a few words; its conditions are not part of it."""
        return f"{super().describe()}, whole"

    def _is_number(self, value: object) -> bool:
        return isinstance(value, int) and not isinstance(value, bool)

    def _contains(self, value: int) -> bool:
        return value in range(self.low, self.high + 1, self.step)

    def _distribution(self) -> dict[str, Any]:
        if self.log:
            return {"distribution": "q_log_uniform_values", "q": 1}  # W&B has no log distribution of integers
        if self.step == 1:
            return {"distribution": "int_uniform"}
        # W&B rounds to multiples of q, so it cannot express steps counted from a low that is not one.
        return {"distribution": "q_uniform", "q": self.step}


@dataclass(frozen=True)
class Choice(_Parameter):
    """One of a list of values, with no order among them; a choice of one is a constant.

    Attributes:
        options: the values, each None, a bool, an int, a finite float or a str.
        when: other parameters' names, each with the value or list of values that it must have for this one to be
            active.
    """

    options: Sequence[Value]
    _: KW_ONLY
    when: Mapping[str, Any] | None = None

    kind: ClassVar[str] = "choice"

    def __post_init__(self) -> None:
        listed = isinstance(self.options, Sequence) and not isinstance(self.options, str | bytes)
        _settle(self, options=tuple(self.options) if listed else self.options, when=_when(self.when))

    @property
    def size(self) -> int:
        """How many values it can take."""
        return len(self.options)

    def values(self) -> Iterator[Value]:
        """Every value it can take, in order."""
        return iter(self.options)

    def problems(self) -> list[str]:
        """The rules it breaks by itself, each a phrase that its name goes in front of."""
        if not isinstance(self.options, tuple):
            return [f"has options {self.options!r}, which is not a list; write one such as [small, large]"]
        if not self.options:
            return ["has no options; give at least one"]
        found = []
        for index, option in enumerate(self.options):
            # Not `_same`: Optuna looks a value up by ==, so of True and 1 it would give back the first for either
            # (optuna.distributions.CategoricalDistribution.to_internal_repr says so).
            earlier = [other for other in self.options[:index] if other == option]
            if not _is_plain(option):
                found.append(
                    f"has option {option!r}, which is neither null, a bool, a finite number nor text; write text"
                )
            elif earlier and _same(earlier[0], option):
                found.append(f"has option {option!r} more than once; drop one")
            elif earlier:
                found.append(f"has options {earlier[0]!r} and {option!r}, which are equal to Optuna; drop one")
        return found

    def objection(self, value: object) -> str | None:
        """Why it cannot be `value`, a phrase that the value goes in front of; None if it can."""
        if any(_same(value, option) for option in self.options):
            return None
        return f"is not one of its options; {_hint(value, self.options)}"

    def to_wandb(self) -> dict[str, Any]:
        """Its entry under `parameters` in a W&B sweep (https://docs.wandb.ai/models/sweeps/sweep-config-keys)."""
        return {"values": list(self.options)}

    def describe(self) -> str:
        """What it ranges over, in a few words; its conditions are not part of it."""
        return ", ".join(map(_text, self.options))


Parameter: TypeAlias = Float | Int | Choice

_KINDS: dict[str, type[Float] | type[Int] | type[Choice]] = {each.kind: each for each in (Float, Int, Choice)}


@dataclass(frozen=True, eq=False, repr=False)
class Space(Mapping[str, Parameter]):
    """Names and their parameters, in an order where those that a condition is on come first, stable otherwise.

    A mapping, hashable, equal to any mapping of the same parameters whatever their order.

    Attributes:
        parameters: the parameters by name; names are identifiers, or several joined by dots (`optimizer.lr`).

    Raises:
        SpaceError: anything breaks a rule; carries every such problem.
    """

    parameters: Mapping[str, Parameter]

    def __post_init__(self) -> None:
        if not isinstance(self.parameters, Mapping):
            raise SpaceError(_not_a_mapping(self.parameters))
        if problems := _problems(self.parameters):
            raise SpaceError(problems)
        ordered, _ = _parents_first(self.parameters)
        _settle(self, parameters=MappingProxyType(ordered))

    def __getitem__(self, name: str) -> Parameter:
        return self.parameters[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.parameters)

    def __len__(self) -> int:
        return len(self.parameters)

    def __hash__(self) -> int:
        return hash(frozenset(self.items()))

    def __repr__(self) -> str:
        return f"Space({dict(self)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self),)  # a mapping proxy does not pickle

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Self:
        """The space that `data`, as YAML or JSON gives it, writes down: `{name: {type: float, low: 0, high: 1}}`.

        A parameter's `type` is float, int or choice, and may be left out beside `options`; its other keys are the
        attributes of `Float`, `Int` or `Choice`.

        Raises:
            SpaceError: anything is unknown, missing, of a wrong type or breaks a rule; carries every such problem.
        """
        if not isinstance(data, Mapping):
            raise SpaceError(_not_a_mapping(data))
        read = {name: _read(entry) for name, entry in data.items()}
        problems = [f"space: {name!r} {phrase}" for name, (_, phrases) in read.items() for phrase in phrases]
        parameters = {name: parameter for name, (parameter, _) in read.items() if parameter is not None}
        problems += _problems(parameters, unread=[name for name in read if name not in parameters])
        if problems:
            raise SpaceError(problems)
        return cls(parameters)

    def to_data(self) -> dict[str, dict[str, Any]]:
        """The plain data that `from_data` reads back to this space; defaults are left out."""
        return {
            name: {"type": parameter.kind}
            | {
                field.name: _unfrozen(getattr(parameter, field.name))
                for field in fields(parameter)
                if getattr(parameter, field.name) != field.default
            }
            for name, parameter in self.items()
        }

    @property
    def digest(self) -> str:
        """Twelve hex digits of the content, whatever the order of the parameters and the process."""
        canonical = json.dumps(self.to_data(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

    def is_active(self, name: str, params: Mapping[str, Any]) -> bool:
        """Whether parameter `name` takes part, given the values in `params` of those that its conditions are on.

        A condition on a parameter that is not in `params`, or not active itself, does not hold.

        Raises:
            KeyError: the space has no parameter `name`.
        """
        return all(
            parent in params
            and self.is_active(parent, params)
            and any(self[parent].equals(params[parent], value) for value in wanted)
            for parent, wanted in self[name].conditions.items()
        )

    def problems_with(self, params: Mapping[str, Any]) -> list[str]:
        """Everything that keeps `params` from being a configuration of this space, a sentence each.

        Whether a parameter should be there is not judged where one that its conditions are on is itself wrong.
        """
        found = [f"there is no parameter {name!r}; {_hint(name, self)}" for name in params if name not in self]
        unsettled: set[str] = set()
        for name, parameter in self.items():
            settled = unsettled.isdisjoint(parameter.conditions)
            active = self.is_active(name, params)
            objection = parameter.objection(params[name]) if name in params else None
            if settled and not active and name in params:
                found.append(f"{name!r} is only active {_condition_text(parameter)}; leave it out")
            elif objection is not None:
                found.append(f"{name!r} is {params[name]!r}, which {objection}")
            elif settled and active and name not in params:
                found.append(f"{name!r} is missing; give it a value: {parameter.describe()}")
            elif settled:
                continue
            unsettled.add(name)
        return found

    def to_wandb(self) -> dict[str, dict[str, Any]]:
        """`parameters` of a W&B sweep, under the same flat names (https://docs.wandb.ai/models/sweeps/sweep-config-keys).

        W&B cannot express conditions; a conditional parameter is there with its distribution.
        """
        return {name: parameter.to_wandb() for name, parameter in self.items()}

    @property
    def endless(self) -> list[str]:
        """The names of the parameters with endless values, which keep the space from having a grid."""
        return [name for name, parameter in self.items() if parameter.size is None]

    def grid(self) -> Iterator[dict[str, Any]]:
        """Every distinct configuration, each once; the last parameter changes fastest.

        Raises:
            SpaceError: the space is endless; carries a problem for every parameter that makes it so.
        """
        self._require_finite()
        return self._configurations(list(self), {})

    def grid_size(self) -> int:
        """How many configurations `grid` gives, counted without making them all.

        Raises:
            SpaceError: the space is endless; carries a problem for every parameter that makes it so.
        """
        self._require_finite()
        parents = {parent for parameter in self.values() for parent in parameter.conditions}
        others = [name for name in self if name not in parents]
        return sum(
            math.prod(cast(int, self[name].size) for name in others if self.is_active(name, given))
            for given in self._configurations([name for name in self if name in parents], {})
        )

    def _require_finite(self) -> None:
        if endless := self.endless:
            raise SpaceError(
                [
                    f"space: {name!r} has endless values from {self[name].describe()}, so there is no grid; "
                    "give it a step, or make it a choice"
                    for name in endless
                ]
            )

    def _configurations(self, names: Sequence[str], given: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if not names:
            yield given
        elif not self.is_active(names[0], given):
            yield from self._configurations(names[1:], given)
        else:
            for value in self[names[0]].values():
                yield from self._configurations(names[1:], {**given, names[0]: value})

    def rows(self) -> list[tuple[str, str]]:
        """A table's rows: every parameter's name, and what it ranges over and when, in a few words."""
        return [
            (name, ", ".join(filter(None, [parameter.describe(), _condition_text(parameter)])))
            for name, parameter in self.items()
        ]


def _problems(parameters: Mapping[str, Parameter], unread: Collection[str] = ()) -> list[str]:
    """Every rule that a space breaks; conditions on `unread` parameters, which could not be made, are not judged."""
    known = [*parameters, *unread]
    found = [
        f"space: {name!r} is not a name; use letters, digits and _, with dots between, such as 'optimizer.lr'"
        for name in known
        if not (isinstance(name, str) and all(part.isidentifier() for part in name.split(".")))
    ]
    sound: dict[str, Parameter] = {}
    for name, parameter in parameters.items():
        phrases = _own_problems(parameter)
        found += [f"space: {name!r} {phrase}" for phrase in phrases]
        if not phrases:
            sound[name] = parameter
    made = {name: parameter for name, parameter in parameters.items() if isinstance(parameter, Parameter)}
    for name, parameter in made.items():
        found += _condition_problems(name, parameter, known, sound)
    _, cycles = _parents_first(made)
    return found + [
        f"space: {cycle[0]!r} is active only if it is active itself ({' needs '.join(cycle)}); drop a condition"
        for cycle in cycles
    ]


def _own_problems(parameter: object) -> list[str]:
    if not isinstance(parameter, Parameter):
        return [f"is {parameter!r}, which is not a parameter; make it a Float, an Int or a Choice"]
    found = parameter.problems()
    if parameter.when is not None and not isinstance(parameter.when, _When):
        found.append(f"has when {parameter.when!r}, which is not a mapping; write one such as {{optimizer: sgd}}")
    return found


def _condition_problems(
    name: str, parameter: Parameter, known: Collection[str], sound: Mapping[str, Parameter]
) -> Iterator[str]:
    for parent, wanted in parameter.conditions.items():
        start = f"space: {name!r} is active when {parent!r} is"
        if parent not in known:
            hint = _hint(parent, [other for other in known if other != name])
            yield f"{start} {' or '.join(map(repr, wanted))}, but there is no parameter {parent!r}; {hint}"
        elif not wanted:
            yield f"space: {name!r} is active for no value of {parent!r}; name one, or drop the condition"
        elif parent in sound:
            objections = ((value, sound[parent].objection(value)) for value in wanted)
            yield from (f"{start} {value!r}, which {why}" for value, why in objections if why is not None)


def _parents_first(parameters: Mapping[str, Parameter]) -> tuple[dict[str, Parameter], list[list[str]]]:
    """The parameters, each after those its conditions are on, and the cycles (a, b, a) that kept any out."""
    ordered: dict[str, Parameter] = {}
    cycles = []
    waiting = dict(parameters)
    while waiting:
        free = [name for name, each in waiting.items() if waiting.keys().isdisjoint(each.conditions)]
        if free:
            ordered[free[0]] = waiting.pop(free[0])
            continue
        path = [next(iter(waiting))]
        while path.count(path[-1]) == 1:
            path.append(next(parent for parent in waiting[path[-1]].conditions if parent in waiting))
        cycles.append(path[path.index(path[-1]) :])
        for name in cycles[-1][1:]:
            del waiting[name]
    return ordered, cycles


def _read(entry: object) -> tuple[Parameter | None, list[str]]:
    """The parameter that `entry` writes down, None if it cannot be made, and the mistakes in its keys as phrases."""
    example = "write one such as {type: float, low: 0.0, high: 1.0}"
    if not isinstance(entry, Mapping):
        return None, [f"is {entry!r}, which is not a mapping; {example}"]
    kind = entry.get("type", Choice.kind if "options" in entry else None)
    if kind is None:
        return None, [f"has no type; add one of {', '.join(_KINDS)}"]
    if not isinstance(kind, str) or kind not in _KINDS:
        return None, [f"has type {kind!r}, which there is none of; {_hint(kind, _KINDS)}"]
    required = {field.name: field.default is MISSING for field in fields(_KINDS[kind])}
    given = {key: value for key, value in entry.items() if key in required}
    missing = [key for key in required if required[key] and key not in given]
    phrases = [
        f"has a key {key!r}, which a parameter of type {kind} does not take; {_hint(key, required)}"
        for key in entry
        if key != "type" and key not in required
    ]
    phrases += [f"has no {key}, which a parameter of type {kind} needs; add it" for key in missing]
    return (None if missing else _KINDS[kind](**given)), phrases


def _settle(frozen: object, **attributes: object) -> None:
    """Set attributes of a frozen dataclass that is still being made."""
    for name, value in attributes.items():
        object.__setattr__(frozen, name, value)


def _float(value: Any) -> Any:
    """The float that a number or its text says; anything else as it is, for the space to report."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return value
    try:
        return float(value)
    except (ValueError, OverflowError):
        return value


def _int(value: Any) -> Any:
    """The int that a whole number or its text says; anything else as it is, for the space to report."""
    number = _float(value)
    if isinstance(value, int) or not isinstance(number, float) or not number.is_integer():
        return value
    try:
        return int(value)
    except ValueError:
        return int(number)


def _when(given: Any) -> Any:
    """Conditions made hashable, None for none; anything else as it is, for the space to report."""
    return (_When(given) if given else None) if isinstance(given, Mapping) else given


def _unfrozen(value: Any) -> Any:
    if isinstance(value, _When):
        return value.to_data()
    return list(value) if isinstance(value, tuple) else value


def _exact(number: float) -> Fraction:
    """A number as it is written, so that 0.1 is a tenth and steps of it add up."""
    return Fraction(str(number))


def _same(one: object, other: object) -> bool:
    """Equal, and True is not 1."""
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value))


def _text(value: object) -> str:
    """A value as a person writes it: 0 for 0.0."""
    return str(value).removesuffix(".0") if isinstance(value, float) else str(value)


def _condition_text(parameter: Parameter) -> str:
    conditions = [f"{parent} is {' or '.join(map(_text, wanted))}" for parent, wanted in parameter.conditions.items()]
    return f"when {' and '.join(conditions)}" if conditions else ""


def _hint(wrong: object, right: Collection[object]) -> str:
    """The near miss among `right`, whatever its case, or all of them."""
    shown = {str(each): repr(each) for each in right}
    close = closest(str(wrong), shown)
    return f"available: {', '.join(shown.values()) or 'none'}" if close is None else f"did you mean {shown[close]}?"


def _not_a_mapping(given: object) -> str:
    return f"space: a space maps names to parameters, and {given!r} is no mapping; write 'lr: {{type: float, ...}}'"
