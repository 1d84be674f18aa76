"""A worker: one rank of a slot's group. Takes a trial, builds it, fits it, reports it, and is clean for the next
(Lightning and torch)."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import json
import logging
import math
import os
import shutil
import tempfile
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import ray
import ray.train
import ray.train.torch  # RayDDPStrategy asks it for its device
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.seed import isolate_rng
from ray.train.lightning import RayDDPStrategy, RayFSDPStrategy, RayLightningEnvironment

from orchestrator import catalog, ranking
from orchestrator.errors import InputError, SpecError
from orchestrator.folder import SweepFolder
from orchestrator.messages import Ended, Job, Lost, Notice, Outcome, Report, Started, Verdict, first_line
from orchestrator.naming import near_miss
from orchestrator.spec import Spec
from orchestrator.tracker import Tracker

ENDS_AS = {
    Verdict.PRUNE: Outcome.PRUNED,
    Verdict.PAUSE: Outcome.PAUSED,
    Verdict.INTERRUPT: Outcome.INTERRUPTED,
}


class Interrupted(Exception):
    """The sweep was interrupted in the middle of an epoch."""


def serve(spec_text: str, sweep_id: str | None, board: Any, slot: str) -> None:
    """Train trials until there are no more: what every rank of a worker group runs inside Ray Train."""
    Worker(Spec.from_yaml(spec_text), sweep_id, board, slot).serve()


class Worker:
    """One rank of a worker group, for as long as the group lives."""

    def __init__(self, spec: Spec, sweep_id: str | None, board: Any, slot: str) -> None:
        context = ray.train.get_context()
        self.rank, self.world_size = context.get_world_rank(), context.get_world_size()
        vars(rank_zero_only)["rank"] = self.rank  # Lightning reads it from the environment at import (Lightning#11380)
        self._spec, self._board, self._slot = spec, board, slot
        self._incarnation = self._agree_on_incarnation()
        self._folder = SweepFolder(spec.storage, spec.name or "")
        self._tracker = Tracker(spec, self._folder, sweep_id, self.rank, self._notify)
        self._data = _PreparedData()
        self._watch = _Watch(board, spec.failures.stall_timeout_s, self._stalled)
        self._job: Job | None = None
        _quiet()
        gc.collect()
        gc.freeze()  # what is imported stays: the collection after every trial need not look at it again

    def serve(self) -> None:
        """Take trials until there are no more."""
        if self.rank == 0:
            self._say("join")
        serial = 0
        while (taken := self._say("take", serial)) is not None:
            serial, self._job = taken
            self._run(self._job)
            self._job = None
            if self._spec.isolation == "process":
                return

    def _run(self, job: Job) -> None:
        try:
            with self._watch.over(job), _folder_of_its_own(self._slot, self.rank) as scratch:
                ended = self._train(job, scratch)
        except BaseException as exc:
            self._fail(job, exc)
            raise
        finally:
            _clean()
        if self.rank == 0:
            self._say("ended", ended)

    def _train(self, job: Job, scratch: Path) -> Ended:
        """Build the trial, fit it, and put its run and its checkpoints in order."""
        pl.seed_everything(job.seed, workers=True, verbose=False)
        trainable = catalog.load_trainable(
            self._spec.trainable if isinstance(self._spec.trainable, str) else self._spec.trainable.model_dump()
        )
        routed = trainable.route({**self._spec.params, **job.params})
        model = trainable.model(**routed["model"])
        data = self._data.of(trainable.data, routed["data"])
        wandb_run = self._tracker.open(job)
        if self.rank == 0:
            self._say("started", Started(number=job.number, slot=self._slot, wandb_run=wandb_run))
        reporter = Reporter(self, job, self._spec, self._folder, self._watch, routed["model"], scratch)
        trainer = self._trainer(reporter, scratch, routed["trainer"])
        with contextlib.suppress(Interrupted):
            trainer.fit(model, datamodule=data, ckpt_path=self._start_from(job, scratch), weights_only=False)
        if data is not None:
            data.trainer = None  # it would keep this trial's model alive for as long as the data
        if reporter.outcome is Outcome.COMPLETE and reporter.last is None:
            raise SpecError(reporter.nothing_reported(trainer))
        kept = reporter.tidy() if self.rank == 0 else {}
        self._tracker.close(reporter.outcome, reporter.last, reporter.error, kept)
        return Ended(
            number=job.number,
            outcome=reporter.outcome,
            report=reporter.unsent,
            error=reporter.error,
        )

    def _trainer(self, reporter: Reporter, scratch: Path, routed: Mapping[str, Any]) -> pl.Trainer:
        resources = self._spec.resources
        on_gpu = resources.gpus_per_worker > 0
        arguments: dict[str, Any] = {
            "num_sanity_val_steps": 0,  # the first report comes after a whole validation anyway
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "accelerator": "gpu" if on_gpu else "cpu",
            "devices": 1,
            **self._spec.trainer,
            **routed,
            "max_epochs": self._spec.schedule.max_epochs,
            "precision": resources.precision,
            "callbacks": [reporter],
            "logger": self._tracker.logger() or False,
            "default_root_dir": str(scratch),
        }
        if self.world_size > 1 or resources.strategy != "auto":
            arguments |= {
                "strategy": {
                    "fsdp": lambda: RayFSDPStrategy(state_dict_type="full"),
                    "ddp_find_unused_parameters_true": lambda: RayDDPStrategy(find_unused_parameters=True),
                }.get(resources.strategy, RayDDPStrategy)(),
                "plugins": [RayLightningEnvironment()],
                "devices": "auto",
            }
        return pl.Trainer(**arguments)

    def _start_from(self, job: Job, scratch: Path) -> str | None:
        """The checkpoint to go on from, as a local path: the one the job names, else the trial's newest."""
        path = job.start_from or next(reversed(self._folder.checkpoints(job.number).values()), None)
        return str(self._folder.local_copy(path, scratch)) if path else None

    def _fail(self, job: Job, exc: BaseException) -> None:
        """Say why this worker is about to go down with its group, and close the trial's run."""
        error = str(exc) if isinstance(exc, InputError) else first_line(exc)
        where = f"rank {self.rank}: " if self.world_size > 1 else ""
        self._tracker.close(Outcome.FAILED, None, error, {})
        outcome = Outcome.REJECTED if isinstance(exc, InputError) else Outcome.FAILED
        self._say("lost", Lost(error=where + error, outcome=outcome, run_closed=self.rank == 0))
        self._leave_behind(job, traceback.format_exc())

    def _stalled(self, job: Job, limit_s: float) -> None:
        """Called from the watch's thread when the trial hangs: leave the stacks behind, say so, and die."""
        with tempfile.TemporaryFile("w+") as stacks:
            faulthandler.dump_traceback(stacks, all_threads=True)
            stacks.seek(0)
            self._leave_behind(job, stacks.read())
        error = f"no step finished for {limit_s:g} s (failures.stall_timeout_s), rank {self.rank} was killed"
        self._say("lost", Lost(error=error))
        os._exit(1)

    def _leave_behind(self, job: Job, traces: str) -> None:
        rank = f"-rank-{self.rank}" if self.rank else ""
        self._folder.write_text(f"trials/{job.number}/error-{job.attempt}{rank}.txt", traces)

    def report(self, report: Report) -> Verdict:
        """Hand in an epoch and wait for the verdict; rank 0 only."""
        with self._watch.paused():
            verdict: Verdict = self._say("report", report)
        return verdict

    def _notify(self, text: str) -> None:
        self._call("notice", Notice(text=text))

    def _agree_on_incarnation(self) -> str:
        agreed = [uuid.uuid4().hex[:12]]
        torch.distributed.broadcast_object_list(agreed, src=0)
        return agreed[0]

    def _say(self, method: str, *args: Any) -> Any:
        return self._call(method, self._slot, self._incarnation, *args)

    def _call(self, method: str, *args: Any) -> Any:
        return ray.get(getattr(self._board, method).remote(*args))


