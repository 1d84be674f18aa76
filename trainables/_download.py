"""Datasets of torchvision, downloaded once per node however many workers ask for them at the same time."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from filelock import FileLock

from orchestrator.errors import InputError

# How long a server may say nothing: torchvision sets no limit, and a network may swallow what is sent.
SILENCE_S = 30.0


def cache_folder(data_dir: str | None) -> Path:
    """Where datasets live: the folder that was given, or `datasets` in torch's own cache (`TORCH_HOME`)."""
    return Path(data_dir).expanduser() if data_dir else Path(torch.hub.get_dir()).parent / "datasets"


def download(dataset: Callable[..., Any], folder: Path) -> None:
    """Have a dataset, whole, in a folder.

    One worker of a node downloads it, beside, and moves it into place, file by file; the others wait for it. So none
    sees half of a file, what an earlier download that was killed has left half-done is put right, and files that are
    not the dataset's stay where they are.

    Args:
        dataset: a class of torchvision's, called with `root`, `train` and `download`.
        folder: its `root`.

    Raises:
        InputError: it is not there, and cannot be downloaded.
    """
    if folder.is_dir() and _is_there(dataset, folder):
        return  # before the lock, which cannot be taken in a folder that is only to be read
    name = getattr(dataset, "__name__", str(dataset))
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{name}.lock"):
        if _is_there(dataset, folder):
            return
        for left in folder.glob(f".{name}-*"):
            shutil.rmtree(left)  # by a download that was killed
        with TemporaryDirectory(prefix=f".{name}-", dir=folder) as beside:
            try:
                with _limited(SILENCE_S):
                    dataset(root=beside, download=True)
            except (OSError, RuntimeError) as exc:  # a URLError is an OSError; torchvision's own are RuntimeErrors
                why = " ".join(str(exc).split())
                raise InputError(
                    f"{name} is not in {folder}, and cannot be downloaded ({why}); where there is no network, put it"
                    " there, or say where it is with params.data_dir=DIR"
                ) from exc
            for part in filter(Path.is_file, Path(beside).rglob("*")):
                target = folder / part.relative_to(beside)
                target.parent.mkdir(parents=True, exist_ok=True)
                part.replace(target)


@contextmanager
def _limited(silence_s: float) -> Iterator[None]:
    """Let what waits for a server for so long raise a `TimeoutError`."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(silence_s)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _is_there(dataset: Callable[..., Any], folder: Path) -> bool:
    """Whether both splits can be opened; some classes look no further than for files of that name."""
    try:
        for train in (True, False):
            dataset(root=folder, train=train, download=False)
    # "Dataset not found or corrupted", and what reading a file raises that is cut off.
    except (RuntimeError, ValueError, AssertionError):
        return False
    return True
