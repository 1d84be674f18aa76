"""A ConvNet of two convolutions on MNIST: every size a hyperparameter, metrics against the examples seen."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torchmetrics.classification import MulticlassAccuracy

from orchestrator.trainable import Trainable
from trainables._mnist import Mnist

Batch = tuple[Tensor, Tensor]


class ConvNet(LightningModule):
    """Two convolutions, each with ReLU and a pooling by two, and one linear layer.

    Args:
        kernels_1: of the first convolution.
        kernels_2: of the second.
        kernel_size_1: width and height of the first's kernels; odd, so that the image keeps its size.
        kernel_size_2: of the second's.
        classes: how many there are.
        lr: SGD's learning rate.
        momentum: of SGD.
    """

    def __init__(
        self,
        *,
        kernels_1: int = 16,
        kernels_2: int = 32,
        kernel_size_1: int = 5,
        kernel_size_2: int = 5,
        classes: int = 10,
        lr: float = 0.05,
        momentum: float = 0.9,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.lr, self.momentum = lr, momentum
        self.example_input_array = torch.zeros(1, 1, 28, 28)  # what it takes to be exported as ONNX
        self.net = nn.Sequential(
            nn.Conv2d(1, kernels_1, kernel_size_1, padding="same"),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(kernels_1, kernels_2, kernel_size_2, padding="same"),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(kernels_2 * 7 * 7, classes),
        )
        self.val_accuracy, self.test_accuracy = (MulticlassAccuracy(classes, average="micro") for _ in range(2))
        # Part of the state: a trial that goes on counts on.
        self.examples: Tensor
        self.register_buffer("examples", torch.zeros((), dtype=torch.int64))

    def on_fit_start(self) -> None:
        """Draw the training loss against the examples seen, so that trials of other batch sizes compare."""
        if isinstance(self.logger, WandbLogger):
            self.logger.experiment.define_metric("train/loss", step_metric="train/examples")

    def forward(self, x: Tensor) -> Tensor:
        """Classify images: `x` (B, 1, 28, 28) to logits (B, classes)."""
        logits: Tensor = self.net(x)
        return logits

    def training_step(self, batch: Batch) -> Tensor:
        """Loss () of a batch: `x` (B, 1, 28, 28), `y` (B,)."""
        x, y = batch
        self.examples += len(y) * self.trainer.world_size
        loss = F.cross_entropy(self(x), y)
        self.log_dict({"train/loss": loss, "train/examples": self.examples.float()}, batch_size=len(y))
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
        """SGD with momentum."""
        return SGD(self.parameters(), lr=self.lr, momentum=self.momentum)


TRAINABLE = Trainable(model=ConvNet, data=Mnist)
