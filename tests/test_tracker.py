"""The run of a trial, written by the tracker with the real SDK, whatever happens to it meanwhile."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import wandb
from writer import forked

from orchestrator import runlog
from orchestrator.folder import SweepFolder
from orchestrator.messages import Job, Outcome, Report
from orchestrator.spec import Spec
from orchestrator.tracker import Tracker

SCORES = {1: 0.25, 2: 0.75, 3: 0.75}


class Stage:
    """A tracker on a trial that reports, and what was said meanwhile."""

    def __init__(self, folder: Path) -> None:
        spec = Spec.model_validate(
            {"name": "s", "trainable": "x", "space": {}, "metric": "score", "goal": "maximize", "storage": str(folder),
             "tracking": {"mode": "offline", "project": "p"}}
        )  # fmt: skip
        self.folder = SweepFolder(spec.storage, "s")
        self.notices: list[str] = []
        self.tracker = Tracker(spec, self.folder, 0, self.notices.append)

    def open(self) -> None:
        self.tracker.open(Job(number=0, params={}, seed=7))
        self.logger = self.tracker.logger()

    def report(self, epoch: int) -> None:
        """An epoch: logged by the loop, then handed in."""
        path = self.folder.checkpoint(0, epoch)
        self.folder.write_text(path, str(epoch))
        metrics: Mapping[str, float] = {"score": SCORES[epoch]}
        self.logger.log_metrics(metrics, step=epoch)
        self.tracker.reported(
            Report(number=0, epoch=epoch, value=SCORES[epoch], metrics=metrics, best_epoch=epoch, checkpoint=path,
                   best_checkpoint=path)
        )  # fmt: skip

    def close(self) -> bool:
        best = {self.folder.checkpoint(0, 3): ["best", "latest"]}
        return self.tracker.close(Outcome.COMPLETE, None, checkpoints=best, curve=SCORES)

    def assert_whole(self) -> None:
        """Every epoch is in some part of the run, and the last part says how it ended, with its checkpoint."""
        *_, last = parts = self.folder.run_files("s-0")
        for epoch, value in SCORES.items():
            row = {"score": value, "trainer/global_step": epoch}
            assert any(runlog.has_row(part, "score", **row) for part in parts)
        written = runlog.read(last)
        assert (len(written.checkpoints), written.ended) == (1, True)


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    environment = dict(os.environ)
    monkeypatch.setenv("WANDB_CONSOLE", "off")
    yield Stage(tmp_path)
    wandb.teardown()
    os.environ.clear()
    os.environ.update(environment)


def test_a_run_that_the_users_code_finishes_goes_on(stage: Stage) -> None:
    stage.open()
    stage.report(1)
    wandb.finish()
    stage.report(2)
    wandb.finish()
    stage.logger.experiment.log({"mine": 1})
    stage.report(3)
    assert stage.close(), stage.notices
    stage.assert_whole()
    assert stage.notices == []


def test_a_trial_that_goes_on_keeps_its_best_so_far(stage: Stage) -> None:
    """The summary of a run's last part is the run's."""
    stage.open()
    stage.report(1)
    stage.report(2)
    stage.tracker.log({"only/once": 1.5, "table": {"rows": [1, 2]}})
    assert stage.tracker.close(Outcome.INTERRUPTED, "why")
    stage.open()
    stage.logger.log_metrics({"score": 0.5}, step=3)
    stage.folder.write_text(stage.folder.checkpoint(0, 3), "3")
    assert stage.close(), stage.notices
    *_, last = stage.folder.run_files("s-0")
    summary = runlog.summary([last])
    assert (summary["score"], summary["best_score"], summary["best_epoch"], summary["epochs"]) == (0.5, 0.75, 2, 2)
    assert (summary["only/once"], summary["table"]) == (1.5, {"rows": [1, 2]})
    assert (summary["outcome"], summary["error"]) == ("complete", None)


def test_what_is_logged_leaves_no_temporary_files(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (scratch := tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    stage.open()
    stage.logger.log_table("words", columns=["word"], data=[["hello"]], step=1)
    assert list(scratch.glob("*/words.table.json"))
    stage.folder.write_text(stage.folder.checkpoint(0, 3), "3")
    assert stage.close(), stage.notices
    assert not list(scratch.rglob("*.json"))


def test_the_death_of_the_sdks_service_costs_no_epoch(stage: Stage, tmp_path: Path) -> None:
    # In a process of its own: the SDK does not look after a service that died.
    process = forked(_lose_the_service, [tmp_path])
    process.join()
    assert process.exitcode == 0
    stage.assert_whole()


def _kill_the_service() -> None:
    children = " ".join(path.read_text() for path in Path("/proc/self/task").glob("*/children")).split()
    (core,) = (int(child) for child in children if "wandb-core" in Path(f"/proc/{child}/comm").read_text())
    os.kill(core, signal.SIGKILL)


def _lose_the_service(folder: Path) -> None:
    stage = Stage(folder)
    stage.open()
    stage.report(1)
    _kill_the_service()
    stage.report(2)
    stage.report(3)
    assert stage.close(), stage.notices


def test_a_service_that_died_between_trials_is_replaced(stage: Stage, tmp_path: Path) -> None:
    process = forked(_lose_the_service_between, [tmp_path])
    process.join()
    assert process.exitcode == 0
    stage.assert_whole()


def _lose_the_service_between(folder: Path) -> None:
    stage = Stage(folder)
    stage.tracker.open(Job(number=1, params={}, seed=7))
    assert stage.tracker.close(Outcome.COMPLETE, None)
    _kill_the_service()
    stage.open()
    for epoch in SCORES:
        stage.report(epoch)
    assert stage.close(), stage.notices
    assert stage.notices == []


def test_a_disk_that_is_full_for_a_moment_costs_no_epoch(stage: Stage) -> None:
    """Between two epochs, when nobody looks: the SDK writes no more to that file, and does not say so."""
    runs = stage.folder.work / "wandb"
    runs.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", str(runs)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        stage.open()
        stage.report(1)
        filler = runs / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(bytes(2**20)):
                pass
        for step in range(2000):
            stage.logger.experiment.log({"mine": "x" * 100, "trainer/global_step": step})
        filler.unlink()
        stage.report(2)
        stage.report(3)
        assert stage.close(), stage.notices
        stage.assert_whole()
    finally:
        wandb.teardown()
        subprocess.run(["umount", str(runs)], check=True)
