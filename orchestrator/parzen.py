"""Parzen estimators over whole configurations: TPE that knows conditions and repeats nothing (optuna).

Bergstra et al., 2011, split the trials into the good and the others, and propose what is likely among the good and
unlikely among the others. Optuna's TPE models the parameters behind each condition apart from all others, and proposes
the same configuration again and again where parameters have few values (optuna#2021). Here a kernel is a whole
configuration: a parameter that it does not have counts as drawn uniformly. Bandwidths and the weight of the prior are
Optuna's, after Watanabe, 2023 (arXiv:2304.11127).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState
from scipy.special import logsumexp, ndtr, ndtri

from orchestrator.distributions import chosen_for, params_of
from orchestrator.parameter import Choice, Fixed, Float, Int, Parameter
from orchestrator.population import snapped
from orchestrator.space import Space

Array = NDArray[np.float64]

BANDWIDTH = 0.2
"""Of a kernel by itself, as a share of a parameter's range; it shrinks with the number of kernels by Scott's rule."""

ATTEMPTS = 16
"""Draws of all candidates before there is nothing new to propose: in a small space the good places are soon used up."""


STARTUP = 10
"""Trials that have reported before there is enough to learn from; as Optuna's samplers have it."""

CANDIDATES = 64
"""Places that a proposal is chosen from."""


