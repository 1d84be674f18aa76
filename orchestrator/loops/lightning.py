"""Lightning's loop: a LightningModule under a Trainer, checkpointed and reported every epoch (Lightning)."""

from __future__ import annotations

import contextlib
import json
import logging
import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import ray.train.torch  # noqa: F401 - RayDDPStrategy asks it for its device
import torch
from lightning.fabric.utilities.data import _set_sampler_epoch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.seed import isolate_rng
from ray.train.lightning import RayDDPStrategy, RayFSDPStrategy, RayLightningEnvironment
from torch.distributed.fsdp import FullyShardedDataParallel

from orchestrator import arguments, batch_size, catalog
from orchestrator.attempt import Attempt
from orchestrator.checkpoint import Handover
from orchestrator.context import RECORD
from orchestrator.errors import SpecError
from orchestrator.messages import Report
from orchestrator.predictions import Predictions
from orchestrator.spec import STRATEGIES, Spec
from orchestrator.trainable import Trainable

# Of what torch says of weights that do not fit, which it says of each.
MISFIT_CHARACTERS = 300


class Interrupted(Exception):
    """The sweep was interrupted in the middle of an epoch."""


class Loop:
    """Trains LightningModules, one after the other; their data stays while its arguments do."""

    def __init__(self) -> None:
        self._data = _PreparedData()
        for name in ("lightning.pytorch", "lightning.fabric"):  # advice, the same for every trial
            logging.getLogger(name).setLevel(logging.WARNING)

    def fit(self, trainable: Trainable, attempt: Attempt) -> None:
        """Build model, data and trainer, and fit."""
        routed = trainable.route(self._params(trainable, attempt))
        model = arguments.call(trainable.model, routed["model"])
        data = self._data.of(trainable.data, routed["data"], attempt.spec)
        if attempt.weights is not None:
            _load_weights(model, attempt.weights)
        attempt.begin()
        if attempt.batch_size is not None:
            attempt.tracker.log({"batch_size": attempt.batch_size}, step=0)
        compiled: Any = torch.compile(model) if attempt.spec.training.compile else model
        trainer = _trainer(attempt, Reporter(attempt, routed["model"]), routed["trainer"])
        attempt.tracker.watch(model)
        with contextlib.suppress(Interrupted):
            trainer.fit(compiled, datamodule=data, ckpt_path=attempt.start_from, weights_only=False)
        attempt.logged = trainer.callback_metrics
        if data is not None:
            data.trainer = None  # it would keep this trial's model alive for as long as the data

    def test(self, trainable: Trainable, attempt: Attempt) -> dict[str, float]:
        """Run `Trainer.test` on a checkpoint.

        Raises:
            SpecError: the module has no `test_step`.
        """
        routed = trainable.route(self._params(trainable, attempt))
        model = arguments.call(trainable.model, routed["model"])
        if not is_overridden("test_step", model):
            raise SpecError(f"there is nothing to test with: {type(model).__name__} has no test_step")
        data = self._data.of(trainable.data, routed["data"], attempt.spec)
        trainer = _trainer(attempt, Silent(attempt), routed["trainer"])
        trainer.test(model, datamodule=data, ckpt_path=attempt.start_from, verbose=False, weights_only=False)
        if data is not None:
            data.trainer = None
        return {name: float(value) for name, value in trainer.callback_metrics.items()}

    def _params(self, trainable: Trainable, attempt: Attempt) -> dict[str, Any]:
        """A trial's hyperparameters, with the largest batch size that fits where that is asked for."""
        if attempt.spec.training.batch_size != "largest":
            return attempt.params
        name = batch_size.name_in(attempt.params)
        if attempt.start_from is not None:
            saved = torch.load(attempt.start_from, map_location="cpu", weights_only=False, mmap=True)
            attempt.batch_size = saved[RECORD]["batch_size"]
        else:
            at_most = attempt.params.get(name, batch_size.LIMIT)
            routed = trainable.route({**attempt.params, name: 1})
            with isolate_rng():  # the trial is to be that of a batch size which was given
                model = arguments.call(trainable.model, routed["model"])
                data = self._data.of(trainable.data, routed["data"], attempt.spec)
                trainer = _trainer(attempt, Silent(attempt), routed["trainer"])
                attempt.batch_size = batch_size.largest(trainer, model, data, at_most=at_most)
        return {**attempt.params, name: attempt.batch_size}


