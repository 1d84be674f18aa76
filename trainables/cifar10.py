"""CIFAR-10: four convolutions whose sizes follow the data, crops and flips, early stopping, predictions as images."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import WandbLogger
from torch import Generator, Tensor, nn
from torch.optim import Adam, Optimizer
from torch.utils.data import DataLoader, Dataset, Subset, random_split
from torchmetrics.classification import MulticlassAccuracy
from torchvision.datasets import CIFAR10
from torchvision.transforms import v2

from orchestrator.trainable import Trainable
from trainables._download import cache_folder, download

Batch = tuple[Tensor, Tensor]
Examples = Dataset[tuple[Tensor, int]]

# Mean and standard deviation of the training images' pixels by channel, in [0, 1].
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
UNDO = v2.Normalize([-m / s for m, s in zip(MEAN, STD, strict=True)], [1 / s for s in STD])
# Validation images whose predictions a run shows after every epoch.
SHOWN = 8


class Augmented(Dataset[tuple[Tensor, int]]):
    """Images that are changed anew whenever they are read, by torch's random numbers in the process that reads them.

    Args:
        examples: x (C, H, W) and its class.
        change: of an x, to another of the same shape.
    """

    def __init__(self, examples: Subset[tuple[Tensor, int]], change: Callable[[Tensor], Tensor]) -> None:
        self.examples, self.change = examples, change

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        x, y = self.examples[index]
        return self.change(x), y


class Cifar10(LightningDataModule):
    """Training, validation and test images, normalised; the test images are read only to test.

    Crops and flips, after He et al. 2016, https://arxiv.org/abs/1512.03385, are of the training images alone.

    Args:
        batch_size: images per step and rank.
        crop_padding: pixels of the mean colour around a training image, of which its own size is cut out; 0 for none.
        flip: whether training images are mirrored, left to right, each time with a probability of a half.
        held_out: share of the training images that validate.
        split_seed: which split; trials are comparable only within one.
        loader_workers: processes that decode images, for each rank.
        data_dir: where the dataset is, or goes; torch's cache where none is given.
    """

    def __init__(
        self,
        *,
        batch_size: int = 64,
        crop_padding: int = 0,
        flip: bool = False,
        held_out: float = 0.1,
        split_seed: int = 0,
        loader_workers: int = 0,
        data_dir: str | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.batch_size, self.held_out, self.split_seed = batch_size, held_out, split_seed
        self.crop_padding, self.flip = crop_padding, flip
        self.loader_workers, self.folder = loader_workers, cache_folder(data_dir)
        self.transform = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])

    def prepare_data(self) -> None:
        """Download, once per node.

        Raises:
            InputError: the dataset is not there, and there is no network.
        """
        download(CIFAR10, self.folder)

    def setup(self, stage: str) -> None:
        """Open what a stage needs."""
        if stage == "test":
            self.test: Examples = CIFAR10(self.folder, train=False, transform=self.transform)
            return
        whole = CIFAR10(self.folder, train=True, transform=self.transform)
        self.classes: list[str] = whole.classes
        self.input_shape: tuple[int, ...] = tuple(whole[0][0].shape)  # (C, H, W)
        shares = (1 - self.held_out, self.held_out)
        train, self.val = random_split(whole, shares, Generator().manual_seed(self.split_seed))
        self.train = Augmented(train, self._augmentation())

    def _augmentation(self) -> Callable[[Tensor], Tensor]:
        """What changes a training image (C, H, W), normalised; draws nothing where there is nothing to draw."""
        changes: list[nn.Module] = []
        if self.crop_padding:
            changes.append(v2.RandomCrop(self.input_shape[1:], padding=self.crop_padding))
        if self.flip:
            changes.append(v2.RandomHorizontalFlip())
        return nn.Sequential(*changes)

    def train_dataloader(self) -> DataLoader[tuple[Tensor, int]]:
        """Batches of x (B, C, H, W), normalised and augmented, and y (B,), in a new order every epoch."""
        return self._loader(self.train, shuffle=True)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, int]]:
        """Batches of x (B, C, H, W), normalised, and y (B,)."""
        return self._loader(self.val)

    def test_dataloader(self) -> DataLoader[tuple[Tensor, int]]:
        """Batches of x (B, C, H, W), normalised, and y (B,)."""
        return self._loader(self.test)

    def _loader(self, examples: Examples, *, shuffle: bool = False) -> DataLoader[tuple[Tensor, int]]:
        return DataLoader(
            examples,
            batch_size=self.batch_size,
            shuffle=shuffle,
            # Started anew for every epoch: what those of the last one had drawn by its end is in no checkpoint.
            num_workers=self.loader_workers,
        )


class Cifar10Net(LightningModule):
    """Four convolutions in two blocks, and two linear layers as wide as the convolutions leave it.

    Args:
        channels: of the first block's convolutions; the second's have twice as many.
        hidden: width of the linear layer before the last.
        dropout: share of the features dropped before it.
        lr: Adam's learning rate.
        patience: epochs without a lower validation loss before the trial ends by itself.
        classes: how many there are.
        input_shape: (C, H, W) of an image; that of the data, where there is data.
    """

    def __init__(
        self,
        *,
        channels: int = 32,
        hidden: int = 128,
        dropout: float = 0.25,
        lr: float = 1e-3,
        patience: int = 5,
        classes: int = 10,
        input_shape: tuple[int, ...] = (3, 32, 32),
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net: nn.Module | None = None
        self.val_accuracy, self.test_accuracy = (MulticlassAccuracy(classes, average="micro") for _ in range(2))

    def setup(self, stage: str) -> None:
        """Take the images' shape from the data; it is saved with the hyperparameters."""
        if stage == "fit" and isinstance(data := getattr(self.trainer, "datamodule", None), Cifar10):
            self.hparams["input_shape"] = data.input_shape

    def configure_model(self) -> None:
        """Build the layers, now that the shape of their input is known; also when a checkpoint is loaded."""
        if self.net is not None:
            return
        shape, channels, hidden = (self.hparams[name] for name in ("input_shape", "channels", "hidden"))
        features = nn.Sequential(*_block(shape[0], channels), *_block(channels, 2 * channels), nn.Flatten())
        with torch.no_grad():
            width = features(torch.zeros(1, *shape)).shape[1]
        self.net = nn.Sequential(
            features,
            nn.Dropout(self.hparams["dropout"]),
            nn.Linear(width, hidden),
            nn.ReLU(),
            nn.Linear(hidden, self.hparams["classes"]),
        )

    def configure_callbacks(self) -> list[Callback]:
        """Early stopping; its count is part of the checkpoint."""
        return [EarlyStopping(monitor="val/loss", patience=self.hparams["patience"])]

    def forward(self, x: Tensor) -> Tensor:
        """Classify images: `x` (B, C, H, W) to logits (B, classes)."""
        if self.net is None:  # used by itself, without a trainer or a checkpoint
            self.configure_model()
        assert self.net is not None
        logits: Tensor = self.net(x)
        return logits

    def training_step(self, batch: Batch) -> Tensor:
        """Loss () of a batch: `x` (B, C, H, W), `y` (B,)."""
        x, y = batch
        loss = F.cross_entropy(self(x), y)
        self.log("train/loss", loss, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(y))
        return loss

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Log loss and accuracy of a batch, and of the first some predictions: `x` (B, C, H, W), `y` (B,)."""
        x, y = batch
        logits = self(x)
        self.val_accuracy(logits, y)
        self.log("val/loss", F.cross_entropy(logits, y), sync_dist=True, batch_size=len(y))
        self.log("val/accuracy", self.val_accuracy, batch_size=len(y))
        if batch_index == 0:
            self._show(x[:SHOWN], y[:SHOWN], logits[:SHOWN].argmax(dim=1))

    def test_step(self, batch: Batch) -> None:
        """Log the accuracy of a batch: `x` (B, C, H, W), `y` (B,)."""
        x, y = batch
        self.test_accuracy(self(x), y)
        self.log("test/accuracy", self.test_accuracy, batch_size=len(y))

    def configure_optimizers(self) -> Optimizer:
        """Adam."""
        return Adam(self.parameters(), lr=self.hparams["lr"])

    def _show(self, x: Tensor, y: Tensor, predicted: Tensor) -> None:
        """Log images with what they are and what they were taken for: `x` (N, C, H, W), `y` and `predicted` (N,)."""
        if not isinstance(self.logger, WandbLogger):  # none on other ranks than 0, or where W&B is not used
            return
        data = getattr(self.trainer, "datamodule", None)
        names = data.classes if isinstance(data, Cifar10) else [str(k) for k in range(self.hparams["classes"])]
        pictures = (UNDO(x).clamp(0, 1) * 255).round().to(torch.uint8)  # W&B takes numbers as 0 to 255
        captions = [f"{names[a]}, taken for {names[b]}" for a, b in zip(y.tolist(), predicted.tolist(), strict=True)]
        self.logger.log_image("val/predictions", list(pictures.cpu()), caption=captions)


def _block(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    """Two convolutions that keep the size, and a pooling that halves it."""
    return (
        nn.Conv2d(inputs, outputs, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )


TRAINABLE = Trainable(model=Cifar10Net, data=Cifar10)
