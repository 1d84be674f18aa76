"""A fleet of real hosts, made by the real `ray up`: brought up, swept on, robbed of its hosts one by one."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hosts
import pytest
import yaml
from hosts import Hosts

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ROOT = Path(__file__).resolve().parent.parent
SWEEP = (
    "digits_ddp name=fleet budget.trials=1 schedule.max_epochs=24 schedule.scheduler=none failures.retries=0"
    " params.batch_size=2 resources.cpus_per_worker=2 tracking.mode=offline search.seed=1"
)


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
        config["provider"] |= {"head_ip": address("head"), "worker_ips": [address("one"), address("two")]}
        config["auth"] |= {"ssh_user": "root"}
        setup = [command for command in config["setup_commands"] if "pip install" not in command]
        assert len(setup) == len(config["setup_commands"]) - 1
        storage = str(self.network.folder / "sweeps")
        config["setup_commands"] = [command.replace("/shared/sweeps", storage) for command in setup]
        return config

    def ray_up(self) -> None:
        self.network.run("laptop", f"cd {ROOT} && RAY_UP_enable_autoscaler_v2=0 ray up -y {self.file}", timeout_s=900)

    def laptop(self, command: str) -> subprocess.Popen[str]:
        """Start something there."""
        return subprocess.Popen(
            self.network.command("laptop", f"cd {ROOT} && {command}"),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def epochs(self) -> int:
        """How far the sweep's only trial is."""
        results = self.network.folder / "sweeps/fleet/results.json"
        trials = json.loads(results.read_text())["trials"] if results.exists() else []
        return max((trial["epochs"] for trial in trials), default=0)

    def alive(self) -> int:
        """How many nodes Ray has, the head included."""
        code = (
            "import ray; ray.init('auto', logging_level='ERROR'); print('alive', sum(n['Alive'] for n in ray.nodes()))"
        )
        printed = self.network.run("head", f'python -c "{code}"')
        return int(printed.rpartition("alive ")[2])


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
    network = Hosts(folder, ["laptop", "head", "one", "two"])
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
    until(lambda: fleet.alive() == 3)

    started = fleet.laptop(f"python -m orchestrator.search cluster={fleet.file} {SWEEP}")
    until(lambda: fleet.epochs() >= 1 or started.poll() is not None)
    assert started.poll() is None, started.stdout and started.stdout.read()
    started.kill()  # the laptop goes to sleep; the sweep does not
    started.communicate()

    network.cut("one")
    until(lambda: fleet.alive() == 2)
    network.heal("one")
    before = fleet.epochs()
    until(lambda: fleet.epochs() > before)

    network.kill("two")
    until(lambda: fleet.alive() == 2)
    network.start("two")
    before = fleet.epochs()
    until(lambda: fleet.epochs() > before)

    network.kill("head")
    network.start("head")
    fleet.ray_up()
    until(lambda: fleet.alive() == 3)
    assert "dead" in network.run(
        "laptop", f"ray exec {fleet.file} 'cd ~/orchestrator && python -m orchestrator status fleet'"
    )
    network.run(
        "laptop", f"ray exec {fleet.file} 'cd ~/orchestrator && python -m orchestrator resume fleet'", timeout_s=900
    )
    results = json.loads((network.folder / "sweeps/fleet/results.json").read_text())
    assert results["status"] == "finished"
    (trial,) = results["trials"]
    assert trial["state"] == "COMPLETE"
    assert trial["epochs"] == 24
    network.run("laptop", f"ray down -y {fleet.file}")
