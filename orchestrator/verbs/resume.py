"""Go on with a sweep that is paused, was stopped or killed, or should get a larger budget."""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Sequence
from datetime import datetime
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator import front
from orchestrator.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.folder import SweepFolder
    from orchestrator.ledger import Ledger, TrialRecord
    from orchestrator.results import Status
    from orchestrator.spec import Spec

# What a sweep is, which a resume cannot change. Who proposes and who stops trials is not: both go on from the record.
FIXED = (
    *("name", "storage", "trainable", "space", "params", "metric", "goal", "objectives", "constraints"),
    *("start_from", "warm_start", "search.seed"),
    *("training.batch_size", "training.lr_scaling", "training.report_every_steps"),  # what a batch, lr, an epoch mean
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which sweep, and what changes."""
    front.add_sweep(parser, required=True)
    front.add_cluster(parser, "go on there, and follow it from here")
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

    if arguments.cluster is not None:
        from orchestrator.remote import Head

        head = Head(arguments.cluster)
        return front.follow(head, head.resume(arguments.sweep, arguments.given), arguments.cluster)
    folder, spec = front.find_sweep(arguments)
    ledger, status = front.look(folder, spec)
    if status is Status.PAUSED:
        if given := [*(f"--from {each}" for each in arguments.start_from), *arguments.words]:
            raise InputError(
                f"{spec.name} is paused, and its process goes on as it was begun: for {', '.join(given)}, first"
                f" `python -m orchestrator stop {folder.show('').rstrip('/')}`, or `cancel`"
            )
        return front.ask(arguments, Command.RESUME)
    if not arguments.as_recorded and (change := sources.changed_since(spec.space)):
        raise InputError(
            f"{change}\nundo that, or make it a version of its own; --as-recorded goes on with the space as it was"
        )
    if not (arguments.words or arguments.start_from) and status is Status.FINISHED:
        print(f"{spec.name} is finished; a larger budget goes on with it, e.g. budget.trials={2 * spec.trials}")
        return 0
    if any(re.match(r"space\b", word.strip()) for word in arguments.words):  # whatever it was to become
        raise InputError("space is part of what the sweep is, and stays; start a new sweep for another")
    if arguments.words:
        now = datetime.now()
        before, changed = (
            specs.resolve(each, now) for each in (spec, specs.check(spec.model_dump(mode="json"), arguments.words))
        )
        problems = list(_stays(before, changed))
        if ledger.recall("wandb_sweep"):
            problems += [
                f"tracking.{key} is where W&B has the sweep, and stays; start a new sweep for another"
                for key in ("project", "entity")
                if getattr(changed.tracking, key) != getattr(before.tracking, key)
            ]
        # These alone say nothing of what a sweep that is over may still have to do, as its export.
        unheard = {name: getattr(before, name) for name in ("budget", "search", "schedule")}
        if changed.model_copy(update=unheard) == before:
            problems += _spent(changed, ledger, status)
        if problems:
            raise InputError(problems)
        spec = changed
    if arguments.start_from:
        _place(folder, spec, arguments.start_from)
    from orchestrator import progress, sweep

    return front.run_sweep(lambda: sweep.resume(folder, spec, progress.view))


def _stays(before: Spec, changed: Spec) -> Iterator[str]:
    """What was changed, and cannot be."""
    for key in FIXED:
        value = attrgetter(key)(before)
        if attrgetter(key)(changed) != value:
            short = f" {value}" if isinstance(value, int | str) else ""
            yield f"{key} is part of what the sweep is, and stays{short}; start a new sweep for another"
    if changed.schedule != before.schedule and (changed.schedule.is_population or before.schedule.is_population):
        yield (
            f"schedule stays that of scheduler={before.schedule.scheduler}: trials of a population (pbt, pb2) copy each"
            " other's checkpoints, which no other schedule keeps; start a new sweep for another"
        )


def _spent(spec: Spec, ledger: Ledger, status: Status) -> Iterator[str]:
    """That another budget of a finished sweep leaves nothing to run, if so."""
    from orchestrator.results import Status

    repeated = len(ledger.records) - ledger.proposed
    if status is Status.FINISHED and ledger.proposed >= spec.trials and repeated >= spec.budget.repeat:
        yield (
            f"{spec.name} has run {ledger.proposed} trials, and budget.trials is {spec.trials}: nothing is left to run;"
            " write a larger number"
        )


def _waiting(folder: SweepFolder, spec: Spec) -> dict[str, TrialRecord]:
    """The trials that have not ended, by number as it is written."""
    return {str(record.number): record for record in front.look(folder, spec)[0].records if record.state == "RUNNING"}


def _place(folder: SweepFolder, spec: Spec, given: Sequence[str]) -> None:
    """Make checkpoints, given as TRIAL=CHECKPOINT, the newest of their trials, which go on from them.

    What is on record of later epochs stays there.

    Raises:
        InputError: a trial is none that can go on, or a checkpoint is none of a sweep; then none is placed.
    """
    waiting, problems, found = _waiting(folder, spec), list[str](), dict[str, tuple[str, Path]]()
    with tempfile.TemporaryDirectory() as scratch:
        for index, each in enumerate(given):
            number, _, name = each.partition("=")
            if number not in waiting:
                problems.append(
                    f"--from {each}: '{number}' is no unfinished trial; there are: {', '.join(waiting) or 'none'}"
                    " (write TRIAL=CHECKPOINT)"
                )
                continue
            if number in found:
                problems.append(f"--from {each}: trial {number} has one already, and goes on from one; take one out")
            try:
                found[number] = _fetched(each, name, Path(scratch) / str(index))
            except InputError as exc:
                problems += exc.problems
        if problems:
            raise InputError(problems)
        with folder.locked():
            waiting = _waiting(folder, spec)  # again, now that no other process can end one
            if ended := [number for number in found if number not in waiting]:
                raise InputError([f"--from: trial {number} has ended meanwhile" for number in ended])
            for number, (name, path) in found.items():
                _make_newest(folder, waiting[number], name, path)


def _fetched(given: str, name: str, into: Path) -> tuple[str, Path]:
    """A checkpoint's name and file.

    Raises:
        InputError: that is no checkpoint of a sweep.
    """
    from orchestrator.folder import CHECKPOINT
    from orchestrator.reference import fetched

    name, path = fetched(name, into)
    if not CHECKPOINT.fullmatch(path.name) or not path.is_file():
        raise InputError(f"--from {given}: {path} is no checkpoint of a sweep (epoch-0003.ckpt)")
    return name, path


def _make_newest(folder: SweepFolder, record: TrialRecord, name: str, path: Path) -> None:
    """Put a checkpoint where the trial's own are, and delete those of later epochs."""
    number, epoch = record.number, folder.epoch_of(path.name)
    target = f"trials/{number}/{path.name}"
    if folder.show(target) != str(path.resolve()):
        folder.upload(path, target)
    folder.set_source(number, name)
    folder.drop_checkpoints(number, kept={each for each in folder.checkpoints(number) if each <= epoch})
    if (last := max(record.curve, default=0)) > epoch:
        best = record.best_epoch or 0
        print(
            f"trial {number} goes back from epoch {last} to {epoch}: what it trains again stays on record as it was,"
            " and its later checkpoints are deleted"
            + (f", so that of epoch {best}, its best one, is missing until it gets there again" if best > epoch else "")
        )
