"""A large checkpoint every epoch: how long training stands still for it, against saving and uploading it in the loop.

    python -m benchmarks.checkpointing --mib 100 --epochs 8

In one process and in turn, on the same state: the orchestrator's writer, which copies it in memory and leaves the rest
to a thread, and `torch.save` followed by the copy to storage. Between checkpoints the loop computes, as training does,
for as long as `--epoch-s` says: the thread that writes takes its share of the machine from it, which counts as well.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.trials import scratch
from orchestrator.checkpoint import Writer
from orchestrator.folder import SweepFolder


def steps(seconds: float) -> int:
    """How many matrix products take so long here."""
    a, began, done = torch.randn(256, 256), time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        a = torch.tanh(a @ a)
        done += 1
    return done


def epoch(products: int) -> None:
    """An epoch of that many."""
    a = torch.randn(256, 256)
    for _ in range(products):
        a = torch.tanh(a @ a)


def measure(save: Callable[[int], Any], products: int, epochs: int) -> tuple[list[float], float]:
    """Seconds that each call of `save` took, and of all epochs together."""
    calls, began = [], time.perf_counter()
    for number in range(epochs):
        epoch(products)
        asked = time.perf_counter()
        save(number)
        calls.append(time.perf_counter() - asked)
    return calls, time.perf_counter() - began


def in_the_loop(state: dict[str, Any], folder: Path) -> Callable[[int], None]:
    """Save, then copy to storage."""
    storage = folder / "storage"
    storage.mkdir()

    def save(number: int) -> None:
        torch.save(state, folder / "local.ckpt")
        shutil.copyfile(folder / "local.ckpt", storage / f"{number}.ckpt")

    return save


def in_a_thread(state: dict[str, Any], folder: Path) -> Callable[[int], None]:
    """As the orchestrator does; a checkpoint waits for the one before."""
    writer = Writer(SweepFolder(str(folder), "sweep"), folder)
    pending: list[Any] = []

    def save(number: int) -> None:
        if pending:
            pending.pop().result()
        pending.append(writer.write(state, f"trials/0/epoch-{number:04d}.ckpt"))

    return save


def main() -> None:
    """Measure all three in turn, round after round, and print one JSON object, times in seconds."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--mib", type=int, default=100)
    options.add_argument("--epochs", type=int, default=8)
    options.add_argument("--epoch-s", type=float, default=2.0)
    options.add_argument("--rounds", type=int, default=3)
    args = options.parse_args()
    torch.set_num_threads(1)  # what Ray gives a worker of one CPU
    state = {"model": {str(i): torch.randn(2**18) for i in range(args.mib)}}
    products = steps(args.epoch_s)
    found: dict[str, list[float]] = {
        "in_the_loop": [],
        "in_a_thread": [],
        "without_s": [],
        "loop_s": [],
        "thread_s": [],
    }
    for _ in range(args.rounds):
        with scratch() as folder:
            _, bare = measure(lambda _: None, products, args.epochs)
            sync, with_sync = measure(in_the_loop(state, folder), products, args.epochs)
            thread, with_thread = measure(in_a_thread(state, folder), products, args.epochs)
        found["in_the_loop"].append(statistics.median(sync))
        found["in_a_thread"].append(statistics.median(thread))
        for name, total in (("without_s", bare), ("loop_s", with_sync), ("thread_s", with_thread)):
            found[name].append(total)
    ratios = [b / a for a, b in zip(found["in_the_loop"], found["in_a_thread"], strict=True)]
    print(json.dumps({
        "mib": args.mib,
        **{name: [round(value, 4) for value in values] for name, values in found.items()},
        "stands_still_ratio": [round(ratio, 3) for ratio in ratios],
    }))  # fmt: skip


if __name__ == "__main__":
    main()
