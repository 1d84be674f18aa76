"""Test the winner on the held-out test split."""

from __future__ import annotations

import argparse

from orchestrator import front
from orchestrator.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which sweep's, and whether to train it again."""
    front.add_sweep(parser, required=False)
    parser.add_argument("--seeds", metavar="N", type=int, default=0,
                        help="besides, train it again with N other seeds and test each")  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Test the winner's checkpoint, and note what was measured in the ledger and in its W&B run.

    Raises:
        InputError: the sweep still runs, or has no winner whose checkpoint was kept.
    """
    folder, spec = front.find_sweep(arguments)
    if arguments.seeds < 0:
        raise InputError(f"--seeds is {arguments.seeds}; it is a number from 0")
    from orchestrator import again

    print("starting workers ...", flush=True)
    winner, metrics = again.evaluate(spec, folder, seeds=arguments.seeds)
    front.print_rows([("trial", str(winner)), *((name, f"{value:.6g}") for name, value in metrics.items())])
    return 0
