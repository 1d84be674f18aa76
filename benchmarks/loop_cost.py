"""What the sweep costs inside the training loop: the same module and data, bare and in a sweep, seconds per epoch.

    python -m benchmarks.loop_cost --epochs 61

Bare is Lightning's Trainer with a WandbLogger (offline) and its own checkpoint every epoch. Both have one core, and
train in turn, a few epochs each: while one trains the other stands still at the beginning of an epoch. So both have the
same machine whatever else happens on it, and every turn of the sweep is compared with the bare ones before and after.

An epoch is from its beginning to the end of all that is done before the next one can begin: checkpoint, report and
verdict here, log and ModelCheckpoint there. Besides the clock there are the CPU's seconds of the process that trains,
all its threads, and what lies between the end of a validation and the next epoch, where nothing is computed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.trials import scratch

FOLDER, BLOCK = "BENCHMARK_FOLDER", "BENCHMARK_BLOCK"
SIDES = ("bare", "sweep")
# How long the other one may take to its next turn; a sweep's start takes the longest.
PATIENCE_S = 300.0
RESAMPLES = 10_000


class Turns:
    """Who trains: one process of two, which hand it on."""

    def __init__(self, folder: Path, side: str) -> None:
        other = SIDES[1 - SIDES.index(side)]
        self._mine, self._theirs = (os.open(folder / name, os.O_RDWR) for name in (side, other))  # two FIFOs

    def give(self) -> None:
        """Let the other one train."""
        os.write(self._theirs, b"!")

    def take(self) -> None:
        """Wait until the other one lets this one train.

        Raises:
            TimeoutError: it does not.
        """
        if not select.select([self._mine], [], [], PATIENCE_S)[0]:
            raise TimeoutError(f"the other side gave no turn in {PATIENCE_S:g} s")
        os.read(self._mine, 1)


class Net(LightningModule):
    """A convnet on random images; an epoch takes a second or so on one core."""

    def __init__(self, *, lr: float = 0.01, images: int = 4096) -> None:
        super().__init__()
        self.images = images
        self.lr = lr
        self.validated = self.began = self.began_cpu = math.nan
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

    def on_fit_start(self) -> None:
        """Whose turn it is."""
        side = "sweep" if ray.is_initialized() else "bare"
        self.turns, self.lines = Turns(Path(os.environ[FOLDER]), side), Path(os.environ[FOLDER]) / f"{side}.txt"

    def on_train_epoch_start(self) -> None:
        """Write down what the last epoch took; let the other side train, where the turn is over."""
        ends, cpu = time.perf_counter(), time.process_time()
        epoch = self.current_epoch
        if epoch > 1:  # the first one warms up
            with self.lines.open("a") as lines:
                lines.write(f"{ends - self.began} {cpu - self.began_cpu} {ends - self.validated}\n")
        if epoch and (epoch - 1) % int(os.environ[BLOCK]) == 0:
            self._wait_for_turn(first=epoch == 1)
        self.began, self.began_cpu = time.perf_counter(), time.process_time()

    def on_fit_end(self) -> None:
        """The other side may go on."""
        self.turns.give()

    def _wait_for_turn(self, *, first: bool) -> None:
        if not first or self.lines.stem == "sweep":  # which takes longer to start
            self.turns.give()
        self.turns.take()

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


def measure(epochs: int, images: int, block: int) -> dict[str, list[list[float]]]:
    """Of each side, for each epoch: seconds, seconds of the CPU, and seconds after its validation."""
    with scratch() as folder:
        os.environ[FOLDER], os.environ[BLOCK] = str(folder), str(block)
        for side in SIDES:
            os.mkfifo(folder / side)
        command = [sys.executable, "-m", "benchmarks.loop_cost", "--bare", str(folder)]
        words = ["--epochs", str(epochs), "--images", str(images)]
        with subprocess.Popen([*command, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as alone:
            try:
                sweep(folder, epochs, images)
            except BaseException:
                alone.kill()
                raise
        return {
            side: [list(map(float, line.split())) for line in (folder / f"{side}.txt").read_text().splitlines()]
            for side in SIDES
        }


def blocks(epochs: Sequence[float], size: int) -> list[float]:
    """The mean epoch of every turn, but for a last one that is cut short."""
    return [statistics.fmean(epochs[i : i + size]) for i in range(0, len(epochs) - size + 1, size)]


def ratios(bare: Sequence[float], swept: Sequence[float]) -> list[float]:
    """Every turn of the sweep against the bare ones before and after it."""
    return [each / statistics.fmean(bare[i : i + 2]) for i, each in enumerate(swept) if i < len(bare)]


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The median, and 95% of the medians of as many values drawn from them."""
    drawn = random.Random(0)
    medians = sorted(statistics.median(drawn.choices(values, k=len(values))) for _ in range(RESAMPLES))
    return statistics.median(values), medians[RESAMPLES // 40], medians[-RESAMPLES // 40]


def main() -> None:
    """Run both in turn and print one JSON object for each measure, and the ratio of whole epochs last."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--epochs", type=int, default=61, help="of each side, the first of which warms up")
    options.add_argument("--images", type=int, default=4096, help="for training, in each epoch")
    options.add_argument("--block", type=int, default=3, help="epochs in a turn")
    options.add_argument("--bare", type=Path, help=argparse.SUPPRESS)
    args = options.parse_args()
    if args.bare:
        bare(args.bare, args.epochs, args.images)
        return
    found = measure(args.epochs, args.images, args.block)
    columns = {side: [blocks(column, args.block) for column in zip(*found[side], strict=True)] for side in SIDES}
    for index, name in enumerate(("epoch_s", "cpu_s", "between_s")):
        bare_s, swept_s = (columns[side][index] for side in SIDES)
        shown = {"measure": name, **{side: round(statistics.median(columns[side][index]), 4) for side in SIDES}}
        if name != "between_s":  # of which there is nearly none
            middle, low, high = interval(ratios(bare_s, swept_s))
            shown |= {"sweep / bare": round(middle, 4), "95%": [round(low, 4), round(high, 4)], "turns": len(swept_s)}
        print(json.dumps(shown), flush=True)
    print(json.dumps({"load": os.getloadavg()}))


if __name__ == "__main__":
    main()
