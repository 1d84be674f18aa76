"""Run a sweep."""

from __future__ import annotations

import argparse
from datetime import datetime
from typing import TYPE_CHECKING

from orchestrator import front

if TYPE_CHECKING:
    from orchestrator.spec import Spec


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to search, and whether to do it."""
    front.add_spec(parser)
    parser.add_argument("--dry-run", action="store_true", help="print what would run, and start nothing")


def run(arguments: argparse.Namespace) -> int:
    """Run the sweep to its end, and say what it found."""
    from orchestrator.spec import resolve

    cluster_file, words = front.take_cluster(arguments.words)
    given = front.read_spec(words)
    spec = resolve(given, datetime.now())
    if cluster_file and not arguments.dry_run:
        return _run_there(cluster_file, given, spec.name or "")
    if arguments.dry_run:
        return _dry_run(spec)
    from orchestrator import progress, sweep

    return front.run_sweep(lambda: sweep.start(spec, progress.view))


def _run_there(cluster_file: str, spec: Spec, name: str) -> int:
    """Start it on a cluster's head, and show it here; paths, key and storage are that machine's."""
    from orchestrator.remote import Head

    head = Head(cluster_file)
    head.submit(spec, name)
    print(f"{name} runs on the head of {cluster_file}; should this end before it, look again with")
    print(f"  python -m orchestrator attach {name} cluster={cluster_file}", flush=True)
    return head.follow(name)


def _dry_run(spec: Spec) -> int:
    from orchestrator import auto, capacity, cluster, earlier

    at_once = capacity.concurrency(spec.resources, cluster.nodes(), spec.trials)
    print(spec.to_yaml())
    front.print_rows([("space", ""), *((f"  {name}", text) for name, text in spec.load_space().rows())])
    print(f"\n{spec.trials} trials, {at_once.trials} at once: {at_once.reason}")
    chosen, why = auto.settle(spec, at_once.trials)
    print(f"sampler {chosen.search.sampler}: {why}", *earlier.gather(chosen)[1], sep="\n")
    return 0
