"""The view made for comparing, saved through the real library in the double of W&B's server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import clean_environment
from doubles.wandb_server import WandbServer
from simulated import simulate

from orchestrator import cli, workspace
from orchestrator.ledger import Ledger
from orchestrator.space import Float, Int, Space
from orchestrator.wandb_yaml import to_config

CREATE_PROJECT = (
    "import wandb; print(wandb.sweep({'method': 'random', 'parameters': {'lr': {'value': 1}}}, project='orchestrator'))"
)


def run(server: WandbServer, home: Path, *command: str) -> str:
    environment = clean_environment(home) | server.env
    done = subprocess.run(
        [sys.executable, *command], cwd=home, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def panels(spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The panels of a view or a report by W&B's names of their kinds, wherever they are in it."""
    found: dict[str, dict[str, Any]] = {}
    stack: list[Any] = [spec]
    while stack:
        part = stack.pop()
        if isinstance(part, dict):
            if "viewType" in part and "config" in part:
                found[part["viewType"]] = part["config"]
            stack += part.values()
        elif isinstance(part, list):
            stack += part
    return found


@pytest.mark.parametrize(("options", "kind"), [((), "project-view"), (("--report",), "runs")])
def test_a_view_and_a_report_show_what_is_compared(options: tuple[str, ...], kind: str, tmp_path: Path) -> None:
    folder, spec = simulate(tmp_path, 3)
    where = folder.show("").rstrip("/")
    with WandbServer() as server:
        sweep_id = run(server, tmp_path, "-c", CREATE_PROJECT)
        Ledger(folder, spec).remember("wandb_sweep", sweep_id)
        printed = run(server, tmp_path, "-m", "orchestrator", "view", where, *options)
        [view] = server.views
        assert (view["type"], view["displayName"]) == (kind, f"Sweep {spec.name}")
        assert printed.startswith(f"{server.url}/{server.entity}/orchestrator")
        saved = json.loads(view["spec"])
        assert sweep_id in view["spec"], "runs of this sweep only"
        drawn = panels(saved)
        assert set(drawn) == {
            "Parallel Coordinates Plot",
            "Parameter Importance",
            "Run History Line Plot",
            "Scatter Plot",
        }
        axes = [column["accessor"] for column in drawn["Parallel Coordinates Plot"]["columns"]]
        assert axes == [*(f"config:{name}.value" for name in spec.load_space()), "summary:val/accuracy"]
        assert drawn["Parameter Importance"]["targetKey"] == "val/accuracy"
        assert drawn["Run History Line Plot"]["metrics"] == ["val/accuracy"]
        assert drawn["Run History Line Plot"]["xAxis"] == "epoch"
        assert drawn["Scatter Plot"]["showMaxYAxisLine"] is True
        assert '"run:state"' in view["spec"]
        assert '"run:duration"' in view["spec"]
        assert server.unknown == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the library's own
def test_a_hyperparameter_of_a_group_is_where_its_run_has_it(tmp_path: Path) -> None:
    """Panels and columns name a value of a run's config as W&B keeps that: every group as one value."""
    space = Space({"optimizer.lr": Float(0.1, 1, log=True), "model.head.width": Int(1, 4), "depth": Int(1, 3)})
    _, spec = simulate(tmp_path, 3)
    axes = [column._to_model().accessor for column in workspace._panels(spec, dict(space))[0].columns]
    assert axes[:3] == list(workspace._columns(space))
    params = {"optimizer.lr": 0.5, "model.head.width": 2, "depth": 3}
    config = {name: {"value": value} for name, value in to_config(params).items()}
    for axis in axes[:3]:
        place: Any = config
        for name in axis.removeprefix("config:").split("."):
            place = place[name]
        assert isinstance(place, int | float), axis


def test_a_sweep_without_a_page_has_no_view(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, spec = simulate(tmp_path, 3)
    assert cli.main(["view", folder.show("").rstrip("/")]) == 2
    assert f"{spec.name} has no page in W&B" in capsys.readouterr().err
    assert "WANDB_SERVICE" not in os.environ
