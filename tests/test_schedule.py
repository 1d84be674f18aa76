"""ASHA on epochs: the same decisions as Ray's own, and after a replay as if nothing had happened."""

import random
from dataclasses import dataclass, field
from typing import Any

import pytest
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

from orchestrator import schedule
from orchestrator.ledger import TrialRecord
from orchestrator.spec import Spec

MAX_EPOCHS, GRACE, FACTOR = 9, 1, 3


def make_spec(goal: str = "maximize", scheduler: str = "asha") -> Spec:
    return Spec.model_validate(
        {
            "trainable": "x",
            "space": {},
            "metric": "m",
            "goal": goal,
            "schedule": {
                "scheduler": scheduler,
                "max_epochs": MAX_EPOCHS,
                "grace_epochs": GRACE,
                "reduction_factor": FACTOR,
            },
        }
    )


@dataclass(frozen=True)
class FakeTrial:
    """A trial of Tune's: its id is a new one after every resume, its number is not."""

    trial_id: str
    number: int

    @property
    def config(self) -> dict[str, Any]:
        return {"number": self.number}


@dataclass
class Stream:
    """Results of trials that run side by side, in the order in which they come."""

    seed: int
    at_once: int = 4
    trials: int = 20
    curves: list[list[float]] = field(init=False)

    def __post_init__(self) -> None:
        rng = random.Random(self.seed)
        # Few distinct values, so that there are ties.
        self.curves = [[rng.randrange(20) / 20 for _ in range(MAX_EPOCHS)] for _ in range(self.trials)]


@dataclass
class Play:
    """Runs a stream through a scheduler; decisions by (number, epoch)."""

    stream: Stream
    scheduler: Any
    tag: str = "a"
    epochs: dict[int, int] = field(default_factory=dict)
    live: dict[int, FakeTrial] = field(default_factory=dict)
    waiting: list[int] = field(default_factory=list)
    decisions: dict[tuple[int, int], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.stream.seed)
        self.waiting = self.waiting or list(range(self.stream.trials))

    def add(self, number: int) -> None:
        self.live[number] = FakeTrial(f"{self.tag}{number}", number)
        self.scheduler.on_trial_add(None, self.live[number])

    def step(self) -> bool:
        while len(self.live) < self.stream.at_once and self.waiting:
            self.add(self.waiting.pop(0))
        if not self.live:
            return False
        number = self.rng.choice(sorted(self.live))
        epoch = self.epochs[number] = self.epochs.get(number, 0) + 1
        result = {"epoch": epoch, "value": self.stream.curves[number][epoch - 1]}
        decision = self.decisions[number, epoch] = self.scheduler.on_trial_result(None, self.live[number], result)
        if decision == "STOP":
            self.scheduler.on_trial_complete(None, self.live.pop(number), result)
        return True

    def run(self) -> dict[tuple[int, int], str]:
        while self.step():
            pass
        return self.decisions

    def records(self) -> list[TrialRecord]:
        return [
            TrialRecord(
                number=number,
                state="RUNNING" if number in self.live else "PRUNED",
                params={},
                value=None,
                best_epoch=None,
                curve={epoch + 1: self.stream.curves[number][epoch] for epoch in range(self.epochs.get(number, 0))},
                seed=0,
                wandb_run=None,
                checkpoint=None,
                error=None,
                started=None,
                ended=None,
                attempts=(),
            )
            for number in sorted({*self.epochs, *self.live})
        ]


def rays_own(goal: str) -> ASHAScheduler:
    return ASHAScheduler(
        time_attr="epoch",
        metric="value",
        mode={"maximize": "max", "minimize": "min"}[goal],
        max_t=MAX_EPOCHS,
        grace_period=GRACE,
        reduction_factor=FACTOR,
    )


@pytest.mark.parametrize("goal", ["maximize", "minimize"])
@pytest.mark.parametrize("seed", range(10))
def test_it_decides_as_rays_own(goal: str, seed: int) -> None:
    ours = Play(Stream(seed), schedule.build(make_spec(goal), [])).run()
    assert ours == Play(Stream(seed), rays_own(goal)).run()
    assert {decision for (_, epoch), decision in ours.items() if epoch < MAX_EPOCHS} == {"CONTINUE", "STOP"}
    assert {decision for (_, epoch), decision in ours.items() if epoch == MAX_EPOCHS} == {"STOP"}


@pytest.mark.parametrize("goal", ["maximize", "minimize"])
@pytest.mark.parametrize("seed", range(6))
def test_a_replay_goes_on_as_if_nothing_had_happened(goal: str, seed: int) -> None:
    uninterrupted = Play(Stream(seed), schedule.build(make_spec(goal), [])).run()
    for cut in range(0, len(uninterrupted), 9):
        first = Play(Stream(seed), schedule.build(make_spec(goal), []))
        for _ in range(cut):
            first.step()
        second = Play(
            Stream(seed),
            schedule.build(make_spec(goal), first.records()),
            tag="resumed",
            epochs=dict(first.epochs),
            waiting=list(first.waiting) or [-1],
            decisions=dict(first.decisions),
        )
        second.waiting = list(first.waiting)
        second.rng.setstate(first.rng.getstate())
        for number in first.live:
            second.add(number)
        assert second.run() == uninterrupted, f"cut after {cut} results"


def test_the_last_epoch_said_again_is_not_decided_again() -> None:
    scheduler = schedule.build(make_spec(), [])
    play = Play(Stream(1), scheduler)
    for _ in range(30):
        play.step()
    again = schedule.build(make_spec(), play.records())
    for number in play.live:
        trial = FakeTrial(f"b{number}", number)
        again.on_trial_add(None, trial)
        if epoch := play.epochs.get(number):
            result = {"epoch": epoch, "value": -1.0}  # would be stopped, were it new
            assert again.on_trial_result(None, trial, result) == "CONTINUE"


def test_none_stops_nothing() -> None:
    scheduler = schedule.build(make_spec(scheduler="none"), [])
    assert type(scheduler) is FIFOScheduler


def test_a_trial_may_end_without_a_result_and_be_removed() -> None:
    scheduler = schedule.build(make_spec(), [])
    for number in range(2):
        scheduler.on_trial_add(None, FakeTrial(f"a{number}", number))
    scheduler.on_trial_complete(None, FakeTrial("a0", 0), {"done": True})
    scheduler.on_trial_remove(None, FakeTrial("a1", 1))
    assert scheduler.on_trial_result(None, FakeTrial("a0", 0), {"epoch": 1, "value": 0.5}) == "CONTINUE"
