"""Ray's own autoscaler on one machine: nodes come because trials wait for them, and go when nothing needs them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import Sweeps, clean_environment, make_sweeps, temporary
from test_sweep import PROBE, options, space

from orchestrator.capacity import HEAD
from orchestrator.cluster import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
# What the nodes are, and how soon an idle one goes. Each is a raylet on this machine (the provider is Ray's own).
OBJECT_STORE_BYTES = 100 * 2**20
HEAD_ID = "f" * 51 + "00000"
UNUSED = (
    *("setup_commands", "head_setup_commands", "worker_setup_commands", "initialization_commands"),
    *("head_start_ray_commands", "worker_start_ray_commands"),
    *("cluster_synced_files", "rsync_exclude", "rsync_filter"),
)
COUNT = "import ray; ray.init(log_to_driver=False); print(sum(n['Alive'] for n in ray.nodes()), 'alive')"


class Autoscaled:
    """A Ray of one head without CPUs, and up to two nodes of one CPU."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        config = {
            "cluster_name": "sweeps",
            "max_workers": 2,
            "idle_timeout_minutes": 0.1,
            "provider": {
                "type": "external",  # as `fake_multinode`, whose defaults Ray's wheel lacks
                "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
                "gcs_address": self.address, "head_node_id": HEAD_ID, "launch_multiple": True,
                "disable_node_updaters": True, "disable_launch_config_check": True,
            },
            "available_node_types": {
                "ray.head.default": {"resources": {"CPU": 0, HEAD: 1}, "node_config": {}, "max_workers": 0},
                "worker": {
                    "resources": {"CPU": 1, "object_store_memory": OBJECT_STORE_BYTES},
                    "node_config": {}, "min_workers": 0, "max_workers": 2,
                },
            },
            "head_node_type": "ray.head.default",
            # What is only for hosts that are reached by ssh.
            **{key: [] for key in UNUSED},
            "auth": {}, "docker": {}, "file_mounts": {}, "upscaling_speed": 1.0, "file_mounts_sync_continuously": False,
        }  # fmt: skip
        self.file = folder / "ray_bootstrap_config.yaml"
        self.file.write_text(json.dumps(config))
        self._environment = environment | {
            "RAY_FAKE_CLUSTER": "1", "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID, "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
            "RAY_enable_autoscaler_v2": "1",  # as `ray up` has it
            "RAY_AUTH_MODE": "disabled", "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # 30 at the end of the test, for nothing
        }  # fmt: skip
        self._log = (folder / "head.log").open("w")
        self._head = subprocess.Popen(
            [
                *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}"),
                *("--node-ip-address=127.0.0.1", "--num-cpus=0", f"--resources={json.dumps({HEAD: 1})}"),
                *(f"--object-store-memory={OBJECT_STORE_BYTES}", f"--dashboard-port={free_port()}"),
                f"--autoscaling-config={self.file}",
            ],
            env=self._environment, stdout=self._log, stderr=self._log, start_new_session=True,
        )  # fmt: skip

    def nodes(self) -> int:
        """How many nodes there are, besides the head; -1 while there is none."""
        environment = self._environment | {"RAY_ADDRESS": self.address}
        count = [sys.executable, "-c", COUNT]
        done = subprocess.run(count, env=environment, capture_output=True, text=True, timeout=300)
        return int(done.stdout.split()[0]) - 1 if done.returncode == 0 else -1

    def until(self, nodes: int, timeout_s: float = 120) -> None:
        """Wait until there are so many nodes besides the head."""
        deadline = time.monotonic() + timeout_s
        while (found := self.nodes()) != nodes:
            assert time.monotonic() < deadline, f"{found} nodes after {timeout_s} s"

    def autoscaler(self) -> Any:
        """Its process."""
        (found,) = (each for each, words in self._below() if any(word.endswith("/v2/monitor.py") for word in words))
        return found

    def actors(self) -> set[str]:
        """The classes of those that are there, which Ray shows as the names of processes."""
        found = [words[0] for _, words in self._below() if words and "ray::" in words[0]]
        return {word.removeprefix("ray::").partition(".")[0] for word in found}

    def _below(self) -> Iterator[tuple[psutil.Process, list[str]]]:
        """The processes below the head, and their command lines; some come and go as they are looked at."""
        for process in psutil.Process(self._head.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                yield process, process.cmdline()

    def end(self) -> None:
        """End everything; what Ray itself leaves behind, as its log monitor, is killed."""
        left = psutil.Process(self._head.pid).children(recursive=True)
        self._head.send_signal(signal.SIGTERM)
        try:
            self._head.wait(60)
        finally:
            for process in [self._head, *psutil.wait_procs(left, timeout=5)[1]]:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            self._head.wait(60)
            self._log.close()


@pytest.fixture
def autoscaled(tmp_path: Path, ray_folder: str) -> Iterator[Autoscaled]:
    home = tmp_path / "ray"
    home.mkdir()
    found = Autoscaled(home, clean_environment(home) | temporary(ray_folder))
    try:
        yield found
    finally:
        found.end()


@pytest.fixture
def sweeps_there(tmp_path: Path, autoscaled: Autoscaled, ray_folder: str) -> Iterator[Sweeps]:
    """Started on the head, where `ray up` has left what the autoscaler was told."""
    for sweeps in make_sweeps(tmp_path, {"RAY_ADDRESS": autoscaled.address} | temporary(ray_folder)):
        (tmp_path / "home" / autoscaled.file.name).write_text(autoscaled.file.read_text())
        yield sweeps


def test_nodes_come_for_trials_and_go_with_the_sweep(sweeps_there: Sweeps, autoscaled: Autoscaled) -> None:
    sweeps = sweeps_there
    autoscaled.until(0)  # it is up
    cloud = autoscaled.autoscaler()
    cloud.suspend()  # takes its time
    # The second is still there when the other slot has been idle for long; what may come after the third is short.
    steps = [{"step_s": step_s} for step_s in (1.0, 7.0, *(1 + tenth / 10 for tenth in range(1, 10)))]
    process = sweeps.start(
        "search", *PROBE, "name=grown", "search.sampler=random", "schedule.scheduler=none", "schedule.max_epochs=4",
        "budget.trials=20", f"warm_start.points={json.dumps(steps)}", "resources.workers=1", "params.x=0.25",
        f"params.folder={sweeps.folder}", space(step_s={"type": "float", "low": 1.0, "high": 7.0}),
    )  # fmt: skip
    assert process.stdout is not None
    said = []
    while not said or "waits for nodes" not in said[-1]:
        said.append(process.stdout.readline())
        assert said[-1], sweeps.end(process)
    assert "trial 0 waits for nodes: it needs 1 x 1 CPUs; free now: nothing" in said[-1]
    assert autoscaled.nodes() == 0
    cloud.resume()

    def running(found: dict[str, Any]) -> list[int]:
        return [trial["number"] for trial in found["trials"] if trial["state"] == "RUNNING"]

    def second(found: dict[str, Any]) -> bool:
        """Whether one slot has its second trial, or a later one, beside another's first."""
        return running(found)[:1] == [1] and running(found)[1:] != []

    sweeps.until("grown", second)
    autoscaled.until(2)
    assert "TrainController" in (actors := autoscaled.actors())
    assert not actors & {"DatasetManager", "PlacementGroupCleaner", "_AutoscalingCoordinatorActor"}  # none has a use
    assert "grown is stopped" in sweeps.run("stop", "grown")  # what runs goes on to its end
    autoscaled.until(1)  # one is idle, and is not kept for what the other one does
    assert running(sweeps.results("grown")) == [1]
    assert "up to 2 at once" in "".join(said) + sweeps.end(process)
    trials = sweeps.results("grown")["trials"]
    assert len(trials) >= 3
    assert {trial["state"] for trial in trials} == {"COMPLETE"}
    autoscaled.until(0)

    process = sweeps.start(
        "search", *PROBE, "name=elastic", "search.sampler=grid", "schedule.scheduler=none", "schedule.max_epochs=9999",
        "resources.workers=1..2", f"params.folder={sweeps.folder}", "params.step_s=0.2", space(x=options(0.25)),
    )  # fmt: skip
    autoscaled.until(2)  # though nothing is reserved before it is known how many workers there can be

    def both(_: Any) -> bool:
        return (sweeps.folder / "epochs-1.txt").exists()

    sweeps.until("elastic", both)
    assert "elastic is cancelled" in sweeps.run("cancel", "elastic")
    sweeps.end(process)
    autoscaled.until(0)
