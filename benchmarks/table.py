"""Tables of real learning curves: every configuration of a finite space, trained once (benchmarks.curves)."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.space import Choice, Float, Int, Space

FOLDER = Path(__file__).parent / "data"
TASKS = ("digits", "photo", "classes", "friedman", "spirals")
EPOCHS = 27
SPACE = Space(
    {
        "width": Choice([16, 64, 128]),
        "depth": Int(1, 3),
        "dropout": Float(0.0, 0.5, step=0.25),
        "batch_size": Choice([32, 128]),
        "schedule": Choice(["constant", "cosine"]),
        "optimizer": Choice(["sgd", "adamw"]),
        "sgd.log10_lr": Float(-2.5, 0.0, step=0.5, when={"optimizer": "sgd"}),
        "sgd.momentum": Float(0.0, 0.9, step=0.45, when={"optimizer": "sgd"}),
        "adamw.log10_lr": Float(-4.0, -1.5, step=0.5, when={"optimizer": "adamw"}),
        "adamw.log10_decay": Float(-4.0, 0.0, step=4.0, when={"optimizer": "adamw"}),
    }
)
"""What is searched: ten parameters, eight of them active at once."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A task's curves, one for every configuration of `SPACE`."""

    configurations: list[dict[str, Any]]
    """In the order of `SPACE.grid()`."""
    losses: NDArray[np.float64]
    """(configurations, `EPOCHS`)."""
    epoch_s: NDArray[np.float64]
    """(configurations,), CPU seconds per epoch."""

    def row(self, params: Mapping[str, Any]) -> int:
        """Where a configuration is."""
        return _rows()[_key(params)]


@cache
def load(task: str) -> Table:
    """A task's table.

    Raises:
        FileNotFoundError: it has not been made, or not to its end.
    """
    configurations = list(SPACE.grid())
    lines = read(task)
    if len(lines) < len(configurations):
        raise FileNotFoundError(
            f"the table of {task!r} has {len(lines)} of {len(configurations)} configurations;"
            f" go on with `python -m benchmarks.curves {task}`"
        )
    return Table(
        configurations=configurations,
        losses=np.array([[float(line[name]) for name in _LOSSES] for line in lines]),
        epoch_s=np.array([float(line["epoch_s"]) for line in lines]),
    )


def read(task: str) -> list[dict[str, str]]:
    """The lines of a task's file, one for each configuration trained so far; none where there is no file."""
    path = FOLDER / f"{task}.csv.gz"
    if not path.exists():
        return []
    with gzip.open(path, "rt", newline="") as file:
        return list(csv.DictReader(file))


def line(params: Mapping[str, Any], seed: int, epoch_s: float, losses: list[float]) -> dict[str, str]:
    """One training as a line of a file: its seed, parameters, CPU seconds per epoch, and the loss after each epoch."""
    texts = {name: str(params.get(name, "")) for name in SPACE}
    curve = {name: f"{loss:.5g}" for name, loss in zip(_LOSSES, losses, strict=True)}
    return {"seed": str(seed), **texts, "epoch_s": f"{epoch_s:.4g}", **curve}


def write(task: str, lines: list[dict[str, str]]) -> None:
    """Write a task's file; the same lines always give the same bytes."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ["seed", *SPACE, "epoch_s", *_LOSSES], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{task}.csv.gz").write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))


_LOSSES = [f"loss_{epoch}" for epoch in range(1, EPOCHS + 1)]


@cache
def _rows() -> dict[tuple[Any, ...], int]:
    return {_key(params): row for row, params in enumerate(SPACE.grid())}


def _key(params: Mapping[str, Any]) -> tuple[Any, ...]:
    """The configuration's values, free of the rounding that a sampler's steps bring."""
    values = (params.get(name) for name in SPACE)
    return tuple(round(value, 6) if isinstance(value, float) else value for value in values)
