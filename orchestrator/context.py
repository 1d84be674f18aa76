"""The contract between a trial and whatever trains it: what every kind of loop is given, and what it gives back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from lightning.fabric import Fabric
    from torch import nn
    from torch.utils.data import DataLoader

    from orchestrator.spec import Resources

RECORD = "orchestrator"
"""The key, in every checkpoint, of what its trial had reported when it was saved."""


class RunLog(Protocol):
    """The trial's run in the tracker; on ranks other than 0, and where there is no run, everything does nothing."""

    def log(self, metrics: Mapping[str, float], *, step: int | None = None) -> None:
        """Log numbers, against the step they belong to."""

    def log_images(
        self, key: str, images: Sequence[Any], *, captions: Sequence[str] | None = None, step: int | None = None
    ) -> None:
        """Log images, each an array of shape (H, W) or (H, W, C), or a tensor of shape (C, H, W), with a caption each.

        As W&B takes them, their numbers are from 0 to 255: of those from 0 to 1 nothing would be seen but black.
        """


class Context(ABC):
    """What a training function is given, on every rank of its trial.

        def train(context: Context, *, lr: float = 0.1) -> None:
            model = context.prepare_model(...)
            if context.start_from:
                set_model_state_dict(model, context.load()["network"], options=WHOLE)
            for epoch in context.epochs():
                for batch in batches:
                    if context.should_stop():
                        return
                    with context.autocast():
                        ...
                weights = get_model_state_dict(model, options=WHOLE)
                context.report({"val/loss": loss}, epoch=epoch, checkpoint={"network": weights})

    The two functions are of `torch.distributed.checkpoint.state_dict`, and `WHOLE` is its
    `StateDictOptions(full_state_dict=True, cpu_offload=True)`: so the model is saved whole however it is shared.

    Every method is to be called on all ranks alike.
    """

    number: int
    """The trial's number in the sweep."""
    seed: int
    """What Python's, NumPy's and torch's random numbers were seeded with, on every rank alike."""
    rank: int
    """Of this process among the trial's workers, from 0."""
    world_size: int
    """How many workers the trial has."""
    max_epochs: int
    """After how many epochs the trial is over."""
    resources: Resources
    """What the spec says of workers, precision and strategy; see docs/spec.md."""
    start_from: Path | None
    """The checkpoint to go on from, as a local file; None for a trial that begins."""
    tracker: RunLog
    """The trial's W&B run."""

    @abstractmethod
    def epochs(self) -> Iterator[int]:
        """The epochs to train, counted from 1: all of them, or those after the checkpoint to go on from.

        It puts the random state back to what it was at the checkpoint's end, so that a trial that was interrupted draws
        the same numbers as one that was not; all that it needs is to be built and loaded before.
        """

    @abstractmethod
    def report(self, metrics: Mapping[str, float], *, epoch: int, checkpoint: Mapping[str, Any]) -> None:
        """Hand in an epoch: its metrics, the sweep's among them, and all that is needed to go on from its end.

        Args:
            metrics: numbers that all ranks agree on, or rank 0's count.
            epoch: how many epochs are done, this one included.
            checkpoint: what `load` returns when the trial goes on.

        Raises:
            SpecError: the sweep's metric is not among the metrics, or `epoch` is, which is said already; the spec asks
                for what the function ignores; or the checkpoint has only this worker's part of a model that FSDP
                shares out.
        """

    @abstractmethod
    def should_stop(self) -> bool:
        """Whether to return now; to be asked before every step, since it also says that the trial does not hang."""

    @property
    @abstractmethod
    def weights(self) -> Path | None:
        """The checkpoint whose weights to begin with, where the sweep has one (its `start_from`), as a local file.

        None for a trial that goes on, and has weights of its own.
        """

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """This rank's device."""

    @abstractmethod
    def prepare_model(self, model: nn.Module) -> nn.Module:
        """The model on its device, shared by the trial's workers: `ray.train.torch.prepare_model`.

        Raises:
            SpecError: the spec's strategy is one of Lightning's own kind, which a `fabric` can have.
        """

    @abstractmethod
    def prepare_data_loader(self, loader: DataLoader[Any]) -> DataLoader[Any]:
        """The loader, each worker with its part of the data: `ray.train.torch.prepare_data_loader`.

        The order of several workers' data follows from the trial's seed and the epoch that the loader's sampler is
        told: `loader.sampler.set_epoch(epoch)`. A loader that draws by a `DistributedSampler` is taken as it is.

        Raises:
            SpecError: there are several workers, and the loader draws by any other sampler than those of
                `DataLoader(..., shuffle=...)`.
        """

    @abstractmethod
    def autocast(self) -> AbstractContextManager[None]:
        """Where to run the model and its loss in a loop of plain torch, in the precision that the spec asks for.

        Raises:
            SpecError: it is none of `32-true`, `bf16-mixed` and `16-mixed`; a `fabric` does the others.
        """

    @property
    @abstractmethod
    def scaler(self) -> torch.amp.GradScaler:
        """What scales the loss of a loop of plain torch in `16-mixed`; in any other precision it leaves it as it is.

            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()

        Its `state_dict` belongs into the checkpoint.
        """

    @abstractmethod
    def fabric(self, **arguments: Any) -> Fabric:
        """A launched Fabric on the trial's workers, device, precision and run; `report` then saves with it.

        Args:
            arguments: of `lightning.fabric.Fabric`, besides those.
        """

    @abstractmethod
    def load(self) -> dict[str, Any]:
        """The checkpoint to go on from, on the CPU.

        Raises:
            LookupError: the trial begins, there is none.
        """
