"""What the head holds in memory for every node and for every slot: constants of docs/scale.md.

    python -m benchmarks.head --nodes 8 --slots 3

Nodes are raylets on this machine (`benchmarks/nodes.py`), slots those of a sweep that trains on them. Counted is memory
that no other process shares, by Linux's /proc: what one more of each takes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.nodes import brought_up
from benchmarks.trials import scratch

# Processes of the cluster, by what their command line has; each slot has one of each of the latter.
OF_THE_CLUSTER = ("gcs_server", "dashboard/dashboard.py", "ray-dashboard")
OF_A_SLOT = ("ray::ResourceTrainable", "ray::TrainController", "ray::SynchronizationActor", "ray::PreemptionWatcher")
SETTLE_S, LIMIT_S = 10.0, 600.0


def main() -> None:
    """Add nodes, then slots; print what they took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--slots", type=int, default=3)
    args = parser.parse_args()
    with scratch() as folder, brought_up(folder / "nodes.log", os.environ) as nodes:
        nodes.add(1)
        time.sleep(SETTLE_S)
        before = sum(held(OF_THE_CLUSTER).values())
        for _ in range(args.nodes - 1):
            nodes.add(1)
        time.sleep(SETTLE_S)
        per_node = (sum(held(OF_THE_CLUSTER).values()) - before) / (args.nodes - 1)
        sweep = subprocess.Popen(_command(folder, args.slots), env=os.environ | {"RAY_ADDRESS": nodes.address})
        try:
            _wait(folder / "slots/results.json", args.slots)
            per_slot = {name: mib / args.slots for name, mib in held(OF_A_SLOT).items()}
        finally:
            sweep.kill()
            sweep.wait()
    rounded = {name: round(mib) for name, mib in per_slot.items()}
    print(json.dumps({"mib_per_node": round(per_node, 1), "mib_per_slot": sum(rounded.values()), **rounded}))


def held(kinds: tuple[str, ...]) -> dict[str, float]:
    """MiB that processes started by this one share with no other, by kind."""
    found = dict.fromkeys(kinds, 0.0)
    for pid in _below(os.getpid()):
        try:
            title = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:  # it has ended
            continue
        kind = next((kind for kind in kinds if kind in title), None)
        if kind is not None:
            found[kind] += sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024
    return found


def _below(pid: int) -> Iterator[int]:
    """All that a process has started, directly or not."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            yield child
            yield from _below(child)


def _command(folder: Path, slots: int) -> list[str]:
    return [
        *(sys.executable, "-m", "orchestrator.search", "trainable=benchmarks.recovery:Stepping", "name=slots"),
        *("metric=value", "goal=maximize", "space={x: {type: float, low: 0.0, high: 1.0}}", "budget.trials=100"),
        *("search.sampler=random", "schedule.scheduler=none", "schedule.max_epochs=100000", "resources.workers=1"),
        *(f"resources.concurrency={slots}", "params.step_s=0.5", f"params.file={folder}/steps.jsonl"),
        *(f"storage={folder}", "tracking.mode=disabled"),
    ]


def _wait(results: Path, slots: int) -> None:
    """Until so many trials have trained an epoch."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        trials = json.loads(results.read_text())["trials"] if results.exists() else []
        if sum(trial["epochs"] > 0 for trial in trials) >= slots:
            return
        time.sleep(1)
    raise TimeoutError(f"no {slots} trials trained in {LIMIT_S:g} s")


if __name__ == "__main__":
    main()
