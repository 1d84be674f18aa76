"""A sweep that something is killed of every 20 seconds on average, beside the same one that is left alone.

    python -m benchmarks.chaos --trials 40 --every-s 20 --seed 0      # as root; see benchmarks/hosts

A head and three hosts of one CPU, made of Linux namespaces (`benchmarks/hosts`), and trials of two workers on two of
the hosts. What is struck and when is drawn from the seed: a worker's process or the sweep's is killed, a host is
switched off and on again, or its network cable is pulled. The storage is a folder that all hosts see, as a shared disk
would be: whoever is cut off the network still writes there. W&B is the double of the tests, on the head.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.hosts import Hosts, missing
from orchestrator.naming import run_id

ROOT = Path(__file__).resolve().parent.parent
WORKERS = ("one", "two", "three")
BATCHES = 10
# What nobody may need longer than for one trial more: the sweep hangs.
PATIENCE_S = 300.0
AWAY_S = (5.0, 30.0)
"""How long a host is switched off, or off its network; Ray finds a node dead after about ten seconds."""
# Workers have nice 15 by default: on a machine that is shared with other programs they would stand still.
RAY = "RAY_AUTH_MODE=disabled RAY_DISABLE_IMPORT_WARNING=1 RAY_worker_niceness=0"
HEALTH = "RAY_health_check_period_ms=1000 RAY_health_check_timeout_ms=2000"
# The double runs until its input ends, and says then what it was told.
DOUBLE = """
import json, sys
from doubles.wandb_server import WandbServer
with WandbServer() as server:
    print(json.dumps(server.env), flush=True)
    sys.stdin.read()
    print(json.dumps({run.id: {"state": run.state, "exit_code": run.exit_code, "sweep": run.sweep_id,
                               "epochs": [[row["epoch"], row["value"]] for row in run.history if "value" in row]}
                      for run in server.runs.values()}), flush=True)
"""
# What Ray holds, for whoever looks into a sweep that hangs.
LEFT = """
import ray
from ray.util.placement_group import placement_group_table
from ray.util.state import list_actors
ray.init("auto", log_to_driver=False)
for node in ray.nodes(): print(node["NodeManagerAddress"], node["NodeID"], node["Alive"], node["Resources"])
for group in placement_group_table().values(): print(group)
for actor in list_actors(filters=[("state", "!=", "DEAD")], limit=1000): print(actor)
"""


class Counting(LightningModule):
    """Logs `value`, which is `x` times the epochs that its weights have seen; every rank writes down what it trains."""

    def __init__(self, *, x: float, step_s: float, file: str) -> None:
        super().__init__()
        self.x, self.step_s, self.file = x, step_s, Path(file)
        self.layer = torch.nn.Linear(1, 1)
        self.seen: torch.Tensor
        self.register_buffer("seen", torch.zeros(()))  # lost with the weights, where those are lost

    def training_step(self, batch: list[torch.Tensor], batch_index: int) -> torch.Tensor:
        """The loss of one batch, features of shape (1, 1); a scalar."""
        time.sleep(self.step_s)
        loss: torch.Tensor = self.layer(batch[0]).sum()
        return loss

    def on_train_epoch_end(self) -> None:
        """An epoch is trained."""
        self.seen += 1
        self.log("value", self.x * float(self.seen))
        if self.global_rank == 0:
            with self.file.open("a") as lines:
                lines.write(json.dumps([self.x, self.current_epoch + 1, time.time()]) + "\n")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain SGD."""
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self) -> DataLoader[tuple[torch.Tensor, ...]]:
        """As many batches as make `BATCHES` on each of two workers."""
        return DataLoader(TensorDataset(torch.ones(2 * BATCHES, 1)))


