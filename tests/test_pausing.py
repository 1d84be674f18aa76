"""Other schedulers on real Ray: PBT with two workers a trial, HyperBand, PB2, median stopping; several objectives."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest
from conftest import Sweeps

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

PROBE = ("trainable=probe:Probe", "metric=score", "goal=maximize", "search.seed=1", "tracking.mode=offline")


def test_population_based_training_with_two_workers_killed_and_resumed(sweeps: Sweeps) -> None:
    space = json.dumps({"x": {"type": "float", "low": 0.1, "high": 1.0}})
    process = sweeps.start(
        "search", *PROBE, "name=pbt", "schedule.scheduler=pbt", "schedule.max_epochs=6", "schedule.interval_epochs=2",
        "budget.trials=4", "resources.workers=2", "resources.cpus_per_worker=0.5", "resources.concurrency=2",
        f"params.folder={sweeps.folder}", "params.step_s=0.1", f"space={space}", "checkpoints.keep_trials=1",
    )  # fmt: skip
    sweeps.until("pbt", lambda found: any(trial["copied_from"] for trial in found["trials"]))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    lines = (sweeps.folder / "epochs-0.txt").read_text().splitlines()
    sweeps.run("resume", "pbt")
    more = (sweeps.folder / "epochs-0.txt").read_text().splitlines()[len(lines) :]
    assert len({line.split()[2] for line in more}) <= 2  # slots that wait for a trial stay warm
    document = sweeps.results("pbt")
    assert document["status"] == "finished"
    trials: list[dict[str, Any]] = document["trials"]
    assert len(trials) == 4
    assert {trial["state"] for trial in trials} == {"COMPLETE"}
    assert {trial["epochs"] for trial in trials} == {6}
    copies = [trial for trial in trials if trial["copied_from"]]
    assert copies
    for trial in copies:
        for copy in trial["copied_from"].split():
            donor, epoch = map(int, copy.split("@"))
            assert donor != trial["number"]
            assert epoch in (2, 4)
    # The score is x times the epochs done: the last epoch shows the hyperparameters that were copied and changed.
    journal = (sweeps.folder / "results" / "pbt" / "ledger.journal").read_text().splitlines()
    last = {
        entry["trial_id"]: entry["intermediate_value"]
        for entry in map(json.loads, journal) if entry.get("step") == 6
    }  # fmt: skip
    assert last == {trial["number"]: pytest.approx(6 * trial["params"]["x"]) for trial in trials}
    # All were there to be copied until the end; then the best alone keeps its own.
    kept = {path.parent.name for path in (sweeps.folder / "results" / "pbt" / "trials").glob("*/epoch-*.ckpt")}
    assert kept == {str(document["best"]["number"])}
    changed = next(trial["number"] for trial in copies)
    assert "has no single configuration to train again" in sweeps.run("replay", "pbt", str(changed), code=2)


def test_hyperband_pauses_and_goes_on(sweeps: Sweeps) -> None:
    space = json.dumps({"x": {"type": "float", "low": 0.1, "high": 1.0}})
    printed = sweeps.run(
        "search", *PROBE, "name=bands", "schedule.scheduler=hyperband", "schedule.max_epochs=4", "budget.trials=6",
        "schedule.reduction_factor=2", "resources.concurrency=1", f"params.folder={sweeps.folder}", f"space={space}",
        "tracking.mode=disabled", "budget.target=3.99", "params.behaviour=kill_leaving_once",
    )  # fmt: skip
    assert (sweeps.folder / "killed-leaving").exists()  # workers that die while a trial leaves them hold up nothing
    trials = sweeps.results("bands")["trials"]
    assert len(trials) == 6
    states = [trial["state"] for trial in trials]
    assert set(states) == {"COMPLETE", "PRUNED"}
    # Tune's brackets for 4 epochs and a factor of 2: three trials of 4 epochs, then such as are halved at 2.
    assert [trial["epochs"] for trial in trials[:3]] == [4, 4, 4]
    paused = trials[3:]
    assert all(trial["epochs"] in (2, 4) for trial in paused)
    assert max(paused, key=lambda trial: trial["params"]["x"])["epochs"] == 4
    assert min(paused, key=lambda trial: trial["params"]["x"])["epochs"] == 2
    assert "6 trials" in printed


def test_pb2_with_two_workers_copies_and_chooses_within_the_space(sweeps: Sweeps) -> None:
    space = json.dumps({"x": {"type": "float", "low": 0.1, "high": 1.0}})
    sweeps.run(
        "search", *PROBE, "name=pb2", "schedule.scheduler=pb2", "schedule.max_epochs=6", "schedule.interval_epochs=2",
        "budget.trials=4", "resources.workers=2", "resources.cpus_per_worker=0.5", "resources.concurrency=2",
        f"params.folder={sweeps.folder}", f"space={space}", "tracking.mode=disabled",
    )  # fmt: skip
    trials = sweeps.results("pb2")["trials"]
    assert [(trial["state"], trial["epochs"]) for trial in trials] == [("COMPLETE", 6)] * 4
    assert any(trial["copied_from"] for trial in trials)
    assert all(0.1 <= trial["params"]["x"] <= 1.0 for trial in trials)


def test_median_stopping_and_a_sweep_that_begins_with_what_it_found(sweeps: Sweeps) -> None:
    space = {"x": {"options": [1.0, 0.9, 0.8, 0.1]}}
    common = (*PROBE, f"params.folder={sweeps.folder}", "tracking.mode=disabled", "resources.concurrency=1",
              "schedule.max_epochs=4")  # fmt: skip
    sweeps.run(
        "search", *common, "name=median", "schedule.scheduler=median", f"space={json.dumps(space)}",
        f"warm_start.points={json.dumps([{'x': x} for x in space['x']['options']])}", "search.sampler=random",
    )  # fmt: skip
    trials = sweeps.results("median")["trials"]
    assert [(trial["params"]["x"], trial["state"]) for trial in trials] == [
        (1.0, "COMPLETE"), (0.9, "COMPLETE"), (0.8, "COMPLETE"), (0.1, "PRUNED"),
    ]  # fmt: skip
    space["x"]["options"] = [1.0, 0.9, 0.85, 0.5]
    printed = sweeps.run(
        "search", *common, "name=later", "schedule.scheduler=none", f"space={json.dumps(space)}",
        "warm_start.sweeps=[median]", "constraints=['score >= 3']",
    )  # fmt: skip
    assert "warm start from median: 2 of 4 results taken, 2 outside this space" in printed
    later = sweeps.results("later")
    states = {trial["params"]["x"]: (trial["state"], trial["error"]) for trial in later["trials"]}
    assert states == {
        0.85: ("COMPLETE", None),  # what is known already is not run again
        0.5: ("PRUNED", "score is 2, beyond score >= 3"),
    }
    assert later["best"]["params"]["x"] == 0.85


def test_several_objectives(sweeps: Sweeps) -> None:
    printed = sweeps.run(
        "search", "metric=val/accuracy", "objectives={val/loss: minimize}", "constraints=[val/loss <= 100]",
        "schedule.scheduler=none", "schedule.max_epochs=2", "budget.trials=3", "name=front", "search.seed=1",
        "tracking.mode=disabled",
    )  # fmt: skip
    document = sweeps.results("front")
    assert document["front"]
    assert {trial["state"] for trial in document["trials"]} == {"COMPLETE"}
    assert all(set(trial["measured"]) == {"val/loss"} for trial in document["trials"])
    assert document["best"]["number"] == document["front"][0]
    assert "Pareto front: " in printed
    assert "objectives name 'val/los', which the trainable does not log; did you mean 'val/loss'?" in sweeps.run(
        "search", "metric=val/accuracy", "objectives={val/los: minimize}", "schedule.scheduler=none",
        "schedule.max_epochs=1", "budget.trials=1", "name=wrong", "tracking.mode=disabled", code=2,
    )  # fmt: skip
