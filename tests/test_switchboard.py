"""The switchboard as plain asyncio: what counts, what comes too late, and that nobody waits for ever."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest

from orchestrator import switchboard
from orchestrator.failures import MAX_DIED, MAX_RAISED
from orchestrator.messages import Ended, Job, Left, Lost, Node, Notice, Outcome, Report, Sample, Started, Verdict
from orchestrator.switchboard import DIED, Switchboard

NODES = [Node(id="n0", address="10.0.0.1"), Node(id="n1", address="10.0.0.2")]
S = "slot"
Scenario = Callable[[Switchboard], Coroutine[Any, Any, None]]


def job(number: int = 0) -> Job:
    return Job(number=number, params={}, seed=1)


def report(number: int = 0, epoch: int = 1) -> Report:
    return Report(
        number=number, epoch=epoch, value=0.5, metrics={}, best_epoch=epoch, checkpoint=None, best_checkpoint=None
    )


def ended(number: int = 0, outcome: Outcome = Outcome.COMPLETE) -> Ended:
    return Ended(number=number, outcome=outcome)


def play(scenario: Scenario) -> None:
    async def limited() -> None:
        await asyncio.wait_for(scenario(Switchboard()), 60)

    asyncio.run(limited())


async def nothing_happens(board: Switchboard, slot: str = S) -> bool:
    return await board.next_event(slot, 0.01) is None


async def hold(board: Switchboard, number: int = 0, incarnation: str = "a") -> None:
    """A new worker group takes a trial."""
    await board.join(S, incarnation, NODES)
    await board.assign(S, job(number))
    taken = await board.take(S, incarnation, 0)
    assert taken is not None
    assert taken[1].number == number


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_a_trial_from_job_to_end() -> None:
    async def scenario(board: Switchboard) -> None:
        await hold(board)
        await board.started(S, "a", Started(number=0, slot="slot", wandb_run=None))
        waiting = asyncio.create_task(board.report(S, "a", report()))
        assert await board.next_event(S, 1) == report()
        assert not waiting.done()
        await board.answer(S, Verdict.PRUNE)
        assert await waiting is Verdict.PRUNE
        await board.ended(S, "a", ended(outcome=Outcome.PRUNED))
        assert await board.next_event(S, 1) == ended(outcome=Outcome.PRUNED)
        began, over = await board.news()
        assert [began, over] == [Started(number=0, slot="slot", wandb_run=None), ended(outcome=Outcome.PRUNED)]
        assert isinstance(began, Started)
        assert began.at is not None
        assert await board.news() == []

    play(scenario)


def test_workers_wait_for_the_next_trial_and_get_each_once() -> None:
    async def scenario(board: Switchboard) -> None:
        await board.join(S, "a", NODES)
        ranks = [asyncio.create_task(board.take(S, "a", 0)) for _ in range(2)]
        await settle()
        assert not any(rank.done() for rank in ranks)
        await board.assign(S, job(0))
        assert await asyncio.gather(*ranks) == [(1, job(0)), (1, job(0))]
        again = asyncio.create_task(board.take(S, "a", 1))
        await settle()
        assert not again.done()
        await board.ended(S, "a", ended())
        await board.assign(S, job(1))
        assert await again == (2, job(1))

    play(scenario)


def test_slots_do_not_hear_each_other() -> None:
    async def scenario(board: Switchboard) -> None:
        await hold(board)
        await board.ended(S, "a", ended())
        assert await nothing_happens(board, "another")
        assert await board.next_event(S, 1) == ended()

    play(scenario)


def test_samples_of_other_nodes_are_fetched_once_and_only_by_who_holds_the_trial() -> None:
    async def scenario(board: Switchboard) -> None:
        await hold(board)
        first, second = (Sample(taken_at_s=at, values={"cpu/l:b": at}) for at in (1.0, 2.0))
        await board.sampled(S, "a", 0, [first])
        await board.sampled(S, "a", 0, [second])
        assert await board.samples(S, "late", 0) == []
        assert await board.samples(S, "a", 0) == [first, second]
        assert await board.samples(S, "a", 0) == []
        await board.sampled(S, "a", 0, [first])
        await board.ended(S, "a", ended())
        await board.assign(S, job(1))
        await board.take(S, "a", 1)
        await board.sampled(S, "a", 0, [second])  # of the trial before
        assert await board.samples(S, "a", 1) == []

    play(scenario)


def test_an_event_that_comes_late_is_waited_for() -> None:
    async def scenario(board: Switchboard) -> None:
        await hold(board)
        event = asyncio.create_task(board.next_event(S, 5))
        await settle()
        await board.ended(S, "a", ended())
        assert await event == ended()

    play(scenario)


class TestDeath:
    def test_a_trial_lost_while_held_is_lost_once(self) -> None:
        async def scenario(board: Switchboard) -> None:
            await hold(board)
            await board.lost(S, "a", Lost(error="boom"))
            await board.lost(S, "a", Lost(error="rank 1 as well"))
            await board.group_failed(S, Lost(error="rank 0: boom"))
            await board.join(S, "b", NODES)
            await board.group_gone(S, "gave up")
            assert await board.next_event(S, 1) == Lost(error="boom", nodes=NODES)
            assert await nothing_happens(board)

        play(scenario)

    @pytest.mark.parametrize(("cause", "error"), [("rank 0: SystemExit", "rank 0: SystemExit"), (None, DIED)])
    def test_a_killed_group_is_noticed_when_the_next_one_joins(self, cause: str | None, error: str) -> None:
        async def scenario(board: Switchboard) -> None:
            await hold(board)
            if cause:
                await board.group_failed(S, Lost(error=cause))
            await board.join(S, "b", NODES)
            assert await board.next_event(S, 1) == Lost(error=error, nodes=NODES)
            assert await nothing_happens(board)

        play(scenario)

    def test_a_cause_is_not_held_against_the_next_trial(self) -> None:
        async def scenario(board: Switchboard) -> None:
            await hold(board)
            await board.group_failed(S, Lost(error="rank 0: first"))
            await board.join(S, "b", NODES)
            await board.next_event(S, 1)
            await board.assign(S, job(1))
            await board.take(S, "b", 0)
            await board.join(S, "c", NODES)
            assert await board.next_event(S, 1) == Lost(error=DIED, nodes=NODES)

        play(scenario)

    def test_late_news_of_the_dead_is_ignored(self) -> None:
        async def scenario(board: Switchboard) -> None:
            await hold(board)
            await board.join(S, "b", NODES)
            assert isinstance(await board.next_event(S, 1), Lost)
            await board.assign(S, job(0))
            assert await board.take(S, "b", 0) is not None
            assert await board.report(S, "a", report()) is Verdict.INTERRUPT
            await board.started(S, "a", Started(number=0, slot="slot", wandb_run="old"))
            await board.ended(S, "a", ended())
            await board.lost(S, "a", Lost(error="late"))
            assert await nothing_happens(board)
            assert await board.news() == [Left(number=0)]
            await board.ended(S, "b", ended())
            assert await board.next_event(S, 1) == ended()

        play(scenario)

    def test_the_dead_take_nothing(self) -> None:
        async def scenario(board: Switchboard) -> None:
            await hold(board)
            await board.lost(S, "a", Lost(error="rank 1 raised"))
            await board.assign(S, job(0))
            assert await board.take(S, "a", 1) is None
            await board.join(S, "b", NODES)
            assert await board.take(S, "b", 0) is not None

        play(scenario)

    def test_a_group_that_goes_down_without_a_trial_takes_none_any_more(self) -> None:
        async def scenario(board: Switchboard) -> None:
            await board.join(S, "a", NODES)
            waiting = asyncio.create_task(board.take(S, "a", 0))
            await board.group_failed(S, Lost(error="its node is gone", outcome=Outcome.MOVED))
            await board.assign(S, job())
            assert await waiting is None
            await board.join(S, "b", NODES)
            assert await board.take(S, "b", 0) == (1, job())
            assert await nothing_happens(board)

        play(scenario)

    @pytest.mark.parametrize("has_a_trial", [True, False])
    def test_a_group_that_was_replaced_by_one_that_joined_too_late_leaves(self, has_a_trial: bool) -> None:
        """Of the one before, on a node that had been cut off: what it had said arrives when it is back, and dies."""

        async def scenario(board: Switchboard) -> None:
            await board.join(S, "b", NODES)
            waiting = asyncio.create_task(board.take(S, "b", 0))
            await settle()
            if has_a_trial:
                await board.assign(S, job())
                assert await waiting == (1, job())
            await board.join(S, "a", NODES)
            if has_a_trial:
                assert isinstance(await board.next_event(S, 1), Lost)
                assert await board.report(S, "b", report()) is Verdict.INTERRUPT
                waiting = asyncio.create_task(board.take(S, "b", 1))
            assert await waiting is None  # its run is over, and the slot starts another
            await board.join(S, "c", NODES)
            await board.assign(S, job())
            assert await board.take(S, "c", 0) is not None

        play(scenario)

    def test_a_trial_that_nobody_took_is_not_lost_when_a_group_joins(self) -> None:
        async def scenario(board: Switchboard) -> None:
            await board.assign(S, job())
            await board.join(S, "a", NODES)
            await board.join(S, "b", NODES)
            assert await nothing_happens(board)
            assert await board.take(S, "b", 0) == (1, job())

        play(scenario)

    def test_a_trial_waits_for_the_next_group_while_none_has_taken_it(self) -> None:
        async def scenario(board: Switchboard) -> None:
            await board.assign(S, job())
            assert not await board.group_gone(S, "gave up")  # none of its workers had joined
            assert await nothing_happens(board)
            await board.join(S, "a", NODES)
            assert await board.take(S, "a", 0) == (1, job())
            assert await board.group_gone(S, "gave up again")
            assert await board.next_event(S, 1) == Lost(error="gave up again", nodes=NODES)

        play(scenario)

    def test_what_a_trial_that_was_given_up_still_says_does_not_count(self) -> None:
        async def scenario(board: Switchboard) -> None:
            await hold(board)
            waiting = asyncio.create_task(board.report(S, "a", report()))
            assert await board.next_event(S, 1) == report()
            await board.give_up(0)
            assert await waiting is Verdict.INTERRUPT
            await board.ended(S, "a", ended())
            assert await board.news() == [Left(number=0)]
            assert isinstance(await board.next_event(S, 1), Lost)  # the slot need not wait for it any longer
            assert await nothing_happens(board)
            await board.give_up(7)  # nobody holds it

        play(scenario)

    @pytest.mark.parametrize(
        ("lost", "most"),
        [(Lost(error="ImportError: no module"), MAX_RAISED), (Lost(error="it was killed", died=True), MAX_DIED)],
    )
    def test_groups_that_die_before_they_take_a_trial_end_it_as_broken(self, lost: Lost, most: int) -> None:
        async def scenario(board: Switchboard) -> None:
            await board.assign(S, job())
            for _ in range(most - 1):
                await board.group_failed(S, lost)
                assert await nothing_happens(board)
            await board.group_failed(S, lost)
            broken = await board.next_event(S, 1)
            assert isinstance(broken, Lost)
            assert broken.outcome is Outcome.BROKEN
            assert broken.error == f"{most} worker groups in a row died before they took a trial: {lost.error}"
            assert await nothing_happens(board)

        play(scenario)

    def test_groups_that_took_trials_in_between_do_not_count(self) -> None:
        async def scenario(board: Switchboard) -> None:
            for round_ in range(2 * MAX_RAISED):
                incarnation = f"group {round_}"
                await hold(board, incarnation=incarnation)
                await board.lost(S, incarnation, Lost(error="boom"))
                await board.group_failed(S, Lost(error="boom"))
                assert await board.next_event(S, 1) == Lost(error="boom", nodes=NODES)

        play(scenario)

    @pytest.mark.parametrize("in_a_trial", [True, False])
    def test_a_group_that_had_a_trial_is_none_of_those_that_had_none(self, in_a_trial: bool) -> None:
        async def scenario(board: Switchboard) -> None:
            await hold(board)
            if in_a_trial:
                await board.lost(S, "a", Lost(error="boom"))
            else:
                await board.ended(S, "a", ended())
            await board.next_event(S, 1)
            await board.group_failed(S, Lost(error="boom"))
            await board.assign(S, job(1))
            for _ in range(MAX_RAISED - 1):
                await board.group_failed(S, Lost(error="no module"))
                assert await nothing_happens(board)

        play(scenario)


class TestInterruption:
    def test_a_trial_that_nobody_took_ends_there_and_then(self) -> None:
        async def scenario(board: Switchboard) -> None:
            await board.join(S, "a", NODES)
            await board.assign(S, job())
            await board.interrupt(Outcome.INTERRUPTED)
            assert await board.next_event(S, 5) == ended(outcome=Outcome.INTERRUPTED)
            assert await nothing_happens(board)
            waiting = asyncio.create_task(board.take(S, "a", 0))
            await settle()
            assert not waiting.done()
            waiting.cancel()

        play(scenario)

    @pytest.mark.parametrize(
        ("outcome", "verdict"), [(Outcome.INTERRUPTED, Verdict.INTERRUPT), (Outcome.PRUNED, Verdict.PRUNE)]
    )
    def test_one_that_waits_for_a_verdict_is_told(self, outcome: Outcome, verdict: Verdict) -> None:
        async def scenario(board: Switchboard) -> None:
            await hold(board)
            waiting = asyncio.create_task(board.report(S, "a", report()))
            assert await board.next_event(S, 1) == report()
            await board.interrupt(outcome)
            assert await waiting is verdict
            await board.answer(S, Verdict.CONTINUE)  # the scheduler's, too late
            await board.ended(S, "a", ended(outcome=outcome))
            assert await board.next_event(S, 1) == ended(outcome=outcome)

        play(scenario)

    @pytest.mark.parametrize(
        ("outcome", "verdict"), [(Outcome.INTERRUPTED, Verdict.INTERRUPT), (Outcome.PRUNED, Verdict.PRUNE)]
    )
    def test_an_epoch_that_ends_afterwards_is_recorded_all_the_same(self, outcome: Outcome, verdict: Verdict) -> None:
        async def scenario(board: Switchboard) -> None:
            await hold(board)
            await board.interrupt(outcome)
            assert await board.report(S, "a", report()) is verdict
            assert await board.next_event(S, 1) == report()

        play(scenario)

    def test_everyone_who_waits_for_it_hears_it(self) -> None:
        async def scenario(board: Switchboard) -> None:
            await hold(board)
            watches = [asyncio.create_task(board.interrupted(S, 0)) for _ in range(2)]
            await settle()
            assert not any(watch.done() for watch in watches)
            await board.interrupt(Outcome.PRUNED)
            await board.interrupt(Outcome.INTERRUPTED)  # the first one counts
            assert await asyncio.gather(*watches, board.interrupted(S, 0)) == [Outcome.PRUNED] * 3

        play(scenario)

    def test_one_trial_is_stopped_and_the_next_one_is_not(self) -> None:
        async def scenario(board: Switchboard) -> None:
            await hold(board)
            watch = asyncio.create_task(board.interrupted(S, 0))
            waiting = asyncio.create_task(board.report(S, "a", report()))
            await settle()
            await board.stop_trial(0)
            assert (await watch, await waiting) == (Outcome.STOPPED, Verdict.STOP)
            assert await board.report(S, "a", report()) is Verdict.STOP
            await board.ended(S, "a", ended(outcome=Outcome.STOPPED))
            assert await board.interrupted(S, 0) is None
            await board.assign(S, job(1))
            assert not asyncio.create_task(board.interrupted(S, 1)).done()

        play(scenario)

    def test_whoever_waits_hears_that_the_trial_has_ended(self) -> None:
        async def scenario(board: Switchboard) -> None:
            await hold(board)
            watch = asyncio.create_task(board.interrupted(S, 0))
            await settle()
            await board.ended(S, "a", ended())
            assert await watch is None

        play(scenario)

    def test_workers_who_do_not_end_in_time_are_given_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(switchboard, "INTERRUPT_TIMEOUT_S", 0.0)

        async def scenario(board: Switchboard) -> None:
            await hold(board)
            await board.interrupt(Outcome.INTERRUPTED)
            assert await board.next_event(S, 5) == replace(ended(outcome=Outcome.INTERRUPTED), run_closed=False)
            await board.ended(S, "a", ended())
            assert await board.report(S, "a", report()) is Verdict.INTERRUPT
            assert await nothing_happens(board)

        play(scenario)

    def test_workers_in_mid_step_have_time(self) -> None:
        async def scenario(board: Switchboard) -> None:
            await hold(board)
            await board.interrupt(Outcome.INTERRUPTED)
            assert await nothing_happens(board)

        play(scenario)


def test_closing_lets_the_workers_return() -> None:
    async def scenario(board: Switchboard) -> None:
        await board.join(S, "a", NODES)
        waiting = asyncio.create_task(board.take(S, "a", 0))
        await settle()
        await board.close(S)
        assert await waiting is None
        assert await board.take(S, "a", 0) is None

    play(scenario)


def test_notices_are_news() -> None:
    async def scenario(board: Switchboard) -> None:
        await board.notice(Notice(text="W&B cannot be reached"))
        assert await board.news() == [Notice(text="W&B cannot be reached")]

    play(scenario)


class TestNodes:
    def test_a_node_that_keeps_failing_trials_is_avoided_and_named(self) -> None:
        async def scenario(board: Switchboard) -> None:
            for number in range(2):
                incarnation = str(number)
                await hold(board, number, incarnation)
                assert await board.avoided(["n0", "n1", "n2"]) == []
                await board.lost(S, incarnation, Lost(error="boom", rank=1))
            assert await board.avoided(["n0", "n1", "n2"]) == ["n1"]
            assert await board.avoided_so_far() == [NODES[1]]
            notice = (await board.news())[-1]
            assert notice == Notice(text="node 10.0.0.2 is avoided: trials 0, 1 failed there")

        play(scenario)

    def test_a_node_is_trusted_again_when_a_trial_goes_well_there(self) -> None:
        async def scenario(board: Switchboard) -> None:
            await hold(board)
            await board.lost(S, "a", Lost(error="boom", rank=1))
            await hold(board, 1, "b")
            await board.ended(S, "b", ended(1))
            await hold(board, 2, "c")
            await board.lost(S, "c", Lost(error="boom", rank=1))
            assert await board.avoided(["n0", "n1", "n2"]) == []

        play(scenario)

    def test_a_trial_that_nobody_has_taken_waits(self) -> None:
        async def scenario(board: Switchboard) -> None:
            await board.assign(S, job())
            assert await board.is_waiting(S)
            await board.join(S, "a", NODES)
            await board.take(S, "a", 0)
            assert not await board.is_waiting(S)

        play(scenario)


def test_slots_count_what_is_free_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(board: Switchboard) -> None:
        await board.assign(S, job(0))
        await board.assign("other", job(1))
        assert await board.has_turn(S)
        assert not await board.has_turn("other")
        assert await board.has_turn(S)
        assert not await board.may_grow(S)  # what is free is for the other's trial
        await board.join(S, "a", NODES)
        await board.take(S, "a", 0)
        assert await board.has_turn("other")
        assert not await board.may_grow(S)
        assert await board.may_grow("other")
        monkeypatch.setattr(switchboard, "TURN_S", 0.0)
        assert not await board.has_turn("other")  # it has had its turn
        assert await board.has_turn("third")

    play(scenario)
