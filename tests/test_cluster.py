"""Sweeps on several nodes that go away: a Ray of several nodes on this machine, the sweep as a user would run it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import PROBES, Sweeps, clean_environment, make_sweeps
from test_sweep import PROBE, options, space, trained

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


class Nodes:
    """The nodes, added and taken away by the process that holds them."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process, self._log = process, log
        self.address = self._answer()

    def tell(self, command: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        answer = self._process.stdout.readline().strip()
        assert answer, self._log.read_text()[-3000:]
        return answer


@pytest.fixture
def nodes(tmp_path: Path, ray_folder: str) -> Iterator[Nodes]:
    home, log = tmp_path / "nodes", tmp_path / "nodes.log"
    home.mkdir()
    environment = clean_environment(home) | {"RAY_TMPDIR": ray_folder, "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "1"}
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, str(PROBES / "cluster.py")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment,
        )  # fmt: skip
    yield Nodes(process, log)
    process.communicate(timeout=120)
    assert process.returncode == 0, log.read_text()[-3000:]


@pytest.fixture
def sweeps_there(tmp_path: Path, nodes: Nodes) -> Iterator[Sweeps]:
    yield from make_sweeps(tmp_path, {"RAY_ADDRESS": nodes.address, "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1"})


def slow_trial(sweeps: Sweeps, name: str) -> list[str]:
    """One trial on two nodes, of four epochs with two steps each, which takes a minute once it has begun."""
    return [
        *PROBE, f"name={name}", "search.sampler=grid", "schedule.scheduler=none", "schedule.max_epochs=4",
        "failures.retries=0", f"params.folder={sweeps.folder}", "params.step_s=6.0", "resources.workers=2",
        space(x=options(0.25)),
    ]  # fmt: skip


def test_a_killed_node_costs_no_attempt(sweeps_there: Sweeps, nodes: Nodes) -> None:
    sweeps = sweeps_there
    for _ in range(2):
        nodes.tell("add 1")
    process = sweeps.start("search", *slow_trial(sweeps, "moved"))
    sweeps.until("moved", lambda found: any(trial["epochs"] >= 1 for trial in found["trials"]))
    nodes.tell("kill 0")
    nodes.tell("add 1")
    printed = sweeps.end(process)
    (trial,) = sweeps.results("moved")["trials"]
    assert trial["state"] == "COMPLETE", printed
    assert trial["epochs"] == 4
    assert trial["value"] == 1.0
    assert sum(trained(sweeps.folder).values()) == 4  # what was checkpointed is not trained again
    assert len(list((sweeps.folder / "results/moved/wandb").glob("offline-run-*-moved-0"))) == 2
