"""Choices whose options bring parameters of their own, taken apart into parameters with conditions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from orchestrator.constraint import Constraint
from orchestrator.parameter import Choice, Parameter
from orchestrator.plain import FrozenMapping, same


def expand(parameters: Mapping[str, Any]) -> tuple[dict[str, Parameter], list[Constraint], list[str]]:
    """Parameters without such choices, the constraints that options brought, and what is wrong, a sentence each.

    What an option brings stands beside its choice, in the same group: `optimizer` brings `momentum`, `model.block`
    brings `model.width`.
    """
    flat: dict[str, Parameter] = {}
    constraints: list[Constraint] = []
    problems: list[str] = []
    brought: dict[str, str] = {}
    for name, parameter in parameters.items():
        if name in flat:
            problems.append(_clash(name, f"the choice {brought[name]!r} brings", "the space has"))
            continue
        flat[name] = parameter
        if not isinstance(parameter, Choice) or not isinstance(parameter.options, FrozenMapping):
            continue
        flat[name] = replace(parameter, options=list(parameter.options))
        added, more, found = _of_options(name, parameter.options)
        constraints += more
        problems += found
        for new, each in added.items():
            if new in flat:
                problems.append(_clash(new, f"the choice {name!r} brings", "the space has"))
            else:
                flat[new], brought[new] = each, name
    return flat, constraints, problems


def _of_options(choice: str, options: Mapping[Any, Any]) -> tuple[dict[str, Parameter], list[Constraint], list[str]]:
    """Everything that the options of a choice bring."""
    group = choice.rpartition(".")[0] if isinstance(choice, str) else ""
    added: dict[str, Parameter] = {}
    constraints: list[Constraint] = []
    problems: list[str] = []
    for option, brings in options.items():
        if brings is not None and not isinstance(brings, Mapping):
            problems.append(f"space: {choice!r} has option {option!r} bring {brings!r}; give it parameters, or nothing")
            continue
        inner, more, found = expand(brings or {})
        problems += found

        def placed(name: str, group: str = group) -> str:
            return f"{group}.{name}" if group and isinstance(name, str) else name

        constraints += [each.renamed(placed) for each in (*getattr(brings, "constraints", ()), *more)]
        for name, parameter in inner.items():
            if not hasattr(parameter, "with_conditions"):
                added[placed(name)] = parameter  # no parameter at all, which the space reports
                continue
            within = {placed(p) if p in inner else p: w for p, w in parameter.conditions.items()}
            problems += _merge(added, placed(name), parameter, within, choice, option)
    return added, constraints, problems


def _merge(
    added: dict[str, Parameter], name: str, parameter: Parameter, within: Mapping[str, Any], choice: str, option: Any
) -> Iterator[str]:
    """Add what one option brings; what another option brought alike is active for both."""
    if name not in added:
        added[name] = parameter.with_conditions({**within, choice: [option]})
        return
    earlier = added[name].conditions[choice]
    if added[name] == parameter.with_conditions({**within, choice: earlier}):
        if not any(same(option, each) for each in earlier):
            added[name] = parameter.with_conditions({**within, choice: [*earlier, option]})
    else:
        yield _clash(name, f"option {option!r} of {choice!r} brings", "another option brings")


def _clash(name: str, one: str, other: str) -> str:
    return f"space: {one} {name!r}, which {other} already, and not alike; rename one of them, or nest it under a prefix"
