"""Runs in W&B: the real SDK, online against the local double of the server, and what it is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Sweeps
from doubles.wandb_server import WandbServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_every_trial_is_one_run_of_a_real_sweep(lone_sweeps: Sweeps) -> None:
    space = {
        "x": {"options": [0.25, 0.5]},
        "behaviour": {"options": ["fine", "nan", "raise_on_rank_1"]},
        "step_s": {"options": [0.0], "when": {"behaviour": "fine"}},
    }
    with WandbServer() as server:
        lone_sweeps.environment |= server.env
        printed = lone_sweeps.run(
            "search", "trainable=probe:Probe", "metric=score", "goal=maximize", "name=online", "search.sampler=grid",
            "search.seed=3", "schedule.max_epochs=3", "schedule.scheduler=asha", "schedule.grace_epochs=2",
            "resources.workers=2", "failures.retries=0", "failures.max_failed=null", "params.folder=.",
            "tracking.project=probes", "tracking.tags=[nightly]", f"space={json.dumps(space)}",
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
