"""Who proposes: our sampler and Optuna's, each asked for a whole configuration at once (optuna).

To add one is to add its entry to `SAMPLERS`, and its name to `Search.sampler` in spec.py.
"""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, QMCSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from orchestrator.curves import CurveSampler
from orchestrator.distributions import chosen_for, distribution, params_of, value
from orchestrator.errors import SpaceError
from orchestrator.known import Known
from orchestrator.naming import trial_seed
from orchestrator.parameter import Choice, Fixed
from orchestrator.space import Space
from orchestrator.spec import Search

# Samples that may repeat a configuration, or break a constraint of the space, before points are drawn at random.
ATTEMPTS = 16
# Trials before a sampler has enough to learn from, which are drawn by the space's priors; as Optuna's samplers have it.
STARTUP = 10
# Points drawn at random before what is left of a finite space is looked through.
RANDOM_ATTEMPTS = 256
# Trials that were run elsewhere come after all of a sweep's own: Optuna's samplers tell trials apart by number.
ELSEWHERE = 10**9


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """How a sampler is made, and what it is asked for."""

    build: Callable[[int, int, Space], BaseSampler]
    """Makes it from the proposal's own seed, the sweep's, and the space."""
    joint: Callable[[Space], Iterable[str]] | None = None
    """The parameters it samples together; None where Optuna works them out. It samples the others one by one."""
    slow: bool = False
    """Whether a proposal can take seconds, so that the next one is made while trials run."""


UNIT = FloatDistribution(0.0, 1.0)


def _tpe(seed: int, *_: object) -> TPESampler:
    # multivariate and constant_liar are Optuna 5's defaults; group is what makes multivariate know conditions.
    return TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)


def _always_active(space: Space) -> list[str]:
    return [name for name, parameter in space.items() if not parameter.conditions]


def _numeric(space: Space) -> list[str]:
    return [name for name in _always_active(space) if not isinstance(space[name], Choice | Fixed)]


SAMPLERS: Mapping[str, Sampler] = {
    "curves": Sampler(build=lambda seed, _, space: CurveSampler(space, seed), joint=list),
    "tpe": Sampler(build=_tpe),
    "gp": Sampler(
        build=lambda seed, *_: GPSampler(
            seed=seed, independent_sampler=_tpe(seed), warn_independent_sampling=False, deterministic_objective=False
        ),
        joint=_always_active,
        slow=True,
    ),
    "cmaes": Sampler(
        build=lambda seed, *_: CmaEsSampler(seed=seed, independent_sampler=_tpe(seed), warn_independent_sampling=False),
        joint=_numeric,
    ),
    # A sequence is one: every proposal has the sweep's seed. Parameters that are not active leave their column unused.
    "qmc": Sampler(
        build=lambda seed, sweep_seed, _: QMCSampler(
            scramble=True, seed=sweep_seed, independent_sampler=RandomSampler(seed), warn_independent_sampling=False
        ),
        joint=list,
    ),
    "random": Sampler(build=lambda seed, *_: RandomSampler(seed=seed)),
    "grid": Sampler(build=lambda seed, *_: RandomSampler(seed=seed)),  # the proposer walks the grid itself
}


