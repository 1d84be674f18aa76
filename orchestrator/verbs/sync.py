"""Bring everything of a sweep that is only on disk to W&B, into its sweep there."""

from __future__ import annotations

import argparse

from orchestrator import front
from orchestrator.errors import TrackingError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which sweep."""
    front.add_sweep(parser, required=True)


def run(arguments: argparse.Namespace) -> int:
    """Bring it up, and say what is there; what already is stays as it is.

    Raises:
        TrackingError: the server cannot be reached or refuses, or something did not arrive.
    """
    from orchestrator import sync
    from orchestrator.progress import many

    folder, spec = front.find_sweep(arguments)
    with folder.locked():
        told = sync.sync(folder, spec, say=print)
    was = "was" if told.there == 1 else "were"
    print(f"{many(told.arrived, 'run')} brought to W&B, {told.there} {was} there: {told.address}")
    if told.missing:
        raise TrackingError(
            "not, or not wholly, in W&B: " + "; ".join(f"{run} ({why})" for run, why in told.missing.items())
        )
    return 0
