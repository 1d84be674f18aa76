"""One GPU shared by 1, 2 and 4 slots: trials per hour, memory returned between trials, bf16 against 32.

    python -m benchmarks.gpu_sharing --trials 12

Needs a GPU; says so, and ends, where there is none. The trials are a network of CIFAR-10's size on random images.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.trials import scratch

FILE = "BENCHMARK_MEMORY"


class Net(LightningModule):
    """Four convolutions on random images of 3x32x32; writes down the GPU memory its worker holds when a fit begins."""

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
        with Path(os.environ[FILE]).open("a") as moments:
            moments.write(f"{torch.cuda.memory_reserved()}\n")

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


def sweep(folder: Path, slots: int, precision: str, trials: int) -> dict[str, float | int | str]:
    """Run a sweep on so many slots; what it took from the first trial's start to the last one's end."""
    os.environ[FILE] = str(folder / "memory")
    name = f"{precision}-{slots}"
    command = [
        *(sys.executable, "-m", "orchestrator.search", "trainable=benchmarks.gpu_sharing:Net", "metric=loss"),
        *("goal=minimize", "space={lr: {type: float, low: 0.001, high: 0.1}}", "search.sampler=random"),
        *("schedule.scheduler=none", "schedule.max_epochs=5", f"resources.concurrency={slots}", f"name={name}"),
        *(f"resources.gpus_per_worker={1 / slots}", f"resources.precision={precision}", f"budget.trials={trials}"),
        *(f"storage={folder}", "tracking.mode=disabled", "checkpoints.keep=none"),
    ]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_API_SERVER_ADDRESS"}
    began = time.time()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment | {"RAY_TMPDIR": "/tmp"})
    held = [int(line) for line in (folder / "memory").read_text().split()]
    (folder / "memory").unlink()
    return {
        "slots": slots,
        "precision": precision,
        "trials_per_hour": round(3600 * trials / (time.time() - began), 1),
        "held_before_a_trial_mib": max(held) // 2**20,
    }


def main() -> None:
    """Run every combination and print one JSON object each."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--trials", type=int, default=12)
    args = options.parse_args()
    if not torch.cuda.is_available():
        print("no GPU here: nothing was measured")
        return
    with scratch() as folder:
        for precision in ("32-true", "bf16-mixed"):
            for slots in (1, 2, 4):
                print(json.dumps(sweep(folder, slots, precision, args.trials)), flush=True)


if __name__ == "__main__":
    main()
