"""Samplers: Optuna's own contract, valid and new configurations, the distributions asked for, the same after a kill."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.samplers import BaseSampler, GPSampler, TPESampler
from optuna.testing.pytest_samplers import BasicSamplerTestCase, MultiObjectiveSamplerTestCase, RelativeSamplerTestCase
from optuna.trial import FrozenTrial
from scipy import stats

from orchestrator import auto
from orchestrator.costs import EPOCH_S
from orchestrator.distributions import from_optuna
from orchestrator.folder import SweepFolder
from orchestrator.known import Known
from orchestrator.ledger import Ledger
from orchestrator.messages import Ended, Outcome, Report
from orchestrator.samplers import SAMPLERS, Proposer
from orchestrator.space import Space
from orchestrator.spec import Search, Spec

NUMERIC: dict[str, Any] = {
    "lr": {"type": "float", "low": 1e-4, "high": 0.1, "log": True},
    "momentum": {"type": "float", "low": 0.0, "high": 0.9},
    "depth": {"type": "int", "low": 1, "high": 6},
}
CONDITIONAL: dict[str, Any] = {
    **NUMERIC,
    "optimizer": {"options": ["sgd", "adamw"]},
    "beta": {"type": "float", "low": 0.8, "high": 0.99, "when": {"optimizer": "adamw"}},
}
FINITE: dict[str, Any] = {
    "a": {"options": ["x", "y"]},
    "b": {"type": "int", "low": 1, "high": 3},
    "c": {"type": "float", "low": 0.0, "high": 0.2, "step": 0.1, "when": {"a": "x"}},
}
MODELS = [name for name in SAMPLERS if name != "grid"]
LEARNING = [name for name, sampler in SAMPLERS.items() if sampler.learns]


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda fd: None)


class TestOptunasContract(BasicSamplerTestCase):
    """Optuna's published tests for every sampler, as far as parameters of no space go."""

    @pytest.fixture(params=MODELS)
    def sampler(self, request: pytest.FixtureRequest) -> Callable[[], BaseSampler]:
        return partial(Proposer, Search(sampler=request.param, seed=0), Space({}), trials=100)


class TestOptunasContractForWholeConfigurations(RelativeSamplerTestCase):
    """As far as samplers that propose them go: every one, of the space that a test is about."""

    @pytest.fixture(params=MODELS)
    def sampler(self, request: pytest.FixtureRequest) -> Callable[[], BaseSampler]:
        given, space = request.node.callspec.params, {}
        for name, options in (("x", [1, 10, 100]), ("y", [-1, -10, -100])):
            others = FloatDistribution(-10, 10) if "n_jobs" in given else CategoricalDistribution(options)
            space[name] = given.get(f"{name}_distribution", others)
        return partial(Proposer, Search(sampler=request.param, seed=0), from_optuna(space), trials=100)


class TestOptunasContractForSeveralObjectives(MultiObjectiveSamplerTestCase):
    """For those that know several."""

    @pytest.fixture(params=["tpe", "gp", "qmc", "random"])
    def sampler(self, request: pytest.FixtureRequest) -> Callable[[], BaseSampler]:
        return partial(Proposer, Search(sampler=request.param, seed=0), Space({}), trials=100)


def make_spec(sampler: str, space: dict[str, Any], **changes: Any) -> Spec:
    data: dict[str, Any] = {
        "name": "sweep", "trainable": "x", "space": space, "metric": "m", "goal": "maximize",
        "search": {"sampler": sampler, "seed": 5}, "schedule": {"max_epochs": 3}, "budget": {"trials": 100},
    }  # fmt: skip
    return Spec.model_validate({**data, **changes})


