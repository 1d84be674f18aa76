"""Save a view of a sweep in W&B, made for comparing its trials."""

from __future__ import annotations

import argparse

from orchestrator import front


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of which sweep, and in which form."""
    front.add_sweep(parser, required=False)
    parser.add_argument("--report", action="store_true", help="as a W&B report, instead of a view of the project")


def run(arguments: argparse.Namespace) -> int:
    """Save it and print its URL.

    Raises:
        InputError: the sweep is not in W&B.
        TrackingError: W&B cannot be reached, or refuses.
    """
    from orchestrator import workspace

    folder, spec = front.find_sweep(arguments)
    ledger, _ = front.look(folder, spec)
    print(workspace.save(spec, ledger.recall("wandb_sweep"), as_report=arguments.report))
    return 0
