"""W&B sweep configurations: every distribution in and out, whole files as specs, and what cannot be expressed."""

import json
import math
import random
import re
import statistics
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator import spec as specs
from orchestrator import wandb_distributions, wandb_yaml
from orchestrator.errors import SpaceError, SpecError
from orchestrator.prior import Beta, LogUniform, Normal
from orchestrator.sources import load_space
from orchestrator.space import Choice, Fixed, Float, Int, Space


@pytest.mark.parametrize(
    ("parameter", "entry"),
    [
        (Float(0, 1), {"distribution": "uniform", "min": 0.0, "max": 1.0}),
        (Float(1e-4, 0.1, log=True), {"distribution": "log_uniform_values", "min": 1e-4, "max": 0.1}),
        (Float(0, 1, step=0.25), {"distribution": "q_uniform", "min": 0.0, "max": 1.0, "q": 0.25}),
        (Float(0, 1, step=0.3), {"distribution": "q_uniform", "min": 0.0, "max": 0.9, "q": 0.3}),
        (Float(0.5, 0.5), {"value": 0.5}),
        (Float(0, 1, prior=Beta(2, 5)), {"distribution": "beta", "a": 2.0, "b": 5.0}),
        (Float(0, 1, step=0.1, prior=Beta(2, 5)), {"distribution": "q_beta", "a": 2.0, "b": 5.0, "q": 0.1}),
        (Float(-7, 9, prior=Normal(1, 2)), {"distribution": "normal", "mu": 1.0, "sigma": 2.0}),
        (Float(-7, 9, step=0.5, prior=Normal(1, 2)), {"distribution": "q_normal", "mu": 1.0, "sigma": 2.0, "q": 0.5}),
        (Float(1e-7, 10, log=True, prior=Normal(1e-3, 10)),
         {"distribution": "log_normal", "mu": math.log(1e-3), "sigma": math.log(10)}),
        (Int(1, 8), {"distribution": "int_uniform", "min": 1, "max": 8}),
        (Int(16, 64, step=16), {"distribution": "q_uniform", "min": 16, "max": 64, "q": 16}),
        (Int(1, 256, log=True), {"distribution": "q_log_uniform_values", "min": 1, "max": 256, "q": 1}),
        (Int(32, 256, step=8, prior=LogUniform()),
         {"distribution": "q_log_uniform_values", "min": 32, "max": 256, "q": 8}),
        (Int(-7, 9, prior=Normal(1, 2)), {"distribution": "q_normal", "mu": 1.0, "sigma": 2.0, "q": 1}),
        (Int(1, 256, log=True, prior=Normal(16, 2)),
         {"distribution": "q_log_normal", "mu": math.log(16), "sigma": math.log(2), "q": 1}),
        (Int(3, 3), {"value": 3}),
        (Choice(["sgd", None, True]), {"values": ["sgd", None, True]}),
        (Choice(["a", "b"], prior=[3, 1]), {"values": ["a", "b"], "probabilities": [0.75, 0.25]}),
        (Choice([[64, 128], [256]]), {"values": [[64, 128], [256]]}),
        (Fixed([1, 2]), {"value": [1, 2]}),
        (Float(0, 1, when={"flag": True}), {"distribution": "uniform", "min": 0.0, "max": 1.0}),
        (Float(0, 1, prior=Normal(0.5, 0.1)), {"distribution": "uniform", "min": 0.0, "max": 1.0}),
    ],
)  # fmt: skip
def test_out(parameter: Any, entry: dict[str, Any]) -> None:
    compiled = wandb_yaml.to_wandb(Space({"model.x": parameter, "flag": Choice([True, False])}), {"model.y": 1})
    model = {"parameters": {"x": entry, "y": {"value": 1}}}
    assert compiled == {"model": model, "flag": {"values": [True, False]}}
    assert json.loads(json.dumps(compiled)) == compiled


