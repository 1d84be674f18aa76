"""Schedulers: the same decisions as Ray's own, and after a kill at any moment as if nothing had happened."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from ray.tune.schedulers import ASHAScheduler

from orchestrator import schedule
from orchestrator.messages import Step, Verdict
from orchestrator.spec import Spec

MAX_EPOCHS, GRACE, FACTOR, INTERVAL = 9, 1, 3, 2
ALL = ("asha", "hyperband", "median", "pbt", "pb2", "none")
SPACE = {
    "lr": {"type": "float", "low": 1e-4, "high": 1e-1, "log": True},
    "momentum": {"type": "float", "low": 0.0, "high": 0.9, "step": 0.1},
    "depth": {"type": "int", "low": 1, "high": 4},
}


def make_spec(scheduler: str, goal: str = "maximize", trials: int = 20) -> Spec:
    return Spec.model_validate(
        {
            "trainable": "x",
            "space": SPACE,
            "metric": "m",
            "goal": goal,
            "search": {"seed": 3},
            "budget": {"trials": trials},
            "schedule": {
                "scheduler": scheduler,
                "max_epochs": MAX_EPOCHS,
                "grace_epochs": GRACE,
                "reduction_factor": FACTOR,
                "interval_epochs": INTERVAL,
            },
        }
    )


def params_of(number: int) -> dict[str, Any]:
    rng = random.Random(number)
    return {"lr": 10 ** rng.uniform(-4, -1), "momentum": round(rng.randrange(10) / 10, 1), "depth": rng.randint(1, 4)}


@dataclass(frozen=True)
class Trial:
    """A trial on record, as `schedule.build` reads it."""

    number: int
    proposed: dict[str, Any]
    repeat_of: int | None = None


@dataclass
class Play:
    """A sweep without Ray: so many workers, trials that report in an order drawn from a seed, and the record of it.

    A trial's value is a function of its history: a trial that copies another one's weights takes their quality over.
    """

    spec: Spec
    seed: int = 0
    at_once: int = 4
    fail: frozenset[tuple[int, int]] = frozenset()
    steps: list[Step] = field(default_factory=list)
    scheduler: schedule.Scheduler = field(init=False)
    epochs: dict[int, int] = field(default_factory=dict)
    quality: dict[tuple[int, int], float] = field(default_factory=dict)
    state: dict[int, str] = field(default_factory=dict)
    live: list[int] = field(default_factory=list)
    stopped_at: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.scheduler = schedule.build(self.spec, self)

    # What `schedule.build` reads.

    @property
    def records(self) -> list[Trial]:
        return [Trial(number, params_of(number)) for number in self.state]

    def history(self) -> Iterable[Step]:
        return list(self.steps)

    # The sweep.

    def value(self, number: int, epoch: int) -> float:
        # Few distinct values, so that there are ties; ordered by the trial, so that there are decisions.
        noise = random.Random(f"{self.seed}/{number}/{epoch}").randrange(8) / 20
        return round(random.Random(number).randrange(10) / 10 + epoch / 20 + noise, 3)

    def write(self, step: Step) -> None:
        self.steps.append(step)

    def begin(self) -> bool:
        """Give a free worker something to do; whether there was something."""
        new = len(self.state) < self.spec.trials
        if not new:
            self.scheduler.close()
        ready = self.scheduler.ready()
        if ready and not (new and self.scheduler.breadth_first):
            change = self.scheduler.change(ready[0])
            self.write(Step(number=ready[0], what="resumed", change=change))
            self.scheduler.resumed(ready[0], change)
            self.live.append(ready[0])
        elif new:
            number = len(self.state)
            self.state[number] = "RUNNING"
            self.write(Step(number=number, what="begun"))
            self.scheduler.begin(number, params_of(number))
            self.live.append(number)
        return bool(ready or new)

    def end(self, number: int, state: str) -> None:
        self.write(Step(number=number, what="ended"))
        self.state[number] = state
        self.scheduler.end(number)
        for dropped in self.scheduler.dropped():
            self.write(Step(number=dropped, what="ended"))
            self.state[dropped] = "PRUNED"

    def report(self, number: int) -> None:
        epoch = self.epochs[number] = self.epochs.get(number, 0) + 1
        value = self.value(number, epoch)
        verdict = self.scheduler.report(number, epoch, value)
        self.write(Step(number=number, what="reported", epoch=epoch, value=value))
        if (number, epoch) in self.fail:
            self.live.remove(number)
            self.end(number, "FAIL")
        elif epoch == MAX_EPOCHS:
            self.live.remove(number)
            self.end(number, "COMPLETE")
        elif verdict is not Verdict.CONTINUE:
            self.live.remove(number)
            self.stopped_at.add(epoch)
            if verdict is Verdict.PRUNE:
                self.end(number, "PRUNED")
        for dropped in self.scheduler.dropped():
            self.write(Step(number=dropped, what="ended"))
            self.state[dropped] = "PRUNED"

    def step(self) -> bool:
        while len(self.live) < self.at_once and self.begin():
            pass
        if not self.live:
            return False
        # Who reports next depends on who runs and how far they are: not on the process that asks.
        rng = random.Random(f"{self.seed}/{sorted((n, self.epochs.get(n, 0)) for n in self.live)}")
        self.report(rng.choice(sorted(self.live)))
        return True

    def run(self) -> Play:
        while self.step():
            pass
        return self

    def killed(self, kept: int) -> Play:
        """A new process that finds the first steps on record: as after a kill, and the resume."""
        again = Play(self.spec, self.seed, self.at_once, self.fail)
        again.steps = self.steps[:kept]
        for step in again.steps:
            if step.what == "begun":
                again.state[step.number] = "RUNNING"
            elif step.what == "reported":
                again.epochs[step.number] = step.epoch
            elif step.what == "ended":
                again.state[step.number] = "ended"
        again.scheduler = schedule.build(self.spec, again)
        for dropped in again.scheduler.dropped():
            if again.state[dropped] == "RUNNING":
                again.write(Step(number=dropped, what="ended"))
            again.state[dropped] = "ended"
        paused = set(again.scheduler.paused)
        again.live = [number for number, state in again.state.items() if state == "RUNNING" and number not in paused]
        return again


def outcome(play: Play) -> tuple[Any, ...]:
    """What a sweep came to, whatever the order of its record."""
    changes = sorted((step.number, step.change.epoch, step.change.copied_from, sorted(step.change.params.items()))
                     for step in play.steps if step.change is not None)  # fmt: skip
    return dict(sorted(play.epochs.items())), changes


def whole_writes(steps: list[Step]) -> list[int]:
    """Where a kill can part the record: an ending is written ahead with its epoch, so never between these."""
    return [
        index
        for index in range(1, len(steps) + 1)
        if index == len(steps)
        or not (steps[index].what == "ended" and steps[index - 1].what == "reported"
                and steps[index].number == steps[index - 1].number)
    ]  # fmt: skip


def rays_asha(goal: str) -> ASHAScheduler:
    mode = {"maximize": "max", "minimize": "min"}[goal]
    return ASHAScheduler(
        time_attr="epoch", metric="value", mode=mode, max_t=MAX_EPOCHS, grace_period=GRACE, reduction_factor=FACTOR
    )


@dataclass(eq=False)
class RaysTrial:
    trial_id: str


@pytest.mark.parametrize("goal", ["maximize", "minimize"])
@pytest.mark.parametrize("seed", range(10))
def test_asha_decides_as_rays_own(goal: str, seed: int) -> None:
    play = Play(make_spec("asha", goal), seed).run()
    asha, trials = rays_asha(goal), {number: RaysTrial(str(number)) for number in play.state}
    for trial in trials.values():
        asha.on_trial_add(None, trial)
    verdicts = {}
    for step in play.steps:
        if step.what == "reported":
            result = {"epoch": step.epoch, "value": step.value}
            verdicts[step.number, step.epoch] = asha.on_trial_result(None, trials[step.number], result)
    assert set(verdicts.values()) == {"CONTINUE", "STOP"}
    last = play.epochs
    assert all((verdict == "STOP") == (epoch == last[number]) for (number, epoch), verdict in verdicts.items())


RAYS_BANDIT = schedule._upper_bound


@pytest.fixture(autouse=True)
def _a_quick_bandit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's Gaussian process takes seconds a decision; what is tested here is what goes in and what becomes of it."""

    def quick(gains: Any, *, here: Any, at_once: Any, bounds: Any, seed: int) -> list[float]:
        rng = random.Random(repr((gains.tolist(), here.tolist(), None if at_once is None else at_once.tolist(), seed)))
        return [rng.uniform(low, high) for low, high in bounds.values()]

    monkeypatch.setattr(schedule, "_upper_bound", quick)


