"""A checkpoint, however it is named: a path, or an artifact of W&B, `ENTITY/PROJECT/NAME:ALIAS`."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from orchestrator.errors import InputError, TrackingError
from orchestrator.naming import is_artifact

# How long a download may take: a checkpoint of many gigabytes takes a while.
FETCH_TIMEOUT_S = 3600.0


def fetch_checkpoint(name: str, into: str | Path | None = None) -> Path:
    """The local file of a checkpoint, for `load_from_checkpoint`; an artifact is downloaded.

    Args:
        name: its path, or `ENTITY/PROJECT/NAME:ALIAS`.
        into: the folder that an artifact is downloaded to; a new temporary one where none is given.

    Raises:
        InputError: W&B has no such checkpoint.
        TrackingError: W&B cannot be reached, refuses, or takes too long.
    """
    return fetched(name, Path(into) if into else Path(tempfile.mkdtemp(prefix="checkpoint-")))[1]


def fetched(name: str, into: Path) -> tuple[str, Path]:
    """The same, in a folder that is given; and its name, an artifact's by version: an alias moves on."""
    if not is_artifact(name):
        return name, Path(name)
    # In a process of its own: the SDK leaves a service and variables behind that later processes would take for theirs.
    command = [sys.executable, "-m", "orchestrator", "download", name, str(into)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=FETCH_TIMEOUT_S)
    except subprocess.TimeoutExpired as exc:
        raise TrackingError(f"W&B has not sent {name} within {FETCH_TIMEOUT_S:g} s") from exc
    if done.returncode:
        error = InputError if done.returncode == InputError.exit_code else TrackingError
        raise error(done.stderr.strip().partition("error: ")[2] or done.stderr.strip())
    version, path = done.stdout.strip().splitlines()[-2:]
    return version, Path(path)
