"""When a sweep is over early, and what is said about it at the end: rules, from trials alone."""

from __future__ import annotations

import math
from concurrent.futures import wait
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import optuna
import pytest

from orchestrator import advice, ends, improvement
from orchestrator.errors import SpecError
from orchestrator.space import Space
from orchestrator.spec import Spec, check

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
SPACE: dict[str, Any] = {
    "lr": {"type": "float", "low": 1e-4, "high": 0.1, "log": True},
    "depth": {"type": "int", "low": 1, "high": 8},
    "kind": {"options": ["a", "b"]},
}


@dataclass(frozen=True)
class Stretch:
    started: datetime
    ended: datetime | None
    workers: int = 2


@dataclass(frozen=True)
class Trial:
    number: int
    value: float | None = None
    state: str = "COMPLETE"
    attempts: tuple[Stretch, ...] = ()
    params: dict[str, Any] = field(default_factory=dict)
    curve: dict[int, float] = field(default_factory=dict)
    outcome: str = "complete"
    repeat_of: int | None = None


def make_spec(goal: str = "maximize", scheduler: str = "asha", **budget: Any) -> Spec:
    return Spec.model_validate(
        {
            "trainable": "x", "space": SPACE, "metric": "m", "goal": goal, "budget": budget,
            "resources": {"workers": 2, "gpus_per_worker": 0.5}, "schedule": {"scheduler": scheduler},
        }
    )  # fmt: skip


def reached(spec: Spec, *trials: Trial, elapsed_s: float = 0.0, left: float | None = None) -> ends.End | None:
    return ends.reached(spec, trials, elapsed_s=elapsed_s, now=NOW, left=left)


class TestEnds:
    def test_none_without_a_budget(self) -> None:
        assert reached(make_spec(), Trial(0, 0.5), elapsed_s=1e9, left=0.0) is None

    def test_wall_time(self) -> None:
        spec = make_spec(wall_time_s=60)
        assert reached(spec, elapsed_s=59) is None
        assert reached(spec, elapsed_s=61) == ends.End(reason="budget.wall_time_s=60 is over", at_once=True)

    def test_gpu_hours(self) -> None:
        spec = make_spec(gpu_hours=2)
        hour = timedelta(hours=1)
        ran = Trial(0, attempts=(Stretch(NOW - 3 * hour, None), Stretch(NOW - 2 * hour, NOW - hour)))
        runs = Trial(1, state="RUNNING", attempts=(Stretch(NOW - hour / 2, None),))
        # Two workers with half a GPU each; an end that was not seen counts as nothing.
        assert ends.gpu_hours(spec, [ran, runs], NOW) == pytest.approx(1.5)
        shrunk = Trial(2, attempts=(Stretch(NOW - 3 * hour, NOW - hour, workers=1),))
        assert ends.gpu_hours(spec, [shrunk], NOW) == pytest.approx(1.0)
        assert reached(spec, ran, runs) is None
        longer = Trial(1, state="RUNNING", attempts=(Stretch(NOW - hour, None),))
        assert reached(spec, ran, longer) == ends.End(reason="budget.gpu_hours=2 are used up", at_once=True)

    def test_gpu_hours_need_gpus(self) -> None:
        with pytest.raises(SpecError, match=r"budget\.gpu_hours is counted in GPUs"):
            check(
                {"trainable": "digits", "space": SPACE | {}, "metric": "m", "goal": "maximize"}, ["budget.gpu_hours=1"]
            )

    @pytest.mark.parametrize(("goal", "short", "enough"), [("maximize", 0.89, 0.9), ("minimize", 0.91, 0.9)])
    def test_target(self, goal: str, short: float, enough: float) -> None:
        spec = make_spec(goal, target=0.9)
        assert reached(spec, Trial(0, short), Trial(1)) is None
        end = reached(spec, Trial(0, short), Trial(1, enough, state="RUNNING"))
        assert end == ends.End(reason="m has reached budget.target=0.9", at_once=True)

    def test_patience(self) -> None:
        spec = make_spec(patience=2)
        assert reached(spec, Trial(0, 0.5), Trial(1, 0.4), Trial(2, 0.6), Trial(3, 0.6)) is None
        end = reached(spec, Trial(0, 0.5), Trial(1, 0.4), Trial(2, 0.5), Trial(3, 0.9, state="RUNNING"))
        assert end is not None
        assert end.reason == "no improvement in the last 2 trials (budget.patience=2)"
        assert not end.at_once

    def test_expected_improvement(self) -> None:
        spec = make_spec(min_improvement=0.01)
        assert reached(spec, left=None) is None
        assert reached(spec, left=0.02) is None
        end = reached(spec, left=0.005)
        assert end is not None
        assert "0.005 at most (budget.min_improvement=0.01)" in end.reason


