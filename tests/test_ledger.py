"""The ledger: what is recorded, what a reopened one knows, and what is left of one whose process was killed."""

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from orchestrator.costs import EPOCH_S
from orchestrator.errors import StorageError
from orchestrator.folder import SweepFolder
from orchestrator.ledger import STATES, Ledger, TrialRecord
from orchestrator.messages import Ended, Landed, Outcome, Report, Started
from orchestrator.space import Space
from orchestrator.spec import Spec

SPACE: dict[str, Any] = {
    "lr": {"type": "float", "low": 1e-4, "high": 0.1, "log": True},
    "optimizer": {"options": ["sgd", "adamw"]},
    "momentum": {"type": "float", "low": 0.0, "high": 0.99, "step": 0.1, "when": {"optimizer": "sgd"}},
    "depth": {"type": "int", "low": 1, "high": 8, "step": 2},
}
GRID: dict[str, Any] = {
    "optimizer": {"options": ["sgd", "adamw"]},
    "momentum": {"type": "float", "low": 0.0, "high": 0.9, "step": 0.3, "when": {"optimizer": "sgd"}},
    "depth": {"type": "int", "low": 1, "high": 5, "step": 2},
}

Open = Callable[..., Ledger]


def make_spec(**changes: Any) -> Spec:
    data: dict[str, Any] = {
        "name": "sweep",
        "trainable": "digits",
        "space": SPACE,
        "metric": "val/accuracy",
        "goal": "maximize",
        "search": {"sampler": "random", "seed": 7},
        "storage": "unused",
    }
    return Spec.model_validate({**data, **changes})


def make_report(number: int, epoch: int, value: float, best: int | None = None) -> Report:
    return Report(
        number=number,
        epoch=epoch,
        value=value,
        metrics={"val/accuracy": value},
        best_epoch=best or epoch,
        checkpoint=f"trials/{number}/epoch-{epoch:04d}.ckpt",
        best_checkpoint=f"trials/{number}/epoch-{best or epoch:04d}.ckpt",
    )


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda fd: None)


@pytest.fixture
def open_ledger(tmp_path: Path) -> Open:
    def make(spec: Spec | None = None, storage: str = "results", **options: bool) -> Ledger:
        folder = SweepFolder(str(tmp_path / storage), "sweep")
        folder.create()
        return Ledger(folder, spec or make_spec(), **options)

    return make


