"""Fixtures of the tests that run real sweeps: subprocesses, on one real Ray that they share."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from orchestrator.folder import SweepFolder

PROBES = Path(__file__).parent / "probes"
# As Ray has it in a worker of one CPU. Torch's threads spin as they wait for each other, which costs all tests dearly.
os.environ["OMP_NUM_THREADS"] = "1"
# Commands started here are to hear of Ctrl-C, which a shell that runs the tests in the background has them all ignore.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Starts a Ray, says where, and ends with it when its standard input is closed.
HOLD_RAY = """
import sys
from orchestrator import cluster
with cluster.connected():
    import ray
    print(ray.get_runtime_context().gcs_address, flush=True)
    sys.stdin.read()
"""


def clean_environment(home: Path) -> dict[str, str]:
    """The environment of a user who has no account, no key, and no Ray running."""
    foreign = ("WANDB_", "RAY_", "NETRC", "TUNE_", "COV_", "OMP_", "PYTHONDONTWRITEBYTECODE", "PYTEST_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return kept | {"HOME": str(home), "TMPDIR": str(home)}


def temporary(folder: str) -> dict[str, str]:
    """What has commands, and Ray, leave there what they leave in the meantime."""
    return {"TMPDIR": folder, "RAY_TMPDIR": folder}


@pytest.fixture(scope="session")
def ray_folder() -> Iterator[str]:
    """Where Ray may leave what it has: a short path, because those of its sockets may have 107 characters."""
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield folder


@pytest.fixture(scope="session")
def ray_address(tmp_path_factory: pytest.TempPathFactory, ray_folder: str) -> Iterator[str]:
    """One Ray with two CPUs for all sweeps of the session that need no Ray of their own."""
    home = tmp_path_factory.mktemp("ray")
    with (home / "ray.log").open("w") as log:
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLD_RAY],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=clean_environment(home) | temporary(ray_folder),
        )
    assert holder.stdin is not None
    assert holder.stdout is not None
    address = holder.stdout.readline().strip()
    assert address, (home / "ray.log").read_text()
    yield address
    holder.stdin.close()
    holder.stdout.close()
    assert holder.wait(120) == 0


@pytest.fixture(scope="session")
def s3_server() -> Iterator[int]:
    """The port of an S3 on this machine (moto's server)."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    yield port
    server.stop()


@pytest.fixture
def s3(s3_server: int) -> str:
    """What a URL of a folder in that S3 ends with; there is a bucket, `sweeps`."""
    # Made for every test: moto forgets all buckets when a test beside it begins to pretend to be AWS.
    request = urllib.request.Request(f"http://127.0.0.1:{s3_server}/sweeps", method="PUT")
    urllib.request.urlopen(request, timeout=60).close()
    return f"endpoint_override=127.0.0.1:{s3_server}&scheme=http&region=us-east-1"


# What S3's clients want to have, and moto's server does not look at.
S3_KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_EC2_METADATA_DISABLED": "true"}


@dataclass
class Sweeps:
    """Runs `python -m orchestrator` as a user would, in a folder of its own."""

    folder: Path
    environment: dict[str, str]
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command."""
        process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator", *arguments],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # as a shell gives every command a process group
        )
        self.started.append(process)
        return process

    def run(self, *arguments: str, code: int = 0, timeout_s: float = 1500) -> str:
        """Run a command to its end; what it printed, on both streams."""
        return self.end(self.start(*arguments), code, timeout_s)

    def end(self, process: subprocess.Popen[str], code: int = 0, timeout_s: float = 1500) -> str:
        """Wait for a command's end; what it printed, on both streams."""
        out, err = process.communicate(timeout=timeout_s)
        assert process.returncode == code, f"exit code {process.returncode}\n{out}\n{err}\n{self.logs()}"
        return out + err

    def results(self, name: str) -> dict[str, Any]:
        """What `results.json` of a sweep holds."""
        found: dict[str, Any] = json.loads(self.stored(name).read_text("results.json"))
        return found

    def stored(self, name: str) -> SweepFolder:
        """A sweep's folder."""
        return SweepFolder(self.environment.get("ORCHESTRATOR_STORAGE", str(self.folder / "results")), name)

    def until(self, name: str, condition: Any, timeout_s: float = 1200) -> dict[str, Any]:
        """Wait until a sweep's results fulfil a condition."""
        deadline, stored = time.monotonic() + timeout_s, self.stored(name)
        while time.monotonic() < deadline:
            over = all(process.poll() is not None for process in self.started)  # before what they left is read
            if stored.has("results.json") and condition(document := self.results(name)):
                return document
            assert not over, self.end(self.started[-1])
            time.sleep(0.05)
        pytest.fail(f"not in {timeout_s} s: {self.logs()}")

    def logs(self) -> str:
        """The sweeps' logs, for a failing test."""
        return "\n".join(path.read_text()[-3000:] for path in self.folder.glob("results/*/sweep.log"))


@pytest.fixture
def sweeps(tmp_path: Path, ray_address: str, ray_folder: str) -> Iterator[Sweeps]:
    """A user's folder with a module of their own in it, on the shared Ray."""
    yield from make_sweeps(tmp_path, {"RAY_ADDRESS": ray_address} | temporary(ray_folder))


@pytest.fixture
def lone_sweeps(tmp_path: Path, ray_folder: str) -> Iterator[Sweeps]:
    """The same on a Ray of its own, which the command starts."""
    yield from make_sweeps(tmp_path, temporary(ray_folder))


def make_sweeps(folder: Path, more: dict[str, str]) -> Iterator[Sweeps]:
    """A user's folder with a module of their own in it; processes that a test leaves running end with it."""
    home = folder / "home"
    home.mkdir()
    (folder / "probe.py").write_text((PROBES / "probe.py").read_text())
    runner = Sweeps(folder, clean_environment(home) | more)
    yield runner
    for process in runner.started:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.communicate()
