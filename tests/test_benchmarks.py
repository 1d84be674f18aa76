"""What the yardsticks stand on works, at the smallest of sizes: no figure of theirs is looked at here."""

from __future__ import annotations

import json
import os
import sys
import tempfile

import pytest
import torch

from benchmarks import checkpointing
from benchmarks.trials import scratch


def test_folders_for_scratch_follow_each_other_and_leave_nothing() -> None:
    before = os.environ.get("TMPDIR"), tempfile.gettempdir()
    made = []
    for _ in range(2):
        with scratch() as folder:
            assert tempfile.gettempdir() == os.environ["TMPDIR"] == str(folder)
            made.append(folder)
    assert made[0].parent == made[1].parent
    assert not any(folder.exists() for folder in made)
    assert (os.environ.get("TMPDIR"), tempfile.gettempdir()) == before


def test_checkpoints_are_written_both_ways(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    words = ["--local", "--mib", "9", "--epochs", "2", "--epoch-s", "0.01", "--rounds", "2"]
    monkeypatch.setattr(sys, "argv", ["checkpointing", *words])
    checkpointing.main()
    printed = json.loads(capsys.readouterr().out)
    assert len(printed["in_the_loop"]) == len(printed["in_a_thread"]) == len(printed["stands_still_ratio"]) == 2
