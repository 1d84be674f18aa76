"""A Gaussian process over configurations and epochs: what is known of all curves, and what to expect of another one.

A value is the sum of what all trials do at an epoch, what a configuration does at every epoch and at this one, and
what the trial itself does, the same at every epoch and at this one (freeze-thaw: Swersky et al., 2014,
arXiv:1406.3896). Near epochs are alike, on a logarithmic scale, and so are near configurations, where every axis has
a relevance of its own (automatic relevance determination). Relevances and variances are the most probable ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize

Array = NDArray[np.float64]

ITERATIONS = 15
"""Of the search for the most probable settings; what comes later changes little."""

SETTINGS = np.log([1.0, 1.0, 0.3, 0.1, 0.05, 0.02, 2.0])
"""Believed before there are values, of variance 1: the variances of epochs, of configurations, of both together, of
trials, of trials at an epoch, and of noise; and how fast epochs become unlike."""
SPREAD = 0.7
"""How sure that is, as a standard deviation of the logarithm; of a relevance, which may be hardly any, 1."""
RELEVANCE_OF_RANGES, RELEVANCE_OF_CHOICES = 2.0, 0.5


@dataclass(frozen=True, kw_only=True)
class Points:
    """Where values were measured, or are asked for."""

    places: Array
    """(n, axes): configurations as `axes.Axes` places them."""
    times: Array
    """(n,): from 0 at the first epoch to 1 at the last one."""
    trials: NDArray[np.int64]
    """(n,): whose curves they are on; a number that no other point has for one of its own."""

    def __len__(self) -> int:
        return len(self.times)

    def only(self, wanted: NDArray[np.int64]) -> Points:
        """Those with these indices."""
        return Points(places=self.places[wanted], times=self.times[wanted], trials=self.trials[wanted])

    def and_also(self, other: Points) -> Points:
        """These and others."""
        return Points(
            places=np.vstack([self.places, other.places]),
            times=np.concatenate([self.times, other.times]),
            trials=np.concatenate([self.trials, other.trials]),
        )


class Surrogate:
    """What some values say of others."""

    def __init__(self, points: Points, values: Array, settings: Settings) -> None:
        """Condition on values, (points,), which are about normal with variance 1."""
        self._points, self._values, self._settings = points, values, settings
        self._mean = float(values.mean())
        apart = Apart(points, points, settings.choices)
        covariance = settings.covariance(apart)
        covariance[np.diag_indices_from(covariance)] += settings.noise
        self._root = np.linalg.cholesky(covariance)
        self._weights = cho_solve((self._root, True), values - self._mean)

    def expect(self, points: Points) -> tuple[Array, Array]:
        """(n,) each: the means of values that were not measured, and their standard deviations."""
        between = self._settings.covariance(Apart(points, self._points, self._settings.choices))
        means = self._mean + between @ self._weights
        explained = solve_triangular(self._root, between.T, lower=True)
        variances = self._settings.variance - (explained**2).sum(axis=0)
        return means, np.sqrt(np.maximum(variances, 1e-12))

    def believing(self, points: Points) -> Surrogate:
        """As if the values expected at some points had been measured there: what will be known is not asked again."""
        if not len(points):
            return self
        values = np.concatenate([self._values, self.expect(points)[0]])
        return Surrogate(self._points.and_also(points), values, self._settings)


class Apart:
    """How far points are from others."""

    def __init__(self, some: Points, others: Points, choices: NDArray[np.bool_]) -> None:
        self.axes = _distances(some.places, others.places, choices)
        """(axes, n, m): squared; of choices 1 where they differ."""
        self.times = (some.times[:, None] - others.times) ** 2
        """(n, m), squared."""
        self.same = (some.trials[:, None] == others.trials).astype(float)
        """(n, m): 1 where both are on one curve."""


def prior_distances(some: Array, others: Array, choices: NDArray[np.bool_]) -> Array:
    """(n, m), squared: how far places, (n, axes), are from others, (m, axes), by the relevances that axes have before
    there are values: the modes of their priors."""
    return np.asarray(np.tensordot(_prior_relevances(choices), _distances(some, others, choices), 1))


def _prior_relevances(choices: NDArray[np.bool_]) -> Array:
    return np.where(choices, RELEVANCE_OF_CHOICES, RELEVANCE_OF_RANGES)


def _distances(some: Array, others: Array, choices: NDArray[np.bool_]) -> Array:
    """(axes, n, m). What is not active is in the middle of a range, and none of the options of a choice."""
    filled, others_filled = (np.where(np.isnan(places), 0.5, places) for places in (some, others))
    gaps = filled.T[:, :, None] - others_filled.T[:, None, :]
    squares: Array = gaps**2
    squares[choices] = gaps[choices] != 0
    return squares


class Settings:
    """What the covariance depends on, as the logarithms of relevances and of what `SETTINGS` lists."""

    def __init__(self, logs: Array, choices: NDArray[np.bool_]) -> None:
        self.choices = choices
        self._logs = logs
        self.relevances, rest = np.exp(logs[: len(choices)]), np.exp(logs[len(choices) :])
        self._epoch, self._place, self._both, self._trial, self._trial_epoch, self.noise, self._haste = rest
        self.variance = float(rest[:5].sum())

    @classmethod
    def most_probable(cls, points: Points, values: Array, choices: NDArray[np.bool_]) -> Settings:
        """Those that values, about normal with variance 1, speak for."""
        believed = np.concatenate([np.log(_prior_relevances(choices)), SETTINGS])
        sure = np.concatenate([np.ones(len(choices)), np.full(len(SETTINGS), SPREAD)])
        apart, centred = Apart(points, points, choices), values - values.mean()

        def objective(logs: Array) -> tuple[float, Array]:
            off = (logs - believed) / sure
            loss, slope = cls(logs, choices)._misfit(apart, centred)
            return loss + float(off @ off) / 2, slope + off / sure

        found = minimize(objective, believed, jac=True, method="L-BFGS-B", options={"maxiter": ITERATIONS})
        return cls(found.x, choices)

    def covariance(self, apart: Apart) -> Array:
        """(n, m), of the values at points, without noise."""
        near, soon = self._alike(apart)
        own = self._trial + self._trial_epoch * soon
        covariance: Array = self._epoch * soon + near * (self._place + self._both * soon) + apart.same * own
        return covariance

    def _alike(self, apart: Apart) -> tuple[Array, Array]:
        """How alike configurations are, and epochs, from 0 to 1."""
        return np.exp(-np.tensordot(self.relevances, apart.axes, 1)), np.exp(-self._haste * apart.times)

    def _misfit(self, apart: Apart, values: Array) -> tuple[float, Array]:
        """The negative log likelihood of centred values, but for a constant, and its derivatives by the logarithms."""
        near, soon = self._alike(apart)
        covariance = self.covariance(apart)
        covariance[np.diag_indices_from(covariance)] += self.noise
        factor = cho_factor(covariance, lower=True)
        weights = cho_solve(factor, values)
        loss = float(values @ weights) / 2 + float(np.log(np.diag(factor[0])).sum())
        by_covariance = (cho_solve(factor, np.eye(len(values))) - np.outer(weights, weights)) / 2
        by_near = by_covariance * near * (self._place + self._both * soon)
        slow = self._epoch + self._both * near + self._trial_epoch * apart.same
        slopes = [
            self._epoch * np.vdot(by_covariance, soon),
            self._place * np.vdot(by_covariance, near),
            self._both * np.vdot(by_covariance, near * soon),
            self._trial * np.vdot(by_covariance, apart.same),
            self._trial_epoch * np.vdot(by_covariance, apart.same * soon),
            self.noise * np.trace(by_covariance),
            -self._haste * np.vdot(by_covariance, soon * apart.times * slow),
        ]
        return loss, np.concatenate([-self.relevances * np.tensordot(apart.axes, by_near, 2), slopes])
