"""Run a sweep."""

from __future__ import annotations

import argparse
from datetime import datetime
from typing import TYPE_CHECKING

from orchestrator import front
from orchestrator.errors import InputError

if TYPE_CHECKING:
    from orchestrator.spec import Spec


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to search, and whether to do it."""
    front.add_spec(parser)
    front.add_cluster(parser, "run it there, and follow it from here")
    parser.add_argument("--dry-run", action="store_true", help="print what would run, and start nothing")


def run(arguments: argparse.Namespace) -> int:
    """Run the sweep to its end, and say what it found.

    Raises:
        InputError: what was asked for is not to be had together.
    """
    from orchestrator.spec import resolve

    if arguments.cluster is not None and arguments.dry_run:
        raise InputError(
            f"--dry-run looks at this machine, and not at cluster={arguments.cluster}: leave one of them out"
        )
    given = front.read_spec(arguments.words)
    spec = resolve(given, datetime.now())
    if arguments.cluster is not None:
        return _run_there(arguments.cluster, given, spec.name or "")
    if arguments.dry_run:
        return _dry_run(spec)
    from orchestrator import progress, sweep

    return front.run_sweep(lambda: sweep.start(spec, progress.view))


def _run_there(cluster_file: str, spec: Spec, name: str) -> int:
    """Start it on a cluster's head, and show it here; paths, key and storage are that machine's."""
    from orchestrator.remote import Head

    head = Head(cluster_file)
    head.submit(spec, name)
    return front.follow(head, name, cluster_file)


def _dry_run(spec: Spec) -> int:
    from orchestrator import auto, capacity, cluster, earlier

    at_once = capacity.concurrency(spec.resources, cluster.nodes(), spec.trials)
    print(spec.to_yaml())
    front.print_rows([("space", ""), *((f"  {name}", text) for name, text in spec.load_space().rows())])
    print(f"\n{spec.trials} trials, {at_once.trials} at once: {at_once.reason}")
    chosen, why = auto.settle(spec, at_once.trials)
    print(f"sampler {chosen.search.sampler}: {why}", *earlier.gather(chosen)[1], sep="\n")
    return 0