class Sweep:
    """Asks, trains in no time, and tells, on a real ledger."""

    def __init__(self, spec: Spec, folder: Path, create: bool = True) -> None:
        self.spec, self.folder = spec, SweepFolder(str(folder), "sweep")
        self.folder.create()
        self.ledger = Ledger(self.folder, spec, create=create)

    def run(self, trials: int, at_once: int = 3) -> list[dict[str, Any]]:
        """Several at once; the oldest ends when another is to begin."""
        while len(self.ledger.records) < trials and not self.ledger.exhausted:
            running = [record for record in self.ledger.records if record.state == "RUNNING"]
            if len(running) >= at_once:
                self.end(running[0].number)
            self.ledger.ask()
        return [dict(record.params) for record in self.ledger.records]

    def end(self, number: int) -> None:
        params = self.ledger.records[number].params
        value = -((math.log10(params.get("lr", 1e-2)) + 2) ** 2) - params.get("momentum", 0.5)
        pruned = number % 3 == 1
        for epoch in range(1, 2 if pruned else 4):
            self.ledger.report(
                Report(
                    number=number,
                    epoch=epoch,
                    value=value * (1 + 1 / epoch),
                    metrics={},
                    best_epoch=epoch,
                    checkpoint=None,
                    best_checkpoint=None,
                    epoch_s=4.0 ** params.get("depth", 1) / epoch,
                )
            )
        self.ledger.end(Ended(number=number, outcome=Outcome.PRUNED if pruned else Outcome.COMPLETE))


@pytest.mark.parametrize("sampler", MODELS)
@pytest.mark.parametrize("space", [NUMERIC, CONDITIONAL], ids=["numeric", "conditional"])
def test_proposals_are_valid_and_none_is_made_twice(sampler: str, space: dict[str, Any], tmp_path: Path) -> None:
    trials = 18 if sampler == "gp" else 24
    sweep = Sweep(make_spec(sampler, space), tmp_path)
    proposed = sweep.run(trials)
    assert sweep.ledger.troubles() == []
    assert [Space.from_data(space).problems_with(params) for params in proposed] == [[]] * trials
    assert len({tuple(sorted(params.items())) for params in proposed}) == trials


def test_what_costs_less_comes_first_unless_cost_is_not_to_count(tmp_path: Path) -> None:
    depths = {}
    for aware in (True, False):
        spec = make_spec("curves", NUMERIC, search={"sampler": "curves", "seed": 5, "cost_aware": aware})
        depths[aware] = [params["depth"] for params in Sweep(spec, tmp_path / str(aware)).run(30)]
    assert sum(depths[True][15:]) < sum(depths[False][15:])


def test_cost_counts_less_and_less_and_the_last_trial_is_chosen_for_its_improvement_alone() -> None:
    proposer = Proposer(Search(sampler="curves", seed=0), Space.from_data(NUMERIC), trials=40)
    exponents = [proposer._cost_exponent(number) for number in range(42)]
    assert all(later < earlier for earlier, later in pairwise(exponents[:40]))
    assert 1.8 < exponents[0] <= 2
    assert exponents[39:] == [0, 0, 0]
    unaware = Proposer(Search(sampler="curves", seed=0, cost_aware=False), Space.from_data(NUMERIC), trials=40)
    assert unaware._cost_exponent(0) == 0


@pytest.mark.parametrize("sampler", MODELS)
def test_a_sweep_that_is_killed_proposes_what_it_would_have(sampler: str, tmp_path: Path) -> None:
    spec = make_spec(sampler, CONDITIONAL)
    trials, kills = (18, [15]) if sampler == "gp" else (22, [1, 13, 18])  # its proposals take a while
    whole = Sweep(spec, tmp_path / "whole").run(trials)
    for kept in kills:
        sweep = Sweep(spec, tmp_path / str(kept))
        sweep.run(kept)
        if kept > 3:  # killed between a trial's end and the next proposal, which had begun before that end
            sweep.end(kept - 3)
        assert Sweep(spec, tmp_path / str(kept), create=False).run(trials) == whole, kept