@pytest.mark.parametrize("goal", ["maximize", "minimize"])
@pytest.mark.parametrize("scheduler", ALL)
def test_every_trial_is_accounted_for(scheduler: str, goal: str) -> None:
    for seed in range(3):
        for at_once in (1, 3, 25):
            play = Play(make_spec(scheduler, goal), seed, at_once, frozenset({(2, 1), (3, 4)})).run()
            assert len(play.state) == 20
            assert "RUNNING" not in play.state.values()
            assert "COMPLETE" in play.state.values()
            stops = scheduler in ("asha", "hyperband", "median")
            assert ("PRUNED" in play.state.values()) == stops
            changed = any(step.change is not None for step in play.steps)
            assert changed == (scheduler in ("pbt", "pb2"))


@pytest.mark.parametrize("scheduler", ALL)
@pytest.mark.parametrize(("grace", "factor"), [(1, 4.0), (1, 2.5), (2, 2.0)])
def test_none_is_stopped_where_its_workers_do_not_wait(scheduler: str, grace: int, factor: float) -> None:
    data = make_spec(scheduler, trials=30).model_dump()
    data["schedule"] |= {"grace_epochs": grace, "reduction_factor": factor}
    spec = Spec.model_validate(data)
    stopped = set[int]().union(*(Play(spec, seed, at_once=4).run().stopped_at for seed in range(3)))
    waits = {epoch for epoch in range(1, MAX_EPOCHS) if spec.schedule.may_stop_at(epoch)}
    assert stopped <= waits
    if scheduler in ("asha", "none"):
        assert stopped == waits


