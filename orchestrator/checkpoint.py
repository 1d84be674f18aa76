"""Checkpoints on their way to storage: small ones at once, large ones in a thread, from a copy in memory (torch)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning_utilities.core.apply_func import apply_to_collection

from orchestrator.folder import SweepFolder

T = TypeVar("T")
# Bytes of tensors from which a checkpoint is copied and written while training goes on. Below, writing it takes less
# than the moments that a trial would train on without its verdict are worth.
LARGE = 8 * 2**20


class Writer:
    """Writes one attempt's checkpoints, one at a time; a file is there whole or not at all."""

    def __init__(self, folder: SweepFolder, scratch: Path) -> None:
        self._folder, self._scratch = folder, scratch
        self._buffers: list[torch.Tensor] = []
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")

    def write(self, state: Mapping[str, Any], path: str) -> Future[None] | None:
        """Write a checkpoint to a path of the sweep's folder, the one before being in place.

        Returns:
            None where it is in place; of a large one, what is done when it is.

        Raises:
            StorageError: it cannot be written; of a large one, when the result is asked for.
        """
        if _bytes(state) < LARGE:
            self._write(state, path)
            return None
        return self._thread.submit(self._write, self._copy(state), path)

    def then(self, what: Callable[[], T]) -> Future[T]:
        """Do something once all that was begun is in place."""
        return self._thread.submit(what)

    def close(self) -> None:
        """Wait until all is done."""
        self._thread.shutdown()

    def _copy(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """The state as it is now: training changes the tensors themselves.

        Into the memory of the copy before, which is written by now: fresh memory costs more than the copying does.
        """
        kept, self._buffers = iter(self._buffers), []

        def copy(tensor: torch.Tensor) -> torch.Tensor:
            buffer = next(kept, None)
            if buffer is None or (buffer.shape, buffer.dtype) != (tensor.shape, tensor.dtype):
                buffer = torch.empty_like(tensor, device="cpu", requires_grad=False)
            self._buffers.append(buffer.copy_(tensor.detach()))
            return buffer

        copied: dict[str, Any] = apply_to_collection(dict(state), torch.Tensor, copy)
        return copied

    def _write(self, state: Mapping[str, Any], path: str) -> None:
        with self._folder.writing(path, self._scratch) as local:
            torch.save(state, local)


class Handover(TorchCheckpointIO):
    """Lets Lightning's strategies hand a checkpoint over instead of writing it."""

    def __init__(self, to: Path, take: Callable[[Mapping[str, Any]], None]) -> None:
        self._to, self._take = to, take

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Hand over what is saved to the agreed path; anything else is the user's own, and is written."""
        if Path(path) == self._to:
            self._take(checkpoint)
        else:
            super().save_checkpoint(checkpoint, path, storage_options)


def _bytes(state: Mapping[str, Any]) -> int:
    sizes: list[int] = []
    apply_to_collection(dict(state), torch.Tensor, lambda tensor: sizes.append(tensor.nbytes))
    return sum(sizes)
