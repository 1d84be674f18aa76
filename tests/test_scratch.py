"""Temporary files of trials go, also those of workers that were killed; those of workers that live stay."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator import scratch

HOLD = """
import sys
from orchestrator import scratch
with scratch.folder(sys.argv[1]) as folder:
    (folder / "large.ckpt").touch()
    print(folder, flush=True)
    sys.stdin.read()
"""


def hold(name: str, place: Path) -> tuple[subprocess.Popen[str], Path]:
    """A process that has a folder of that name."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, name], env={"TMPDIR": str(place), "PATH": ""}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_what_a_killed_worker_left_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "orchestrator-my-own-sweep").mkdir()  # of somebody else's
    killed, left = hold("a", tmp_path)
    alive, kept = hold("b", tmp_path)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert (left / "large.ckpt").exists()
    with scratch.folder("c") as mine:
        assert mine.parent == tmp_path
        assert not left.exists()
        assert (kept / "large.ckpt").exists()
    alive.communicate("")
    assert [path.name for path in tmp_path.iterdir()] == ["orchestrator-my-own-sweep"]
