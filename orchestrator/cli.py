"""The command line: verbs, their help, and what they print. Whatever is heavy is imported by the verb that needs it."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator import catalog
from orchestrator.errors import InputError, OrchestratorError

if TYPE_CHECKING:
    from orchestrator.folder import SweepFolder
    from orchestrator.ledger import Ledger, TrialRecord
    from orchestrator.results import Status
    from orchestrator.spec import Spec

EXAMPLES = """\
examples:
  python -m orchestrator.search                                   the default sweep, here and now
  python -m orchestrator.search digits_ddp budget.trials=50       a sweep from sweeps/, with an override
  python -m orchestrator.search my_sweep.yaml --dry-run           what would run, and why
  python -m orchestrator status                                   the newest sweep in ./results
  python -m orchestrator best digits-20261120-201500 --download winner
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code: 0, 1 for what went wrong, 2 for input that breaks rules."""
    sys.path[:0] = [] if os.getcwd() in sys.path or "" in sys.path else [os.getcwd()]  # as `python -m` does
    parser = _parser()
    arguments, more = parser.parse_known_args(argv)
    if any(word.startswith("-") or "=" not in word for word in more) or (more and "words" not in arguments):
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    if more:  # argparse takes what stands before the first option only
        arguments.words += more
    verb: Callable[[argparse.Namespace], int] = arguments.verb
    try:
        return verb(arguments)
    except InputError as exc:
        print("\n".join(f"error: {problem}" for problem in exc.problems), file=sys.stderr)
        return exc.exit_code
    except OrchestratorError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return exc.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m orchestrator",
        description="Hyperparameter sweeps for PyTorch Lightning on Ray, with Optuna and Weights & Biases.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)

    def add(name: str, verb: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False)
        sub.set_defaults(verb=verb)
        return sub

    def add_spec(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("words", nargs="*", metavar="SWEEP.yaml | key=value",
                         help="a sweep's file or a name from sweeps/ (default: 'default'), then overrides")  # fmt: skip

    search = add("search", _search, "run a sweep")
    add_spec(search)
    search.add_argument("--dry-run", action="store_true", help="print what would run, and start nothing")
    add_spec(add("validate", _validate, "check a sweep's file and overrides, and start nothing"))
    resumed = add("resume", _resume, "go on with a sweep that was stopped, killed, or should get a larger budget")
    _add_sweep(resumed, required=True)
    resumed.add_argument("words", nargs="*", metavar="key=value", help="e.g. budget.trials=100")
    status = add("status", _status, "what runs and what is best, of a live sweep or a dead one")
    _add_sweep(status, required=False)
    status.add_argument("--json", action="store_true", help="print what results.json holds")
    best = add("best", _best, "the best trial, and its checkpoint")
    _add_sweep(best, required=False)
    best.add_argument("--download", metavar="DIR", type=Path, help="copy its checkpoint there")
    for kind, text in (("trainables", "list what can be trained"), ("spaces", "list what can be searched")):
        add(kind, _listing(kind), text)
    return parser


def _add_sweep(sub: argparse.ArgumentParser, *, required: bool) -> None:
    sub.add_argument("sweep", nargs=None if required else "?", metavar="SWEEP",
                     help="a sweep's name, folder or URL" + ("" if required else " (default: the newest)"))  # fmt: skip
    sub.add_argument("--storage", default="./results", help="where its name is looked for (default: %(default)s)")


def _read_spec(words: Sequence[str]) -> Spec:
    from orchestrator import spec

    files = [word for word in words if "=" not in word]
    if len(files) > 1:
        raise InputError(f"one sweep at a time, not {len(files)}: {', '.join(files)}; overrides are key=value")
    return spec.read(files[0] if files else None, [word for word in words if "=" in word])


def _search(arguments: argparse.Namespace) -> int:
    from orchestrator.spec import resolve

    spec = resolve(_read_spec(arguments.words), datetime.now())
    if arguments.dry_run:
        return _dry_run(spec)
    from orchestrator import progress, sweep

    return _run(lambda: sweep.start(spec, progress.view))


def _resume(arguments: argparse.Namespace) -> int:
    from orchestrator import spec as specs

    folder, spec = _find(arguments)
    if arguments.words:
        changed = specs.resolve(specs.check(spec.model_dump(mode="json"), arguments.words), datetime.now())
        fixed = ("name", "storage", "trainable", "space", "params", "metric", "goal")
        if problems := [
            f"{key} is part of what the sweep is, and stays; start a new sweep for another"
            for key in fixed
            if getattr(changed, key) != getattr(spec, key)
        ]:
            raise InputError(problems)
        spec = changed
    from orchestrator import progress, sweep

    return _run(lambda: sweep.resume(folder, spec, progress.view))


def _run(run: Callable[[], object]) -> int:
    from orchestrator import progress
    from orchestrator.sweep import Sweep

    began = time.monotonic()
    sweep = run()
    assert isinstance(sweep, Sweep)
    records, console = sweep.ledger.records, progress.make_console()
    progress.summary(console, sweep.spec, sweep.folder, records, time.monotonic() - began)
    if sweep.exit_code:
        console.print(f"\nto go on: python -m orchestrator resume {sweep.folder.show('').rstrip('/')}", soft_wrap=True)
    return sweep.exit_code


def _dry_run(spec: Spec) -> int:
    from orchestrator import capacity, cluster

    at_once = capacity.concurrency(spec.resources, cluster.capacity(), spec.trials)
    print(spec.to_yaml())
    _print_rows([("space", ""), *((f"  {name}", text) for name, text in spec.load_space().rows())])
    print(f"\n{spec.trials} trials, {at_once.trials} at once: {at_once.reason}")
    return 0


def _validate(arguments: argparse.Namespace) -> int:
    spec = _read_spec(arguments.words)
    print(f"valid: {spec.trainable if isinstance(spec.trainable, str) else spec.trainable.model.class_path}"
          f" over {len(spec.load_space())} parameters, {spec.goal} {spec.metric}")  # fmt: skip
    return 0


def _status(arguments: argparse.Namespace) -> int:
    from orchestrator import results

    folder, spec = _find(arguments)
    ledger, status = _look(folder, spec)
    document = results.build(spec, folder, ledger.records, status)
    if arguments.json:
        print(json.dumps(document, indent=1))
        return 0
    from orchestrator.progress import Progress, make_console, trial_table

    console = make_console()
    running = [record for record in ledger.records if record.state == "RUNNING"]
    console.print(f"{spec.name}: {status}  {Progress(console, spec, ledger).line()}")
    for title, records in (
        ("running" if status == "running" else "to be resumed", running),
        ("best", _ranked(spec, ledger)[:5]),
        ("failed", [record for record in ledger.records if record.state == "FAIL"][-5:]),
    ):
        if records:
            console.print(f"\n{title}", style="bold")
            console.print(trial_table(spec, records))
    for trial in document["trials"]:
        if trial["error"] and trial["state"] == "FAIL":
            console.print(f"trial {trial['number']}: {trial['error']}", soft_wrap=True, markup=False)
    if status != "running" and (running or status in ("dead", "interrupted")):
        console.print(f"\nto go on: python -m orchestrator resume {folder.show('').rstrip('/')}", soft_wrap=True)
    return 0


def _best(arguments: argparse.Namespace) -> int:
    from orchestrator.errors import SweepError

    folder, spec = _find(arguments)
    ledger, _ = _look(folder, spec)
    ranked = _ranked(spec, ledger)
    if not ranked:
        raise SweepError(f"{spec.name} has no best trial yet: none has reached the end of an epoch")
    winner = ranked[0]
    rows = [("trial", str(winner.number)), (spec.metric, f"{winner.value:.6g}"), ("epoch", str(winner.best_epoch))]
    rows += [(name, str(value)) for name, value in winner.params.items()]
    if arguments.download:
        if winner.checkpoint is None:
            raise SweepError(f"the checkpoint of trial {winner.number} was not kept (checkpoints.keep)")
        target = arguments.download / f"{spec.name}-{winner.number}.ckpt"
        folder.download(winner.checkpoint, target)
        rows.append(("downloaded", str(target)))
    elif winner.checkpoint:
        rows.append(("checkpoint", folder.show(winner.checkpoint)))
    _print_rows(rows)
    return 0


def _listing(kind: str) -> Callable[[argparse.Namespace], int]:
    def listing(_: argparse.Namespace) -> int:
        found = catalog.names({"trainables": catalog.TRAINABLES, "spaces": catalog.SPACES}[kind])
        _print_rows([(name, catalog.summary(path)) for name, path in found.items()])
        return 0

    return listing


def _find(arguments: argparse.Namespace) -> tuple[SweepFolder, Spec]:
    """The folder and the spec of a sweep, by name, folder or URL; the newest in the storage where none is given."""
    from orchestrator.folder import SweepFolder, sweeps_in
    from orchestrator.naming import near_miss
    from orchestrator.spec import Spec

    reference: str | None = arguments.sweep
    storage: str = arguments.storage
    known = sweeps_in(storage) if reference is None or "/" not in reference else []
    if reference is None:
        if not known:
            raise InputError(f"no sweep in {storage}; name one, or say where with --storage")
        reference = known[-1]
    elif "/" in reference:
        place, mark, options = reference.partition("?")  # of a URL, such as S3's endpoint_override
        storage, _, reference = place.rstrip("/").rpartition("/")
        storage += mark + options
    folder = SweepFolder(storage or "/", reference)
    if not folder.exists():
        there = f" there are: {', '.join(known)}" if known else f" --storage is {storage}"
        raise InputError(f"no sweep '{reference}' in {storage}{near_miss(reference, known) or ';'}{there}")
    spec = Spec.from_yaml(folder.read_text("sweep.yaml"))
    return folder, spec.model_copy(update={"storage": folder.storage})  # the folder may have been moved


def _look(folder: SweepFolder, spec: Spec) -> tuple[Ledger, Status]:
    """A sweep's ledger, to read, and how it stands."""
    from orchestrator.ledger import Ledger
    from orchestrator.results import Status

    runs = folder.is_locked()  # before its last word is read, which it may just be writing
    said = Status(json.loads(folder.read_text("results.json"))["status"]) if folder.has("results.json") else None
    status = Status.DEAD if said in (None, Status.RUNNING) and not runs else said or Status.RUNNING
    return Ledger(folder, spec, read_only=True), status


def _ranked(spec: Spec, ledger: Ledger) -> list[TrialRecord]:
    from orchestrator import ranking

    return ranking.ranked(spec.goal, ledger.records)


def _print_rows(rows: Sequence[tuple[str, str]]) -> None:
    width = max((len(name) for name, _ in rows), default=0)
    for name, text in rows:
        print(f"{name:<{width}}  {text}".rstrip())