class Proposer(BaseSampler):
    """The sampler of a sweep's study: whole configurations, valid, in the space, and none twice.

    A proposal depends on the seed, its trial's number, and the results so far, and on nothing else: every one is made
    by a sampler of its own. So a sweep that was killed proposes what it would have proposed.
    """

    def __init__(
        self,
        search: Search,
        space: Space,
        *,
        points: Sequence[Mapping[str, Any]] = (),
        known: Sequence[Known] = (),
    ) -> None:
        """Make the proposer of a sweep.

        Args:
            search: the resolved settings; its sampler is not 'auto', its seed not None.
            space: what is searched.
            points: configurations, or parts of them, to begin with, after the space's own default; what they leave
                out is sampled.
            known: trials that were run elsewhere.
        """
        self._search, self._space = search, space
        self._known = [known_trial(space, index, each) for index, each in enumerate(known)]
        self._sampler = SAMPLERS[search.sampler]
        self._distributions = {name: distribution(parameter) for name, parameter in space.items()}
        joint = self._sampler.joint(space) if self._sampler.joint else ()
        self._joint = {name: self._distributions[name] for name in joint if not self._distributions[name].single()}
        self._seen = {_key(each.params) for each in known if each.exact}
        default = space.default_params() if search.sampler != "grid" else {}
        self._points = [point for point in (default, *points) if point and _key(point) not in self._seen]
        self._looked, self._nothing_left = -1, False
        self._troubles: list[str] = []
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="proposal")
        self._ahead: dict[int, Future[dict[str, Any]]] = {}

    def saw(self, params: Mapping[str, Any]) -> None:
        """A configuration is in the record: it is not proposed again, unless `search.duplicates` asks for it."""
        self._seen.add(_key(params))

    def exhausted(self) -> bool:
        """Whether every configuration of a finite space was proposed, and none is to be run again."""
        if self._space.endless or (self._search.duplicates and self._search.sampler != "grid"):
            return False
        if self._looked != len(self._seen):
            self._looked, self._nothing_left = len(self._seen), next(self._left(), None) is None
        return self._nothing_left

    def prepare(self, study: optuna.Study, number: int) -> None:
        """Begin to make the proposal of the trial to come, in a thread, where that may take long."""
        if self._sampler.slow and number >= len(self._points) and number not in self._ahead:
            then = self._copy(study, number)
            blank = then.get_trials(deepcopy=False)[-1]
            self._ahead = {number: self._thread.submit(self._draw, then, blank, self._build(number, 0), {})}

    def is_ready(self, number: int) -> bool:
        """Whether a trial's proposal would keep nobody waiting."""
        return number not in self._ahead or self._ahead[number].done()

    # Optuna's side.

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Every parameter, active or not."""
        return dict(self._distributions)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A whole configuration; what a killed sweep had already recorded of it stays."""
        fixed = params_of(self._space, trial.params)
        if fixed and not self._space.problems_with(fixed):  # another trial's, to be run again
            return chosen_for(fixed)
        try:
            if self._sampler.slow and not fixed and trial.number >= len(self._points):
                self.prepare(study, trial.number)
                if self._is_new(params := self._ahead.pop(trial.number).result()):
                    return chosen_for(params)
            return chosen_for(self._propose(self.view(study), trial, fixed))
        except SpaceError:
            raise
        except Exception as exc:  # noqa: BLE001 - the numerics of a model, whatever they raise, are no reason to end
            failed = f"sampler {self._search.sampler} could not propose trial {trial.number} ({exc!r})"
            self._troubles.append(f"{failed}: it is drawn at random")
            return chosen_for(self._at_random(trial, fixed, {}))

    def troubles(self) -> list[str]:
        """Why a proposal is none of the sampler's, each time since the last call."""
        found, self._troubles = self._troubles, []
        return found

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A parameter that is not in the space."""
        return self._build(trial.number, 0).sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """What the sampler wants to note of a trial that has ended."""
        self._build(trial.number, 0).after_trial(study, trial, state, values)

    # The proposal.

    def _propose(self, study: optuna.Study, trial: FrozenTrial, fixed: Mapping[str, Any]) -> dict[str, Any]:
        """The configuration for a trial, given a study as the sampler is to see it, and what is on record of it."""
        point = self._points[trial.number] if trial.number < len(self._points) else {}
        if self._search.sampler == "grid":
            return next(self._left({**point, **fixed}), None) or next(self._left(fixed), dict(fixed))
        params: dict[str, Any] = {}
        for attempt in range(ATTEMPTS):
            params = self._draw(study, trial, self._build(trial.number, attempt), point)
            if self._is_new(params):
                return params
        return self._at_random(trial, fixed, params)

    def _at_random(self, trial: FrozenTrial, fixed: Mapping[str, Any], params: dict[str, Any]) -> dict[str, Any]:
        """A configuration that is new; `params`, or any, where there is none."""
        rng = random.Random(trial_seed(self._search.seed or 0, -1 - trial.number))
        for _ in range(RANDOM_ATTEMPTS):
            drawn = self._space.sample(rng, fixed)
            if self._is_new(drawn):
                return drawn
        return params or drawn if self._space.endless else next(self._left(fixed), params or drawn)

    def _draw(
        self, study: optuna.Study, trial: FrozenTrial, sampler: BaseSampler, point: Mapping[str, Any]
    ) -> dict[str, Any]:
        """One sample, parents before the parameters they switch on."""
        params = {name: each for name, each in point.items() if name in self._space}
        params |= params_of(self._space, trial.params)
        if self._follows_priors(study):
            rng = random.Random(sampler.sample_independent(study, trial, "", UNIT))
            return self._space.sample(rng, params)
        joint = self._joint or sampler.infer_relative_search_space(study, trial)
        relative = sampler.sample_relative(study, trial, joint) if joint else {}
        for name in self._space:
            if not self._space.is_active(name, params):
                params.pop(name, None)
            elif name not in params:
                wanted = self._distributions[name]
                if wanted.single():
                    chosen = _only(wanted)
                elif name in relative:
                    chosen = relative[name]
                else:
                    chosen = sampler.sample_independent(study, trial, name, wanted)
                params[name] = value(self._space[name], chosen)
        return params

    def _copy(self, study: optuna.Study, number: int) -> optuna.Study:
        """The study as it was when the trial before was proposed.

        That moment, not the present, so that the proposal made ahead is the one that a resumed sweep makes.
        """
        trials = [trial for trial in study.get_trials(deepcopy=False) if trial.number < number]
        moment = trials[-1].datetime_start if trials else None
        then = optuna.create_study(directions=study.directions, sampler=RandomSampler(seed=0))
        then.add_trials([*self._known, *(_as_of(trial, moment) for trial in trials)])
        then.ask()
        return then

    def _follows_priors(self, study: optuna.Study) -> bool:
        """Whether there is too little to learn from, so that what is believed decides."""
        if not self._space.has_priors or self._search.sampler == "qmc":
            return False
        done = (TrialState.COMPLETE, TrialState.PRUNED)
        return self._search.sampler == "random" or len(study.get_trials(deepcopy=False, states=done)) < STARTUP

    def _build(self, number: int, attempt: int) -> BaseSampler:
        """A fresh sampler for one proposal: what it draws depends on the trial's number, not on those before."""
        with warnings.catch_warnings():
            # What is marked experimental here has been in Optuna since 3.x; each is covered by a test.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            seed = trial_seed(self._search.seed or 0, -1 - number) + attempt
            return self._sampler.build(seed % 2**31, (self._search.seed or 0) % 2**31, self._space)

    def _is_new(self, params: Mapping[str, Any]) -> bool:
        """Whether a configuration is one of the space, and not run yet."""
        return (self._search.duplicates or _key(params) not in self._seen) and not self._space.problems_with(params)

    def _left(self, fixed: Mapping[str, Any] = MappingProxyType({})) -> Iterator[dict[str, Any]]:
        """The configurations of a finite space that were not proposed yet, those that agree with `fixed`."""
        return (
            point
            for point in self._space.grid()
            if _key(point) not in self._seen and all(point.get(name) == value for name, value in fixed.items())
        )

    def view(self, study: optuna.Study) -> optuna.Study:
        """A study as the sampler sees it: with what is known from elsewhere."""
        return _View(study, self._known) if self._known else study