@pytest.mark.parametrize(
    ("entry", "parameter"),
    [
        ({"value": 3}, Fixed(3)),
        ({"value": {"a": [1]}}, Fixed({"a": [1]})),
        ({"distribution": "constant", "value": None}, Fixed(None)),
        ({"values": [1, 2]}, Choice([1, 2])),
        ({"distribution": "categorical", "values": ["a"]}, Choice(["a"])),
        ({"values": ["a", "b"], "probabilities": [0.2, 0.8]}, Choice(["a", "b"], prior=[0.2, 0.8])),
        ({"distribution": "categorical_w_probabilities", "values": [1, 2], "probabilities": [1, 0]},
         Choice([1, 2], prior=[1, 0])),
        ({"min": 1, "max": 8}, Int(1, 8)),
        ({"min": 1, "max": 8.0}, Float(1, 8)),
        ({"distribution": "int_uniform", "min": 1, "max": 8}, Int(1, 8)),
        ({"distribution": "uniform", "min": 1, "max": 8}, Float(1, 8)),
        ({"distribution": "q_uniform", "min": 0, "max": 1}, Float(0, 1, step=1)),
        ({"distribution": "q_uniform", "min": 30, "max": 255, "q": 8}, Int(32, 256, step=8)),
        ({"distribution": "q_uniform", "min": 0.1, "max": 0.9, "q": 0.1}, Float(0.1, 0.9, step=0.1)),
        ({"distribution": "log_uniform", "min": math.log(1e-5), "max": math.log(0.1)}, Float(1e-5, 0.1, log=True)),
        ({"distribution": "log_uniform_values", "min": 1e-5, "max": 0.1}, Float(1e-5, 0.1, log=True)),
        ({"distribution": "inv_log_uniform", "min": math.log(10), "max": math.log(1e5)}, Float(1e-5, 0.1, log=True)),
        ({"distribution": "inv_log_uniform_values", "min": 1e-5, "max": 0.1}, Float(1e-5, 0.1, log=True)),
        ({"distribution": "q_log_uniform", "min": math.log(32), "max": math.log(256), "q": 1}, Int(32, 256, log=True)),
        ({"distribution": "q_log_uniform_values", "min": 32, "max": 256, "q": 8}, Int(32, 256, step=8, prior="log")),
        ({"distribution": "q_log_uniform_values", "min": 0.5, "max": 2.0, "q": 0.5},
         Float(0.5, 2, step=0.5, prior="log")),
        ({"distribution": "normal"}, Float(-4, 4, prior=Normal(0, 1))),
        ({"distribution": "normal", "mu": 3, "sigma": 0}, Fixed(3)),
        ({"distribution": "q_normal", "mu": 10, "sigma": 5, "q": 2}, Int(-10, 30, step=2, prior=Normal(10, 5))),
        ({"distribution": "log_normal", "sigma": 0.5},
         Float(0.135335283237, 7.38905609893, log=True, prior=Normal(1, 1.6487212707))),
        ({"distribution": "q_log_normal", "mu": math.log(64), "sigma": math.log(2), "q": 1},
         Int(4, 1024, log=True, prior=Normal(64, 2))),
        ({"distribution": "beta", "a": 2, "b": 3}, Float(0, 1, prior=Beta(2, 3))),
        ({"distribution": "q_beta", "q": 0.25}, Float(0, 1, step=0.25, prior=Beta(1, 1))),
    ],
)  # fmt: skip
def test_in(entry: dict[str, Any], parameter: Any) -> None:
    assert wandb_yaml.from_wandb({"x": entry}) == Space({"x": parameter})


