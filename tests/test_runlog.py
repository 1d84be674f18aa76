"""The files of W&B runs: read as the SDK wrote them, and ended for those that died."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import clean_environment

from orchestrator import runlog
from orchestrator.folder import sent_marker
from orchestrator.messages import Outcome

WRITER = """
import os, sys, time, wandb
settings = wandb.Settings(silent=True, x_save_requirements=False, x_transaction_log_flush_interval=0.1)
run = wandb.init(project="p", id="s-3", mode="offline", settings=settings)
for step in range(200):
    run.log({"loss": step, "long": "x" * 400})  # over several blocks of the file
if sys.argv[1] == "die":
    time.sleep(1)
    os.kill(os.getpid(), 9)
for metadata in (None, {"score": 1}):  # as Lightning's logger calls what a user has it log
    mine = wandb.Artifact("model-s-3", type="model", metadata=metadata)
    with mine.new_file("weights.txt") as file:
        file.write(str(metadata))
    run.log_artifact(mine)
run.finish()
"""


def write(folder: Path, end: str) -> Path:
    done = subprocess.run(
        [sys.executable, "-c", WRITER, end], cwd=folder, env=clean_environment(folder), check=False, timeout=100
    )
    assert done.returncode == (-signal.SIGKILL if end == "die" else 0)
    (path,) = folder.glob("wandb/offline-run-*/run-s-3.wandb")
    return path


def inspected(path: Path) -> list[dict[str, object]]:
    """What the SDK's own tool makes of a file."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path.parent)]
    done = subprocess.run(
        command, env=clean_environment(path.parent), capture_output=True, text=True, check=True, timeout=100
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_run_that_ended_is_left_as_it_is(tmp_path: Path) -> None:
    path = write(tmp_path, "well")
    written = runlog.read(path)
    assert (written.rows, written.steps, written.ended) == (200, 200, True)
    assert (written.checkpoints, len(written.artifacts)) == ({}, 2)
    assert runlog.has_row(path, "long", loss=199)
    assert not runlog.has_row(path, "long", loss=200)
    assert not runlog.has_row(path, "short", loss=199)
    assert runlog.values(path, "loss") == dict.fromkeys(range(200), 1)
    assert runlog.values(path, "short") == {}
    assert runlog.has_ended(path)
    before = path.read_bytes()
    runlog.say_last_words(path, outcome=Outcome.FAILED, error="why")
    assert path.read_bytes() == before


@pytest.mark.parametrize("torn", [b"", b"\x01\x02half a record"])
def test_the_last_words_of_a_run_that_was_killed(tmp_path: Path, torn: bytes) -> None:
    path = write(tmp_path, "die")
    rows = runlog.read(path).rows
    assert rows > 0
    with path.open("ab") as file:
        file.write(torn)
    runlog.say_last_words(path, outcome=Outcome.STOPPED, error="why")
    assert runlog.read(path) == runlog.Written(
        rows=rows, steps=rows, checkpoints={}, artifacts=frozenset(), files=frozenset(), ended=True
    )
    *_, summary, end = inspected(path)
    assert summary["summary"] == {"update": {"outcome": "stopped", "error": "why"}}
    assert end["type"] == "exit"


@pytest.mark.parametrize("length", [3, runlog.BLOCK - 30, runlog.BLOCK, 3 * runlog.BLOCK])
def test_records_of_any_length_are_read_back(tmp_path: Path, length: int) -> None:
    path = tmp_path / "run-s-3.wandb"
    path.write_bytes(b":W&B\xe1\xbe\x00")
    for error in ("x" * length, "y" * length):
        runlog.say_last_words(path, outcome=Outcome.FAILED, error=error)  # the second finds that all is said
    kinds = [record.WhichOneof("record_type") for _, record in runlog._parsed(path)]
    assert kinds == ["run", "summary", "exit"]
    assert os.path.getsize(path) > length


def test_a_run_that_has_ended_is_amended_before_its_end(tmp_path: Path) -> None:
    path = write(tmp_path, "well")
    before = inspected(path)
    runlog.amend(path, {"test/accuracy": 0.5})
    after = inspected(path)
    (new,) = (record for record in after if record not in before and record["type"] == "summary")
    assert new["summary"] == {"update": {"test/accuracy": 0.5}}
    kinds = [record["type"] for record in after]
    assert kinds.index("exit") > after.index(new)
    assert runlog.read(path).ended


def test_where_there_is_no_room_the_run_is_left_as_it_is(tmp_path: Path) -> None:
    path = write(tmp_path, "well")
    before = path.read_bytes()
    usual, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before), most))
    try:
        with pytest.raises(OSError, match="File too large"):
            runlog.amend(path, {"test/accuracy": 0.5})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (usual, most))
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir() if each.name.startswith(".")] == []


def test_a_run_that_paused_ends_as_its_trial_did(tmp_path: Path) -> None:
    path = write(tmp_path, "well")
    runlog.amend(path, {"outcome": "paused"})
    sent_marker(path).touch()
    runlog.end_paused(path, Outcome.PAUSED)
    assert sent_marker(path).exists()
    runlog.end_paused(path, Outcome.PRUNED)
    *_, summary = (record for record in inspected(path) if record["type"] == "summary")
    assert summary["summary"] == {"update": {"outcome": "pruned"}}
    assert not sent_marker(path).exists(), "it is to be sent again"
