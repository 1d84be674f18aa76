"""The sweep itself: proposes trials, gives them to slots, keeps the ledger, ends well (Ray Tune)."""

from __future__ import annotations

import functools
import logging
import os
import shlex
import signal
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, TypeVar

import ray
from ray import tune
from ray.exceptions import RayError
from ray.tune import TuneError
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher
from ray.util.placement_group import NODE_ID_LABEL_KEY

from orchestrator import auto, capacity, cluster, earlier, ends, failures, preflight, ranking, results, schedule
from orchestrator.artifact import job_of
from orchestrator.control import Control
from orchestrator.credentials import redacted, to_workers
from orchestrator.errors import InputError, OrchestratorError, SpecError, StorageError, SweepError
from orchestrator.folder import SweepFolder
from orchestrator.known import to_text
from orchestrator.ledger import Ledger, TrialRecord
from orchestrator.messages import (
    Asked,
    Command,
    Ended,
    Job,
    Joined,
    Landed,
    Left,
    Notice,
    Outcome,
    Place,
    Report,
    Started,
    StopTrial,
    Verdict,
    first_line,
)  # fmt: skip
from orchestrator.naming import run_id
from orchestrator.reference import fetched
from orchestrator.results import ALIVE, STATES, Status
from orchestrator.slot import LEAVE_TIMEOUT_S, Slot
from orchestrator.spec import Spec
from orchestrator.switchboard import Switchboard
from orchestrator.tracking import Tracking, close_dead, succeed

T = TypeVar("T")

# How often the sweep looks at what happened besides its trials' epochs, and brings results.json up to date.
NEWS_EVERY_S, RESULTS_EVERY_S = 0.25, 1.0
# What writing the results may take of the sweep's time: with 10,000 trials each writing takes more than a second.
RESULTS_SHARE = 0.05
# How often it is looked whether a user asked something of the sweep on the command line.
CONTROL_EVERY_S = 1.0
# How often it is looked how many trials there is room for by now, and what of it nobody needs any more.
CAPACITY_EVERY_S = 5.0
# How long the actors of slots, which are told to go, may take until what they reserved is free.
GIVE_BACK_S = 10.0
# How long the export of the winner may take; tracing a large model takes minutes.
EXPORT_TIMEOUT_S = 900.0
# How long a worker group may take to be gone once its trial was lost.
DYING_S = 15.0
# How often it is looked, after a signal, whether Ray is still there, and how long an answer may take.
RAY_GONE_S = 1.0
# How often a trial is handed out again whose slot's process died before the trial had begun there.
MAX_UNBEGUN = 3


# How long the nodes of a resumed sweep may take to come back, as after the head, and how often that is looked at.
NODES_S, NODES_LOOK_S = 120.0, 1.0


class View(Protocol):
    """What shows a sweep's progress."""

    def notice(self, text: str) -> None:
        """Something to read once."""

    def changed(self, record: TrialRecord) -> None:
        """A trial began, reported or ended."""

    def tick(self) -> None:
        """Time went by."""

    def restore(self) -> None:
        """Give the terminal back: the process is about to end without another word."""


