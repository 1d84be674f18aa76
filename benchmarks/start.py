"""Where the start goes: from the command to the first metric, told from outside by the processes that appear.

    python -m benchmarks.start --rounds 3

A sweep of one trial of one epoch is started again and again, and `/proc` is read while it comes up. A moment is when a
process of that kind was first seen, or the first report was in the record; a stage lasts until the next one begins.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

from benchmarks.trials import scratch

# What is looked for in the command lines of the sweep's processes, in the order in which they appear.
MOMENTS = {
    "command": None,
    "Ray starts": "gcs_server",
    "node is up": "raylet/raylet ",
    "slot's process": "ray::Slot",
    "Ray Train's controller": "ray::TrainController",
    "worker's process": "ray::RayTrainWorker",
    "worker serves": "ray::RayTrainWorker.execute",
}
LAST = ("trial began", "first metric", "sweep's end")
LOOK_EVERY_S = 0.05


def main() -> None:
    """Print the median moment of every stage, with its spread over the rounds, in seconds from the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = [_start() for _ in range(parser.parse_args().rounds)]
    print(f"{'moment':24} {'median':>7} {'min':>7} {'max':>7}")
    for moment in (*MOMENTS, *LAST):
        seen_s = [each[moment] for each in rounds if moment in each]
        if seen_s:
            print(f"{moment:24} {statistics.median(seen_s):7.2f} {min(seen_s):7.2f} {max(seen_s):7.2f}")


def _start() -> dict[str, float]:
    with scratch() as folder:
        command = [
            *(sys.executable, "-m", "orchestrator.search", "budget.trials=1", "schedule.max_epochs=1", "name=start"),
            f"storage={folder}",
        ]
        began = time.time()
        environment = {name: value for name, value in os.environ.items() if name != "RAY_API_SERVER_ADDRESS"}
        sweep = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment | {"RAY_TMPDIR": "/tmp"})
        seen = {"command": 0.0}
        while sweep.poll() is None:
            lines = _command_lines(sweep.pid)
            for moment, words in MOMENTS.items():
                if words and moment not in seen and any(words in line for line in lines):
                    seen[moment] = time.time() - began
            time.sleep(LOOK_EVERY_S)
        ended = time.time() - began
        if sweep.returncode:
            sys.exit(f"the sweep ended with exit code {sweep.returncode}")
        (trial,) = json.loads((folder / "start" / "results.json").read_text())["trials"]
        seen["trial began"] = datetime.fromisoformat(trial["started"]).timestamp() - began
        seen["first metric"] = _first_report(folder / "start") - began
        seen["sweep's end"] = ended
        return seen


def _first_report(folder: Path) -> float:
    """When the checkpoint of the first epoch was in place, which is just before its metric is on record."""
    return min(path.stat().st_mtime for path in folder.glob("trials/*/epoch-0001.ckpt"))


def _command_lines(root: int) -> list[str]:
    """The command lines of a process and all below it."""
    children: dict[int, list[int]] = {}
    lines: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text()
            lines[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it ended meanwhile
            continue
        parent = int(stat.rpartition(")")[2].split()[1])
        children.setdefault(parent, []).append(int(entry.name))
    found, waiting = [], [root]
    while waiting:
        pid = waiting.pop()
        found.append(lines.get(pid, ""))
        waiting += children.get(pid, [])
    return found


if __name__ == "__main__":
    main()