class ParzenSampler(BaseSampler):
    """Proposes whole configurations of a space."""

    def __init__(self, space: Space, seed: int) -> None:
        self._space, self._axes = space, axes_of(space)
        self._rng, self._independent = np.random.default_rng(seed), RandomSampler(seed)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Nothing that Optuna has to know: it is the space."""
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A configuration; what is on record of it already stays."""
        fixed = self._axes.place(trial.params)
        trials = [other for other in study.get_trials(deepcopy=False) if other.number != trial.number]
        good, others = split(study.direction, [each for each in trials if each.state is not TrialState.FAIL])
        knows = sum(bool(each.intermediate_values) or each.value is not None for each in trials) >= STARTUP and good
        if not knows:
            good, others = [], [*good, *others]
        above, below = ([self._axes.place(each.params) for each in part] for part in (good, others))
        # Of several candidates, the best would be the one furthest from all that was tried: the corners of the space.
        size = CANDIDATES if knows else 1
        for place in propose(self._axes, above, below, self._rng, candidates=size, fixed=fixed):
            params = self._axes.params(place)
            if self._space.is_feasible(params):
                return chosen_for(params)
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """What there was nothing new to propose for."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)


@lru_cache(maxsize=8)
def axes_of(space: Space) -> Axes:
    """The axes of a space, with the places that are known already."""
    return Axes(space)


def split(
    direction: optuna.study.StudyDirection, trials: Sequence[FrozenTrial]
) -> tuple[list[FrozenTrial], list[FrozenTrial]]:
    """The good trials and the others, as Optuna's TPE tells them apart.

    Whole trials come first, then those that came furthest, and of those the better; what broke a constraint comes
    last, and what still runs is among the others.
    """
    sign = -1.0 if direction is optuna.study.StudyDirection.MAXIMIZE else 1.0

    def order(trial: FrozenTrial) -> tuple[float, ...]:
        broken = sum(violation for violation in trial.constraints.values() if violation > 0)
        if trial.state is TrialState.COMPLETE and trial.value is not None:
            return broken, 0, 0, sign * trial.value
        if not trial.intermediate_values:
            return broken, 2, 0, 0
        last = max(trial.intermediate_values)
        return broken, 1, -last, sign * trial.intermediate_values[last]

    done = sorted((trial for trial in trials if trial.state is not TrialState.RUNNING), key=order)
    few = min(math.ceil(0.1 * len(done)), 25)
    return done[:few], [*done[few:], *(trial for trial in trials if trial.state is TrialState.RUNNING)]


class Axes:
    """A space as coordinates: (parameters,) numbers, NaN for a parameter that is not active.

    Ranges go from 0 to 1 on their scale; a choice is the index of its option.
    """

    def __init__(self, space: Space) -> None:
        self._space = space
        self._placed: dict[frozenset[tuple[str, type, Any]], Array] = {}  # thousands of trials, for every proposal
        self.options = np.array([len(list(p.values())) if isinstance(p, Choice | Fixed) else 0 for p in space.values()])
        """(parameters,): how many options a choice has, 0 for a range."""
        edges = [_edges(p) for p in space.values()]
        self.low, self.high = np.array(edges).reshape(-1, 2).T
        """(parameters,): what rounds to the ends of a range; half a step beyond them."""
        index = {name: column for column, name in enumerate(space)}
        self._conditions = [
            [
                (index[parent], [_place(space[parent], each) for each in wanted])
                for parent, wanted in p.conditions.items()
            ]
            for p in space.values()
        ]

    def __len__(self) -> int:
        return len(self._space)

    def place(self, chosen: Mapping[str, Any]) -> Array:
        """(parameters,): where a configuration is, given as Optuna keeps it."""
        key = frozenset((name, type(value), value) for name, value in chosen.items())  # 1 is not True
        if key not in self._placed:
            params = params_of(self._space, chosen)
            places = (_place(p, params[name]) if name in params else np.nan for name, p in self._space.items())
            self._placed[key] = np.array(list(places))
        return self._placed[key]

    def params(self, place: Array) -> dict[str, Any]:
        """The configuration at a place."""
        found = zip(self._space.items(), place, strict=True)
        return {name: _value(parameter, float(at)) for (name, parameter), at in found if not math.isnan(at)}

    def settle(self, places: Array) -> Array:
        """(n, parameters): places rounded to values that exist, and NaN where a parameter is not active."""
        settled = places.copy()
        for column, (parameter, conditions) in enumerate(zip(self._space.values(), self._conditions, strict=True)):
            if not isinstance(parameter, Choice | Fixed):
                settled[:, column] = _rounded(parameter, places[:, column])
            for parent, wanted in conditions:
                settled[~np.isin(settled[:, parent], wanted), column] = np.nan
        return settled

    def uniform(self, rng: np.random.Generator, size: int) -> Array:
        """(size, parameters): places drawn at random, not settled."""
        drawn = rng.random((size, len(self)))
        ranges = self.low + drawn * (self.high - self.low)
        return np.asarray(np.where(self.options > 0, np.floor(drawn * self.options), ranges))


class Kernels:
    """A density: a kernel around each of some places, and the uniform prior with the weight of one more."""

    def __init__(self, axes: Axes, places: Array) -> None:
        self._axes, self._places = axes, places
        self._width = BANDWIDTH * max(len(places), 1) ** (-1 / (len(axes) + 4))
        self._stray = 1 / max(len(places), 1)  # how often a choice is any option, to once the kernel's own

    def sample(self, rng: np.random.Generator, size: int, fixed: Array) -> Array:
        """(size, parameters): places, settled, with some coordinates fixed where those are not NaN."""
        axes, drawn = self._axes, self._axes.uniform(rng, size)
        kernel = rng.integers(len(self._places) + 1, size=size)  # the last is the prior
        centre = np.vstack([self._places, np.full(len(axes), np.nan)])[kernel]
        low, high = ndtr((axes.low - centre) / self._width), ndtr((axes.high - centre) / self._width)
        near = centre + self._width * ndtri(low + rng.random(centre.shape) * (high - low))
        strays = rng.random(centre.shape) * (1 + self._stray * axes.options) > 1
        own = np.where(axes.options > 0, np.where(strays, drawn, centre), near)
        return axes.settle(np.where(np.isnan(fixed), np.where(np.isnan(centre), drawn, own), fixed))

    def log_density(self, places: Array) -> Array:
        """(n,): at places, against the uniform density."""
        axes, total = self._axes, np.zeros((len(places), len(self._places) + 1))
        for column in range(len(axes)):
            at, centre = places[:, None, column], self._places[None, :, column]
            if options := int(axes.options[column]):
                hit, miss = np.log(np.array([1 + self._stray, self._stray]) / (1 + self._stray * options) * options)
                logs = np.where(at == centre, hit, miss)
            else:
                low, high = axes.low[column], axes.high[column]
                inside = ndtr((high - centre) / self._width) - ndtr((low - centre) / self._width)
                scale = (high - low) / (self._width * math.sqrt(2 * math.pi) * inside)
                logs = np.log(scale) - ((at - centre) / self._width) ** 2 / 2
            total[:, :-1] += np.where(np.isnan(at) | np.isnan(centre), 0.0, logs)
        density: Array = logsumexp(total, axis=1) - math.log(total.shape[1])
        return density


def propose(
    axes: Axes,
    good: Sequence[Array],
    others: Sequence[Array],
    rng: np.random.Generator,
    *,
    candidates: int,
    fixed: Array,
) -> list[Array]:
    """Places that are new, the most promising first; none where every candidate was tried before.

    Args:
        axes: of the space.
        good: (parameters,) each, where the best trials are.
        others: the same of all other trials, those that still run as well.
        rng: what to draw from.
        candidates: how many places to choose from.
        fixed: (parameters,), what they have in common, NaN where that is nothing.
    """
    tried = np.array([*good, *others]).reshape(-1, len(axes))
    above, below = Kernels(axes, tried[: len(good)]), Kernels(axes, tried[len(good) :])
    known = {place.tobytes() for place in tried}
    for _ in range(ATTEMPTS):
        drawn = above.sample(rng, candidates, fixed)
        fresh = np.array([place for place in drawn if place.tobytes() not in known]).reshape(-1, len(axes))
        if len(fresh):
            break
    promise = above.log_density(fresh) - below.log_density(fresh)
    return list(fresh[np.argsort(-promise, kind="stable")])


def _edges(parameter: Parameter) -> tuple[float, float]:
    """From where to where places round to a range's values."""
    if not isinstance(parameter, Float | Int) or parameter.low == parameter.last or (size := parameter.size) is None:
        return 0.0, 1.0
    if parameter.log:
        return _share(parameter, parameter.low - 0.5), _share(parameter, parameter.last + 0.5)
    return -0.5 / (size - 1), 1 + 0.5 / (size - 1)