class Reporter(Checkpoint):
    """Lightning's callback at the end of every epoch: checkpoint, report, obey.

    A `Checkpoint` callback runs after all others, so that what they log or decide at the end of the epoch counts,
    and keeps Lightning from adding a ModelCheckpoint of its own.
    """

    def __init__(
        self,
        worker: Worker,
        job: Job,
        spec: Spec,
        folder: SweepFolder,
        watch: _Watch,
        model_args: Mapping[str, Any],
        scratch: Path,
    ) -> None:
        self._worker, self._job, self._spec, self._folder, self._watch = worker, job, spec, folder, watch
        self._model_args, self._scratch = model_args, scratch
        self._curve: dict[int, float] = {}
        self._validated = False
        self._restored: Report | None = None
        self._pending: dict[str, Any] = {}
        self._final = False
        self.outcome = Outcome.COMPLETE
        self.error: str | None = None
        self.last: Report | None = None
        self.unsent: Report | None = None
        """The report of the last epoch: it is handed in with the trial's end."""

    # What is saved with the checkpoint, so that whoever goes on from it can report it again.

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Make `load_from_checkpoint` work for modules that do not call `save_hyperparameters`, too."""
        if not checkpoint.get(pl.LightningModule.CHECKPOINT_HYPER_PARAMS_KEY):
            checkpoint[pl.LightningModule.CHECKPOINT_HYPER_PARAMS_KEY] = dict(self._model_args)

    def state_dict(self) -> dict[str, Any]:
        """The trial's curve, and the report of the epoch that the checkpoint ends."""
        return {"number": self._job.number, "curve": self._curve, "report": self._pending, "final": self._final}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the curve again, if the checkpoint is this trial's own."""
        if state_dict["number"] != self._job.number:
            return
        self._curve, self._restored = dict(state_dict["curve"]), Report(**state_dict["report"])
        self._final = state_dict["final"]
        if self._final:  # nothing is left to train, and so Lightning calls no hook of training
            self.last = self.unsent = self._restored

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report the checkpoint's own epoch again: the sweep may have died before it was recorded."""
        if self._restored is not None:
            self._hand_in(trainer, self._restored, final=self._final, again=True)

    # The epoch.

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget that the last epoch was validated."""
        self._validated = False

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remember that this epoch was validated."""
        self._validated = True

    def on_train_batch_start(self, *args: Any) -> None:
        """A step begins: leave, if the sweep was interrupted."""
        self._watch.beat()
        if (outcome := self._watch.interrupted) is not None:
            self.outcome = outcome
            raise Interrupted

    def on_validation_batch_start(self, *args: Any) -> None:
        """A step begins."""
        self.on_train_batch_start()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Checkpoint and report the epoch, and do as the scheduler says."""
        validates = sum(trainer.num_val_batches) > 0
        if validates and not self._validated:
            return  # check_val_every_n_epoch: this epoch has no news
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if self._worker.world_size > 1:
            # Rank 0's values are everybody's: ranks that judged for themselves could part, and wait for each other.
            metrics = trainer.strategy.broadcast(metrics)
        value = metrics.get(self._spec.metric)
        if value is None:
            raise SpecError(self.nothing_reported(trainer))
        epoch = trainer.current_epoch + 1
        if not math.isfinite(value):
            self.outcome, trainer.should_stop = Outcome.DIVERGED, True
            self.error = f"{self._spec.metric} is {value} at epoch {epoch}: the trial diverged"
            return
        self._curve[epoch] = value
        best = ranking.best_epoch(self._spec.goal, self._curve) or epoch
        report = Report(
            number=self._job.number,
            epoch=epoch,
            value=value,
            metrics=metrics,
            best_epoch=best,
            checkpoint=self._folder.checkpoint(self._job.number, epoch),
            best_checkpoint=self._folder.checkpoint(self._job.number, best),
        )
        final = trainer.should_stop or epoch >= self._spec.schedule.max_epochs
        self._save(trainer, report, final)
        self._hand_in(trainer, report, final=final)

    def _save(self, trainer: pl.Trainer, report: Report, final: bool) -> None:
        """Write the epoch's checkpoint; a collective, only rank 0 writes."""
        self._pending, self._final = vars(report), final
        path = self._folder.checkpoint(self._job.number, report.epoch)
        if self._worker.rank == 0:
            with self._folder.writing(path, self._scratch) as local:
                trainer.save_checkpoint(local)
        else:
            trainer.save_checkpoint(self._scratch / "unused.ckpt")

    def _hand_in(self, trainer: pl.Trainer, report: Report, *, final: bool, again: bool = False) -> None:
        """Report, on rank 0, and obey, on all."""
        self.last = report
        if again and self._worker.rank == 0:
            # Whoever wrote the checkpoint may have died before W&B had its last second of log.
            for logger in trainer.loggers:
                logger.log_metrics({**report.metrics, "epoch": report.epoch - 1}, trainer.global_step)
        if final:
            self.unsent, trainer.should_stop = report, True
            return
        verdict = self._worker.report(report) if self._worker.rank == 0 else Verdict.CONTINUE
        if self._worker.world_size > 1:
            with self._watch.paused():
                verdict = Verdict(trainer.strategy.broadcast(verdict))
        if verdict is Verdict.CONTINUE:
            if self._worker.rank == 0 and self._spec.checkpoints.keep != "all":
                self._folder.drop_checkpoints(self._job.number, kept={report.epoch, report.best_epoch})
        else:
            self.outcome, trainer.should_stop = ENDS_AS[verdict], True

    def tidy(self) -> dict[str, list[str]]:
        """Delete the checkpoints that are not kept; those that are, best first, with their artifact aliases."""
        epochs = self._folder.checkpoints(self._job.number)
        best = ranking.best_epoch(self._spec.goal, self._curve)
        if self.outcome in (Outcome.PAUSED, Outcome.INTERRUPTED):
            return {}  # it will go on from the newest
        kept = ranking.kept_epochs(self._spec.checkpoints.keep, list(epochs), best)
        self._folder.drop_checkpoints(self._job.number, kept=kept)
        aliases: dict[str, list[str]] = {
            epochs[epoch]: [] for epoch in sorted(kept, key=lambda epoch: (epoch != best, -epoch))
        }
        for path, epoch in {path: epoch for epoch, path in epochs.items() if epoch in kept}.items():
            aliases[path] += ["best"] * (epoch == best) + ["latest"] * (epoch == max(kept))
        return aliases

    def nothing_reported(self, trainer: pl.Trainer) -> str:
        """The message for a metric that never appears."""
        logged = sorted(map(str, trainer.callback_metrics))
        return (
            f"metric is '{self._spec.metric}', which the module does not log"
            f"{near_miss(self._spec.metric, logged) or ';'} it logs: {', '.join(logged) or 'nothing'}"
        )


