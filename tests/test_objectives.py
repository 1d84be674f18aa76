"""Several objectives and constraints: rules, what the sampler is told, and what is said of it at the end."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from orchestrator import figures, progress, ranking, results
from orchestrator import spec as specs
from orchestrator.errors import SpecError
from orchestrator.folder import SweepFolder
from orchestrator.ledger import Ledger, TrialRecord
from orchestrator.limit import Limit
from orchestrator.messages import Ended, Outcome, Report
from orchestrator.results import Status
from orchestrator.spec import Spec

SPACE: dict[str, Any] = {
    "width": {"type": "float", "low": 0.0, "high": 1.0},
    "depth": {"type": "float", "low": 0.0, "high": 1.0},
}


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda fd: None)


@dataclass(frozen=True)
class Trial:
    number: int
    value: float | None
    measured: Mapping[str, float] = field(default_factory=dict)
    state: str = "COMPLETE"


small = st.integers(0, 5).map(float)


@given(st.lists(st.tuples(small, small, small), max_size=12))
def test_the_front_is_what_none_beats(points: list[tuple[float, float, float]]) -> None:
    trials = [Trial(number, a, {"b": b, "c": c}) for number, (a, b, c) in enumerate(points)]
    front = ranking.front({"a": "maximize", "b": "minimize", "c": "minimize"}, trials)

    def beats(one: tuple[float, float, float], other: tuple[float, float, float]) -> bool:
        return one != other and one[0] >= other[0] and one[1] <= other[1] and one[2] <= other[2]

    unbeaten = {point for point in points if not any(beats(other, point) for other in points)}
    assert {points[trial.number] for trial in front} == unbeaten
    assert len(front) == len(unbeaten)  # of equals, one
    assert [trial.value for trial in front] == sorted((trial.value for trial in front), reverse=True)


def test_only_whole_trials_are_on_the_front_and_one_objective_has_none() -> None:
    trials = [Trial(0, 0.5, {"b": 1.0}), Trial(1, 0.9, {"b": 0.1}, "PRUNED"), Trial(2, None, {}, "FAIL")]
    assert [trial.number for trial in ranking.front({"a": "maximize", "b": "minimize"}, trials)] == [0]
    assert ranking.front({"a": "maximize"}, trials) == []


def test_limits() -> None:
    limit = Limit.parse("val/latency ms<= 5")
    assert (limit.metric, str(limit), limit.violation(7.0), limit.violation(5.0)) == (
        "val/latency ms", "val/latency ms <= 5", 2.0, 0.0,
    )  # fmt: skip
    assert Limit.parse("accuracy >= 0.9").violation(0.5) == pytest.approx(0.4)


class TestSpec:
    def problems(self, *overrides: str) -> list[str]:
        data = {"trainable": {"model": {"class_path": "argparse.Namespace"}}, "space": SPACE, "metric": "loss",
                "goal": "minimize", "objectives": {"latency": "minimize"},
                "schedule": {"scheduler": "none"}}  # fmt: skip
        try:
            specs.check(data, overrides)
        except SpecError as exc:
            return list(exc.problems)
        return []

    def test_what_needs_one_number_is_refused_all_at_once(self) -> None:
        assert self.problems() == []
        one = "compares trials by one number; with objectives"
        assert self.problems(
            "schedule.scheduler=asha", "search.sampler=cmaes", "budget.patience=3", "budget.min_improvement=0.1",
            "checkpoints.keep_trials=2", "warm_start.sweeps=[x]", "objectives.loss=maximize",
        ) == [
            "objectives names 'loss', which is the metric already; name further ones only",
            f"schedule.scheduler is 'asha', which {one} use scheduler=none",
            f"search.sampler is 'cmaes', which {one} use sampler=tpe",
            f"budget.patience is 3, which {one} leave it out",
            f"budget.min_improvement is 0.1, which {one} leave it out",
            f"checkpoints.keep_trials is 2, which {one} leave it out",
            f"warm_start {one} only its points are taken: leave sweeps and runs out",
        ]  # fmt: skip

    def test_constraints(self) -> None:
        assert self.problems("constraints=[latency <= 5, 'acc >= 0.9']") == []
        assert self.problems("constraints=[latency < 5]") == [
            "constraints.0 is 'latency < 5'; a constraint is a metric, <= or >=, and a number, e.g. 'latency_ms <= 5'"
        ]
        assert self.problems("constraints=[latency <= 5]", "search.sampler=gp", "budget.target=0.1") == [
            "search.sampler is 'gp', which is not told of constraints; use sampler=tpe",
            "budget.target is 0.1, which a trial may reach that breaks one of the constraints; leave one of them out",
        ]


def make(storage: Path, **changes: Any) -> Spec:
    data: dict[str, Any] = {
        "name": "sweep", "trainable": "x", "space": SPACE, "metric": "loss", "goal": "minimize",
        "objectives": {"latency": "minimize"}, "search": {"sampler": "tpe", "seed": 3},
        "schedule": {"scheduler": "none", "max_epochs": 2}, "storage": str(storage), "checkpoints": {"keep": "none"},
    }  # fmt: skip
    return Spec.model_validate({**data, **changes})


def opened(spec: Spec, create: bool = True) -> Ledger:
    folder = SweepFolder(spec.storage, "sweep")
    folder.create()
    return Ledger(folder, spec, create=create)


def train(ledger: Ledger) -> TrialRecord:
    """A wide net is better and slower; the second epoch is worse, and faster. Every seventh trial diverges."""
    record = ledger.ask()
    width, depth = record.params["width"], record.params["depth"]
    loss, latency = (1 - width) ** 2 + (depth - 0.5) ** 2, 10 * width + depth

    def report(epoch: int, value: float, latency: float) -> Report:
        return Report(number=record.number, epoch=epoch, value=value, metrics={"loss": value, "latency": latency},
                      best_epoch=1, checkpoint=None, best_checkpoint=None)  # fmt: skip

    ledger.report(report(1, loss, latency))
    diverged = record.number % 7 == 6
    outcome = Outcome.DIVERGED if diverged else Outcome.COMPLETE
    last = None if diverged else report(2, loss + 1, latency - 1)
    return ledger.end(Ended(number=record.number, outcome=outcome, report=last))


@pytest.mark.parametrize("sampler", ["tpe", "gp", "qmc", "random"])
def test_samplers_are_told_of_all_objectives_and_go_on_after_a_kill(sampler: str, tmp_path: Path) -> None:
    trials = 14 if sampler == "gp" else 40
    spec = make(tmp_path, search={"sampler": sampler, "seed": 3})
    ledger = opened(spec)
    for number in range(trials):
        if number == trials // 2:
            ledger = opened(spec, create=False)
        train(ledger)
    whole = opened(make(tmp_path / "whole", search={"sampler": sampler, "seed": 3}))
    for _ in range(trials):
        train(whole)
    assert [r.params for r in whole.records] == [r.params for r in ledger.records]
    for record in ledger.records:
        if record.state == "COMPLETE":
            assert record.measured == {"latency": 10 * record.params["width"] + record.params["depth"]}
            assert ledger._study.get_trials()[record.number].values == [record.value, record.measured["latency"]]
    assert {r.state for r in ledger.records} == {"COMPLETE", "PRUNED"}
    assert whole.troubles() == []


def test_the_front_is_in_the_results_the_table_and_the_report(tmp_path: Path) -> None:
    spec = make(tmp_path)
    ledger, folder = opened(spec), SweepFolder(spec.storage, "sweep")
    for _ in range(20):
        train(ledger)
    document = results.build(spec, folder, ledger.records, Status.FINISHED)
    results.write(folder, document)
    front = document["front"]
    assert front == [record.number for record in ranking.front(spec.goals, ledger.records)]
    assert len(front) > 1
    assert document["best"]["number"] == front[0]
    assert (document["objectives"], document["constraints"]) == ({"latency": "minimize"}, [])
    assert "measured.latency,params.width" in folder.read_text("results.csv").splitlines()[0]
    console = Console(record=True, width=200, file=io.StringIO())
    progress.summary(console, spec, folder, ledger.records, 1.0, status=Status.FINISHED, missing=False)
    said = console.export_text()
    assert f"Pareto front: {len(front)} trials" in said
    assert f"best by loss alone: trial {front[0]}" in said
    rows = said.split("Pareto front")[1].split("best by")[0].splitlines()
    assert [int(row.split()[0]) for row in rows[2:] if row.strip()] == front
    figure = figures.figures(spec, ledger.records, {})["front-1"]
    line = next(trace for trace in figure["data"] if trace["name"] == "Pareto front")
    assert line["customdata"] == front[::-1]
    assert line["x"] == sorted(ledger.records[number].measured["latency"] for number in front)


@pytest.mark.parametrize("sampler", ["curves", "tpe"])
def test_a_trial_that_breaks_a_constraint_ranks_last_and_teaches_the_sampler(sampler: str, tmp_path: Path) -> None:
    search = {"sampler": sampler, "seed": 3}
    spec = make(tmp_path, objectives={}, constraints=["latency <= 3"], search=search)
    ledger = opened(spec)
    for _ in range(40):
        train(ledger)
    broke = [record for record in ledger.records if record.outcome == "infeasible"]
    assert broke
    for record in broke:
        assert record.state == "PRUNED"
        assert record.error == f"latency is {record.measured['latency']:.4g}, beyond latency <= 3"
    best = ranking.ranked(spec.goal, ledger.records)[0]
    assert best.measured["latency"] <= 3
    assert ledger.troubles() == []
    assert min(record.value for record in broke if record.value is not None) < (best.value or 0)
    kept = [record.measured["latency"] <= 3 for record in ledger.records]
    assert sum(kept[20:]) > sum(kept[:10]) + 5
    reopened = opened(spec, create=False)
    assert reopened.records == ledger.records
