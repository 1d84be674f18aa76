"""A user's own classes, written for LightningCLI; they draw random numbers of every kind, other ones on every rank."""

import os
import random
import signal
from pathlib import Path

import lightning as L
import numpy as np
import torch
from lightning.pytorch.cli import OptimizerCallable
from torch.utils.data import DataLoader, TensorDataset


class Points(L.LightningDataModule):
    def __init__(self, batch_size: int = 4) -> None:
        super().__init__()
        self.save_hyperparameters()

    def setup(self, stage: str) -> None:
        points = torch.rand(48, 4)
        self.train, self.val = TensorDataset(points[:32]), TensorDataset(points[32:])

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train, batch_size=self.hparams.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val, batch_size=self.hparams.batch_size)


class Net(L.LightningModule):
    def __init__(
        self, backbone: torch.nn.Module, optimizer: OptimizerCallable = torch.optim.Adam, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.optimizer = optimizer
        self.net = torch.nn.Sequential(backbone, torch.nn.Dropout(dropout), torch.nn.Linear(backbone.out_features, 1))

    def training_step(self, batch: list[torch.Tensor], batch_index: int) -> torch.Tensor:
        self._die_once(batch_index)
        noise = sum(random.random() + np.random.random() + torch.rand(1) for _ in range(1 + self.global_rank))
        return (self.net(batch[0]) - noise).pow(2).mean()

    def validation_step(self, batch: list[torch.Tensor], batch_index: int) -> None:
        self.log("val/loss", (self.net(batch[0]) - 1.5).pow(2).mean(), sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer(self.parameters())

    def _die_once(self, batch_index: int) -> None:
        """In the middle of the third epoch, on one of the ranks."""
        killed = Path("killed")
        if (self.current_epoch, batch_index, self.global_rank) == (2, 2, 1) and not killed.exists():
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