def test_every_distribution_of_theirs_is_in_these_tests() -> None:
    marks = [mark for test in (test_in, test_out) for mark in test.pytestmark]  # type: ignore[attr-defined]
    entries = [each for mark in marks for case in mark.args[1] for each in case if isinstance(each, dict)]
    assert {entry.get("distribution", "constant") for entry in entries} == set(wandb_distributions.DISTRIBUTIONS)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (3, "'x' is 3, which is not a mapping; write one such as {min: 0.0, max: 1.0}"),
        ({}, "'x' has no min, which uniform needs; add it"),
        ({"min": 0, "max": "1"}, "'x' has max '1', which is not a finite number; write one such as 0.1"),
        ({"distribution": "unifrom"}, "'x' has distribution 'unifrom', which W&B has none of; did you mean 'uniform'?"),
        ({"distribution": "normal", "mean": 1}, "'x' has a key 'mean', which normal does not take; available: 'mu',"),
        ({"distribution": "normal", "sigma": -1}, "'x' is normal, which cannot be expressed here: sigma is -1,"),
        ({"distribution": "q_log_normal", "q": 8},
         "'x' is q_log_normal, which cannot be expressed here: a bell on a log scale takes no steps of 8; use q: 1"),
        ({"distribution": "q_log_uniform_values", "min": 1, "max": 99, "q": 8},
         "'x' is q_log_uniform_values, which cannot be expressed here: min 1 is rounded to 0, which no log scale has"),
        ({"distribution": "q_uniform", "min": 0, "max": 1, "q": 0},
         "'x' is q_uniform, which cannot be expressed here: q is 0; give a q above 0"),
        ({"distribution": "log_uniform", "min": 0, "max": 1e9}, "'x' is log_uniform, which cannot be expressed here"),
        ({"distribution": "log_uniform_values", "min": 0, "max": 1}, "'x' is on a log scale, which needs a low above"),
        ({"values": [1, True]}, "'x' has options 1 and True, which are equal to Optuna; drop one"),
        ({"values": []}, "'x' has no options; give at least one"),
        ({"values": ["a", "b"], "probabilities": [1]}, "'x' has prior [1.0]; give each of its 2 options a weight"),
        ({"min": 2, "max": 1}, "'x' has low 2 above high 1; swap them"),
        ({"parameters": {"2b": {"value": 1}}}, "'x.2b' is not a name; "),
    ],
)  # fmt: skip
def test_what_cannot_be_expressed_names_the_parameter(entry: Any, said: str) -> None:
    with pytest.raises(SpaceError) as caught:
        wandb_yaml.from_wandb({"x": entry, "y": {"value": 1}})
    assert f"space: {said}" in caught.value.problems[0]


def test_nested_parameters_are_groups() -> None:
    data = {"a": {"parameters": {"b": {"parameters": {"c": {"value": 1}}}, "d": {"values": [1, 2]}}}, "e": {"value": 2}}
    space = wandb_yaml.from_wandb(data)
    assert space == Space({"a.b.c": Fixed(1), "a.d": Choice([1, 2]), "e": Fixed(2)})
    assert wandb_yaml.to_wandb(space) == data
    assert wandb_yaml.to_config({"a.b.c": 1, "a.d": 2, "e": 2}) == {"a": {"b": {"c": 1}, "d": 2}, "e": 2}
    both = Space({"opt": Choice(["sgd"]), "opt.lr": Float(0, 1)})
    assert list(wandb_yaml.to_wandb(both)) == ["opt", "opt.lr"]
    assert wandb_yaml.to_config({"opt": "sgd", "opt.lr": 0.5}) == {"opt": "sgd", "opt.lr": 0.5}
    assert wandb_yaml.from_wandb(wandb_yaml.to_wandb(both)) == both
    with pytest.raises(SpaceError, match=r"'a\.d' is there twice"):
        wandb_yaml.from_wandb({**data, "a.d": {"value": 1}})


def test_what_wandb_cannot_say() -> None:
    unsayable = wandb_distributions.unsayable
    assert unsayable(Int(1, 9, step=2)) == "steps of 2 that are counted from 1: W&B counts them from 0"
    assert unsayable(Float(0, 1, prior=Normal(0.5, 0.1))) == "a prior on a range with these bounds"
    for parameter in (Int(2, 8, step=2), Float(0, 1, prior=Beta(1, 2)), Choice([1, 2], prior=[1, 2]), Fixed(1)):
        assert unsayable(parameter) is None