@pytest.mark.parametrize("scheduler", [name for name in ALL if name != "none"])
def test_a_sweep_killed_anywhere_stops_the_same_trials(scheduler: str) -> None:
    every = 5
    for seed in range(3):
        spec = make_spec(scheduler)
        whole = Play(spec, seed, at_once=4, fail=frozenset({(2, 1)})).run()
        for kept in whole_writes(whole.steps)[seed % every :: every]:
            resumed = whole.killed(kept).run()
            assert outcome(resumed) == outcome(whole), f"seed {seed}, killed after {kept} of {len(whole.steps)} steps"


@pytest.mark.parametrize("scheduler", ALL)
def test_the_last_epoch_said_again_is_not_judged_again(scheduler: str) -> None:
    play = Play(make_spec(scheduler), 1)
    for _ in range(30):
        play.step()
    again = play.killed(len(play.steps))
    assert again.live
    for number in again.live:
        if epoch := again.epochs.get(number):
            assert again.scheduler.report(number, epoch, -1.0) is Verdict.CONTINUE


def test_hyperband_waits_for_a_whole_bracket_and_then_halves_it() -> None:
    play = Play(make_spec("hyperband"), 0, at_once=1)
    # Tune fills brackets in this order, for 9 epochs and a factor of 3: 3 trials of 9 epochs, 5 of 3, 9 of 1.
    while len(play.state) < 8 or play.epochs.get(7, 0) < 3:
        play.step()
    assert [play.epochs[number] for number in range(8)] == [9, 9, 9, 3, 3, 3, 3, 3]
    survivors = {number for number in range(3, 8) if play.state[number] == "RUNNING"}
    best = sorted(range(3, 8), key=lambda number: play.value(number, 3))[-2:]
    assert sorted(play.value(number, 3) for number in survivors) == sorted(play.value(number, 3) for number in best)


class TestPopulation:
    def test_the_worst_copy_the_best_of_the_same_epoch(self) -> None:
        play = Play(make_spec("pbt", trials=8), 2, at_once=8).run()
        changes = [(step.number, step.change) for step in play.steps if step.change is not None]
        assert changes
        for number, change in changes:
            assert change.epoch % INTERVAL == 0
            assert change.copied_from is not None
            assert play.value(change.copied_from, change.epoch) >= play.value(number, change.epoch)
            assert set(change.params) == {"lr", "momentum", "depth"}
            assert 1e-4 <= change.params["lr"] <= 1e-1
            assert change.params["momentum"] in [index / 10 for index in range(10)]

    def test_what_may_not_change_is_copied_with_the_weights(self) -> None:
        play = Play(make_spec("pbt", trials=8), 2, at_once=8).run()
        depth = {number: params_of(number)["depth"] for number in range(8)}
        for step in play.steps:
            if step.change is not None and step.change.copied_from is not None:
                depth[step.number] = step.change.params["depth"]
                assert depth[step.number] in {params_of(number)["depth"] for number in range(8)}

    def test_all_keep_the_same_pace_on_few_workers(self) -> None:
        play = Play(make_spec("pbt", trials=6), 0, at_once=2)
        while play.step():
            running = [play.epochs.get(number, 0) for number, state in play.state.items() if state == "RUNNING"]
            if len(play.state) == 6 and len(running) > 1:
                assert max(running) - min(running) <= 2 * INTERVAL

    def test_pb2_finds_where_the_gains_are(self) -> None:
        rng = random.Random(0)
        rows = [[2 + 2 * (index // 10), rng.random(), x := rng.random(), -((x - 0.7) ** 2)] for index in range(40)]
        found = [
            RAYS_BANDIT(np.array(rows), here=np.array([8, 0.5]), at_once=None, bounds={"x": (0.0, 1.0)}, seed=5)
            for _ in range(2)
        ]
        assert found[0] == found[1]
        assert found[0] == pytest.approx([0.7], abs=0.2)
