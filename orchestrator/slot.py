"""A slot: one long-lived Ray Train run whose warm workers train trial after trial (Ray Tune and Ray Train).

Tune sees a class trainable with `reuse_actors`; the slot hands each trial to its worker group through the
switchboard, and gives Tune an epoch per `step`. The group outlives the trial; see docs/design.md.
"""

from __future__ import annotations

import math
import os
import threading
import time
import uuid
from dataclasses import replace
from typing import Any

import ray
from ray import train, tune
from ray.exceptions import ActorUnavailableError, RayActorError, RayError
from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError, WorkerGroupStartupTimeoutError
from ray.train.v2._internal.execution.callback import ControllerCallback  # what RunConfig.callbacks takes as well
from ray.util.placement_group import NODE_ID_LABEL_KEY

from orchestrator import capacity, cluster, failures
from orchestrator.folder import SweepFolder
from orchestrator.messages import Ended, Event, Job, Lost, Notice, Outcome, Place, Report, Verdict, first_line
from orchestrator.process_group import ProcessGroup
from orchestrator.spec import Spec

# How long workers may take to end a trial they were told to end: its run is closed and its checkpoints uploaded then.
LEAVE_TIMEOUT_S = 120.0
# How long a worker group without a trial may take to go; one that waits for nodes would not.
CLOSE_TIMEOUT_S = 30.0
POLL_S = 2.0
# How long Ray may take to find a node dead: about a minute with its own health checks, less with cluster.yaml's.
NODE_DEATH_S = 90.0
# How often a trial that trains with fewer workers than it asks for looks for room for more.
GROW_EVERY_S = 30.0
# How long what a worker group had, or a node that comes, may take to be there for the next one.
SETTLE_S = 5.0
# How long workers find no room before their trial is said to wait for nodes: for room that a group of before has just
# left, they wait less.
WAITING_S = 20.0