class Sweep:
    """One sweep in its folder, new or resumed."""

    def __init__(self, spec: Spec, folder: SweepFolder, ledger: Ledger, view: View) -> None:
        self.spec, self.folder, self.ledger, self._view = spec, folder, ledger, view
        self.status = Status.RUNNING
        self.missing: list[str] | None = []
        """What did not arrive in W&B; None where that is not known."""
        self._why: Exception | None = None
        self.error: Exception | None = None
        """What Tune's callbacks raised first."""
        self._begins_more = True
        self._over = False  # what is left is to put things in order
        self._signal: int | None = None
        self._interrupted = False
        self._own_ray: tuple[str, int] | None = None
        self.scheduler = schedule.build(spec, ledger)
        paused = set(self.scheduler.paused)
        self._waiting = [
            record for record in ledger.records if record.state == "RUNNING" and record.number not in paused
        ]
        self._verdicts: dict[int, Verdict] = {}
        self._end_of: str | None = None
        self.ledger.remember("end", None)
        self._leaving: dict[int, float] = {}  # until when their workers, told to end them, may take to do so
        self._slot_deaths: Counter[int] = Counter()
        self._live: dict[str, int] = {}
        self._training: set[int] = set()  # the trials that have workers
        self._trained_at = time.monotonic()  # when one had, or none waited
        self._slots: set[str] = set()
        self._start_s = 0.0
        self._left_open: list[tuple[float, Ended]] = []
        self._desk: Tracking | None = None
        self._page = ""
        self._control = Control(folder)
        self._settled = {record.number for record in ledger.records if record.state != "RUNNING"}
        self._dropped: set[int] = set()
        self._ranked = -1  # how many had settled when they were ranked last
        self._began = time.monotonic()
        self._news_at = self._results_due = self._control_at = 0.0
        self.concurrency = 1
        """How many trials may run at once, as things stand."""
        self._room: capacity.Concurrency | None = None
        self._stale = True
        self._storage_away = False
        self._drop()  # what a killed sweep had not got round to

    def run(self, concurrency: int) -> None:
        """Run the sweep to its end on the connected cluster, so many trials at once to begin with.

        Raises:
            SpecError: the spec does not fit the trainable, as the first trial found.
            SweepError: too many trials failed.
        """
        here = {NODE_ID_LABEL_KEY: ray.get_runtime_context().get_node_id()}  # nodes that train may go at any time
        if not cluster.is_given():
            host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
            self._own_ray = host, int(port)
        self._board = ray.remote(num_cpus=0, max_concurrency=10_000, label_selector=here)(Switchboard).remote()
        slot_share = {capacity.HEAD if capacity.HEAD in ray.cluster_resources() else "CPU": capacity.SLOT_SHARE}
        place = Place(folder=os.getcwd(), environ=to_workers(os.environ))
        resources = tune.PlacementGroupFactory([slot_share])
        trainable = tune.with_parameters(Slot, spec=self.spec.to_yaml(), board=self._board, place=place)
        name = self.spec.name
        self.concurrency = concurrency
        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(self.spec.trials)  # how many begin is said by `propose`
        tuner = tune.Tuner(
            tune.with_resources(trainable, resources),
            tune_config=tune.TuneConfig(
                search_alg=_Proposals(self),
                scheduler=_Judge(self, resources),
                num_samples=-1,  # until the search says that it is over
                reuse_actors=True,
                trial_name_creator=lambda trial: f"{name}-{trial.config['number']}",
                trial_dirname_creator=lambda trial: f"{trial.config['number']}-{trial.trial_id}",
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=self.folder.ray_url,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                callbacks=[_Loop(self)],
                verbose=0,
            ),
        )
        try:
            with self._following():
                tuner.fit()
        except (TuneError, RayError) as exc:
            cause = self.error or exc
            if isinstance(cause, OrchestratorError):
                raise cause from None
            logging.getLogger(__name__).exception("the sweep broke off", exc_info=cause)
            raise SweepError(
                f"the sweep broke off ({first_line(cause)}); its record is safe, and `resume` goes on;"
                f" {self.folder.log} says more"
            ) from cause
        finally:
            self._over = True
        self._hear_news()
        for number in list(self._leaving):  # their slots are closed
            self._left(number)
        self._end()

    @property
    def exit_code(self) -> int:
        """0; 1 where nothing was found; or as a shell says it for a process that a signal ended."""
        if self._signal and self.status is Status.INTERRUPTED:
            return 128 + self._signal
        return int(self.status is Status.FINISHED and not any(record.curve for record in self.ledger.records))

    # Proposals: what Tune's search algorithm asks.

    def propose(self, tune_id: str) -> dict[str, Any] | str | None:
        """The next trial's config; None while enough run, `Searcher.FINISHED` when there will be no more."""
        if not self._live:
            self.tick()  # while nothing runs Tune does nothing but ask, over and over
        if self._interrupted or self.status is Status.STOPPED:
            return None if self._leaving else str(Searcher.FINISHED)
        if self.status is Status.PAUSED:
            return str(Searcher.FINISHED) if self._is_over() and not self._has_more() else None
        if len(self._live) >= self.concurrency or len(self._live) >= len(self._slots) + self._slots_to_start():
            return None
        job = self._next()
        if job is None:
            return str(Searcher.FINISHED) if self._is_over() and not self._has_more() else None
        self._live[tune_id] = job.number
        self._changed(self.ledger.records[job.number])
        return {"number": job.number, "job": job}

    @property
    def may_need_slots(self) -> bool:
        """Whether a slot that has no trial now may get one yet."""
        if self._interrupted or self.status is Status.STOPPED:
            return False
        return bool(self._begins_more or self._waiting or self.scheduler.paused or self.spec.budget.repeat)

    def _next(self) -> Job | None:
        """What runs next: trials that were interrupted, then paused ones that may go on and new ones; None for now."""
        if self._waiting:
            return self._job(self._waiting.pop(0))
        more = self._begins_more = self._more()
        ready = [number for number in self.scheduler.ready() if number not in self._leaving]
        if ready and not (more and self.scheduler.breadth_first):
            change = self.scheduler.change(ready[0])
            record = self.ledger.go_on(ready[0], change)
            self.scheduler.resumed(record.number, change)
            return self._job(record)
        if not more:
            best = self._to_repeat()
            return None if best is None else self._job(self.ledger.repeat(best))
        if not self.ledger.ready:
            return None
        record = self.ledger.ask(free=max(0, min(self.concurrency, len(self._slots)) - len(self._live) - 1))
        self.scheduler.begin(record.number, record.proposed)
        return self._job(record)

    def _more(self) -> bool:
        """Whether there are trials to begin yet."""
        proposed = self.ledger.proposed
        if self._end_of is None and proposed < self.spec.trials and not self.ledger.exhausted:
            return True
        if self._end_of is None and proposed < (budget := self.spec.budget.trials or 0):
            more = "" if self.spec.search.sampler == "grid" else "; search.duplicates=true runs them again"
            self._say_end(f"every configuration of the space is known after {proposed} of {budget} trials{more}")
        self.scheduler.close()
        return False

    def _has_more(self) -> bool:
        """Whether something would run if the sweep were not paused."""
        return bool(self._waiting) or self._more() or self._to_repeat() is not None

    def _to_repeat(self) -> int | None:
        """The trial to run again with another seed: the best, once all others have ended."""
        done = sum(record.repeat_of is not None for record in self.ledger.records)
        running = any(record.state == "RUNNING" and record.repeat_of is None for record in self.ledger.records)
        if running or done >= self.spec.budget.repeat:
            return None
        best = ranking.ranked(self.spec.goal, [r for r in self.ledger.records if r.repeat_of is None])
        return best[0].number if best else None

    def _is_over(self) -> bool:
        """Whether nothing is left to run, nothing that runs can pause, and nobody leaves: Tune kills who does."""
        return not self._leaving and all(record.state != "RUNNING" for record in self.ledger.records)

    def _job(self, record: TrialRecord) -> Job:
        change = record.changes[-1] if record.changes else None
        copied = change if change and change.epoch == max(record.curve, default=0) else None
        donor = copied.copied_from if copied else None
        return Job(
            number=record.number,
            params=record.params,
            seed=record.seed,
            attempt=self._slot_deaths[record.number],
            start_from=self.folder.checkpoint(donor, copied.epoch) if copied and donor is not None else None,
            curve=record.curve,
            changes=record.changes,
            repeat_of=record.repeat_of,
        )

    def _slots_to_start(self) -> int:
        records, now = self.ledger.records, datetime.now().astimezone()
        took_s = [((record.ended or now) - record.started).total_seconds() for record in records if record.started]
        ended = sum(record.state != "RUNNING" for record in records)
        return capacity.slots_to_start(
            ready=len(self._slots),
            remaining_trials=self.spec.trials - ended,
            trial_s=statistics.fmean(took_s) if took_s else 0.0,
            start_s=self._start_s,
            cpus=os.cpu_count() or 1,
        )

    def judge(self, report: Report) -> Verdict:
        """What becomes of a trial that has reported an epoch and waits."""
        verdict = self.scheduler.report(report.number, report.epoch, report.value)
        self._verdicts[report.number] = verdict
        return verdict

    def reported(self, report: Report) -> None:
        """A trial reported an epoch, and goes on."""
        self._changed(self.ledger.report(report))

    def ended(self, tune_id: str, event: Report | Ended | None) -> None:
        """A trial's time on its slot is over: it ended, the scheduler took it off, or its slot died."""
        self._hear_news()  # that it began comes before that it ended
        number = self._live.pop(tune_id)
        self._training.discard(number)
        match event:
            case Ended():
                ended = event
            case Report():
                paused = self._verdicts.get(number) is Verdict.PAUSE
                ended = Ended(number=number, outcome=Outcome.PAUSED if paused else Outcome.PRUNED, report=event)
                self._leaving[number] = time.monotonic() + LEAVE_TIMEOUT_S + DYING_S
                ray.get(self._board.settle.remote(number, Verdict.PAUSE if paused else Verdict.PRUNE))
            case None:
                ended = self._slot_died(number)
        if isinstance(event, Ended) and event.report is not None:
            self.scheduler.report(number, event.report.epoch, event.report.value)
        if ended.outcome is Outcome.PRUNED and self._hits(number, ended.report):
            ended = replace(ended, outcome=Outcome.COMPLETE)  # it did what was asked for
        record = self.ledger.end(ended)
        if record.state != "RUNNING":
            self.scheduler.end(number)
            self._drop()
            if number not in self._leaving:
                self._close_run(ended)
                self._keep_only(record)
        if record.state == "FAIL":
            self._failed(ended)
        self._changed(record)

    def _slot_died(self, number: int) -> Ended:
        """What becomes of a trial whose slot's process died, or could not end the trial before it."""
        ray.get(self._board.give_up.remote(number))
        record, deaths = self.ledger.records[number], self._slot_deaths
        deaths[number] += 1
        last = record.attempts[-1] if record.attempts else None
        began = last is not None and last.ended is None and last.slot in self._slots
        if last is not None:
            self._slots.discard(last.slot)
        if deaths[number] <= (self.spec.failures.retries if began else MAX_UNBEGUN):
            self._waiting.append(record)
            return Ended(number=number, outcome=Outcome.INTERRUPTED)
        return Ended(
            number=number,
            outcome=Outcome.FAILED,
            error="the slot's process died (sweep.log says more)",
            run_closed=False,
        )

    def _left(self, number: int, closed_as: Outcome | None = None) -> None:
        """A trial that was taken off its slot has no workers any more, or none that count.

        Args:
            number: the trial's.
            closed_as: how its workers ended its run; None where they did not.
        """
        del self._leaving[number]
        record = self.ledger.records[number]
        if record.state == "RUNNING":  # paused: it may go on
            return
        outcome = Outcome(record.outcome)
        self._keep_only(record)
        self._close_run(Ended(number=number, outcome=outcome, error=record.error, run_closed=closed_as is outcome))

    def _hits(self, number: int, report: Report | None) -> bool:
        values = [self.ledger.records[number].value, report.value if report else None]
        return any(ends.hits(self.spec, value) for value in values)

    def _drop(self) -> None:
        """End the paused trials that the scheduler has no more use for."""
        for number in self.scheduler.dropped():
            record = self.ledger.end(ended := Ended(number=number, outcome=Outcome.PRUNED, run_closed=False))
            if number not in self._leaving:
                self._close_run(ended)
                self._keep_only(record)
            self._changed(record)

    def tick(self) -> None:
        """What is due now and then."""
        now = time.monotonic()
        if self._signal and not self._interrupted:
            self._view.notice("stopping: trials end at their last checkpoint; once more to stop at once")
            self._stop(Status.INTERRUPTED, None)
        if now - self._news_at > NEWS_EVERY_S:
            self._news_at = now
            self._hear_news()
            self._hear_desk()
            self._close_runs()
            self._look_for_end()
            self._look_for_workers()
            self._look_for_room()
            for trouble in self.ledger.troubles():
                self._view.notice(trouble)
            self._view.tick()
        if self._stale and now > self._results_due:
            worked = time.thread_time()  # not the clock: on a busy machine the results would only get staler
            self._write()
            self._results_due = now + max(RESULTS_EVERY_S, (time.thread_time() - worked) / RESULTS_SHARE)

    def _look_for_end(self) -> None:
        """End the sweep where its budget says so."""
        if self._interrupted:
            return
        left = self.ledger.room_left() if self.spec.budget.min_improvement is not None else None
        end = ends.reached(
            self.spec, self.ledger.records, elapsed_s=time.monotonic() - self._began,
            now=datetime.now().astimezone(), left=left,
        )  # fmt: skip
        if end is not None and (end.at_once or self._end_of is None):
            self._say_end(end.reason)
            if end.at_once:
                self._stop(Status.FINISHED, None, as_=Outcome.PRUNED)

    def _look_for_workers(self) -> None:
        """End the sweep where trials only wait."""
        if self._interrupted:
            return
        now, limit_s = time.monotonic(), self.spec.failures.wait_timeout_s
        if self._training or not self._live:
            self._trained_at = now
        elif limit_s is not None and now - self._trained_at > limit_s:
            why = f"trials wait, and none has had workers for {limit_s:g} s (failures.wait_timeout_s)"
            self._stop(Status.FAILED, SweepError(f"{why}; its record is safe, and `resume` goes on"))
            self.ledger.remember("end", why)

    @contextmanager
    def _following(self) -> Iterator[None]:
        """Follow what the cluster can have, in a thread: where Ray is gone, asking it keeps signals unheard."""
        over = threading.Event()

        def follow() -> None:
            while not over.wait(CAPACITY_EVERY_S):
                self._count_room()

        thread = threading.Thread(target=follow, name="room", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(CAPACITY_EVERY_S)
            if cluster.is_given() and not thread.is_alive():  # where it is, Ray does not answer
                self._give_back()

    def _give_back(self) -> None:
        """Leave a cluster that others go on with nothing that is reserved, or asked for."""
        if self.spec.resources.is_elastic:
            with suppress(RayError, RuntimeError):  # it runs out
                cluster.ask_for(self.spec.resources.worker, 0)
        with suppress(RayError, RuntimeError):  # the next sweep there frees what is left
            cluster.leave(GIVE_BACK_S)

    def _count_room(self) -> None:
        """Free what is reserved for nobody, and count what a cluster that was named can have by now."""
        with suppress(SpecError, RayError, RuntimeError):  # not one fits, or Ray does not say; trials wait, and say so
            cluster.free_forgotten()
            if not cluster.is_given():
                return
            resources, nodes = self.spec.resources, cluster.nodes()
            if resources.is_elastic:  # others have a reservation that waits, by which the autoscaler knows
                cluster.ask_for(resources.worker, capacity.workers_wanted(resources, nodes, len(self._live)))
            if resources.concurrency == "auto":
                self._room = capacity.concurrency(resources, nodes, self.spec.trials)

    def _look_for_room(self) -> None:
        """Run as many trials at once as there is room for by now."""
        if self._room is not None and self._room.trials != self.concurrency:
            self._view.notice(f"up to {self._room.trials} at once from now on: {self._room.reason}")
            self.concurrency = self._room.trials

    def _say_end(self, reason: str) -> None:
        self._end_of = reason
        self.ledger.remember("end", reason)
        self._view.notice(f"the sweep ends: {reason}")

    def _hear_news(self) -> None:
        for news in ray.get(self._board.news.remote()):
            match news:
                case Started():
                    self._start_s = self._start_s or time.monotonic() - self._began
                    self._slots.add(news.slot)
                    self._training.add(news.number)
                    self._changed(self.ledger.start(news))
                    if self._desk and news.wandb_run:
                        self._desk.follow(news.number, news.wandb_run)
                case Ended() | Left():
                    self._training.discard(news.number)
                    if isinstance(news, Left):
                        self._changed(self.ledger.left(news.number))
                    if news.number in self._leaving:
                        self._left(news.number, news.outcome if isinstance(news, Ended) else None)
                case Notice():
                    self._view.notice(news.text)
        for number in [number for number, deadline in self._leaving.items() if deadline < time.monotonic()]:
            ray.get(self._board.give_up.remote(number))
            self._left(number)
        self._evict()

    def _evict(self) -> None:
        """Delete the checkpoints of trials that are not among the best that keep theirs."""
        if self.spec.schedule.is_population and any(record.state == "RUNNING" for record in self.ledger.records):
            return  # any may yet be copied
        if self._ranked == len(self._settled):
            return
        self._ranked = len(self._settled)
        for record in ranking.evicted(self.spec.goal, self.ledger.records, self.spec.checkpoints.keep_trials):
            if record.number not in self._settled - self._dropped:
                continue
            self._dropped.add(record.number)
            if not self._delete(record.number, kept=()):
                continue  # they went before the sweep was resumed
            if self._desk:
                self._desk.evict([record.number])
            else:
                self.folder.drop_held(record.number)

    def _failed(self, ended: Ended) -> None:
        records, limit = self.ledger.records, self.spec.failures.max_failed
        errors = [record.error for record in records if record.state == "FAIL"]
        if failures.ends_sweep(ended.outcome):
            error = SpecError if ended.outcome is Outcome.REJECTED else SweepError
            self._stop(Status.FAILED, error(ended.error or ""))
            self.ledger.remember("end", str(self._why))
            return
        if failures.too_many(failed=len(errors), max_failed=limit):
            why = f"trials failed: {len(errors)} (failures.max_failed={limit}); the last: {ended.error}"
        elif limit is not None and failures.is_everyones(errors, has_epochs=any(record.curve for record in records)):
            why = (
                f"every trial fails alike before its first epoch is over: {ended.error}; once that is mended,"
                " `resume` goes on with the others, or start anew (failures.max_failed=null tries all of them)"
            )
        else:
            return
        self._stop(Status.FAILED, SweepError(why))
        self.ledger.remember("end", why)

    def _keep_only(self, record: TrialRecord) -> None:
        """Delete those of an ended trial's checkpoints that are not kept, now that its end is on record."""
        kept = ranking.kept_epochs(self.spec.checkpoints.keep, list(record.curve), record.best_epoch)
        if record.state == "COMPLETE" and not self._over:  # others may yet copy these; they go at the end of the sweep
            kept = {*kept, *filter(self.spec.schedule.copies_at, record.curve)}
        self._delete(record.number, kept=kept)
        self._settled.add(record.number)

    def _delete(self, number: int, *, kept: Collection[int]) -> bool:
        """Delete a trial's checkpoints, if it has any; one that cannot be deleted is no reason to end anything."""
        try:
            has_some = bool(self.folder.checkpoints(number))
            self.folder.drop_checkpoints(number, kept=kept)
        except StorageError as exc:
            self._view.notice(f"checkpoints that are not kept are still there: {exc}")
            return True
        return has_some

    def _stop(self, status: Status, why: Exception | None, as_: Outcome = Outcome.INTERRUPTED) -> None:
        if not self._interrupted:
            self._interrupted, self.status, self._why = True, status, why
            self._board.interrupt.remote(as_)

    def _changed(self, record: TrialRecord) -> None:
        self._stale = True
        self._view.changed(record)

    def _write(self) -> None:
        """Bring the storage up to date; one that fails is asked again later, and said once."""
        try:
            self._write_now()
        except StorageError as exc:
            self._stale = True
            if not self._storage_away:
                self._view.notice(f"storage: {exc}; asked again until it answers, the record is kept meanwhile")
            self._storage_away = True
        else:
            self._storage_away = False

    def _write_now(self) -> None:
        self._stale = False
        results.write(
            self.folder,
            results.build(self.spec, self.folder, self.ledger.records, self.status, self.ledger.recall("end")),
        )
        self.folder.push(self.folder.ledger.name, self.folder.log.name)

    def _end(self) -> None:
        if self.status in ALIVE:
            self.status = Status.FINISHED
        if self.status is Status.FINISHED:
            self._end_paused()
            self._evict()
        best = next(iter(ranking.ranked(self.spec.goal, self.ledger.records)), None)
        if self.status is Status.FINISHED and best and self.spec.export:
            self._export(best)
        for node in ray.get(self._board.avoided_so_far.remote()):
            self._view.notice(f"node {node.address} kept failing trials, and was avoided")
        self._close_runs(all_of_them=True)
        self._write()
        if self._desk:
            winner = best.number if self.status is Status.FINISHED and best and best.checkpoint else None
            former = [] if winner is None else succeed(self.ledger, winner)
            self.missing = self._desk.finish(STATES[self.status], winner, former)
            self._hear_desk()
            if self.missing is None or self.missing:
                what = ", ".join(self.missing or ["what was still on its way when its process ended"])
                self._view.notice(
                    f"not, or not wholly, in W&B: {what}; what can still go up does so with"
                    f" `python -m orchestrator sync {self.folder.show('').rstrip('/')}`"
                )
        self._write_now()
        if self._why is not None:
            raise self._why

    def _export(self, winner: TrialRecord) -> None:
        """Export the winner; a model that cannot be exported has been found all the same."""
        try:
            ray.get(_export_winner.remote(self.spec.to_yaml(), winner), timeout=EXPORT_TIMEOUT_S)
        except RayError as exc:
            self._view.notice(
                f"trial {winner.number} is not exported: {first_line(getattr(exc, 'cause', None) or exc)}"
            )

    def _end_paused(self) -> None:
        """End the trials that wait for a turn which does not come, and delete what was kept to be copied."""
        for record in self.ledger.records:
            if record.state == "RUNNING":
                ended = Ended(number=record.number, outcome=Outcome.PRUNED, run_closed=False)
                record = self.ledger.end(ended)
                self._close_run(ended)
            if self.spec.schedule.is_population or record.state == "PRUNED":
                self._keep_only(record)

    # What users ask while it runs, of the sweep's page in W&B or on the command line.

    def _obey(self, command: Command, where: str) -> None:
        said = f"asked {where} to {command}:"
        match command:
            case Command.PAUSE if self.status is Status.RUNNING:
                self.status = Status.PAUSED
                self._view.notice(f"{said} trials that run go on, no new ones start")
            case Command.RESUME if self.status is Status.PAUSED:
                self.status = Status.RUNNING
                self._view.notice(f"{said} new trials start again")
            case Command.STOP if self.status in ALIVE:
                self.status = Status.STOPPED
                self._view.notice(f"{said} trials that run go on to their end, no new ones start")
            case Command.CANCEL if not self._interrupted:
                self._view.notice(f"{said} trials end at their last checkpoint")
                self._stop(Status.CANCELLED, None)
            case _:
                return
        self._stale, self._results_due = True, 0.0  # whoever asked waits to read it there
        if self._desk:
            self._desk.state(STATES[self.status])

    def _hear_desk(self) -> None:
        if (now := time.monotonic()) - self._control_at > CONTROL_EVERY_S:
            self._control_at = now
            if (command := self._control.heard()) is not None:
                self._obey(command, "on the command line")
        for news in self._desk.news() if self._desk else ():
            match news:
                case Asked():
                    self._obey(news.command, news.where)
                case StopTrial() if news.number in self._live.values():
                    self._view.notice(f"asked on its W&B page to stop trial {news.number}: the sweep goes on")
                    self._board.stop_trial.remote(news.number)
                case Joined():
                    self.ledger.remember("wandb_sweep", news.sweep_id)
                case Landed():
                    self._changed(self.ledger.landed(news))
                    self._say_page(news.url)
                case Notice():
                    self._view.notice(news.text)

    def _say_page(self, run: str) -> None:
        """Say once where the sweep is looked at in W&B, told from where a run of it is."""
        page = f"{run.partition('/runs/')[0]}/sweeps/{self.ledger.recall('wandb_sweep')}"
        if page != self._page:
            self._page = page
            self._view.notice(f"in W&B: {page}")

    @contextmanager
    def tracked(self) -> Iterator[None]:
        """Have the desk bring what is written to W&B while the block runs, where the sweep is tracked there."""
        if (command := self.ledger.recall("command")) is None:
            command = redacted(shlex.join(["python", *sys.orig_argv[1:]]))
            self.ledger.remember("command", command)
        if self.spec.tracking.mode != "online":
            yield
            return
        self._desk = Tracking(self.folder, sweep_id=self.ledger.recall("wandb_sweep"), command=command)
        unsent = self.folder.unsent_runs()
        for record in self.ledger.records:  # what an earlier process did not get to bring up
            if record.state != "RUNNING" and run_id(self.folder.name, record.number) in unsent:
                self._desk.ended(record.number, record.outcome, record.error, closed=False, job=job_of(record))
        try:
            yield
        finally:
            self._desk.close()

    def _close_run(self, ended: Ended) -> None:
        """A trial is over; what its workers left open of its run is closed when they are surely gone."""
        if ended.run_closed:
            self._run_over(ended)
        else:
            self._left_open.append((time.monotonic() + DYING_S, ended))

    def _close_runs(self, *, all_of_them: bool = False) -> None:
        """Close the runs that workers left open, once these are surely gone: what they still write would follow."""
        due = [ended for at, ended in self._left_open if all_of_them or at < time.monotonic()]
        self._left_open = [(at, ended) for at, ended in self._left_open if ended not in due]
        for ended in due:
            self._run_over(ended)

    def _run_over(self, ended: Ended) -> None:
        if self._desk:
            job = job_of(self.ledger.records[ended.number])
            self._desk.ended(ended.number, str(ended.outcome), ended.error, closed=ended.run_closed, job=job)
        elif self.spec.tracking.mode == "offline" and not ended.run_closed:
            close_dead(self.folder, ended)

    def _mind_ray(self, host: str, port: int) -> None:
        """End when Ray has, as where the signal went to the whole process group: trials cannot be stopped any more."""
        while not self._over:
            try:
                socket.create_connection((host, port), timeout=RAY_GONE_S).close()
            except OSError:
                self._view.restore()
                place = self.folder.show("").rstrip("/")
                text = f"error: Ray ended with the signal; the record is safe: python -m orchestrator resume {place}"
                print(text, file=sys.__stderr__, flush=True)
                os._exit(128 + (self._signal or 0))
            time.sleep(RAY_GONE_S)

    @contextmanager
    def signals(self) -> Iterator[None]:
        """The first Ctrl-C or SIGTERM stops cleanly; a second one at once, as one after the last trial: the ledger is
        whole at any moment."""

        def stop(number: int, _frame: FrameType | None) -> None:
            if self._signal or self._over:
                self._view.restore()
                os._exit(128 + number)
            self._signal = number
            if self._own_ray is not None:
                threading.Thread(target=self._mind_ray, args=self._own_ray, name="ray", daemon=True).start()

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class _NotSaved:
    """Left out of the state that Tune writes for its own restore, which sweeps are not resumed from."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


def _kept(method: Callable[..., T]) -> Callable[..., T]:
    """For what Tune calls: an error of ours ends the sweep as what it is. Tune would make a text of it, and call on."""

    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> T:
        sweep: Sweep = self._sweep
        if sweep.error is not None:
            raise sweep.error
        try:
            return method(self, *args, **kwargs)
        except Exception as exc:
            sweep.error = exc
            raise

    return call


class _Proposals(_NotSaved, Searcher):
    """Tune's side of the ledger: proposals out, epochs and endings in."""

    def __init__(self, sweep: Sweep) -> None:
        super().__init__(metric="value", mode="max" if sweep.spec.goal == "maximize" else "min")
        self._sweep = sweep

    @_kept
    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        return self._sweep.propose(trial_id)

    @_kept
    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self._sweep.reported(result["event"])

    @_kept
    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self._sweep.ended(trial_id, result["event"] if result and not error else None)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is what a sweep is resumed from."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, as `save`."""


class _Judge(_NotSaved, FIFOScheduler):
    """Tune's side of the scheduler: a trial that is paused leaves its slot, and comes back as another of Tune's."""

    def __init__(self, sweep: Sweep, resources: tune.PlacementGroupFactory) -> None:
        super().__init__()
        self._sweep, self._resources = sweep, resources
        self._kept = 0

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """The next of Tune's trials; and keep slots that have none for the moment, where Tune would keep only one, or
        none at all where none will get one: their nodes are idle."""
        keep = self._sweep.concurrency if self._sweep.may_need_slots else 0
        # Private; covered by tests that count the processes of a sweep whose trials pause, and the nodes of another.
        tune_controller._actor_cache.increase_max(self._resources, keep - self._kept)
        tune_controller._actor_cache._may_keep_one = keep > 0
        self._kept = keep
        return super().choose_trial_to_run(tune_controller)

    @_kept
    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Whether a trial goes on after an epoch."""
        goes_on = self._sweep.judge(result["event"]) is Verdict.CONTINUE
        return str(FIFOScheduler.CONTINUE if goes_on else FIFOScheduler.STOP)


class _Loop(_NotSaved, tune.Callback):
    """Gives the sweep its turn in Tune's loop."""

    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep

    @_kept
    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._sweep.tick()


@ray.remote(num_cpus=0)
def _export_winner(spec_text: str, winner: TrialRecord) -> None:
    from orchestrator import export

    spec = Spec.from_yaml(spec_text)
    export.to_onnx(spec, SweepFolder(spec.storage, spec.name or ""), winner)


def start(spec: Spec, view_of: Any) -> Sweep:
    """Run a new sweep, as resolved.

    Raises:
        InputError: its name is taken, no trial fits the cluster, or the storage cannot be written; nothing was started
            or written.
        SweepError: it ended badly.
    """
    folder = SweepFolder(spec.storage, spec.name or "")
    _check_is_new(folder)
    with ExitStack() as stack:
        at_once = _at_once(spec, stack, folder)
        spec, why = auto.settle(spec, at_once.trials)
        known, notes = earlier.gather(spec)
        notes = [*notes, *_look_before(spec, folder)]
        spec, weights = stack.enter_context(_weights(spec))
        try:
            folder.create()
        except StorageError as exc:
            raise InputError(f"storage is '{spec.storage}': {exc}; give a folder or a URL that can be written") from exc
        stack.enter_context(folder.locked())
        _check_is_new(folder)  # again, now that nobody else can take the name
        if weights is not None:
            folder.upload(weights, folder.weights)
        if known:
            folder.write_text(folder.known, to_text(known))
        ledger = Ledger(folder, spec, create=True)
        ledger.remember("space", spec.space_identity)
        results.write(folder, results.build(spec, folder, [], Status.RUNNING))
        folder.write_text("sweep.yaml", spec.to_yaml())  # last: from now on there is a sweep, and it can be resumed
        return _run(spec, folder, ledger, at_once, view_of, stack, f"sampler {spec.search.sampler}: {why}", *notes)


def resume(folder: SweepFolder, spec: Spec, view_of: Any) -> Sweep:
    """Go on with a sweep that was stopped or killed.

    Raises:
        InputError: it still runs.
        SweepError: it ended badly.
    """
    with ExitStack() as stack:
        at_once = _at_once(spec, stack, folder, patience_s=NODES_S)
        spec, why = auto.settle(spec, at_once.trials)
        stack.enter_context(folder.locked(_to_stderr))
        before, now = Spec.from_yaml(folder.read_text("sweep.yaml")).search.sampler, spec.search.sampler
        notes = [f"sampler {now}, no longer {before}: {why}"] if now != before else []
        notes += _look_before(spec, folder, again=True)
        ledger = Ledger(folder, spec)
        results.write(folder, results.build(spec, folder, ledger.records, Status.RUNNING))
        folder.write_text("sweep.yaml", spec.to_yaml())
        return _run(spec, folder, ledger, at_once, view_of, stack, *notes)


def _look_before(spec: Spec, folder: SweepFolder, *, again: bool = False) -> Sequence[str]:
    """Have every node of a cluster that was named looked at before the first trial; what is worth a remark.

    Raises:
        InputError: with every problem found.
    """
    found = _found(spec, folder, again=again)
    if found.problems:
        raise InputError(found.problems)
    return found.remarks


def _found(spec: Spec, folder: SweepFolder, *, again: bool = False) -> preflight.Found:
    return preflight.check(spec, folder, again=again) if cluster.is_given() else preflight.Found()


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _at_once(spec: Spec, stack: ExitStack, folder: SweepFolder, patience_s: float = 0.0) -> capacity.Concurrency:
    """How many trials will run at once; a cluster that was named is connected to for it, none is started.

    Args:
        spec: what one needs.
        stack: what the connection is ended with.
        folder: where the sweep is to be; should not one fit, all else that is wrong is said as well.
        patience_s: how long nodes that were there before may take to be there again.

    Raises:
        InputError: not one fits.
    """
    if cluster.is_given():
        stack.enter_context(cluster.connected())
    said, deadline = False, time.monotonic() + (patience_s if cluster.is_given() else 0.0)
    while True:
        try:
            return capacity.concurrency(spec.resources, cluster.nodes(), spec.trials)
        except SpecError as exc:
            if time.monotonic() > deadline:
                raise InputError([*exc.problems, *_found(spec, folder).problems]) from exc
            if not said:
                _to_stderr(f"waiting for nodes, {patience_s:g} s at most: {exc}")
            said = True
            time.sleep(NODES_LOOK_S)


def _run(
    spec: Spec,
    folder: SweepFolder,
    ledger: Ledger,
    at_once: capacity.Concurrency,
    view_of: Any,
    stack: ExitStack,
    *notices: str,
) -> Sweep:
    view = stack.enter_context(view_of(spec, folder, ledger, at_once))
    for notice in notices:
        view.notice(notice)
    stack.enter_context(_logging_to(folder))
    sweep = Sweep(spec, folder, ledger, view)
    stack.enter_context(sweep.signals())  # also while Ray starts, which takes seconds
    stack.enter_context(sweep.tracked())
    stack.enter_context(cluster.connected())
    # Ray has put handlers of its own in their place (ray/_private/worker.py, init)
    stack.enter_context(sweep.signals())
    sweep.run(at_once.trials)
    return sweep


def _check_is_new(folder: SweepFolder) -> None:
    if folder.exists():
        raise SpecError(
            f"name is '{folder.name}', and {folder.show('')} exists already; `python -m orchestrator resume"
            f" {folder.name}` goes on with it, or give another name"
        )


@contextmanager
def _weights(spec: Spec) -> Iterator[tuple[Spec, Path | None]]:
    """The checkpoint that every trial starts from, as a local file; None where there is none. An artifact is named in
    the spec by its version from now on: at the end its alias may be another one's.

    Raises:
        TrackingError: W&B does not give it.
    """
    with tempfile.TemporaryDirectory() as scratch:
        if spec.start_from is None:
            yield spec, None
        else:
            name, path = fetched(spec.start_from, Path(scratch))
            yield spec.model_copy(update={"start_from": name}), path


@contextmanager
def _logging_to(folder: SweepFolder) -> Iterator[None]:
    """What the libraries say goes to the sweep's log, not between the user's lines."""
    root = logging.getLogger()
    handler = logging.FileHandler(folder.log, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    libraries = [root, *(logging.getLogger(name) for name in ("ray", "ray.tune", "ray.train", "optuna"))]
    before = [(library, library.handlers, library.level) for library in libraries]
    for library in libraries:
        library.handlers = [] if library.propagate and library is not root else [handler]
    logging.captureWarnings(True)
    try:
        with redirect_stderr(handler.stream), redirect_stdout(handler.stream):  # Ray prints some of its warnings
            yield
    finally:
        logging.captureWarnings(False)
        for library, handlers, level in before:
            library.handlers, library.level = handlers, level
        handler.close()
