"""A context for training functions, in one process and without Ray: what it is told, it keeps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import nn
from torch.utils.data import DataLoader

from orchestrator import Context
from orchestrator.spec import Resources


class NoRun:
    """A tracker that logs nothing."""

    def log(self, metrics: Mapping[str, float], *, step: int | None = None) -> None:
        pass

    def log_images(
        self, key: str, images: Sequence[Any], *, captions: Sequence[str] | None = None, step: int | None = None
    ) -> None:
        pass


class Alone(Context):
    """One worker on the CPU, one epoch."""

    number, seed, rank, world_size, max_epochs = 0, 0, 0, 1, 1
    resources, start_from, weights, tracker = Resources(), None, None, NoRun()
    device = torch.device("cpu")

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.reports: list[dict[str, float]] = []
        self._fabric: Fabric | None = None

    def epochs(self) -> Iterator[int]:
        yield 1

    def report(self, metrics: Mapping[str, float], *, epoch: int, checkpoint: Mapping[str, Any]) -> None:
        self.reports.append(dict(metrics))
        self.start_from = self.folder / "checkpoint"
        if self._fabric:
            self._fabric.save(self.start_from, dict(checkpoint))
        else:
            torch.save(dict(checkpoint), self.start_from)

    def should_stop(self) -> bool:
        return False

    def load(self) -> dict[str, Any]:
        if self.start_from is None:
            raise LookupError
        saved: dict[str, Any] = torch.load(self.start_from, weights_only=False)
        return saved

    def prepare_model(self, model: nn.Module) -> nn.Module:
        return model

    def prepare_data_loader(self, loader: DataLoader[Any]) -> DataLoader[Any]:
        return loader

    def autocast(self) -> AbstractContextManager[None]:
        return nullcontext()

    @property
    def scaler(self) -> torch.amp.GradScaler:
        return torch.amp.GradScaler("cpu", enabled=False)

    def fabric(self, **arguments: Any) -> Fabric:
        self._fabric = Fabric(accelerator="cpu", devices=1, **arguments)
        return self._fabric