class _View(optuna.Study):
    """A study with the trials of others before its own; the samplers of Optuna read `_get_trials` alone."""

    def __init__(self, study: optuna.Study, known: Sequence[FrozenTrial]) -> None:
        vars(self).update(vars(study))
        self._others = known

    def _get_trials(self, deepcopy: bool = True, states: Any = None, use_cache: bool = False) -> list[FrozenTrial]:
        others = [trial for trial in self._others if states is None or trial.state in states]
        return [*others, *super()._get_trials(deepcopy, states, use_cache)]


def _as_of(trial: FrozenTrial, moment: datetime | None) -> FrozenTrial:
    """A trial, running if it ended after a moment."""
    if moment is None or trial.datetime_complete is None or trial.datetime_complete <= moment:
        return trial
    before = copy(trial)
    before.state, before.values, before.datetime_complete = TrialState.RUNNING, None, None
    return before


def known_trial(space: Space, index: int, known: Known) -> FrozenTrial:
    """A trial that was run elsewhere, as Optuna's samplers see one: without a value it was pruned."""
    trial = create_trial(
        state=TrialState.PRUNED if known.value is None else TrialState.COMPLETE,
        value=known.value,
        params=chosen_for(known.params),
        distributions={name: distribution(space[name]) for name in known.params},
        intermediate_values=dict(known.curve),
    )
    trial.number = ELSEWHERE + index
    return trial


def _only(single: BaseDistribution) -> Any:
    return single.choices[0] if isinstance(single, CategoricalDistribution) else getattr(single, "low")  # noqa: B009


def _key(params: Mapping[str, Any]) -> str:
    """The same for the same configuration: a step of 0.1 three times over is 0.3."""
    plain = chosen_for(params)
    rounded = {name: float(f"{each:.12g}") if isinstance(each, float) else each for name, each in plain.items()}
    return json.dumps(rounded, sort_keys=True)
