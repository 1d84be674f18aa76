"""What the control loop costs: many trials that report once and return, and the sweep process's memory on the way.

    python -m benchmarks.control_loop --trials 2000

Trials per second are those of the whole chain: proposal, ledger, slot, worker, Lightning's fit of one batch, report.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import torch
from lightning.pytorch import LightningModule
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.trials import parser, scratch


class OneBatch(LightningModule):
    """Trains one batch of one number, and reports `x`."""

    def __init__(self, *, x: float) -> None:
        super().__init__()
        self.x = x
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch: list[torch.Tensor], batch_index: int) -> torch.Tensor:
        """The loss of one batch, features of shape (1, 1); a scalar."""
        self.log("value", self.x)
        loss: torch.Tensor = self.layer(batch[0]).sum()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain SGD."""
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self) -> DataLoader[tuple[torch.Tensor, ...]]:
        """One batch."""
        return DataLoader(TensorDataset(torch.ones(1, 1)))


def main() -> None:
    """Run the sweep, and print for every tenth of it: trials, their rate, memory of the sweep process."""
    options = parser(__doc__)
    options.set_defaults(trials=2000)
    args = options.parse_args()
    with scratch() as folder:
        command = [
            *(sys.executable, "-m", "orchestrator.search", "trainable=benchmarks.control_loop:OneBatch"),
            *("metric=value", "goal=maximize", "space={x: {type: float, low: 0.0, high: 1.0}}", "name=loop"),
            *("search.sampler=random", "schedule.scheduler=none", "schedule.max_epochs=1", "checkpoints.keep=none"),
            *(f"budget.trials={args.trials}", f"storage={folder}", "tracking.mode=disabled"),
            "resources.concurrency=1",
        ]
        sweep = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        results = folder / "loop" / "results.json"
        marks = [max(1, args.trials * tenth // 10) for tenth in range(1, 11)]
        first: tuple[float, int] | None = None
        while marks and sweep.poll() is None:
            time.sleep(1)
            ended = _ended(results)
            if ended and first is None:
                first = (time.time(), ended)
            if ended < marks[0] or first is None:
                continue
            elapsed_s = max(time.time() - first[0], 1e-9)
            rss_mib = _rss_mib(sweep.pid)
            rate = (ended - first[1]) / elapsed_s
            print(json.dumps({"trials": ended, "trials_per_s": round(rate, 2), "rss_mib": round(rss_mib)}), flush=True)
            marks = [mark for mark in marks if mark > ended]
        if sweep.wait():
            sys.exit(f"the sweep ended with exit code {sweep.returncode}")


def _rss_mib(pid: int) -> float:
    """Resident memory of a process, from Linux's /proc."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS:")).split()[1]) / 1024


def _ended(results: Path) -> int:
    if not results.exists():
        return 0
    return sum(trial["state"] != "RUNNING" for trial in json.loads(results.read_text())["trials"])


if __name__ == "__main__":
    main()
