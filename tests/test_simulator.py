"""The simulator of benchmarks/search_quality: exact clocks, no work lost or done twice, the same again from a seed."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from benchmarks.simulator import Epoch, simulate
from benchmarks.table import EPOCHS, SPACE, Table

SOME = list(itertools.islice(SPACE.grid(), 0, None, 97))


@pytest.fixture(scope="module")
def table() -> Table:
    """Curves that say where they come from: the loss is the row and the epoch, the speed differs from row to row."""
    rows = np.arange(SPACE.grid_size())
    return Table(
        configurations=list(SPACE.grid()),
        losses=rows[:, None] + np.arange(1, EPOCHS + 1) / 100,
        epoch_s=1.0 + rows % 4,
    )


class Script:
    """Asks for the same configurations in turn, stops trials at the epochs it was given, and resumes them if told."""

    def __init__(self, stops: Mapping[int, int] | None = None, resume: bool = False) -> None:
        self._stops, self._resume = dict(stops or {}), resume
        self._begun = itertools.count()
        self._paused: list[int] = []
        self.told: list[tuple[int, int, float, float]] = []

    def ask(self) -> tuple[int, Mapping[str, Any]]:
        number = self._paused.pop() if self._paused else next(self._begun)
        return number, SOME[number % len(SOME)]

    def tell(self, number: int, epoch: int, loss: float, epoch_s: float) -> bool:
        self.told.append((number, epoch, loss, epoch_s))
        if self._stops.get(number) == epoch:
            self._paused += [number] if self._resume else []
            return False
        return epoch < EPOCHS


def epochs_of(events: list[Epoch], number: int) -> list[int]:
    return [event.epoch for event in events if event.number == number]


def test_one_worker_without_stops_has_an_exact_order_and_clock(table: Table) -> None:
    events = simulate(Script(), table, workers=1, compute_s=500.0)
    order = [(event.number, event.epoch) for event in events]
    assert order == [(index // EPOCHS, index % EPOCHS + 1) for index in range(len(events))]
    took_s = [float(table.epoch_s[event.row]) for event in events]
    assert [event.ended_s for event in events] == pytest.approx(list(itertools.accumulate(took_s)))
    assert events[-1].ended_s <= 500.0 < events[-1].ended_s + table.epoch_s.max()


@pytest.mark.parametrize("workers", [1, 4, 16])
def test_work_is_conserved(table: Table, workers: int) -> None:
    compute_s = 2000.0
    events = simulate(Script(stops={0: 3, 2: 1, 5: 9}), table, workers=workers, compute_s=compute_s)
    worked_s = sum(float(table.epoch_s[event.row]) for event in events)
    # What is missing from the whole is the epochs under way at the end, one of each worker.
    assert 0 <= compute_s - worked_s <= workers * table.epoch_s.max()
    assert [event.ended_s for event in events] == sorted(event.ended_s for event in events)
    for number in {event.number for event in events}:
        assert epochs_of(events, number) == list(range(1, len(epochs_of(events, number)) + 1))
    assert [epochs_of(events, number)[-1] for number in (0, 2, 5)] == [3, 1, 9]
    latest = [event.ended_s - float(table.epoch_s[event.row]) for event in events]
    for at in latest[:: max(1, len(latest) // 20)]:
        busy = sum(event.ended_s - float(table.epoch_s[event.row]) <= at < event.ended_s for event in events)
        assert busy <= workers


def test_everything_is_told_once_and_as_the_table_says(table: Table) -> None:
    script = Script(stops={1: 2})
    events = simulate(script, table, workers=4, compute_s=800.0)
    assert script.told == [(event.number, event.epoch, event.loss, table.epoch_s[event.row]) for event in events]
    assert all(event.loss == table.losses[event.row, event.epoch - 1] for event in events)
    assert all(table.configurations[event.row] == SOME[event.number % len(SOME)] for event in events)


def test_a_paused_trial_goes_on_where_it_was(table: Table) -> None:
    events = simulate(Script(stops={0: 5}, resume=True), table, workers=1, compute_s=200.0)
    assert epochs_of(events, 0) == list(range(1, EPOCHS + 1))


def test_a_sampler_may_round_its_steps_as_it_likes(table: Table) -> None:
    params = {**SOME[1], "dropout": 0.1 + 0.15}
    assert table.row(params) == table.row({**params, "dropout": 0.25})
