"""The three-layer perceptron on MNIST's 28x28 images: torchmetrics accuracy, hyperparameters saved with the model."""

from __future__ import annotations

import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torchmetrics.classification import MulticlassAccuracy

from orchestrator.trainable import Trainable
from trainables._mnist import Mnist

Batch = tuple[Tensor, Tensor]


class Mlp(LightningModule):
    """Two hidden layers and one for the classes.

    Args:
        layer_1: width of the first hidden layer.
        layer_2: width of the second.
        dropout: share of the second layer's features dropped.
        lr: Adam's learning rate.
        classes: how many there are.
    """

    def __init__(
        self, *, layer_1: int = 128, layer_2: int = 256, dropout: float = 0.0, lr: float = 1e-3, classes: int = 10
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.lr = lr
        self.net = nn.Sequential(
            nn.Flatten(),
            nn.Linear(28 * 28, layer_1),
            nn.ReLU(),
            nn.Linear(layer_1, layer_2),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(layer_2, classes),
        )
        # One object a split: torchmetrics counts in it, over the batches of an epoch and over the ranks.
        self.val_accuracy, self.test_accuracy = (MulticlassAccuracy(classes, average="micro") for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Classify images: `x` (B, 1, 28, 28) to logits (B, classes)."""
        logits: Tensor = self.net(x)
        return logits

    def training_step(self, batch: Batch) -> Tensor:
        """Loss () of a batch: `x` (B, 1, 28, 28), `y` (B,)."""
        x, y = batch
        loss = F.cross_entropy(self(x), y)
        self.log("train/loss", loss, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(y))
        return loss

    def validation_step(self, batch: Batch) -> None:
        """Log loss and accuracy of a batch: `x` (B, 1, 28, 28), `y` (B,)."""
        x, y = batch
        logits = self(x)
        self.val_accuracy(logits, y)
        self.log("val/loss", F.cross_entropy(logits, y), sync_dist=True, batch_size=len(y))
        self.log("val/accuracy", self.val_accuracy, batch_size=len(y))

    def test_step(self, batch: Batch) -> None:
        """Log the accuracy of a batch: `x` (B, 1, 28, 28), `y` (B,)."""
        x, y = batch
        self.test_accuracy(self(x), y)
        self.log("test/accuracy", self.test_accuracy, batch_size=len(y))

    def configure_optimizers(self) -> Optimizer:
        """Adam."""
        return Adam(self.parameters(), lr=self.lr)


TRAINABLE = Trainable(model=Mlp, data=Mnist)