def _load_weights(model: pl.LightningModule, path: Path) -> None:
    """Start from the weights of a checkpoint.

    Raises:
        SpecError: they are not this module's.
    """
    try:
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=False)["state_dict"])
    except (RuntimeError, KeyError) as exc:
        why = " ".join(str(exc).split())[:MISFIT_CHARACTERS]
        raise SpecError(
            f"start_from: the checkpoint does not fit {type(model).__name__}; give what shapes the model the value that"
            f" it was trained with, in params or as a fixed parameter of the space ({why})"
        ) from exc


def _trainer(attempt: Attempt, ours: Checkpoint, routed: Mapping[str, Any]) -> pl.Trainer:
    spec, resources, tracking = attempt.spec, attempt.spec.resources, attempt.spec.tracking
    shows = tracking.predictions and tracking.mode != "disabled"
    given = arguments.made({**spec.trainer, **routed})
    whole: dict[str, Any] = {
        "num_sanity_val_steps": 0,  # the first report comes after a whole validation anyway
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "accelerator": "gpu" if resources.gpus_per_worker > 0 else "cpu",
        "devices": 1,
        **given,
        **_length(spec),
        "precision": resources.precision,
        "callbacks": [
            *given.get("callbacks", []),
            *([Predictions(tracking.predictions, attempt.notify)] if shows else []),
            ours,
        ],
        "logger": attempt.tracker.logger(),
        "default_root_dir": str(attempt.scratch),
        "plugins": [Handover(attempt.handover, attempt.take)],
    }
    # One worker, too, gets its data by way of DDP's sampler where it is to see the batches that several would.
    if attempt.world_size > 1 or resources.strategy != "auto" or spec.training.batch_size == "global":
        strategy, environment = _strategy(resources.strategy), RayLightningEnvironment()
        # A strategy of the user's may write checkpoints in a way of its own.
        plugins = whole["plugins"] if resources.strategy in STRATEGIES else []
        whole |= {"strategy": strategy, "plugins": [*plugins, environment], "devices": "auto"}
    return pl.Trainer(**whole)


def _length(spec: Spec) -> dict[str, Any]:
    """How long a trial is, and how often it is validated, as Lightning's Trainer says it."""
    if (steps := spec.training.report_every_steps) is None:
        return {"max_epochs": spec.schedule.max_epochs}
    # Its end is the reporter's to say: the Trainer's own `max_steps` counts those of the optimizers.
    return {"max_epochs": -1, "val_check_interval": steps, "check_val_every_n_epoch": None}


def _strategy(name: str) -> Any:
    match name:
        case "fsdp":
            return _Sharded(state_dict_type="full")
        case "ddp_find_unused_parameters_true":
            return RayDDPStrategy(find_unused_parameters=True)
        case "ddp" | "auto":
            return RayDDPStrategy()
        case _:
            return catalog.load_object(name)()


class _Sharded(RayFSDPStrategy):
    """FSDP, on CPUs too: torch's own does it, over gloo, where it is told that the device is one."""

    def _setup_model(self, model: torch.nn.Module) -> torch.nn.Module:
        if self.root_device.type == "cpu":  # Lightning takes one that is wrapped as it is
            model = FullyShardedDataParallel(
                model, device_id=self.root_device, mixed_precision=self.mixed_precision_config,
                sharding_strategy=self.sharding_strategy, **self.kwargs,
            )  # fmt: skip
        ready: torch.nn.Module = super()._setup_model(model)
        return ready


