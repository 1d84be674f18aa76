"""Spaces written down as plain data: entries, nested groups of them, and the sections of a document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.entry import is_group, read_parameter
from orchestrator.errors import SpaceError
from orchestrator.naming import hint
from orchestrator.parameter import Parameter

EXTENDS = "extends"
# Keys that make plain data a document with sections; without one of them its keys are names.
SECTIONS = ("parameters", "constraints", EXTENDS)
# What a document may say of itself; `digest` is checked, the others are for its reader.
LABELS = ("name", "version", "digest", "source", "origin")


def flatten(data: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Entries by whole name, of nested groups; and the names that are there twice, as sentences."""
    flat: dict[str, Any] = {}
    found = []
    for name, entry in data.items():
        inner: dict[str, Any] = {"": entry}
        if isinstance(name, str) and is_group(entry):
            inner, clashes = flatten(entry)
            found += clashes
        for rest, each in inner.items():
            whole = f"{name}.{rest}" if rest else name
            if whole in flat:
                found.append(f"space: {whole!r} is there twice; drop one")
            flat[whole] = each
    return flat, found


def read_entries(data: Mapping[str, Any]) -> dict[str, Parameter]:
    """Parameters by whole name, of plain data.

    Raises:
        SpaceError: a key is unknown or missing; carries every such problem.
    """
    entries, found = flatten(data)
    read = {name: read_entry(entry) for name, entry in entries.items()}
    found += [f"space: {name!r} {phrase}" for name, (_, phrases) in read.items() for phrase in phrases]
    if found:
        raise SpaceError(found)
    return {name: parameter for name, (parameter, _) in read.items() if parameter is not None}


def read_entry(entry: object) -> tuple[Parameter | None, list[str]]:
    """A parameter, and the mistakes in its keys as phrases; what options bring is read with it."""
    if not isinstance(entry, Mapping) or not isinstance(entry.get("options"), Mapping):
        return read_parameter(entry)
    options: dict[Any, Any] = {}
    found = []
    for option, brings in entry["options"].items():
        if brings is not None and not isinstance(brings, Mapping):
            options[option] = brings
            continue
        entries, _ = flatten(brings or {})
        read = {name: read_entry(each) for name, each in entries.items()}
        found += [f"brings {name!r}, which {phrase}" for name, (_, phrases) in read.items() for phrase in phrases]
        options[option] = {name: parameter for name, (parameter, _) in read.items() if parameter is not None}
    parameter, phrases = read_parameter({**entry, "options": options})
    return parameter, found + phrases


def sections(data: Mapping[str, Any]) -> tuple[Mapping[str, Any], Sequence[Any], list[str]]:
    """The parameters and the constraints of plain data, and what is wrong with its sections."""
    if EXTENDS in data:
        return {}, (), [f"space: {EXTENDS!r} makes a space of others; read it with orchestrator.sources.load_space"]
    if not data.keys() & set(SECTIONS):
        return data, (), []
    known = (*SECTIONS, *LABELS)
    found = [f"space: unknown key {key!r}; {hint(key, known)}" for key in data if key not in known]
    parameters, constraints = data.get("parameters") or {}, data.get("constraints") or ()
    if not isinstance(parameters, Mapping):
        found.append(not_a_mapping(parameters))
        parameters = {}
    if not isinstance(constraints, list | tuple):
        found.append(f"space: constraints is {constraints!r}, which is not a list; write ['lr * batch_size <= 1']")
        constraints = ()
    return parameters, constraints, found


def not_a_mapping(given: object) -> str:
    """What is wrong with data that is no space at all, a sentence."""
    return f"space: a space maps names to parameters, and {given!r} is no mapping; write 'lr: {{type: float, ...}}'"