def main() -> None:
    """Run both sweeps; print what was struck, what came of the trials, and the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--every-s", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=("calm", "wild"), help="one of the two sweeps")
    parser.add_argument("--keep", action="store_true", help="leave the folder behind, to be looked at")
    args = parser.parse_args()
    if why := missing():
        sys.exit(why)
    took = {}
    for name in (args.only,) if args.only else ("calm", "wild"):
        with fleet(keep=args.keep) as hosts:
            run = Run(hosts, name, args.trials, args.epochs)
            chaos = Chaos(hosts, run, args.every_s, random.Random(args.seed)) if name == "wild" else None
            took[name] = run.to_its_end(chaos)
            print(json.dumps({name: round(took[name]), **run.found(), **(chaos.said() if chaos else {})}), flush=True)
    if len(took) == 2:
        print(f"{took['wild'] / took['calm'] - 1:.0%} more time")


@contextmanager
def fleet(*, keep: bool) -> Iterator[Hosts]:
    """A Ray on a head and three hosts, and a W&B on the head."""
    folder = Path(tempfile.mkdtemp(prefix="chaos-", dir="/tmp"))
    hosts = Hosts(folder, ["head", *WORKERS])
    try:
        hosts.up()
        hosts.run(
            "head",
            f"cd {ROOT} && {RAY} {HEALTH} PYTHONPATH={ROOT} ray start --head --port=6379 --num-cpus=0"
            " --resources='{\"head\": 1}' --object-store-memory=100000000 --dashboard-host=127.0.0.1",
        )
        for name in WORKERS:
            hosts.run(name, joining(hosts))
        yield hosts
    finally:
        hosts.down()
        if not keep:
            with suppress(FileNotFoundError):
                subprocess.run(["rm", "-rf", str(folder)], check=False)


def joining(hosts: Hosts) -> str:
    """The script that makes a host a node, where it is none any more."""
    return (
        f"cd {ROOT}; ray stop --force >/dev/null 2>&1; {RAY} PYTHONPATH={ROOT} ray start"
        f" --address={hosts.address('head')}:6379 --num-cpus=1 --object-store-memory=100000000"
    )


class Run:
    """One sweep on the head, resumed as often as it is killed."""

    def __init__(self, hosts: Hosts, name: str, trials: int, epochs: int) -> None:
        self.hosts, self.name, self._trials, self._epochs = hosts, name, trials, epochs
        self.folder, self._trained = hosts.folder / name, hosts.folder / "trained.jsonl"
        self._double = subprocess.Popen(
            hosts.command("head", f"cd {ROOT} && PYTHONPATH=tests exec python -c '{DOUBLE}'"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._double.stdout is not None
        wandb = json.loads(self._double.stdout.readline())
        self._environment = " ".join(f"{key}={value}" for key, value in wandb.items())
        self._log = (hosts.folder / "printed.log").open("a")
        self.process = self._start(
            "search trainable=benchmarks.chaos:Counting metric=value goal=maximize search.sampler=random"
            " 'space={x: {type: float, low: 0.0, high: 1.0}}' schedule.scheduler=none resources.workers=2"
            f" params.step_s=0.1 params.file={self._trained} name={name} budget.trials={trials}"
            f" schedule.max_epochs={epochs} storage={hosts.folder} tracking.mode=online"
            " failures.retries=20"  # what chaos does to a trial is not its own doing
        )

    def to_its_end(self, chaos: Chaos | None = None) -> float:
        """Wait until the sweep has finished, undisturbed or not; the seconds that it took.

        Raises:
            RuntimeError: it broke off, or hangs.
        """
        began = progress = time.monotonic()
        ended = 0
        while self.process.poll() is None:
            if chaos is not None and self.ended() > 0:
                chaos.strike()
            if (now := self.ended()) > ended:
                ended, progress = now, time.monotonic()
            if time.monotonic() - progress > PATIENCE_S:
                (self.hosts.folder / "ray.txt").write_text(self.hosts.run("head", f"{RAY} python -c '{LEFT}'"))
                raise RuntimeError(f"no trial ended in {PATIENCE_S:g} s: {self.hosts.folder}")
            time.sleep(0.2)
        if self.process.returncode:
            raise RuntimeError(f"the sweep ended with exit code {self.process.returncode}: {self.hosts.folder}")
        return time.monotonic() - began

    def ended(self) -> int:
        """How many trials have ended, as its results say."""
        with suppress(FileNotFoundError):
            results = json.loads((self.folder / "results.json").read_text())
            return sum(trial["state"] != "RUNNING" for trial in results["trials"])
        return 0

    def resume(self) -> None:
        """Kill the sweep's process, and go on with another."""
        self.hosts.run("head", "kill -KILL $(pgrep -f 'orchestrator [sr]e')")
        self.process.wait()
        self.process = self._start(f"resume {self.folder}")

    def found(self) -> dict[str, int]:
        """What is wrong with the sweep's record and its W&B runs; all but the last should be 0."""
        trials = json.loads((self.folder / "results.json").read_text())["trials"]
        whole = [each for each in trials if each["state"] == "COMPLETE" and each["epochs"] == self._epochs]
        trained = Counter[float]()
        for x, _, _ in map(json.loads, self._trained.read_text().splitlines()):
            trained[x] += 1
        printed, _ = self._double.communicate("")
        (self.hosts.folder / "wandb.json").write_text(printed)
        runs = json.loads(printed)
        return {
            "trials_lost": self._trials - len(whole),
            "trials_twice": len(trials) - len({each["params"]["x"] for each in trials}),
            "values_wrong": sum(abs(each["value"] - each["params"]["x"] * self._epochs) > 1e-6 for each in trials),
            "wandb_runs_wrong": sum(not self._is_right(runs.get(run_id(self.name, n))) for n in range(self._trials))
            + len(runs.keys() - {run_id(self.name, n) for n in range(self._trials)}),
            "wandb_sweeps_too_many": len({run["sweep"] for run in runs.values()}) - 1,
            "epochs_again": sum(trained.values()) - self._trials * self._epochs,
        }

    def _is_right(self, run: dict[str, Any] | None) -> bool:
        """Whether a run is there, says that it finished, and has every epoch once."""
        if run is None or (run["state"], run["exit_code"]) != ("finished", 0):
            return False
        return [epoch for epoch, _ in run["epochs"]] == list(range(self._epochs))  # as Lightning counts

    def _start(self, arguments: str) -> subprocess.Popen[bytes]:
        address = f"RAY_ADDRESS={self.hosts.address('head')}:6379"
        script = f"cd {ROOT} && {RAY} {address} {self._environment} exec python -m orchestrator {arguments}"
        return subprocess.Popen(self.hosts.command("head", script), stdout=self._log, stderr=self._log)


