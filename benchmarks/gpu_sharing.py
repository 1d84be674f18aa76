"""One GPU shared by 1, 2 and 4 slots: trials per hour, memory returned between trials, bf16 against 32.

    python -m benchmarks.gpu_sharing --trials 40

Needs a GPU; says so, and ends with 2, where there is none. The trials are a network of CIFAR-10's size on random
images. What counts is the time in which all slots train: from the first trial of the slot that was last to start to the
last trial of the one that was first to have no more. Memory is what a worker holds of the GPU when a trial begins, the
first of each worker left out, and what it held at most. `against_one` is trials per hour against those of one slot in
the same precision, `against_32` against those of as many slots in 32 bits. A sweep starts no more slots than its trials
are worth (docs/design.md): where `slots` is less than `asked`, give it more --trials, or longer ones.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.trials import scratch

FILE = "BENCHMARK_TRIALS"
MIB = 2**20
PRECISIONS, SLOTS = ("32-true", "bf16-mixed"), (1, 2, 4)


class Net(LightningModule):
    """Four convolutions on random images of 3x32x32; writes down when a fit begins and ends, and what is held then."""

    def __init__(self, *, lr: float = 0.01) -> None:
        super().__init__()
        self.lr = lr
        self.net = nn.Sequential(
            nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(64, 128, 3, padding=1), nn.ReLU(), nn.Conv2d(128, 128, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(128 * 8 * 8, 10),
        )  # fmt: skip

    def setup(self, stage: str) -> None:
        """Write down what is held before this trial's model is on the GPU."""
        _note("begins", torch.cuda.memory_reserved())

    def on_fit_end(self) -> None:
        """Write down what was held at most."""
        _note("ends", torch.cuda.max_memory_reserved())

    def training_step(self, batch: list[torch.Tensor]) -> torch.Tensor:
        """Loss () of a batch: x (B, 3, 32, 32), y (B,)."""
        x, y = batch
        loss = nn.functional.cross_entropy(self.net(x), y)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain SGD."""
        return torch.optim.SGD(self.parameters(), lr=self.lr)

    def train_dataloader(self) -> DataLoader[tuple[torch.Tensor, ...]]:
        """Batches of x (128, 3, 32, 32) and y (128,)."""
        return DataLoader(TensorDataset(torch.rand(4096, 3, 32, 32), torch.randint(10, (4096,))), batch_size=128)


def _note(what: str, held: int) -> None:
    with Path(os.environ[FILE]).open("a") as moments:
        moments.write(f"{os.getpid()} {what} {time.time()} {held}\n")


def summary(lines: Iterable[str]) -> dict[str, float | int]:
    """What the notes of all workers, `PROCESS begins|ends MOMENT BYTES`, say of a sweep."""
    begins: dict[str, list[float]] = {}
    ends: dict[str, list[float]] = {}
    held, most = [0], [0]
    for process, what, moment, size in map(str.split, lines):
        if what == "begins":
            held += [int(size)] if process in begins else []
            begins.setdefault(process, []).append(float(moment))
        else:
            most.append(int(size))
            ends.setdefault(process, []).append(float(moment))
    since, until = max(moments[0] for moments in begins.values()), min(moments[-1] for moments in ends.values())
    done = sum(since < moment <= until for moments in ends.values() for moment in moments)
    return {
        "slots": len(begins),
        "trials": done,
        "trials_per_hour": round(3600 * done / (until - since), 1) if until > since else 0.0,
        "held_before_a_trial_mib": max(held) // MIB,
        "held_at_most_mib": max(most) // MIB,
    }


def overrides(folder: Path, slots: int, precision: str, trials: int, epochs: int) -> list[str]:
    """What such a sweep is told."""
    return [
        *("trainable=benchmarks.gpu_sharing:Net", "metric=loss", "goal=minimize", "search.sampler=random"),
        *("space={lr: {type: float, low: 0.001, high: 0.1}}", "schedule.scheduler=none", f"budget.trials={trials}"),
        *(f"schedule.max_epochs={epochs}", f"resources.concurrency={slots}", f"resources.gpus_per_worker={1 / slots}"),
        *(f"resources.precision={precision}", f"storage={folder}", f"name={precision}-{slots}"),
        *("tracking.mode=disabled", "checkpoints.keep=none"),
    ]


def sweep(folder: Path, slots: int, precision: str, trials: int, epochs: int) -> dict[str, float | int]:
    """Run a sweep on so many slots."""
    command = [sys.executable, "-m", "orchestrator.search", *overrides(folder, slots, precision, trials, epochs)]
    os.environ[FILE] = str(folder / "trials")
    environment = {key: value for key, value in os.environ.items() if key != "RAY_API_SERVER_ADDRESS"}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment | {"RAY_TMPDIR": "/tmp"})
    lines = (folder / "trials").read_text().splitlines()
    (folder / "trials").unlink()
    return summary(lines)


def main() -> int:
    """Run every combination and print one JSON object each: `slots` in it is how many of those `asked` for trained."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--trials", type=int, default=40)
    options.add_argument("--epochs", type=int, default=40, help="of a trial; an epoch is 32 batches of 128 images")
    args = options.parse_args()
    if not torch.cuda.is_available():
        print("no GPU here: nothing was measured", file=sys.stderr)
        return 2
    rates: dict[tuple[str, int], float] = {}
    with scratch() as folder:
        for precision in PRECISIONS:
            for slots in SLOTS:
                found = sweep(folder, slots, precision, args.trials, args.epochs)
                rates[precision, slots] = found["trials_per_hour"]
                compared = {"against_one": ratio(rates, precision, slots, to=(precision, 1))}
                compared["against_32"] = ratio(rates, precision, slots, to=("32-true", slots))
                print(json.dumps({"precision": precision, "asked": slots, **found, **compared}), flush=True)
    return 0


def ratio(rates: Mapping[tuple[str, int], float], precision: str, slots: int, *, to: tuple[str, int]) -> float | None:
    """A rate against another; None where that is not known."""
    return round(rates[precision, slots] / rates[to], 2) if rates[to] else None


if __name__ == "__main__":
    sys.exit(main())
