"""A large checkpoint every epoch: how long training stands still for it, against saving and uploading it in the loop.

    python -m benchmarks.checkpointing --mib 100 --epochs 8

In one process and in turn, on the same state: the orchestrator's writer, which copies it in memory and leaves the rest
to a thread, and `torch.save` followed by the upload, both to the same storage: an S3 of this machine's own (moto's
server, in a process of its own), or a folder with `--local`. There nothing is uploaded, and the file is saved in its
place and synced, so that it is on the disk as ours is; or not synced, with `--unsynced`, which is less than we do.
Between checkpoints the loop computes, as training does, for as long as `--epoch-s` says: the thread that writes takes
its share of the machine from it, which counts as well.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen
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


def in_the_loop(
    state: dict[str, Any], sweep: SweepFolder, scratch: Path, *, synced: bool = True
) -> Callable[[int], None]:
    """Save, then upload where there is something to upload to."""

    def save(number: int) -> None:
        with sweep.writing(sweep.checkpoint(0, number), scratch, synced=synced) as local:
            torch.save(state, local)

    return save


def in_a_thread(state: dict[str, Any], sweep: SweepFolder, scratch: Path) -> Callable[[int], None]:
    """As the orchestrator does; a checkpoint waits for the one before."""
    writer = Writer(sweep, scratch)
    pending: list[Any] = []

    def save(number: int) -> None:
        if pending:
            pending.pop().result()
        pending.append(writer.write(state, sweep.checkpoint(1, number)))

    return save


# Starts moto's server, says on which port, and ends with its standard input.
HOLD_S3 = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


@contextmanager
def s3() -> Iterator[str]:
    """A bucket in an S3 of this machine's own, as a storage's URL."""
    keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_EC2_METADATA_DISABLED": "true"}
    os.environ.update(keys)
    command = [sys.executable, "-c", HOLD_S3]
    with Popen(command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            port = int(server.stdout.readline())
            request = urllib.request.Request(f"http://127.0.0.1:{port}/sweeps", method="PUT")
            urllib.request.urlopen(request, timeout=60).close()
            yield f"s3://sweeps?endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"
        finally:
            server.stdin.close()


def main() -> None:
    """Measure all three in turn, round after round, and print one JSON object, times in seconds."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--mib", type=int, default=100)
    options.add_argument("--epochs", type=int, default=8)
    options.add_argument("--epoch-s", type=float, default=2.0)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--local", action="store_true", help="a folder as the storage")
    options.add_argument("--unsynced", action="store_true", help="what is saved in the loop is left to the kernel")
    args = options.parse_args()
    torch.set_num_threads(1)  # what Ray gives a worker of one CPU
    state = {"model": {str(i): torch.randn(2**18) for i in range(args.mib)}}
    products = steps(args.epoch_s)
    loop = partial(in_the_loop, synced=not args.unsynced)
    names = ("in_the_loop", "in_a_thread", "without_s", "loop_s", "thread_s")
    found: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(args.rounds):
        with scratch() as folder, nullcontext(str(folder / "storage")) if args.local else s3() as storage:
            sweep = SweepFolder(storage, "sweep")
            _, bare = measure(lambda _: None, products, args.epochs)
            sync, with_sync = measure(loop(state, sweep, folder), products, args.epochs)
            thread, with_thread = measure(in_a_thread(state, sweep, folder), products, args.epochs)
        found["in_the_loop"].append(statistics.median(sync))
        found["in_a_thread"].append(statistics.median(thread))
        for name, total in (("without_s", bare), ("loop_s", with_sync), ("thread_s", with_thread)):
            found[name].append(total)
    ratios = [b / a for a, b in zip(found["in_the_loop"], found["in_a_thread"], strict=True)]
    print(json.dumps({
        "mib": args.mib,
        "storage": "folder" if args.local else "s3",
        "synced": not args.unsynced,
        **{name: [round(value, 4) for value in values] for name, values in found.items()},
        "stands_still_ratio": [round(ratio, 3) for ratio in ratios],
        "load": os.getloadavg(),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
