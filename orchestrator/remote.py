"""The way from a laptop to a cluster that `ray up` brought up: a sweep becomes a job on its head (ray's command line).

A job lives on the head, whatever becomes of the laptop; to look at it again is to follow its log again.
"""

from __future__ import annotations

import base64
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import yaml

from orchestrator.errors import InputError, SweepError
from orchestrator.naming import default_storage
from orchestrator.spec import Spec

# Where `file_mounts` of cluster.yaml puts this repository.
THERE = "~/orchestrator"
# How long a head may be out of reach, as after a laptop's sleep, before following it is given up; the sweep goes on.
AWAY_S = 300.0
ENDED = {"succeeded": 0, "failed": 1, "stopped": 143, "was stopped": 143}


class Head:
    """The head of the cluster that a file describes, reached by `ray exec`."""

    def __init__(self, file: str) -> None:
        """Take the file.

        Raises:
            InputError: it is not there.
        """
        if not Path(file).is_file():
            raise InputError(f"cluster is '{file}', which is no file; give the one that was given to `ray up`")
        self._file = file

    def submit(self, spec: Spec, name: str) -> None:
        """Start a sweep there, as a job named like it.

        Raises:
            SweepError: the head cannot be reached, or refuses.
        """
        data = spec.model_dump(mode="json", exclude_unset=True) | {"name": name}
        if data.get("storage") == default_storage(os.environ):
            del data["storage"]  # the cluster's own is meant
        text = base64.b64encode(yaml.safe_dump(data, sort_keys=False).encode()).decode()
        path = f"~/sweeps/{name}.yaml"
        sweep = f"cd {THERE} && exec python -m orchestrator.search {path}"
        # No login shell: its profile would undo the PATH that Ray was started with.
        job = f"ray job submit --no-wait --submission-id {name} -- bash -c {shlex.quote(sweep)}"
        done = self._exec(f"set -eu; mkdir -p ~/sweeps; echo {text} | base64 -d > {path}; {job}", capture=True)
        if done.returncode:
            raise SweepError(f"the head of {self._file} did not take the sweep: {_last_lines(done)}")

    def follow(self, name: str) -> int:
        """Show a sweep's progress here until it ends; its exit code.

        Raises:
            SweepError: the head cannot be reached for long.
        """
        silent_since = time.monotonic()
        while True:
            self._exec(f"ray job logs --follow {name}")
            done = self._exec(f"ray job status {name}", capture=True)
            for state, code in ENDED.items():
                if f"'{name}' {state}" in done.stdout:  # "Job 'NAME' succeeded"
                    return code
            if done.returncode == 0:
                silent_since = time.monotonic()
            elif time.monotonic() - silent_since > AWAY_S:
                raise SweepError(
                    f"the head of {self._file} has not answered for {AWAY_S:g} s ({_last_lines(done)}); the sweep may"
                    f" go on: `python -m orchestrator attach {name} cluster={self._file}` looks again"
                )
            time.sleep(2)

    def _exec(self, command: str, *, capture: bool = False) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "ray.scripts.scripts", "exec", self._file, command],
            env=os.environ | {"RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=capture,
            text=True,
            check=False,
        )


def _last_lines(done: subprocess.CompletedProcess[str]) -> str:
    return " ".join((done.stdout + done.stderr).split()[-40:])