def test_the_terminator_sees_that_nothing_is_left() -> None:
    flat, steep = optuna.create_study(direction="maximize"), optuna.create_study(direction="maximize")
    for index in range(24):
        x = index / 23
        for study, value in ((flat, 0.5 + 1e-6 * x), (steep, 100 * math.sin(20 * x))):
            study.add_trial(
                optuna.trial.create_trial(
                    value=value, params={"x": x}, distributions={"x": optuna.distributions.FloatDistribution(0, 1)}
                )
            )
    rooms = [improvement.room(study.get_trials(), study.direction) for study in (flat, steep)]
    assert rooms[0] < 1e-3 < rooms[1]
    assert improvement.room([], flat.direction) == math.inf
    asked = improvement.Improvement()
    assert asked.left(flat) is None
    wait([asked._asked])
    assert asked.left(flat) == rooms[0]


def test_a_terminator_that_fails_is_said_and_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    study = optuna.create_study()
    for index in range(improvement.MIN_TRIALS):
        study.add_trial(optuna.trial.create_trial(value=float(index)))

    def fail(*_: object) -> float:
        raise ValueError("not positive definite")

    monkeypatch.setattr(improvement, "room", fail)
    asked = improvement.Improvement()
    assert asked.left(study) is None
    wait([asked._asked])
    assert asked.left(study) is None
    (trouble,) = asked.troubles()
    assert "terminator has no answer (ValueError('not positive definite'))" in trouble
    assert asked.troubles() == []
    monkeypatch.undo()
    study.add_trial(optuna.trial.create_trial(value=0.0))
    assert asked.left(study) is None
    wait([asked._asked])
    assert asked.left(study) == math.inf


class TestAdvice:
    def said(self, trials: list[Trial], importances: dict[str, float] | None = None, **spec: Any) -> str:
        return "\n".join(advice.advice(make_spec(**spec), Space.from_data(SPACE), trials, importances or {}))

    def test_the_best_on_the_edge(self) -> None:
        inside = {"lr": 1e-2, "depth": 4, "kind": "a"}
        assert self.said([Trial(0, 0.5, params=inside)]) == ""
        found = self.said([Trial(0, 0.9, params=inside | {"lr": 0.09}), Trial(1, 0.5, params=inside | {"depth": 1})])
        assert "the best lr (0.09) is at the upper end of its range (0.0001 to 0.1, log); raise it" in found
        assert "depth" not in found

    def test_what_mattered(self) -> None:
        found = self.said([], {"lr": 0.7, "depth": 0.29, "kind": 0.01})
        assert "lr (70%), depth (29%)" in found
        assert "kind hardly mattered; fix it" in found

    def test_failures(self) -> None:
        failed = [Trial(number, state="FAIL", outcome="failed") for number in range(2)]
        fine = [Trial(number, 0.5) for number in range(2, 10)]
        assert "2 of 10 trials failed" in self.said(failed + fine)
        assert self.said([failed[0], *fine]) == ""

    @pytest.mark.parametrize(
        ("outcome", "said"),
        [
            ("diverged", "2 of 10 trials diverged; a smaller learning rate or a warm-up"),
            ("out_of_memory", "2 of 10 trials ran out of memory; take what is too large out of the space"),
            ("infeasible", "2 of 10 trials broke a constraint; narrow the space"),
            ("pruned", ""),
        ],
    )
    def test_what_comes_to_nothing_by_its_hyperparameters(self, outcome: str, said: str) -> None:
        bad = [Trial(number, 0.1, state="PRUNED", outcome=outcome) for number in range(2)]
        fine = [Trial(number, 0.5) for number in range(2, 10)]
        assert self.said([bad[0], *fine]) == ""
        found = self.said(bad + fine)
        assert said in found
        assert len(found.splitlines()) == bool(said)

    @pytest.mark.parametrize(("sign", "expected"), [(1, "looks sound"), (-1, "too eager")])
    def test_pruning(self, sign: int, expected: str) -> None:
        trials = [Trial(number, number, curve={1: sign * number, 9: number}) for number in range(10)]
        assert expected in self.said(trials)
        assert f"agree by {sign:.2f}" in self.said(trials)
        assert self.said(trials, scheduler="none") == ""
        assert self.said(trials[:5]) == ""

    def test_seed_noise(self) -> None:
        trials = [Trial(0, 0.9), Trial(1, 0.88), Trial(2, 0.5)]
        again = [Trial(3 + index, value, repeat_of=0) for index, value in enumerate((0.86, 0.88, 0.9))]
        found = self.said(trials + again)
        assert "with 3 other seeds the best configuration gives m 0.88 +- 0.02 (standard deviation)" in found
        assert "1 other trial is within two standard deviations" in found