class TestOneTrial:
    def test_a_proposal_is_in_the_space_and_has_a_seed(self, open_ledger: Open) -> None:
        ledger = open_ledger(create=True)
        record = ledger.ask()
        assert (record.number, record.state, record.value, record.curve) == (0, "RUNNING", None, {})
        assert Space.from_data(SPACE).problems_with(record.params) == []
        assert 0 < record.seed < 2**32
        assert record.seed != ledger.ask().seed

    def test_steps_that_do_not_divide_the_range_stay_below_it_and_do_not_warn(self, open_ledger: Open) -> None:
        ledger = open_ledger(create=True)  # warnings are errors in this suite: Optuna would warn
        records = [ledger.ask() for _ in range(60)]
        assert {record.params["depth"] for record in records} == {1, 3, 5, 7}
        momenta = [record.params["momentum"] for record in records if "momentum" in record.params]
        assert max(momenta) == pytest.approx(0.9)

    def test_conditions_hold(self, open_ledger: Open) -> None:
        ledger = open_ledger(create=True)
        for params in (ledger.ask().params for _ in range(20)):
            assert ("momentum" in params) == (params["optimizer"] == "sgd")

    def test_fixed_parameters_are_part_of_every_trial(self, open_ledger: Open) -> None:
        assert open_ledger(make_spec(params={"channels": 3}), create=True).ask().params["channels"] == 3

    def test_a_curve_with_its_best_epoch_and_checkpoint(self, open_ledger: Open) -> None:
        ledger = open_ledger(create=True)
        ledger.ask()
        ledger.report(make_report(0, 1, 0.5))
        ledger.report(make_report(0, 2, 0.9))
        record = ledger.report(make_report(0, 3, 0.8, best=2))
        assert dict(record.curve) == {1: 0.5, 2: 0.9, 3: 0.8}
        assert (record.value, record.best_epoch) == (0.9, 2)
        assert record.checkpoint == "trials/0/epoch-0002.ckpt"

    def test_less_is_better_when_minimizing(self, open_ledger: Open) -> None:
        ledger = open_ledger(make_spec(goal="minimize"), create=True)
        ledger.ask()
        ledger.report(make_report(0, 1, 0.5))
        assert ledger.report(make_report(0, 2, 0.9)).value == 0.5

    def test_no_checkpoint_where_none_is_kept(self, open_ledger: Open) -> None:
        ledger = open_ledger(make_spec(checkpoints={"keep": "none"}), create=True)
        ledger.ask()
        assert ledger.report(make_report(0, 1, 0.5)).checkpoint is None

    def test_a_trial_began_when_its_workers_did_not_when_the_sweep_heard_of_it(self, open_ledger: Open) -> None:
        ledger = open_ledger(create=True)
        ledger.ask()
        began = datetime(2026, 11, 30, 12).astimezone()
        record = ledger.start(Started(number=0, slot="s", wandb_run=None, at=began.timestamp()))
        assert record.started == record.attempts[0].started == began

    def test_what_an_epoch_costs_is_the_least_that_one_took(self, open_ledger: Open) -> None:
        ledger = open_ledger(create=True)
        ledger.ask()
        for epoch, took_s in enumerate((None, 5.0, 2.0, 3.0), start=1):
            ledger.report(replace(make_report(0, epoch, 0.5), epoch_s=took_s))
        ledger.end(Ended(number=0, outcome=Outcome.PRUNED, report=replace(make_report(0, 5, 0.5), epoch_s=1.5)))
        [trial] = open_ledger()._study.get_trials()
        assert trial.user_attrs[EPOCH_S] == 1.5

    def test_an_epoch_reported_again_stays_as_it_was(self, open_ledger: Open) -> None:
        ledger = open_ledger(create=True)
        ledger.ask()
        first = ledger.report(make_report(0, 1, 0.5))
        assert ledger.report(make_report(0, 1, 0.7)) == first

    def test_a_stretch_ends_where_its_workers_are_lost(self, open_ledger: Open) -> None:
        ledger = open_ledger(create=True)
        ledger.ask()
        ledger.start(Started(number=0, slot="one", wandb_run=None, workers=2))
        lost = ledger.left(0).attempts[0]
        assert lost.ended is not None
        assert ledger.left(0).attempts[0] == lost
        first, second = ledger.start(Started(number=0, slot="one", wandb_run=None, workers=1)).attempts
        assert (first, second.workers, second.ended) == (lost, 1, None)

    def test_every_attempt_is_kept_and_the_first_is_when_it_started(self, open_ledger: Open) -> None:
        ledger = open_ledger(create=True)
        ledger.ask()
        first = ledger.start(Started(number=0, slot="one", wandb_run="wandb/run-1"))
        left = ledger.end(Ended(number=0, outcome=Outcome.INTERRUPTED))
        second = ledger.start(Started(number=0, slot="two", wandb_run=None))
        assert [attempt.slot for attempt in second.attempts] == ["one", "two"]
        assert second.attempts[0] == left.attempts[0]
        assert left.attempts[0].started <= left.attempts[0].ended <= second.attempts[1].started
        assert second.attempts[1].ended is None
        assert ledger.end(Ended(number=0, outcome=Outcome.FAILED)).attempts[1].ended is not None
        assert first.started == second.started == first.attempts[0].started
        assert first.started is not None
        assert first.started.tzinfo is not None
        assert second.wandb_run == "wandb/run-1"

    @pytest.mark.parametrize(
        ("outcome", "epochs"),  # a trial that completes has reported
        [(outcome, epochs) for outcome in Outcome for epochs in (0, 2) if epochs or outcome is not Outcome.COMPLETE],
    )
    def test_every_ending(self, open_ledger: Open, outcome: Outcome, epochs: int) -> None:
        ledger = open_ledger(create=True)
        ledger.ask()
        for epoch in range(1, epochs + 1):
            ledger.report(make_report(0, epoch, epoch / 10))
        record = ledger.end(Ended(number=0, outcome=outcome, error="why" if outcome is Outcome.FAILED else None))
        expected = {
            Outcome.COMPLETE: "COMPLETE",
            Outcome.PRUNED: "PRUNED",
            Outcome.STOPPED: "PRUNED",
            Outcome.DIVERGED: "PRUNED",
            Outcome.INFEASIBLE: "PRUNED",
            Outcome.OUT_OF_MEMORY: "PRUNED",
            Outcome.PAUSED: "RUNNING",
            Outcome.MOVED: "RUNNING",
            Outcome.INTERRUPTED: "RUNNING",
            Outcome.FAILED: "FAIL",
            Outcome.REJECTED: "FAIL",
            Outcome.BROKEN: "FAIL",
        }[outcome]
        assert record.state == expected
        assert dict(record.curve) == {epoch: epoch / 10 for epoch in range(1, epochs + 1)}
        assert record.value == (epochs / 10 or None)
        assert record.error == ("why" if outcome is Outcome.FAILED else None)
        assert (record.ended is None) == (expected == "RUNNING")
        assert open_ledger(read_only=True).records == [record]
        (trial,) = open_ledger(read_only=True)._study.trials
        assert trial.constraints == ({"memory": 1.0} if outcome is Outcome.OUT_OF_MEMORY else {})

    def test_endings_without_a_state_are_those_that_go_on(self) -> None:
        assert set(Outcome) - set(STATES) == {Outcome.PAUSED, Outcome.INTERRUPTED, Outcome.MOVED}

    def test_a_run_gets_an_address_whenever_it_comes(self, open_ledger: Open) -> None:
        ledger = open_ledger(create=True)
        for _ in range(2):
            ledger.ask()
        ledger.start(Started(number=0, slot="a", wandb_run="wandb/offline-run-0"))
        ledger.end(Ended(number=0, outcome=Outcome.STOPPED))
        for _ in range(2):
            ledger.landed(Landed(number=0, url="https://wandb.ai/0"))
        assert [record.wandb_run for record in ledger.records] == ["https://wandb.ai/0", None]
        assert ledger.records[0].outcome == "stopped"
        assert open_ledger(read_only=True).records == ledger.records

    def test_the_last_epoch_may_come_with_the_end(self, open_ledger: Open) -> None:
        ledger = open_ledger(create=True)
        ledger.ask()
        record = ledger.end(Ended(number=0, outcome=Outcome.COMPLETE, report=make_report(0, 1, 0.5)))
        assert (record.state, record.value) == ("COMPLETE", 0.5)

    def test_a_second_ending_is_ignored(self, open_ledger: Open) -> None:
        ledger = open_ledger(create=True)
        ledger.ask()
        first = ledger.end(Ended(number=0, outcome=Outcome.PRUNED))
        assert ledger.end(Ended(number=0, outcome=Outcome.FAILED, error="late")) == first

    def test_a_completed_trials_value_in_optuna_is_its_best(self, open_ledger: Open, tmp_path: Path) -> None:
        ledger = open_ledger(create=True)
        ledger.ask()
        ledger.report(make_report(0, 1, 0.9))
        ledger.end(Ended(number=0, outcome=Outcome.COMPLETE, report=make_report(0, 2, 0.8, best=1)))
        assert load_study(tmp_path).best_value == 0.9


