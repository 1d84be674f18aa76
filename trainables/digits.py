"""Handwritten digits: a small convnet on scikit-learn's 1,797 images of 8x8, which need no download.

A sweep of it takes seconds on one core, which makes it the default trainable and the one that tests and benchmarks use.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningDataModule, LightningModule
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.utils.data import DataLoader, TensorDataset

from orchestrator.trainable import Trainable

Batch = tuple[Tensor, Tensor]


class DigitsNet(LightningModule):
    """Two convolutions and a linear layer: 8x8 images to 10 classes.

    Args:
        lr: learning rate.
        optimizer: "sgd" or "adamw".
        momentum: of SGD; AdamW takes no notice of it.
        weight_decay: of either optimizer.
        channels: of the first convolution; the second has twice as many.
        dropout: share of the features dropped before the linear layer.
    """

    def __init__(
        self,
        *,
        lr: float = 5e-3,
        optimizer: Literal["sgd", "adamw"] = "adamw",
        momentum: float = 0.9,
        weight_decay: float = 1e-2,
        channels: int = 16,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.example_input_array = torch.zeros(1, 1, 8, 8)
        build: Callable[..., Optimizer]
        match optimizer:
            case "sgd":
                build = partial(SGD, momentum=momentum)
            case "adamw":
                build = AdamW
            case _:
                raise ValueError(f"optimizer must be 'sgd' or 'adamw', not {optimizer!r}")
        self._optimizer = partial(build, lr=lr, weight_decay=weight_decay, fused=True)
        # GroupNorm keeps no running statistics, which BatchNorm would let differ from rank to rank.
        self.net = nn.Sequential(
            nn.Conv2d(1, channels, kernel_size=3),
            nn.ReLU(),
            nn.Conv2d(channels, 2 * channels, kernel_size=3),
            nn.GroupNorm(1, 2 * channels),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(2 * channels * 4 * 4, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Classify images: `x` (B, 1, 8, 8) in [0, 1] to logits (B, 10)."""
        logits: Tensor = self.net(x)
        return logits

    def training_step(self, batch: Batch) -> Tensor:
        """Loss () of a batch: `x` (B, 1, 8, 8), `y` (B,)."""
        x, y = batch
        loss = F.cross_entropy(self(x), y)
        self.log("train/loss", loss, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(y))
        return loss

    def validation_step(self, batch: Batch) -> None:
        """Log loss and accuracy of a batch: `x` (B, 1, 8, 8), `y` (B,)."""
        self._evaluate(batch, "val")

    def test_step(self, batch: Batch) -> None:
        """Log loss and accuracy of a batch: `x` (B, 1, 8, 8), `y` (B,)."""
        self._evaluate(batch, "test")

    def _evaluate(self, batch: Batch, split: str) -> None:
        """Log means over the split, each batch weighing what it holds: `x` (B, 1, 8, 8), `y` (B,)."""
        x, y = batch
        logits = self(x)
        metrics = {
            f"{split}/loss": F.cross_entropy(logits, y),
            f"{split}/accuracy": (logits.argmax(dim=1) == y).float().mean(),
        }
        self.log_dict(metrics, sync_dist=True, batch_size=len(y))

    def configure_optimizers(self) -> Optimizer:
        """The optimizer that the hyperparameters ask for."""
        return self._optimizer(self.parameters())


class Digits(LightningDataModule):
    """The images in three fixed, stratified splits, whatever the global random state.

    Args:
        batch_size: images per step and rank.
        held_out: images in the validation split, and as many again in the test split. The default can be dealt out
            evenly to 2, 3, 4, 5, 6, 8, 10 or 12 ranks; of one that cannot, DistributedSampler counts some images twice.
        split_seed: which split; trials are comparable only within one.
    """

    def __init__(self, *, batch_size: int = 64, held_out: int = 240, split_seed: int = 0) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.batch_size, self.held_out, self.split_seed = batch_size, held_out, split_seed
        self._splits: dict[str, TensorDataset] = {}

    def setup(self, stage: str) -> None:
        """Load and split, the first time only: a worker may fit many trials on one data module."""
        if self._splits:
            return
        split = partial(train_test_split, test_size=self.held_out, random_state=self.split_seed)
        x, y = load_digits(return_X_y=True)
        x, x_test, y, y_test = split(x, y, stratify=y)
        x, x_val, y, y_val = split(x, y, stratify=y)
        for name, images, labels in (("train", x, y), ("val", x_val, y_val), ("test", x_test, y_test)):
            pixels = torch.tensor(images / 16, dtype=torch.float32).view(-1, 1, 8, 8)
            self._splits[name] = TensorDataset(pixels, torch.tensor(labels))

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Batches of x (B, 1, 8, 8) in [0, 1] and y (B,), in a new order every epoch."""
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Batches of x (B, 1, 8, 8) in [0, 1] and y (B,)."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Batches of x (B, 1, 8, 8) in [0, 1] and y (B,)."""
        return self._loader("test")

    def _loader(self, split: str, *, shuffle: bool = False) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self._splits[split], batch_size=self.batch_size, shuffle=shuffle, num_workers=0)


TRAINABLE = Trainable(model=DigitsNet, data=Digits)
