"""What passes between the sweep, its slots and their workers: plain data that survives pickling."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal


class Task(StrEnum):
    """What workers do with a trial."""

    TRAIN = "train"
    TEST = "test"  # the checkpoint that the job names, on the test split
    TRAIN_AND_TEST = "train_and_test"  # the best of its own checkpoints


class Outcome(StrEnum):
    """How a trial's time on a slot ended."""

    COMPLETE = "complete"
    PRUNED = "pruned"  # the scheduler stopped it
    STOPPED = "stopped"  # the user stopped this one trial
    DIVERGED = "diverged"  # its metric was not a finite number
    PAUSED = "paused"  # the scheduler took it off its slot; it will go on
    INTERRUPTED = "interrupted"  # the sweep was stopped; it goes on when the sweep is resumed
    MOVED = "moved"  # its node is taken away or gone, or its group is resized: it goes on elsewhere, nothing failed
    FAILED = "failed"
    INFEASIBLE = "infeasible"  # it had all its epochs, and breaks one of the spec's constraints
    OUT_OF_MEMORY = "out_of_memory"  # its hyperparameters ask for more than there is: they are infeasible
    REJECTED = "rejected"  # the spec does not fit the trainable: every trial would fail the same way
    BROKEN = "broken"  # worker groups do not even start: so would every trial's


# Outcomes that a run ends with exit code 0 for: the trial did what it was asked to.
GOOD = {Outcome.COMPLETE, Outcome.PRUNED, Outcome.STOPPED, Outcome.DIVERGED, Outcome.INFEASIBLE, Outcome.PAUSED}

# Outcomes after which a trial goes on in the same run: W&B shows it as preempted meanwhile.
GOES_ON = {Outcome.INTERRUPTED, Outcome.MOVED}


class Verdict(StrEnum):
    """What a worker is told when it has reported an epoch."""

    CONTINUE = "continue"
    PRUNE = "prune"
    PAUSE = "pause"
    STOP = "stop"
    INTERRUPT = "interrupt"
    MOVE = "move"  # leave, with the same trial to go on: there is room for more workers


@dataclass(frozen=True, kw_only=True)
class Change:
    """A trial goes on from another trial's checkpoint, or with other hyperparameters."""

    epoch: int
    """After which epoch; the checkpoint that was copied is of the same one."""
    params: Mapping[str, Any]
    """All its hyperparameters from then on."""
    copied_from: int | None = None
    """The trial whose checkpoint it took; None where it kept its own."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the sweep was started, which workers share as far as they can."""

    folder: str
    environ: Mapping[str, str]
    """W&B's variables, those that are no secret."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One trial, as handed to the workers of a slot."""

    number: int
    params: Mapping[str, Any]
    seed: int
    attempt: int = 0
    """How often it was tried before, in this run of the sweep."""
    moves: int = 0
    """How often it was moved to other nodes without having failed, in this run of the sweep."""
    start_from: str | None = None
    """A checkpoint, relative to the sweep's folder, other than the trial's own newest."""
    task: Task = Task.TRAIN
    """What is to be done with it."""
    curve: Mapping[int, float] = field(default_factory=dict)
    """The trial's past, by epoch: another trial's checkpoint does not know it."""
    changes: tuple[Change, ...] = ()
    """What became of its hyperparameters so far; `params` are the last ones."""
    repeat_of: int | None = None
    """The trial whose configuration it runs again, with another seed."""


