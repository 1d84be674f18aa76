"""A module that is fast, predictable, and misbehaves on demand: what the end-to-end tests sweep over."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import lightning as L
import psutil
import ray
import torch
import wandb
from ray.train.lightning import RayDDPStrategy
from torch.utils.data import DataLoader, TensorDataset


class Probe(L.LightningModule):
    """Logs `score`, which is `x` times the epochs that its weights have seen; besides, it behaves as it is told."""

    def __init__(
        self, x: float = 0.5, behaviour: str = "fine", at_epoch: int = 1, step_s: float = 0.0, folder: str = "."
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(2, 1)
        self.register_buffer("trained", torch.zeros(()))  # lost with the weights, where those are lost

    def training_step(self, batch: list[torch.Tensor], batch_index: int) -> torch.Tensor:
        (features,) = batch
        time.sleep(self.hparams.step_s)
        if self.hparams.behaviour == "fail_on_a_node":
            self._fail_on_a_node()
        if self.current_epoch == self.hparams.at_epoch and batch_index == 1:
            self._misbehave()
        return self.layer(features).pow(2).mean()

    def on_train_epoch_end(self) -> None:
        print(f"probe epoch {self.current_epoch}")
        self.trained += 1
        score = self.hparams.x * int(self.trained)
        if self.hparams.behaviour == "nan" and self.current_epoch == self.hparams.at_epoch:
            score = float("nan")
        self.log("score", score)
        # Users log from wherever they like; on ranks other than 0 this must do nothing.
        wandb.log({"direct": self.current_epoch})
        self.logger.experiment.log({"through_logger": self.current_epoch})
        with (Path(self.hparams.folder) / f"epochs-{self.global_rank}.txt").open("a") as epochs:
            epochs.write(f"{self.hparams.x} {self.current_epoch + 1} {os.getpid()}\n")

    def on_train_end(self) -> None:
        once = Path(self.hparams.folder) / "killed-leaving"
        taken_off = self.current_epoch < self.trainer.max_epochs
        if self.hparams.behaviour == "kill_leaving_once" and taken_off and not once.exists():
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(TensorDataset(torch.ones(16, 2)), batch_size=4)

    def _fail_on_a_node(self) -> None:
        """On the one that was the first to come here, always."""
        bad, here = Path(self.hparams.folder) / "bad-node", ray.get_runtime_context().get_node_id()
        with suppress(FileExistsError), bad.open("x") as file:
            file.write(here)
        if bad.read_text() == here:
            raise ValueError("the probe raises on this node")

    def _misbehave(self) -> None:
        once = Path(self.hparams.folder) / f"{self.hparams.behaviour}-{self.hparams.x}"
        match self.hparams.behaviour:
            case "raise":
                raise ValueError("the probe raises")
            case "raise_on_rank_1" if self.global_rank == 1:
                raise ValueError("the probe raises on rank 1")
            case "draw_lots":
                torch.zeros(2).put_(torch.tensor([0, 0]), torch.tensor([1.0, 2.0]))  # which one stays is left open
            case "out_of_memory":
                torch.empty(2**50)
            case "kill_once" if not once.exists():
                once.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            case "kill_slot_once" if not once.exists():
                once.touch()
                actors = psutil.Process(os.getppid()).children()
                (slot,) = (actor for actor in actors if actor.name().startswith("ray::ResourceT"))  # as Ray shows it
                slot.kill()
                time.sleep(3600)  # this process goes as well, with the group that the slot has made
            case "hang_once" if not once.exists():
                once.touch()
                time.sleep(3600)


POINTS = torch.rand(96, 4, generator=torch.Generator().manual_seed(0))
LEARNT, HELD_OUT = TensorDataset(POINTS[:64]), TensorDataset(POINTS[64:])


def error(model: torch.nn.Module, points: torch.Tensor) -> torch.Tensor:
    return (model(points) - points.sum(1, keepdim=True)).pow(2).mean()


def require_the_same_weights(model: torch.nn.Module) -> None:
    """On all ranks, before anything that shares the model has made them so."""
    of_all: list = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(of_all, [parameter.tolist() for parameter in model.parameters()])
    assert of_all == [of_all[0]] * len(of_all)


class Regression(L.LightningModule):
    """Learns a line from 64 points in a new order every epoch; what it logs are means over what all ranks saw."""

    def __init__(self, lr: float = 0.1, batch_size: int = 16) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(4, 1)

    def setup(self, stage: str) -> None:
        require_the_same_weights(self)

    def training_step(self, batch: list[torch.Tensor]) -> torch.Tensor:
        loss = error(self.layer, batch[0])
        self.log("loss", loss, on_step=False, on_epoch=True, sync_dist=True)
        return loss

    def validation_step(self, batch: list[torch.Tensor]) -> None:
        self.log("val/loss", error(self.layer, batch[0]), sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.hparams.lr, momentum=0.9)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(LEARNT, batch_size=self.hparams.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(HELD_OUT, batch_size=self.hparams.batch_size)


def regression(context, loop: str = "plain", lr: float = 0.1, batch_size: int = 16) -> None:
    """The same in a loop of its own, in plain torch or in Fabric."""
    layer = torch.nn.Linear(4, 1)
    require_the_same_weights(layer)
    loaders = DataLoader(LEARNT, batch_size=batch_size, shuffle=True), DataLoader(HELD_OUT, batch_size=batch_size)
    if loop == "fabric":
        fabric = context.fabric()
        model, optimizer = fabric.setup(layer, torch.optim.SGD(layer.parameters(), lr=lr, momentum=0.9))
        train, val = fabric.setup_dataloaders(*loaders)
    else:
        model, (train, val) = context.prepare_model(layer), map(context.prepare_data_loader, loaders)
        optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    for epoch in context.epochs():
        train.sampler.set_epoch(epoch)
        for (points,) in train:
            loss = error(model, points)
            fabric.backward(loss) if loop == "fabric" else loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        with torch.no_grad():
            held_out = torch.stack([error(model, points) for (points,) in val]).mean()
        torch.distributed.all_reduce(held_out)
        checkpoint = {"model": model} if loop == "fabric" else {}
        context.report({"val/loss": held_out / context.world_size}, epoch=epoch, checkpoint=checkpoint)


def bucketed() -> RayDDPStrategy:
    """A strategy of the user's own."""
    return RayDDPStrategy(gradient_as_bucket_view=True)
