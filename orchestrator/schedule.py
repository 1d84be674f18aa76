"""Which trials live: schedulers on durable numbers and absolute epochs, Tune's own underneath (Ray Tune).

A scheduler hears of everything in the order in which it is recorded, and its state follows from that alone: one that
is told the ledger's history decides as if nothing had happened. None knows of Ray's actors, so that all can be driven
by a simulation as they are by a sweep.
"""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, HyperBandScheduler, MedianStoppingRule, TrialScheduler

from orchestrator import population
from orchestrator.messages import Change, Step, Verdict
from orchestrator.parameter import Float, Int, Parameter
from orchestrator.spec import Spec, mutable

VERDICTS = {
    TrialScheduler.CONTINUE: Verdict.CONTINUE,
    TrialScheduler.STOP: Verdict.PRUNE,
    TrialScheduler.PAUSE: Verdict.PAUSE,
}


class Proposed(Protocol):
    """What is read of a trial on record."""

    @property
    def number(self) -> int:
        """Its number."""

    @property
    def repeat_of(self) -> int | None:
        """The trial that it repeats."""

    @property
    def proposed(self) -> Mapping[str, Any]:
        """Its hyperparameters when it began."""


class Record(Protocol):
    """What is read of a ledger."""

    @property
    def records(self) -> Sequence[Proposed]:
        """Every trial."""

    def history(self) -> Iterable[Step]:
        """Everything that happened to them, in order."""


class Scheduler:
    """Every trial to its end; what all schedulers are driven by."""

    breadth_first = False
    """Whether new trials begin before paused ones go on."""

    def __init__(self) -> None:
        self._epochs: dict[int, int] = {}
        self._paused: dict[int, int] = {}
        self._ended: set[int] = set()

    # What a sweep tells.

    def begin(self, number: int, params: Mapping[str, Any]) -> None:
        """A trial was proposed."""
        self._epochs.setdefault(number, 0)

    def report(self, number: int, epoch: int, value: float) -> Verdict:
        """An epoch, and what becomes of its trial; one that was reported before is not judged again."""
        if number not in self._epochs or epoch <= self._epochs[number] or number in self._ended:
            return Verdict.CONTINUE
        if number in self._paused:
            self.resumed(number)
        self._epochs[number] = epoch
        verdict = self._judge(number, epoch, value)
        if verdict is Verdict.PAUSE:
            self._paused[number] = epoch
        return verdict

    def resumed(self, number: int, change: Change | None = None) -> None:
        """A paused trial took a slot, changed or not."""
        self._paused.pop(number, None)

    def end(self, number: int) -> None:
        """A trial is over."""
        if number in self._epochs and number not in self._ended:
            self._ended.add(number)
            self._paused.pop(number, None)
            self._finish(number)

    def close(self) -> None:
        """No further trial will begin."""

    # What a sweep asks.

    @property
    def paused(self) -> list[int]:
        """The trials that are paused."""
        return list(self._paused)

    def ready(self) -> list[int]:
        """The paused trials that may go on, the next one first."""
        return sorted(self._paused)

    def dropped(self) -> list[int]:
        """Paused trials that are not to go on."""
        return []

    def change(self, number: int) -> Change | None:
        """What changes about a paused trial when it goes on."""
        return None

    # What a scheduler is.

    def _judge(self, number: int, epoch: int, value: float) -> Verdict:
        return Verdict.CONTINUE

    def _finish(self, number: int) -> None:
        pass


class _Standin:
    """What Tune's schedulers see of a trial: Tune's own ids are new ones after every resume, numbers are not."""

    def __init__(self, number: int) -> None:
        self.number, self.trial_id = number, str(number)
        self.status, self.is_saving = Trial.PENDING, False
        self.last_result: Mapping[str, Any] = MappingProxyType({})


