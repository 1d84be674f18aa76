"""What the verbs share: reading a spec from words, finding a sweep that was run, printing rows."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from orchestrator.errors import InputError
from orchestrator.naming import closest, default_storage

if TYPE_CHECKING:
    from orchestrator.folder import SweepFolder
    from orchestrator.ledger import Ledger
    from orchestrator.messages import Command
    from orchestrator.remote import Head
    from orchestrator.results import Status
    from orchestrator.spec import Spec


def add_spec(parser: argparse.ArgumentParser) -> None:
    """Arguments that name a sweep's file and overrides; `read_spec` reads them."""
    parser.add_argument("words", nargs="*", metavar="SWEEP.yaml | key=value",
                        help="a sweep's file or a name from sweeps/ (default: 'default'), then overrides")  # fmt: skip


def take_cluster(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """The file in `cluster=FILE`, if there is one among the words, and the others.

    Raises:
        InputError: a word was probably meant to be that.
    """
    from orchestrator.spec import Spec

    known = ["cluster", *Spec.model_fields]
    for word in words:
        key, mark, file = word.partition("=")
        if mark and key not in known and "." not in key and closest(key, known) == "cluster":
            raise InputError(f"unknown key '{key}'; did you mean 'cluster={file}'?")
    files = [word.partition("=")[2] for word in words if word.startswith("cluster=")]
    return (files[-1] if files else None), [word for word in words if not word.startswith("cluster=")]


def add_cluster(parser: argparse.ArgumentParser, text: str) -> None:
    """Let a verb take `cluster=FILE`, which `cli` takes out of its words: the file is then in `arguments.cluster`."""
    parser.set_defaults(cluster=None)
    parser.epilog = f"cluster=FILE, the file that was given to `ray up`: {text}"


def read_spec(words: Sequence[str]) -> Spec:
    """The checked spec of a sweep's file or name and its overrides.

    Raises:
        InputError: with every problem found.
    """
    from orchestrator import spec

    if "=" in words:
        at = words.index("=")
        raise InputError(f"an override has no spaces: write {''.join(words[max(0, at - 1) : at + 2])}")
    files = [word for word in words if "=" not in word]
    if len(files) > 1:
        raise InputError(f"one sweep at a time, not {len(files)}: {', '.join(files)}; overrides are key=value")
    overrides = [word for word in words if "=" in word]
    return spec.read(files[0] if files else None, overrides, lambda text: print(f"note: {text}", file=sys.stderr))


def run_there(arguments: argparse.Namespace) -> int:
    """Run the verb, as it was given, on the head of the cluster that it names; its exit code there."""
    from orchestrator.remote import Head

    return Head(arguments.cluster).run(arguments.given)


def follow(head: Head, job: str, file: str) -> int:
    """Show here what a job does on a head, whatever becomes of this process; its exit code."""
    print(f"{job} runs on the head of {file}; should this end before it, look again with")
    print(f"  python -m orchestrator attach {job} cluster={file}", flush=True)
    return head.follow(job)


def add_sweep(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Arguments that name a sweep that was run; `find_sweep` finds it."""
    text = "a sweep's name, folder or URL" + ("" if required else " (default: the newest)")
    parser.add_argument("sweep", nargs=None if required else "?", metavar="SWEEP", help=text)
    parser.add_argument("--storage", default=default_storage(os.environ),
                        help="where its name is looked for (default: %(default)s)")  # fmt: skip


def find_sweep(arguments: argparse.Namespace) -> tuple[SweepFolder, Spec]:
    """The folder and the spec of a sweep, by name, folder or URL; the newest in the storage where none is given.

    Raises:
        InputError: there is none.
    """
    from orchestrator.folder import find
    from orchestrator.spec import Spec

    folder = find(arguments.sweep, arguments.storage, where="--storage")
    spec = Spec.from_yaml(folder.read_text("sweep.yaml"))
    return folder, spec.model_copy(update={"storage": folder.storage})  # the folder may have been moved


def look(folder: SweepFolder, spec: Spec) -> tuple[Ledger, Status]:
    """A sweep's ledger, to read, and how it stands."""
    from orchestrator.ledger import Ledger
    from orchestrator.results import ALIVE, Status

    runs = folder.is_run()  # before its last word is read, which it may just be writing
    said = Status(json.loads(folder.read_text("results.json"))["status"]) if folder.has("results.json") else None
    status = Status.DEAD if said in (None, *ALIVE) and not runs else said or Status.RUNNING
    return Ledger(folder, spec, read_only=True), status


# How long a proposal that nobody will ask for may still take when a sweep has ended.
THOUGHT_S = 10.0


def run_sweep(run: Callable[[], object]) -> int:
    """Run a sweep, show its end, and return the exit code."""
    from orchestrator import aside, progress
    from orchestrator.results import Status
    from orchestrator.sweep import Sweep

    began = time.monotonic()
    try:
        sweep = run()
        assert isinstance(sweep, Sweep)
        records, console = sweep.ledger.records, progress.make_console()
        elapsed_s = time.monotonic() - began
        progress.summary(
            console, sweep.spec, sweep.folder, records, elapsed_s, status=sweep.status, missing=sweep.missing != []
        )
        progress.print_advice(console, sweep.spec, sweep.ledger)
        if sweep.status in (Status.INTERRUPTED, Status.STOPPED, Status.CANCELLED):
            console.print(
                f"\nto go on: python -m orchestrator resume {sweep.folder.show('').rstrip('/')}", soft_wrap=True
            )
        return sweep.exit_code
    finally:
        aside.wait(THOUGHT_S)


def print_rows(rows: Sequence[tuple[str, str]]) -> None:
    """Print names and texts in two columns."""
    width = max((len(name) for name, _ in rows), default=0)
    for name, text in rows:
        print(f"{name:<{width}}  {text}".rstrip())


# How long a sweep may take to do what it was asked: it looks every second, unless its storage is slow.
OBEY_TIMEOUT_S = 30.0


def ask(arguments: argparse.Namespace, command: Command) -> int:
    """Ask a sweep that runs, in this terminal's name, and wait until it has heard.

    Raises:
        InputError: it does not run.
        SweepError: it did not answer.
    """
    from orchestrator import control
    from orchestrator.errors import SweepError
    from orchestrator.messages import Command
    from orchestrator.results import Status

    if arguments.cluster is not None:
        return run_there(arguments)
    folder, spec = find_sweep(arguments)
    _, status = look(folder, spec)
    if not folder.is_run():
        more = "nothing of it is left to run" if status is Status.FINISHED else "`resume` goes on with it"
        raise InputError(f"{spec.name} is {status}: no process runs it; {more}")
    obeyed = {
        Command.PAUSE: (Status.PAUSED,),
        Command.RESUME: (Status.RUNNING,),
        Command.STOP: (Status.STOPPED, Status.FINISHED),
        Command.CANCEL: (Status.CANCELLED,),
    }[command]
    control.ask(folder, command)
    deadline = time.monotonic() + OBEY_TIMEOUT_S
    while (said := look(folder, spec)[1]) not in obeyed:
        if time.monotonic() > deadline or not folder.is_run():
            raise SweepError(f"{spec.name} is {said}, and did not {command} within {OBEY_TIMEOUT_S:g} s")
        time.sleep(0.2)
    print(f"{spec.name} is {said}")
    return 0
