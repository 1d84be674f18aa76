"""Proposals from all curves: the surrogate, what it is told of trials, and what is proposed."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from scipy.optimize import check_grad
from scipy.stats import norm

from orchestrator.axes import Axes
from orchestrator.costs import EPOCH_S
from orchestrator.curves import Curve, CurveSampler, log_expected_improvement, scores
from orchestrator.distributions import chosen_for, distribution
from orchestrator.space import Space
from orchestrator.surrogate import Apart, Points, Settings, Surrogate, prior_distances

SPACE = Space.from_data(
    {
        "lr": {"type": "float", "low": 1e-4, "high": 0.1, "log": True},
        "depth": {"type": "int", "low": 1, "high": 4},
        "optimizer": {"options": ["sgd", "adamw", "lion"]},
        "beta": {"type": "float", "low": 0.8, "high": 0.9, "when": {"optimizer": "adamw"}},
    }
)
CHOICES = Axes(SPACE).options > 0
EPOCHS = 9


def some_points(count: int, trials: int | None = None) -> Points:
    axes, rng = Axes(SPACE), np.random.default_rng(0)
    trials = trials or count
    places = axes.settle(axes.uniform(rng, trials))
    of = np.arange(count) % trials
    return Points(places=places[of], times=rng.integers(4, size=count) / 3, trials=of)


def a_study(trials: int, sign: float = 1.0, **changes: Any) -> optuna.Study:
    """Trials of which two in three were stopped at their first epoch; good where lr is near 0.01."""
    study = optuna.create_study(direction="minimize" if sign > 0 else "maximize")
    rng = random.Random(0)
    for number in range(trials):
        params = SPACE.sample(rng)
        off = (math.log10(params["lr"]) + 2) ** 2 + rng.gauss(0, 0.01)
        curve = {epoch: off + 1 / epoch for epoch in range(1, 2 if number % 3 else EPOCHS + 1)}
        change = changes.get("change", float)
        curve = {epoch: sign * change(value) for epoch, value in curve.items()}
        whole = max(curve) == EPOCHS
        study.add_trial(
            create_trial(
                state=TrialState.COMPLETE if whole else TrialState.PRUNED,
                value=curve[EPOCHS] if whole else None,
                params=chosen_for(params),
                distributions={name: distribution(SPACE[name]) for name in params},
                intermediate_values=curve,
            )
        )
    return study


def proposed(study: optuna.Study, seed: int = 0, space: Space = SPACE) -> dict[str, Any]:
    trial = create_trial(state=TrialState.RUNNING)
    trial.number = len(study.trials)
    return CurveSampler(space, seed, cost_exponent=0).sample_relative(study, trial, {})


def test_what_was_tried_is_not_tried_again_a_hair_beside_it() -> None:
    space = Space.from_data({"x": {"type": "float", "low": 0, "high": 1}, "n": {"type": "int", "low": 1, "high": 1000}})
    study, wanted = optuna.create_study(), {name: distribution(parameter) for name, parameter in space.items()}
    for number in range(30):
        trial = study.ask()
        chosen = CurveSampler(space, number, cost_exponent=0).sample_relative(
            study, study.get_trials(deepcopy=False)[-1], {}
        )
        study.tell(trial, state=TrialState.FAIL)  # parameters cannot be put into it
        value = chosen["x"] + chosen["n"]  # best in a corner
        study.add_trial(create_trial(params=chosen, distributions=wanted, value=value, intermediate_values={1: value}))
    tried = [trial.params for trial in study.get_trials(deepcopy=False) if trial.params]
    assert len(tried) == len({(round(params["x"], 2), params["n"]) for params in tried})
    assert sum(params["n"] == 1 and params["x"] < 0.1 for params in tried) > 1  # though that is where it looks


def begun_together(space: Space, seed: int) -> np.ndarray[Any, Any]:
    """(8, axes): the places of a sweep's first trials, before any has reported."""
    study = optuna.create_study()
    for number in range(8):
        params = proposed(study, 8 * seed + number, space)
        kinds = {name: distribution(space[name]) for name in params}
        study.add_trial(create_trial(state=TrialState.RUNNING, params=params, distributions=kinds))
    return np.array([Axes(space).place(trial.params) for trial in study.get_trials(deepcopy=False)])


