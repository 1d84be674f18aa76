"""Schedulers that pause trials, on real Ray: population based training with two workers a trial, and HyperBand."""

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
        f"params.folder={sweeps.folder}", "params.step_s=0.1", f"space={space}", "budget.repeat=1",
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
    assert [trial["repeat_of"] is None for trial in trials] == [True] * 4 + [False]
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
    kept = {path.name for path in (sweeps.folder / "results" / "pbt" / "trials").glob("*/epoch-*.ckpt")}
    assert "epoch-0006.ckpt" in kept
    assert sum(1 for _ in (sweeps.folder / "results" / "pbt" / "trials").glob("0/epoch-*.ckpt")) <= 2


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
