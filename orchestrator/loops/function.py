"""A loop of the user's own: a function that trains, in plain torch or Lightning Fabric (torch, Lightning Fabric)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, cast

import ray.train.torch
import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies.ddp import DDPStrategy
from lightning.fabric.strategies.fsdp import FSDPStrategy
from lightning.fabric.strategies.single_device import SingleDeviceStrategy
from lightning.fabric.strategies.strategy import Strategy
from ray.train.lightning import RayLightningEnvironment
from torch import nn
from torch.utils.data import DataLoader

from orchestrator import catalog
from orchestrator.attempt import Attempt
from orchestrator.checkpoint import Handover
from orchestrator.context import RECORD, Context
from orchestrator.errors import SpecError
from orchestrator.trainable import TrainFunction


class Loop:
    """Calls the function, and tells it where to go on."""

    def fit(self, trainable: TrainFunction, attempt: Attempt) -> None:
        """Call `train(context, **hyperparameters)`.

        Raises:
            SpecError: the spec has arguments for Lightning's Trainer, of which there is none.
        """
        arguments = trainable.route(attempt.params)["train"]
        if attempt.spec.trainer:
            raise SpecError(f"trainer.{next(iter(attempt.spec.trainer))}: a training function has no Lightning Trainer")
        attempt.begin()
        context = FunctionContext(attempt)
        if attempt.start_from is not None:
            attempt.resume(torch.load(attempt.start_from, map_location="cpu", weights_only=False, mmap=True))
        if not attempt.stopped:
            trainable.train(context, **arguments)

    def test(self, trainable: TrainFunction, attempt: Attempt) -> dict[str, float]:
        """Call `test(context, **hyperparameters)`.

        Raises:
            SpecError: there is no such function.
        """
        if trainable.test is None:
            raise SpecError("there is nothing to test with: TrainFunction(train=..., test=...) says how")
        arguments = trainable.route(attempt.params)["train"]
        return {name: float(value) for name, value in trainable.test(FunctionContext(attempt), **arguments).items()}


class FunctionContext(Context):
    """The context of a training function, on one rank."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._begun_with: Path | None = None
        self._casts = attempt.spec.resources.precision == "32-true"
        self._fabric: Fabric | None = None
        self.number, self.seed = attempt.job.number, attempt.job.seed
        self.rank, self.world_size = attempt.rank, attempt.world_size
        self.max_epochs, self.resources = attempt.spec.schedule.max_epochs, attempt.spec.resources
        self.start_from, self.tracker = attempt.start_from, attempt.tracker

    @property
    def weights(self) -> Path | None:
        """The checkpoint whose weights to begin with; see `Context`."""
        self._begun_with = self._attempt.weights
        return self._begun_with

    @property
    def device(self) -> torch.device:
        """This rank's device."""
        return _device()

    def epochs(self) -> Iterator[int]:
        """The epochs to train; see `Context`."""
        self._attempt.restore_random_state()
        for epoch in range(self._attempt.epochs_done + 1, self.max_epochs + 1):
            yield epoch
            if self._attempt.stopped:
                return

    def report(self, metrics: Mapping[str, float], *, epoch: int, checkpoint: Mapping[str, Any]) -> None:
        """Hand in an epoch; see `Context`."""
        self._check_that_it_was_heard()

        def save(path: Path) -> None:
            state = {**checkpoint, RECORD: self._attempt.record}
            if self._fabric is not None:
                self._fabric.save(path, state)  # a collective, which takes modules and optimizers as they are
            elif self.rank == 0:
                self._attempt.take(state)

        numbers = {name: float(value) for name, value in metrics.items()}
        self._attempt.report(numbers, epoch=epoch, save=save, final=epoch >= self.max_epochs)

    def _check_that_it_was_heard(self) -> None:
        """What a spec asks of a function is in the function's hands; asked in vain it would be found out too late.

        Raises:
            SpecError: for what it has not asked the context for.
        """
        problems = []
        if self._attempt.weights != self._begun_with:
            problems.append(
                "start_from names the weights to begin with, and the training function does not ask for them"
                " (context.weights)"
            )
        if not self._casts and self._fabric is None:
            problems.append(
                f"resources.precision is '{self.resources.precision}', and the training function has another: it uses"
                " neither context.autocast() nor context.fabric()"
            )
        if problems:
            raise SpecError(problems)

    def should_stop(self) -> bool:
        """Whether to return now; see `Context`."""
        self._attempt.settle()
        self._attempt.beat()
        return self._attempt.stopped

    def load(self) -> dict[str, Any]:
        """The checkpoint to go on from, on the CPU; see `Context`."""
        if self.start_from is None:
            raise LookupError("this trial begins: there is no checkpoint to go on from (context.start_from is None)")
        saved: dict[str, Any] = torch.load(self.start_from, map_location="cpu", weights_only=False)
        return saved

    def prepare_model(self, model: nn.Module) -> nn.Module:
        """The model on its device, shared by the workers; see `Context`."""
        parallel = "fsdp" if self.resources.strategy == "fsdp" else "ddp"
        prepared: Any = ray.train.torch.prepare_model(model, parallel_strategy=parallel)
        ready: Any = torch.compile(prepared) if self._attempt.spec.training.compile else prepared
        return cast(nn.Module, ready)

    def prepare_data_loader(self, loader: DataLoader[Any]) -> DataLoader[Any]:
        """The loader, each worker with its part of the data; see `Context`."""
        prepared: DataLoader[Any] = ray.train.torch.prepare_data_loader(loader)
        return prepared

    def autocast(self) -> AbstractContextManager[None]:
        """Where to run the model and its loss; see `Context`."""
        self._casts = True
        match self.resources.precision:
            case "32-true":
                return nullcontext()
            case "bf16-mixed":
                return cast(AbstractContextManager[None], torch.autocast(self.device.type, torch.bfloat16))
            case other:
                raise SpecError(
                    f"resources.precision is '{other}', which a loop of plain torch does not have: use"
                    " context.fabric(), or 32-true or bf16-mixed"
                )

    def fabric(self, **arguments: Any) -> Fabric:
        """A launched Fabric; see `Context`."""
        on_gpu = self.resources.gpus_per_worker > 0
        self._fabric = Fabric(
            **{
                "accelerator": "gpu" if on_gpu else "cpu",
                "precision": self.resources.precision,
                "strategy": self._strategy(),
                "loggers": [self._attempt.tracker.logger()],
                "plugins": [Handover(self._attempt.handover, self._attempt.take)],
                **arguments,
            }
        )
        self._fabric.launch()
        return self._fabric

    def _strategy(self) -> Strategy:
        """As the spec says; ranks, devices and the process group are those of the worker group."""
        shared = self._attempt.spec.training.batch_size == "global"  # the batches that several workers would see
        if self.world_size == 1 and self.resources.strategy == "auto" and not shared:
            return SingleDeviceStrategy(self.device)
        ours: dict[str, Any] = {
            "cluster_environment": RayLightningEnvironment(),
            "parallel_devices": [self.device],
        }
        match self.resources.strategy:
            case "fsdp":
                return _FabricFSDP(state_dict_type="full", **ours)
            case "ddp_find_unused_parameters_true":
                return _FabricDDP(find_unused_parameters=True, **ours)
            case "ddp" | "auto":
                return _FabricDDP(**ours)
            case other:
                strategy: Strategy = catalog.load_object(other)()
                return strategy


class _OnRay:
    """What a Fabric strategy would count for itself, as Ray's strategies for Lightning's Trainer have it from Ray."""

    world_size: int
    global_rank: int

    @property
    def root_device(self) -> torch.device:
        """This rank's device."""
        return _device()

    @property
    def distributed_sampler_kwargs(self) -> dict[str, Any]:
        """Which part of the data is this rank's."""
        return {"num_replicas": self.world_size, "rank": self.global_rank}


def _device() -> torch.device:
    device: torch.device = ray.train.torch.get_device()
    return device


class _FabricDDP(_OnRay, DDPStrategy):
    pass


class _FabricFSDP(_OnRay, FSDPStrategy):
    pass
