"""W&B in trouble: how long a training loop stands still for it, and what arrives; beside Lightning's WandbLogger.

    python -m benchmarks.outage --rounds 1

The same loop, which logs every step, reports every epoch and logs a checkpoint at its end, in a process of its own:
with the orchestrator's tracker, whose runs the desk brings up, and with `WandbLogger` online. The server is the tests'
double of W&B's, on this machine, in trouble from the start or from the middle on. What is counted are the seconds
inside the calls that open the run, log, and close it, apart: all that training can stand still for. Opening starts
processes, which takes long on a busy machine. A loop that is not through after `LIMIT_S` is ended; what it raises is
named.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from benchmarks.trials import scratch
from orchestrator.folder import SweepFolder
from orchestrator.messages import Job, Outcome, Report
from orchestrator.spec import Spec
from orchestrator.tracking import Tracking

if TYPE_CHECKING:
    from tests.doubles.wandb_server import WandbServer

EPOCHS, STEPS, STEP_S = 8, 25, 0.1
LIMIT_S = 120.0
# When the trouble of the middle begins: after the loop's own start, seconds.
MIDDLE_S = 5.0


def nothing(_: WandbServer) -> None:
    """No trouble."""


# What is done to the server before the loop begins, and in its middle.
TROUBLE: dict[str, tuple[Callable[[WandbServer], None], Callable[[WandbServer], None]]] = {
    "none": (nothing, nothing),
    "an answer takes 1 s": (lambda server: server.delay(1.0), nothing),
    "not reached": (lambda server: server.pause(), nothing),
    "refuses the key (401)": (lambda server: server.fail(401), nothing),
    "fails for 20 s (503)": (nothing, lambda server: server.fail(503, seconds=20)),
    "limits the rate for 20 s (429)": (nothing, lambda server: server.fail(429, seconds=20)),
    "one 403 in the middle": (nothing, lambda server: server.fail(403, count=1, path="file_stream")),
    "gone from the middle on": (nothing, lambda server: server.pause()),
}


class Clock:
    """Adds up how long what is done under it takes, by what it is."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def running(self, what: str) -> Iterator[None]:
        """Count what is done in the block."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[what] += time.perf_counter() - began


def train(clock: Clock, log: Callable[[dict[str, float], int], None], report: Callable[[int], None]) -> None:
    """The loop: a step is a pause, so that only what is logged costs."""
    for epoch in range(1, EPOCHS + 1):
        for step in range((epoch - 1) * STEPS, epoch * STEPS):
            time.sleep(STEP_S)
            with clock.running("logging_s"):
                log({"loss": 1 / (step + 1)}, step)
        with clock.running("logging_s"):
            report(epoch)


def ours(clock: Clock, storage: str) -> None:
    """The loop with the orchestrator's tracker, in a worker's process."""
    import lightning.pytorch.loggers  # noqa: F401 - a worker has imported it before its first trial

    from orchestrator.tracker import Tracker

    folder = SweepFolder(storage, "s")
    tracker = Tracker(Spec.from_yaml(folder.read_text("sweep.yaml")), folder, 0, lambda _: None)
    with clock.running("opening_s"):
        segment = tracker.open(Job(number=0, params={}, seed=1))
    print(json.dumps(["opened", segment]), flush=True)
    logger, path = tracker.logger(), folder.checkpoint(0, EPOCHS)

    def report(epoch: int) -> None:
        metrics = {"score": epoch / EPOCHS}
        logger.log_metrics(metrics, step=epoch * STEPS)
        tracker.reported(
            Report(
                number=0, epoch=epoch, value=metrics["score"], metrics=metrics, best_epoch=epoch,
                checkpoint=path, best_checkpoint=path,
            )
        )  # fmt: skip

    train(clock, logger.log_metrics, report)
    folder.write_text(path, "weights")
    with clock.running("closing_s"):
        tracker.close(Outcome.COMPLETE, None, checkpoints={path: ["best", "latest"]}, curve={EPOCHS: 1.0})


def theirs(clock: Clock, storage: str) -> None:
    """The loop with Lightning's logger, online."""
    import wandb
    from lightning.pytorch.loggers import WandbLogger

    os.environ["WANDB_MODE"] = "online"  # yardsticks keep to the disk otherwise
    logger = WandbLogger(project="p", id="s-0", save_dir=storage)
    with clock.running("opening_s"):
        logger.experiment.define_metric("*")
    print(json.dumps(["opened", None]), flush=True)
    train(clock, logger.log_metrics, lambda epoch: logger.log_metrics({"score": epoch / EPOCHS}, epoch * STEPS))
    path = Path(storage) / "epoch.ckpt"
    path.write_text("weights")

    with clock.running("closing_s"):
        artifact = wandb.Artifact("model-s-0", type="model")
        artifact.add_file(str(path))
        logger.experiment.log_artifact(artifact)
        wandb.finish()


