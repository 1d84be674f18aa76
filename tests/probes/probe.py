"""A module that is fast, predictable, and misbehaves on demand: what the end-to-end tests sweep over."""

import os
import signal
import time
from pathlib import Path
from typing import Any
from unittest import mock

import lightning as L
import psutil
import torch
import wandb
from ray.train.lightning import RayFSDPStrategy
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.utils.data import DataLoader, TensorDataset


class Probe(L.LightningModule):
    """Logs `score`, which is `x` times the epochs that its weights have seen; besides, it behaves as it is told."""

    def __init__(
        self, x: float = 0.5, behaviour: str = "fine", at_epoch: int = 1, step_s: float = 0.0, folder: str = "."
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(2, 1)
        self.register_buffer("trained", torch.zeros(()))  # lost with the weights, where those are lost

    def training_step(self, batch: list[torch.Tensor], batch_index: int) -> torch.Tensor:
        (features,) = batch
        time.sleep(self.hparams.step_s)
        if self.current_epoch == self.hparams.at_epoch and batch_index == 1:
            self._misbehave()
        return self.layer(features).pow(2).mean()

    def on_train_epoch_end(self) -> None:
        print(f"probe epoch {self.current_epoch}")
        self.trained += 1
        score = self.hparams.x * int(self.trained)
        if self.hparams.behaviour == "nan" and self.current_epoch == self.hparams.at_epoch:
            score = float("nan")
        self.log("score", score)
        # Users log from wherever they like; on ranks other than 0 this must do nothing.
        wandb.log({"direct": self.current_epoch})
        self.logger.experiment.log({"through_logger": self.current_epoch})
        with (Path(self.hparams.folder) / f"epochs-{self.global_rank}.txt").open("a") as epochs:
            epochs.write(f"{self.hparams.x} {self.current_epoch + 1} {os.getpid()}\n")

    def on_train_end(self) -> None:
        once = Path(self.hparams.folder) / "killed-leaving"
        taken_off = self.current_epoch < self.trainer.max_epochs
        if self.hparams.behaviour == "kill_leaving_once" and taken_off and not once.exists():
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(TensorDataset(torch.ones(16, 2)), batch_size=4)

    def _misbehave(self) -> None:
        once = Path(self.hparams.folder) / f"{self.hparams.behaviour}-{self.hparams.x}"
        match self.hparams.behaviour:
            case "raise":
                raise ValueError("the probe raises")
            case "raise_on_rank_1" if self.global_rank == 1:
                raise ValueError("the probe raises on rank 1")
            case "draw_lots":
                torch.zeros(2).put_(torch.tensor([0, 0]), torch.tensor([1.0, 2.0]))  # which one stays is left open
            case "out_of_memory":
                torch.empty(2**50)
            case "kill_once" if not once.exists():
                once.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            case "kill_slot_once" if not once.exists():
                once.touch()
                actors = psutil.Process(os.getppid()).children()
                (slot,) = (actor for actor in actors if actor.name().startswith("ray::ResourceT"))  # as Ray shows it
                slot.kill()
                time.sleep(3600)  # this process goes as well, with the group that the slot has made
            case "hang_once" if not once.exists():
                once.touch()
                time.sleep(3600)


class Regression(L.LightningModule):
    """Learns a line from 64 points in a new order every epoch; `loss` is the mean over what all ranks saw."""

    def __init__(self, lr: float = 0.1, batch_size: int = 16) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(4, 1)

    def training_step(self, batch: list[torch.Tensor]) -> torch.Tensor:
        (features,) = batch
        loss = (self.layer(features) - features.sum(1, keepdim=True)).pow(2).mean()
        self.log("loss", loss, on_step=False, on_epoch=True, sync_dist=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.hparams.lr, momentum=0.9)

    def train_dataloader(self) -> DataLoader:
        points = torch.rand(64, 4, generator=torch.Generator().manual_seed(0))
        return DataLoader(TensorDataset(points), batch_size=self.hparams.batch_size, shuffle=True)


class CpuFsdp(RayFSDPStrategy):
    """FSDP without a GPU: torch does it once it is told that the device is the CPU, which Lightning does not say."""

    def __init__(self) -> None:
        super().__init__(state_dict_type="full")

    def _setup_model(self, model: torch.nn.Module) -> torch.nn.Module:
        init = FullyShardedDataParallel.__init__

        def on_cpu(self: FullyShardedDataParallel, **kwargs: Any) -> None:
            init(self, **kwargs | {"device_id": torch.device("cpu")})

        with mock.patch.object(FullyShardedDataParallel, "__init__", on_cpu):
            return super()._setup_model(model)
