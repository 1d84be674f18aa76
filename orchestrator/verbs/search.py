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

    spec = resolve(front.read_spec(arguments.words), datetime.now())
    if arguments.dry_run:
        return _dry_run(spec)
    from orchestrator import progress, sweep

    return front.run_sweep(lambda: sweep.start(spec, progress.view))


def _dry_run(spec: Spec) -> int:
    from orchestrator import auto, capacity, cluster, earlier

    at_once = capacity.concurrency(spec.resources, cluster.capacity(), spec.trials)
    print(spec.to_yaml())
    front.print_rows([("space", ""), *((f"  {name}", text) for name, text in spec.load_space().rows())])
    print(f"\n{spec.trials} trials, {at_once.trials} at once: {at_once.reason}")
    chosen, why = auto.settle(spec, at_once.trials)
    print(f"sampler {chosen.search.sampler}: {why}", *earlier.gather(chosen)[1], sep="\n")
    return 0
