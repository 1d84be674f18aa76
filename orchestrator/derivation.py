"""A space written as changes to others, so that YAML alone reuses what another team has written.

    extends: vision/convnet@2                # or a list, which is combined; each a reference or such a mapping
    keep: [lr, dropout, channels, optimizer]  # only these parameters
    drop: [dropout]                          # parameters, or constraints by their text
    rename: {lr: optimizer.lr}               # parameters, or whole groups
    replace: {channels: {options: [16, 32]}}
    narrow: {optimizer.lr: {high: 0.01}}     # attributes that change, a whole parameter, or the options that stay
    fix: {optimizer.name: sgd}
    nest: model                              # everything so far, into a group
    parameters: {width: {type: int, low: 8, high: 64}}    # more of them
    constraints: ["width * model.channels <= 4096"]

Each is optional but `extends`; they are applied in this order, whatever the order in which they are written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.document import EXTENDS, LABELS, SECTIONS, read_entries
from orchestrator.entry import is_entry
from orchestrator.errors import SpaceError
from orchestrator.naming import hint
from orchestrator.space import Space

STEPS: dict[str, type | tuple[type, ...]] = {
    "keep": list,
    "drop": (str, list),
    "rename": Mapping,
    "replace": Mapping,
    "narrow": Mapping,
    "fix": Mapping,
    "nest": str,
    "parameters": Mapping,
    "constraints": list,
}
_EXAMPLES = {
    "keep": "a list of names",
    "drop": "a list of names",
    "rename": "a mapping from old name to new",
    "replace": "a mapping from name to parameter",
    "narrow": "a mapping from name to what changes",
    "fix": "a mapping from name to value",
    "nest": "a name",
    "parameters": "a mapping from name to parameter",
    "constraints": "a list of comparisons",
}


def derive(data: Mapping[str, Any], load: Callable[[Any], Space]) -> Space:
    """The space that `data`, which has `extends`, makes of others; `load` gives the space of a reference or mapping.

    Raises:
        SpaceError: anything is unknown, breaks a rule, or would change what it was not asked to.
    """
    known = tuple(dict.fromkeys((EXTENDS, *STEPS, *SECTIONS, *LABELS)))
    found = [
        f"space: unknown key {key!r}; "
        + ("put it under 'replace', or 'parameters' if it is new" if is_entry(data[key]) else hint(key, known))
        for key in data
        if key not in known
    ]
    found += [
        f"space: {key} is {data[key]!r}; write {_EXAMPLES[key]}"
        for key, kind in STEPS.items()
        if data.get(key) is not None and not isinstance(data[key], kind)
    ]
    bases = data[EXTENDS] if isinstance(data[EXTENDS], list) else [data[EXTENDS]]
    if not bases or not all(isinstance(base, str | Mapping) for base in bases):
        found.append(f"space: extends is {data[EXTENDS]!r}; name a space, or list some")
    if found:
        raise SpaceError(found)
    first, *others = (load(base) for base in bases)
    return _apply(first.combine(*others), {key: data[key] for key in STEPS if data.get(key) is not None})


def _apply(space: Space, steps: Mapping[str, Any]) -> Space:
    for key, given in steps.items():
        match key:
            case "keep":
                space = space.keep(*given)
            case "drop":
                space = space.drop(*([given] if isinstance(given, str) else given))
            case "rename":
                space = space.rename(given)
            case "replace":
                space = space.replace(read_entries(given))
            case "narrow":
                space = space.narrow(given)
            case "fix":
                space = space.fix(given)
            case "nest":
                space = space.nest(given)
    if added := {key: steps[key] for key in ("parameters", "constraints") if key in steps}:
        space = space.extend(read_entries(added.get("parameters", {})), added.get("constraints", ()))
    return space