@pytest.mark.parametrize("sampler", LEARNING)
def test_one_that_is_killed_in_the_middle_of_a_proposal_completes_the_same(sampler: str, tmp_path: Path) -> None:
    spec, journal = make_spec(sampler, CONDITIONAL, budget={"trials": 15}), tmp_path / "sweep" / "ledger.journal"
    sweep = Sweep(spec, tmp_path)
    sweep.run(14)
    sweep.end(11)
    before = len(journal.read_bytes())
    whole = sweep.ledger.ask().params
    written = journal.read_bytes()
    ends = [at + 1 for at, byte in enumerate(written) if byte == ord("\n") and at >= before]
    for cut in ends[::4] if sampler == "gp" else ends:  # its proposals take a while
        journal.write_bytes(written[:cut])
        assert Sweep(spec, tmp_path, create=False).run(15)[14] == whole, written[:cut].splitlines()[-1]


def until_ready(sweep: Sweep) -> None:
    until = time.monotonic() + 120
    while not sweep.ledger.ready:  # which waits for a moment
        assert time.monotonic() < until


def test_repetitions_are_no_proposals_those_after_them_are_made_ahead_as_well(tmp_path: Path) -> None:
    Sweep(make_spec("tpe", NUMERIC, budget={"trials": 4}), tmp_path).run(4)
    sweep = Sweep(make_spec("tpe", NUMERIC, budget={"trials": 4, "repeat": 2}), tmp_path, create=False)
    for number in range(4):
        sweep.end(number)
    for _ in range(2):
        sweep.end(sweep.ledger.repeat(0).number)
    sweep = Sweep(make_spec("tpe", NUMERIC, budget={"trials": 7}), tmp_path, create=False)
    ahead = [list(sweep.ledger._proposer._ahead)]
    for _ in range(3):
        sweep.ledger.ask()
        ahead.append(list(sweep.ledger._proposer._ahead))
    assert ahead == [[6], [7, 8], [8], []]
    assert (sweep.ledger.proposed, len(sweep.ledger.records)) == (7, 9)