class TunesOwn(Scheduler):
    """One of Ray Tune's schedulers that stop trials and never pause them."""

    def __init__(self, scheduler: TrialScheduler) -> None:
        super().__init__()
        self._tunes = scheduler
        self._standins: dict[int, _Standin] = {}

    def begin(self, number: int, params: Mapping[str, Any]) -> None:
        """A trial was proposed."""
        super().begin(number, params)
        if number not in self._standins:
            self._standins[number] = _Standin(number)
            self._tunes.on_trial_add(self, self._standins[number])

    def _judge(self, number: int, epoch: int, value: float) -> Verdict:
        standin = self._standins[number]
        standin.status = Trial.RUNNING
        standin.last_result = {"epoch": epoch, "value": value}
        verdict = VERDICTS[self._tunes.on_trial_result(self, standin, standin.last_result)]
        standin.status = Trial.PAUSED if verdict is Verdict.PAUSE else Trial.RUNNING
        return verdict

    def _finish(self, number: int) -> None:
        standin = self._standins[number]
        standin.status = Trial.TERMINATED
        if standin.last_result:
            self._tunes.on_trial_complete(self, standin, standin.last_result)
        else:
            self._tunes.on_trial_remove(self, standin)


class HyperBand(TunesOwn):
    """Tune's HyperBand: brackets of trials that wait for each other at every rung, paused.

    A trial's bracket follows from its number, so every number that may come is in its bracket from the beginning: a
    bracket does not halve before its trials have all been there.

    Source: Li et al., Hyperband: A Novel Bandit-Based Approach to Hyperparameter Optimization, 2018 (JMLR 18).
    """

    def __init__(self, scheduler: HyperBandScheduler, trials: int) -> None:
        super().__init__(scheduler)
        self._begun: set[int] = set()
        self._dropped: list[int] = []
        for number in range(trials):
            super().begin(number, {})

    def begin(self, number: int, params: Mapping[str, Any]) -> None:
        """A trial was proposed."""
        super().begin(number, params)
        self._begun.add(number)

    def close(self) -> None:
        """No further trial will begin: brackets wait for none."""
        for number in sorted(set(self._standins) - self._begun):
            self.end(number)

    def ready(self) -> list[int]:
        """The survivors of a halving."""
        wanted = {standin for bracket in self._brackets() for standin in bracket.trials_to_unpause}
        return [number for number in sorted(self._paused) if self._standins[number] in wanted]

    def dropped(self) -> list[int]:
        """The victims of a halving."""
        dropped, self._dropped = self._dropped, []
        return dropped

    def resumed(self, number: int, change: Change | None = None) -> None:
        """A paused trial took a slot."""
        super().resumed(number)
        self._standins[number].status = Trial.RUNNING

    def stop_trial(self, standin: _Standin) -> None:
        """Tune's scheduler ends a paused trial: what its controller would be asked to do."""
        self._dropped.append(standin.number)
        self.end(standin.number)

    def _finish(self, number: int) -> None:
        self._standins[number].status = Trial.TERMINATED
        self._tunes.on_trial_remove(self, self._standins[number])
        self._settle()

    def _judge(self, number: int, epoch: int, value: float) -> Verdict:
        verdict = super()._judge(number, epoch, value)
        self._settle()
        return verdict

    def _settle(self) -> None:
        # Tune sets it at the first halving and never again, so that a trial that fails later would block its bracket.
        for bracket in self._brackets():
            bracket.is_being_processed = False

    def _brackets(self) -> list[Any]:
        return [bracket for band in self._tunes._hyperbands for bracket in band if bracket is not None]