class Slot(tune.Trainable):
    """Runs trials one after the other on one worker group."""

    _job: Job
    _report: Report | None
    """The trial's last epoch on this slot."""
    _curve: dict[int, float]

    def setup(self, config: dict[str, Any], spec: str = "", board: Any = None, place: Place | None = None) -> None:
        """Start the worker group; `spec` is the sweep's resolved spec as YAML."""
        self._board, self._place = board, place or Place(folder=os.getcwd(), environ={})
        self._spec = Spec.from_yaml(spec)
        self._slot = uuid.uuid4().hex[:8]
        self._closed = threading.Event()
        self._broken: str | None = None
        self._live = False  # a trial was handed out and has not ended
        self._abandon = False
        self._waits_since, self._said_that_it_waits = math.inf, False
        self._workers, self._looked_at, self._grows = self._spec.resources.most_workers, math.inf, False
        self._grow_every_s, self._lacks_room = GROW_EVERY_S, False
        self._grew_from: int | None = None
        self._take(config)
        self._group = threading.Thread(target=self._keep_group, name="worker-group", daemon=True)
        self._group.start()

    def step(self) -> dict[str, Any]:
        """Let the trial go on to the end of its next epoch, or to its end."""
        try:
            return self._step()
        except Exception as exc:  # noqa: BLE001 - Tune would say only that an actor failed
            ended = Ended(number=self._job.number, outcome=Outcome.FAILED, error=first_line(exc), run_closed=False)
            return self._result(ended, done=True)

    def _step(self) -> dict[str, Any]:
        if self._live:
            self._grows = self._can_grow()
            if self._grows:
                self._grew_from = self._workers
            self._call("answer", Verdict.MOVE if self._grows else Verdict.CONTINUE)
        else:
            self._assign()
        while True:
            event = self._next_event()
            match event:
                case Report():
                    if math.isinf(self._looked_at) and event.epoch not in self._curve:
                        self._looked_at = time.monotonic()
                    self._report, self._curve[event.epoch] = event, event.value
                    return self._result(event)
                case Ended():
                    self._live = False
                    # So ended by the workers themselves, a trial was cut short in mid-step.
                    self._abandon = event.outcome in (Outcome.INTERRUPTED, Outcome.PRUNED)
                    return self._result(event, done=True)
                case Lost() if failures.is_moved(outcome=self._cause(event), moves=self._job.moves):
                    moves = self._job.moves + (not self._grows)  # for once it was not the nodes
                    self._job = replace(self._job, moves=moves, start_from=None, curve=dict(self._curve))
                    self._assign()
                case Lost():
                    self._live = False
                    retries, attempt = self._spec.failures.retries, self._job.attempt
                    outcome = Outcome.FAILED if event.outcome is Outcome.MOVED else event.outcome  # too often
                    if not failures.is_retried(outcome=outcome, attempt=attempt, retries=retries):
                        ended = Ended(
                            number=self._job.number,
                            outcome=outcome,
                            error=event.error,
                            run_closed=event.run_closed,
                        )
                        return self._result(ended, done=True)
                    start_from = None if self._report else self._job.start_from
                    self._job = replace(self._job, attempt=attempt + 1, start_from=start_from, curve=dict(self._curve))
                    self._assign()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial; the one before, if it still trains, was stopped by the scheduler.

        Raises:
            TimeoutError: its workers did not end it; this slot is of no more use, and Tune starts another.
        """
        if not self._leave():
            raise TimeoutError(f"trial {self._job.number} was not ended by its workers in {LEAVE_TIMEOUT_S:g} s")
        self._take(new_config)
        return True

    def cleanup(self) -> None:
        """End the trial, if one still trains, and the worker group."""
        self._leave()
        self._closed.set()
        self._call("close")
        # A group that was interrupted in mid-step may have ranks that wait for each other; it dies with this actor.
        self._group.join(1.0 if self._abandon else CLOSE_TIMEOUT_S)

    def _take(self, config: dict[str, Any]) -> None:
        self._job = config["job"]
        self._report, self._curve, self._said_that_it_waits = None, dict(self._job.curve), False

    def _assign(self) -> None:
        self._live, self._grows, self._waits_since = True, False, math.inf
        self._call("assign", self._job)

    def _leave(self) -> bool:
        """Tell workers who still train a trial to end it, and wait until they have; whether they did in time."""
        deadline = time.monotonic() + LEAVE_TIMEOUT_S
        while self._live and time.monotonic() < deadline:
            self._call("answer", Verdict.PRUNE)
            self._live = not isinstance(self._call("next_event", POLL_S), Ended | Lost)
        return not self._live

    def _next_event(self) -> Event:
        """Wait for what happens to the trial next; workers that hang end themselves, and groups that cannot start."""
        while True:
            event: Event | None = self._call("next_event", POLL_S)
            if event is not None:
                return event
            if self._broken:
                return Lost(error=self._broken, outcome=Outcome.BROKEN)
            self._say_that_it_waits()

    def _cause(self, lost: Lost) -> Outcome:
        """What a loss is, once Ray has found out, where it takes time, whether a node is gone.

        It costs none: a group that can be replaced on the same nodes has not joined before.
        """
        nodes, deadline = {node.id for node in lost.nodes}, time.monotonic() + NODE_DEATH_S
        while lost.collateral and time.monotonic() < deadline:
            if not nodes <= {node["NodeID"] for node in ray.nodes() if node["Alive"]}:
                return Outcome.MOVED
            if self._call("has_workers"):
                break
            time.sleep(1)
        return lost.outcome

    def _say_that_it_waits(self) -> None:
        """Tell the user, once, of a trial that no workers take for long: the cluster may have to grow for them."""
        if self._said_that_it_waits:
            return
        if not self._lacks_room and not cluster.waits_for_room():  # its workers may also just take long to start
            self._waits_since = math.inf
            return
        self._waits_since = min(self._waits_since, time.monotonic())
        if time.monotonic() - self._waits_since >= WAITING_S and self._call("is_waiting"):
            self._said_that_it_waits = True
            free, needs = ray.available_resources(), self._spec.resources
            there = ", ".join(
                f"{free.get(name, 0):g} {name}s" for name in ("CPU", "GPU") if ray.cluster_resources().get(name)
            )
            text = (
                f"trial {self._job.number} waits for nodes: it needs {needs.fewest_workers} x"
                f" {needs.cpus_per_worker:g} CPUs"
                + (f" and {needs.gpus_per_worker:g} GPUs" if needs.gpus_per_worker else "")
                + f"; free now: {there or 'nothing'}"
            )
            ray.get(self._board.notice.remote(Notice(text=text)))

    def _result(self, event: Report | Ended, done: bool = False) -> dict[str, Any]:
        report = event if isinstance(event, Report) else event.report
        result: dict[str, Any] = {"event": event, "done": done}
        if report is not None:
            result |= {"epoch": report.epoch, "value": report.value}
        return result

    def _call(self, method: str, *args: Any) -> Any:
        return ray.get(getattr(self._board, method).remote(self._slot, *args))

    def _keep_group(self) -> None:
        """Keep a worker group running until the slot is closed. Runs in a thread of its own."""
        raised = died = 0  # runs, one after the other
        while not self._closed.is_set():
            try:
                if self._spec.resources.is_elastic and not self._has_counted():
                    continue
                # Workers may fail for ever, each time with a trial; a group that cannot start may not. One that may
                # have another size is not replaced by one of the same.
                failures_left = 0 if self._spec.resources.is_elastic else -1
                worker_group(
                    self._spec, self._board, self._slot, self._place, workers=self._workers, max_failures=failures_left
                ).fit()
                raised = died = 0
            except Exception as exc:  # noqa: BLE001 - whatever it is, the trial must hear of it and be retried
                cause = f"Ray Train gave up on the worker group: {first_line(exc)}"
                if self._call("group_gone", cause):
                    raised = died = 0
                if _found_no_room(exc):  # it waits on, which is said
                    continue
                raised, died = raised + (not _has_died(exc)), died + _has_died(exc)
                if failures.is_broken(raised=raised, died=died):
                    self._broken = cause
                    return

    def _has_counted(self) -> bool:
        """Decide how many workers the next group has: as many as there is room for, once a trial waits for them.

        Not before: until then it may be that Ray has yet to find out that a node is gone.
        """
        resources, waited_s = self._spec.resources, 0.0
        while not self._closed.wait(1.0):
            if not self._call("is_waiting") or not self._call("has_turn"):
                continue
            room = self._room()
            self._lacks_room = room < resources.fewest_workers
            if room >= resources.most_workers or (not self._lacks_room and waited_s >= SETTLE_S):
                if self._grew_from is not None:  # where it did not grow, what looked like room was none
                    self._grow_every_s = GROW_EVERY_S if room > self._grew_from else 2 * self._grow_every_s
                    self._grew_from = None
                self._workers, self._looked_at = room, math.inf
                return True
            waited_s += 1.0
        return False

    def _can_grow(self) -> bool:
        """Whether there is room, looked for now and then, for more workers than the trial has."""
        missing = self._spec.resources.most_workers - self._workers
        if missing <= 0 or time.monotonic() - self._looked_at < self._grow_every_s:
            return False
        self._looked_at = time.monotonic()
        return self._room() > 0 and bool(self._call("may_grow"))

    def _room(self) -> int:
        """Workers that there is room for now, beside those that there are; none where Ray does not say."""
        try:
            bad = ray.get(self._board.avoided.remote(_nodes_that_train()))
            free = [node for node_id, node in cluster.free().items() if node_id not in bad]
        except (RayError, RuntimeError):  # for a moment, as it happens; the next look is in a second
            return 0
        return capacity.workers_that_fit(self._spec.resources, free)


def worker_group(spec: Spec, board: Any, slot: str, place: Place, *, workers: int, max_failures: int) -> Any:
    """The Ray Train run whose workers serve a slot, to be `fit`.

    Args:
        spec: what a worker is.
        board: where workers get their trials.
        slot: its name there.
        place: where the sweep was started.
        workers: how many.
        max_failures: how often they are replaced; -1 for ever.
    """
    from orchestrator.group import Group  # loads what the sweep's process has no use for

    resources = spec.resources
    return Group(
        _serve,
        train_loop_config={
            "spec_text": spec.to_yaml(),
            "board": board,
            "slot": slot,
            "place": place,
        },
        backend_config=ProcessGroup(backend="nccl" if resources.gpus_per_worker >= 1 else "gloo"),
        scaling_config=train.ScalingConfig(
            num_workers=workers,
            use_gpu=resources.gpus_per_worker > 0,
            resources_per_worker=resources.worker,
        ),
        run_config=train.RunConfig(
            name=f"group-{slot}-{uuid.uuid4().hex[:6]}",  # the same name again would be a resume
            storage_path=SweepFolder(spec.storage, spec.name or "").ray_url,
            failure_config=train.FailureConfig(
                max_failures=max_failures,
                max_preemption_failures=0 if resources.is_elastic else -1,
                controller_failure_limit=0,
            ),
            callbacks=[_TellWhy(board, slot), _Avoid(board)],
        ),
    )


class _TellWhy(train.UserCallback):
    """Tells the switchboard why a worker group went down; runs in Ray Train's controller."""

    def __init__(self, board: Any, slot: str) -> None:
        self._board, self._slot = board, slot

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        gone = {rank: exc for rank, exc in worker_exceptions.items() if _node_is_gone(exc)}
        rank, exc = min((gone or worker_exceptions).items())  # the others fail for want of it
        away = isinstance(getattr(exc, "health_check_failure", None), ActorUnavailableError)  # perhaps with its node
        lost = Lost(
            error=f"rank {rank}: {_why(exc)}",
            outcome=Outcome.MOVED if gone else failures.kind(_why(exc)),
            rank=None if away else rank,
            collateral=away,
            died=getattr(exc, "health_check_failure", None) is not None,
        )
        self._board.group_failed.remote(self._slot, lost)


