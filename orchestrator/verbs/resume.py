"""Go on with a sweep that was stopped, killed, or should get a larger budget."""

from __future__ import annotations

import argparse
from datetime import datetime

from orchestrator import front
from orchestrator.errors import InputError

# What a sweep is, which a resume cannot change.
FIXED = ("name", "storage", "trainable", "space", "params", "metric", "goal")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which sweep, and what changes."""
    front.add_sweep(parser, required=True)
    parser.add_argument("words", nargs="*", metavar="key=value", help="e.g. budget.trials=100")
    parser.add_argument("--as-recorded", action="store_true", help="go on though its space's source has changed since")


def run(arguments: argparse.Namespace) -> int:
    """Go on with it to its end, and say what it found."""
    from orchestrator import sources
    from orchestrator import spec as specs

    folder, spec = front.find_sweep(arguments)
    if not arguments.as_recorded and (change := sources.changed_since(spec.space)):
        raise InputError(
            f"{change}\nundo that, or make it a version of its own; --as-recorded goes on with the space as it was"
        )
    if not arguments.words and front.look(folder, spec)[1] == "finished":
        print(f"{spec.name} is finished; a larger budget goes on with it, e.g. budget.trials={2 * spec.trials}")
        return 0
    if arguments.words:
        now = datetime.now()
        before, changed = (
            specs.resolve(each, now) for each in (spec, specs.check(spec.model_dump(mode="json"), arguments.words))
        )
        if problems := [
            f"{key} is part of what the sweep is, and stays; start a new sweep for another"
            for key in FIXED
            if getattr(changed, key) != getattr(before, key)
        ]:
            raise InputError(problems)
        spec = changed
    from orchestrator import progress, sweep

    return front.run_sweep(lambda: sweep.resume(folder, spec, progress.view))