class Population(Scheduler):
    """Population based training: at every interval the worst copy the best, and go on with other hyperparameters.

    A trial is compared with those that have reached the same epoch. It is paused there while others wait for their
    turn, and its fate decided when it takes a slot again, from what is known by then.

    Sources: Jaderberg et al., Population Based Training of Neural Networks, 2017 (arXiv:1711.09846); for PB2
    Parker-Holder et al., Provably Efficient Online Hyperparameter Optimization, 2020 (arXiv:2002.02518).
    """

    breadth_first = True

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self._spec, self._space = spec, spec.load_space()
        self._trials = spec.trials
        named = spec.schedule.mutate
        self._mutated = mutable(self._space) if named is None else named
        self._curves: dict[int, dict[int, float]] = {}
        self._lives: dict[int, list[Change]] = {}

    def begin(self, number: int, params: Mapping[str, Any]) -> None:
        """A trial was proposed."""
        super().begin(number, params)
        self._curves[number], self._lives[number] = {}, [Change(epoch=0, params=params)]

    def resumed(self, number: int, change: Change | None = None) -> None:
        """A paused trial took a slot, changed or not."""
        super().resumed(number)
        if change is not None:
            self._lives[number].append(change)

    def close(self) -> None:
        """No further trial will begin."""
        self._trials = len(self._epochs)

    def ready(self) -> list[int]:
        """The paused trials, those that have trained least first, then those that wait longest."""
        return sorted(self._paused, key=lambda number: self._paused[number])

    def change(self, number: int) -> Change | None:
        """The copy of a better trial that a paused one goes on as."""
        return self._decide(number, self._paused[number])

    def _judge(self, number: int, epoch: int, value: float) -> Verdict:
        self._curves[number][epoch] = value
        if not self._spec.schedule.copies_at(epoch):
            return Verdict.CONTINUE
        others_wait = bool(self._paused) or len(self._epochs) < self._trials
        return Verdict.PAUSE if others_wait or self._decide(number, epoch) else Verdict.CONTINUE

    def _decide(self, number: int, epoch: int) -> Change | None:
        """What a trial copies at an epoch, from what is known now; always the same from the same knowledge."""
        scores = {other: self._curves[other][epoch] for other in self._candidates(epoch)}
        rng = random.Random(f"{self._spec.search.seed}/{number}/{epoch}")
        quantile = self._spec.schedule.quantile
        other = population.donor(self._spec.goal, scores, number, quantile=quantile, rng=rng)
        if other is None:
            return None
        params = self._explore(other, epoch, rng)
        return Change(epoch=epoch, params={**self._spec.params, **params}, copied_from=other)

    def _candidates(self, epoch: int) -> list[int]:
        """Trials that were at an epoch and did not fail; those that are done keep their checkpoints until the end."""
        last = self._spec.schedule.max_epochs
        alive = (number for number in self._curves if number not in self._ended or last in self._curves[number])
        return [number for number in alive if epoch in self._curves[number]]

    def _life(self, number: int, epoch: int) -> Change:
        """What a trial trained its epoch with, and since when."""
        return next(change for change in reversed(self._lives[number]) if change.epoch < epoch)

    def _explore(self, other: int, epoch: int, rng: random.Random) -> dict[str, Any]:
        """The hyperparameters to go on with from another trial's checkpoint."""
        return population.explored(self._space, self._life(other, epoch).params, self._mutated, rng)


class Bandit(Population):
    """PB2: hyperparameters come from a Gaussian process over what they brought in the intervals so far, Ray's own."""

    def _explore(self, other: int, epoch: int, rng: random.Random) -> dict[str, Any]:
        params = {name: value for name, value in self._life(other, epoch).params.items() if name in self._space}
        names = [name for name in self._mutated if name in params]
        gains = [gain for number in self._curves for gain in self._gains(number, names)]
        if len(gains) < 2 or not names:
            return super()._explore(other, epoch, rng)
        sign = 1 if self._spec.goal == "maximize" else -1
        at_once = [
            [self._scaled(name, change.params[name]) for name in names]
            for changes in self._lives.values()
            for change in changes[1:]
            if change.epoch == epoch and all(name in change.params for name in names)
        ]
        chosen = _upper_bound(
            np.array(gains),
            here=np.array([epoch, sign * self._curves[other][epoch]]),
            at_once=np.array(at_once) if at_once else None,
            bounds={name: self._bounds(name) for name in names},
            seed=rng.getrandbits(32),
        )
        for name, number in zip(names, chosen, strict=True):
            parameter = self._space[name]
            params[name] = population.snapped(parameter, math.exp(number) if _is_log(parameter) else float(number))
        return super()._explore(other, epoch, rng) if self._space.problems_with(params) else params

    def _gains(self, number: int, names: Sequence[str]) -> Iterator[list[float]]:
        """What each interval of a trial brought: rows of epoch, value before, hyperparameters, gain per epoch."""
        interval, curve = self._spec.schedule.interval_epochs, self._curves[number]
        sign = 1 if self._spec.goal == "maximize" else -1
        for epoch in range(2 * interval, max(curve, default=0) + 1, interval):
            life, start = self._life(number, epoch), epoch - interval
            source = life.copied_from if life.epoch == start and life.copied_from is not None else number
            before = self._curves[source].get(start)
            if before is None or epoch not in curve or any(name not in life.params for name in names):
                continue
            scaled = [self._scaled(name, life.params[name]) for name in names]
            yield [epoch, sign * before, *scaled, sign * (curve[epoch] - before) / interval]

    def _scaled(self, name: str, value: float) -> float:
        return math.log(value) if _is_log(self._space[name]) else value

    def _bounds(self, name: str) -> tuple[float, float]:
        parameter = self._space[name]
        if not isinstance(parameter, Float | Int):
            raise TypeError(f"{parameter.kind} is no range")
        return self._scaled(name, parameter.low), self._scaled(name, parameter.high)


