"""MNIST as a LightningDataModule: 28x28 images of handwritten digits, shared by the trainables that learn them."""

from __future__ import annotations

import torch
from lightning.pytorch import LightningDataModule
from torch import Generator, Tensor
from torch.utils.data import DataLoader, TensorDataset, random_split
from torchvision.datasets import MNIST

from trainables._download import cache_folder, download

# Mean and standard deviation of the training images' pixels, in [0, 1].
MEAN, STD = 0.1307, 0.3081


class Mnist(LightningDataModule):
    """The training images split once more for validation, in the same way in every trial; the test images untouched.

    Args:
        batch_size: images per step and rank.
        held_out: share of the training images that validate.
        split_seed: which split; trials are comparable only within one.
        data_dir: where the dataset is, or goes; torch's cache where none is given.
    """

    def __init__(
        self, *, batch_size: int = 64, held_out: float = 1 / 12, split_seed: int = 0, data_dir: str | None = None
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.batch_size, self.held_out, self.split_seed = batch_size, held_out, split_seed
        self.folder = cache_folder(data_dir)

    def prepare_data(self) -> None:
        """Download, once per node.

        Raises:
            InputError: the dataset is not there, and there is no network.
        """
        download(MNIST, self.folder)

    def setup(self, stage: str) -> None:
        """Load what a stage needs: the test images are not even read while models are compared."""
        if stage == "test":
            self.test = _tensors(MNIST(self.folder, train=False))
            return
        whole = _tensors(MNIST(self.folder, train=True))
        shares = (1 - self.held_out, self.held_out)
        self.train, self.val = random_split(whole, shares, Generator().manual_seed(self.split_seed))

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Batches of x (B, 1, 28, 28), normalised, and y (B,), in a new order every epoch."""
        return DataLoader(self.train, batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Batches of x (B, 1, 28, 28), normalised, and y (B,)."""
        return DataLoader(self.val, batch_size=self.batch_size)

    def test_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Batches of x (B, 1, 28, 28), normalised, and y (B,)."""
        return DataLoader(self.test, batch_size=self.batch_size)


def _tensors(dataset: MNIST) -> TensorDataset:
    """All images at once: as tensors, they cost no decoding in any epoch."""
    pixels = dataset.data.unsqueeze(1).to(torch.float32) / 255
    return TensorDataset((pixels - MEAN) / STD, dataset.targets)
