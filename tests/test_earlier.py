"""Warm start: earlier sweeps and W&B runs whose space overlaps, points, and what is wrong with them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from conftest import clean_environment
from doubles.wandb_server import Run, WandbServer

from orchestrator import earlier, known, spec
from orchestrator.errors import SpecError
from orchestrator.folder import SweepFolder
from orchestrator.known import Found
from orchestrator.ledger import Ledger
from orchestrator.messages import Ended, Outcome, Report
from orchestrator.spec import Spec

SPACE: dict[str, Any] = {
    "lr": {"type": "float", "low": 0.001, "high": 0.1, "log": True},
    "optimizer": {"options": ["sgd", "adamw"]},
    "beta": {"type": "float", "low": 0.8, "high": 0.99, "default": 0.9, "when": {"optimizer": "adamw"}},
    "depth": {"type": "int", "low": 1, "high": 4},
}


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda fd: None)


def make(storage: Path, name: str = "later", **changes: Any) -> Spec:
    data: dict[str, Any] = {
        "name": name, "trainable": "x", "space": SPACE, "metric": "loss", "goal": "minimize",
        "search": {"sampler": "tpe", "seed": 1}, "schedule": {"max_epochs": 3}, "storage": str(storage),
    }  # fmt: skip
    return Spec.model_validate({**data, **changes})


def ran(storage: Path, name: str, trials: list[tuple[dict[str, Any], list[float], Outcome]], **changes: Any) -> None:
    """A sweep in its folder whose trials had these hyperparameters and curves, and ended so."""
    sweep = make(storage, name, warm_start={"points": [params for params, _, _ in trials]}, **changes)
    folder = SweepFolder(str(storage), name)
    folder.create()
    folder.write_text("sweep.yaml", sweep.to_yaml())
    ledger = Ledger(folder, sweep, create=True)
    for _, curve, outcome in trials:
        number = ledger.ask().number
        for epoch, value in enumerate(curve, 1):
            ledger.report(
                Report(number=number, epoch=epoch, value=value, metrics={}, best_epoch=epoch,
                       checkpoint=None, best_checkpoint=None)
            )  # fmt: skip
        ledger.end(Ended(number=number, outcome=outcome))


def begun(sweep: Spec) -> Ledger:
    """A new sweep's ledger, as `sweep.start` makes it."""
    folder = SweepFolder(sweep.storage, sweep.name or "")
    folder.create()
    folder.write_text(folder.known, known.to_text(earlier.gather(sweep)[0]))
    return Ledger(folder, sweep, create=True)


class TestFit:
    def fit(self, found: Found, **changes: Any) -> known.Known | str:
        taken, dropped = known.fitted(make(Path(), **changes), [found])
        return taken[0] if taken else next(iter(dropped))

    def test_the_same_configuration_as_long_is_not_run_again(self) -> None:
        params = {"lr": 0.01, "optimizer": "sgd", "depth": 2}
        fit = self.fit(Found(params=params, curve={1: 0.5, 2: 0.3, 3: 0.4}))
        assert fit == known.Known(params=params, curve={1: 0.5, 2: 0.3, 3: 0.4}, value=0.3, exact=True)

    def test_one_that_trained_for_longer_counts_as_far_as_trials_here_train(self) -> None:
        params = {"lr": 0.01, "optimizer": "sgd", "depth": 2}
        fit = self.fit(Found(params=params, curve={1: 0.5, 3: 0.4, 9: 0.1}))
        assert isinstance(fit, known.Known)
        assert (fit.value, fit.curve) == (0.4, {1: 0.5, 3: 0.4})

    def test_one_that_was_shorter_has_a_curve_and_no_value_and_may_be_run_again(self) -> None:
        fit = self.fit(Found(params={"lr": 0.01, "optimizer": "sgd", "depth": 2}, curve={1: 0.5}))
        assert isinstance(fit, known.Known)
        assert (fit.value, fit.exact) == (None, False)

    def test_what_it_did_not_have_takes_its_default_or_is_drawn(self) -> None:
        fit = self.fit(Found(params={"lr": 0.01, "optimizer": "adamw", "width": 64}, curve={3: 0.4}))
        assert isinstance(fit, known.Known)
        assert {**fit.params, "depth": 0} == {"lr": 0.01, "optimizer": "adamw", "beta": 0.9, "depth": 0}
        assert (fit.value, fit.exact) == (0.4, False)
        with_default = {**SPACE, "depth": {**SPACE["depth"], "default": 3}}
        fit = self.fit(Found(params={"lr": 0.01, "optimizer": "sgd"}, curve={3: 0.4}), space=with_default)
        assert isinstance(fit, known.Known)
        assert (fit.params["depth"], fit.exact) == (3, True)

    @pytest.mark.parametrize(
        ("params", "curve", "changes", "why"),
        [
            ({"lr": 0.5, "optimizer": "sgd"}, {3: 0.1}, {}, "outside this space"),
            ({"lr": 0.01}, {}, {}, "without a value"),
            ({"lr": 0.01}, {3: float("nan")}, {}, "without a value"),
            ({"width": 64}, {3: 0.1}, {}, "without a hyperparameter of this space"),
            ({"lr": 0.01, "width": 64}, {3: 0.1}, {"params": {"width": 32}}, "with another width"),
            ({"lr": 0.01, "depth": 4}, {3: 0.1},
             {"space": {"parameters": SPACE, "constraints": ["depth <= 3"]}}, "outside this space"),
        ],
    )  # fmt: skip
    def test_what_does_not_fit(
        self, params: dict[str, Any], curve: dict[int, float], changes: dict[str, Any], why: str
    ) -> None:
        assert self.fit(Found(params=params, curve=curve), **changes) == why

    def test_text_and_back(self) -> None:
        taken, _ = known.fitted(make(Path()), [Found(params={"lr": 0.01}, curve={3: 0.4})])
        assert known.from_text(known.to_text(taken)) == taken