@dataclass(frozen=True, kw_only=True)
class Started:
    """A trial's workers have begun."""

    number: int
    slot: str
    wandb_run: str | None
    """The run's URL where it is online, else its folder, relative to the sweep's; None where there is no run."""
    workers: int = 1
    at: float | None = field(default=None, compare=False)
    """When the switchboard heard of it, in seconds since 1970: the sweep may be busy, and a trial over by then."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """One epoch of a trial. Epochs count from 1; a report again for the same epoch says the same."""

    number: int
    epoch: int
    value: float
    """The sweep's metric at this epoch; finite."""
    metrics: Mapping[str, float]
    """Everything the module logged, by name."""
    best_epoch: int
    """The epoch of the best value so far."""
    checkpoint: str | None
    """This epoch's checkpoint, relative to the sweep's folder."""
    best_checkpoint: str | None
    """The best epoch's checkpoint, relative to the sweep's folder."""
    epoch_s: float | None = None
    """Seconds that the epoch took, its validation included, of all workers together; None where it was not trained
    in one piece."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A trial's workers are done with it."""

    number: int
    outcome: Outcome
    report: Report | None = None
    """The last epoch, where the sweep has not been told of it yet."""
    error: str | None = None
    run_closed: bool = True
    """Whether the trial's W&B run was closed by its workers."""
    tested: Mapping[str, float] | None = None
    """What was measured on the test split, where that was asked for."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """Where a worker lives."""

    id: str
    """Ray's."""
    address: str


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What the system of a node did at one time."""

    taken_at_s: float
    """Since 1970."""
    values: Mapping[str, float]
    """By W&B's names of system metrics, with the node as their label."""


@dataclass(frozen=True, kw_only=True)
class Lost:
    """A slot's worker group is gone, with the trial it held, if it held one."""

    error: str
    """What is known of why, in one line, the exception's own words first."""
    outcome: Outcome = Outcome.FAILED
    """What the trial ends as if it is not tried again; REJECTED and BROKEN say that trying is useless."""
    run_closed: bool = False
    """Whether the trial's W&B run was closed before the end."""
    rank: int | None = None
    """Whose doing it was; None where nobody knows."""
    collateral: bool = False
    """Whether it only shows that a rank cannot be reached: perhaps its node is gone, and Ray has yet to find out."""
    died: bool = False
    """Whether a process died, as one that is killed does, rather than raise something."""
    nodes: Sequence[Node] = ()
    """Where the group's ranks lived."""


@dataclass(frozen=True, kw_only=True)
class Left:
    """A trial's workers are gone, or what they say no longer counts; it may be tried again."""

    number: int


@dataclass(frozen=True, kw_only=True)
class Notice:
    """Something to say to the user once, that fails nothing: e.g. that W&B cannot be reached."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Step:
    """One thing that happened to a trial, as the ledger keeps it, in the order in which it was recorded."""

    number: int
    what: Literal["begun", "reported", "resumed", "ended"]
    epoch: int = 0
    """Of a report."""
    value: float = math.nan
    """Of a report: the sweep's metric."""
    change: Change | None = None
    """Of a paused trial that goes on with something changed."""


class Command(StrEnum):
    """What a user asks of a sweep that runs, on its W&B page or on the command line."""

    PAUSE = "pause"  # no new trials, until it is resumed
    RESUME = "resume"
    STOP = "stop"  # no new trials; those that run go on to their end
    CANCEL = "cancel"  # those that run stop at their next step


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The user asked something of the whole sweep."""

    command: Command
    where: str
    """For the user: where it was asked."""


@dataclass(frozen=True, kw_only=True)
class StopTrial:
    """The user stopped one trial on its run's page."""

    number: int


@dataclass(frozen=True, kw_only=True)
class Joined:
    """The sweep has a page in W&B."""

    sweep_id: str


@dataclass(frozen=True, kw_only=True)
class Landed:
    """A trial's run can be looked at in W&B."""

    number: int
    url: str


@dataclass(frozen=True, kw_only=True)
class Delivered:
    """The last word of the desk: all that could be brought to W&B was."""

    missing: list[str]
    """The runs that are not, or not wholly, there."""


Event = Report | Ended | Lost


def first_line(exc: BaseException) -> str:
    """An exception's class and the first line of what it says."""
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return f"{type(exc).__name__}: {lines[0]}" if lines else type(exc).__name__
