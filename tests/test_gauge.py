"""System metrics of a trial's other nodes, sampled by the real SDK, in the trial's run."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import wandb

from orchestrator import gauge, runlog
from orchestrator.folder import SweepFolder
from orchestrator.gauge import Gauge
from orchestrator.messages import Job, Node, Outcome, Sample
from orchestrator.spec import Spec
from orchestrator.tracker import Tracker

# Rank 0's node, another one with two ranks, and a third.
NODES = [Node(id=name, address=f"10.0.0.{name}") for name in "12231"]


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    environment = dict(os.environ)
    monkeypatch.setenv("WANDB_CONSOLE", "off")
    monkeypatch.setenv("WANDB__STATS_SAMPLING_INTERVAL", "0.5")
    monkeypatch.setattr(gauge, "EVERY_S", 0.1)
    yield
    wandb.teardown()
    os.environ.clear()
    os.environ.update(environment)


class Board:
    """The switchboard's end of it, for one worker group and trial."""

    def __init__(self) -> None:
        self.waiting: list[Sample] = []

    def say(self, method: str, number: int, samples: Sequence[Sample] = ()) -> Any:
        assert number == 7
        if method == "sampled":
            self.waiting += samples
            return None
        assert method == "samples"
        found, self.waiting = self.waiting, []
        return found


def spec(folder: Path, mode: str = "offline") -> Spec:
    return Spec.model_validate(
        {"name": "s", "trainable": "x", "space": {}, "metric": "score", "goal": "maximize", "storage": str(folder),
         "tracking": {"mode": mode, "project": "p"}}
    )  # fmt: skip


def labels(run: Path) -> set[str]:
    """The labels of a run's system metrics; '' where there is none, as on rank 0's node."""
    samples, _ = runlog.samples(run, after=runlog.IDENTITY)
    return {name.partition("/l:")[2] for sample in samples for name in sample.values}


def test_every_other_node_is_in_the_trials_run_once(tmp_path: Path) -> None:
    board, notices, folder = Board(), list[str](), SweepFolder(str(tmp_path), "s")
    tracker = Tracker(spec(tmp_path), folder, 0, notices.append)
    tracker.open(Job(number=7, params={}, seed=7))
    (run,), kept = folder.run_files("s-7"), wandb.run
    gauges = [Gauge(spec(tmp_path), NODES, rank, board.say, tracker.sampled, notices.append) for rank in range(5)]
    scratches = [tmp_path / f"scratch-{rank}" for rank in range(5)]
    for scratch in scratches:
        scratch.mkdir()
    overs = [each.over(7, scratch) for each, scratch in zip(gauges, scratches, strict=True)]
    for each in overs:
        each.__enter__()
    deadline = time.monotonic() + 60
    while labels(run) != {"", "10.0.0.2-rank-1", "10.0.0.3-rank-3"}:
        assert time.monotonic() < deadline, (labels(run), notices)
        time.sleep(0.1)
    assert wandb.run is kept
    for each in reversed(overs):
        each.__exit__(None, None, None)
    tracker.close(Outcome.COMPLETE, None)
    assert labels(run) == {"", "10.0.0.2-rank-1", "10.0.0.3-rank-3"}
    assert [rank for rank, scratch in enumerate(scratches) if any(scratch.iterdir())] == [1, 3]
    assert folder.run_files() == [run]
    assert notices == []


@pytest.mark.parametrize(("nodes", "mode"), [(NODES[:1] * 2, "offline"), (NODES, "disabled")])
def test_one_node_or_no_run_costs_nothing(nodes: list[Node], mode: str, tmp_path: Path) -> None:
    def never(*_: Any) -> None:
        pytest.fail("nothing is to be said")

    for rank in range(2):
        with Gauge(spec(tmp_path, mode), nodes, rank, never, never, never).over(7, tmp_path / "scratch"):
            time.sleep(0.3)
    assert not (tmp_path / "scratch").exists()


def test_a_node_that_cannot_pass_on_what_it_does_fails_no_trial(tmp_path: Path) -> None:
    notices, over = list[str](), threading.Event()

    def gone(*_: Any) -> None:
        raise ConnectionError("the switchboard is busy")

    def notify(text: str) -> None:
        notices.append(text)
        over.set()

    with Gauge(spec(tmp_path), NODES, 1, gone, print, notify).over(7, tmp_path):
        assert over.wait(60)
    text = "W&B runs go on without the system metrics of node 10.0.0.2: ConnectionError: the switchboard is busy"
    assert notices == [text]