class TestEarlierSweeps:
    ONE: tuple[dict[str, Any], list[float], Outcome] = (
        {"lr": 0.01, "optimizer": "sgd", "depth": 2}, [0.5, 0.4, 0.3], Outcome.COMPLETE,
    )  # fmt: skip
    STOPPED: tuple[dict[str, Any], list[float], Outcome] = (
        {"lr": 0.05, "optimizer": "sgd", "depth": 1}, [0.9], Outcome.PRUNED,
    )  # fmt: skip
    FAILED: tuple[dict[str, Any], list[float], Outcome] = (
        {"lr": 0.02, "optimizer": "sgd", "depth": 1}, [0.8], Outcome.FAILED,
    )  # fmt: skip

    def test_by_name_and_by_folder(self, tmp_path: Path) -> None:
        ran(tmp_path, "first", [self.ONE, self.STOPPED, self.FAILED])
        ran(tmp_path / "elsewhere", "second", [({"lr": 0.09, "optimizer": "sgd", "depth": 4}, [1, 1, 1],
                                                Outcome.COMPLETE)])  # fmt: skip
        later = make(
            tmp_path,
            space={**SPACE, "lr": {**SPACE["lr"], "high": 0.06}},
            warm_start={"sweeps": ["first", str(tmp_path / "elsewhere" / "second")]},
        )
        taken, lines = earlier.gather(later)
        assert [(each.params["lr"], each.value, each.exact) for each in taken] == [
            (0.01, 0.3, True),
            (0.05, None, False),
        ]
        assert lines == [
            "warm start from first: 2 of 3 results taken, 1 failed",
            f"warm start from {tmp_path}/elsewhere/second: 0 of 1 results taken, 1 outside this space",
        ]

    def test_every_source_that_cannot_be_used_is_said_at_once(self, tmp_path: Path) -> None:
        ran(tmp_path, "accuracy", [], metric="accuracy", goal="maximize")
        later = make(tmp_path, warm_start={"sweeps": ["acuracy", "accuracy", str(tmp_path / "nowhere")]})
        with pytest.raises(SpecError) as caught:
            earlier.gather(later)
        assert list(caught.value.problems) == [
            f"warm_start.sweeps: no sweep 'acuracy' in {tmp_path}; did you mean 'accuracy'? there are: accuracy",
            "warm_start.sweeps: 'accuracy' was to maximize accuracy, and this sweep is to minimize loss; results of"
            " another metric say nothing here: take it out",
            f"warm_start.sweeps: no sweep 'nowhere' in {tmp_path}; there are: accuracy",
        ]

    @pytest.mark.parametrize("sampler", ["curves", "tpe", "gp", "cmaes", "random"])
    def test_the_sampler_learns_from_them_from_its_first_proposal(self, sampler: str, tmp_path: Path) -> None:
        lrs = [0.001 * 1.25**step for step in range(20)]
        trials = [({"lr": lr, "depth": 2}, [(lr - 0.02) ** 2 * 1e4] * 3, Outcome.COMPLETE) for lr in lrs]
        space = {name: SPACE[name] for name in ("lr", "depth")}
        ran(tmp_path, "first", trials, space=space)
        search = {"sampler": sampler, "seed": 1}
        spec = make(tmp_path, "warm", space=space, search=search, warm_start={"sweeps": ["first"]})
        warm = begun(spec)
        cold = begun(make(tmp_path, "cold", space=space, search=search))
        drawn = [[ledger.ask().params["lr"] for _ in range(3)] for ledger in (warm, cold)]
        again = begun(make(tmp_path, "again", space=space, search=search, warm_start={"sweeps": ["first"]}))
        assert [again.ask().params["lr"] for _ in range(3)] == drawn[0]
        assert (drawn[0] == drawn[1]) is (sampler == "random")
        _, (_, *said) = earlier.gather(spec)
        assert said == ["sampler random learns nothing from these"] * (sampler == "random")

    def test_what_is_known_is_not_run_again_also_when_the_sweep_is_resumed(self, tmp_path: Path) -> None:
        space = {"a": {"options": ["x", "y"]}, "b": {"type": "int", "low": 1, "high": 2}}
        ran(tmp_path, "first", [({"a": "x", "b": 1}, [1, 1, 1], Outcome.COMPLETE),
                                ({"a": "y", "b": 2}, [1, 1, 1], Outcome.COMPLETE)], space=space)  # fmt: skip
        points = [{"a": "x", "b": 1}, {"a": "y", "b": 1}]
        later = make(tmp_path, space=space, search={"sampler": "grid", "seed": 1},
                     warm_start={"sweeps": ["first"], "points": points})  # fmt: skip
        assert begun(later).ask().params == {"a": "y", "b": 1}
        (tmp_path / "first").rename(tmp_path / "gone")  # what is known is kept with the sweep
        resumed = Ledger(SweepFolder(str(tmp_path), "later"), later)
        assert resumed.ask().params == {"a": "x", "b": 2}
        assert resumed.exhausted