class _PreparedData:
    """Data modules that are prepared and set up once, and used again while their arguments stay the same."""

    def __init__(self) -> None:
        self._key: tuple[Any, str] | None = None
        self._module: pl.LightningDataModule | None = None

    def of(self, build: Callable[..., Any] | None, arguments: Mapping[str, Any]) -> pl.LightningDataModule | None:
        """The data module for these arguments; the last one's is torn down when they change."""
        if build is None:
            return None
        key = (build, json.dumps(arguments, sort_keys=True, default=repr))
        if key != self._key:
            if self._module is not None:
                self._teardown("fit")
            # What is drawn here is not drawn where the data is used again: the trial must not see a difference.
            with isolate_rng():
                self._module = build(**arguments)
            self._key = key
            self._hold(self._module)
        return self._module

    def _hold(self, module: pl.LightningDataModule) -> None:
        """Let every hook of the data module run once only, and its teardown wait until it is no longer used."""
        self._teardown = module.teardown
        module.prepare_data = _once(module.prepare_data)  # type: ignore[method-assign]
        module.setup = _once(module.setup)  # type: ignore[method-assign]
        module.teardown = lambda stage: None  # type: ignore[method-assign]  # noqa: ARG005


def _once(hook: Callable[..., None]) -> Callable[..., None]:
    done: set[str] = set()

    def call(*args: Any, **kwargs: Any) -> None:
        if (key := repr((args, kwargs))) not in done:
            with isolate_rng():
                hook(*args, **kwargs)
            done.add(key)

    return call


