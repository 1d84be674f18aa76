"""A worker: one rank of a slot's group. Takes trials, watches over them, and is clean for the next (torch)."""

from __future__ import annotations

import faulthandler
import gc
import importlib
import os
import re
import tempfile
import traceback
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.utilities import rank_zero_only

from orchestrator import catalog, failures, scratch
from orchestrator.attempt import Attempt, StoppedAlone
from orchestrator.errors import InputError, StorageError
from orchestrator.folder import SweepFolder
from orchestrator.gauge import Gauge
from orchestrator.loops import AnyLoop
from orchestrator.messages import Ended, Job, Lost, Node, Notice, Outcome, Task, first_line
from orchestrator.spec import Spec
from orchestrator.tracker import Tracker
from orchestrator.watch import Watch

# What torch.distributed says, by gloo or NCCL, when another rank does not answer any more.
MISSES_A_PEER = re.compile(r"gloo|nccl|connection (closed|reset|refused)|broken pipe|timed out", re.IGNORECASE)


def serve(spec_text: str, board: Any, slot: str) -> None:
    """Train trials until there are no more: what every rank of a worker group runs inside Ray Train."""
    Worker(Spec.from_yaml(spec_text), board, slot).serve()


class Worker:
    """One rank of a worker group, for as long as the group lives."""

    def __init__(self, spec: Spec, board: Any, slot: str) -> None:
        context = ray.train.get_context()
        self.rank, self.world_size = context.get_world_rank(), context.get_world_size()
        vars(rank_zero_only)["rank"] = self.rank  # Lightning reads it from the environment at import (Lightning#11380)
        self._spec, self._board, self._slot = spec, board, slot
        self._incarnation, self._nodes = self._meet()
        self._folder = SweepFolder(spec.storage, spec.name or "")
        self._tracker = Tracker(spec, self._folder, self.rank, self._notify)
        self._gauge = Gauge(spec, self._nodes, self.rank, self._say, self._tracker.sampled, self._notify)
        self._loops: dict[str, AnyLoop] = {}
        self._watch = Watch(board, slot, spec.failures.stall_timeout_s, self._stalled)
        self._job: Job | None = None
        if spec.training.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # torch asks for it on CUDA
            torch.use_deterministic_algorithms(True)
            torch.backends.cudnn.benchmark = False
        gc.collect()
        gc.freeze()  # what is imported stays: the collection after every trial need not look at it again

    def serve(self) -> None:
        """Take trials until there are no more."""
        if self.rank == 0:
            self._say("join", self._nodes)
        serial = 0
        while (taken := self._say("take", serial)) is not None:
            serial, self._job = taken
            ended = self._run(self._job)
            self._job = None
            if self._spec.isolation == "process" or ended.outcome is Outcome.MOVED:
                return

    def _run(self, job: Job) -> Ended:
        try:
            with (
                self._watch.over(job),
                scratch.folder(f"{self._slot}-{self.rank}") as folder,
                self._gauge.over(job.number, folder),
            ):
                ended = self._train(job, folder)
        except BaseException as exc:
            self._fail(job, exc)
            raise
        finally:
            self._clean()
        if self.rank == 0 and ended.outcome is Outcome.MOVED:
            self._say("lost", Lost(error=ended.error or "", outcome=Outcome.MOVED, run_closed=True))
        elif self.rank == 0:
            self._say("ended", ended)
        return ended

    def _train(self, job: Job, scratch: Path) -> Ended:
        """Train a trial with the loop that its trainable names, and put its run and its checkpoints in order."""
        seed_everything(job.seed, workers=True, verbose=False)
        trainable = catalog.load_trainable(
            self._spec.trainable if isinstance(self._spec.trainable, str) else self._spec.trainable.model_dump()
        )
        attempt = Attempt(
            job=job,
            spec=self._spec,
            folder=self._folder,
            rank=self.rank,
            world_size=self.world_size,
            slot=self._slot,
            tracker=self._tracker,
            watch=self._watch,
            say=self._say,
            notify=self._notify,
            scratch=scratch,
        )
        if trainable.loop not in self._loops:
            self._loops[trainable.loop] = importlib.import_module(trainable.loop).Loop()
        loop = self._loops[trainable.loop]
        if job.task is Task.TEST:
            return Ended(number=job.number, outcome=Outcome.COMPLETE, tested=loop.test(trainable, attempt))
        loop.fit(trainable, attempt)
        ended = attempt.finish()
        if job.task is Task.TRAIN_AND_TEST and ended.outcome is not Outcome.MOVED:
            if self.world_size > 1:
                torch.distributed.barrier()  # rank 0 has its last checkpoint in place, and has thrown others out
            attempt.turn_to_best()
            ended = replace(ended, tested=loop.test(trainable, attempt))
        return ended

    def _fail(self, job: Job, exc: BaseException) -> None:
        """Say why this worker is about to go down with its group, and close the trial's run."""
        error = "; ".join(exc.problems) if isinstance(exc, InputError) else first_line(exc)
        outcome = Outcome.REJECTED if isinstance(exc, InputError) else failures.kind(error)
        if isinstance(exc, StoppedAlone):
            outcome, error = Outcome.STOPPED, ""
        where = f"rank {self.rank}: " if self.world_size > 1 and error else ""
        closed = self._tracker.close(outcome, error or None)
        several = len({node.id for node in self._nodes}) > 1
        collateral = several and isinstance(exc, RuntimeError) and bool(MISSES_A_PEER.search(str(exc)))
        lost = Lost(
            error=where + error,
            outcome=outcome,
            run_closed=closed and self.rank == 0,
            rank=None if collateral else self.rank,
            collateral=collateral,
        )
        self._say("lost", lost)
        self._leave_behind(job, traceback.format_exc())

    def _stalled(self, job: Job, limit_s: float) -> None:
        """Called from the watch's thread when the trial hangs: leave the stacks behind, say so, and die."""
        with tempfile.TemporaryFile("w+") as stacks:
            faulthandler.dump_traceback(stacks, all_threads=True)
            stacks.seek(0)
            self._leave_behind(job, stacks.read())
        error = f"no step finished for {limit_s:g} s (failures.stall_timeout_s), rank {self.rank} was killed"
        self._say("lost", Lost(error=error, rank=self.rank))
        os._exit(1)

    def _leave_behind(self, job: Job, traces: str) -> None:
        rank = f"-rank-{self.rank}" if self.rank else ""
        try:
            self._folder.write_text(f"trials/{job.number}/error-{job.attempt}{rank}.txt", traces)
        except StorageError as exc:
            self._notify(f"the traceback of trial {job.number} is lost: {exc}")

    def _notify(self, text: str) -> None:
        self._call("notice", Notice(text=text))

    def _clean(self) -> None:
        """Leave nothing of a trial to the next one."""
        if self._spec.training.compile:
            torch.compiler.reset()  # it compiles a piece of code eight times, and from then on runs it as it is
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _meet(self) -> tuple[str, list[Node]]:
        """What the group goes by, and where its ranks live."""
        here = Node(id=ray.get_runtime_context().get_node_id(), address=ray.util.get_node_ip_address())
        all_of_them: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(all_of_them, (uuid.uuid4().hex[:12], here))
        return all_of_them[0][0], [node for _, node in all_of_them]

    def _say(self, method: str, *args: Any) -> Any:
        return self._call(method, self._slot, self._incarnation, *args)

    def _call(self, method: str, *args: Any) -> Any:
        return ray.get(getattr(self._board, method).remote(*args))
