"""Runs in W&B: the real SDK, online against the local double of the server, and what it is told."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import Sweeps
from doubles.wandb_server import Run, WandbServer

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
        trainer.logger.log_image("pictures", [torch.rand(3, 4, 4)], caption=["noise"])
        trainer.logger.log_text("words", columns=["word"], data=[["hello"]])
        trainer.logger.log_table("numbers", columns=["number"], data=[[1]])
        trainer.logger.experiment.log({"touched": 1})
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
    commit = make_repository(lone_sweeps.folder)
    with WandbServer() as server:
        server.api_key = MARKED_KEY
        lone_sweeps.environment |= server.env
        process = lone_sweeps.start(
            "search", "trainable={model: {class_path: media.Talkative}}", "metric=score", "goal=maximize",
            "name=online", "search.sampler=grid",
            "search.seed=3", "schedule.max_epochs=3", "schedule.scheduler=asha", "schedule.grace_epochs=2",
            "resources.workers=2", "failures.retries=0", "failures.max_failed=null", "params.folder=.",
            "tracking.project=probes", "tracking.watch=all", "tracking.watch_every=2",
            "tracking.tags=[nightly]", f"space={json.dumps(space)}",
        )  # fmt: skip
        until(lambda: "online-0" in server.runs, 600)
        started = commands_below(process.pid)
        dashboard = pages_of_ray(Path(lone_sweeps.environment["RAY_TMPDIR"]))
        printed = lone_sweeps.end(process)
        results = lone_sweeps.results("online")
        assert_page(server, spec_name="online")
        assert (lone_sweeps.folder / "epochs-1.txt").exists()  # rank 1 logged as well, and opened no run
        for trial in results["trials"]:
            run = server.runs[f"online-{trial['number']}"]
            assert_described(run, trial)
            assert run.commit == commit
            assert b"+an uncommitted line" in run.files["diff.patch"]
            assert_logged(run, trial)
        assert {trial["state"] for trial in results["trials"]} == {"COMPLETE", "PRUNED", "FAIL"}
        assert_crowned(server, results["best"])
        assert results["best"]["wandb_run"] in printed
        assert "not, or not wholly" not in printed
        assert server.unknown == []
    lone_sweeps.run("report", "online")
    assert (lone_sweeps.folder / "results/online/report.html").exists()
    assert any("orchestrator.desk" in command for command in started)
    assert MARKED_KEY not in "".join(started)
    assert dashboard
    assert [place for place, page in dashboard.items() if MARKED_KEY.encode() in page] == []
    assert_nowhere(MARKED_KEY, lone_sweeps.folder)
    assert_nowhere(MARKED_KEY, Path(lone_sweeps.environment["RAY_TMPDIR"]))
    told = [json.dumps(run.raw_config) + repr(run.files) + repr(run.lines) for run in server.runs.values()]
    told += [repr(version) for versions in server.artifacts.values() for version in versions]
    told += [json.dumps(view) for view in server.views]
    assert MARKED_KEY not in "".join(sweep.config_text for sweep in server.sweeps.values()) + "".join(told) + printed


def commands_below(process: int) -> list[str]:
    """The command lines of a process and all that it has started, directly or not."""
    started: dict[int, list[int]] = {}
    lines: dict[int, str] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            started.setdefault(parent, []).append(int(folder.name))
            lines[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
    found, left = [], [process]
    while left:
        found.append(left.pop())
        left += started.get(found[-1], [])
    return [lines[each] for each in found if each in lines]


def make_repository(folder: Path) -> str:
    """Make the user's folder a git repository, with a change that is not committed; its commit."""
    (folder / "notes.txt").write_text("a line\n")
    identity = ["-c", "user.name=Test", "-c", "user.email=test@localhost"]
    for command in (["init", "-q"], ["add", "media.py", "notes.txt"], [*identity, "commit", "-qm", "First"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    (folder / "notes.txt").write_text("a line\nan uncommitted line\n")
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=True)
    return head.stdout.strip()


def pages_of_ray(folder: Path) -> dict[str, bytes]:
    """What the dashboard of the Ray that runs there shows; its logs are files of the folder."""
    log = folder / "ray/session_latest/logs/dashboard.log"
    found = re.search(r"Dashboard head http address: (\S+)", log.read_text())
    assert found
    pages = {}
    kinds = [f"api/v0/{kind}?detail=1" for kind in ("actors", "tasks", "workers", "nodes", "placement_groups")]
    for place in ("api/jobs/", "logical/actors", "nodes?view=summary", "api/v0/runtime_envs", *kinds):
        with urllib.request.urlopen(f"http://{found[1]}/{place}", timeout=60) as reply:
            pages[place] = bytes(reply.read())
    return pages


def assert_nowhere(key: str, folder: Path) -> None:
    """No file of a folder holds a key."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert files
    assert [path for path in files if key.encode() in path.read_bytes()] == []


def assert_page(server: WandbServer, spec_name: str) -> None:
    """The sweep is as the spec says, every trial a run in it."""
    (sweep,) = server.sweeps.values()
    assert (sweep.name, sweep.project, sweep.state) == (spec_name, "probes", "FINISHED")
    assert sweep.config["metric"] == {"name": "score", "goal": "maximize"}
    assert sweep.config["parameters"]["x"] == {"values": [0.25, 0.5]}
    assert sweep.config["parameters"]["step_s"] == {"values": [0.0]}  # conditional
    assert sorted(server.runs) == [f"{spec_name}-{number}" for number in range(6)]
    assert {(run.sweep_id, run.group) for run in server.runs.values()} == {(sweep.id, None)}
    assert [view["type"] for view in server.views] == ["project-view"]


def assert_described(run: Run, trial: dict[str, Any]) -> None:
    """A run says what defines its trial."""
    assert run.display_name == f"online/{trial['number']}"
    assert run.tags[0] == "nightly"
    assert run.config["x"] == trial["params"]["x"]
    assert run.config["sweep"]["seed"] == trial["seed"]
    assert run.config["sweep"]["resources"]["workers"] == 2
    assert trial["wandb_run"].endswith(f"/team/probes/runs/{run.id}")
    assert b"\ntorch==" in run.files["requirements.txt"]


def assert_logged(run: Run, trial: dict[str, Any]) -> None:
    """A run holds what was logged, and how its trial ended."""
    scored = [row for row in run.history if "score" in row]
    assert len(scored) == len({row["score"] for row in scored})
    assert len(scored) >= trial["epochs"] or trial["state"] == "FAIL"  # rank 0 may be killed before it wrote them
    assert all("trainer/global_step" in row for row in scored)
    match trial["state"]:
        case "COMPLETE":
            assert (run.state, run.exit_code) == ("finished", 0)
            assert (run.summary["score"], run.summary["best_score"]) == (trial["value"], trial["value"])
            assert [row["direct"] for row in run.history if "direct" in row] == [0, 1, 2]
            assert any("probe epoch 2" in line for line in run.output)
            assert any("gradients/" in name for row in run.history for name in row)
            assert run.summary["pictures"]["captions"] == ["noise"]
            assert {"table-file"} == {run.summary[name]["_type"] for name in ("words", "numbers")}
            assert run.summary["pictures_too"]["_type"] == "image-file"
            assert any(name.startswith("media/images/pictures") for name in run.files)
        case "PRUNED":
            assert (run.state, run.exit_code) == ("finished", 0)
            assert {"pruned", "diverged"} & set(run.tags)
            assert run.summary["outcome"] in ("pruned", "diverged")
        case "FAIL":
            assert (run.state, run.exit_code) == ("failed", 1)
            assert "the probe raises on rank 1" in run.summary["error"]


def assert_crowned(server: WandbServer, best: dict[str, Any]) -> None:
    """The winner's checkpoint, and no other, is the sweep's best."""
    versions = [version for name in server.artifacts for version in server.artifacts[name]]
    (version,) = (version for version in versions if "sweep-best" in version.aliases)
    assert version.collection == f"model-online-{best['number']}"
    assert {"best", "latest"} <= {alias for each in server.artifacts[version.collection] for alias in each.aliases}
    assert version.files[Path(best["checkpoint"]).name] == Path(best["checkpoint"]).read_bytes()


def test_what_is_asked_of_a_running_sweep_is_obeyed(sweeps: Sweeps) -> None:
    """On its page and on the command line: pause, resume, stop one run, cancel; then resume, and stop."""
    with WandbServer() as server:
        sweeps.environment |= server.env | {"WANDB__STATS_SAMPLING_INTERVAL": "1"}
        process = sweeps.start(
            "search", "trainable=probe:Probe", "metric=score", "goal=maximize", "name=asked", "search.sampler=grid",
            "search.seed=1", "schedule.scheduler=none", "schedule.max_epochs=3", "resources.concurrency=1",
            f"params.folder={sweeps.folder}", "params.step_s=1.5",
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
        reached(lambda found: found["status"] == "paused" and "RUNNING" not in states(found).values())
        assert states(sweeps.results("asked")) == {0: "COMPLETE"}
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
        reached(lambda found: found["status"] == "running" and states(found).get(cut) == "RUNNING")
        until(lambda: sweep.state == "RUNNING")
        assert "asked is paused" in sweeps.run("pause", "asked")
        until(lambda: sweep.state == "PAUSED")
        assert "asked is cancelled" in sweeps.run("cancel", "asked")
        sweeps.end(process)
        until(lambda: sweep.state == "CANCELED")

        process = sweeps.start("resume", "asked")
        reached(lambda found: found["status"] == "running" and states(found).get(cut + 1) == "RUNNING")
        until(lambda: sweep.state == "RUNNING")
        assert "asked is stopped" in sweeps.run("stop", "asked")
        sweeps.end(process)
        found = sweeps.results("asked")
        assert found["status"] == "stopped"
        assert set(states(found).values()) == {"COMPLETE", "PRUNED"}
        assert sweep.state == "FINISHED"
        assert any(name.endswith("cpu") for row in server.runs["asked-0"].events for name in row)
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


TESTED = """
from probe import Probe


class Tested(Probe):
    def test_step(self, batch):
        self.log("test/score", 0.125)

    def test_dataloader(self):
        return self.train_dataloader()
"""


def test_an_offline_sweep_is_brought_up_later_and_another_one_starts_from_it(sweeps: Sweeps) -> None:
    (sweeps.folder / "tested.py").write_text(TESTED)
    with WandbServer() as server:
        arguments = ["trainable=tested:Tested", "metric=score", "goal=maximize", "search.sampler=grid", "search.seed=1",
                     "schedule.max_epochs=2", "resources.concurrency=1", f"params.folder={sweeps.folder}",
                     "tracking.project=later"]  # fmt: skip
        space = {"behaviour": {"options": ["fine", "kill_once"]}}
        sweeps.run(
            "search", *arguments, "name=later", "schedule.scheduler=none", "checkpoints.keep_trials=1",
            f"space={json.dumps(space)}",
        )  # fmt: skip
        assert server.runs == {}
        held = sweeps.folder / "results/later/wandb/checkpoints"
        assert [path.name for path in held.iterdir()] == [str(sweeps.results("later")["best"]["number"])]
        sweeps.environment |= server.env
        server.fail(401, count=1, path="file_stream")
        assert "not, or not wholly, in W&B: later-" in sweeps.run("sync", "later", code=1)
        for brought in ("1 run", "0 runs"):
            assert f"{brought} brought to W&B" in sweeps.run("sync", "later")
        (sweep,) = server.sweeps.values()
        assert (sweep.state, sorted(sweep.run_ids)) == ("FINISHED", ["later-0", "later-1"])
        for run in server.runs.values():
            assert (run.state, [row["epoch"] for row in run.history if "score" in row]) == ("finished", [0, 1])
        results = sweeps.results("later")
        assert all(trial["wandb_run"].startswith("http") for trial in results["trials"])
        winner = server.runs[f"later-{results['best']['number']}"]

        # What came later, or went: a test of the winner, checkpoints and rows that somebody deleted.
        assert not list(held.iterdir())
        assert "0.125" in sweeps.run("evaluate", "later")
        other = server.runs[f"later-{1 - results['best']['number']}"]
        other.lines.clear()
        del server.artifacts[f"model-{winner.id}"][:]
        assert "2 runs brought to W&B" in sweeps.run("sync", "later")
        assert "0 runs brought to W&B" in sweeps.run("sync", "later")
        assert winner.summary["test/score"] == 0.125
        for run in (winner, other):
            assert [row["epoch"] for row in run.history if "score" in row] == [0, 1]
        assert not [version for version in server.artifacts[f"model-{other.id}"] if version.files]

        best = f"team/later/model-{winner.id}:sweep-best"
        checkpoint = Path(results["best"]["checkpoint"])
        copy = f"here/{winner.id}/epoch-0002.ckpt"
        assert copy in sweeps.run("download", best, "here")
        assert (sweeps.folder / copy).read_bytes() == checkpoint.read_bytes()
        for wrong, said in (
            ("no/such/model:best", "W&B has no project 'no/such'"),
            (f"team/later/model-{winner.id}:bset", "has no alias or version 'bset'; did you mean 'best'? W&B has"),
            (
                f"team/later/modal-{winner.id}:best",
                f"has no checkpoints 'modal-{winner.id}'; did you mean 'model-later-",
            ),
        ):
            assert said in sweeps.run("download", wrong, "here", code=2)
        unused = ("name=never", "params.x=0.5", "params.behaviour=hang_once", "space={at_epoch: {options: [1]}}")
        assert said in sweeps.run("search", *arguments, *unused, f"start_from={wrong}", code=2)
        assert not (sweeps.folder / "results" / "never").exists()
        fetched = subprocess.run(
            [sys.executable, "-c", f"import orchestrator; print(orchestrator.fetch_checkpoint({best!r}))"],
            cwd=sweeps.folder, env=sweeps.environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert Path(fetched.stdout.strip()).read_bytes() == checkpoint.read_bytes()

        hangs = sweeps.folder / "hang_once-0.5"
        hangs.touch()  # it did already
        sweeps.run(
            "search", *arguments, "name=next", f"start_from={best}", "params.x=0.5", "params.behaviour=hang_once",
            "space={at_epoch: {options: [1]}}",
        )  # fmt: skip
        assert server.runs["next-0"].used_artifacts == [f"model-{winner.id}:v1"]
        assert server.runs["next-0"].config["sweep"]["start_from"] == f"team/later/model-{winner.id}:v1"
        assert "the same in every epoch" in sweeps.run("replay", "next", "0")
        assert server.unknown == []

    # Ctrl-C while a replay trains.
    hangs.unlink()
    process = sweeps.start("replay", "next", "0")
    until(hangs.exists, 120)
    process.send_signal(signal.SIGINT)
    sweeps.end(process, code=130, timeout_s=120)
