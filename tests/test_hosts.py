"""A fleet of real hosts, made by the real `ray up`: brought up, swept on, robbed of its hosts one by one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks import hosts
from benchmarks.hosts import Hosts

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ROOT = Path(__file__).resolve().parent.parent
WORKERS = ["one", "two", "three"]
SWEEP = (  # of a trial that goes on until it has lost every host
    "digits_ddp name=fleet budget.trials=1 schedule.max_epochs=10000 schedule.scheduler=none failures.retries=0"
    " params.batch_size=2 tracking.mode=offline search.seed=1"
)
# Small hosts, on which a worker of the trial each finds room, and a Ray that finds out soon that one is gone.
START = {
    "worker_start_ray_commands": ("ray start ", "ray start --num-cpus=1 --object-store-memory=100000000 "),
    "head_start_ray_commands": (
        "RAY_health_check_period_ms=3000 RAY_health_check_timeout_ms=5000 ray start ",
        "RAY_health_check_period_ms=1000 RAY_health_check_timeout_ms=2000 AUTOSCALER_HEARTBEAT_TIMEOUT_S=10"
        " AUTOSCALER_UPDATE_INTERVAL_S=1 ray start --object-store-memory=200000000 ",
    ),
}


class Fleet:
    """The hosts, and the sweep that their storage holds."""

    def __init__(self, network: Hosts) -> None:
        self.network = network
        self.file = network.folder / "cluster.yaml"
        self.file.write_text(yaml.safe_dump(self._config(), width=1000))

    def _config(self) -> dict[str, Any]:
        """clusters/local.yaml with its three places edited; packages are on the hosts already."""
        config: dict[str, Any] = yaml.safe_load((ROOT / "clusters/local.yaml").read_text())
        address = self.network.address
        config["provider"] |= {"head_ip": address("head"), "worker_ips": [address(name) for name in WORKERS]}
        config["auth"] |= {"ssh_user": "root"}
        setup = [command for command in config["setup_commands"] if "pip install" not in command]
        assert len(setup) == len(config["setup_commands"]) - 1
        storage = str(self.network.folder / "sweeps")
        config["setup_commands"] = [command.replace("/shared/sweeps", storage) for command in setup]
        for commands, (as_given, instead) in START.items():
            assert as_given in config[commands][-1]
            config[commands][-1] = config[commands][-1].replace(as_given, instead)
        return config

    def ray_up(self) -> None:
        self.network.run("laptop", f"cd {ROOT} && RAY_UP_enable_autoscaler_v2=0 ray up -y {self.file}", timeout_s=900)

    def laptop(self, command: str) -> subprocess.Popen[str]:
        """Start something there."""
        return subprocess.Popen(
            self.network.command("laptop", f"cd {ROOT} && {command}"),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
        )  # fmt: skip

    def epochs(self) -> int:
        """How far the sweep's only trial is."""
        results = self.network.folder / "sweeps/fleet/results.json"
        trials = json.loads(results.read_text())["trials"] if results.exists() else []
        return max((trial["epochs"] for trial in trials), default=0)

    def trainers(self) -> list[str]:
        """The hosts that the trial's workers are on."""
        look = "grep -ls '^ray::RayTrainWorke[r]' /proc/[0-9]*/cmdline || true"
        return [name for name in WORKERS if self.network.runs(name) and self.network.run(name, look)]

    def alive(self) -> int:
        """How many nodes Ray has, the head included."""
        code = (
            "import ray; ray.init('auto', log_to_driver=False); print('alive:', sum(n['Alive'] for n in ray.nodes()))"
        )
        return int(self.network.run("head", f'python -c "{code}"').rpartition("alive: ")[2].split()[0])

    def goes_on_without(self, host: str) -> None:
        """Wait until the trial has workers elsewhere, and an epoch more."""
        until(lambda: len(now := self.trainers()) == 2 and host not in now)
        before = self.epochs()
        until(lambda: self.epochs() > before)

    def ask(self, command: str, code: int = 0) -> str:
        """Have a command run on the head, from the laptop; what it printed here."""
        there = f"cd {ROOT} && python -m orchestrator {command} cluster={self.file}"
        return self.network.run("laptop", there, code=code, timeout_s=900)


def until(condition: Callable[[], bool], limit_s: float = 600) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"not in {limit_s} s"
        time.sleep(1)


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    if why := hosts.missing():
        pytest.skip(why)
    folder = Path(tempfile.mkdtemp(prefix="hosts-", dir="/tmp"))
    network = Hosts(folder, ["laptop", "head", *WORKERS])
    try:
        network.up()
        yield Fleet(network)
    finally:
        network.down()
        shutil.rmtree(folder)


def test_a_fleet_loses_its_hosts_one_by_one_and_the_trial_goes_on(fleet: Fleet) -> None:
    network = fleet.network
    network.run("laptop", "ray get-auth-token --generate")
    fleet.ray_up()
    until(lambda: fleet.alive() == 4)

    started = fleet.laptop(f"python -m orchestrator.search cluster={fleet.file} {SWEEP}")
    until(lambda: fleet.epochs() >= 1 or started.poll() is not None)
    assert started.poll() is None, started.stdout and started.stdout.read()
    os.killpg(started.pid, signal.SIGKILL)  # the laptop goes to sleep; the sweep does not
    started.communicate()

    cut = fleet.trainers()[0]
    network.cut(cut)
    fleet.goes_on_without(cut)
    network.heal(cut)
    until(lambda: fleet.alive() == 4)  # the autoscaler starts Ray there again

    killed = fleet.trainers()[0]
    network.kill(killed)
    fleet.goes_on_without(killed)

    network.kill("head")
    network.start("head")
    network.start(killed)
    fleet.ray_up()
    until(lambda: fleet.alive() == 4)
    assert fleet.ask("status fleet").startswith("fleet: dead ")
    assert "no job 'fleet' on the head" in fleet.ask("attach fleet", code=2)  # which knows nothing of before
    enough = fleet.epochs() + 2
    printed = fleet.ask(f"resume fleet schedule.max_epochs={enough}")
    assert "trial 0  COMPLETE  val/accuracy" in printed
    assert "best: trial 0" in printed
    results = json.loads((network.folder / "sweeps/fleet/results.json").read_text())
    assert results["status"] == "finished"
    (trial,) = results["trials"]
    assert trial["state"] == "COMPLETE"
    assert trial["epochs"] == enough
    assert len(list((network.folder / "sweeps/fleet/wandb").glob("offline-run-*-fleet-0"))) >= 4
    network.run("laptop", f"ray down -y {fleet.file}")
