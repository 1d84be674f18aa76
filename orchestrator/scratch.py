"""Temporary files of a trial: a folder that is locked as long as its process lives, so that no killed one's stays."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def folder(name: str) -> Iterator[Path]:
    """A folder for temporary files, until the block ends; those that killed processes left behind go first."""
    place = Path(tempfile.gettempdir())
    for left in place.glob("orchestrator-*"):
        with contextlib.suppress(OSError), (left / ".owner").open() as owner:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left, ignore_errors=True)
    beside = Path(tempfile.mkdtemp(prefix=".orchestrator-", dir=place))
    with (beside / ".owner").open("w") as owner:
        fcntl.flock(owner, fcntl.LOCK_EX)
        mine = beside.rename(place / f"orchestrator-{name}-{os.getpid()}")  # locked before anybody can find it
        try:
            yield mine
        finally:
            shutil.rmtree(mine, ignore_errors=True)
