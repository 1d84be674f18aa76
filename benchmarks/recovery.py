"""How long a trial stands still when a node of its is killed, and how much of its work is done again.

    python -m benchmarks.recovery --kills 10

One trial of two workers on two nodes of one CPU (`benchmarks/nodes.py`), a checkpoint every 20 steps. Again and again a
node is killed at a random step and another added; the time runs from the kill to the first step after it. Ray's own
settings decide how soon a dead node is noticed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning.pytorch import LightningModule
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.nodes import Nodes, brought_up
from benchmarks.trials import scratch

STEPS = 20
LIMIT_S = 600.0


class Stepping(LightningModule):
    """Trains slowly, 20 steps an epoch on each of two workers; rank 0 writes down every step."""

    def __init__(self, *, x: float, step_s: float, file: str) -> None:
        super().__init__()
        self.x, self.step_s, self.file = x, step_s, Path(file)
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch: list[torch.Tensor], batch_index: int) -> torch.Tensor:
        """The loss of one batch, features of shape (1, 1); a scalar."""
        time.sleep(self.step_s)
        self.log("value", self.x)
        if self.global_rank == 0:
            with self.file.open("a") as lines:
                lines.write(json.dumps([os.getpid(), self.global_step, time.time()]) + "\n")
        loss: torch.Tensor = self.layer(batch[0]).sum()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain SGD."""
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self) -> DataLoader[tuple[torch.Tensor, ...]]:
        """As many batches as make `STEPS` on each of two workers."""
        return DataLoader(TensorDataset(torch.ones(2 * STEPS, 1)))


@dataclass(frozen=True, kw_only=True)
class Step:
    """One that rank 0 has done."""

    process: int
    number: int
    at: float
    """Seconds since the epoch."""


def main() -> None:
    """Kill nodes; print each recovery, and the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with scratch() as folder, brought_up(folder / "nodes.log", os.environ) as nodes:
        places, file = [nodes.add(1), nodes.add(1)], folder / "steps.jsonl"
        sweep = subprocess.Popen(_command(folder, file), env=os.environ | {"RAY_ADDRESS": nodes.address})
        try:
            recoveries = [_kill(nodes, places, file, rng) for _ in range(args.kills)]
        finally:
            sweep.kill()
            sweep.wait()
    for what, index in (("seconds to the next step", 0), ("steps done again", 1)):
        values = [recovery[index] for recovery in recoveries]
        print(f"{what}: median {statistics.median(values):.1f}, {min(values):.1f} to {max(values):.1f}")


def _command(folder: Path, file: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "orchestrator.search", "trainable=benchmarks.recovery:Stepping", "name=recovery"),
        *("metric=value", "goal=maximize", "space={x: {type: float, low: 0.0, high: 1.0}}", "budget.trials=1"),
        *("search.sampler=random", "schedule.scheduler=none", "schedule.max_epochs=100000", "resources.workers=2"),
        *("params.step_s=0.1", f"params.file={file}", f"storage={folder}", "tracking.mode=disabled"),
    ]


def _kill(nodes: Nodes, places: list[int], file: Path, rng: random.Random) -> tuple[float, int]:
    """Kill one of the nodes at a random step, and add another; seconds to the next step, and steps done again."""
    process = _wait(file, lambda steps: bool(steps))[-1].process
    epochs = rng.uniform(1, 2)  # since it last began: then there is a checkpoint of this group's
    steps = _wait(file, lambda steps: sum(step.process == process for step in steps) >= epochs * STEPS)
    killed_at, place = time.time(), places.pop(rng.randrange(2))
    nodes.kill(place)
    places.append(nodes.add(1))
    steps = _wait(file, lambda steps: steps[-1].process != process)
    first = next(step for step in steps if step.at > killed_at and step.process != process)
    last = max(step.number for step in steps if step.process == process)
    found = first.at - killed_at, last + 1 - first.number
    print(json.dumps({"recovered_s": round(found[0], 1), "steps_again": found[1]}), flush=True)
    return found


def _wait(file: Path, until: Callable[[list[Step]], bool]) -> list[Step]:
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        lines = file.read_text().splitlines() if file.exists() else []
        steps = [Step(process=process, number=number, at=at) for process, number, at in map(json.loads, lines)]
        if until(steps):
            return steps
        time.sleep(0.05)
    raise TimeoutError(f"no step in {LIMIT_S:g} s")


if __name__ == "__main__":
    main()