def _upper_bound(
    gains: Any, *, here: Any, at_once: Any, bounds: Mapping[str, tuple[float, float]], seed: int
) -> list[float]:
    """Where Ray's time-varying Gaussian process expects most, of shape (hyperparameters,), on their scales.

    Args:
        gains: rows of epoch, value before, hyperparameters, gain; shape (n, 2 + hyperparameters + 1).
        here: epoch and value of the checkpoint to go on from; shape (2,).
        at_once: hyperparameters that others go on with from the same epoch, or None; shape (m, hyperparameters).
        bounds: of each hyperparameter.
        seed: of the search for the maximum.
    """
    from ray.tune.schedulers.pb2 import _select_config  # scikit-learn's; imported for PB2 alone

    state = np.random.get_state()
    np.random.seed(seed)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scikit-learn's, of a fit that stopped early: any fit will do
            return [float(x) for x in _select_config(gains[:, :-1], gains[:, -1], at_once, here, dict(bounds), 2)]
    finally:
        np.random.set_state(state)


def _is_log(parameter: Parameter) -> bool:
    return isinstance(parameter, Float | Int) and parameter.log


def build(spec: Spec, ledger: Record | None = None) -> Scheduler:
    """The scheduler of a sweep, in the state that what is on record has brought it to."""
    scheduler = _new(spec)
    if ledger is None:
        return scheduler
    # Trials that repeat another one run to their end, and are compared with none.
    records = {record.number: record for record in ledger.records if record.repeat_of is None}
    for step in ledger.history():
        if step.number not in records:
            continue
        match step.what:
            case "begun":
                scheduler.begin(step.number, records[step.number].proposed)
            case "reported":
                scheduler.report(step.number, step.epoch, step.value)
            case "resumed":
                scheduler.resumed(step.number, step.change)
            case "ended":
                scheduler.end(step.number)
    return scheduler


def _new(spec: Spec) -> Scheduler:
    schedule = spec.schedule
    common = {"time_attr": "epoch", "metric": "value", "mode": "max" if spec.goal == "maximize" else "min"}
    match schedule.scheduler:
        case "asha":  # Li et al., A System for Massively Parallel Hyperparameter Tuning, 2020 (arXiv:1810.05934)
            return TunesOwn(
                ASHAScheduler(
                    **common,
                    max_t=schedule.max_epochs,
                    grace_period=schedule.grace_epochs,
                    reduction_factor=schedule.reduction_factor,
                )
            )
        case "median":  # Golovin et al., Google Vizier, 2017
            # An endless slice, because a trial that cannot be judged yet is to go on, not to wait.
            return TunesOwn(MedianStoppingRule(**common, grace_period=schedule.grace_epochs, min_time_slice=math.inf))
        case "hyperband":
            tunes = HyperBandScheduler(**common, max_t=schedule.max_epochs, reduction_factor=schedule.reduction_factor)
            return HyperBand(tunes, spec.trials)
        case "pbt":
            return Population(spec)
        case "pb2":
            return Bandit(spec)
        case _:
            return Scheduler()
