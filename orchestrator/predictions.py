"""What a module predicts of some validation samples, in its run: a table, and images with captions (Lightning)."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import WandbLogger

# Channels that an image can have: grey, colours, and colours with transparency.
CHANNELS = (1, 3, 4)


class Predictions(pl.Callback):
    """After every validation, on rank 0: the first samples of its first batch, where batches are (inputs, targets)."""

    def __init__(self, samples: int) -> None:
        self._samples = samples
        self._batch: Any = None

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keep the first batch."""
        if batch_idx == dataloader_idx == 0 and isinstance(batch, list | tuple) and len(batch) > 1:
            self._batch = batch

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Predict and log."""
        logger = trainer.logger
        if self._batch is None or not isinstance(logger, WandbLogger) or not trainer.is_global_zero:
            return
        inputs, targets = (part[: self._samples] for part in self._batch[:2])
        was_training = pl_module.training
        pl_module.eval()
        with torch.no_grad():
            outputs = pl_module(inputs).float().cpu()
        pl_module.train(was_training)
        if outputs.ndim == 2 and outputs.shape[1] > 1:  # (samples, classes)
            shares, found = outputs.softmax(dim=1).max(dim=1)
            rows: list[list[Any]] = [[int(t), int(p), float(s)] for t, p, s in zip(targets, found, shares, strict=True)]
        else:
            rows = [[_plain(t), _plain(p), None] for t, p in zip(targets, outputs, strict=True)]
        logger.log_table("predictions/table", columns=["target", "prediction", "share"], data=rows)
        if inputs.ndim == 4 and inputs.shape[1] in CHANNELS:  # (samples, channels, height, width)
            captions = [f"{found}, is {target}" for target, found, _ in rows]
            logger.log_image("predictions/images", list(inputs.float().cpu()), caption=captions)


def _plain(value: torch.Tensor) -> Any:
    return value.tolist() if value.numel() > 1 else value.item()
