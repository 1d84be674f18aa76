"""Run a trial again from its record alone, and compare."""

from __future__ import annotations

import argparse

from orchestrator import front
from orchestrator.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which trial of which sweep."""
    front.add_sweep(parser, required=True)
    parser.add_argument("number", metavar="NUMBER", type=int, help="the trial's number")


def run(arguments: argparse.Namespace) -> int:
    """Train the trial again, with the seed and hyperparameters on record; 1 where the metric is not the same.

    Raises:
        InputError: there is no such trial, or it has not reported.
    """
    folder, spec = front.find_sweep(arguments)
    ledger, _ = front.look(folder, spec)
    records = {record.number: record for record in ledger.records}
    record = records.get(arguments.number)
    if record is None:
        raise InputError(f"no trial {arguments.number} in {spec.name}; its trials are 0 to {len(records) - 1}")
    if not record.curve:
        raise InputError(
            f"trial {record.number} of {spec.name} has not reached the end of an epoch: nothing to compare"
        )
    from orchestrator import again

    print("starting workers ...", flush=True)
    replayed = again.replay(spec, folder, record)
    rows = [("epoch", f"{'recorded':>14} {'replayed':>14}")]
    rows += [
        (str(epoch), f"{was:>14.8g} {replayed.get(epoch, float('nan')):>14.8g}") for epoch, was in record.curve.items()
    ]
    front.print_rows(rows)
    same = replayed == dict(record.curve)
    print(f"\n{spec.metric} is {'the same' if same else 'not the same'} in every epoch")
    return 0 if same else 1
