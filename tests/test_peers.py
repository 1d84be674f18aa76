"""Other people's tools open what a sweep leaves behind: optuna-dashboard its ledger, `wandb leet` its offline runs."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from conftest import clean_environment
from simulated import simulate
from writer import Writer

from orchestrator import runlog
from orchestrator.ledger import Ledger

DASHBOARD = "import sys; from optuna_dashboard._cli import main; sys.argv[0] = 'optuna-dashboard'; main()"


def test_optuna_dashboard_opens_the_ledger(tmp_path: Path) -> None:
    folder, spec = simulate(tmp_path, 12)
    records = Ledger(folder, spec, read_only=True).records
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", DASHBOARD, "--host", "127.0.0.1", "--port", str(port), str(folder.ledger)]
    with subprocess.Popen(
        command, env=clean_environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as server:
        try:
            [study] = _ask(server, f"http://127.0.0.1:{port}/api/studies")["study_summaries"]
            assert study["study_name"] == spec.name
            found = _ask(server, f"http://127.0.0.1:{port}/api/studies/{study['study_id']}?after=0")
        finally:
            server.terminate()
    assert found["objective_names"] == [spec.metric]
    states = {trial["number"]: trial["state"] for trial in found["trials"]}
    assert {number: state.upper() for number, state in states.items()} == {r.number: r.state for r in records}
    curves = {trial["number"]: len(trial["intermediate_values"]) for trial in found["trials"]}
    assert curves == {record.number: len(record.curve) for record in records}


def _ask(server: subprocess.Popen[bytes], url: str) -> Any:
    deadline = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as exc:
            raise AssertionError(exc.read().decode()) from exc
        except OSError:
            assert server.poll() is None, "the dashboard ended"
            assert time.monotonic() < deadline, "the dashboard does not answer"
            time.sleep(0.1)


def test_leet_reads_an_offline_run(tmp_path: Path) -> None:
    """As a worker's own tracker has written it."""
    environment = clean_environment(tmp_path)
    folder, spec = simulate(tmp_path, 1, name="s")
    assert not [said for said in Writer(folder, environment, 0, 1, "well") if said[0] == "notice"]
    [run] = folder.run_files("s-0")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(run.parent)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    records = [json.loads(line) for line in done.stdout.splitlines()]
    kinds = [record["type"] for record in records]
    assert kinds.count("history") == runlog.read(run).rows == 4
    assert kinds.count("artifact") == 3  # a table, and two checkpoints
    assert kinds[-1] == "exit"
    assert f"{spec.name}/0" in done.stdout