class Silent(Checkpoint):
    """Tells the watch of steps, and keeps Lightning from adding a ModelCheckpoint where nothing is trained."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt

    def on_test_batch_start(self, *args: Any) -> None:
        """A step begins."""
        self._attempt.watch.beat()


class Reporter(Checkpoint):
    """Lightning's callback at the end of every epoch, or every so many steps: checkpoint, report, obey.

    A `Checkpoint` callback runs after all others, so that what they log or decide at the end of the epoch counts,
    and keeps Lightning from adding a ModelCheckpoint of its own.
    """

    def __init__(self, attempt: Attempt, model_args: Mapping[str, Any]) -> None:
        self._attempt, self._model_args = attempt, model_args
        self._every_steps = attempt.spec.training.report_every_steps
        self._validated = False
        self._checkpoint: dict[str, Any] | None = None
        self._fresh: list[list[dict[str, Any]]] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Tell the Trainer the length of a trial in steps, which schedules ask it, where it counts the same ones."""
        if self._every_steps and pl_module.automatic_optimization and trainer.accumulate_grad_batches == 1:
            trainer.fit_loop.epoch_loop.max_steps = self._every_steps * self._attempt.spec.schedule.max_epochs

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Make `load_from_checkpoint` work for modules that do not call `save_hyperparameters`, too."""
        if not checkpoint.get(pl.LightningModule.CHECKPOINT_HYPER_PARAMS_KEY):
            # Not what is written as a class path: whoever loads it passes the object.
            plain = {
                name: each for name, each in self._model_args.items() if not any(arguments.class_paths(each, name))
            }
            checkpoint[pl.LightningModule.CHECKPOINT_HYPER_PARAMS_KEY] = plain
        checkpoint[RECORD] = self._attempt.record

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep what was reported with the checkpoint, until the trainer is ready to go on."""
        self._checkpoint = {name: checkpoint.get(name) for name in (RECORD, "global_step", "epoch")}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report the checkpoint's own epoch again; also where nothing is left to train, and no training starts."""
        if self._checkpoint is not None and (report := self._attempt.resume(self._checkpoint)) is not None:
            self._log_again(trainer, report)
        trainer.should_stop = self._attempt.stopped
        if self._attempt.job.changes:
            self._fresh = [_settings(optimizer) for optimizer in trainer.optimizers]

    def _log_again(self, trainer: pl.Trainer, report: Report) -> None:
        """Log what was reported: whoever wrote the checkpoint may have died before the last of its log was written."""
        assert self._checkpoint is not None
        row, epoch = {"epoch": float(report.epoch - 1)}, report.epoch - 1  # Lightning counts from 0
        if self._every_steps:
            row, epoch = {self._attempt.spec.metric: report.value}, self._checkpoint["epoch"]
        for logger in trainer.loggers if not self._attempt.tracker.has_row(**row) else ():
            logger.log_metrics({**report.metrics, "epoch": epoch}, self._checkpoint["global_step"])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Go on where the checkpoint left off: in the middle of an epoch, and with the trial's own hyperparameters.

        A checkpoint that was copied brought its donor's.
        """
        loop = trainer.fit_loop
        within_epoch = 0 < loop.epoch_loop.batch_progress.current.ready < loop.max_batches
        if self._checkpoint is not None and (self._every_steps or within_epoch):
            self._checkpoint = None
            self._go_on_within_epoch(trainer)
        for optimizer, fresh in zip(trainer.optimizers, self._fresh, strict=False):
            schedulers = [
                config.scheduler for config in trainer.lr_scheduler_configs if config.scheduler.optimizer is optimizer
            ]
            _rebase(optimizer, fresh, schedulers)

    def _go_on_within_epoch(self, trainer: pl.Trainer) -> None:
        """Draw the order of the epoch's data again, and pass over the batches that were trained on."""
        loop = trainer.fit_loop
        fetcher, seen = loop._data_fetcher, loop.epoch_loop.batch_progress.current.ready
        if fetcher is not None and seen < loop.max_batches:
            for loader in fetcher.combined_loader.flattened:
                _set_sampler_epoch(loader, trainer.current_epoch)
            if trainer.current_epoch == 0 and not self._every_steps:  # drawn before the epoch began
                iter(fetcher)
                self._attempt.restore_random_state(of_the_epoch=True)
            else:
                self._attempt.restore_random_state(of_the_epoch=True)
                iter(fetcher)
            for _ in range(seen):
                next(fetcher)
            fetcher.fetched -= seen  # Lightning adds them, though it passes over none
        self._attempt.restore_random_state()
        if loop.epoch_loop.restarted_on_train_batch_end and seen >= loop.max_batches:
            self._begin_epoch(trainer)  # the Trainer does without `on_train_epoch_start` here

    def _begin_epoch(self, trainer: pl.Trainer) -> None:
        self._attempt.epoch_begins()
        if (fetcher := trainer.fit_loop._data_fetcher) is not None:
            iter(fetcher)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget that the last epoch was validated; in the first, draw random numbers where the checkpoint left off."""
        self._validated = False
        if self._checkpoint is not None:
            self._checkpoint = None
            self._attempt.restore_random_state()
            # The Trainer drew the order of a resumed epoch's data when it started, from another random state.
            self._begin_epoch(trainer)
        elif self._every_steps and trainer.current_epoch == 0:
            self._begin_epoch(trainer)
        else:
            self._attempt.epoch_begins()  # from here the Trainer draws the order of the data itself

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Hear of the epoch before, where no verdict was waited for: what is validated after its end is not logged."""
        self._attempt.settle(wait=True)
        if self._attempt.stopped:
            raise Interrupted

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remember that this epoch was validated; report, where that is due now."""
        self._validated = True
        if self._every_steps:
            self._report(trainer, self._reports_so_far(trainer))

    def on_train_batch_start(self, *args: Any) -> None:
        """A step begins: leave, if the sweep was interrupted."""
        self._attempt.settle()
        self.on_validation_batch_start()

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """A step is over: report, where that is due; save and leave, where a node is about to be taken away."""
        due = self._every_steps is not None and _batches(trainer) % self._every_steps == 0
        if due and not _validates(trainer):
            self._report(trainer, self._reports_so_far(trainer))
        elif not (due or trainer.is_last_batch):  # else the validation, or the epoch's end, comes first
            self._attempt.stepped(trainer.save_checkpoint)
            if self._attempt.stopped:
                raise Interrupted

    def on_validation_batch_start(self, *args: Any) -> None:
        """A step begins."""
        self._attempt.beat()
        if self._attempt.stopped:
            raise Interrupted

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Checkpoint and report the epoch, and do as the scheduler says."""
        if self._every_steps or (_validates(trainer) and not self._validated):
            return  # check_val_every_n_epoch: this epoch has no news
        self._report(trainer, trainer.current_epoch + 1)

    def _reports_so_far(self, trainer: pl.Trainer) -> int:
        # A module that stops by itself is validated between two reports, which counts as the next one.
        return -(-_batches(trainer) // (self._every_steps or 1))

    def _report(self, trainer: pl.Trainer, epoch: int) -> None:
        self._attempt.report(
            {name: float(value) for name, value in trainer.callback_metrics.items()},
            epoch=epoch,
            save=trainer.save_checkpoint,
            final=trainer.should_stop or epoch >= self._attempt.spec.schedule.max_epochs,
        )
        trainer.should_stop = trainer.should_stop or self._attempt.stopped


def _validates(trainer: pl.Trainer) -> bool:
    return sum(trainer.num_val_batches) > 0


def _batches(trainer: pl.Trainer) -> int:
    """How many batches a worker has trained on."""
    return trainer.fit_loop.epoch_loop.total_batch_idx + 1


def _settings(optimizer: Any) -> list[dict[str, Any]]:
    """What an optimizer was made with, for each group of parameters."""
    return [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]


def _rebase(optimizer: Any, fresh: list[dict[str, Any]], schedulers: list[Any]) -> None:
    """Put an optimizer whose state was restored on other settings; how far a schedule has come stays as it is."""
    for index, (group, settings) in enumerate(zip(optimizer.param_groups, fresh, strict=True)):
        before = group.get("initial_lr", group["lr"])
        done = group["lr"] / before if before else 1.0
        group.update(settings)
        base = settings.get("initial_lr", settings["lr"])
        group["lr"] = base * done
        for scheduler in schedulers:
            if hasattr(scheduler, "base_lrs"):
                scheduler.base_lrs[index] = base


class _PreparedData:
    """Data modules that are prepared and set up once, and used again while their arguments stay the same."""

    def __init__(self) -> None:
        self._key: tuple[Any, str] | None = None
        self._module: pl.LightningDataModule | None = None

    def of(
        self, build: Callable[..., Any] | None, given: Mapping[str, Any], spec: Spec
    ) -> pl.LightningDataModule | None:
        """The data module for these arguments; the last one's is torn down when they change."""
        if build is None:
            return None
        key = (build, json.dumps(given, sort_keys=True, default=repr))
        if key != self._key:
            if self._module is not None:
                self._teardown("fit")
            seed = spec.search.seed or 0
            with _drawn_apart(seed):
                self._module = arguments.call(build, given)
            self._key = key
            self._hold(self._module, seed)
        return self._module

    def _hold(self, module: pl.LightningDataModule, seed: int) -> None:
        """Let every hook of the data module run once only, and its teardown wait until it is no longer used."""
        self._teardown = module.teardown
        module.prepare_data = _once(module.prepare_data, seed)  # type: ignore[method-assign]
        module.setup = _once(module.setup, seed)  # type: ignore[method-assign]
        module.teardown = lambda stage: None  # type: ignore[method-assign]  # noqa: ARG005


@contextlib.contextmanager
def _drawn_apart(seed: int) -> Iterator[None]:
    """Random numbers that data is made with belong to the sweep, not to the trial that happens to be a slot's first.

    So a split is the same in every slot, in every attempt and after a resume; and a trial that finds the data prepared
    draws what it would have drawn.
    """
    with isolate_rng():
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        yield


def _once(hook: Callable[..., None], seed: int) -> Callable[..., None]:
    done: set[str] = set()

    def call(*args: Any, **kwargs: Any) -> None:
        if (key := repr((args, kwargs))) not in done:
            with _drawn_apart(seed):
                hook(*args, **kwargs)
            done.add(key)

    return call
