"""A search that is killed and resumed, sampler, ledger and scheduler together: the same trials, stopped at the same."""

from __future__ import annotations

import math
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from orchestrator import schedule
from orchestrator.folder import SweepFolder
from orchestrator.ledger import Ledger
from orchestrator.messages import Ended, Outcome, Report, Verdict
from orchestrator.spec import Spec

TRIALS, EPOCHS, AT_ONCE = 14, 9, 4
SPACE: dict[str, Any] = {
    "lr": {"type": "float", "low": 1e-4, "high": 0.1, "log": True},
    "depth": {"type": "int", "low": 1, "high": 6},
    "optimizer": {"options": ["sgd", "adamw"]},
    "momentum": {"type": "float", "low": 0.0, "high": 0.9, "when": {"optimizer": "sgd"}},
}


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda fd: None)


class Search:
    """A sweep without Ray, in its folder: what happens next follows from the record and a seed."""

    def __init__(self, spec: Spec, folder: Path, seed: int, *, create: bool = False) -> None:
        self._spec, self._seed = spec, seed
        place = SweepFolder(str(folder), "sweep")
        place.create()
        self._ledger = Ledger(place, spec, create=create)
        self._scheduler = schedule.build(spec, self._ledger)
        self._drop()

    def step(self) -> bool:
        """A trial begins, goes on or reports; whether there was anything left to do."""
        paused = self._scheduler.paused
        running = [each for each in self._ledger.records if each.state == "RUNNING" and each.number not in paused]
        told = sum(len(record.curve) for record in self._ledger.records)
        if len(running) < AT_ONCE - told % 2 and self._begin(AT_ONCE - len(running) - 1):  # now and then two are free
            return True
        if not running:
            return False
        record = random.Random(f"{self._seed}/{told}").choice(running)
        self._report(record.number, max(record.curve, default=0) + 1, record.params)
        self._drop()
        return True

    def _begin(self, free: int) -> bool:
        more = len(self._ledger.records) < TRIALS
        if not more:
            self._scheduler.close()
        ready = self._scheduler.ready()
        if ready and not (more and self._scheduler.breadth_first):
            change = self._scheduler.change(ready[0])
            self._ledger.go_on(ready[0], change)
            self._scheduler.resumed(ready[0], change)
        elif more:
            record = self._ledger.ask(free=free)
            self._scheduler.begin(record.number, record.proposed)
        return more or bool(ready)

    def _report(self, number: int, epoch: int, params: Any) -> None:
        off = abs(math.log10(params["lr"]) + 2) + abs(params["depth"] - 4) / 3 + params.get("momentum", 0.2)
        value = -off / math.sqrt(epoch) + random.Random(f"{self._seed}/{number}/{epoch}").gauss(0, 0.05)
        report = Report(number=number, epoch=epoch, value=value, metrics={}, best_epoch=epoch, checkpoint=None,
                        best_checkpoint=None)  # fmt: skip
        verdict = self._scheduler.report(number, epoch, value)
        if epoch < EPOCHS and verdict is Verdict.CONTINUE:
            self._ledger.report(report)
            return
        stopped = Outcome.PAUSED if verdict is Verdict.PAUSE else Outcome.PRUNED
        outcome = Outcome.COMPLETE if epoch == EPOCHS else stopped
        self._ledger.end(Ended(number=number, outcome=outcome, report=report))
        if outcome is not Outcome.PAUSED:
            self._scheduler.end(number)

    def _drop(self) -> None:
        for number in self._scheduler.dropped():
            self._ledger.end(Ended(number=number, outcome=Outcome.PRUNED))

    def found(self) -> list[Any]:
        return [(record.proposed, record.params, record.state, record.curve) for record in self._ledger.records]


@pytest.mark.parametrize(
    ("sampler", "scheduler"),
    [("curves", "asha"), ("tpe", "hyperband"), ("cmaes", "median"), ("qmc", "pbt"), ("random", "asha")],
)
def test_a_search_killed_anywhere_tries_and_stops_the_same(sampler: str, scheduler: str, tmp_path: Path) -> None:
    spec = Spec.model_validate(
        {"name": "sweep", "trainable": "x", "space": SPACE, "metric": "m", "goal": "maximize",
         "search": {"sampler": sampler, "seed": 5}, "budget": {"trials": TRIALS},
         "schedule": {"scheduler": scheduler, "max_epochs": EPOCHS, "reduction_factor": 3, "interval_epochs": 2}}
    )  # fmt: skip
    for seed in range(3):
        folder, steps = tmp_path / str(seed), 0
        search = Search(spec, folder, seed, create=True)
        while search.step():
            steps += 1
            if steps % 8 == seed:
                shutil.copytree(folder, tmp_path / f"{seed}-{steps}")
        whole = search.found()
        assert {state for _, _, state, _ in whole} == ({"COMPLETE", "PRUNED"} if scheduler != "pbt" else {"COMPLETE"})
        for killed in tmp_path.glob(f"{seed}-*"):
            resumed = Search(spec, killed, seed)
            while resumed.step():
                pass
            assert resumed.found() == whole, f"killed after {killed.name.partition('-')[2]} of {steps} steps"
