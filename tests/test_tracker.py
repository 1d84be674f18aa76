"""The run of a trial, written by the tracker with the real SDK, whatever happens to it meanwhile."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import wandb
from writer import forked

from orchestrator import runlog
from orchestrator.folder import SweepFolder
from orchestrator.messages import Change, Job, Outcome, Report
from orchestrator.spec import Spec
from orchestrator.tracker import Tracker

SCORES = {1: 0.25, 2: 0.75, 3: 0.75}


class Stage:
    """A tracker on a trial that reports, and what was said meanwhile."""

    def __init__(self, folder: Path, **tracking: object) -> None:
        spec = Spec.model_validate(
            {"name": "s", "trainable": "x", "space": {}, "metric": "score", "goal": "maximize", "storage": str(folder),
             "tracking": {"mode": "offline", "project": "p", **tracking}}
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
        self.assert_every_epoch()
        written = runlog.read(self.folder.run_files("s-0")[-1])
        assert (len(written.checkpoints), written.ended) == (1, True)

    def assert_every_epoch(self) -> None:
        for epoch, value in SCORES.items():
            row = {"score": value, "trainer/global_step": epoch}
            assert any(runlog.has_row(part, "score", **row) for part in self.folder.run_files("s-0"))


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


def test_a_trial_that_copied_another_one_says_whose_checkpoint_it_goes_on_from(stage: Stage) -> None:
    first = Change(epoch=2, params={"lr": 0.2}, copied_from=3)
    for changes, copies in [((), []), ((first,), ["s/3@2"]), ((first, replace(first, epoch=4)), ["s/3@2", "s/3@4"])]:
        stage.tracker.open(Job(number=0, params={"lr": 0.2 if changes else 0.1}, seed=7, changes=changes))
        run = stage.tracker.logger().experiment
        assert run.config.get("copied_from", []) == copies
        assert run.config["lr"] == (0.2 if changes else 0.1)
        assert stage.tracker.close(Outcome.PAUSED, None), stage.notices
        summary = runlog.summary(stage.folder.run_files("s-0"))
        assert summary.get("copied_from") == (copies[-1] if copies else None)


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


@pytest.mark.parametrize("for_good", [False, True], ids=["for a moment", "for good"])
def test_a_disk_that_is_full_costs_no_epoch(for_good: bool, stage: Stage) -> None:
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
        if not for_good:
            filler.unlink()
        stage.report(2)
        stage.report(3)
        assert stage.close() is not for_good, stage.notices  # no room for a checkpoint to wait in
        stage.assert_every_epoch()
        if not for_good:
            stage.assert_whole()
    finally:
        wandb.teardown()
        subprocess.run(["umount", str(runs)], check=True)
        shutil.rmtree(stage.folder.spare, ignore_errors=True)


def test_a_module_is_watched_as_the_spec_says(stage: Stage, tmp_path: Path) -> None:
    """Gradients, parameters and topology, as often as asked for."""
    watching = Stage(tmp_path / "watching", watch="all", watch_every=2, watch_graph=True)
    for each, expected in ((watching, True), (stage, False)):
        each.open()
        module = torch.nn.Sequential(torch.nn.Linear(2, 1))
        each.tracker.watch(module)
        for step in (1, 2, 3):
            module(torch.ones(3, 2)).sum().backward()
            each.tracker.log({"score": float(step)})
        assert each.tracker.close(Outcome.COMPLETE, None), each.notices
        (path,) = each.folder.run_files("s-0")
        for kind in ("gradients", "parameters"):
            found = [runlog.has_row(path, f"{kind}/0.weight/values", score=step) for step in (1, 2, 3)]
            assert found == [expected and step == 2 for step in (1, 2, 3)], kind
        assert ("graph_0" in runlog.summary([path])) is expected


def test_a_group_called_sweep_is_beside_what_defines_the_trial(stage: Stage) -> None:
    stage.tracker.open(Job(number=0, params={"sweep.angle": 0.5}, seed=7))
    assert wandb.run is not None
    group = wandb.run.config["sweep"]
    assert (group["angle"], group["number"], group["name"]) == (0.5, 0, "s")
    assert stage.tracker.close(Outcome.PAUSED, None), stage.notices


def test_hyperparameters_are_in_their_groups_and_stay_there_when_some_change(stage: Stage) -> None:
    stage.tracker._spec = stage.tracker._spec.model_copy(update={"params": {"optimizer.name": "sgd"}})
    for lr, changes in ((0.5, ()), (0.25, (Change(epoch=1, params={"optimizer.lr": 0.25}, copied_from=1),))):
        stage.tracker.open(Job(number=0, params={"optimizer.lr": lr, "depth": 2}, seed=7, changes=changes))
        assert wandb.run is not None
        config = dict(wandb.run.config)
        assert (config["optimizer"], config["depth"]) == ({"name": "sgd", "lr": lr}, 2)
        assert config.get("copied_from") == (["s/1@1"] if changes else None)
        assert stage.tracker.close(Outcome.PAUSED, None), stage.notices


def test_variables_mean_in_a_worker_what_wandb_documents(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    obeyed = {"NOTES": "of mine", "JOB_TYPE": "train", "HOST": "box", "USERNAME": "me", "IGNORE_GLOBS": "*.tmp,*.log"}
    foreign = ("NAME", "RUN_ID", "RUN_GROUP", "RESUME", "SWEEP_ID")
    for name, value in (*obeyed.items(), *((name, "must") for name in foreign), ("DIR", str(tmp_path / "elsewhere"))):
        monkeypatch.setenv(f"WANDB_{name}", value)
    wandb.teardown()  # it reads them once, which is in a worker when that starts
    there = Stage(tmp_path / "there")
    there.open()
    assert wandb.run is not None
    settings, run = wandb.run.settings, wandb.run
    assert (run.notes, run.job_type, settings.host, settings.username) == ("of mine", "train", "box", "me")
    assert settings.ignore_globs == ("*.tmp", "*.log")
    assert (run.name, run.id, run.group, settings.resume, run.sweep_id) == ("s/0", "s-0", "", "allow", None)
    assert there.tracker.close(Outcome.COMPLETE, None), there.notices
    assert len(there.folder.run_files("s-0")) == 1
    assert not (tmp_path / "elsewhere").exists()


def test_what_code_of_the_users_watches_has_the_same_names_in_every_trial(stage: Stage) -> None:
    for number in range(2):
        stage.tracker.open(Job(number=number, params={}, seed=7))
        module = torch.nn.Sequential(torch.nn.Linear(2, 1))
        stage.tracker.logger().watch(module, log="all", log_freq=1)
        module(torch.ones(3, 2)).sum().backward()
        stage.tracker.log({"score": 1.0})
        assert stage.tracker.close(Outcome.COMPLETE, None), stage.notices
        (path,) = stage.folder.run_files(f"s-{number}")
        assert runlog.has_row(path, "gradients/0.weight/values")
