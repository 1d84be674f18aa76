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
from lightning.fabric.utilities.data import _update_dataloader
from ray.train.lightning import RayLightningEnvironment
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
)

from orchestrator import catalog
from orchestrator.attempt import Attempt
from orchestrator.checkpoint import Handover
from orchestrator.context import RECORD, Context
from orchestrator.errors import SpecError
from orchestrator.spec import STRATEGIES, problems_with_function
from orchestrator.trainable import TrainFunction


class Loop:
    """Calls the function, and tells it where to go on."""

    def fit(self, trainable: TrainFunction, attempt: Attempt) -> None:
        """Call `train(context, **hyperparameters)`.

        Raises:
            SpecError: the spec asks for what only Lightning's loop does, and the files alone did not tell that it is
                for a function.
        """
        arguments = trainable.route(attempt.params)["train"]
        if problems := list(problems_with_function(attempt.spec)):
            raise SpecError(problems)
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
        self._asked: set[str] = set()
        self._shapes: dict[str, torch.Size] = {}
        self._fabric: Fabric | None = None
        self._scaler: torch.amp.GradScaler | None = None
        self.number, self.seed = attempt.job.number, attempt.job.seed
        self.rank, self.world_size = attempt.rank, attempt.world_size
        self.max_epochs, self.resources = attempt.spec.schedule.max_epochs, attempt.spec.resources
        self.start_from, self.tracker = attempt.start_from, attempt.tracker

    @property
    def weights(self) -> Path | None:
        """The checkpoint whose weights to begin with; see `Context`."""
        self._asked.add("weights")
        return self._attempt.weights

    @property
    def device(self) -> torch.device:
        """This rank's device."""
        return _device()

    def epochs(self) -> Iterator[int]:
        """The epochs to train; see `Context`."""
        self._attempt.restore_random_state()
        for epoch in range(self._attempt.epochs_done + 1, self.max_epochs + 1):
            self._attempt.epoch_begins()
            yield epoch
            if self._attempt.stopped:
                return

    def report(self, metrics: Mapping[str, float], *, epoch: int, checkpoint: Mapping[str, Any]) -> None:
        """Hand in an epoch; see `Context`."""
        self._check_that_it_was_heard()
        if "epoch" in metrics:
            raise SpecError("metrics: 'epoch' is what the run counts these by, from 0; report it under another name")
        if _lacks_parts(checkpoint, self._shapes):
            raise SpecError(
                "resources.strategy is 'fsdp', and the checkpoint has only this worker's part of the model: take the"
                " whole one from torch.distributed.checkpoint.state_dict, as trainables/plain_torch.py does"
            )
        self._attempt.settle(wait=True)
        if self._attempt.stopped:  # at the end of the epoch before: this one is not in the run either
            return

        def save(path: Path) -> None:
            state = {**checkpoint, RECORD: self._attempt.record}
            if self._fabric is not None:
                self._fabric.save(path, state)  # a collective, which takes modules and optimizers as they are
            elif self.rank == 0:
                self._attempt.take(state)

        numbers = {name: float(value) for name, value in metrics.items()}
        self.tracker.log({**numbers, "epoch": epoch - 1}, step=epoch)  # counted from 0, as Lightning does there
        self._attempt.report(numbers, epoch=epoch, save=save, final=epoch >= self.max_epochs)

    def _check_that_it_was_heard(self) -> None:
        """What a spec asks of a function is in the function's hands; asked in vain it would be found out too late.

        Raises:
            SpecError: for what it has not asked the context for.
        """
        resources, problems = self.resources, []
        shared = self._asked & {"prepare_model", "fabric"}
        if self._attempt.weights is not None and "weights" not in self._asked:
            problems.append(
                "start_from names the weights to begin with, and the training function does not ask for them"
                " (context.weights)"
            )
        if resources.precision != "32-true" and not self._asked & {"autocast", "fabric"}:
            problems.append(
                f"resources.precision is '{resources.precision}', and the training function has another: it uses"
                " neither context.autocast() nor context.fabric()"
            )
        elif resources.precision == "16-mixed" and not self._asked & {"scaler", "fabric"}:
            problems.append(
                "resources.precision is '16-mixed', in which small gradients vanish unless the loss is scaled, and the"
                " training function uses neither context.scaler nor context.fabric()"
            )
        for key, value, default in (
            ("resources.strategy", resources.strategy, "auto"),
            ("training.compile", self._attempt.spec.training.compile, False),
        ):
            if value != default and not shared:
                problems.append(
                    f"{key} is {value!r}, and the training function takes no notice: it uses neither"
                    " context.prepare_model() nor context.fabric()"
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
        """The model on its device, shared by the workers; see `Context`.

        Raises:
            SpecError: it is to be shared in a way that Ray's `prepare_model` does not have.
        """
        self._asked.add("prepare_model")
        more: dict[str, Any] = {}
        match self.resources.strategy:
            case "fsdp":
                self._shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
                model, more = _shared_out(model.to(self.device), self.device), {"parallel_strategy": None}
            case "ddp_find_unused_parameters_true":
                more = {"parallel_strategy_kwargs": {"find_unused_parameters": True}}
            case "auto" | "ddp":
                pass
            case other:
                raise SpecError(
                    f"resources.strategy is '{other}', a strategy of Lightning's, which a loop of plain torch cannot"
                    " have: use ddp or fsdp, or context.fabric()"
                )
        prepared: Any = ray.train.torch.prepare_model(model, **more)
        ready: Any = torch.compile(prepared) if self._attempt.spec.training.compile else prepared
        return cast(nn.Module, ready)

    def prepare_data_loader(self, loader: DataLoader[Any]) -> DataLoader[Any]:
        """The loader, each worker with its part of the data; see `Context`.

        Raises:
            SpecError: its order is one that cannot be shared out.
        """
        several = self.world_size > 1 or self._attempt.spec.training.batch_size == "global"
        if several and not isinstance(loader.dataset, IterableDataset) and not _is_shared_out(loader):
            if (odd := _odd_order(loader)) is not None:
                raise SpecError(
                    "context.prepare_data_loader shares out all of a dataset, in its order or shuffled, and this loader"
                    f" draws by a {type(odd).__name__}: pass a DistributedSampler of your own"
                )
            # Ray's own knows no seed, and leaves one worker the order that it has alone.
            sampler: Any = DistributedSampler(
                loader.dataset, num_replicas=self.world_size, rank=self.rank, seed=self.seed,
                shuffle=isinstance(loader.sampler, RandomSampler),
            )  # fmt: skip
            loader = _update_dataloader(loader, sampler)
        prepared: DataLoader[Any] = ray.train.torch.prepare_data_loader(loader, add_dist_sampler=False)
        return prepared

    def autocast(self) -> AbstractContextManager[None]:
        """Where to run the model and its loss; see `Context`."""
        self._asked.add("autocast")
        match self.resources.precision:
            case "32-true":
                return nullcontext()
            case "bf16-mixed":
                dtype = torch.bfloat16
            case "16-mixed":
                dtype = torch.float16
            case other:
                raise SpecError(
                    f"resources.precision is '{other}', which a loop of plain torch does not have: use"
                    " context.fabric(), or 32-true, bf16-mixed or 16-mixed"
                )
        return cast(AbstractContextManager[None], torch.autocast(self.device.type, dtype))

    @property
    def scaler(self) -> torch.amp.GradScaler:
        """What scales the loss in 16-mixed; see `Context`."""
        self._asked.add("scaler")
        if self._scaler is None:
            kind = ShardedGradScaler if self.resources.strategy == "fsdp" else torch.amp.GradScaler
            self._scaler = kind(self.device.type, enabled=self.resources.precision == "16-mixed")
        return self._scaler

    def fabric(self, **arguments: Any) -> Fabric:
        """A launched Fabric; see `Context`."""
        self._asked.add("fabric")
        on_gpu = self.resources.gpus_per_worker > 0
        # Fabric's FSDP, and perhaps a strategy of the user's, writes checkpoints by itself.
        writes = self.resources.strategy == "fsdp" or self.resources.strategy not in STRATEGIES
        kind = _CompilingFabric if self._attempt.spec.training.compile else Fabric
        self._fabric = kind(
            **{
                "accelerator": "gpu" if on_gpu else "cpu",
                "precision": self.resources.precision,
                "strategy": self._strategy(),
                "loggers": [self._attempt.tracker.logger()],
                "plugins": [] if writes else [Handover(self._attempt.handover, self._attempt.take)],
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
    """On CPUs too."""

    def setup_module(self, module: nn.Module) -> nn.Module:
        """Share it out."""
        if self.root_device.type == "cpu":  # Fabric takes one that is wrapped as it is
            module = _shared_out(
                module, self.root_device, mixed_precision=self.mixed_precision_config,
                sharding_strategy=self.sharding_strategy, **self._fsdp_kwargs,
            )  # fmt: skip
        return super().setup_module(module)


def _lacks_parts(state: object, shapes: Mapping[str, torch.Size]) -> bool:
    """Whether the tensors that a state has, on any level, by the names of a model's parameters have other shapes."""
    if not shapes or not isinstance(state, Mapping):
        return False
    named = {name: each.shape for name in shapes if isinstance(each := state.get(name), torch.Tensor)}
    if named.keys() == shapes.keys():
        return named != shapes
    return any(_lacks_parts(each, shapes) for each in state.values())


def _is_shared_out(loader: DataLoader[Any]) -> bool:
    """Whether a loader draws by a DistributedSampler, of examples or of batches."""
    batches: Any = loader.batch_sampler
    return any(
        isinstance(by, DistributedSampler) for by in (loader.sampler, batches, getattr(batches, "sampler", None))
    )


def _odd_order(loader: DataLoader[Any]) -> object | None:
    """What gives a loader another order than that of all its data, once, as it lies or shuffled."""
    sampler, batches = loader.sampler, loader.batch_sampler
    if batches is not None and (type(batches) is not BatchSampler or batches.sampler is not sampler):
        return batches
    plain = type(sampler) is SequentialSampler or (type(sampler) is RandomSampler and not sampler.replacement)
    return None if plain and len(sampler) == len(loader.dataset) else sampler  # type: ignore[arg-type]


def _shared_out(module: nn.Module, device: torch.device, **more: Any) -> nn.Module:
    """By FSDP, which does it on CPUs too, over gloo, where it is told that the device is one."""
    return FullyShardedDataParallel(module, device_id=device, **{"use_orig_params": True, **more})


class _CompilingFabric(Fabric):
    """Compiles what is set up: Fabric does so with a module that was compiled before."""

    def setup(self, module: nn.Module, *optimizers: Any, **more: Any) -> Any:
        """Set up a module and its optimizers."""
        return super().setup(cast(nn.Module, torch.compile(module)), *optimizers, **more)

    def setup_module(self, module: nn.Module, *args: Any, **more: Any) -> Any:
        """Set up a module alone."""
        return super().setup_module(cast(nn.Module, torch.compile(module)), *args, **more)