def run(server: WandbServer, arm: str, trouble: str, folder: Path) -> dict[str, Any]:
    """One loop under one trouble: seconds it stood still, what it raised, and what of it is in W&B afterwards."""
    before, middle = TROUBLE[trouble]
    environment = {**os.environ, **server.env, "WANDB_CONSOLE": "off"}
    found: dict[str, Any] = {}
    with ExitStack() as stack:
        desk = None
        if arm == "ours":
            os.environ.update(server.env)  # the desk's
            desk = stack.enter_context(_desk(folder))
        before(server)
        command = [sys.executable, "-m", "benchmarks.outage", "--arm", arm, "--storage", str(folder)]
        loop = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        timer = threading.Timer(LIMIT_S, _kill, [loop.pid])
        timer.start()
        assert loop.stdout is not None
        for line in loop.stdout:
            word, said = json.loads(line)
            if word == "opened":
                threading.Timer(MIDDLE_S, middle, [server]).start()
                if desk is not None and said is not None:
                    desk.follow(0, said)
            else:
                found |= said
        _, errors = loop.communicate()
        timer.cancel()
        if loop.returncode:
            last = errors.strip().splitlines()[-1:] or [""]
            found["ended"] = "by force" if loop.returncode < 0 else last[0][:90]
        server.resume()
        server.heal()
        if desk is not None:
            desk.ended(0, str(Outcome.COMPLETE), None, closed=loop.returncode == 0)
            found["missing"] = desk.finish("FINISHED", None)
    run = server.runs.get("s-0")
    found["rows"] = len([row for row in run.history if "loss" in row]) if run else 0
    found["checkpoints"] = len(server.artifacts.get("model-s-0", []))
    return found


def _kill(pid: int) -> None:
    """End a process and those that it started, the SDK's own among them, which outlives it."""
    for process in (*psutil.Process(pid).children(recursive=True), psutil.Process(pid)):
        process.kill()


def _desk(folder: Path) -> AbstractContextManager[Tracking]:
    """What brings up the run of a sweep that is made here."""
    spec = Spec.model_validate(
        {
            "name": "s", "trainable": "x", "space": {}, "metric": "score", "goal": "maximize",
            "storage": str(folder), "tracking": {"mode": "online", "project": "p"},
        }
    )  # fmt: skip
    sweep = SweepFolder(spec.storage, "s")
    sweep.create()
    sweep.write_text("sweep.yaml", spec.to_yaml())
    return closing(Tracking(sweep, sweep_id=None, command="benchmark"))


def main() -> None:
    """Run both loops under every trouble, one after the other, and print a line for each."""
    from tests.doubles.wandb_server import WandbServer

    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--rounds", type=int, default=1)
    options.add_argument("--only", choices=TROUBLE, help="one trouble alone")
    options.add_argument("--arm", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    options.add_argument("--storage", help=argparse.SUPPRESS)
    args = options.parse_args()
    if args.arm:
        clock = Clock()
        {"ours": ours, "theirs": theirs}[args.arm](clock, args.storage)
        print(
            json.dumps(["stood still", {what: round(seconds, 3) for what, seconds in clock.seconds.items()}]),
            flush=True,
        )
        return
    for _ in range(args.rounds):
        for trouble in [args.only] if args.only else TROUBLE:
            for arm in ("ours", "theirs"):
                with scratch() as folder, WandbServer() as server:
                    found = run(server, arm, trouble, folder)
                print(json.dumps({"trouble": trouble, "arm": arm, **found}), flush=True)


if __name__ == "__main__":
    main()
