"""Proposals from all curves, also those of trials that were stopped: a surrogate's expected improvement (optuna).

Values are the best so far at an epoch, by rank, so that neither the metric's scale nor a training that diverged
matters. The surrogate extrapolates every curve to the furthest epoch that a trial has reached, and the configuration
proposed is the one that is expected to improve most on the best of them there (Jones et al., 1998), for what an epoch
of it is expected to cost (as in expected improvement per second: Snoek et al., 2012, arXiv:1206.2944). Trials that
still run count as if they did what is expected of them (the kriging believer, Ginsbourger et al., 2010).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import islice
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from scipy.stats import norm, rankdata
from threadpoolctl import ThreadpoolController

from orchestrator.axes import axes_of
from orchestrator.costs import EPOCH_S, log_costs
from orchestrator.distributions import chosen_for
from orchestrator.space import Space
from orchestrator.surrogate import Points, Settings, Surrogate, prior_distances

Array = NDArray[np.float64]

STARTUP = 8
"""Trials that have reported before there is something to learn from."""

STARTUP_CANDIDATES = 32
"""Until then, of so many places drawn at random, the one is proposed that is furthest from all trials: Mitchell's best
candidate (1991, doi:10.1145/122718.122736), but of as many each time. The more there were to choose from, the more
trials would be at the edges of the space."""

LEARNED_FROM = 100
"""Trials that a proposal is made from, so that its cost does not grow with a sweep: half of them the ones that came
furthest, of those the better; the others are drawn."""

TUNED_ON = 100
"""Measured values that relevances are found by, drawn from all."""

CANDIDATES = 400
"""Places that a proposal is chosen from: half of them anywhere, the others near the best trials."""

NEAR, STEP = 10, 0.1
"""The best trials that candidates are near to, and by how much of a range they differ from one."""


class CurveSampler(BaseSampler):
    """Proposes whole configurations of a space."""

    def __init__(self, space: Space, seed: int, *, cost_exponent: float) -> None:
        """Make the sampler of one proposal.

        Args:
            space: what is searched.
            seed: of what is drawn.
            cost_exponent: how much the cost of an epoch counts: 0 for improvement alone, 1 for improvement per second,
                more for what is known sooner.
        """
        self._space, self._axes, self._cost_exponent = space, axes_of(space), cost_exponent
        self._rng, self._independent = np.random.default_rng(seed), RandomSampler(seed)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Nothing that Optuna has to know: it is the space."""
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A configuration; what is on record of it already stays."""
        others = [each for each in study.get_trials(deepcopy=False) if each.number != trial.number]
        last = max((each.last_step or 1 for each in others), default=1)
        curves = [Curve(each, study.direction, last) for each in others if each.state is not TrialState.FAIL]
        ordered = sorted((curve for curve in curves if curve.epochs), key=lambda curve: curve.rank)
        candidates = self._candidates(ordered, others, self._axes.place(trial.params))
        if not len(candidates):
            return {}
        # Threads would wait for each other, for matrices are small and machines busy, and round in another order.
        with _libraries().limit(limits=1, user_api="blas"):
            if len(ordered) >= STARTUP:
                costs = self._cost_exponent * self._log_costs(others, candidates)
                worth = self._promise(ordered, curves, candidates) - costs
            else:
                candidates = np.array([*islice(filter(self._is_feasible, candidates), STARTUP_CANDIDATES)])
                worth = self._distance(others, candidates)
        best_first = candidates[np.argsort(-worth, kind="stable")]
        return chosen_for(next((self._axes.params(place) for place in best_first if self._is_feasible(place)), {}))

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """What there was nothing new to propose for."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def _candidates(self, ordered: Sequence[Curve], tried: Sequence[FrozenTrial], fixed: Array) -> Array:
        """(n, axes): places that are new, and not next to a trial's, those that are anywhere first."""
        axes, rng = self._axes, self._rng
        drawn = axes.uniform(rng, CANDIDATES)
        if len(ordered) >= STARTUP:
            best = np.array([axes.place(curve.trial.params) for curve in ordered[:NEAR]])
            anywhere = drawn[CANDIDATES // 2 :]
            centres = best[rng.integers(len(best), size=len(anywhere))]
            steps = centres + STEP * (axes.high - axes.low) * rng.standard_normal(centres.shape)
            moved = np.where(axes.options > 0, anywhere, np.clip(steps, axes.low, axes.high))
            kept = rng.random(centres.shape) > 2 / max(len(axes), 1)  # two axes change, of any number
            drawn[CANDIDATES // 2 :] = np.where(np.isnan(centres), anywhere, np.where(kept, centres, moved))
        places = axes.settle(np.where(np.isnan(fixed), drawn, fixed))
        known = {axes.cells(axes.place(trial.params)).tobytes() for trial in tried}
        new = [place for place, cell in zip(places, axes.cells(places), strict=True) if cell.tobytes() not in known]
        return np.array(new).reshape(-1, len(axes))

    def _is_feasible(self, place: Array) -> bool:
        return self._space.is_feasible(self._axes.params(place))

    def _distance(self, trials: Sequence[FrozenTrial], candidates: Array) -> Array:
        """(candidates,), squared: how far each is from the trial that is nearest; 0 where there is none."""
        if not trials or not len(candidates):
            return np.zeros(len(candidates))
        places = np.array([self._axes.place(trial.params) for trial in trials])
        return np.asarray(prior_distances(candidates, places, self._axes.options > 0).min(axis=1))

    def _promise(self, ordered: Sequence[Curve], curves: Sequence[Curve], candidates: Array) -> Array:
        """(candidates,): the logarithm of the improvement that is expected of each."""
        drawn = self._rng.permutation(len(ordered))
        some = [*range(len(ordered))[: LEARNED_FROM // 2], *(i for i in drawn if i >= LEARNED_FROM // 2)][:LEARNED_FROM]
        learned = [ordered[index] for index in some]
        last = max(curve.epochs for curve in ordered)
        measured = [(curve, *point) for curve in learned for point in curve.points()]
        points = self._points([(curve, epoch) for curve, epoch, _ in measured], last)
        values = scores([value for _, _, value in measured])
        few = np.sort(self._rng.permutation(len(points))[:TUNED_ON])
        settings = Settings.most_probable(points.only(few), values[few], self._axes.options > 0)
        surrogate = Surrogate(points, values, settings)
        best = surrogate.expect(self._points([(curve, last) for curve in learned], last))[0].min()
        running = [curve for curve in curves if curve.trial.state is TrialState.RUNNING]
        new = Points(places=candidates, times=np.ones(len(candidates)), trials=np.full(len(candidates), -1))
        means, deviations = surrogate.believing(self._points([(each, last) for each in running], last)).expect(new)
        return log_expected_improvement((best - means) / deviations) + np.log(deviations)

    def _log_costs(self, trials: Sequence[FrozenTrial], candidates: Array) -> Array:
        """(candidates,): the logarithm of what an epoch of each is expected to take; 0 where that does not count, or
        too few were timed."""
        if not self._cost_exponent:
            return np.zeros(len(candidates))
        timed = [trial for trial in trials if 0 < trial.user_attrs.get(EPOCH_S, 0) < math.inf]
        if len(timed) < STARTUP:
            return np.zeros(len(candidates))
        places = np.array([self._axes.place(trial.params) for trial in timed])
        seconds = np.array([trial.user_attrs[EPOCH_S] for trial in timed])
        return log_costs(places, seconds, candidates, self._axes.options)

    def _points(self, where: Sequence[tuple[Curve, int]], last: int) -> Points:
        """Epochs of curves."""
        times = [math.log(epoch) / math.log(last) if last > 1 else 1.0 for _, epoch in where]
        return Points(
            places=np.array([self._axes.place(curve.trial.params) for curve, _ in where]).reshape(-1, len(self._axes)),
            times=np.array(times),
            trials=np.array([curve.trial.number for curve, _ in where], dtype=int),
        )


@cache
def _libraries() -> ThreadpoolController:
    """Those for linear algebra; to find them takes longer than a proposal."""
    return ThreadpoolController()


class Curve:
    """What a trial has reached, lower being better."""

    def __init__(self, trial: FrozenTrial, direction: StudyDirection, last: int) -> None:
        """Read a trial; `last` is the epoch at which the value of a whole one is that has no curve."""
        self.trial = trial
        self._sign = -1.0 if direction is StudyDirection.MAXIMIZE else 1.0
        self._values = trial.intermediate_values
        if not self._values and trial.value is not None:  # run elsewhere
            self._values = {last: trial.value}
        elif not self._values and trial.state is TrialState.PRUNED:  # it diverged before its first epoch was over
            self._values = {1: self._sign * math.inf}
        self.epochs = max(self._values, default=0)
        self._broken = sum(violation for violation in trial.constraints.values() if violation > 0)

    @property
    def rank(self) -> tuple[float, ...]:
        """The best trials first: they kept the constraints, they came furthest, their last value."""
        return self._broken, -self.epochs, self._loss(self._values[self.epochs])

    def points(self) -> Iterator[tuple[int, tuple[float, float]]]:
        """The best so far at its first and last epoch, and at those of a factor of three in between."""
        best, due = math.inf, 0
        for epoch, value in sorted(self._values.items()):
            best = min(best, self._loss(value))
            if epoch >= due or epoch == self.epochs:
                due = 3 * epoch
                yield epoch, (self._broken, best)

    def _loss(self, value: float) -> float:
        return math.inf if math.isnan(value) else self._sign * value


def scores(values: Sequence[tuple[float, ...]]) -> Array:
    """(n,): normal scores of values by their rank, the least one lowest."""
    order = {value: index for index, value in enumerate(sorted(set(values)))}
    shares = (rankdata([order[value] for value in values]) - 0.5) / len(values)
    return np.asarray(norm.ppf(shares))


def log_expected_improvement(margin: Array) -> Array:
    """(n,): of a normal value that is a margin of standard deviations below the best, in those; never -inf."""
    # Far below, it is a difference of equals; there its asymptote (Ament et al., 2023, arXiv:2310.20708).
    near = np.maximum(margin, -20.0)
    far = np.minimum(margin, -20.0)
    exact = np.log(near * norm.cdf(near) + norm.pdf(near))
    return np.asarray(np.where(margin < near, norm.logpdf(far) - 2 * np.log(-far), exact))