@pytest.mark.parametrize("sampler", LEARNING)
def test_a_proposal_is_made_while_trials_run_from_what_was_known_when_the_last_one_began(
    sampler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that none keeps a free slot waiting, and a resumed sweep makes the same."""
    sweep = Sweep(make_spec(sampler, NUMERIC), tmp_path)
    sweep.run(14)
    until_ready(sweep)
    draw, may_go_on, seen = Proposer._draw, threading.Event(), dict[int, tuple[str, list[tuple[str, int, bool]]]]()

    def watched(self: Proposer, study: optuna.Study, trial: FrozenTrial, *rest: Any) -> dict[str, Any]:
        if self is not sweep.ledger._proposer:  # of a test before, in the making still
            return draw(self, study, trial, *rest)
        assert may_go_on.wait(60)
        others = [(each.state.name, len(each.intermediate_values), EPOCH_S in each.user_attrs)
                  for each in study.get_trials() if each != trial]  # fmt: skip
        seen[trial.number] = threading.current_thread().name, others
        return draw(self, study, trial, *rest)

    monkeypatch.setattr(Proposer, "_draw", watched)
    sweep.ledger.ask()  # it was ready
    known = [(record.state, len(record.curve), bool(record.curve)) for record in sweep.ledger.records]
    sweep.ledger.report(Report(number=13, epoch=1, value=0.5, metrics={}, best_epoch=1, checkpoint=None,
                               best_checkpoint=None, epoch_s=2.0))  # fmt: skip
    sweep.end(12)
    assert not sweep.ledger.ready
    may_go_on.set()
    until_ready(sweep)
    assert min(seen) == 15
    sweep.ledger.ask()
    assert sweep.ledger.troubles() == []
    thread, others = seen[15]
    assert thread.startswith("proposal")
    assert others == known
    assert known[12:14] == [("RUNNING", 0, False)] * 2


@pytest.mark.parametrize("sampler", LEARNING)
def test_slots_that_are_free_together_wait_no_longer_than_one(
    sampler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Proposals for them are made ahead one after the other, each with those before it for running."""
    sweep = Sweep(make_spec(sampler, NUMERIC), tmp_path)
    sweep.run(13)
    draw, seen = Proposer._draw, dict[int, list[tuple[str, int]]]()

    def watched(self: Proposer, study: optuna.Study, trial: FrozenTrial, *rest: Any) -> dict[str, Any]:
        others = [(each.state.name, len(each.intermediate_values)) for each in study.get_trials() if each != trial]
        if self is sweep.ledger._proposer:  # none of a test before, in the making still
            seen.setdefault(trial.number, others)
        return draw(self, study, trial, *rest)

    def until_ready(number: int) -> None:
        until = time.monotonic() + 120
        while not sweep.ledger._proposer.is_ready(number):
            assert time.monotonic() < until

    monkeypatch.setattr(Proposer, "_draw", watched)
    sweep.ledger.ask()
    known = [(record.state, len(record.curve)) for record in sweep.ledger.records]
    until_ready(15)
    sweep.end(11)
    sweep.end(12)
    sweep.ledger.ask(free=1)
    assert sweep.ledger._proposer.is_ready(15)
    sweep.ledger.ask()
    assert [seen.pop(14), seen.pop(15)] == [known, [*known, ("RUNNING", 0)]]
    known = [(record.state, len(record.curve)) for record in sweep.ledger.records]
    until_ready(17)
    assert set(seen) == {16, 17}
    assert seen[16] == known
    assert known[11][0] == "COMPLETE"

    # A slot that seems to be free and never is: what the first of those trials comes to is known all the same.
    sweep.ledger.ask(free=1)
    sweep.ledger.ask(free=1)
    sweep.end(16)
    known = [(record.state, len(record.curve)) for record in sweep.ledger.records]
    until_ready(18)
    assert seen[18] == [*seen[16], *2 * [("RUNNING", 0)]]
    sweep.ledger.ask(free=1)
    until_ready(19)
    assert seen[19] == [*known, ("RUNNING", 0)]
    assert sweep.ledger.troubles() == []


def test_one_proposal_is_computed_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of threads that computes one, and so how it is rounded, is a setting of the whole process."""
    sweep = Sweep(make_spec("curves", NUMERIC), tmp_path)
    sweep.run(10)
    until_ready(sweep)
    draw, begun, may_go_on, at_work, most = Proposer._draw, threading.Event(), threading.Event(), list[int](), 0

    def slow(self: Proposer, study: optuna.Study, trial: FrozenTrial, *rest: Any) -> dict[str, Any]:
        nonlocal most
        if self is not sweep.ledger._proposer:  # of a test before, in the making still
            return draw(self, study, trial, *rest)
        at_work.append(trial.number)
        most = max(most, len(at_work))
        begun.set()
        assert may_go_on.wait(60)
        at_work.remove(trial.number)
        return draw(self, study, trial, *rest)

    monkeypatch.setattr(Proposer, "_draw", slow)
    sweep.ledger.ask()
    assert begun.wait(60)
    sweep.ledger._prepare(11, 1)  # as for another line, while one of this is in the making
    assert not sweep.ledger.ready
    may_go_on.set()
    until_ready(sweep)
    assert (most, at_work) == (1, [])


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_a_finite_space_is_exhausted_and_nothing_run_twice(sampler: str, tmp_path: Path) -> None:
    if sampler == "cmaes":
        pytest.skip("the space has one numeric parameter without conditions, which a spec for cmaes is refused for")
    sweep = Sweep(make_spec(sampler, FINITE), tmp_path)
    proposed = sweep.run(100)
    points = list(Space.from_data(FINITE).grid())
    assert len(proposed) == len(points) == 12
    assert all(any(params == pytest.approx(point) or params == point for point in points) for params in proposed)
    assert sweep.ledger.exhausted
    assert make_spec(sampler, FINITE).trials == 12


def test_duplicates_are_run_where_they_are_asked_for(tmp_path: Path) -> None:
    spec = make_spec("random", FINITE, search={"sampler": "random", "seed": 5, "duplicates": True})
    assert spec.trials == 100
    assert len(Sweep(spec, tmp_path).run(40)) == 40


def test_what_is_known_from_elsewhere_is_not_proposed_again_and_learned_from() -> None:
    space = Space.from_data(FINITE)
    known = [Known(params=point, value=1.0, curve={}, exact=True) for point in list(space.grid())[:9]]
    proposer = Proposer(Search(sampler="tpe", seed=1), space, known=known, trials=100)
    study = optuna.create_study(sampler=proposer)
    drawn = [proposer.sample_relative(study, study.ask()._cached_frozen_trial, {}) for _ in range(1)]
    assert drawn[0] in list(space.grid())[9:]
    assert len(proposer.view(study).get_trials()) == 10


@pytest.mark.parametrize(("sampler", "model"), [("gp", GPSampler), ("tpe", TPESampler)])
def test_a_sampler_that_fails_is_said_and_the_sweep_goes_on(
    sampler: str, model: type[BaseSampler], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(sampler, NUMERIC)
    sweep = Sweep(spec, tmp_path)
    sweep.run(12)

    def fail(*_: object) -> dict[str, Any]:
        raise ValueError("not positive definite")

    with monkeypatch.context() as broken:
        broken.setattr(model, "sample_relative", fail)
        Sweep(spec, tmp_path, create=False).run(13)  # a resumed sweep goes on as well
        sweep = Sweep(spec, tmp_path, create=False)
        sweep.run(14)
    assert sweep.ledger.troubles() == [
        f"sampler {sampler} could not propose trial 13 (ValueError('not positive definite')): it is drawn at random"
    ]
    assert Space.from_data(NUMERIC).problems_with(sweep.ledger.records[13].params) == []
    assert len(Sweep(spec, tmp_path, create=False).run(16)) == 16


def test_gaussian_processes_are_computed_by_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []
    monkeypatch.setattr(GPSampler, "sample_relative", lambda *_: threads.append(torch.get_num_threads()) or {})
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        Sweep(make_spec("gp", NUMERIC, budget={"trials": 2}), tmp_path).run(2)  # none is in the making then
        assert set(threads) == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_trial_that_is_run_again_costs_no_proposal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = Sweep(make_spec("gp", NUMERIC, budget={"trials": 3, "repeat": 2}), tmp_path)
    sweep.run(3)

    def fail(*_: object) -> dict[str, Any]:
        raise AssertionError("nothing is to be proposed")

    monkeypatch.setattr(GPSampler, "sample_relative", fail)
    again = [sweep.ledger.repeat(1) for _ in range(2)]
    assert [record.params for record in again] == [sweep.ledger.records[1].params] * 2
    assert not sweep.ledger._proposer._ahead
    assert sweep.ledger.troubles() == []


def test_a_proposal_is_synced_to_disk_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = Sweep(make_spec("random", CONDITIONAL), tmp_path)
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    sweep.ledger.ask()
    assert len(synced) == 1


def test_points_come_first_and_what_they_leave_out_is_sampled() -> None:
    space = Space.from_data(CONDITIONAL)
    points = [{"lr": 0.01, "optimizer": "adamw"}, {"lr": 0.02, "optimizer": "sgd", "beta": 0.9}]
    proposer = Proposer(Search(sampler="tpe", seed=1), space, points=points, trials=100)
    study = optuna.create_study(sampler=proposer)
    drawn = []
    for _ in range(3):
        study.ask()
        drawn.append(proposer.sample_relative(study, study.get_trials()[-1], {}))
    assert (drawn[0]["lr"], drawn[0]["optimizer"]) == (0.01, "adamw")
    assert drawn[1]["lr"] == 0.02
    assert "beta" not in drawn[1]
    assert all(space.problems_with(params) == [] for params in drawn)


class TestDistributions:
    """Kolmogorov and Smirnov: what is said to be uniform on a scale is; a seed fixes the outcome."""

    @pytest.mark.parametrize("sampler", ["random", "qmc"])
    def test_uniform_and_log_uniform(self, sampler: str) -> None:
        proposer = Proposer(Search(sampler=sampler, seed=3), Space.from_data(NUMERIC), trials=256)
        study = optuna.create_study(sampler=proposer)
        drawn = []
        for _ in range(256):
            study.ask()
            drawn.append(proposer.sample_relative(study, study.get_trials(deepcopy=False)[-1], {}))
        logs = [math.log10(params["lr"]) for params in drawn]
        assert stats.kstest(logs, stats.uniform(-4, 3).cdf).pvalue > 0.01
        assert stats.kstest([params["momentum"] for params in drawn], stats.uniform(0, 0.9).cdf).pvalue > 0.01
        counts = [sum(params["depth"] == depth for params in drawn) for depth in range(1, 7)]
        assert stats.chisquare(counts).pvalue > 0.01

    @pytest.mark.parametrize("sampler", ["curves", "tpe"])
    def test_tpe_goes_where_values_are_better(self, sampler: str, tmp_path: Path) -> None:
        proposed = Sweep(make_spec(sampler, NUMERIC), tmp_path).run(60)
        off = [abs(math.log10(params["lr"]) + 2) for params in proposed]
        assert sum(off[40:]) / 20 < sum(off[:20]) / 20


def test_tpe_takes_pruned_trials_by_how_far_they_came_and_never_for_whole_ones() -> None:
    """What `PRUNED` with a curve means to it: whole trials first, then the furthest, and of those the better."""
    from optuna.samplers._tpe.sampler import _split_trials

    study = optuna.create_study(direction="maximize")
    for value, curve in ((0.5, {}), (None, {1: 0.9}), (None, {3: 0.6}), (None, {3: 0.7})):
        state = optuna.trial.TrialState.PRUNED if value is None else optuna.trial.TrialState.COMPLETE
        study.add_trial(optuna.trial.create_trial(state=state, value=value, intermediate_values=curve))
    order = []
    for count in range(1, 5):
        below, _ = _split_trials(study, study.get_trials(), count)
        order += [trial.number for trial in below if trial.number not in order]
    assert order == [0, 3, 2, 1]


@pytest.mark.parametrize(
    ("space", "changes", "at_once", "expected", "because"),
    [
        (FINITE, {}, 4, "grid", "covers all 12 configurations"),
        (NUMERIC, {}, 4, "curves", "asha stops"),
        (NUMERIC, {"schedule": {"scheduler": "none"}}, 4, "gp", "3 numeric parameters"),
        (CONDITIONAL, {"schedule": {"scheduler": "none"}}, 4, "curves", "conditions"),
        (CONDITIONAL, {"schedule": {"scheduler": "none"}, "objectives": {"n": "minimize"}}, 4, "tpe", "conditions"),
        (NUMERIC, {"schedule": {"scheduler": "none"}, "budget": {"trials": 1000}}, 4, "curves", "too much"),
        (NUMERIC, {"schedule": {"scheduler": "pbt"}}, 4, "qmc", "population"),
        (NUMERIC, {"budget": {"trials": 20}}, 16, "qmc", "at once"),
        (NUMERIC, {"budget": {"trials": 20}, "warm_start": {"sweeps": ["earlier"]}}, 16, "curves", "asha stops"),
        (NUMERIC, {"budget": {"trials": 20}, "warm_start": {"points": [{"lr": 0.01}]}}, 16, "qmc", "at once"),
    ],
)
def test_auto(space: dict[str, Any], changes: dict[str, Any], at_once: int, expected: str, because: str) -> None:
    spec, why = auto.settle(make_spec("auto", space, **changes), at_once)
    assert spec.search.sampler == expected
    assert because in why
    assert auto.settle(spec, at_once)[0] == spec
