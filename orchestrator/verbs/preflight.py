"""Look whether a sweep could run on every node of the cluster, and whether W&B would take its runs."""

from __future__ import annotations

import argparse
from datetime import datetime

from orchestrator import front
from orchestrator.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of which sweep."""
    front.add_spec(parser)


def run(arguments: argparse.Namespace) -> int:
    """Say what is wrong, all of it at once; nothing is trained.

    Raises:
        InputError: with every problem found.
    """
    from orchestrator import spec as specs

    spec = specs.resolve(front.read_spec(arguments.words), datetime.now())
    from orchestrator import capacity, cluster, preflight
    from orchestrator.errors import TrackingError
    from orchestrator.folder import SweepFolder
    from orchestrator.page import Page

    problems: list[str] = []
    fits = ""
    with cluster.connected():
        try:
            at_once = capacity.concurrency(spec.resources, cluster.nodes(), spec.trials)
            fits = f"{at_once.trials} trials at once; {at_once.reason}"
        except InputError as exc:
            problems += exc.problems
        found = preflight.check(spec, SweepFolder(spec.storage, spec.name or ""))
        problems += found.problems
    if spec.tracking.mode == "online":  # asked for here only: a sweep writes its runs to disk, and starts without
        try:
            Page(spec).connect()
        except TrackingError as exc:
            problems.append(str(exc))
    print(*found.remarks, sep="\n", end="\n" * bool(found.remarks))
    if problems:
        raise InputError(problems)
    print(f"all is well: {fits}")
    return 0
