"""Sweeps on several nodes that go away: a Ray of several nodes on this machine, the sweep as a user would run it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from conftest import S3_KEYS, Sweeps, clean_environment, make_sweeps, temporary
from doubles.wandb_server import WandbServer
from test_sweep import PROBE, options, space, trained

from benchmarks.nodes import Nodes, brought_up
from orchestrator import runlog
from orchestrator.ledger import Ledger
from orchestrator.spec import Spec

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture
def nodes(tmp_path: Path, ray_folder: str) -> Iterator[Nodes]:
    home = tmp_path / "nodes"
    home.mkdir()
    environment = clean_environment(home) | temporary(ray_folder) | S3_KEYS
    with brought_up(tmp_path / "nodes.log", environment) as found:
        yield found


@pytest.fixture
def sweeps_there(
    tmp_path: Path, nodes: Nodes, ray_folder: str, s3: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Sweeps]:
    """On these nodes, and with their storage in an S3."""
    for name, value in S3_KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    environment = {
        "RAY_ADDRESS": nodes.address,
        "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",
        "ORCHESTRATOR_STORAGE": f"s3://sweeps/{tmp_path.name}?{s3}",
    }
    yield from make_sweeps(tmp_path, environment | temporary(ray_folder) | S3_KEYS)


def slow_trial(sweeps: Sweeps, name: str) -> list[str]:
    """One trial on two nodes, of four epochs with two steps each, which takes a minute once it has begun."""
    return [
        *PROBE, f"name={name}", "search.sampler=grid", "schedule.scheduler=none", "schedule.max_epochs=4",
        "failures.retries=0", f"params.folder={sweeps.folder}", "params.step_s=6.0", "resources.workers=2",
        space(x=options(0.25)),
    ]  # fmt: skip


def test_nodes_that_go_cost_no_attempt(sweeps_there: Sweeps, nodes: Nodes) -> None:
    """One is announced to go, as spot nodes are, and another is killed."""
    sweeps = sweeps_there
    for _ in range(2):
        nodes.add(1)
    process = sweeps.start("search", *slow_trial(sweeps, "moved"))
    sweeps.until("moved", lambda found: any(trial["epochs"] >= 1 for trial in found["trials"]))
    nodes.drain(0, 120)
    stored = sweeps.stored("moved")
    sweeps.until("moved", lambda _: "partial" in (stored.newest(0) or ""))  # saved in mid-epoch, just in time
    nodes.add(1)
    left_at = sweeps.results("moved")["trials"][0]["epochs"]
    sweeps.until("moved", lambda found: found["trials"][0]["epochs"] > left_at)
    nodes.kill(1)
    nodes.add(1)
    printed = sweeps.end(process)
    (trial,) = sweeps.results("moved")["trials"]
    assert trial["state"] == "COMPLETE", printed
    assert trial["epochs"] == 4
    assert trial["value"] == 1.0
    assert stored.newest(0) == stored.checkpoint(0, 4)
    assert sum(trained(sweeps.folder).values()) == 4  # what was checkpointed is not trained again
    stored.download_tree("wandb")
    runs = stored.run_files("moved-0")
    assert len(runs) in (2, 3)  # one run: what a killed rank 0 logged is gone with its node
    samples = [sample for run in runs for sample in runlog.samples(run, after=runlog.IDENTITY)[0]]
    assert {name.partition("/l:")[2].rpartition("-")[2] for sample in samples for name in sample.values} == {"", "1"}


def test_a_trial_goes_on_with_fewer_workers_and_grows_again(sweeps_there: Sweeps, nodes: Nodes) -> None:
    sweeps = sweeps_there
    for _ in range(2):
        nodes.add(1)
    process = sweeps.start(
        "search", *PROBE, "name=elastic", "search.sampler=grid", "schedule.scheduler=none", "schedule.max_epochs=9999",
        "failures.retries=0", f"params.folder={sweeps.folder}", "params.step_s=0.3", "resources.workers=1..2",
        space(x=options(0.25)),
    )  # fmt: skip

    def epochs(rank: int) -> int:
        """How many a rank has trained so far; the second is not there while there is one worker only."""
        file = sweeps.folder / f"epochs-{rank}.txt"
        return sum(trained(sweeps.folder, rank).values()) if file.exists() else 0

    sweeps.until("elastic", lambda _: epochs(1) >= 2)
    nodes.kill(0)
    alone = epochs(1)
    at = epochs(0)
    sweeps.until("elastic", lambda _: epochs(0) >= at + 4)
    assert epochs(1) <= alone + 1  # what was under way when the node died
    nodes.add(1)
    at = epochs(1)
    sweeps.until("elastic", lambda _: epochs(1) >= at + 2)
    assert "elastic is cancelled" in sweeps.run("cancel", "elastic")
    sweeps.end(process)
    (trial,) = sweeps.results("elastic")["trials"]
    assert trial["state"] == "RUNNING"  # it would go on
    assert max(trained(sweeps.folder).values()) <= 2  # the epoch in which the node died
    stored = sweeps.stored("elastic")
    stored.download_tree("wandb")
    runs = stored.run_files("elastic-0")
    assert any(runlog.has_row(run, "workers", workers=1) for run in runs)
    assert any(runlog.has_row(run, "workers", workers=2) for run in runs)


def test_two_elastic_trials_share_nodes_and_one_that_fails_them_is_avoided(
    sweeps_there: Sweeps, nodes: Nodes, tmp_path: Path
) -> None:
    sweeps = sweeps_there
    for _ in range(4):
        nodes.add(1)
    with WandbServer() as server:
        machine = server.env["WANDB_BASE_URL"].removeprefix("http://")
        (tmp_path / "nodes" / ".netrc").write_text(f"machine {machine} login user password {'0' * 40}\n")  # another key
        online = replace(sweeps, environment=sweeps.environment | server.env)
        said = online.run("preflight", *PROBE, "tracking.mode=online", "name=asked", space(x=options(0.125)))
        assert server.unknown == []
    assert said.count("refuses the key (401)") == 1  # each node's own is asked with
    assert "4 nodes, such as" in said
    assert "all is well: 1 trials at once" in said
    process = sweeps.start(
        "search", *PROBE, "name=shared", "search.sampler=grid", "schedule.scheduler=none", "schedule.max_epochs=9999",
        "failures.retries=1", f"params.folder={sweeps.folder}", "params.behaviour=fail_on_a_node", "params.step_s=0.2",
        "resources.workers=1..2", "resources.concurrency=2", space(x=options(0.125, 0.25, 0.375, 0.5, 0.625)),
    )  # fmt: skip
    assert process.stdout is not None
    lines = iter(process.stdout.readline, "")
    (avoided,) = islice((line for line in lines if "is avoided: trials" in line), 1)
    sweeps.until("shared", lambda found: len(running(found)) == 2)  # on the three that are left
    assert "shared is cancelled" in sweeps.run("cancel", "shared")
    assert f"{avoided.partition(' is avoided')[0].strip()} kept failing trials, and was avoided" in sweeps.end(process)
    stored = sweeps.stored("shared")
    records = Ledger(stored, Spec.from_yaml(stored.read_text("sweep.yaml")), read_only=True).records
    failed = [record for record in records if record.state == "FAIL"]
    assert len(failed) <= 1  # the second that fails there is tried again elsewhere
    one, other = (record.attempts[-1] for record in records if record not in failed)
    assert one.ended
    assert other.ended
    assert max(one.started, other.started) < min(one.ended, other.ended)  # both at once
    assert {attempt.workers for record in records for attempt in record.attempts} == {1, 2}


def running(found: dict[str, Any]) -> list[int]:
    """The trials of a sweep that train, and have come to their second epoch."""
    return [trial["number"] for trial in found["trials"] if trial["state"] == "RUNNING" and trial["epochs"] >= 2]


# What is left where a node goes just as a worker group starts on it: the Ray Train run that reserved it is over.
FORGET = """
import time

import ray
from orchestrator import cluster
with cluster.connected():
    from ray.util.placement_group import placement_group, placement_group_table

    @ray.remote(num_cpus=0)
    class Controller:
        def reserve(self):
            self.reserved = placement_group([{"CPU": 0.1}])
            assert self.reserved.wait(60)
            return self.reserved

    def state(group):
        return placement_group_table(group)["state"]

    ended, goes_on = Controller.remote(), Controller.remote()
    its, others = ray.get([ended.reserve.remote(), goes_on.reserve.remote()])
    mine = placement_group([{"CPU": 0.1}])
    assert mine.wait(60)
    ray.kill(ended)
    for _ in range(600):
        left = cluster.free_forgotten()
        if state(its) == "REMOVED":
            break
        time.sleep(0.1)
    print(state(its), state(others), state(mine), left)
"""


def test_what_a_dead_actor_had_reserved_is_freed(ray_address: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORGET],
        env=os.environ | {"RAY_ADDRESS": ray_address}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.stdout == "REMOVED CREATED CREATED 1\n", done.stderr
