"""What is shown of a sweep in a terminal."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console
from simulated import simulate

from orchestrator.ledger import Ledger
from orchestrator.progress import plain, trial_table


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
