"""Real sweeps: real Ray, real worker processes, the real W&B SDK, offline."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import Sweeps

from orchestrator import runlog
from orchestrator.spec import Spec

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

PROBE = ("trainable=probe:Probe", "metric=score", "goal=maximize", "search.seed=1", "tracking.mode=offline")


def space(**parameters: Any) -> str:
    return f"space={json.dumps(parameters)}"


def options(*values: Any) -> dict[str, Any]:
    return {"options": list(values)}


def trained(folder: Path, rank: int = 0) -> Counter[tuple[str, str]]:
    """How often each (x, epoch) was trained to its end on a rank."""
    lines = (folder / f"epochs-{rank}.txt").read_text().splitlines()
    return Counter((line.split()[0], line.split()[1]) for line in lines)


def offline_runs(folder: Path, name: str) -> list[str]:
    """The W&B run ids on disk, one for each run folder."""
    return sorted(path.name.split("-", 3)[3] for path in (folder / "results" / name / "wandb").glob("offline-run-*"))


def test_default_sweep_on_a_ray_of_its_own(lone_sweeps: Sweeps) -> None:
    printed = lone_sweeps.run("search", "name=first", "search.seed=0", "export=onnx")
    results = lone_sweeps.results("first")
    assert results["status"] == "finished"
    assert [trial["number"] for trial in results["trials"]] == list(range(20))
    assert results["best"]["value"] >= 0.97
    assert Path(results["best"]["checkpoint"]).is_file()
    assert Path(results["best"]["checkpoint"]).with_name("model.onnx").is_file()
    assert offline_runs(lone_sweeps.folder, "first").count("first-0") >= 1
    checkpoint = Path(results["best"]["checkpoint"]).relative_to(lone_sweeps.folder)
    for said in ("20/20 trials", "best: trial", str(checkpoint), "results.json", "orchestrator sync"):
        assert said in printed
    for noise in ("Traceback", "Warning", "(raylet)", "INFO"):
        assert noise not in printed
    assert "the same in every epoch" in lone_sweeps.run("replay", "first", str(results["best"]["number"]))
    loaded = lone_sweeps.run("best", "first", "--download", "winner")
    assert "downloaded" in loaded
    from trainables.digits import DigitsNet

    (downloaded,) = (lone_sweeps.folder / "winner").iterdir()
    net = DigitsNet.load_from_checkpoint(downloaded)
    assert net.hparams.channels == results["best"]["params"]["channels"]


def test_failures_are_the_failing_trials_own(sweeps: Sweeps) -> None:
    sweeps.run(
        "search", *PROBE, "name=bad", "search.sampler=grid", "failures.max_failed=null", "failures.retries=1",
        "failures.stall_timeout_s=120", "schedule.scheduler=none", "schedule.max_epochs=3", "resources.concurrency=1",
        f"params.folder={sweeps.folder}", "params.x=0.25", "training.deterministic=true",
        space(behaviour=options(
            "fine", "raise", "nan", "out_of_memory", "kill_once", "hang_once", "kill_slot_once", "draw_lots"
        )),
    )  # fmt: skip
    trials = {trial["params"]["behaviour"]: trial for trial in sweeps.results("bad")["trials"]}
    assert {name: trial["state"] for name, trial in trials.items()} == {
        "fine": "COMPLETE", "raise": "FAIL", "nan": "PRUNED", "out_of_memory": "PRUNED",
        "kill_once": "COMPLETE", "hang_once": "COMPLETE", "kill_slot_once": "COMPLETE", "draw_lots": "FAIL",
    }  # fmt: skip
    completed = ("fine", "kill_once", "hang_once", "kill_slot_once")
    assert {trials[behaviour]["value"] for behaviour in completed} == {0.75}
    assert trials["raise"]["error"] == "ValueError: the probe raises"
    assert "put_ does not have a deterministic implementation" in trials["draw_lots"]["error"]
    assert "score is nan at epoch 2" in trials["nan"]["error"]
    assert "can't allocate memory" in trials["out_of_memory"]["error"]
    folder = sweeps.folder / "results" / "bad" / "trials" / str(trials["out_of_memory"]["number"])
    assert [path.name for path in folder.glob("error-*")] == ["error-0.txt"]  # it was not tried again
    number = trials["hang_once"]["number"]
    stacks = (sweeps.folder / "results" / "bad" / "trials" / str(number) / "error-0.txt").read_text()
    assert "_misbehave" in stacks
    # The killed trial went on from epoch 1: nothing that was checkpointed is trained again.
    assert trained(sweeps.folder)["0.25", "1"] == len(trials)
    assert set(offline_runs(sweeps.folder, "bad")) == {f"bad-{number}" for number in range(len(trials))}


def test_a_warm_group_keeps_its_processes_and_isolation_gives_new_ones(sweeps: Sweeps) -> None:
    for isolation, processes in (("group", 1), ("process", 2)):
        sweeps.run(
            "search", *PROBE, f"name={isolation}", f"isolation={isolation}", "search.sampler=grid",
            "schedule.scheduler=none", "schedule.max_epochs=1", "resources.concurrency=1",
            f"params.folder={sweeps.folder}", space(x=options(0.25, 0.5)),
        )  # fmt: skip
        lines = (sweeps.folder / "epochs-0.txt").read_text().splitlines()[-2:]
        assert len({line.split()[2] for line in lines}) == processes


def test_a_metric_that_is_not_logged_ends_the_sweep_at_once(sweeps: Sweeps) -> None:
    printed = sweeps.run("search", *PROBE, "name=none", "metric=scroe", space(x=options(0.25, 0.5)), code=2)
    assert "metric is 'scroe', which the trainable does not log; did you mean 'score'? it logs: score" in printed
    assert sweeps.results("none")["status"] == "failed"


@pytest.mark.parametrize(
    ("max_failed", "failed", "said"),
    [
        (1, 1, "trials failed: 1 (failures.max_failed=1); the last: ValueError: the probe raises"),
        (5, 2, "every trial fails alike before its first epoch is over: ValueError: the probe raises"),
    ],
)
def test_too_many_failed_trials_end_the_sweep(sweeps: Sweeps, max_failed: int, failed: int, said: str) -> None:
    printed = sweeps.run(
        "search", *PROBE, f"name=failing-{max_failed}", f"failures.max_failed={max_failed}", "failures.retries=0",
        "params.behaviour=raise", "params.at_epoch=0", f"params.folder={sweeps.folder}", "resources.concurrency=1",
        space(x={"low": 0.0, "high": 1.0, "type": "float"}), code=1,
    )  # fmt: skip
    assert said in printed
    assert [trial["state"] for trial in sweeps.results(f"failing-{max_failed}")["trials"]] == ["FAIL"] * failed


def test_a_signal_stops_cleanly_and_resume_goes_on(lone_sweeps: Sweeps) -> None:
    process = lone_sweeps.start("search", *slow_sweep(lone_sweeps, "stopped", epochs=4))
    lone_sweeps.until("stopped", lambda found: any(trial["epochs"] for trial in found["trials"]))
    process.send_signal(signal.SIGTERM)
    printed = lone_sweeps.end(process, code=128 + signal.SIGTERM)
    assert "resume" in printed
    before = lone_sweeps.results("stopped")
    assert before["status"] == "interrupted"
    assert "RUNNING" in {trial["state"] for trial in before["trials"]}
    assert "interrupted" in lone_sweeps.run("status", "stopped")
    process = lone_sweeps.start("resume", "stopped")
    lone_sweeps.until("stopped", lambda found: any(trial["state"] == "COMPLETE" for trial in found["trials"]))
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    assert any("stopping" in line for line in process.stdout)
    process.send_signal(signal.SIGINT)  # once more, and it ends at once, with nothing put in order
    lone_sweeps.end(process, code=128 + signal.SIGINT)
    assert "dead" in lone_sweeps.run("status", "stopped")
    process = lone_sweeps.start("resume", "stopped")
    lone_sweeps.until("stopped", lambda found: [trial["state"] for trial in found["trials"]].count("COMPLETE") == 2)
    os.killpg(process.pid, signal.SIGTERM)  # as `timeout` and service managers do: Ray gets it, too
    assert "resume" in lone_sweeps.end(process, code=128 + signal.SIGTERM)
    lone_sweeps.run("resume", "stopped")
    assert_whole(lone_sweeps, "stopped", trials=3, epochs=4)


@pytest.mark.parametrize(
    ("moment", "ray"),
    [("before the first epoch", "sweeps"), ("in mid-trial", "lone_sweeps"), ("between trials", "sweeps")],
)
def test_a_killed_sweep_resumes_where_it_was(moment: str, ray: str, request: pytest.FixtureRequest) -> None:
    sweeps: Sweeps = request.getfixturevalue(ray)  # a Ray of its own dies with the sweep, one that is shared does not
    arguments = slow_sweep(sweeps, "killed", epochs=3)
    process = sweeps.start("search", *arguments)
    conditions = {
        "before the first epoch": lambda found: bool(found["trials"]),
        "in mid-trial": lambda found: any(t["state"] == "RUNNING" and t["epochs"] >= 2 for t in found["trials"]),
        "between trials": lambda found: any(trial["state"] == "COMPLETE" for trial in found["trials"]),
    }
    sweeps.until("killed", conditions[moment])
    process.send_signal(signal.SIGKILL)
    process.communicate()
    document = json.loads(sweeps.run("status", "killed", "--json"))
    assert document["status"] == "dead"
    done = {trial["number"] for trial in document["trials"] if trial["state"] == "COMPLETE"}
    sweeps.run("resume", "killed")
    assert_whole(sweeps, "killed", trials=3, epochs=3)
    epochs = trained(sweeps.folder)
    for trial in sweeps.results("killed")["trials"]:
        if trial["number"] in done:
            assert all(epochs[str(trial["params"]["x"]), str(epoch)] == 1 for epoch in range(1, 4))


def test_a_budget_can_be_raised_and_a_name_is_taken(sweeps: Sweeps) -> None:
    arguments = [*PROBE, "name=more", "schedule.max_epochs=1", space(x={"type": "float", "low": 0.0, "high": 1.0})]
    sweeps.run("search", *arguments, "budget.trials=2")
    assert "exists already" in sweeps.run("search", *arguments, "budget.trials=2", code=2)
    first = sweeps.results("more")["trials"]
    before = Spec.from_yaml(sweeps.stored("more").read_text("sweep.yaml")).search.sampler
    printed = sweeps.run("resume", "more", "budget.trials=4", "search.sampler=random")
    assert f"note: sampler random, no longer {before}: as search.sampler says" in printed
    trials = sweeps.results("more")["trials"]
    assert trials[:2] == first
    assert len({trial["params"]["x"] for trial in trials}) == 4


def slow_sweep(sweeps: Sweeps, name: str, epochs: int) -> list[str]:
    return [
        *PROBE, f"name={name}", "search.sampler=grid", "schedule.scheduler=none", f"schedule.max_epochs={epochs}",
        f"params.folder={sweeps.folder}", "params.step_s=0.5", "resources.concurrency=1",
        space(x=options(0.25, 0.5, 0.75)),
    ]  # fmt: skip


def assert_whole(sweeps: Sweeps, name: str, trials: int, epochs: int) -> None:
    """No trial lost, none twice, every curve whole, the same W&B runs."""
    document = sweeps.results(name)
    assert document["status"] == "finished"
    assert [trial["number"] for trial in document["trials"]] == list(range(trials))
    assert {trial["state"] for trial in document["trials"]} == {"COMPLETE"}
    assert {trial["epochs"] for trial in document["trials"]} == {epochs}
    assert all(trial["value"] == pytest.approx(trial["params"]["x"] * epochs) for trial in document["trials"])
    assert len({trial["params"]["x"] for trial in document["trials"]}) == trials
    assert set(offline_runs(sweeps.folder, name)) == {f"{name}-{number}" for number in range(trials)}
    ledger = (sweeps.folder / "results" / name / "ledger.journal").read_text().splitlines()
    reported = Counter(
        (entry["trial_id"], entry["step"]) for entry in map(json.loads, ledger) if "intermediate_value" in entry
    )
    assert reported == {(number, epoch): 1 for number in range(trials) for epoch in range(1, epochs + 1)}


@pytest.mark.parametrize(
    ("trainable", "loops", "metrics"),
    [("probe:Regression", (), ("loss", "val/loss")), ("probe:regression", ("plain", "fabric"), ("val/loss",))],
)
def test_one_worker_four_and_shards_learn_the_same(
    sweeps: Sweeps, trainable: str, loops: tuple[str, ...], metrics: tuple[str, ...]
) -> None:
    strategies = {1: "auto", 4: "ddp" if loops else "probe:bucketed", 2: "fsdp"}
    searched = {"loop": options(*loops)} if loops else {"lr": options(0.05, 0.1)}
    for workers, strategy in strategies.items():
        sweeps.run(
            "search", f"trainable={trainable}", f"metric={metrics[0]}", "goal=minimize", f"name=shared-{workers}",
            "search.seed=1", "tracking.mode=offline", "schedule.scheduler=none", "schedule.max_epochs=4",
            "search.sampler=grid", "training.batch_size=global", "training.deterministic=true", "params.batch_size=16",
            "resources.concurrency=1", f"resources.strategy={strategy}", f"resources.workers={workers}",
            "resources.cpus_per_worker=0.4", space(**searched),
        )  # fmt: skip
    for metric in metrics:
        one, four, shards = (logged(sweeps, f"shared-{workers}", metric) for workers in strategies)
        assert len(one) == 2
        assert {len(set(curve)) for curve in one.values()} == {4}
        assert len(set(map(tuple, one.values()))) == len(one)
        for learnt in (four, shards):
            assert learnt.keys() == one.keys()
            assert all(learnt[trial] == pytest.approx(one[trial], rel=1e-5) for trial in one)


def logged(sweeps: Sweeps, name: str, metric: str) -> dict[str, list[float]]:
    """What the run of each trial has of a metric, in order."""
    files = sorted((sweeps.folder / "results" / name / "wandb").glob("offline-run-*/run-*.wandb"))
    return {file.stem.rpartition("-")[2]: list(runlog.values(file, metric)) for file in files}
