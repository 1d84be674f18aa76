"""A trial that leaves a node in mid-epoch: what it saved goes on after its last step (Lightning's Trainer, no Ray)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from orchestrator.context import RECORD
from orchestrator.loops.lightning import Reporter
from orchestrator.messages import Job
from orchestrator.spec import Spec

BATCHES = 5


class Net(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.steps: list[tuple[int, int]] = []

    def training_step(self, batch: list[torch.Tensor], batch_index: int) -> torch.Tensor:
        self.steps.append((self.current_epoch, batch_index))
        return self.layer(batch[0]).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self) -> DataLoader[tuple[torch.Tensor, ...]]:
        return DataLoader(TensorDataset(torch.ones(BATCHES, 1)))


class Announced:
    """What the reporter needs of an attempt, on a node that is announced to go after so many steps."""

    logged: Any = ()

    def __init__(self, folder: Path, after: int | None) -> None:
        self.path, self._after, self._steps = folder / "partial.ckpt", after, 0
        self.stopped = False
        self.record: dict[str, Any] = {"number": 0, "curve": {}, "report": None, "final": False}
        self.epochs: list[int] = []
        self.spec = Spec.model_validate(
            {"trainable": "x", "space": {}, "metric": "m", "goal": "minimize", "schedule": {"max_epochs": 2}}
        )
        self.epochs_done = 0
        self.job = Job(number=0, params={}, seed=0)

    def beat(self) -> None:
        pass

    def settle(self, *, wait: bool = False) -> None:
        pass

    def resume(self, checkpoint: Any) -> None:
        assert checkpoint[RECORD] == self.record

    def restore_random_state(self, *, of_the_epoch: bool = False) -> None:
        pass

    def epoch_begins(self) -> None:
        pass

    def stepped(self, save: Callable[[Path], None]) -> None:
        self._steps += 1
        if self._steps == self._after:
            save(self.path)
            self.stopped = True

    def report(self, metrics: Any, *, epoch: int, save: Any, final: bool) -> None:
        self.epochs.append(epoch)


def fit(attempt: Announced, start_from: Path | None) -> Net:
    net = Net()
    trainer = pl.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[Reporter(attempt, {})], num_sanity_val_steps=0, default_root_dir=str(attempt.path.parent),
    )  # fmt: skip
    try:
        trainer.fit(net, ckpt_path=start_from, weights_only=False)
    except Exception as exc:
        if type(exc).__name__ != "Interrupted":
            raise
    return net


@pytest.mark.filterwarnings("ignore")  # Lightning's own, of which workers are silent as well
def test_no_step_is_lost_or_done_twice(tmp_path: Path) -> None:
    first = Announced(tmp_path, after=BATCHES + 2)
    there = fit(first, None)
    second = Announced(tmp_path, after=None)
    here = fit(second, first.path)
    assert first.epochs == [1]
    assert second.epochs == [2]
    assert there.steps + here.steps == [(epoch, batch) for epoch in range(2) for batch in range(BATCHES)]
