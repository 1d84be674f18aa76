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


def run(arguments: argparse.Namespace) -> int:
    """Go on with it to its end, and say what it found."""
    from orchestrator import spec as specs

    folder, spec = front.find_sweep(arguments)
    if arguments.words:
        changed = specs.resolve(specs.check(spec.model_dump(mode="json"), arguments.words), datetime.now())
        if problems := [
            f"{key} is part of what the sweep is, and stays; start a new sweep for another"
            for key in FIXED
            if getattr(changed, key) != getattr(spec, key)
        ]:
            raise InputError(problems)
        spec = changed
    from orchestrator import progress, sweep

    return front.run_sweep(lambda: sweep.resume(folder, spec, progress.view))
