"""A sweep whose machine is gone goes on from another one, which has the storage, an S3, and nothing else of it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import S3_KEYS, Sweeps, make_sweeps, temporary
from doubles.wandb_server import WandbServer
from test_sweep import PROBE, options, space, trained

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
EPOCHS = 4


@pytest.fixture
def server() -> Iterator[WandbServer]:
    with WandbServer() as server:
        yield server
        assert server.unknown == []


def machine(folder: Path, server: WandbServer, storage: str, scratch: str) -> Iterator[Sweeps]:
    """A user there, with a home, a working directory and a Ray of their own."""
    folder.mkdir()
    environment = {"ORCHESTRATOR_STORAGE": storage} | temporary(scratch) | S3_KEYS | server.env
    yield from make_sweeps(folder, environment)


def test_another_machine_goes_on_from_the_storage_alone(
    tmp_path: Path, server: WandbServer, s3: str, ray_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in S3_KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "mine"))
    storage = f"s3://sweeps/{tmp_path.name}?{s3}"
    for here, there in zip(
        machine(tmp_path / "here", server, storage, ray_folder),
        machine(tmp_path / "there", server, storage, ray_folder),
        strict=True,
    ):
        process = here.start(
            "search", *PROBE, "tracking.mode=online", "tracking.project=probes", "name=moved", "search.sampler=grid",
            "schedule.scheduler=none", f"schedule.max_epochs={EPOCHS}", "failures.retries=0", "resources.workers=2",
            "params.step_s=0.5", f"params.folder={tmp_path}", space(x=options(0.25, 0.5, 0.75)),
        )  # fmt: skip
        here.until(
            "moved", lambda found: any(t["state"] == "RUNNING" and t["epochs"] >= 2 for t in found["trials"][1:])
        )
        os.killpg(process.pid, signal.SIGKILL)  # with its Ray
        process.communicate()
        before = {trial["number"]: trial["params"] for trial in there.results("moved")["trials"]}
        lease = json.loads(there.stored("moved").read_text("lease.json"))
        there.stored("moved").write_text("lease.json", json.dumps(lease | {"host": "gone"}))
        printed = there.run("resume", "moved")
        assert "gone ran this sweep" in printed
        trials = there.results("moved")["trials"]
        assert [trial["number"] for trial in trials] == [0, 1, 2]
        assert {trial["state"] for trial in trials} == {"COMPLETE"}
        assert before.items() <= {trial["number"]: trial["params"] for trial in trials}.items()
        assert all(trial["value"] == EPOCHS * trial["params"]["x"] for trial in trials)
        again = [epoch for epoch, times in trained(tmp_path).items() if times > 1]
        assert len(again) <= 1  # what was under way
        assert "not, or not wholly" not in printed
    assert set(server.runs) == {f"moved-{trial['number']}" for trial in trials}
    assert len(server.sweeps) == 1
    for trial in trials:
        run = server.runs[f"moved-{trial['number']}"]
        assert (run.state, run.exit_code) == ("finished", 0)
        scores = [row["score"] for row in run.history if "score" in row]
        assert scores == [trial["params"]["x"] * epoch for epoch in range(1, EPOCHS + 1)]
        (versions,) = [found for name, found in server.artifacts.items() if f"moved-{trial['number']}" in name]
        assert versions