class TestRuns:
    @pytest.mark.slow
    @pytest.mark.timeout(300)
    def test_by_project_and_filter(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def run(name: str, config: dict[str, Any], state: str = "finished", **summary: Any) -> Run:
            raw = {key: {"value": value} for key, value in {**config, "data": "cifar"}.items()}
            return Run(id=name, entity="team", project="vision", raw_config=raw, state=state, summary=summary)

        sgd = {"lr": 0.01, "optimizer": "sgd", "depth": 2}
        with WandbServer() as server:
            server.put(
                run("ours", sgd, best_loss=0.3, loss=0.5, epochs=3, outcome="complete"),
                run("pruned", {**sgd, "depth": 3}, best_loss=0.6, loss=0.7, epochs=1, outcome="pruned"),
                run("plain", {**sgd, "depth": 1}, loss=0.4),
                run("summary", {**sgd, "depth": 4}, loss={"min": 0.2}),
                run("other", sgd, accuracy=0.5),
                run("dead", sgd, state="crashed", loss=0.5),
                run("copied", {**sgd, "copied_from": ["s/1@2"]}, loss=0.5),
                Run(id="elsewhere", entity="team", project="vision", state="finished", summary={"loss": 0.1}),
            )
            for name, value in clean_environment(tmp_path).items():
                monkeypatch.setenv(name, value)
            for name, value in server.env.items():
                monkeypatch.setenv(name, value)
            sweep = make(tmp_path, warm_start={"runs": "team/vision", "filters": {"config.data": "cifar"}})
            taken, lines = earlier.gather(sweep)
            nothing = make(tmp_path, warm_start={"runs": "team/vision", "filters": {"state": "preempted"}})
            nowhere = make(tmp_path, warm_start={"runs": "team/nowhere"})
            for wrong in (nothing, nowhere):
                with pytest.raises(SpecError, match=f"warm_start.runs is '{wrong.warm_start.runs}'"):
                    earlier.gather(wrong)
            assert server.unknown == []
        assert [(each.params["depth"], each.value, each.exact) for each in taken] == [
            (2, 0.3, True), (3, None, False), (1, 0.4, True), (4, 0.2, True)
        ]  # fmt: skip
        assert lines == [
            "warm start from team/vision: 4 of 7 results taken, 1 without loss, 1 crashed, 1 whose hyperparameters"
            " changed as they trained"
        ]
        assert not [name for name in os.environ if name.startswith("WANDB_SERVICE")]


class TestSpec:
    def problems(self, *overrides: str) -> list[str]:
        data = {"trainable": {"model": {"class_path": "argparse.Namespace"}}, "space": SPACE, "metric": "loss",
                "goal": "minimize"}  # fmt: skip
        with pytest.raises(SpecError) as caught:
            spec.check(data, overrides)
        return list(caught.value.problems)

    def test_points_are_of_the_space(self) -> None:
        points = [
            {"lr": 3}, {"lrr": 0.1}, {"optimizer": "sgd", "beta": 0.9}, {"optimizer": "adamw", "depth": "x"},
            {"beta": 0.85}, {"optimizer": "adamw", "beta": 0.9},
        ]  # fmt: skip
        assert self.problems(f"warm_start.points={json.dumps(points)}", "warm_start.filters={state: finished}") == [
            "warm_start.filters chooses among the runs of a W&B project; name it in warm_start.runs",
            "warm_start.points[0]: 'lr' is fixed at 3, which is not a finite number from 0.001 to 0.1",
            "warm_start.points[1]: there is no parameter 'lrr'; did you mean 'lr'?",
            "warm_start.points[2]: 'beta' is not active there; leave it out",
            "warm_start.points[3]: 'depth' is fixed at 'x', which is not a whole number from 1 to 4",
        ]

    def test_a_project_is_named_as_w_and_b_does(self) -> None:
        (problem,) = self.problems("warm_start.runs=a/b/c")
        assert problem.startswith("warm_start.runs is 'a/b/c'; ")
