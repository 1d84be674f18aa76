"""Search spaces: typed, conditional parameters and constraints between them, as plain data.

A `Space` maps names to `Float`, `Int`, `Choice` and `Fixed` parameters. It knows nothing of the libraries that sample
it; they are compiled to by walking it, parents before the parameters they switch on:

    >>> space = Space({
    ...     "lr": Float(1e-4, 0.1, log=True),
    ...     "optimizer": Choice(["sgd", "adamw"]),
    ...     "momentum": Float(0, 0.99, when={"optimizer": "sgd"}),
    ... })
    >>> space.is_active("momentum", {"lr": 0.01, "optimizer": "adamw"})
    False

One space is made of others, and knows of which (`origin`):

    >>> space.narrow({"lr": {"high": 0.01}}).fix({"optimizer": "adamw"}).nest("model")
    Space({'model.lr': Float(0.0001, 0.01, log=True), 'model.optimizer': Fixed('adamw')})
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Self, cast

from orchestrator.constraint import Constraint, as_constraint
from orchestrator.document import SECTIONS, flatten, not_a_mapping, read_entry, sections
from orchestrator.errors import SpaceError
from orchestrator.naming import hint, near_miss
from orchestrator.narrowing import narrowed_by
from orchestrator.parameter import UNSET, Choice, Fixed, Float, Int, Parameter, condition_text, describe
from orchestrator.plain import settle
from orchestrator.soundness import bad_names, constraint_problems, parents_first, problems
from orchestrator.subspace import expand

__all__ = ["Choice", "Fixed", "Float", "Int", "Parameter", "Space"]

MAX_DRAWS = 10_000
"""How often `Space.sample` draws before it gives up on the constraints."""


@dataclass(frozen=True, eq=False, repr=False, init=False)
class Space(Mapping[str, Parameter]):
    """Names and their parameters, in an order where those that a condition is on come first, stable otherwise.

    A mapping, hashable, equal to any space of the same parameters and constraints whatever their order, and without
    constraints to any mapping of the same parameters.

    Attributes:
        parameters: the parameters by name; names are identifiers, or several joined by dots (`optimizer.lr`).
        constraints: what has to hold between their values, such as "lr * batch_size <= 1".
        origin: what the space was made of, a line a step, oldest first. No part of what the space is: not compared.

    Raises:
        SpaceError: anything breaks a rule; carries every such problem.
    """

    parameters: Mapping[str, Parameter]
    constraints: tuple[Constraint, ...]
    origin: tuple[str, ...]

    def __init__(
        self,
        parameters: Mapping[str, Parameter],
        constraints: Iterable[str | Constraint] = (),
        *,
        origin: Iterable[str] = (),
    ) -> None:
        if not isinstance(parameters, Mapping):
            raise SpaceError(not_a_mapping(parameters))
        flat, brought, found = expand(parameters)
        found += problems(flat)
        between = tuple(dict.fromkeys([*map(as_constraint, constraints), *brought]))
        found = found or list(constraint_problems(between, flat))
        if found:
            raise SpaceError(found)
        ordered, _ = parents_first(flat)
        settle(self, parameters=MappingProxyType(ordered), constraints=between, origin=tuple(origin))

    def __getitem__(self, name: str) -> Parameter:
        return self.parameters[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.parameters)

    def __len__(self) -> int:
        return len(self.parameters)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mapping):
            return NotImplemented
        constraints = frozenset(other.constraints) if isinstance(other, Space) else frozenset()
        return dict(self) == dict(other) and frozenset(self.constraints) == constraints

    def __hash__(self) -> int:
        return hash((frozenset(self.items()), frozenset(self.constraints)))

    def __repr__(self) -> str:
        constraints = f", {list(map(str, self.constraints))!r}" if self.constraints else ""
        return f"Space({dict(self)!r}{constraints})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (type(self), dict(self), self.constraints, self.origin)  # a mapping proxy does not pickle

    # Plain data.

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Self:
        """The space that `data`, as YAML or JSON gives it, writes down: `{name: {type: float, low: 0, high: 1}}`.

        A parameter's `type` is float, int, choice or fixed, and may be left out beside `options` or `value`; its other
        keys are the attributes of its class. Groups may be nested, `{optimizer: {lr: {...}}}` for `optimizer.lr`. With
        constraints the parameters are under `parameters`, beside `constraints`, a list.

        Raises:
            SpaceError: anything is unknown, missing, of a wrong type or breaks a rule; carries every such problem.
        """
        if not isinstance(data, Mapping):
            raise SpaceError(not_a_mapping(data))
        given, constraints, found = sections(data)
        entries, clashes = flatten(given)
        read = {name: read_entry(entry) for name, entry in entries.items()}
        found += clashes
        parameters = {name: parameter for name, (parameter, _) in read.items() if parameter is not None}
        for name, (parameter, phrases) in read.items():
            meant = near_miss(str(name), [*map(str, parameters), *SECTIONS]) if parameter is None else ""
            found += [f"space: {name!r} {phrase}{meant if phrase is phrases[-1] else ''}" for phrase in phrases]
        if found:
            unread = [name for name in read if name not in parameters]
            flat, _, wrong = expand(parameters)
            raise SpaceError([*found, *wrong, *problems(flat, unread)])
        space = cls(parameters, constraints, origin=data.get("origin") or ())
        if "digest" in data and data.keys() & set(SECTIONS) and data["digest"] != space.digest:
            raise SpaceError(
                f"space: its digest is {space.digest}, not {data['digest']} as it says: it was changed since that was "
                "written; drop the digest if that was meant"
            )
        return space

    def to_data(self) -> dict[str, Any]:
        """The plain data that `from_data` reads back to this space; defaults are left out."""
        parameters = {name: parameter.to_data() for name, parameter in self.items()}
        if not self.constraints and not parameters.keys() & set(SECTIONS):
            return parameters
        return {"parameters": parameters} | (
            {"constraints": list(map(str, self.constraints))} if self.constraints else {}
        )

    @property
    def digest(self) -> str:
        """Twelve hex digits of the content, whatever the order of the parameters and the process."""
        data = self.to_data()
        if self.constraints:
            data["constraints"] = sorted(data["constraints"])
        canonical = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

    def rows(self) -> list[tuple[str, str]]:
        """A table's rows: every parameter's name, and what it ranges over and when; then the constraints."""
        rows = [(name, describe(parameter)) for name, parameter in self.items()]
        return rows + [("constraint", str(constraint)) for constraint in self.constraints]

    # Configurations.

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
        found = [f"there is no parameter {name!r}; {hint(name, list(self))}" for name in params if name not in self]
        unsettled: set[str] = set()
        for name, parameter in self.items():
            settled = unsettled.isdisjoint(parameter.conditions)
            active = self.is_active(name, params)
            objection = parameter.objection(params[name]) if name in params else None
            if settled and not active and name in params:
                found.append(f"{name!r} is only active {condition_text(parameter)}; leave it out")
            elif objection is not None:
                found.append(f"{name!r} is {params[name]!r}, which {objection}")
            elif settled and active and name not in params:
                found.append(f"{name!r} is missing; give it a value: {parameter.describe()}")
            elif settled:
                continue
            unsettled.add(name)
        if found:
            return found
        broken = zip(self.constraints, self.constraint_violations(params), strict=True)
        return [f"{str(constraint)!r} does not hold" for constraint, violation in broken if violation > 0]

    def constraint_violations(self, params: Mapping[str, Any]) -> list[float]:
        """How far `params` are from fulfilling each constraint, at most 0 where they do, as Optuna counts."""
        return [constraint.violation(params) for constraint in self.constraints]

    def is_feasible(self, params: Mapping[str, Any]) -> bool:
        """Whether `params` fulfil every constraint."""
        return all(violation <= 0 for violation in self.constraint_violations(params))

    def default_params(self) -> dict[str, Any]:
        """What is tried first: the defaults of the parameters that have one and are active by them.

        A parameter without a default is not in it, and is the sampler's to choose; empty where none has a default.
        """
        found: dict[str, Any] = {}
        for name, parameter in self.items():
            if parameter.best_guess is not UNSET and self.is_active(name, found):
                found[name] = parameter.best_guess
        return found if any(not isinstance(self[name], Fixed) for name in found) else {}

    @property
    def has_priors(self) -> bool:
        """Whether anything is believed of where the good configurations are."""
        return any(getattr(parameter, "prior", None) is not None for parameter in self.values())

    def sample(self, rng: random.Random, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """A configuration drawn by the priors, and evenly where there are none; the values in `given` are kept.

        Raises:
            SpaceError: none that fulfils the constraints was found in `MAX_DRAWS` draws.
        """
        for _ in range(MAX_DRAWS):
            params: dict[str, Any] = {}
            for name, parameter in self.items():
                if self.is_active(name, params):
                    params[name] = given[name] if given and name in given else parameter.draw(rng)
            if self.is_feasible(params):
                return params
        raise SpaceError(
            f"space: none of {MAX_DRAWS} configurations drawn fulfils {' and '.join(map(repr, self.constraints))};"
            " loosen a constraint, or narrow the parameters to where it can hold"
        )

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
        return filter(self.is_feasible, self._configurations(list(self), {}))

    def grid_size(self) -> int:
        """How many configurations `grid` gives, without constraints counted without making them all.

        Raises:
            SpaceError: the space is endless; carries a problem for every parameter that makes it so.
        """
        self._require_finite()
        if self.constraints:
            return sum(1 for _ in self.grid())
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

    # Algebra: spaces made of spaces.

    def known_as(self, *origin: str) -> Space:
        """The same space, from elsewhere."""
        return Space(self, self.constraints, origin=origin)

    def combine(self, *others: Space) -> Space:
        """All parameters and constraints of several spaces; one that is alike in two is there once.

        Raises:
            SpaceError: a name stands for different parameters.
        """
        parameters, clashes = dict(self), []
        for other in others:
            for name, parameter in other.items():
                if parameters.setdefault(name, parameter) != parameter:
                    clashes.append(
                        f"space: {name!r} is {describe(parameters[name])} in one space and {describe(parameter)} in "
                        "another; nest or rename one of them, or drop it there"
                    )
        if clashes:
            raise SpaceError(clashes)
        constraints = [*self.constraints, *(each for other in others for each in other.constraints)]
        lines = [line for other in others for line in ("combine with", *(f"  {line}" for line in other._origin()))]
        return Space(parameters, constraints, origin=(*self._origin(), *lines))

    def __or__(self, other: Space) -> Space:
        return self.combine(other)

    def extend(self, parameters: Mapping[str, Parameter], constraints: Iterable[str | Constraint] = ()) -> Space:
        """With more parameters and constraints, which may be on those that are there.

        Raises:
            SpaceError: a name is taken, or anything breaks a rule.
        """
        if taken := [name for name in parameters if name in self]:
            raise SpaceError(
                [f"space: {name!r} is there already: {describe(self[name])}; use replace, or narrow" for name in taken]
            )
        more = list(map(as_constraint, constraints))
        added = [*(f"{name}: {describe(each)}" for name, each in parameters.items()), *map(str, more)]
        return Space({**self, **parameters}, [*self.constraints, *more], origin=self._after("add", added))

    def narrow(self, changes: Mapping[str, Parameter | Mapping[str, Any] | Sequence[Any]]) -> Space:
        """With some parameters taking fewer values than now.

        A change is a parameter, the attributes that change (`{"high": 0.01}`), or a list of the options that stay. A
        default or a prior that no longer fits goes. Parameters that can no longer become active go too, and
        constraints on them.

        Raises:
            SpaceError: a parameter would take values that it does not take now, or be active at other times.
        """
        found = self._unknown(changes)
        narrowed: dict[str, Parameter] = {}
        for name, change in changes.items():
            if name in self:
                parameter, phrases = narrowed_by(self[name], change)
                found += [f"space: {name!r} {phrase}" for phrase in phrases]
                narrowed[name] = parameter
        if found:
            raise SpaceError(found)
        changed = [f"{name}: {describe(self[name])} -> {describe(each)}" for name, each in narrowed.items()]
        return self._reachable({**self, **narrowed}, self._after("narrow", changed))

    def fix(self, values: Mapping[str, Any]) -> Space:
        """With some parameters fixed at one of their values; those that can no longer become active go.

        Raises:
            SpaceError: a parameter cannot have that value.
        """
        found = self._unknown(values)
        known = {name: value for name, value in values.items() if name in self}
        objections = {name: self[name].objection(value) for name, value in known.items()}
        found += [
            f"space: {name!r} is fixed at {known[name]!r}, which {why}" for name, why in objections.items() if why
        ]
        if found:
            raise SpaceError(found)
        fixed = {name: Fixed(value, when=self[name].when) for name, value in known.items()}
        steps = [f"{name}: {value!r}" for name, value in known.items()]
        return self._reachable({**self, **fixed}, self._after("fix", steps))

    def replace(self, parameters: Mapping[str, Parameter]) -> Space:
        """With other parameters under names that are there.

        Raises:
            SpaceError: a name is not there, or anything breaks a rule.
        """
        if found := self._unknown(parameters):
            raise SpaceError(found)
        changed = [f"{name}: {describe(self[name])} -> {describe(each)}" for name, each in parameters.items()]
        return Space({**self, **parameters}, self.constraints, origin=self._after("replace", changed))

    def rename(self, names: Mapping[str, str]) -> Space:
        """With parameters, or whole groups (`optimizer` for `optimizer.lr`), under other names.

        Raises:
            SpaceError: a name is not there, or the new one is taken.
        """
        unknown = [old for old in names if not any(f"{name}.".startswith(f"{old}.") for name in self)]
        if unknown:
            raise SpaceError(
                [f"space: there is no parameter or group {old!r}; {hint(old, list(self))}" for old in unknown]
            )
        longest_first = sorted(names, key=len, reverse=True)

        def new_name(name: str) -> str:
            old = next((old for old in longest_first if f"{name}.".startswith(f"{old}.")), None)
            return name if old is None else f"{names[old]}{name[len(old) :]}"

        return self._renamed(new_name, self._after("rename", [f"{old} -> {new}" for old, new in names.items()]))

    def nest(self, prefix: str) -> Space:
        """With every name in a group: `lr` becomes `prefix.lr`, in conditions and constraints too.

        Raises:
            SpaceError: the prefix is not a name.
        """
        return self._renamed(lambda name: f"{prefix}.{name}", self._after("nest", [prefix]))

    def drop(self, *names: str) -> Space:
        """Without some parameters, or constraints, given as their text.

        Raises:
            SpaceError: one is not there, or a condition or constraint that stays is on it.
        """
        constraints = {Constraint(name) for name in names if name not in self} & set(self.constraints)
        gone = {str(each) for each in constraints}
        if found := self._unknown([name for name in names if str(Constraint(name)) not in gone]):
            raise SpaceError(found)
        kept = {name: parameter for name, parameter in self.items() if name not in names}
        left = [each for each in self.constraints if each not in constraints]
        return Space(kept, left, origin=self._after("drop", names))

    def keep(self, *names: str) -> Space:
        """With some parameters only, and the constraints between them.

        Raises:
            SpaceError: one is not there, or a condition of one is on a parameter that goes.
        """
        if found := self._unknown(names):
            raise SpaceError(found)
        kept = {name: parameter for name, parameter in self.items() if name in names}
        constraints = [each for each in self.constraints if each.names <= kept.keys()]
        return Space(kept, constraints, origin=self._after("keep", [", ".join(kept)]))

    def _unknown(self, names: Iterable[str]) -> list[str]:
        return [
            f"space: there is no parameter {name!r}; {hint(name, list(self))}" for name in names if name not in self
        ]

    def _origin(self) -> tuple[str, ...]:
        return self.origin or (f"{len(self)} parameters ({self.digest})",)

    def _after(self, verb: str, changes: Iterable[str]) -> tuple[str, ...]:
        return (*self._origin(), *(f"{verb} {change}" for change in changes))

    def _renamed(self, new_name: Callable[[str], str], origin: tuple[str, ...]) -> Space:
        parameters: dict[str, Parameter] = {}
        taken = bad_names(map(new_name, self))
        for name, parameter in self.items():
            conditions = {new_name(parent): wanted for parent, wanted in parameter.conditions.items()}
            if new_name(name) in parameters:
                taken.append(f"space: {name!r} would become {new_name(name)!r}, which is taken; choose another name")
            parameters[new_name(name)] = parameter.with_conditions(conditions)
        if taken:
            raise SpaceError(taken)
        return Space(parameters, [each.renamed(new_name) for each in self.constraints], origin=origin)

    def _reachable(self, parameters: Mapping[str, Parameter], origin: tuple[str, ...]) -> Space:
        """Without the parameters that can never become active, and the constraints on them, which always hold."""
        kept: dict[str, Parameter] = {}
        ordered, _ = parents_first(parameters)
        for name, parameter in ordered.items():
            possible = {
                parent: [value for value in wanted if parent in kept and kept[parent].objection(value) is None]
                for parent, wanted in parameter.conditions.items()
            }
            if all(possible.values()):
                kept[name] = parameter.with_conditions(possible)
        return Space(kept, [each for each in self.constraints if each.names <= kept.keys()], origin=origin)


def _again(kind: type[Space], parameters: Any, constraints: Any, origin: tuple[str, ...]) -> Space:
    return kind(parameters, constraints, origin=origin)
