"""What differs between two spaces, in words."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.parameter import Parameter, describe
from orchestrator.space import Space


def differences(one: Space, other: Space) -> list[str]:
    """What the second has not (`-`), has besides (`+`) and has otherwise (`~`), a line each; none where equal."""
    return [*_parameters(one, other), *_constraints(one, other)]


def _parameters(one: Space, other: Space) -> Iterator[str]:
    for name in dict.fromkeys((*one, *other)):
        if name not in other:
            yield f"- {name}: {describe(one[name])}"
        elif name not in one:
            yield f"+ {name}: {describe(other[name])}"
        elif one[name] != other[name]:
            before, after = _told_apart(one[name], other[name])
            yield f"~ {name}: {before} -> {after}"


def _constraints(one: Space, other: Space) -> Iterator[str]:
    yield from (f"- constraint: {each}" for each in one.constraints if each not in other.constraints)
    yield from (f"+ constraint: {each}" for each in other.constraints if each not in one.constraints)


def _told_apart(one: Parameter, other: Parameter) -> tuple[str, str]:
    words = describe(one), describe(other)
    return words if words[0] != words[1] else (repr(one), repr(other))
