"""Where slots and workers meet: jobs go down, epochs and endings come up. One Ray actor for the whole sweep.

A worker group can die at any moment and be replaced by another, its next *incarnation*. What an incarnation says
counts only for the job that it took, so nothing that arrives late can be held against its successor.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from orchestrator import failures
from orchestrator.messages import Ended, Event, Job, Left, Lost, Node, Notice, Outcome, Report, Sample, Started, Verdict

DIED = "the worker process died (killed, out of memory, or the node is gone)"

# How long workers may take to end their trials when the sweep is interrupted: the user is waiting.
INTERRUPT_TIMEOUT_S = 20.0
# How long the slot whose turn it is may take to have its workers there, before another one counts what is free.
TURN_S = 60.0


@dataclass
class _Line:
    """One slot's line to its workers."""

    job: Job | None = None
    serial: int = 0
    taken_by: str | None = None
    incarnation: str | None = None
    joined: bool = False
    dead: set[str] = field(default_factory=set)
    cause: str | None = None
    raised: int = 0
    died: int = 0
    """Of the worker groups since a trial was taken last, those that went down by an error, and those that died."""
    said: bool = False
    """Whether the workers that go down have said so themselves."""
    closed: bool = False
    nodes: Sequence[Node] = ()
    samples: list[Sample] = field(default_factory=list)
    """Of the trial's other nodes, which rank 0 has yet to fetch."""
    verdict: asyncio.Future[Verdict] | None = None
    events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)


