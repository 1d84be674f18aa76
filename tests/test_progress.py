"""What is shown of a sweep in a terminal."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from simulated import simulate

from orchestrator import progress
from orchestrator.ledger import Ledger
from orchestrator.messages import Change, Report, Started
from orchestrator.progress import Lines, plain, trial_table
from orchestrator.results import Status


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_a_table_of_trials_fits_its_terminal(width: int, tmp_path: Path) -> None:
    folder, spec = simulate(tmp_path, 6)
    records = list(Ledger(folder, spec, read_only=True).records)
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(trial_table(spec, records, width))
    head, *rows = console.export_text().splitlines()
    assert len(rows) == len(records)  # no cell takes two lines
    shown = [name for name in spec.load_space() if name in head]
    assert ("..." in head) == (len(shown) < len(spec.load_space()))
    for row, record in zip(rows, records, strict=True):
        assert all(plain(record.params[name]) in row for name in shown if name in record.params)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ([], ""),
        ([2], "hyperparameters of trial 2 changed in training; shown are the last\n"),
        ([0, 2], "hyperparameters of trials 0, 2 changed in training; shown are the last\n"),
    ],
)
def test_the_end_says_whose_hyperparameters_changed(changed: list[int], said: str, tmp_path: Path) -> None:
    folder, spec = simulate(tmp_path, 3)
    change = Change(epoch=1, params={})
    records = [
        replace(record, changes=(change,) if record.number in changed else ())
        for record in Ledger(folder, spec, read_only=True).records
    ]
    console = Console(width=200, file=io.StringIO(), record=True)
    progress.summary(console, spec, folder, records, 1.0, status=Status.FINISHED, missing=False)
    lines = [line for line in console.export_text().splitlines(keepends=True) if "changed" in line]
    assert "".join(lines) in (said, said.replace("0, 2", "2, 0"))


def test_a_log_is_told_which_trials_run_and_which_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, spec = simulate(tmp_path, 1, budget={"trials": 9})
    ledger, console = Ledger(folder, spec), Console(width=200, file=io.StringIO(), record=True)
    monkeypatch.setattr(progress, "SILENCE_S", 0.0)
    view = Lines(console, spec, ledger)
    numbers = [ledger.ask().number for _ in range(3)]
    for number in numbers[:2]:
        ledger.start(Started(number=number, slot="s", wandb_run=None))
    report = Report(
        number=numbers[0], epoch=1, value=0.5, metrics={}, best_epoch=1, checkpoint=None, best_checkpoint=None
    )
    ledger.report(report)
    view.tick()
    ledger.left(numbers[0])
    view.tick()
    said = [line.partition("  |")[0] for line in console.export_text().splitlines()]
    assert said == ["2 trials running, 1 waiting", "1 trial running, 2 waiting"]
