"""What an epoch of a configuration is expected to cost."""

from __future__ import annotations

import numpy as np
import pytest

from orchestrator.axes import Axes
from orchestrator.costs import log_costs
from orchestrator.space import Space

SPACE = Space.from_data(
    {
        "width": {"type": "int", "low": 16, "high": 256, "log": True},
        "batch": {"options": [32, 128]},
        "heads": {"type": "int", "low": 1, "high": 8, "when": {"batch": 32}},
    }
)
AXES = Axes(SPACE)


def places(count: int, seed: int = 0) -> np.ndarray:
    return AXES.settle(AXES.uniform(np.random.default_rng(seed), count))


def seconds(at: np.ndarray) -> np.ndarray:
    """16 times as long at the greatest width, and four times with the small batch."""
    return np.asarray(0.01 * 16.0 ** at[:, 0] * np.where(at[:, 1] == 0, 4.0, 1.0))


def test_factors_are_found_from_a_few_noisy_epochs() -> None:
    known, asked = places(40), places(200, seed=1)
    noisy = seconds(known) * np.exp(0.2 * np.abs(np.random.default_rng(2).standard_normal(len(known))))
    off = log_costs(known, noisy, asked, AXES.options) - np.log(seconds(asked))
    assert np.abs(off - off.mean()).max() < 0.5  # of factors that are up to 64 in all


def test_one_epoch_that_took_a_hundred_times_as_long_changes_little() -> None:
    known, asked = places(40), places(200, seed=1)
    strange = seconds(known)
    strange[0] *= 100
    found = log_costs(known, strange, asked, AXES.options)
    assert np.corrcoef(found, np.log(seconds(asked)))[0, 1] > 0.9


def test_what_makes_no_difference_costs_nothing() -> None:
    known = places(40)
    one, other = places(1, seed=1).repeat(2, axis=0)
    one[1], other[1] = 0, 0
    one[2], other[2] = 0.0, 1.0  # heads, which no second depends on
    alike = log_costs(known, seconds(known), np.array([one, other]), AXES.options)
    assert alike[0] == pytest.approx(alike[1], abs=0.1)


def test_noise_is_not_taken_for_a_cost() -> None:
    rng = np.random.default_rng(0)
    spaces = Space.from_data({f"x{index}": {"options": ["a", "b", "c", "d"]} for index in range(10)})
    axes = Axes(spaces)
    known, asked = (axes.settle(axes.uniform(rng, count)) for count in (12, 200))
    spread = [np.ptp(log_costs(known, np.exp(0.5 * rng.standard_normal(12)), asked, axes.options)) for _ in range(10)]
    assert np.median(spread) < 0.25  # of logarithms that are 0.5 apart, each from the next
