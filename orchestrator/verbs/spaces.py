"""List, show, check, compare and export search spaces."""

from __future__ import annotations

import argparse
import json
import os
import random
from collections.abc import Iterator

from orchestrator import catalog, comparison, front, sources, wandb_yaml
from orchestrator.errors import InputError, SpaceError
from orchestrator.naming import default_storage
from orchestrator.parameter import UNSET, Fixed, condition_text
from orchestrator.space import Space

FORMATS = ("yaml", "json", "wandb", "optuna")
REFERENCE = "a space's name, NAME@VERSION, YAML file, URL or package.module:NAME"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to do, and with which spaces."""
    parser.set_defaults(act=_list)
    actions = parser.add_subparsers(title="actions", metavar="ACTION")

    def add(name: str, act: object, text: str) -> argparse.ArgumentParser:
        action = actions.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.", allow_abbrev=False)
        action.set_defaults(act=act, parser=action)
        return action

    add("list", _list, "every name, its versions and what it says of itself (the default)")
    add("show", _show, "the parameters of a space, what it was made of, and what is tried first").add_argument(
        "space", metavar="SPACE", help=REFERENCE
    )
    add("validate", _validate, "check spaces").add_argument("space", metavar="SPACE", nargs="+", help=REFERENCE)
    diff = add(
        "diff", _diff, "what differs between two spaces, or between those of two sweeps; exit code 1 if anything"
    )
    diff.add_argument("one", metavar="A", help=f"{REFERENCE}; or a sweep's name, folder or URL")
    diff.add_argument("other", metavar="B", help="the same")
    diff.add_argument(
        "--storage",
        default=default_storage(os.environ),
        help="where sweeps' names are looked for (default: %(default)s)",
    )
    export = add("export", _export, "write a space out for other programs")
    export.add_argument("space", metavar="SPACE", help=REFERENCE)
    export.add_argument("--to", choices=FORMATS, default="yaml", help="in which form (default: %(default)s)")
    export.add_argument("--lossy", action="store_true", help="leave out what that form cannot say")


def run(arguments: argparse.Namespace) -> int:
    """Do it."""
    return int(arguments.act(arguments))


def _list(_: argparse.Namespace) -> int:
    rows = []
    for name, versions in sources.names().items():
        last = list(versions.values())[-1]
        rows.append((f"{name}@{','.join(map(str, versions))}", catalog.summary(last.path)))
    front.print_rows(rows)
    return 0


def _show(arguments: argparse.Namespace) -> int:
    space = sources.load_space(arguments.space)
    front.print_rows(space.rows())
    print(f"\n{len(space)} parameters, digest {space.digest}")
    if first := space.default_params():
        print(f"tried first: {', '.join(f'{name}={value}' for name, value in first.items())}")
    if space.origin:
        print("\n".join(["made of:", *(f"  {line}" for line in space.origin)]))
    return 0


def _validate(arguments: argparse.Namespace) -> int:
    problems = []
    for reference in arguments.space:
        try:
            space = sources.load_space(reference)
            space.sample(random.Random(0))
        except SpaceError as exc:
            problems += [f"{reference}: {problem}" for problem in exc.problems]
        else:
            print(f"valid: {reference}, {len(space)} parameters, digest {space.digest}")
    if problems:
        raise InputError(problems)
    return 0


def _diff(arguments: argparse.Namespace) -> int:
    one, other = (_space_of(each, arguments.storage) for each in (arguments.one, arguments.other))
    if found := comparison.differences(one, other):
        print("\n".join([f"{arguments.one} ({one.digest}) -> {arguments.other} ({other.digest})", *found]))
        return 1
    print(f"the same space: {len(one)} parameters, digest {one.digest}")
    return 0


def _space_of(reference: str, storage: str) -> Space:
    """The space of a reference, or of a sweep where there is no such space."""
    try:
        return sources.load_space(reference)
    except SpaceError as no_space:
        try:
            _, spec = front.find_sweep(argparse.Namespace(sweep=reference, storage=storage))
        except InputError as no_sweep:
            raise InputError([*no_space.problems, *no_sweep.problems]) from no_sweep
        return spec.load_space()


def _export(arguments: argparse.Namespace) -> int:
    space, form = sources.load_space(arguments.space), arguments.to
    if form in ("wandb", "optuna") and not arguments.lossy and (lost := list(_lost(space, form))):
        raise SpaceError([*lost, f"--lossy leaves out what {form} cannot say"])
    if form == "json":
        print(json.dumps(space.to_data(), indent=1))
    elif form == "optuna":
        from orchestrator import distributions

        print(json.dumps(distributions.to_json(space), indent=1))
    else:
        data = space.to_data() if form == "yaml" else {"method": "bayes", "parameters": wandb_yaml.to_wandb(space)}
        print(catalog.write_yaml(data), end="")
    return 0


def _lost(space: Space, form: str) -> Iterator[str]:
    """What of a space a form cannot say, a sentence each."""
    if form == "wandb":
        from orchestrator.wandb_distributions import unsayable
    else:
        from orchestrator.distributions import unsayable
    for name, parameter in space.items():
        if parameter.conditions:
            yield f"space: {name!r} is only active {condition_text(parameter)}: {form} knows no conditions"
        if what := unsayable(parameter):
            yield f"space: {name!r} has {what}: {form} has no word for that"
        if parameter.best_guess is not UNSET and not isinstance(parameter, Fixed):
            yield f"space: {name!r} has a default, {parameter.best_guess!r}: {form} knows none"
    yield from (f"space: constraint {str(each)!r}: {form} knows no constraints" for each in space.constraints)