@dataclass(kw_only=True)
class _Later:
    """What undoes a blow when it is time."""

    at: float
    host: str
    undo: Callable[[], None]


@dataclass
class Chaos:
    """Strikes something now and then."""

    hosts: Hosts
    run: Run
    every_s: float
    rng: random.Random
    struck: Counter[str] = field(default_factory=Counter)
    began: float = 0.0
    """When the first blow was waited for."""
    _next: float = 0.0
    _away: list[_Later] = field(default_factory=list)

    def strike(self) -> None:
        """Do what is due."""
        now = time.monotonic()
        for later in [later for later in self._away if later.at <= now]:
            self._away.remove(later)
            later.undo()
        if self._next == 0.0:
            self.began = now
            self._next = now + self.rng.expovariate(1 / self.every_s)
        if now < self._next:
            return
        self._next += self.rng.expovariate(1 / self.every_s)
        away, away_s = {later.host for later in self._away}, self.rng.uniform(*AWAY_S)
        hosts = self.rng.sample(there := [host for host in WORKERS if host not in away], len(there))
        host = hosts[0] if hosts else ""
        kind = self.rng.choice(("worker", "node", "network", "sweep") if hosts else ("sweep",))
        if kind == "worker":  # where there is one: between two worker groups another blow takes its place
            host = next((host for host in hosts if self._kill_worker(host)), "")
            kind = kind if host else self.rng.choice(("node", "network", "sweep"))
            host = host or hosts[0]
        match kind:
            case "node":
                self.hosts.kill(host)
                self._away.append(_Later(at=now + away_s, host=host, undo=lambda: self._switch_on(host)))
            case "network":
                self.hosts.cut(host)
                self._away.append(_Later(at=now + away_s, host=host, undo=lambda: self._plug_in(host)))
            case "sweep":
                self.run.resume()
        self.struck[kind] += 1
        said = {
            "at_s": round(time.time(), 1),
            "struck": kind,
            "host": host,
            "away_s": round(away_s),
            "ended": self.run.ended(),
        }
        print(json.dumps(said), flush=True)

    def said(self) -> dict[str, Any]:
        """How often what was struck, and how many seconds lay between two blows."""
        return {
            "struck": self.struck,
            "every_s": round((time.monotonic() - self.began) / max(1, self.struck.total()), 1),
        }

    def _kill_worker(self, host: str) -> bool:
        """Kill the one on a host, if there is one."""
        found = self.hosts.run(host, "pgrep -f '^ray::RayTrainWorke[r]' || true").split()
        if found:
            self.hosts.run(host, f"kill -KILL {' '.join(found)} || true")
        return bool(found)

    def _switch_on(self, host: str) -> None:
        self.hosts.start(host)
        self._join(host)

    def _plug_in(self, host: str) -> None:
        self.hosts.heal(host)
        self._join(host, after="sleep 10; pgrep -f 'raylet/rayle[t]' >/dev/null && exit; ")

    def _join(self, host: str, after: str = "") -> None:
        with (self.hosts.folder / f"{host}.log").open("ab") as log:
            subprocess.Popen(self.hosts.command(host, after + joining(self.hosts)), stdout=log, stderr=log)


if __name__ == "__main__":
    main()