def nearest(places: np.ndarray[Any, Any], choices: np.ndarray[Any, Any]) -> float:
    apart = prior_distances(places, places, choices)
    np.fill_diagonal(apart, np.inf)
    return float(apart.min())


def test_what_begins_together_is_far_apart_and_not_all_at_the_edges() -> None:
    axes, rng = Axes(SPACE), np.random.default_rng(0)
    sweeps = [begun_together(SPACE, seed) for seed in range(10)]
    drawn = [nearest(axes.settle(axes.uniform(rng, 8)), CHOICES) for _ in range(100)]
    assert np.median([nearest(places, CHOICES) for places in sweeps]) > 3 * np.median(drawn)
    rates = np.concatenate([places[:, 0] for places in sweeps])
    assert np.mean((rates > 0.1) & (rates < 0.9)) > 0.5  # 0.8 at random, 0.4 with as many to choose from as later


def test_of_few_that_keep_a_constraint_those_that_begin_together_are_far_apart_as_well() -> None:
    unit = {name: {"type": "float", "low": 0, "high": 1} for name in "abc"}
    space, ranges = Space.from_data({"parameters": unit, "constraints": ["a + b <= 0.3"]}), np.zeros(3, bool)
    sweeps, rng = [begun_together(space, seed) for seed in range(10)], random.Random(0)
    assert all(place[0] + place[1] <= 0.3 + 1e-9 for places in sweeps for place in places)
    drawn = [[space.sample(rng) for _ in range(8)] for _ in range(100)]
    at_random = [nearest(np.array([list(each.values()) for each in eight]), ranges) for eight in drawn]
    assert np.median([nearest(places, ranges) for places in sweeps]) > 3 * np.median(at_random)


def test_the_derivatives_are_those_of_the_likelihood() -> None:
    points, rng = some_points(20, trials=8), np.random.default_rng(1)
    apart, values = Apart(points, points, CHOICES), rng.standard_normal(20)
    for _ in range(3):
        logs = 0.3 * rng.standard_normal(len(SPACE) + 7)
        error = check_grad(
            lambda at: Settings(at, CHOICES)._misfit(apart, values)[0],
            lambda at: Settings(at, CHOICES)._misfit(apart, values)[1],
            logs,
        )
        assert error < 1e-4


def test_what_matters_is_found_and_what_was_measured_is_expected() -> None:
    points = some_points(60)
    values = scores(list(zip(points.places[:, 0], strict=True)))  # the first parameter alone
    settings = Settings.most_probable(points, values, CHOICES)
    assert settings.relevances.argmax() == 0
    means, deviations = Surrogate(points, values, settings).expect(points)
    assert np.corrcoef(means, values)[0, 1] > 0.99
    far = Points(places=points.places, times=points.times, trials=-1 - points.trials)
    assert (Surrogate(points, values, settings).expect(far)[1] > deviations).all()


def test_what_is_believed_is_no_surprise() -> None:
    points, more = some_points(30).only(np.arange(20)), some_points(30).only(np.arange(20, 30))
    values = np.random.default_rng(2).standard_normal(20)
    before = Surrogate(points, values, Settings.most_probable(points, values, CHOICES))
    after = before.believing(more)
    assert after.expect(more)[0] == pytest.approx(before.expect(more)[0], abs=0.1)
    assert (after.expect(more)[1] < before.expect(more)[1]).all()
    assert before.believing(more.only(np.arange(0))) is before


def a_trial(curve: dict[int, float], **given: Any) -> FrozenTrial:
    state = TrialState.PRUNED if given.get("value") is None else TrialState.COMPLETE
    return create_trial(**{"state": state, "intermediate_values": curve, **given})


def curve_of(*args: Any, **given: Any) -> Curve:
    return Curve(a_trial(*args, **given), StudyDirection.MINIMIZE, EPOCHS)


