"""Turnaround side by side: the orchestrator, Ray's documented recipe, and a bare loop, in one run.

    python -m benchmarks.turnaround --trials 12 --recipe-trials 3 --rounds 2

Overhead is what lies between the end of one trial's fit and the start of the next one's; its ratio to the recipe's is
given with the spread over all pairs of rounds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
from typing import Any


def run(yardstick: str, **options: int) -> dict[str, Any]:
    """Run a yardstick; what it measured."""
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", f"benchmarks.{yardstick}", *words]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def main() -> None:
    """Run every yardstick in turn, round after round, and print a table and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--recipe-trials", type=int, default=3, help="the recipe takes half a minute for each")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    overheads: dict[tuple[str, int], list[list[float]]] = {}
    rates: dict[tuple[str, int], list[float]] = {}
    for _ in range(args.rounds):
        rows = [run("bare", trials=args.trials, epochs=args.epochs)]
        for workers in (1, 2):
            rows.append(run("warm", trials=args.trials, epochs=args.epochs, workers=workers))
            rows.append(run("recipe", trials=args.recipe_trials, epochs=args.epochs, workers=workers))
        for row in rows:
            key = (row["yardstick"], row.get("workers", 1))
            overheads.setdefault(key, []).append(row["overhead_s"])
            rates.setdefault(key, []).append(row["trials_per_minute"])
            print(json.dumps(row), flush=True)
    print(f"\n{'':8} {'workers':>7} {'overhead_s median':>18} {'min':>7} {'max':>7} {'trials per minute':>18}")
    for (yardstick, workers), rounds in overheads.items():
        every = list(itertools.chain.from_iterable(rounds))
        rate = statistics.median(rates[yardstick, workers])
        spread = f"{min(every):7.3f} {max(every):7.3f}"
        print(f"{yardstick:8} {workers:7} {statistics.median(every):18.3f} {spread} {rate:18.1f}")
    for workers in (1, 2):
        ratios = [
            statistics.median(recipe) / statistics.median(warm)
            for recipe, warm in itertools.product(overheads["recipe", workers], overheads["warm", workers])
        ]
        low, high = min(ratios), max(ratios)
        print(f"recipe / warm, {workers} worker(s): {statistics.median(ratios):.0f} times ({low:.0f} to {high:.0f})")


if __name__ == "__main__":
    main()