class _Watch:
    """A thread that ends a trial whose steps do not end, and tells when the sweep is interrupted."""

    def __init__(self, board: Any, limit_s: float, stalled: Callable[[Job, float], None]) -> None:
        self._limit_s, self._stalled = limit_s, stalled
        self._job: Job | None = None
        self._last_beat = math.inf  # infinite while nothing is expected to happen
        self.interrupted: Outcome | None = None
        self._signal = board.interrupted.remote()
        threading.Thread(target=self._look, name="watch", daemon=True).start()

    def beat(self) -> None:
        """A step ended, or began."""
        self._last_beat = time.monotonic()

    @contextlib.contextmanager
    def over(self, job: Job) -> Iterator[None]:
        """Watch over a trial."""
        self._job = job
        self.beat()
        try:
            yield
        finally:
            self._last_beat = math.inf

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """While waiting for others, which has limits of its own."""
        self._last_beat = math.inf
        try:
            yield
        finally:
            self.beat()

    def _look(self) -> None:
        tick_s = min(1.0, self._limit_s / 4)
        while True:
            if self.interrupted is None:
                if ray.wait([self._signal], timeout=tick_s)[0]:
                    self.interrupted = ray.get(self._signal)
            else:
                time.sleep(tick_s)
            if self._last_beat == math.inf or self._job is None:
                faulthandler.cancel_dump_traceback_later()
                continue
            # The second line of defence, in C: a hang that holds the interpreter's lock stops this thread as well.
            faulthandler.dump_traceback_later(self._limit_s + 10 * tick_s, exit=True)
            if time.monotonic() - self._last_beat > self._limit_s:
                self._stalled(self._job, self._limit_s)


def _quiet() -> None:
    """Keep Lightning's advice, the same for every trial, out of the log."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


@contextlib.contextmanager
def _folder_of_its_own(slot: str, rank: int) -> Iterator[Path]:
    """A folder for a trial's temporary files; always the same one, so that what a killed worker left goes as well."""
    folder = Path(tempfile.gettempdir()) / f"orchestrator-{slot}-{rank}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _clean() -> None:
    """Leave nothing of a trial to the next one."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
