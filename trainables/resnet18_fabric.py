"""torchvision's ResNet-18 on CIFAR-10 in a Lightning Fabric loop: setup, log_dict, checkpoints saved and loaded."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.optim import SGD
from torchvision.models import resnet18

from orchestrator import Context, TrainFunction
from trainables.cifar10 import Cifar10


def train(
    context: Context,
    *,
    lr: float = 0.05,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    batch_size: int = 64,
    split_seed: int = 0,
    data_dir: str | None = None,
) -> None:
    """Train with SGD, and report the validation's loss and accuracy after every epoch.

    Args:
        context: the trial's.
        lr: SGD's learning rate.
        momentum: of SGD.
        weight_decay: of SGD.
        batch_size: images per step and rank.
        split_seed: which split of the training images validates.
        data_dir: where CIFAR-10 is, or goes; torch's cache where none is given.
    """
    fabric = context.fabric()
    data = Cifar10(batch_size=batch_size, split_seed=split_seed, data_dir=data_dir)
    data.prepare_data()
    data.setup("fit")
    network = resnet18(num_classes=len(data.classes))
    model, optimizer = fabric.setup(
        network, SGD(network.parameters(), lr=lr, momentum=momentum, weight_decay=weight_decay)
    )
    train_loader, val_loader = fabric.setup_dataloaders(data.train_dataloader(), data.val_dataloader())
    state = {"model": model, "optimizer": optimizer}
    if context.start_from:
        fabric.load(context.start_from, state)
    elif context.weights:
        fabric.load(context.weights, {"model": model})
    for epoch in context.epochs():
        # Fabric counts epochs for the sampler from 0 in every process; a trial that goes on is further on than that.
        vars(train_loader)["_num_iter_calls"] = epoch - 1
        model.train()
        for x, y in train_loader:
            if context.should_stop():
                return
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            fabric.backward(loss)
            optimizer.step()
        metrics = _evaluate(fabric, model, val_loader, "val")
        fabric.log_dict({"train/loss": loss.item()}, step=epoch)
        context.report(metrics, epoch=epoch, checkpoint=state)


def measure(context: Context, *, batch_size: int = 64, data_dir: str | None = None, **_: object) -> dict[str, float]:
    """Loss and accuracy of a checkpoint on the test images; the other hyperparameters are of training.

    Args:
        context: the trial's; `start_from` is the checkpoint.
        batch_size: images per step and rank.
        data_dir: where CIFAR-10 is, or goes.
    """
    fabric = context.fabric()
    data = Cifar10(batch_size=batch_size, data_dir=data_dir)
    data.prepare_data()
    data.setup("test")
    model = fabric.setup(resnet18(num_classes=10))
    assert context.start_from is not None
    fabric.load(context.start_from, {"model": model})
    return _evaluate(fabric, model, fabric.setup_dataloaders(data.test_dataloader()), "test")


@torch.no_grad()
def _evaluate(fabric: Fabric, model: nn.Module, loader: Any, split: str) -> dict[str, float]:
    """Mean loss and accuracy of a split, over the images of all ranks."""
    model.eval()
    sums = torch.zeros(3, device=fabric.device)  # of the losses, of what was right, of the images
    for x, y in loader:
        logits = model(x)
        loss, right = F.cross_entropy(logits, y, reduction="sum"), (logits.argmax(dim=1) == y).sum()
        sums += torch.stack([loss, right.float(), torch.tensor(float(len(y)), device=fabric.device)])
    total = fabric.all_reduce(sums, reduce_op="sum")
    assert isinstance(total, Tensor)
    loss, right, images = total.tolist()
    return {f"{split}/loss": loss / images, f"{split}/accuracy": right / images}


TRAINABLE = TrainFunction(train=train, test=measure)
