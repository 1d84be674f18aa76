"""A plain PyTorch loop, no Lightning: a perceptron on scikit-learn's digits, by way of Ray Train, cosine schedule."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.distributed import all_reduce
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from orchestrator import Context, TrainFunction

Loader = DataLoader[tuple[Tensor, ...]]
# How the model is saved: as one, however its workers share it, by the names that it has alone.
WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def train(
    context: Context,
    *,
    lr: float = 0.1,
    momentum: float = 0.9,
    hidden: int = 64,
    batch_size: int = 64,
    split_seed: int = 0,
) -> None:
    """Train with SGD whose rate falls to 0 along a cosine, and report the validation after every epoch.

    Args:
        context: the trial's.
        lr: SGD's learning rate at the beginning.
        momentum: of SGD.
        hidden: width of the hidden layer.
        batch_size: images per step and rank.
        split_seed: which images validate, and which are left for the test.
    """
    train_split, val_split, _ = _splits(split_seed)
    train_loader = context.prepare_data_loader(DataLoader(train_split, batch_size=batch_size, shuffle=True))
    val_loader = context.prepare_data_loader(DataLoader(val_split, batch_size=batch_size))
    model, scaler = context.prepare_model(_network(hidden)), context.scaler
    optimizer = SGD(model.parameters(), lr=lr, momentum=momentum)
    schedule = CosineAnnealingLR(optimizer, T_max=context.max_epochs)
    if context.start_from:
        saved = context.load()
        weights, moments = saved["network"], saved["optimizer"]
        set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=moments, options=WHOLE)
        schedule.load_state_dict(saved["schedule"])
        scaler.load_state_dict(saved["scaler"])
    elif context.weights:
        weights = torch.load(context.weights, map_location="cpu")["network"]
        set_model_state_dict(model, weights, options=WHOLE)
    for epoch in context.epochs():
        if isinstance(train_loader.sampler, DistributedSampler):
            train_loader.sampler.set_epoch(epoch)
        model.train()
        for x, y in train_loader:
            if context.should_stop():
                return
            optimizer.zero_grad()
            with context.autocast():
                loss = F.cross_entropy(model(x), y)
            scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            scaler.step(optimizer)
            scaler.update()
        context.tracker.log({"lr": optimizer.param_groups[0]["lr"]}, step=epoch)
        schedule.step()
        metrics = _evaluate(context, model, val_loader, "val")
        weights, moments = get_state_dict(model, optimizer, options=WHOLE)
        parts = {"schedule": schedule.state_dict(), "scaler": scaler.state_dict()}
        context.report(metrics, epoch=epoch, checkpoint={"network": weights, "optimizer": moments, **parts})


def measure(
    context: Context, *, hidden: int = 64, batch_size: int = 64, split_seed: int = 0, **_: object
) -> dict[str, float]:
    """Loss and accuracy of a checkpoint on the test images; the other hyperparameters are of training.

    Args:
        context: the trial's; `load()` gives the checkpoint.
        hidden: width of the hidden layer.
        batch_size: images per step and rank.
        split_seed: which images are left for the test.
    """
    network = _network(hidden)
    network.load_state_dict(context.load()["network"])
    loader = context.prepare_data_loader(DataLoader(_splits(split_seed)[2], batch_size=batch_size))
    return _evaluate(context, context.prepare_model(network), loader, "test")


def _network(hidden: int) -> nn.Module:
    return nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))


def _splits(seed: int) -> list[TensorDataset]:
    """Training, validation and test images: 1317, 240 and 240, as x (64,) in [0, 1] and y ()."""
    x, y = load_digits(return_X_y=True)
    x, x_test, y, y_test = train_test_split(x / 16, y, test_size=240, random_state=seed, stratify=y)
    x, x_val, y, y_val = train_test_split(x, y, test_size=240, random_state=seed, stratify=y)
    pairs = ((x, y), (x_val, y_val), (x_test, y_test))
    return [TensorDataset(torch.tensor(a, dtype=torch.float32), torch.tensor(b)) for a, b in pairs]


@torch.no_grad()
def _evaluate(context: Context, model: nn.Module, loader: Loader, split: str) -> dict[str, float]:
    """Mean loss and accuracy of a split, over the images of all ranks."""
    model.eval()
    sums = torch.zeros(3, device=context.device)  # of the losses, of what was right, of the images
    for x, y in loader:
        logits = model(x)
        loss, right = F.cross_entropy(logits, y, reduction="sum"), (logits.argmax(dim=1) == y).sum()
        sums += torch.stack([loss, right.float(), torch.tensor(float(len(y)), device=context.device)])
    if context.world_size > 1:
        all_reduce(sums)
    loss, right, images = sums.tolist()
    return {f"{split}/loss": loss / images, f"{split}/accuracy": right / images}


TRAINABLE = TrainFunction(train=train, test=measure)
