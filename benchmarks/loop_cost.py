"""What the sweep costs inside the training loop: the same module and data, bare and in a sweep, seconds per epoch.

    python -m benchmarks.loop_cost --rounds 3

Bare is Lightning's Trainer with a WandbLogger (offline) and its own checkpoint every epoch. The module writes down when
each epoch of training begins and ends, so that what is between two epochs counts: the checkpoint, the report and the
verdict here, the ModelCheckpoint there. Both run in turn, in one run, on one core each.

On machines that are not quiet the same epoch takes more or less time by tens of percent. So there are three measures
besides the median epoch: the least; the CPU's seconds in the process that trains; and what lies between the end of a
validation and the next epoch, where nothing is computed and what is done once an epoch is done. Of that the difference
is given as a share of the bare loop's least epoch.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.trials import scratch

FILE = "BENCHMARK_EPOCHS"


class Net(LightningModule):
    """A convnet on random images; an epoch takes a second or so on one core."""

    def __init__(self, *, lr: float = 0.01, images: int = 4096) -> None:
        super().__init__()
        self.images = images
        self.lr = lr
        self.validated = math.nan
        self.net = torch.nn.Sequential(
            torch.nn.Conv2d(1, 16, 3), torch.nn.ReLU(), torch.nn.Conv2d(16, 32, 3), torch.nn.ReLU(),
            torch.nn.Flatten(), torch.nn.Linear(32 * 12 * 12, 10),
        )  # fmt: skip

    def training_step(self, batch: list[torch.Tensor]) -> torch.Tensor:
        """Loss () of a batch: x (B, 1, 16, 16), y (B,)."""
        x, y = batch
        loss = torch.nn.functional.cross_entropy(self.net(x), y)
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: list[torch.Tensor]) -> None:
        """Log the loss of a batch: x (B, 1, 16, 16), y (B,)."""
        x, y = batch
        self.log("val/loss", torch.nn.functional.cross_entropy(self.net(x), y))

    def on_validation_epoch_end(self) -> None:
        """Remember that it is now."""
        self.validated = time.perf_counter()

    def on_train_epoch_start(self) -> None:
        """Write down that it is now."""
        now = time.perf_counter()
        with Path(os.environ[FILE]).open("a") as moments:
            moments.write(f"{now} {time.process_time()} {now - self.validated}\n")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain SGD."""
        return torch.optim.SGD(self.parameters(), lr=self.lr)

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches of x (64, 1, 16, 16) and y (64,)."""
        return self._loader(self.images)

    def val_dataloader(self) -> DataLoader[Any]:
        """Batches of x (64, 1, 16, 16) and y (64,)."""
        return self._loader(512)

    def _loader(self, count: int) -> DataLoader[Any]:
        drawn = torch.Generator().manual_seed(0)
        x, y = torch.rand(count, 1, 16, 16, generator=drawn), torch.randint(10, (count,), generator=drawn)
        return DataLoader(TensorDataset(x, y), batch_size=64)


def bare(folder: Path, epochs: int, images: int) -> None:
    """The same with nothing of ours."""
    torch.set_num_threads(1)  # what Ray gives a worker of one CPU
    seed_everything(0, verbose=False)
    Trainer(
        max_epochs=epochs, accelerator="cpu", num_sanity_val_steps=0, enable_progress_bar=False,
        enable_model_summary=False, logger=WandbLogger(project="bare", save_dir=folder, offline=True),
        callbacks=[ModelCheckpoint(dirpath=folder / "checkpoints", save_top_k=1)],
    ).fit(Net(images=images))  # fmt: skip


def sweep(folder: Path, epochs: int, images: int) -> None:
    """One trial of a sweep."""
    command = [
        *(sys.executable, "-m", "orchestrator.search", "trainable=benchmarks.loop_cost:Net", "metric=val/loss"),
        *("goal=minimize", "space={lr: {options: [0.01]}}", "search.sampler=grid", "schedule.scheduler=none"),
        *(f"schedule.max_epochs={epochs}", f"params.images={images}", f"storage={folder}", "tracking.mode=offline"),
    ]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_API_SERVER_ADDRESS"}
    # A short folder for Ray: the paths of its sockets may have 107 characters. And workers of the same priority as the
    # bare loop, where Ray gives them a lower one (nice 15) that other programs on the machine would make visible.
    ray = {"RAY_TMPDIR": "/tmp", "RAY_worker_niceness": "0"}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment | ray)


def epoch_s(how: str, epochs: int, images: int) -> dict[str, float]:
    """Seconds from the beginning of an epoch to the next one's, but for the first, which warms up."""
    with scratch() as folder:
        os.environ[FILE] = str(folder / "epochs")
        if how == "bare":
            command = [sys.executable, "-m", "benchmarks.loop_cost", "--bare", str(folder)]
            words = ["--epochs", str(epochs), "--images", str(images)]
            subprocess.run([*command, *words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        else:
            sweep(folder, epochs, images)
        moments = [tuple(map(float, line.split())) for line in (folder / "epochs").read_text().splitlines()]
    *clocks, between = zip(*moments[1:], strict=True)
    wall, cpu = ([after - before for before, after in pairwise(clock)] for clock in clocks)
    return {
        "median": statistics.median(wall),
        "least": min(wall),
        "cpu": statistics.median(cpu),
        "between": statistics.median(between),
    }


def main() -> None:
    """Run both in turn, round after round, and print one JSON object a round, and then the ratios with their spread."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--epochs", type=int, default=8)
    options.add_argument("--images", type=int, default=4096)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--bare", type=Path, help=argparse.SUPPRESS)
    args = options.parse_args()
    if args.bare:
        bare(args.bare, args.epochs, args.images)
        return
    ratios: dict[str, list[float]] = {}
    for _ in range(args.rounds):
        took = {how: epoch_s(how, args.epochs, args.images) for how in ("bare", "sweep")}
        for measure, bare_s in took["bare"].items():
            more = took["sweep"][measure] - bare_s
            whole = took["bare"]["least"] if measure == "between" else bare_s
            ratios.setdefault(measure, []).append(1 + more / whole)
        rounded = {how: {name: round(value, 4) for name, value in each.items()} for how, each in took.items()}
        print(json.dumps({**rounded, "load": os.getloadavg()[0]}), flush=True)
    for measure, found in ratios.items():
        spread = [round(min(found), 4), round(max(found), 4)]
        print(json.dumps({"sweep / bare": measure, "ratio": round(statistics.median(found), 4), "spread": spread}))


if __name__ == "__main__":
    main()
