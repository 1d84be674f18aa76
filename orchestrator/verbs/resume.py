"""Go on with a sweep that is paused, was stopped or killed, or should get a larger budget."""

from __future__ import annotations

import argparse
import tempfile
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator import front
from orchestrator.errors import InputError

if TYPE_CHECKING:
    from orchestrator.folder import SweepFolder
    from orchestrator.spec import Spec

# What a sweep is, which a resume cannot change.
FIXED = ("name", "storage", "trainable", "space", "params", "metric", "goal")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which sweep, and what changes."""
    front.add_sweep(parser, required=True)
    text = "go on with an unfinished trial from this checkpoint: a path, or an artifact of W&B"
    parser.add_argument("--from", dest="start_from", action="append", default=[], metavar="TRIAL=CHECKPOINT", help=text)
    parser.add_argument("words", nargs="*", metavar="key=value", help="e.g. budget.trials=100")
    parser.add_argument("--as-recorded", action="store_true", help="go on though its space's source has changed since")


def run(arguments: argparse.Namespace) -> int:
    """Go on with it to its end, and say what it found."""
    from orchestrator import sources
    from orchestrator import spec as specs
    from orchestrator.messages import Command
    from orchestrator.results import Status

    folder, spec = front.find_sweep(arguments)
    if front.look(folder, spec)[1] is Status.PAUSED and not arguments.words:
        return front.ask(arguments, Command.RESUME)
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
    for given in arguments.start_from:
        _place(folder, spec, given)
    from orchestrator import progress, sweep

    return front.run_sweep(lambda: sweep.resume(folder, spec, progress.view))


def _place(folder: SweepFolder, spec: Spec, given: str) -> None:
    """Make a checkpoint the newest of a trial, from which it goes on; what is on record of later epochs stays there.

    Raises:
        InputError: there is no such trial, it has ended, or that is no checkpoint of a sweep.
    """
    from orchestrator.folder import CHECKPOINT
    from orchestrator.reference import fetched

    number, _, name = given.partition("=")
    waiting = {
        str(record.number): record for record in front.look(folder, spec)[0].records if record.state == "RUNNING"
    }
    if number not in waiting:
        raise InputError(
            f"--from {given}: '{number}' is no unfinished trial; there are: {', '.join(waiting) or 'none'}"
        )
    with tempfile.TemporaryDirectory() as scratch:
        path = fetched(name, Path(scratch))
        if not CHECKPOINT.fullmatch(path.name) or not path.is_file():
            raise InputError(f"--from {given}: {path} is no checkpoint of a sweep (epoch-0003.ckpt)")
        with folder.locked():
            target = f"trials/{number}/{path.name}"
            if folder.show(target) != str(path.resolve()):
                folder.upload(path, target)
            folder.drop_checkpoints(int(number), kept={epoch := folder.epoch_of(path.name)})
    if (last := max(waiting[number].curve, default=0)) > epoch:
        print(
            f"trial {number} goes back from epoch {last} to {epoch}: what it trains again stays on record as it was,"
            " and its later checkpoints are deleted"
        )
