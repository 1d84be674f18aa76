"""What makes parameters and constraints a space: the rules, and the order that conditions ask for."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from orchestrator.constraint import Constraint
from orchestrator.naming import hint
from orchestrator.parameter import UNSET, Conditions, Parameter
from orchestrator.plain import thaw


def problems(parameters: Mapping[str, Parameter], unread: Collection[str] = ()) -> list[str]:
    """Every rule that parameters break as a space.

    Conditions on `unread` parameters, which could not be made, are not judged.
    """
    known = [*parameters, *unread]
    found = bad_names(known)
    sound: dict[str, Parameter] = {}
    for name, parameter in parameters.items():
        phrases = _own_problems(parameter)
        found += [f"space: {name!r} {phrase}" for phrase in phrases]
        if not phrases:
            sound[name] = parameter
    made = {name: parameter for name, parameter in parameters.items() if isinstance(parameter, Parameter)}
    for name, parameter in made.items():
        found += _condition_problems(name, parameter, known, sound)
    _, cycles = parents_first(made)
    return found + [
        f"space: {cycle[0]!r} is active only if it is active itself ({' needs '.join(cycle)}); drop a condition"
        for cycle in cycles
    ]


def bad_names(names: Iterable[object]) -> list[str]:
    """Those that are no names, a sentence each: a hyperparameter is an argument in Python, `weight-decay` cannot be."""
    return [
        f"space: {name!r} is not a name; use letters, digits and _, with dots between, such as {_spelt(name)!r}"
        for name in names
        if not _is_name(name)
    ]


def _is_name(name: object) -> bool:
    return isinstance(name, str) and all(part.isidentifier() for part in name.split("."))


def _spelt(name: object) -> str:
    spelt = re.sub(r"[^\w.]", "_", name) if isinstance(name, str) else name
    return str(spelt) if _is_name(spelt) else "optimizer.lr"


def _own_problems(parameter: object) -> list[str]:
    if not isinstance(parameter, Parameter):
        return [f"is {parameter!r}, which is not a parameter; make it a Float, an Int, a Choice or a Fixed"]
    found = parameter.problems()
    if parameter.when is not None and not isinstance(parameter.when, Conditions):
        found.append(f"has when {parameter.when!r}, which is not a mapping; write one such as {{optimizer: sgd}}")
    return found


def _condition_problems(
    name: str, parameter: Parameter, known: Collection[str], sound: Mapping[str, Parameter]
) -> Iterator[str]:
    for parent, wanted in parameter.conditions.items():
        start = f"space: {name!r} is active when {parent!r} is"
        if parent not in known:
            others = [other for other in known if other != name]
            values = " or ".join(repr(thaw(value)) for value in wanted)
            yield f"{start} {values}, but there is no parameter {parent!r}; {hint(parent, others)}"
        elif not wanted:
            yield f"space: {name!r} is active for no value of {parent!r}; name one, or drop the condition"
        elif parent in sound:
            objections = ((value, sound[parent].objection(value)) for value in wanted)
            yield from (f"{start} {thaw(value)!r}, which {why}" for value, why in objections if why is not None)


def parents_first(parameters: Mapping[str, Parameter]) -> tuple[dict[str, Parameter], list[list[str]]]:
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


def constraint_problems(constraints: Sequence[Constraint], parameters: Mapping[str, Parameter]) -> Iterator[str]:
    """Every rule that constraints between sound parameters break, a sentence each."""
    for constraint in constraints:
        phrases = constraint.problems(parameters)
        yield from (f"space: constraint {str(constraint)!r} {phrase}" for phrase in phrases)
        guesses = {name: parameters[name].best_guess for name in constraint.names if name in parameters}
        if not phrases and UNSET not in guesses.values() and constraint.violation(guesses) > 0:
            said = ", ".join(f"{name} is {value!r}" for name, value in sorted(guesses.items()))
            yield f"space: constraint {str(constraint)!r} does not hold for the defaults: {said}; change one of them"