class _Avoid(ControllerCallback):
    """Keeps a slot's workers off nodes that keep failing trials; runs in Ray Train's controller."""

    def __init__(self, board: Any) -> None:
        self._board = board

    def on_controller_start_worker_group(self, *, scaling_config: Any, num_workers: int) -> dict[str, str] | None:
        bad = ray.get(self._board.avoided.remote(_nodes_that_train()))
        return {NODE_ID_LABEL_KEY: f"!in({','.join(bad)})"} if bad else None


def _nodes_that_train() -> list[str]:
    """The nodes that are alive and have CPUs, by id."""
    return [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]


def _node_is_gone(exc: Exception) -> bool:
    """Whether a worker died with its node, or because that was taken away."""
    died = getattr(exc, "health_check_failure", None)
    return isinstance(died, RayActorError) and (died.preempted or "its node has died" in str(died))


def _found_no_room(exc: Exception) -> bool:
    """Whether a run ended because its workers found no room in time."""
    return isinstance(getattr(exc, "controller_failure", None), WorkerGroupStartupTimeoutError)


def _has_died(exc: Exception) -> bool:
    """Whether a run ended because a process or a node of its workers' died."""
    failure, workers = getattr(exc, "controller_failure", None), getattr(exc, "worker_failures", {}).values()
    if isinstance(failure, WorkerGroupStartupFailedError | RayActorError):
        return True
    return any(getattr(each, "health_check_failure", None) is not None for each in workers)


def _why(exc: Exception) -> str:
    """What is known of a worker's end; of a process that died, what Ray saw of it."""
    died = getattr(exc, "health_check_failure", None)
    if died is None:
        return first_line(exc)
    if _node_is_gone(exc):
        return "its node is gone"
    details = [line.partition("exit detail:")[2].strip() for line in str(died).splitlines() if "exit detail:" in line]
    return f"the worker process died: {details[0] if details else first_line(died)}"


def _serve(config: dict[str, Any]) -> None:
    """What every worker runs; imported there, so that torch and lightning are loaded where workers live only."""
    from orchestrator.worker import serve

    place: Place = config["place"]
    os.environ.update(place.environ)
    if os.path.isdir(place.folder):  # relative paths mean there what they mean here
        os.chdir(place.folder)
    serve(config["spec_text"], config["board"], config["slot"])
