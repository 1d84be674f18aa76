"""The best trial, and its checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path

from orchestrator import front
from orchestrator.errors import SweepError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of which sweep, and where its checkpoint goes."""
    front.add_sweep(parser, required=False)
    parser.add_argument("--download", metavar="DIR", type=Path, help="copy its checkpoint there")


def run(arguments: argparse.Namespace) -> int:
    """Print the winner's hyperparameters, and fetch its checkpoint.

    Raises:
        SweepError: no trial has reached the end of an epoch, or its checkpoint was not kept.
    """
    from orchestrator import ranking

    folder, spec = front.find_sweep(arguments)
    ledger, _ = front.look(folder, spec)
    winner = next(iter(ranking.ranked(spec.goal, ledger.records)), None)
    if winner is None:
        raise SweepError(f"{spec.name} has no best trial yet: none has reached the end of an epoch")
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
    front.print_rows(rows)
    return 0
