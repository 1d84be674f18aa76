"""The shipped trainables, on small files that a test has written in place of those on the datasets' servers."""

import os
import signal
from pathlib import Path
from typing import Any

from doubles.datasets import serve_from

served = Path(__file__).parent / "served"
serve_from(served, (served / "address").read_text())

from orchestrator import Context, TrainFunction  # noqa: E402
from trainables import resnet18_fabric  # noqa: E402
from trainables.cifar10 import TRAINABLE as CIFAR10  # noqa: E402, F401
from trainables.mlp import TRAINABLE as MLP  # noqa: E402, F401
from trainables.mnist_convnet import TRAINABLE as MNIST_CONVNET  # noqa: E402, F401


def killed_once(context: Context, **hyperparameters: Any) -> None:
    """The Fabric loop; whose process is killed once, when it has reported its second epoch."""
    report = context.report

    def report_and_die(metrics: Any, *, epoch: int, checkpoint: Any) -> None:
        report(metrics, epoch=epoch, checkpoint=checkpoint)
        marker = served / f"killed-{context.number}"
        with (served / f"epochs-{context.number}").open("a") as epochs:
            epochs.write(f"{epoch}\n")
        if epoch == 2 and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    context.report = report_and_die
    resnet18_fabric.train(context, **hyperparameters)


RESNET18_FABRIC = TrainFunction(train=killed_once, test=resnet18_fabric.measure)
