"""Spaces as coordinates: places are configurations, and back."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import spaces

from orchestrator.axes import Axes
from orchestrator.distributions import chosen_for
from orchestrator.space import Space


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
    for place in axes.settle(axes.uniform(rng, 8)):
        problems = space.problems_with(axes.params(place))
        assert all(" does not hold" in problem for problem in problems)  # a constraint, which the sampler looks at