def test_bells_are_drawn_as_theirs() -> None:
    """The draws of a normal, cut off where one in 16,000 is, have its mean and deviation; 4,000 draws, seeded."""
    rng = random.Random(1)
    normal = wandb_yaml.from_wandb({"x": {"distribution": "normal", "mu": 5, "sigma": 2}})["x"]
    drawn = [normal.draw(rng) for _ in range(4000)]
    assert statistics.fmean(drawn) == pytest.approx(5, abs=0.16)  # five standard errors
    assert statistics.stdev(drawn) == pytest.approx(2, abs=0.12)
    lognormal = wandb_yaml.from_wandb({"x": {"distribution": "log_normal", "mu": -7, "sigma": 1}})["x"]
    logs = [math.log(lognormal.draw(rng)) for _ in range(4000)]
    assert statistics.fmean(logs) == pytest.approx(-7, abs=0.08)
    assert statistics.stdev(logs) == pytest.approx(1, abs=0.06)


# Written as W&B's documentation has it: https://docs.wandb.ai/models/sweeps/define-sweep-configuration
THEIRS = """
program: train.py
name: my sweep, the 2nd
method: bayes
metric:
  name: val/loss
  goal: minimize
  target: 0.1
parameters:
  lr: {distribution: log_uniform_values, min: 1e-4, max: 1e-1}
  dropout: {values: [0.15, 0.2, 0.25]}
  channels: {value: 8}
early_terminate: {type: hyperband, min_iter: 2, eta: 4, strict: true}
run_cap: 12
project: digits
entity: team
command: ["${env}", "python", "${program}", "${args}"]
"""


