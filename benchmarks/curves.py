"""Makes the tables of real learning curves that the search is judged on (torch, scikit-learn).

    python -m benchmarks.curves digits

Five tasks, and one small fully connected network for all. Two are from data that ships with scikit-learn: `digits`,
handwritten digits by their pixels, judged by cross-entropy on images it was not trained on; and `photo`, a photograph
learned from some of its pixels (a coordinate network, Tancik et al. 2020, arXiv:2006.10739), judged by the squared
error on others. Three are made up: `classes` (scikit-learn's make_classification), `friedman` (its make_friedman1) and
`spirals`. `digits` is what is reported; defaults are chosen on the others.
Configuration i of the grid is trained with seed i, on one thread. A table that exists is gone on with.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits, load_sample_image, make_classification, make_friedman1
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.table import EPOCHS, SPACE, TASKS, line, read, write

Array = NDArray[Any]

TRAINED_ON = 512
SAMPLES = 1800
"""Of a task that is made up."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is learned, as tensors."""

    inputs: Tensor
    """Float, (n, features); the first `TRAINED_ON` are for training, the others for judging."""
    targets: Tensor
    """Classes (n,), or numbers (n, outputs)."""
    outputs: int
    loss: Callable[[Tensor, Tensor], Tensor]
    guess: float
    """The loss of guessing without looking at the inputs."""


def task(name: str) -> Task:
    """Load a task; which of its data train is drawn with a fixed seed."""
    made: dict[str, Callable[[np.random.Generator], Task]] = {
        "digits": _digits, "photo": _photo, "classes": _classes, "friedman": _friedman, "spirals": _spirals
    }  # fmt: skip
    return made[name](np.random.default_rng(0))


def _classification(inputs: Array, labels: Array, classes: int) -> Task:
    return Task(
        inputs=torch.tensor(inputs, dtype=torch.float32),
        targets=torch.tensor(labels),
        outputs=classes,
        loss=functional.cross_entropy,
        guess=math.log(classes),
    )


def _regression(inputs: Array, targets: Array) -> Task:
    return Task(
        inputs=torch.tensor(inputs, dtype=torch.float32),
        targets=torch.tensor(targets, dtype=torch.float32),
        outputs=targets.shape[1],
        loss=functional.mse_loss,
        guess=float(np.var(targets, axis=0).mean()),
    )


def _digits(rng: np.random.Generator) -> Task:
    pixels, labels = load_digits(return_X_y=True)
    order = rng.permutation(len(pixels))
    return _classification(pixels[order] / 8 - 1, labels[order], 10)


def _photo(rng: np.random.Generator) -> Task:
    """Colours from -1 to 1 at 32 random Fourier features of the place, which is from 0 to 1 along the longer side."""
    photo = load_sample_image("china.jpg")[::12, ::12] / 127.5 - 1
    rows, columns = np.mgrid[: photo.shape[0], : photo.shape[1]] / max(photo.shape[:2])
    order = rng.permutation(rows.size)
    places = np.stack([rows.ravel(), columns.ravel()], axis=1)[order]
    angles = 2 * np.pi * places @ rng.normal(scale=2.0, size=(2, 32))
    return _regression(np.concatenate([np.sin(angles), np.cos(angles)], axis=1), photo.reshape(-1, 3)[order])


def _classes(_: np.random.Generator) -> Task:
    """Six classes of 30 features, of which 12 say something, and 2% wrong labels."""
    inputs, labels = make_classification(
        SAMPLES, 30, n_informative=12, n_redundant=6, n_classes=6, flip_y=0.02, class_sep=1.2, random_state=0
    )
    return _classification((inputs - inputs.mean(axis=0)) / inputs.std(axis=0), labels, 6)


def _friedman(_: np.random.Generator) -> Task:
    """Friedman's first function of five of twelve features, with noise."""
    inputs, targets = make_friedman1(SAMPLES, 12, noise=0.5, random_state=0)
    return _regression((inputs - 0.5) * 3.4, ((targets - targets.mean()) / targets.std())[:, None])


