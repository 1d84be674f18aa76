"""Datasets of torchvision, downloaded once per node however many workers ask for them at the same time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from filelock import FileLock

from orchestrator.errors import InputError


def cache_folder(data_dir: str | None) -> Path:
    """Where datasets live: the folder that was given, or `datasets` in torch's own cache (`TORCH_HOME`)."""
    return Path(data_dir).expanduser() if data_dir else Path(torch.hub.get_dir()).parent / "datasets"


def download(dataset: Callable[..., Any], folder: Path) -> None:
    """Have a dataset, whole, in a folder.

    One worker of a node downloads it, beside, and moves it into place; the others wait for it. So none sees half of
    it, and a download that was killed leaves nothing behind that could be taken for the dataset.

    Args:
        dataset: a class of torchvision's, called with `root` and `download`.
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
        with TemporaryDirectory(prefix=f".{name}-", dir=folder) as beside:
            try:
                dataset(root=beside, download=True)
            except (OSError, RuntimeError) as exc:  # a URLError is an OSError; torchvision's own are RuntimeErrors
                why = " ".join(str(exc).split())
                raise InputError(
                    f"{name} is not in {folder}, and cannot be downloaded ({why}); where there is no network, put it"
                    " there, or say where it is with params.data_dir=DIR"
                ) from exc
            for part in Path(beside).iterdir():
                part.rename(folder / part.name)


def _is_there(dataset: Callable[..., Any], folder: Path) -> bool:
    try:
        dataset(root=folder, download=False)
    except RuntimeError:  # "Dataset not found or corrupted", torchvision's way to say no
        return False
    return True