def test_a_curve_is_its_best_so_far_at_a_few_epochs() -> None:
    curve = curve_of({1: 3.0, 2: 5.0, 3: 4.0, 4: 1.0, 5: 2.0})
    assert list(curve.points()) == [(1, (0, 3.0)), (3, (0, 3.0)), (5, (0, 1.0))]
    assert list(curve_of({}).points()) == [(1, (0, math.inf))]
    assert list(curve_of({1: math.nan}).points()) == [(1, (0, math.inf))]
    assert list(curve_of({}, value=2.0).points()) == [(EPOCHS, (0, 2.0))]
    assert curve_of({}, state=TrialState.RUNNING).epochs == 0


def test_those_that_came_furthest_rank_first_and_what_broke_a_constraint_last() -> None:
    broken = curve_of({1: 0.1, 9: 0.1}, constraints={"memory": 1.0, "kept": -2.0})
    best, worse, short, none = (curve_of(each) for each in ({9: 0.3}, {9: 0.4}, {1: 0.2}, {}))
    curves = [none, broken, short, worse, best]
    assert sorted(curves, key=lambda curve: curve.rank) == [best, worse, short, none, broken]
    costs = [cost for curve in curves for _, cost in curve.points()]
    assert list(scores(costs).argsort(kind="stable")) == [3, 5, 4, 0, 1, 2]


def test_expected_improvement_is_that_of_the_normal_distribution_and_has_a_logarithm_everywhere() -> None:
    margins = np.linspace(-6, 4, 50)
    assert np.exp(log_expected_improvement(margins)) == pytest.approx(margins * norm.cdf(margins) + norm.pdf(margins))
    far = log_expected_improvement(np.linspace(-60, 0, 1000))
    assert np.isfinite(far).all()
    assert (np.diff(far) > 0).all()


def test_it_learns_from_trials_that_were_stopped_whatever_the_scale_of_the_metric() -> None:
    found = [proposed(a_study(40), seed) for seed in range(10)]
    assert sum(0.003 < params["lr"] < 0.03 for params in found) >= 8
    assert [proposed(a_study(40, change=math.exp), seed) for seed in range(3)] == found[:3]
    assert [proposed(a_study(40, sign=-1.0), seed) for seed in range(3)] == found[:3]


def test_it_proposes_nothing_twice_and_nothing_where_nothing_is_left() -> None:
    space = Space.from_data({"a": {"options": ["x", "y"]}, "b": {"type": "int", "low": 1, "high": 6}})
    study, points = optuna.create_study(), [chosen_for(params) for params in space.grid()]
    kinds = {name: distribution(parameter) for name, parameter in space.items()}
    for number, params in enumerate(points[:-1]):  # failed ones as well
        state = TrialState.FAIL if number == 0 else TrialState.PRUNED
        study.add_trial(a_trial({1: 1.0}, state=state, params=params, distributions=kinds))
    study.ask()
    new = study.get_trials(deepcopy=False)[-1]
    assert CurveSampler(space, 0, cost_exponent=0).sample_relative(study, new, {}) == points[-1]
    study.add_trial(a_trial({1: 1.0}, params=points[-1], distributions=kinds))
    assert CurveSampler(space, 0, cost_exponent=0).sample_relative(study, new, {}) == {}


def test_of_equals_it_proposes_what_costs_less_as_far_as_cost_counts() -> None:
    study = a_study(40)
    for trial in study.get_trials(deepcopy=False):  # depth matters to the cost alone
        trial.user_attrs[EPOCH_S] = 4.0 ** -trial.params["depth"]
    for trial, nonsense in zip(study.get_trials(deepcopy=False), (0.0, -1.0, math.nan, math.inf), strict=False):
        trial.user_attrs[EPOCH_S] = nonsense  # it counts as not timed
    study.ask()
    new = study.get_trials(deepcopy=False)[-1]
    depths = {
        exponent: [
            CurveSampler(SPACE, seed, cost_exponent=exponent).sample_relative(study, new, {})["depth"]
            for seed in range(12)
        ]
        for exponent in (0.0, 1.0)
    }
    assert sum(depths[1.0]) > sum(depths[0.0])
    assert depths[1.0].count(4) > len(depths[1.0]) / 2