def _place(parameter: Parameter, value: Any) -> float:
    if not isinstance(parameter, Float | Int):
        return float(next(i for i, option in enumerate(parameter.values()) if parameter.equals(value, option)))
    return float(_rounded(parameter, np.array(_share(parameter, value))))


def _share(parameter: Float | Int, value: float) -> float:
    """How far into a range a value is, on its scale."""
    if parameter.low == parameter.last:
        return 0.0
    if parameter.log:
        return math.log(value / parameter.low) / math.log(parameter.last / parameter.low)
    return (value - parameter.low) / (parameter.last - parameter.low)


def _rounded(parameter: Parameter, share: Array) -> Array:
    """The same place for what is the same value."""
    if not isinstance(parameter, Float | Int) or parameter.size is None:
        return np.asarray(np.clip(share, 0.0, 1.0))
    if parameter.size == 1:
        return np.zeros_like(share)
    if parameter.log:
        ratio = parameter.last / parameter.low
        whole = np.clip(np.rint(parameter.low * ratio**share), parameter.low, parameter.last)
        return np.asarray(np.log(whole / parameter.low) / math.log(ratio))
    steps = parameter.size - 1
    return np.asarray(np.clip(np.rint(share * steps), 0, steps) / steps + 0.0)  # not the zero below 0


def _value(parameter: Parameter, place: float) -> Any:
    if not isinstance(parameter, Float | Int):
        return list(parameter.values())[int(place)]
    if parameter.low == parameter.last:
        return parameter.low
    if parameter.log:
        return snapped(parameter, parameter.low * (parameter.last / parameter.low) ** place)
    return snapped(parameter, parameter.low + place * (parameter.last - parameter.low))
