"""The trials that every yardstick runs, and the stamps that time them."""

from __future__ import annotations

import json
import math
import os
import random
import statistics
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import wandb
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything

from benchmarks import STARTED
from trainables.digits import Digits, DigitsNet

LR = (1e-3, 1e-2)
DROPOUT = (0.0, 0.5)


def parser(description: str | None) -> ArgumentParser:
    """The command line that the yardsticks share."""
    parser = ArgumentParser(description=description)
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3, help="of every trial: none is stopped early")
    return parser


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for all that a yardstick writes; wandb and ray leave temporary files behind, so those go there too."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        before = os.environ.get("TMPDIR")
        os.environ["TMPDIR"] = tempfile.tempdir = folder
        try:
            yield Path(folder)
        finally:  # the next one must not be made in this one, which is gone by then
            tempfile.tempdir = None
            os.environ.pop("TMPDIR")
            if before is not None:
                os.environ["TMPDIR"] = before


def configurations(trials: int) -> list[dict[str, Any]]:
    """The same hyperparameters for every yardstick; none that changes how long a trial takes."""
    rng = random.Random(0)
    return [{"lr": math.exp(rng.uniform(*map(math.log, LR))), "dropout": rng.uniform(*DROPOUT)} for _ in range(trials)]


class Stamps(Callback):
    """A file of moments, a line each, that rank 0 of every trial adds to."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def add(self, moment: str) -> None:
        """Write down that it is now."""
        with self.file.open("a") as lines:
            lines.write(json.dumps([moment, time.time()]) + "\n")

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A metric is there."""
        if trainer.is_global_zero and not trainer.sanity_checking:
            self.add("metric")

    def summary(self, began: float) -> dict[str, Any]:
        """What the stamps say of a sweep that `began` then, its imports done."""
        times: dict[str, list[float]] = {"start": [], "metric": [], "end": []}
        for line in self.file.read_text().splitlines():
            moment, when = json.loads(line)
            times[moment].append(when)
        starts, ends = times["start"], times["end"]
        trial_s = _gaps([began, *ends[:-1]], ends)
        return {
            "trials": len(ends),
            "trial_s": trial_s,  # from the end of the fit before, so that nothing between two fits is left out
            "fit_s": _gaps(starts, ends),
            "overhead_s": _gaps(ends[:-1], starts[1:]),
            "trials_per_minute": round(60 / statistics.median(trial_s), 2),
            "first_metric_s": round(times["metric"][0] - STARTED, 3),
        }


def fit(trainer: Trainer, config: dict[str, Any], data: Digits, stamps: Stamps) -> None:
    """Run one trial and end its W&B run, which Lightning leaves open."""
    seed_everything(0, verbose=False)
    model = DigitsNet(**config)
    if trainer.is_global_zero:
        stamps.add("start")
    trainer.fit(model, data)
    if trainer.is_global_zero:
        stamps.add("end")
        wandb.finish()


def _gaps(since: list[float], until: list[float]) -> list[float]:
    return [round(b - a, 3) for a, b in zip(since, until, strict=True)]
