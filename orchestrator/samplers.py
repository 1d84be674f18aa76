"""Who proposes: our sampler and Optuna's, each asked for a whole configuration at once (optuna).

To add one is to add its entry to `SAMPLERS`, and its name to `Search.sampler` in spec.py.
"""

from __future__ import annotations

import json
import random
import threading
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, QMCSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from orchestrator import aside
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
# Trials that end before what was learned counts rather than the space's priors; as many as Optuna's samplers want.
PRIOR_TRIALS = 10
# Points drawn at random before what is left of a finite space is looked through.
RANDOM_ATTEMPTS = 256
# How much the seconds of an epoch count at first. With 1 it is improvement per second (Snoek et al., 2012,
# arXiv:1206.2944); with 2 searches were faster, on four tasks (docs/design.md): what is expensive is known later, too.
COST_EXPONENT = 2
# What a proposal in the making is waited for at a time; whoever asks in vain asks again in 0.1 s (Tune).
MOMENT_S = 0.05
# Trials that were run elsewhere come after all of a sweep's own: Optuna's samplers tell trials apart by number.
ELSEWHERE = 10**9


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """How a sampler is made, and what it is asked for."""

    build: Callable[[int, int, Space, float], BaseSampler]
    """Makes it from the proposal's own seed, the sweep's, the space, and how much the cost of an epoch counts."""
    joint: Callable[[Space], Iterable[str]] | None = None
    """The parameters it samples together; None where Optuna works them out. It samples the others one by one."""
    learns: bool = True
    """Whether it works out what to propose from results, which takes time: then it does so ahead, while trials run."""


UNIT = FloatDistribution(0.0, 1.0)


class _GaussianProcess(GPSampler):
    """Optuna's, computed by one thread: several wait for each other on a busy machine, and round in another order."""

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As Optuna's."""
        import torch  # takes seconds, and nobody else here needs it

        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return super().sample_relative(study, trial, search_space)
        finally:
            torch.set_num_threads(before)


def _tpe(seed: int, *_: object) -> TPESampler:
    # multivariate and constant_liar are Optuna 5's defaults; group is what makes multivariate know conditions.
    return TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)


def _always_active(space: Space) -> list[str]:
    return [name for name, parameter in space.items() if not parameter.conditions]


def _numeric(space: Space) -> list[str]:
    return [name for name in _always_active(space) if not isinstance(space[name], Choice | Fixed)]


SAMPLERS: Mapping[str, Sampler] = {
    "curves": Sampler(
        build=lambda seed, _, space, exponent: CurveSampler(space, seed, cost_exponent=exponent), joint=list
    ),
    "tpe": Sampler(build=_tpe),
    "gp": Sampler(
        build=lambda seed, *_: _GaussianProcess(
            seed=seed, independent_sampler=_tpe(seed), warn_independent_sampling=False, deterministic_objective=False
        ),
        joint=_always_active,
    ),
    "cmaes": Sampler(
        build=lambda seed, *_: CmaEsSampler(seed=seed, independent_sampler=_tpe(seed), warn_independent_sampling=False),
        joint=_numeric,
    ),
    # A sequence is one: every proposal has the sweep's seed. Parameters that are not active leave their column unused.
    "qmc": Sampler(
        build=lambda seed, sweep_seed, *_: QMCSampler(
            scramble=True, seed=sweep_seed, independent_sampler=RandomSampler(seed), warn_independent_sampling=False
        ),
        joint=list,
        learns=False,
    ),
    "random": Sampler(build=lambda seed, *_: RandomSampler(seed=seed), learns=False),
    # The proposer walks the grid itself.
    "grid": Sampler(build=lambda seed, *_: RandomSampler(seed=seed), learns=False),
}


