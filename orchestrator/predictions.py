"""What a module predicts of some validation samples, in its run: a table, and images with captions (Lightning)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import WandbLogger

from orchestrator.messages import first_line

# Channels that an image can have: grey, colours, and colours with transparency.
CHANNELS = (1, 3, 4)


class Predictions(pl.Callback):
    """After every validation, on rank 0: the first samples of its first batch, where batches are (inputs, targets)."""

    def __init__(self, samples: int, notify: Callable[[str], None]) -> None:
        self._samples, self._notify = samples, notify
        self._batch: Any = None

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keep the first batch."""
        if self._samples and batch_idx == dataloader_idx == 0 and isinstance(batch, list | tuple) and len(batch) > 1:
            self._batch = batch

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Predict and log; a picture that cannot be made fails no trial."""
        logger = trainer.logger
        if self._batch is None or trainer.sanity_checking or not trainer.is_global_zero:
            return
        if not isinstance(logger, WandbLogger):
            return
        try:
            self._log(logger, pl_module)
        except Exception as exc:  # noqa: BLE001 - the module and its batches are the user's
            self._samples, self._batch = 0, None
            self._notify(f"tracking.predictions: nothing is shown of this module's ({first_line(exc)})")

    def _log(self, logger: WandbLogger, pl_module: pl.LightningModule) -> None:
        inputs, targets = (part[: self._samples] for part in self._batch[:2])
        was_training = pl_module.training
        pl_module.eval()
        try:
            with torch.no_grad():
                outputs = pl_module(inputs).float().cpu()
        finally:
            pl_module.train(was_training)
        if outputs.ndim == 2 and outputs.shape[1] > 1:  # (samples, classes)
            shares, found = outputs.softmax(dim=1).max(dim=1)
            rows: list[list[Any]] = [[int(t), int(p), float(s)] for t, p, s in zip(targets, found, shares, strict=True)]
        else:
            rows = [[_plain(t), _plain(p), None] for t, p in zip(targets, outputs, strict=True)]
        logger.log_table("predictions/table", columns=["target", "prediction", "share"], data=rows)
        if inputs.ndim == 4 and inputs.shape[1] in CHANNELS:  # (samples, channels, height, width)
            captions = [f"{found}, is {target}" for target, found, _ in rows]
            logger.log_image("predictions/images", list(_pixels(inputs.float().cpu())), caption=captions)


def _pixels(images: torch.Tensor) -> torch.Tensor:
    """Images of whatever range, e.g. normalised ones, from black to white: the SDK takes numbers as 0 to 255.

    Args:
        images: (samples, channels, height, width), any numbers.
    """
    low, high = (edge(images, dim=(1, 2, 3), keepdim=True) for edge in (torch.amin, torch.amax))
    return ((images - low) / (high - low).clamp_min(torch.finfo(images.dtype).tiny) * 255).to(torch.uint8)


def _plain(value: torch.Tensor) -> Any:
    return value.tolist() if value.numel() > 1 else value.item()
