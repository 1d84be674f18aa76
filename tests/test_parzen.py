"""Parzen estimators over whole configurations: places, densities, and what is proposed."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import spaces

from orchestrator.distributions import chosen_for, distribution
from orchestrator.parzen import Axes, Kernels, propose, split
from orchestrator.space import Space

MIXED: dict[str, Any] = {
    "lr": {"type": "float", "low": 1e-4, "high": 0.1, "log": True},
    "depth": {"type": "int", "low": 1, "high": 4},
    "optimizer": {"options": ["sgd", "adamw", "lion"]},
}
CONDITIONAL: dict[str, Any] = {
    **MIXED,
    "beta": {"type": "float", "low": 0.8, "high": 0.9, "when": {"optimizer": "adamw"}},
}


def same(space: Space, one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(space[name].equals(one[name], other[name]) for name in one)


@given(spaces(), st.integers(0, 2**32))
def test_a_place_is_its_configuration(space: Space, seed: int) -> None:
    axes, params = Axes(space), space.sample(random.Random(seed))
    found = axes.params(axes.place(chosen_for(params)))
    assert found.keys() == params.keys()
    for name, value in params.items():
        assert space[name].objection(found[name]) is None
        assert found[name] == pytest.approx(value) if isinstance(value, float) else found[name] == value


@given(spaces(), st.integers(0, 2**32))
def test_every_place_that_is_drawn_is_a_configuration(space: Space, seed: int) -> None:
    axes, rng = Axes(space), np.random.default_rng(seed)
    few = np.array([axes.place(chosen_for(space.sample(random.Random(index)))) for index in range(3)])
    free = np.full(len(axes), np.nan)
    for place in [*axes.settle(axes.uniform(rng, 4)), *Kernels(axes, few).sample(rng, 4, free)]:
        problems = space.problems_with(axes.params(place))
        assert all(" does not hold" in problem for problem in problems)  # a constraint, which the sampler looks at


@pytest.mark.parametrize("kernels", [0, 1, 5])
def test_the_density_is_one(kernels: int) -> None:
    space = Space.from_data(MIXED)
    axes, rng = Axes(space), np.random.default_rng(0)
    centres = axes.settle(axes.uniform(rng, kernels))
    drawn = axes.settle(axes.uniform(rng, 40_000))
    density = np.exp(Kernels(axes, centres).log_density(drawn))
    assert density.mean() == pytest.approx(1.0, abs=0.1)  # of a range with steps, it is that of their middles


def test_it_draws_what_its_density_says() -> None:
    space = Space.from_data(MIXED)
    axes, rng = Axes(space), np.random.default_rng(0)
    kernels = Kernels(axes, np.array([axes.place({"lr": 0.01, "depth": 2, "optimizer": "lion"})]))
    drawn = kernels.sample(rng, 20_000, np.full(3, np.nan))
    grid = axes.settle(axes.uniform(rng, 20_000))
    weights = np.exp(kernels.log_density(grid))
    for option in range(3):
        expected = np.average(grid[:, 2] == option, weights=weights)
        assert np.mean(drawn[:, 2] == option) == pytest.approx(expected, abs=0.02)
    for depth in np.unique(grid[:, 1]):
        expected = np.average(grid[:, 1] == depth, weights=weights)
        assert np.mean(drawn[:, 1] == depth) == pytest.approx(expected, abs=0.05)  # told at the steps' middles
    for share in (0.25, 0.5, 0.75):
        assert np.mean(drawn[:, 0] < share) == pytest.approx(np.average(grid[:, 0] < share, weights=weights), abs=0.02)


def test_proposals_are_new_and_near_the_good_ones() -> None:
    space = Space.from_data(CONDITIONAL)
    axes, rng = Axes(space), np.random.default_rng(1)
    good = [axes.place({"lr": 0.01, "depth": 2, "optimizer": "adamw", "beta": 0.85})] * 2
    others = list(axes.settle(axes.uniform(rng, 40)))
    free = np.full(len(axes), np.nan)
    found = [axes.params(propose(axes, good, others, rng, candidates=64, fixed=free)[0]) for _ in range(20)]
    assert sum(params["optimizer"] == "adamw" for params in found) > 15
    assert sum(0.002 < params["lr"] < 0.05 for params in found) > 15
    fixed = axes.place({"depth": 4, "optimizer": "sgd"})
    for place in propose(axes, good, others, rng, candidates=64, fixed=fixed):
        params = axes.params(place)
        assert (params["depth"], params["optimizer"], "beta" in params) == (4, "sgd", False)


def test_a_finite_space_that_is_used_up_has_no_proposal() -> None:
    space = Space.from_data({"a": {"options": ["x", "y"]}, "b": {"type": "int", "low": 1, "high": 2}})
    axes, rng = Axes(space), np.random.default_rng(0)
    tried = [axes.place(chosen_for(params)) for params in space.grid()]
    free = np.full(2, np.nan)
    (left,) = propose(axes, tried[:1], tried[1:3], rng, candidates=64, fixed=free)[:1]
    assert left.tobytes() == tried[3].tobytes()
    assert propose(axes, tried[:1], tried[1:], rng, candidates=64, fixed=free) == []


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_whole_trials_come_first_then_the_furthest_and_what_broke_a_constraint_last(direction: str) -> None:
    from optuna.samplers._tpe.sampler import _split_trials

    study = optuna.create_study(direction=direction)
    space = Space.from_data(MIXED)
    rng = random.Random(3)
    for number in range(40):
        params = space.sample(rng)
        trial = study.ask({name: distribution(space[name]) for name in params})
        pruned = number % 4 != 0
        for epoch in range(1, rng.choice((2, 4)) if pruned else 4):
            trial.report(rng.random(), epoch)
        if number % 5 == 0:
            trial.set_constraint("memory", rng.random())
        if number < 36:
            study.tell(trial, None if pruned else rng.random(), state=optuna.trial.TrialState(2 if pruned else 1))
    trials = study.get_trials()
    good, others = split(study.direction, trials)
    below, above = _split_trials(study, trials, len(good))
    assert {trial.number for trial in good} == {trial.number for trial in below}
    assert {trial.number for trial in others} == {trial.number for trial in above}