class Proposer(BaseSampler):
    """The sampler of a sweep's study: whole configurations, valid, in the space, and none twice.

    A proposal depends on the seed, its trial's number, how many there will be, and what was on record when the trial
    before it had begun (of several for slots that are free together: the trial before the first of them), and on
    nothing else: every one is made by a sampler of its own. So a sweep that was killed proposes what it would have
    proposed, and there is time to make them before slots are free for them.
    """

    def __init__(
        self,
        search: Search,
        space: Space,
        *,
        points: Sequence[Mapping[str, Any]] = (),
        known: Sequence[Known] = (),
        trials: int,
    ) -> None:
        """Make the proposer of a sweep.

        Args:
            search: the resolved settings; its sampler is not 'auto', its seed not None.
            space: what is searched.
            points: configurations, or parts of them, to begin with, after the space's own default; what they leave
                out is sampled.
            known: trials that were run elsewhere.
            trials: how many there are when all are proposed: the cost of an epoch counts less and less, and the last
                one is chosen for its improvement alone. The idea is that of cost cooling (Lee et al., 2020,
                arXiv:2003.10870), which goes by the cost that is spent.
        """
        self._search, self._space, self._trials = search, space, trials
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
        self._ahead: dict[int, Future[tuple[dict[str, Any], _Notes]]] = {}
        self._wanted = threading.Event()
        # Samplers compute by one thread, which is a setting of the process: two at once would take it from each other.
        self._one_at_a_time = threading.Lock()

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

    @property
    def learns(self) -> bool:
        """Whether its proposals are made ahead: `prepare` does nothing where not."""
        return self._sampler.learns

    def prepare(self, study: optuna.Study, number: int, trials: Sequence[FrozenTrial], count: int) -> None:
        """Begin to make the proposals to come, one after the other, in a thread, where the sampler learns from results.

        Those that were in the making are given up.

        Args:
            study: whose directions count.
            number: the first one's trial.
            trials: what they know. Not as these are when a slot is free: then there would be none to give it.
            count: how many; each takes those before it for running.
        """
        if not self.learns:
            return
        for outdated in self._ahead.values():
            outdated.cancel()
        self._ahead = {each: Future() for each in range(number, number + count)}
        # Not in the thread: to build one keeps warnings quiet, those of the whole process.
        samplers = [self._build(each) for each in self._ahead]
        aside.begin("proposal", self._make, study, dict(self._ahead), samplers, list(trials))

    def is_ahead(self, number: int) -> bool:
        """Whether a trial's proposal was made ahead, or will be."""
        return number in self._ahead and not self._ahead[number].cancelled()

    def is_ready(self, number: int) -> bool:
        """Whether a trial's proposal would keep nobody waiting; one in the making is given a moment."""
        proposal = self._ahead.get(number)
        if proposal is None or proposal.done():
            return True
        self._wanted.set()
        wait([proposal], MOMENT_S)
        return proposal.done()

    def begun(self, number: int, params: Mapping[str, Any]) -> FrozenTrial:
        """A trial as those see it whose proposals are made with it: it runs, and nothing is known of it."""
        inside = {name: each for name, each in params.items() if name in self._space}
        trial = create_trial(
            state=TrialState.RUNNING,
            params=chosen_for(inside),
            distributions={name: self._distributions[name] for name in inside},
        )
        trial.number = number
        return trial

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
            if trial.number in self._ahead:
                params, notes = self._ahead.pop(trial.number).result()
                if fixed.items() <= params.items():
                    notes.write(study, trial)
                    return chosen_for(params)
            return chosen_for(self._propose(self.view(study), trial, self._build(trial.number), fixed))
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
        return self._build(trial.number).sample_independent(study, trial, param_name, param_distribution)

    # The proposal.

    def _make(
        self,
        study: optuna.Study,
        ahead: Mapping[int, Future[tuple[dict[str, Any], _Notes]]],
        samplers: Sequence[BaseSampler],
        trials: list[FrozenTrial],
    ) -> None:
        """Proposals from trials as they were, and what the samplers noted of them; after one that fails, none."""
        beside = set[str]()
        took_s = 0.0
        for (number, proposal), sampler in zip(ahead.items(), samplers, strict=True):
            # Few but the first are ever taken: they leave as much of a core as they take, until one is asked for.
            self._wanted.wait(took_s)
            if not proposal.set_running_or_notify_cancel():
                return
            began_s, notes = time.monotonic(), _Notes()
            view = _View(study, [*self._known, *trials], notes)
            try:
                params = self._propose(view, self.begun(number, {}), sampler, {}, beside)
            except BaseException as exc:  # noqa: BLE001 - whatever it is, whoever asks for the proposal is told
                for later in ahead.values():
                    later.cancel()
                proposal.set_exception(exc)
                return
            trials.append(self.begun(number, params))
            beside.add(_key(params))
            took_s = time.monotonic() - began_s
            self._wanted.clear()
            proposal.set_result((params, notes))

    def _propose(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        sampler: BaseSampler,
        fixed: Mapping[str, Any],
        beside: Collection[str] = (),
    ) -> dict[str, Any]:
        """The configuration for a trial, given a study as the sampler is to see it, and what is on record of it.

        None of those `beside` it, which were proposed for trials before it that have not begun.
        """
        point = self._points[trial.number] if trial.number < len(self._points) else {}
        if self._search.sampler == "grid":
            return next(self._left({**point, **fixed}), None) or next(self._left(fixed), dict(fixed))
        params: dict[str, Any] = {}
        for _ in range(ATTEMPTS):
            with self._one_at_a_time:
                params = self._draw(study, trial, sampler, point)
            if self._is_new(params, beside):
                return params
        return self._at_random(trial, fixed, params, beside)

    def _at_random(
        self, trial: FrozenTrial, fixed: Mapping[str, Any], params: dict[str, Any], beside: Collection[str] = ()
    ) -> dict[str, Any]:
        """A configuration that is new; `params`, or any, where there is none."""
        rng = random.Random(trial_seed(self._search.seed or 0, -1 - trial.number))
        for _ in range(RANDOM_ATTEMPTS):
            drawn = self._space.sample(rng, fixed)
            if self._is_new(drawn, beside):
                return drawn
        return params or drawn if self._space.endless else next(self._left(fixed, beside), params or drawn)

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

    def _follows_priors(self, study: optuna.Study) -> bool:
        """Whether there is too little to learn from, so that what is believed decides."""
        if not self._space.has_priors or self._search.sampler == "qmc":
            return False
        done = (TrialState.COMPLETE, TrialState.PRUNED)
        return self._search.sampler == "random" or len(study.get_trials(deepcopy=False, states=done)) < PRIOR_TRIALS

    def _build(self, number: int) -> BaseSampler:
        """A fresh sampler for one proposal: what it draws depends on the trial's number, not on those before."""
        with warnings.catch_warnings():
            # What is marked experimental here has been in Optuna since 3.x; each is covered by a test.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            seed = trial_seed(self._search.seed or 0, -1 - number)
            return self._sampler.build(
                seed % 2**31, (self._search.seed or 0) % 2**31, self._space, self._cost_exponent(number)
            )

    def _cost_exponent(self, number: int) -> float:
        """How much the cost of an epoch counts for a trial, from `COST_EXPONENT` to 0 for the last."""
        if not self._search.cost_aware:
            return 0.0
        return COST_EXPONENT * max(0.0, 1 - (number + 1) / self._trials) ** 2

    def _is_new(self, params: Mapping[str, Any], beside: Collection[str]) -> bool:
        """Whether a configuration is one of the space, and not run yet."""
        is_new = self._search.duplicates or self._is_unseen(params, beside)
        return is_new and not self._space.problems_with(params)

    def _is_unseen(self, params: Mapping[str, Any], beside: Collection[str]) -> bool:
        return (key := _key(params)) not in self._seen and key not in beside

    def _left(
        self, fixed: Mapping[str, Any] = MappingProxyType({}), beside: Collection[str] = ()
    ) -> Iterator[dict[str, Any]]:
        """The configurations of a finite space that were not proposed yet, those that agree with `fixed`."""
        return (
            point
            for point in self._space.grid()
            if self._is_unseen(point, beside) and all(point.get(name) == value for name, value in fixed.items())
        )

    def view(self, study: optuna.Study) -> optuna.Study:
        """A study as the sampler sees it: with what is known from elsewhere."""
        return _View(study, [*self._known, *study.get_trials(deepcopy=False)]) if self._known else study


class _View(optuna.Study):
    """A study of other trials than its own; the samplers of Optuna read `_get_trials` alone."""

    def __init__(self, study: optuna.Study, trials: Sequence[FrozenTrial], notes: _Notes | None = None) -> None:
        vars(self).update(vars(study))
        self._trials = trials
        if notes is not None:
            vars(self)["_storage"] = notes

    def _get_trials(self, deepcopy: bool = True, states: Any = None, use_cache: bool = False) -> list[FrozenTrial]:
        return [trial for trial in self._trials if states is None or trial.state in states]


class _Notes:
    """In place of the storage where a thread samples, since one alone may write: what the sampler notes of a trial."""

    def __init__(self) -> None:
        self._noted: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"a sampler that learns samples in a thread, and of the storage it has set_trial_system_attr alone: {name}"
            " is for one with learns=False"
        )

    def set_trial_system_attr(self, _trial_id: int, key: str, value: Any) -> None:
        """As a storage."""
        self._noted[key] = value

    def write(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Put it where the sampler meant it to be."""
        for key, noted in self._noted.items():
            study._storage.set_trial_system_attr(trial._trial_id, key, noted)


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