def load_study(tmp_path: Path) -> optuna.Study:
    journal = JournalFileBackend(str(tmp_path / "results/sweep/ledger.journal"))
    return optuna.load_study(storage=JournalStorage(journal), study_name="sweep")


def run_trials(ledger: Ledger, count: int) -> list[TrialRecord]:
    for _ in range(count):
        number = ledger.ask().number
        ledger.start(Started(number=number, slot="slot", wandb_run=None))
        ledger.report(make_report(number, 1, number / 100))
        ledger.end(Ended(number=number, outcome=Outcome.COMPLETE if number % 2 else Outcome.PRUNED))
    return ledger.records


class TestReopening:
    def test_it_knows_everything(self, open_ledger: Open) -> None:
        ledger = open_ledger(create=True)
        records = run_trials(ledger, 3)
        ledger.remember("wandb_sweep", "abc")
        for options in ({}, {"read_only": True}):
            again = open_ledger(**options)
            assert again.records == records
            assert again.recall("wandb_sweep") == "abc"
            assert again.recall("other") is None

    def test_it_goes_on_with_the_next_number(self, open_ledger: Open) -> None:
        run_trials(open_ledger(create=True), 3)
        assert open_ledger().ask().number == 3

    def test_optuna_opens_it_as_any_other(self, open_ledger: Open, tmp_path: Path) -> None:
        run_trials(open_ledger(create=True), 3)
        study = load_study(tmp_path)
        assert study.direction == optuna.study.StudyDirection.MAXIMIZE
        assert study.metric_names == ["val/accuracy"]
        assert [trial.state.name for trial in study.trials] == ["PRUNED", "COMPLETE", "PRUNED"]
        assert study.trials[2].intermediate_values == {1: 0.02}

    def test_a_missing_one_is_said(self, open_ledger: Open) -> None:
        for options in ({}, {"read_only": True}):
            with pytest.raises(StorageError, match=r"ledger\.journal is missing: there is no record of this sweep"):
                open_ledger(**options)

    def test_one_that_is_no_journal_is_said(self, open_ledger: Open, tmp_path: Path) -> None:
        run_trials(open_ledger(create=True), 1)
        (tmp_path / "results/sweep/ledger.journal").write_text("not json\n" * 3)
        with pytest.raises(StorageError, match="cannot be read as an Optuna journal"):
            open_ledger(read_only=True)

    def test_creating_one_begins_anew(self, open_ledger: Open) -> None:
        run_trials(open_ledger(create=True), 2)
        assert open_ledger(create=True).records == []
        assert open_ledger().ask().number == 0

    def test_a_reader_changes_nothing(self, open_ledger: Open, tmp_path: Path) -> None:
        run_trials(open_ledger(create=True), 2)
        path = tmp_path / "results/sweep/ledger.journal"
        torn = path.read_bytes() + b'{"op_code":8,"wor'
        path.write_bytes(torn)
        assert len(open_ledger(read_only=True).records) == 2
        assert path.read_bytes() == torn


