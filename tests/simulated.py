"""A sweep's ledger as a sweep of real trials would have left it: two slots, early stopping, a few failures.

`python tests/simulated.py TRIALS FOLDER` writes one, to look at its report.
"""

from __future__ import annotations

import json
import math
import random
import sys
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any
from unittest.mock import patch

from orchestrator import ledger as ledgers
from orchestrator.folder import SweepFolder
from orchestrator.ledger import Ledger
from orchestrator.messages import Ended, Outcome, Report, Started
from orchestrator.spec import DEFAULT_PROJECT, Spec

SPACE: dict[str, Any] = {
    "optimizer": {"options": ["sgd", "adamw"]},
    "lr": {"type": "float", "low": 1e-4, "high": 1e-1, "log": True},
    "momentum": {"type": "float", "low": 0.5, "high": 0.99, "when": {"optimizer": "sgd"}},
    "weight_decay": {"type": "float", "low": 1e-6, "high": 1e-2, "log": True},
    "channels": {"type": "int", "low": 8, "high": 64, "step": 8},
    "dropout": {"type": "float", "low": 0.0, "high": 0.5},
}
MAX_EPOCHS, RUNGS = 27, (3, 9)


def simulate(storage: Path, trials: int, **changes: Any) -> tuple[SweepFolder, Spec]:
    """Write the folder of a sweep of so many trials; `changes` are of its spec."""
    data = {
        "name": f"simulated-{trials}", "trainable": "digits", "space": SPACE, "metric": "val/accuracy",
        "goal": "maximize", "search": {"sampler": "random", "seed": 7}, "storage": str(storage),
        "budget": {"trials": trials}, "schedule": {"max_epochs": MAX_EPOCHS, "grace_epochs": RUNGS[0]},
        "tracking": {"project": DEFAULT_PROJECT}, **changes,
    }  # fmt: skip
    spec = Spec.model_validate(data)
    folder = SweepFolder(spec.storage, spec.name or "")
    folder.create()
    clock = _Clock()
    with (
        patch("os.fsync"),
        patch.object(ledgers, "_now", clock.now),
        patch("optuna.storages.journal._storage.datetime", clock),
    ):
        ledger = Ledger(folder, spec, create=True)
        free_at = {f"slot-{number}": clock.at for number in range(2)}
        for _ in range(trials):
            slot = min(free_at, key=lambda name: free_at[name])
            clock.at = free_at[slot]
            free_at[slot] = _trial(ledger, slot, clock)
    folder.write_text("results.json", json.dumps({"status": "finished"}))
    folder.write_text("sweep.yaml", spec.to_yaml())
    return folder, spec


class _Clock:
    """Stands in for `datetime` where Optuna stamps its entries."""

    def __init__(self) -> None:
        self.at = datetime(2026, 11, 20, 9, 30).astimezone()

    def now(self, tz: tzinfo | None = None) -> datetime:
        return self.at.astimezone(tz)

    def __getattr__(self, name: str) -> Any:
        return getattr(datetime, name)


def _trial(ledger: Ledger, slot: str, clock: _Clock) -> datetime:
    record = ledger.ask()
    ledger.start(Started(number=record.number, slot=slot, wandb_run=f"wandb/run-{record.number}"))
    chance = random.Random(record.number)
    top, speed = _quality(record.params) + chance.gauss(0, 0.006), chance.uniform(0.25, 0.6)
    fails_at = chance.randint(1, 5) if chance.random() < 0.02 else None
    curve = {
        epoch: max(0.1, min(0.999, top * (1 - 0.9 * math.exp(-speed * epoch)) + chance.gauss(0, 0.004)))
        for epoch in range(1, MAX_EPOCHS + 1)
    }
    for epoch, value in curve.items():
        clock.at += timedelta(seconds=0.9 + record.params["channels"] / 40)
        best = max((each for each in curve if each <= epoch), key=lambda each: curve[each])
        if epoch == fails_at:
            outcome, error = Outcome.FAILED, "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"
            break
        path = f"trials/{record.number}/epoch-{best:04d}.ckpt"
        ledger.report(
            Report(
                number=record.number,
                epoch=epoch,
                value=value,
                metrics={"val/loss": 1 - value, "latency_ms": record.params["channels"] / 8},
                best_epoch=best,
                checkpoint=path,
                best_checkpoint=path,
            )
        )
        outcome, error = Outcome.COMPLETE, None
        if epoch in RUNGS and value < _bar(ledger, epoch):
            outcome = Outcome.PRUNED
            break
    ledger.end(Ended(number=record.number, outcome=outcome, error=error))
    return clock.at + timedelta(seconds=0.5)


def _quality(params: Any) -> float:
    momentum = params.get("momentum", 0.9)
    off = (math.log10(params["lr"]) + 2.3) ** 2 / 14 + (params["dropout"] - 0.15) ** 2 / 3 + (momentum - 0.9) ** 2 / 2
    return 0.985 - off - 0.1 / params["channels"]


def _bar(ledger: Ledger, epoch: int) -> float:
    """What a third of the trials had reached by then."""
    values = sorted(record.curve[epoch] for record in ledger.records if epoch in record.curve)
    return values[len(values) * 2 // 3]


if __name__ == "__main__":
    print(simulate(Path(sys.argv[2]), int(sys.argv[1]))[0].show(""))
