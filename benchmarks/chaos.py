"""A sweep that something is killed of every 20 seconds on average, beside the same one that is left alone.

    python -m benchmarks.chaos --trials 40 --every-s 20

Trials of two workers on three nodes of two CPUs each (`benchmarks/nodes.py`). What is killed, and when, is drawn from
the seed: a worker's process, a node (another is added at once), or the sweep's process, which is then resumed. What it
takes to cut a node off its network needs hosts of their own: see tests/test_hosts.py.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks.nodes import Nodes, brought_up
from benchmarks.trials import scratch
from orchestrator import runlog
from orchestrator.folder import SweepFolder
from orchestrator.naming import run_id

NODES, CPUS = 3, 2
VICTIMS = ("worker", "node", "sweep")


def main() -> None:
    """Run both sweeps; print what was killed, what came of the trials, and the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--every-s", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with scratch() as folder, brought_up(folder / "nodes.log", os.environ) as nodes:
        places = [nodes.add(CPUS) for _ in range(NODES)]
        calm = Run(folder, "calm", args.trials, args.epochs, nodes.address)
        calm_s = calm.to_its_end()
        wild = Run(folder, "wild", args.trials, args.epochs, nodes.address)
        wild_s = wild.to_its_end(Chaos(nodes, places, args.every_s, random.Random(args.seed)))
        print(json.dumps({"calm": calm.found(), "wild": wild.found()}))
        print(f"{calm_s:.0f} s left alone, {wild_s:.0f} s disturbed: {wild_s / calm_s - 1:.0%} more")


class Run:
    """One sweep, resumed as often as it is killed."""

    def __init__(self, storage: Path, name: str, trials: int, epochs: int, address: str) -> None:
        self.folder, self._trials, self._epochs = SweepFolder(str(storage), name), trials, epochs
        self._environment = os.environ | {"RAY_ADDRESS": address}
        self._search = [
            *("search", "trainable=benchmarks.recovery:Stepping", f"name={name}", "metric=value", "goal=maximize"),
            *("space={x: {type: float, low: 0.0, high: 1.0}}", f"budget.trials={trials}", "search.sampler=random"),
            *("schedule.scheduler=none", f"schedule.max_epochs={epochs}", "resources.workers=2", "params.step_s=0.1"),
            *(f"params.file={storage}/{name}.jsonl", f"storage={storage}", "tracking.mode=offline"),
            "failures.retries=20",  # what chaos does to a trial is not its own doing
        ]
        self.process = self._start(self._search)

    def to_its_end(self, chaos: Chaos | None = None) -> float:
        """Wait until the sweep has finished, undisturbed or not; the seconds that it took."""
        began = time.monotonic()
        while self.process.poll() is None:
            if chaos is not None and self.folder.exists():
                chaos.strike(self)
            time.sleep(0.1)
        if self.process.returncode:
            raise RuntimeError(f"the sweep ended with exit code {self.process.returncode}: {self.folder.log}")
        return time.monotonic() - began

    def resume(self) -> None:
        """Kill the sweep's process, and go on with another."""
        self.process.kill()
        self.process.wait()
        self.process = self._start(["resume", self.folder.show("").rstrip("/")])

    def found(self) -> dict[str, int]:
        """What is wrong with the sweep's record and its W&B runs: all counts but the first should be 0."""
        trials = json.loads(self.folder.read_text("results.json"))["trials"]
        lines = map(json.loads, self.folder.ledger.read_text().splitlines())
        reported = Counter((each["trial_id"], each["step"]) for each in lines if "intermediate_value" in each)
        complete = [each for each in trials if each["state"] == "COMPLETE" and each["epochs"] == self._epochs]
        return {
            "complete": len(complete),
            "lost": self._trials - len(complete),
            "epochs_recorded_twice": sum(times - 1 for times in reported.values()),
            "wandb_runs_wrong": sum(not self._is_told(each["number"]) for each in trials),
        }

    def _is_told(self, number: int) -> bool:
        """Whether the trial has its run, and that says how it ended."""
        files = self.folder.run_files(run_id(self.folder.name, number))
        return bool(files) and runlog.read(files[-1]).ended

    def _start(self, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "orchestrator", *arguments]
        return subprocess.Popen(command, env=self._environment, stdout=subprocess.DEVNULL)


class Chaos:
    """Kills something now and then."""

    def __init__(self, nodes: Nodes, places: list[int], every_s: float, rng: random.Random) -> None:
        self._nodes, self._places, self._every_s, self._rng = nodes, places, every_s, rng
        self._next = time.monotonic() + rng.expovariate(1 / every_s)

    def strike(self, run: Run) -> None:
        """Kill what is due."""
        if time.monotonic() < self._next:
            return
        victim = self._rng.choice(VICTIMS)
        match victim:
            case "worker":
                self._kill_worker()
            case "node":
                self._nodes.kill(self._places.pop(self._rng.randrange(NODES)))
                self._places.append(self._nodes.add(CPUS))
            case "sweep":
                run.resume()
        print(json.dumps({"killed": victim}), flush=True)
        self._next = time.monotonic() + self._rng.expovariate(1 / self._every_s)

    def _kill_worker(self) -> None:
        """Kill one that trains, if any does right now."""
        mine: list[Any] = psutil.Process().children(recursive=True)
        if workers := [process for process in mine if _title(process).startswith("ray::RayTrainWorker")]:
            self._rng.choice(workers).kill()


def _title(process: Any) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


if __name__ == "__main__":
    main()
