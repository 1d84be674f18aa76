"""Checkpoints on their way to storage: small ones at once, large ones in a thread, from a copy in memory (torch)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from orchestrator.context import RECORD
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

        A large one is on the disk then, which costs a thread nothing; a small one, like other files, within seconds.

        Returns:
            None where it is in place; of a large one, what is done when it is.

        Raises:
            StorageError: it cannot be written; of a large one, when the result is asked for.
        """
        # What is long in a record is no tensor, and nobody changes it.
        rest, record = ({n: v for n, v in state.items() if (n == RECORD) is its} for its in (False, True))
        if _bytes(rest) < LARGE:
            self._write(state, path)
            return None
        return self._thread.submit(self._write, self._copy(rest) | record, path, synced=True)

    def then(self, what: Callable[[], T]) -> Future[T]:
        """Do something once all that was begun is in place."""
        return self._thread.submit(what)

    def close(self) -> None:
        """Wait until all is done."""
        self._thread.shutdown()

    def _copy(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """The state as it is now: training changes the tensors themselves, and perhaps all else.

        Tensors go into the memory of the copy before, which is written by now: fresh memory costs more than the
        copying does.
        """
        kept, self._buffers = iter(self._buffers), []
        copies: dict[int, Any] = {}  # by `id`, where `deepcopy` looks before it copies
        for tensor in _tensors(state):
            if id(tensor) in copies:
                continue
            buffer = next(kept, None)
            if buffer is None or (buffer.shape, buffer.dtype) != (tensor.shape, tensor.dtype):
                # Pinned for a GPU, which would copy to other memory in two steps.
                buffer = torch.empty_like(tensor, device="cpu", requires_grad=False, pin_memory=tensor.is_cuda)
            self._buffers.append(buffer.copy_(tensor.detach()))
            copies[id(tensor)] = buffer
        return deepcopy(dict(state), copies)

    def _write(self, state: Mapping[str, Any], path: str, *, synced: bool = False) -> None:
        with self._folder.writing(path, self._scratch, synced=synced) as local, local.open("wb") as file:
            try:
                torch.save(state, file)
            except RuntimeError as exc:  # torch says where in the file it was, and not what was wrong there
                if isinstance(exc.__context__, OSError):
                    raise exc.__context__ from exc
                raise


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


def _bytes(state: object) -> int:
    """Of all tensors in a state."""
    return sum(tensor.nbytes for tensor in _tensors(state))


def _tensors(state: object) -> Iterator[torch.Tensor]:
    """Of a state. Not by `apply_to_collection`, which takes 2 ms for a state that is small."""
    if isinstance(state, torch.Tensor):
        yield state
    elif isinstance(state, dict | list | tuple):
        for each in state.values() if isinstance(state, dict) else state:
            yield from _tensors(each)