def _spirals(rng: np.random.Generator) -> Task:
    """Which of four arms of a spiral a place is on, by itself and 12 random Fourier features."""
    arms, radii = rng.integers(4, size=SAMPLES), np.sqrt(rng.random(SAMPLES))
    angles = 2.2 * np.pi * radii + arms * np.pi / 2 + 0.25 * rng.standard_normal(SAMPLES)
    places = np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)
    waves = places @ rng.normal(scale=2.0, size=(2, 12))
    return _classification(np.concatenate([np.sin(waves), np.cos(waves), places], axis=1), arms, 4)


def train(work: Task, params: Mapping[str, Any], seed: int) -> tuple[list[float], float]:
    """Train a network.

    Returns:
        The loss on the judging data after each epoch, never above twice that of guessing, which is also what a
        training that diverged is given; and CPU seconds per epoch.
    """
    torch.manual_seed(seed)
    net = _network(params, work.inputs.shape[1], work.outputs)
    optimizer = _optimizer(params, net)
    steps = TRAINED_ON // params["batch_size"]
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(_rate, params["schedule"], steps))
    worst = 2 * work.guess
    curve: list[float] = []
    began_s = time.process_time()
    for _ in range(EPOCHS):
        net.train()
        for batch in torch.split(torch.randperm(TRAINED_ON), params["batch_size"]):
            optimizer.zero_grad()
            torch.autograd.backward(work.loss(net(work.inputs[batch]), work.targets[batch]))
            optimizer.step()
            scheduler.step()
        net.eval()
        with torch.no_grad():
            value = float(work.loss(net(work.inputs[TRAINED_ON:]), work.targets[TRAINED_ON:]))
        curve.append(min(value, worst) if math.isfinite(value) else worst)
    return curve, (time.process_time() - began_s) / EPOCHS


def _network(params: Mapping[str, Any], inputs: int, outputs: int) -> nn.Module:
    layers: list[nn.Module] = []
    for features in [inputs, *[params["width"]] * (params["depth"] - 1)]:
        layers += [nn.Linear(features, params["width"]), nn.ReLU(), nn.Dropout(params["dropout"])]
    return nn.Sequential(*layers, nn.Linear(params["width"], outputs))


def _optimizer(params: Mapping[str, Any], net: nn.Module) -> torch.optim.Optimizer:
    if params["optimizer"] == "sgd":
        return torch.optim.SGD(net.parameters(), 10 ** params["sgd.log10_lr"], params["sgd.momentum"], fused=True)
    decay = 10 ** params["adamw.log10_decay"]
    return torch.optim.AdamW(net.parameters(), 10 ** params["adamw.log10_lr"], weight_decay=decay, fused=True)


def _rate(schedule: str, steps_per_epoch: int, step: int) -> float:
    """What the learning rate is multiplied by after so many steps."""
    return (1 + math.cos(math.pi * step / (EPOCHS * steps_per_epoch))) / 2 if schedule == "cosine" else 1.0


def main() -> None:
    """Go on with a table, and say how long that took."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("task", choices=TASKS)
    options.add_argument("--limit-s", type=float, default=math.inf, help="seconds after which to leave the rest")
    args = options.parse_args()
    torch.set_num_threads(1)
    work, lines = task(args.task), read(args.task)
    began_s = time.monotonic()
    for seed, params in list(enumerate(SPACE.grid()))[len(lines) :]:
        losses, epoch_s = train(work, params, seed)
        lines.append(line(params, seed, epoch_s, losses))
        if time.monotonic() - began_s > args.limit_s:
            break
    write(args.task, lines)
    print(f"{args.task}: {len(lines)} configurations, {time.monotonic() - began_s:.0f} s")


if __name__ == "__main__":
    main()