@pytest.mark.parametrize("sampler", ["curves", "tpe", "random"])
class TestSeeds:
    def test_the_same_seed_proposes_the_same(self, open_ledger: Open, sampler: str) -> None:
        one, other, third = (
            run_trials(open_ledger(make_spec(search={"sampler": sampler, "seed": seed}), storage, create=True), 13)
            for seed, storage in ((3, "one"), (3, "other"), (4, "third"))
        )
        assert [record.params for record in one] == [record.params for record in other]
        assert [record.params for record in one] != [record.params for record in third]

    def test_a_resumed_sampler_does_not_repeat_itself(self, open_ledger: Open, sampler: str) -> None:
        spec = make_spec(search={"sampler": sampler, "seed": 3})
        seen = [record.params["lr"] for record in run_trials(open_ledger(spec, create=True), 5)]
        for _ in range(3):
            seen += [record.params["lr"] for record in run_trials(open_ledger(spec), 2)[-2:]]
        assert len(set(seen)) == len(seen)


class TestGrid:
    def test_it_is_exhausted_exactly_also_when_it_is_resumed(self, open_ledger: Open) -> None:
        spec = make_spec(space=GRID, search={"sampler": "grid", "seed": 0})
        points = list(Space.from_data(GRID).grid())
        assert len(points) == 15
        run_trials(open_ledger(spec, create=True), 6)
        run_trials(open_ledger(spec), 9)
        asked = [dict(record.params) for record in open_ledger(spec, read_only=True).records]
        assert asked == points


class TestKilled:
    """The journal is appended to, so a killed process leaves a prefix of what it would have written."""

    def test_at_every_byte_of_its_last_trial_it_can_be_resumed(self, open_ledger: Open, tmp_path: Path) -> None:
        spec = make_spec(search={"sampler": "random", "seed": 1})
        ledger = open_ledger(spec, create=True)
        run_trials(ledger, 1)
        path = tmp_path / "results/sweep/ledger.journal"
        begin = path.stat().st_size
        ledger.ask()
        asked = path.stat().st_size
        ledger.report(make_report(1, 1, 0.5))
        reported = path.stat().st_size
        ledger.end(Ended(number=1, outcome=Outcome.PRUNED))
        journal = path.read_bytes()
        ends = [index + 1 for index, byte in enumerate(journal) if byte == 10 and index >= begin]
        cuts = sorted({begin, *ends, *(end - 1 for end in ends), *range(begin, len(journal), 97)})
        for cut in cuts:
            path.write_bytes(journal[:cut])
            records = open_ledger(spec).records
            assert [record.number for record in records] in ([0], [0, 1]), cut
            assert records[0] == ledger.records[0]
            if len(records) == 2:
                assert Space.from_data(SPACE).problems_with(records[1].params) == [], cut
                assert records[1].seed == ledger.records[1].seed
                assert (dict(records[1].curve) == {1: 0.5}) == (cut >= reported), cut
                if cut >= asked:
                    assert records[1].params == ledger.records[1].params
            next_one = open_ledger(spec).ask()
            assert next_one.number == len(records), cut
            assert [r.number for r in open_ledger(spec, read_only=True).records] == list(range(len(records) + 1))

    def test_while_it_was_created(self, open_ledger: Open, tmp_path: Path) -> None:
        open_ledger(create=True)
        path = tmp_path / "results/sweep/ledger.journal"
        journal = path.read_bytes()
        for cut in range(0, len(journal), 29):
            path.write_bytes(journal[:cut])
            assert open_ledger().records == []
            assert load_study(tmp_path).metric_names == ["val/accuracy"]

    def test_a_grid_loses_no_point_and_repeats_none(self, open_ledger: Open, tmp_path: Path) -> None:
        spec = make_spec(space=GRID, search={"sampler": "grid", "seed": 0})
        path = tmp_path / "results/sweep/ledger.journal"
        ledger = open_ledger(spec, create=True)
        run_trials(ledger, 1)
        begin = path.stat().st_size
        ledger.ask()
        journal = path.read_bytes()
        points = list(Space.from_data(GRID).grid())
        for cut in range(begin, len(journal) + 1, 61):
            path.write_bytes(journal[:cut])
            again = open_ledger(spec)
            while len(again.records) < 4:
                again.ask()
            assert [record.params for record in again.records] == points[:4], cut
