"""Runs in W&B: the real SDK, online against the local double of the server, and what it is told."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Sweeps
from doubles.wandb_server import WandbServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


MARKED_KEY = "feed" * 10
MEDIA = """
import torch
import wandb
from lightning.pytorch import Callback
from probe import Probe


class Media(Callback):
    \"""Logs media as users do, without asking which rank it is on.\"""

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.logger and trainer.logger.log_image("pictures", [torch.rand(3, 4, 4)], caption=["noise"])
        trainer.logger and trainer.logger.log_text("words", columns=["word"], data=[["hello"]])
        trainer.logger and trainer.logger.log_table("numbers", columns=["number"], data=[[1]])
        trainer.logger and trainer.logger.experiment.log({"touched": 1})
        wandb.log({"pictures_too": wandb.Image(torch.rand(3, 4, 4))})
        assert wandb.run is not None


class Talkative(Probe):
    def configure_callbacks(self):
        return [Media()]
"""


def test_every_trial_is_one_run_of_a_real_sweep(lone_sweeps: Sweeps) -> None:
    space = {
        "x": {"options": [0.25, 0.5]},
        "behaviour": {"options": ["fine", "nan", "raise_on_rank_1"]},
        "step_s": {"options": [0.0], "when": {"behaviour": "fine"}},
    }
    (lone_sweeps.folder / "media.py").write_text(MEDIA)
    with WandbServer() as server:
        server.api_key = MARKED_KEY
        lone_sweeps.environment |= server.env
        printed = lone_sweeps.run(
            "search", "trainable={model: {class_path: media.Talkative}}", "metric=score", "goal=maximize",
            "name=online", "search.sampler=grid",
            "search.seed=3", "schedule.max_epochs=3", "schedule.scheduler=asha", "schedule.grace_epochs=2",
            "resources.workers=2", "failures.retries=0", "failures.max_failed=null", "params.folder=.",
            "tracking.project=probes", "tracking.watch=all", "tracking.watch_every=2",
            "tracking.tags=[nightly]", f"space={json.dumps(space)}",
        )  # fmt: skip
        results = lone_sweeps.results("online")
        (sweep,) = server.sweeps.values()
        assert sweep.name == "online"
        assert sweep.project == "probes"
        assert sweep.config["metric"] == {"name": "score", "goal": "maximize"}
        assert sweep.config["parameters"]["x"] == {"values": [0.25, 0.5]}
        # One run a trial, all in the sweep, and none opened by rank 1.
        assert sorted(server.runs) == [f"online-{number}" for number in range(6)]
        assert all(run.sweep_id == sweep.id for run in server.runs.values())
        assert (lone_sweeps.folder / "epochs-1.txt").exists()
        for trial in results["trials"]:
            run = server.runs[f"online-{trial['number']}"]
            assert run.display_name == f"online/{trial['number']}"
            assert run.tags[0] == "nightly"
            assert run.config["x"] == trial["params"]["x"]
            assert run.config["sweep"]["seed"] == trial["seed"]
            assert trial["wandb_run"].endswith(f"/team/probes/runs/{run.id}")
            scores = [row["score"] for row in run.history if "score" in row]
            assert len(scores) == len(set(scores))
            assert (
                len(scores) >= trial["epochs"] or trial["state"] == "FAIL"
            )  # rank 0 may be killed before it sent them
            assert all("trainer/global_step" in row for row in run.history if "score" in row)
            match trial["state"]:
                case "COMPLETE":
                    assert (run.state, run.exit_code) == ("finished", 0)
                    assert run.summary["score"] == trial["value"]
                    assert [row["direct"] for row in run.history if "direct" in row] == [0, 1, 2]
                    assert any("probe epoch 2" in line for line in run.output)
                    assert run.summary["best_score"] == trial["value"]
                    assert run.summary["pictures"]["captions"] == ["noise"]
                    assert {"table-file"} == {run.summary[name]["_type"] for name in ("words", "numbers")}
                    assert run.summary["pictures_too"]["_type"] == "image-file"
                    assert any(name.startswith("media/images/pictures") for name in run.files)
                    assert any("gradients/" in name for row in run.history for name in row)
                case "PRUNED":
                    assert (run.state, run.exit_code) == ("finished", 0)
                    assert {"pruned", "diverged"} & set(run.tags)
                    assert run.summary["outcome"] in ("pruned", "diverged")
                case "FAIL":
                    assert (run.state, run.exit_code) == ("failed", 1)
                    assert "the probe raises on rank 1" in run.summary["error"]
        assert {trial["state"] for trial in results["trials"]} == {"COMPLETE", "PRUNED", "FAIL"}
        best = results["best"]
        aliases = {
            name: {alias for version in versions for alias in version.aliases}
            for name, versions in server.artifacts.items()
        }
        assert {"best", "latest", "sweep-best"} <= aliases[f"model-online-{best['number']}"]
        assert [name for name, found in aliases.items() if "sweep-best" in found] == [f"model-online-{best['number']}"]
        (version,) = (v for v in server.artifacts[f"model-online-{best['number']}"] if "sweep-best" in v.aliases)
        assert version.files[Path(best["checkpoint"]).name] == Path(best["checkpoint"]).read_bytes()
        assert best["wandb_run"] in printed
        assert server.unknown == []
    found = [
        path for path in lone_sweeps.folder.rglob("*") if path.is_file() and MARKED_KEY.encode() in path.read_bytes()
    ]
    assert found == []
    ray_session = Path(lone_sweeps.environment["RAY_TMPDIR"])
    logs = [path for path in ray_session.rglob("*") if path.is_file() and not path.is_symlink()]
    assert logs
    assert [path for path in logs if MARKED_KEY.encode() in path.read_bytes()] == []
    pages = [json.dumps(run.raw_config) + repr(run.files) + repr(run.lines) for run in server.runs.values()]
    assert MARKED_KEY not in sweep.config_text + "".join(pages) + printed


