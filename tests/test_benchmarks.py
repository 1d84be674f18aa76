"""What the yardsticks stand on works, at the smallest of sizes: no figure of theirs is looked at here."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
from pathlib import Path

import pytest
import torch

from benchmarks import checkpointing, gpu_sharing, loop_cost, proposing
from benchmarks.trials import scratch
from orchestrator import cli


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


@pytest.mark.parametrize("sampler", ["curves", "random"])
def test_proposals_are_asked_for_at_once_and_later(sampler: str) -> None:
    measured = proposing.measured(sampler, finished=12, proposals=3, every_s=0.01, together=2)
    assert len(measured) == 3
    assert all(ms > 0 for ms in measured)


def test_turns_are_compared_with_those_beside_them() -> None:
    bare, swept = loop_cost.blocks([1, 3, 2, 6, 5, 7, 9], 2), loop_cost.blocks([3, 3, 5, 5, 9, 9], 2)
    assert (bare, swept) == ([2, 4, 6], [3, 5, 9])
    assert loop_cost.ratios(bare, swept) == [1, 1, 1.5]
    middle, low, high = loop_cost.interval([1.0] * 50 + [1.5] * 20)
    assert (middle, low, high) == (1.0, 1.0, 1.0)
    assert loop_cost.interval([1.0, 2.0, 9.0])[1:] == (1.0, 9.0)


def test_one_side_waits_while_the_other_has_its_turn(tmp_path: Path) -> None:
    for side in loop_cost.SIDES:
        os.mkfifo(tmp_path / side)
    ours, theirs = (loop_cost.Turns(tmp_path, side) for side in loop_cost.SIDES)
    said: list[str] = []
    waiting = threading.Thread(target=lambda: (theirs.take(), said.append("theirs"), ours.give()))
    waiting.start()
    said.append("ours")
    ours.give()
    waiting.join(60)
    assert said == ["ours", "theirs"]


def test_slots_that_share_a_gpu_are_counted_while_all_of_them_train() -> None:
    lines = [
        "1 begins 0 0", "1 ends 10 3145728", "1 begins 10 1048576", "2 begins 20 0", "1 ends 30 2097152",
        "1 begins 30 0", "2 ends 40 2097152", "2 begins 40 0", "1 ends 56 2097152", "2 ends 70 2097152",
    ]  # fmt: skip
    assert gpu_sharing.summary(lines) == {
        "slots": 2, "trials": 3, "trials_per_hour": 300.0, "held_before_a_trial_mib": 1, "held_at_most_mib": 3,
    }  # fmt: skip
    one_went_before_the_other_came = ["1 begins 0 0", "1 ends 10 0", "2 begins 20 0", "2 ends 30 0"]
    assert gpu_sharing.summary(one_went_before_the_other_came)["trials_per_hour"] == 0


@pytest.mark.parametrize("slots", gpu_sharing.SLOTS)
@pytest.mark.parametrize("precision", gpu_sharing.PRECISIONS)
def test_sweeps_that_share_a_gpu_are_valid(tmp_path: Path, precision: str, slots: int) -> None:
    assert cli.main(["validate", *gpu_sharing.overrides(tmp_path, slots, precision, trials=40, epochs=40)]) == 0


def test_slots_are_compared_with_one_and_precisions_with_32_bits(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rates = iter([100.0, 150.0, 0.0, 200.0, 300.0, 400.0])
    monkeypatch.setattr(sys, "argv", ["gpu_sharing"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu_sharing, "sweep", lambda *_: {"trials_per_hour": next(rates)})
    assert gpu_sharing.main() == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["asked"] for row in printed] == [1, 2, 4] * 2
    assert [row["against_one"] for row in printed] == [1.0, 1.5, 0.0, 1.0, 1.5, 2.0]
    assert [row["against_32"] for row in printed] == [1.0, 1.0, None, 2.0, 2.0, None]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_measured(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu_sharing"])
    assert gpu_sharing.main() == 2
    assert capsys.readouterr().err == "no GPU here: nothing was measured\n"