class Switchboard:
    """The actor's class; every method is awaited on the actor's own event loop, so none needs a lock."""

    def __init__(self) -> None:
        self._lines: defaultdict[str, _Line] = defaultdict(_Line)
        self._interrupted: Outcome | None = None
        self._stopped: set[int] = set()
        self._give_up_at = math.inf
        self._news: list[Started | Ended | Left | Notice] = []
        self._failed: defaultdict[Node, list[int]] = defaultdict(list)
        self._avoided: list[Node] = []
        self._turn: tuple[str, float] | None = None

    # The sweep's side.

    async def interrupt(self, outcome: Outcome) -> None:
        """End every trial at its next step; `outcome` says as what."""
        if not self._interrupted:
            self._interrupted, self._give_up_at = outcome, time.monotonic() + INTERRUPT_TIMEOUT_S
        for line in self._lines.values():
            await self._changed(line)
            self._answer(line, self._stop())

    async def settle(self, number: int, verdict: Verdict) -> None:
        """Tell the workers of a trial, who wait at the end of an epoch, what became of it."""
        for line in self._lines.values():
            if line.job is not None and line.job.number == number:
                self._answer(line, self._stop() if self._interrupted else verdict)

    async def stop_trial(self, number: int) -> None:
        """End one trial at its next step; the sweep goes on."""
        self._stopped.add(number)
        for line in self._lines.values():
            await self._changed(line)
            if line.job is not None and line.job.number == number:
                self._answer(line, Verdict.STOP)

    async def give_up(self, number: int) -> None:
        """What the workers of a trial still say no longer counts: their slot died, or they took too long to end it."""
        for line in self._lines.values():
            if line.job is not None and line.job.number == number:
                if line.taken_by is not None:
                    line.dead.add(line.taken_by)
                self._lose(line, Lost(error="its slot gave it up"))
                self._answer(line, Verdict.INTERRUPT)
                await self._changed(line)

    async def news(self) -> list[Started | Ended | Left | Notice]:
        """What happened since the last call, for the record."""
        news, self._news = self._news, []
        return news

    # A slot's side.

    async def assign(self, slot: str, job: Job) -> None:
        """Give a slot's workers a trial."""
        line = self._lines[slot]
        line.job, line.taken_by, line.verdict, line.samples = job, None, None, []
        line.events = asyncio.Queue()  # what is left in the old one is of the trial before
        line.serial += 1
        await self._changed(line)

    async def has_workers(self, slot: str) -> bool:
        """Whether a worker group of the slot's is there, with a trial or without."""
        line = self._lines[slot]
        return line.incarnation is not None and line.incarnation not in line.dead

    async def is_waiting(self, slot: str) -> bool:
        """Whether the slot's trial is one that no worker has taken."""
        line = self._lines[slot]
        return line.job is not None and line.taken_by is None

    async def has_turn(self, slot: str) -> bool:
        """Whether a slot may decide by what is free: not while another, which has decided, waits for its workers."""
        if self._turn is not None:
            owner, since = self._turn
            if time.monotonic() - since < TURN_S and await self.is_waiting(owner):
                return owner == slot
            if owner == slot:  # it has had its turn
                self._turn = None
                return False
        self._turn = slot, time.monotonic()
        return True

    async def may_grow(self, slot: str) -> bool:
        """Whether what is free is for a slot whose trial trains: only where no other trial waits."""
        return not any([await self.is_waiting(other) for other in self._lines if other != slot])

    async def next_event(self, slot: str, timeout_s: float) -> Event | None:
        """The next thing that happened to the slot's trial, or None when nothing did for so long.

        When the sweep is interrupted, a trial that no worker has taken ends there and then, and one whose workers
        do not end it in time is given up: it goes on from its last checkpoint when the sweep is resumed.
        """
        line = self._lines[slot]
        late = line.taken_by is None or time.monotonic() > self._give_up_at
        if self._interrupted and line.job is not None and late and line.events.empty():
            ended = Ended(number=line.job.number, outcome=self._interrupted, run_closed=line.taken_by is None)
            line.job, line.taken_by = None, None
            return ended
        try:
            return await asyncio.wait_for(line.events.get(), timeout_s)
        except TimeoutError:
            return None

    async def answer(self, slot: str, verdict: Verdict) -> None:
        """Tell the workers, who wait at the end of an epoch, what the scheduler made of it."""
        self._answer(self._lines[slot], self._stop() if self._interrupted else verdict)

    async def group_failed(self, slot: str, lost: Lost) -> None:
        """Ray Train says why a worker group is going down, and the trial it holds with it."""
        line, cause = self._lines[slot], lost.error
        line.cause, said, line.said = cause, line.said, False
        if line.incarnation is not None:  # also one that has no trial: what is left of it would yet take one
            line.dead.add(line.incarnation)
        if line.taken_by is not None and line.job is not None:
            self._lose(line, lost)
        elif line.taken_by is None and not said and lost.outcome is not Outcome.MOVED:
            line.raised, line.died = line.raised + (not lost.died), line.died + lost.died
            if failures.is_broken(raised=line.raised, died=line.died) and line.job is not None:
                count = line.raised + line.died
                error = f"{count} worker groups in a row died before they took a trial: {cause}"
                self._lose(line, Lost(error=error, outcome=Outcome.BROKEN))

    async def group_gone(self, slot: str, cause: str) -> bool:
        """Ray Train has given up on a slot's worker group, and a trial that it held is lost.

        Returns:
            Whether any of its workers had joined; where none had, the trial waits for the next group.
        """
        line = self._lines[slot]
        if line.job is not None and line.taken_by is not None:
            self._lose(line, Lost(error=cause))
        joined, line.joined = line.joined, False
        return joined

    async def avoided(self, alive: Sequence[str]) -> list[str]:
        """The nodes, of those that are alive and can train, on which no more workers are to be started."""
        by_id = {node.id: node for node in self._failed}
        bad = failures.avoided({node.id: trials for node, trials in self._failed.items()}, alive)
        for node in (by_id[id_] for id_ in bad):
            if node not in self._avoided:
                self._avoided.append(node)
                trials = ", ".join(str(number) for number in dict.fromkeys(self._failed[node]))
                self._news.append(Notice(text=f"node {node.address} is avoided: trials {trials} failed there"))
        return bad

    async def avoided_so_far(self) -> list[Node]:
        """Every node that was avoided at some time."""
        return self._avoided

    async def close(self, slot: str) -> None:
        """No more trials for this slot: its workers return."""
        line = self._lines[slot]
        line.closed = True
        await self._changed(line)

    # The workers' side.

    async def join(self, slot: str, incarnation: str, nodes: Sequence[Node]) -> None:
        """Rank 0 of a new worker group, whose ranks live on `nodes`, is here; a trial of its predecessor is lost."""
        line = self._lines[slot]
        if line.incarnation is not None:
            line.dead.add(line.incarnation)
        line.incarnation, line.joined, line.said = incarnation, True, False
        if line.job is not None and line.taken_by is not None:
            self._lose(line, Lost(error=line.cause or DIED))
        line.cause, line.nodes = None, nodes
        await self._changed(line)

    async def take(self, slot: str, incarnation: str, after: int) -> tuple[int, Job] | None:
        """The next trial after the one with serial number `after`; waits for it.

        None: there will be none. So it is for an incarnation that is not the slot's any more, too. Mostly it is about
        to be killed; one that was replaced by what a node said late, which had been cut off, would wait for ever.
        """
        line = self._lines[slot]
        async with line.changed:
            await line.changed.wait_for(
                lambda: (
                    incarnation in line.dead
                    or (
                        incarnation == line.incarnation
                        and (line.closed or (line.job is not None and line.serial > after))
                    )
                )
            )
        if incarnation in line.dead or line.closed or line.job is None:
            return None
        line.taken_by, line.raised, line.died = incarnation, 0, 0
        return line.serial, line.job

    async def started(self, slot: str, incarnation: str, started: Started) -> None:
        """A trial's run is open."""
        if self._holds(slot, incarnation, started.number):
            self._news.append(replace(started, at=time.time()))

    async def report(self, slot: str, incarnation: str, report: Report) -> Verdict:
        """Hand in an epoch and wait for the scheduler's verdict on it."""
        line = self._lines[slot]
        if not self._holds(slot, incarnation, report.number):
            return Verdict.INTERRUPT
        line.events.put_nowait(report)
        if self._interrupted:
            return self._stop()
        if report.number in self._stopped:
            return Verdict.STOP
        line.verdict = asyncio.get_running_loop().create_future()
        return await line.verdict

    async def sampled(self, slot: str, incarnation: str, number: int, samples: Sequence[Sample]) -> None:
        """A node that is not rank 0's says what its system did while a trial trained."""
        if self._holds(slot, incarnation, number):
            self._lines[slot].samples += samples

    async def samples(self, slot: str, incarnation: str, number: int) -> list[Sample]:
        """What the other nodes of a trial have said of their systems since the last call."""
        line = self._lines[slot]
        if not self._holds(slot, incarnation, number):
            return []
        samples, line.samples = line.samples, []
        return samples

    async def ended(self, slot: str, incarnation: str, ended: Ended) -> None:
        """A trial is over, its run closed, its checkpoints in place."""
        line = self._lines[slot]
        if self._holds(slot, incarnation, ended.number):
            line.job = None
            for node in line.nodes:
                self._failed.pop(node, None)
            line.events.put_nowait(ended)
            self._news.append(ended)
            await self._changed(line)

    async def lost(self, slot: str, incarnation: str, lost: Lost) -> None:
        """A worker is about to go down with an exception, and its group with it."""
        line = self._lines[slot]
        line.dead.add(incarnation)
        line.said = True
        if line.taken_by == incarnation and line.job is not None:
            self._lose(line, lost)

    async def notice(self, notice: Notice) -> None:
        """Something the user should read."""
        self._news.append(notice)

    async def interrupted(self, slot: str, number: int) -> Outcome | None:
        """Wait until a slot's trial is to end at its next step, and as what; None when it has ended otherwise."""
        line = self._lines[slot]
        async with line.changed:
            await line.changed.wait_for(
                lambda: self._interrupted or number in self._stopped or line.job is None or line.job.number != number
            )
        if line.job is None or line.job.number != number:
            return None
        return self._interrupted or Outcome.STOPPED

    def _holds(self, slot: str, incarnation: str, number: int) -> bool:
        """Whether what an incarnation says of a trial counts: it holds that trial now."""
        line = self._lines[slot]
        return line.taken_by == incarnation and line.job is not None and line.job.number == number

    def _stop(self) -> Verdict:
        """What ends a trial at the end of its epoch as the interruption says."""
        return Verdict.PRUNE if self._interrupted is Outcome.PRUNED else Verdict.INTERRUPT

    def _lose(self, line: _Line, lost: Lost) -> None:
        if line.job is not None:
            self._news.append(Left(number=line.job.number))
            if lost.outcome is Outcome.FAILED and lost.rank is not None and lost.rank < len(line.nodes):
                self._failed[line.nodes[lost.rank]].append(line.job.number)
        line.job, line.taken_by = None, None
        line.events.put_nowait(replace(lost, nodes=line.nodes))

    @staticmethod
    def _answer(line: _Line, verdict: Verdict) -> None:
        if line.verdict is not None and not line.verdict.done():
            line.verdict.set_result(verdict)

    @staticmethod
    async def _changed(line: _Line) -> None:
        async with line.changed:
            line.changed.notify_all()