def test_what_is_asked_of_a_running_sweep_is_obeyed(sweeps: Sweeps) -> None:
    """On its page and on the command line: pause, resume, stop one run, cancel; then resume, and stop."""
    with WandbServer() as server:
        sweeps.environment |= server.env
        process = sweeps.start(
            "search", "trainable=probe:Probe", "metric=score", "goal=maximize", "name=asked", "search.sampler=grid",
            "search.seed=1", "schedule.scheduler=none", "schedule.max_epochs=3", "resources.concurrency=1",
            f"params.folder={sweeps.folder}", "params.step_s=0.6",
            f"space={json.dumps({'x': {'options': [n / 64 for n in range(1, 61)]}})}",
        )  # fmt: skip

        def reached(holds: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
            until(
                lambda: (sweeps.folder / "results/asked/results.json").exists() and holds(sweeps.results("asked")), 300
            )
            return sweeps.results("asked")

        def states(found: dict[str, Any]) -> dict[int, str]:
            return {trial["number"]: trial["state"] for trial in found["trials"]}

        reached(lambda found: found["trials"] and found["trials"][0]["epochs"] >= 1)
        (sweep,) = server.sweeps.values()
        sweep.state = "PAUSED"
        reached(lambda found: found["status"] == "paused")
        found = reached(lambda found: states(found) == {0: "COMPLETE"})
        assert "resume" not in sweeps.run("status", "asked")
        assert "asked is running" in sweeps.run("resume", "asked")
        reached(lambda found: states(found).get(1) == "RUNNING")
        until(lambda: sweep.state == "RUNNING" and "asked-1" in server.runs)
        server.runs["asked-1"].stop = True
        found = reached(lambda found: states(found).get(1) == "PRUNED")
        assert found["trials"][1]["epochs"] < 3
        reached(lambda found: any(t["state"] == "RUNNING" and t["epochs"] for t in found["trials"][2:]))
        sweep.state = "CANCELED"
        printed = sweeps.end(process)
        assert "asked on its W&B page to pause" in printed
        assert "to go on: python -m orchestrator resume" in printed
        found = sweeps.results("asked")
        cut = max(states(found))
        assert (found["status"], states(found)[0], states(found)[1]) == ("cancelled", "COMPLETE", "PRUNED")
        assert states(found)[cut] == "RUNNING"
        assert (sweep.state, server.runs[f"asked-{cut}"].state) == ("CANCELED", "failed")
        assert server.runs["asked-1"].state == "finished"
        assert "stopped" in server.runs["asked-1"].tags
        assert "no process" in sweeps.run("pause", "asked", code=2)

        process = sweeps.start("resume", "asked")
        reached(lambda found: found["status"] == "running" and states(found).get(cut + 1) == "RUNNING")
        until(lambda: sweep.state == "RUNNING")
        assert "asked is stopped" in sweeps.run("stop", "asked")
        sweeps.end(process)
        found = sweeps.results("asked")
        assert found["status"] == "stopped"
        assert set(states(found).values()) == {"COMPLETE", "PRUNED"}
        assert sweep.state == "FINISHED"
        x = found["trials"][cut]["params"]["x"]
        rows = [row["score"] for row in server.runs[f"asked-{cut}"].history if "score" in row]
        assert rows == pytest.approx([x, 2 * x, 3 * x])
        assert {run.sweep_id for run in server.runs.values()} == {sweep.id}
        assert server.unknown == []


def until(holds: Callable[[], bool], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_an_offline_sweep_is_brought_up_later_and_another_one_starts_from_it(sweeps: Sweeps) -> None:
    with WandbServer() as server:
        arguments = ["trainable=probe:Probe", "metric=score", "goal=maximize", "search.sampler=grid", "search.seed=1",
                     "schedule.max_epochs=2", "resources.concurrency=1", f"params.folder={sweeps.folder}",
                     "tracking.project=later"]  # fmt: skip
        space = {"behaviour": {"options": ["fine", "kill_once"]}}
        sweeps.run("search", *arguments, "name=later", "schedule.scheduler=none", f"space={json.dumps(space)}")
        assert server.runs == {}
        sweeps.environment |= server.env
        server.fail(401, count=1, path="file_stream")
        assert "not, or not wholly, in W&B: later-" in sweeps.run("sync", "later", code=1)
        for brought in (1, 0):
            assert f"{brought} runs brought to W&B" in sweeps.run("sync", "later")
        (sweep,) = server.sweeps.values()
        assert (sweep.state, sorted(sweep.run_ids)) == ("FINISHED", ["later-0", "later-1"])
        for run in server.runs.values():
            assert (run.state, [row["epoch"] for row in run.history if "score" in row]) == ("finished", [0, 1])
        results = sweeps.results("later")
        assert all(trial["wandb_run"].startswith("http") for trial in results["trials"])
        best = f"team/later/model-later-{results['best']['number']}:sweep-best"
        assert "epoch-0002.ckpt" in sweeps.run("download", best, "here")
        assert (sweeps.folder / "here" / "epoch-0002.ckpt").read_bytes() == Path(
            results["best"]["checkpoint"]
        ).read_bytes()
        assert "project 'such' not found" in sweeps.run("download", "no/such/model:best", "here", code=1)

        sweeps.run(
            "search", *arguments, "name=next", f"start_from={best}", "params.x=0.5", "space={at_epoch: {options: [5]}}"
        )
        assert server.runs["next-0"].used_artifacts == [f"model-later-{results['best']['number']}:v0"]
        assert server.runs["next-0"].config["sweep"]["start_from"] == best
        assert server.unknown == []
