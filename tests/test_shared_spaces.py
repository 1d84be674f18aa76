"""Another team's package is built, installed and swept with; a W&B sweep's file runs as it is. Real sweeps."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import Sweeps

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

PACKAGE = {
    "pyproject.toml": """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "acme-spaces"
version = "1.0"

[project.entry-points."orchestrator.search_spaces"]
acme = "acme_spaces"

[tool.setuptools]
packages = ["acme_spaces"]

[tool.setuptools.package-data]
acme_spaces = ["**/*.yaml"]
""",
    "acme_spaces/__init__.py": "",
    "acme_spaces/probes/steady.yaml": "# Theirs\nx: {type: float, low: 0, high: 1}\n",
    "acme_spaces/probes/steady@2.yaml": """
# Theirs, the second
extends: acme/probes/steady@1
narrow: {x: {low: 0.25, high: 0.75, default: 0.5}}
parameters: {at_epoch: {type: int, low: 1, high: 4}}
constraints: [x * at_epoch <= 2]
""",
}

THEIRS = """
program: train.py
command: ["${env}", python, "${program}"]
method: random
metric: {name: score, goal: maximize}
parameters:
  x: {distribution: q_uniform, min: 0.0, max: 1.0, q: 0.25}
  step_s: {value: 0.0}
early_terminate: {type: hyperband, min_iter: 1, eta: 3}
run_cap: 2
"""

COMMON = ("trainable=probe:Probe", "search.seed=1", "tracking.mode=offline", "schedule.max_epochs=2")


def install(source: Path, target: Path) -> None:
    """Build the package, and install it into a folder of its own, as `pip install` does, without a network."""
    for name, text in PACKAGE.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(text)
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps",
         "--no-build-isolation", "--target", str(target), str(source)],
        check=True,
    )  # fmt: skip


def test_a_teams_package_and_a_wandb_file(sweeps: Sweeps, tmp_path: Path) -> None:
    install(tmp_path / "acme", tmp_path / "installed")
    sweeps.environment["PYTHONPATH"] = str(tmp_path / "installed")
    assert "acme/probes/steady@1,2" in sweeps.run("spaces")

    (tmp_path / "mine.yaml").write_text("extends: acme/probes/steady\nfix: {at_epoch: 2}\n")
    for name, space in (("theirs", "acme/probes/steady"), ("mine", "mine.yaml")):
        sweeps.run("search", *COMMON, f"name={name}", f"space={space}", "metric=score", "goal=maximize",
                   "budget.trials=3", f"params.folder={tmp_path}")  # fmt: skip
        trials = [trial["params"] for trial in sweeps.results(name)["trials"]]
        assert len(trials) == 3
        assert all(0.25 <= params["x"] <= 0.75 and params["x"] * params["at_epoch"] <= 2 for params in trials)
    assert {trial["params"]["at_epoch"] for trial in sweeps.results("mine")["trials"]} == {2}

    recorded = yaml.safe_load((tmp_path / "results/theirs/sweep.yaml").read_text())["space"]
    assert (recorded["name"], recorded["version"]) == ("acme/probes/steady", 2)
    assert recorded["digest"] in sweeps.run("spaces", "show", "acme/probes/steady@2")
    journal = (tmp_path / "results/theirs/ledger.journal").read_text()
    assert recorded["digest"] in journal
    [config, *_] = (tmp_path / "results/theirs/wandb").glob("offline-run-*/*.wandb")
    assert recorded["digest"].encode() in config.read_bytes()
    assert "fixed at 2" in sweeps.run("spaces", "diff", "theirs", "mine", code=1)
    assert "the same space" in sweeps.run("spaces", "diff", "theirs", "acme/probes/steady@2")

    # A space that has changed since is noticed; and one whose package is gone is needed no more.
    (tmp_path / "mine.yaml").write_text("extends: acme/probes/steady\nfix: {at_epoch: 1}\n")
    assert "has changed since the sweep began" in sweeps.run("resume", "mine", "budget.trials=4", code=2)
    sweeps.run("resume", "mine", "budget.trials=4", "--as-recorded")
    assert {trial["params"]["at_epoch"] for trial in sweeps.results("mine")["trials"]} == {2}
    del sweeps.environment["PYTHONPATH"]
    sweeps.run("resume", "theirs", "budget.trials=4")
    assert len(sweeps.results("theirs")["trials"]) == 4

    (tmp_path / "wandb_sweep.yaml").write_text(THEIRS)
    printed = sweeps.run("search", "wandb_sweep.yaml", *COMMON, "name=wandb", f"params.folder={tmp_path}")
    assert "left out, since it means nothing here: program, command" in printed
    trials = sweeps.results("wandb")["trials"]
    assert len(trials) == 2
    assert {trial["params"]["x"] for trial in trials} <= {0.0, 0.25, 0.5, 0.75, 1.0}