class TestFiles:
    def test_one_runs_as_it_is(self, tmp_path: Path) -> None:
        (tmp_path / "theirs.yaml").write_text(THEIRS)
        notes: list[str] = []
        spec = specs.read(str(tmp_path / "theirs.yaml"), ["trainable=digits", "budget.wall_time_s=60"], notes.append)
        assert spec.name == "my-sweep-the-2nd"
        assert (spec.metric, spec.goal, spec.search.sampler) == ("val/loss", "minimize", "tpe")
        assert (spec.schedule.scheduler, spec.schedule.grace_epochs, spec.schedule.reduction_factor) == ("asha", 2, 4)
        assert (spec.budget.trials, spec.budget.target, spec.budget.wall_time_s) == (12, 0.1, 60)
        assert (spec.tracking.project, spec.tracking.entity) == ("digits", "team")
        assert spec.load_space() == Space(
            {"lr": Float(1e-4, 0.1, log=True), "dropout": Choice([0.15, 0.2, 0.25]), "channels": Fixed(8)}
        )
        start = f"{tmp_path}/theirs.yaml is a W&B sweep: "
        assert notes == [
            f"{start}left out, since it means nothing here: program, command, early_terminate.strict",
            f"{start}method bayes is search.sampler=tpe here",
        ]

    @pytest.mark.parametrize(
        ("method", "more", "expected"),
        [
            ("grid", {}, {"search": {"sampler": "grid"}, "schedule": {"scheduler": "none"}}),
            ("random", {}, {"search": {"sampler": "random"}, "schedule": {"scheduler": "none"}}),
            (
                "random",
                {"early_terminate": {"type": "hyperband", "max_iter": 27, "s": 2}},
                {
                    "search": {"sampler": "random"},
                    "schedule": {"scheduler": "asha", "reduction_factor": 3, "grace_epochs": 3, "max_epochs": 27},
                },
            ),
            ("bayes", {"trainable": "digits"}, {"search": {"sampler": "tpe"}, "trainable": "digits",
                                                "schedule": {"scheduler": "none"}}),
        ],
    )  # fmt: skip
    def test_methods(self, method: str, more: dict[str, Any], expected: dict[str, Any]) -> None:
        spec, _ = wandb_yaml.to_spec({"method": method, "parameters": {"x": {"value": 1}}, **more})
        assert spec == {"space": {"x": {"type": "fixed", "value": 1}}, **expected}

    def test_every_mistake_at_once(self) -> None:
        with pytest.raises(SpecError) as caught:
            wandb_yaml.to_spec(
                {"method": "bays", "parameters": {"x": {"distribution": "nomral"}, "batch-size": {"value": 8}},
                 "metric": "loss", "metrics": [], "early_terminate": {"type": "envelope"}}
            )  # fmt: skip
        assert [line.split(";")[0] for line in caught.value.problems] == [
            "space: 'x' has distribution 'nomral', which W&B has none of",
            "space: 'batch-size' is not a name",
            "method is 'bays', which W&B has none of",
            "metrics is []",
            "metric is 'loss'",
            "early_terminate is {'type': 'envelope'}",
        ]
        with pytest.raises(SpecError, match=r"metric\.goal is 'maximise'; did you mean 'maximize'\?"):
            wandb_yaml.to_spec({"method": "grid", "parameters": {}, "metric": {"name": "x", "goal": "maximise"}})
        with pytest.raises(SpecError, match="hyperband needs min_iter, or max_iter and s; add them"):
            wandb_yaml.to_spec({"method": "grid", "parameters": {}, "early_terminate": {"type": "hyperband"}})

    @pytest.mark.parametrize(
        ("data", "said"),
        [
            ({"metod": "bayes", "parameters": {}}, "'method'; is 'metod' meant to be it?"),
            ({"metric": {"name": "loss"}, "parameters": {}}, "'method'; add it, as in method: bayes"),
            ({"method": "grid", "parametres": {}}, "'parameters'; is 'parametres' meant to be it?"),
            ({"method": "grid", 1: 2}, "'parameters'; add it, as in parameters: {lr: {min: 0.0, max: 1.0}}"),
        ],
    )
    def test_what_was_meant_to_be_one(self, data: dict[str, Any], said: str, tmp_path: Path) -> None:
        file = tmp_path / "sweep.yaml"
        file.write_text(json.dumps(data))
        with pytest.raises(SpecError, match="a W&B sweep needs " + re.escape(said)):
            specs.read(str(file), ["trainable=digits"])
        with pytest.raises(SpaceError, match="a W&B sweep needs " + re.escape(said)):
            load_space(str(file))

    @pytest.mark.parametrize("data", [{"parameters": {"lr": {"value": 1}}, "constraints": []}, {"lr": {"value": 1}}])
    def test_a_space_of_ours_is_none(self, data: dict[str, Any]) -> None:
        assert wandb_yaml.flaw(data) is None
        assert load_space(data) == Space({"lr": Fixed(1)})

    def test_what_is_none(self) -> None:
        for data in ([], {"method": "grid"}, {"parameters": {}}, {"parameters": [], "method": "grid"}):
            assert not wandb_yaml.is_sweep(data)


@pytest.mark.parametrize(
    "entry",
    [
        {"values": [1, "a"]},
        {"values": [1, 2], "probabilities": [0.25, 0.75]},
        {"min": 1, "max": 9},
        {"distribution": "log_uniform", "min": -9.2, "max": -2.3},
        {"distribution": "inv_log_uniform_values", "min": 0.01, "max": 1.0},
        {"distribution": "q_uniform", "min": 0, "max": 1, "q": 0.25},
        {"distribution": "normal", "mu": 5, "sigma": 2},
        {"distribution": "constant", "value": 3},
    ],
)
def test_an_entry_of_theirs_in_a_space_of_ours_is_answered_with_ours(entry: dict[str, Any]) -> None:
    with pytest.raises(SpaceError) as caught:
        Space.from_data({"x": entry})
    (problem,) = caught.value.problems
    ours = problem.removeprefix("space: 'x' is written as W&B has it; here it is ")
    assert Space.from_data({"x": yaml.safe_load(ours)}) == wandb_yaml.from_wandb({"x": entry})
