"""What a worker does with its trials' runs, without training: a process that writes them with the real tracker.

The processes are forked from one that has imported Lightning, which takes longer than what they do. The SDK they import
themselves, since it makes a folder where temporary files go at that time, which is each test's own.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any
from unittest.mock import patch

from orchestrator.folder import SweepFolder
from orchestrator.messages import Job, Outcome, Report, Sample
from orchestrator.spec import Spec

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["lightning.pytorch.loggers"])


def forked(target: Callable[..., None], arguments: Sequence[Any]) -> BaseProcess:
    """Start a process; what it is forked from, which lasts, is not of the first test's folder for temporary files."""
    with patch.dict(os.environ):
        os.environ.pop("TMPDIR", None)
        forkserver.ensure_running()
    process = _CONTEXT.Process(target=target, args=arguments)
    process.start()
    return process


class Writer:
    """Writes the runs of the trials from `first` to before `last`, three epochs each.

    `end` is how the last one ends: well, pause, or die; with `fill`, the disk under the runs fills up; with `repeat`,
    all are repeats of trial 0. What the
    server does must cost it nothing.
    """

    def __init__(self, folder: SweepFolder, environment: dict[str, str], first: int, last: int, end: str) -> None:
        self._heard, tells = _CONTEXT.Pipe(duplex=False)
        arguments = (folder.storage, str(folder.work), environment, first, last, end, tells)
        self._process = forked(_write, arguments)
        tells.close()

    def __iter__(self) -> Iterator[tuple[str, ...]]:
        """What it says, until it has ended."""
        try:
            while True:
                yield self._heard.recv()
        except EOFError:
            self._process.join()

    @property
    def code(self) -> int | None:
        """The exit code, of one that has ended."""
        return self._process.exitcode


def _write(
    storage: str, work: str, environment: dict[str, str], first: int, last: int, end: str, out: Connection
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(work)
    tempfile.tempdir = None  # it is what the environment says
    import wandb

    from orchestrator.tracker import Tracker

    folder = SweepFolder(storage, "s")
    tracker = Tracker(
        Spec.from_yaml(folder.read_text("sweep.yaml")), folder, 0, lambda text: out.send(("notice", text))
    )
    for number in range(first, last):
        params = {"x": 0.5} if number % 2 == 0 else {}  # a sweep may be over seeds alone
        job = Job(number=number, params=params, seed=7, repeat_of=0 if end == "repeat" else None)
        out.send(("started", number, tracker.open(job)))
        logger, curve = tracker.logger(), {}
        tracker.sampled([Sample(taken_at_s=time.time(), values={"cpu/l:elsewhere": 12.5})])
        wandb.log({"words": wandb.Table(columns=["word"], data=[["hello"]])})
        for epoch in (1, 2, 3):
            path = folder.checkpoint(number, epoch)
            folder.write_text(path, f"{number}/{epoch}")
            curve[epoch] = (epoch if epoch < 3 else 0) / 10
            metrics = {"score": curve[epoch], "loss": -epoch}
            logger.log_metrics(metrics, step=epoch)
            best = max(curve, key=lambda done: curve[done])
            tracker.reported(
                Report(
                    number=number, epoch=epoch, value=curve[epoch], metrics=metrics, best_epoch=best,
                    checkpoint=path, best_checkpoint=folder.checkpoint(number, best),
                )
            )  # fmt: skip
            time.sleep(0.2)
            if end == "fill" and epoch == 1:  # nearly: another 40 MiB, which is more than half of what is left
                (folder.work / "wandb" / "filler").write_bytes(bytes(40 * 2**20))
        if end == "die":
            time.sleep(1.5)
            os.kill(os.getpid(), 9)
        kept = {folder.checkpoint(number, 2): ["best"], folder.checkpoint(number, 3): ["latest"]}
        tracker.close(Outcome.PAUSED if end == "pause" else Outcome.COMPLETE, None, checkpoints=kept, curve=curve)
        if end != "pause":
            out.send(("ended", number))
