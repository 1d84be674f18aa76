"""What the sweep's process pays for each trial, epoch and node: the constants of docs/scale.md.

    python -m benchmarks.scale --trials 2000
    python -m benchmarks.scale --trials 10000 --epochs 3 --no-sync

The parts are the sweep's own, run alone: nothing is trained, no Ray is started. With `--no-sync` nothing is synced to
disk, so that what the loop itself computes shows, and a record of 10,000 trials is made in minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import Mock, patch

from orchestrator import ranking, results
from orchestrator.folder import SweepFolder
from orchestrator.ledger import Ledger
from orchestrator.messages import Ended, Job, Node, Outcome, Report, Started, Verdict
from orchestrator.results import Status
from orchestrator.spec import Spec, check
from orchestrator.sweep import Sweep
from orchestrator.switchboard import Switchboard

SPEC: dict[str, Any] = {
    "trainable": {"model": {"class_path": "argparse.Namespace"}},  # takes any hyperparameter
    "space": {name: {"type": "float", "low": 1e-5, "high": 1.0, "log": True} for name in "abcdef"},
    "metric": "value",
    "goal": "maximize",
    "search": {"sampler": "random", "seed": 0},
    "name": "scale",
}


def report(number: int, epoch: int) -> Report:
    """An epoch of a trial."""
    path = f"trials/{number}/epoch-{epoch:04d}.ckpt"
    return Report(
        number=number,
        epoch=epoch,
        value=epoch / 10,
        metrics={"value": epoch / 10},
        best_epoch=epoch,
        checkpoint=path,
        best_checkpoint=path,
        epoch_s=1 + random.random(),  # of as many digits as a measured one
    )


def ledger(spec: Spec, folder: SweepFolder, trials: int, epochs: int) -> dict[str, float]:
    """Every trial through the ledger: milliseconds of each step, bytes and memory of each trial."""
    book = Ledger(folder, spec, create=True)
    spent = dict.fromkeys(("ask_ms", "start_ms", "report_ms", "end_ms"), 0.0)

    def timed(step: str, call: Callable[[], object]) -> None:
        began = time.perf_counter()
        call()
        spent[step] += (time.perf_counter() - began) * 1000

    before_mib = _rss_mib()
    for number in range(trials):
        timed("ask_ms", book.ask)
        timed("start_ms", lambda n=number: book.start(Started(number=n, slot="s", wandb_run=None)))  # type: ignore[misc]
        for epoch in range(1, epochs + 1):
            timed("report_ms", lambda n=number, e=epoch: book.report(report(n, e)))  # type: ignore[misc]
        timed("end_ms", lambda n=number: book.end(Ended(number=n, outcome=Outcome.COMPLETE)))  # type: ignore[misc]
    per_trial = {step: total / trials for step, total in spent.items()}
    per_trial["report_ms"] /= epochs
    began = time.perf_counter()
    results.write(folder, results.build(spec, folder, book.records, Status.RUNNING))
    return {
        **per_trial,
        "journal_kib_per_trial": folder.ledger.stat().st_size / 1024 / trials,
        "memory_kib_per_trial": (_rss_mib() - before_mib) * 1024 / trials,
        "results_ms_per_1000_trials": (time.perf_counter() - began) * 1e6 / trials,
    }


def loop(spec: Spec, folder: SweepFolder) -> dict[str, float]:
    """What the sweep's loop does with so many trials on record: CPU milliseconds of a round of each part, at best."""
    book = Ledger(folder, spec)
    sweep = Sweep(spec, folder, book, Mock())
    parts: dict[str, Callable[[], object]] = {
        "look_for_end_ms": sweep._look_for_end,
        "rank_for_eviction_ms": lambda: ranking.evicted(spec.goal, book.records, 10),
        "count_slots_ms": sweep._slots_to_start,
        "results_ms": lambda: results.write(folder, results.build(spec, folder, book.records, Status.RUNNING)),
        "ask_next_ms": book.ask,
    }
    return {name: min(_cpu_ms(part) for _ in range(5)) for name, part in parts.items()}


def _cpu_ms(part: Callable[[], object]) -> float:
    began = time.process_time()
    part()
    return (time.process_time() - began) * 1000


async def switchboard(slots: int, rounds: int) -> dict[str, float]:
    """Epochs of many slots at once through the switchboard: microseconds of its loop for each."""
    board = Switchboard()
    here = [Node(id="n", address="a")]

    async def one(slot: str) -> None:
        await board.assign(slot, Job(number=int(slot), params={}, seed=0))
        await board.join(slot, "i", here)
        await board.take(slot, "i", 0)
        for epoch in range(1, rounds + 1):
            handed_in = asyncio.ensure_future(board.report(slot, "i", report(int(slot), epoch)))
            await board.next_event(slot, 60)
            await board.answer(slot, Verdict.CONTINUE)
            await handed_in

    began = time.perf_counter()
    await asyncio.gather(*(one(str(slot)) for slot in range(slots)))
    return {"switchboard_us_per_epoch": (time.perf_counter() - began) * 1e6 / (slots * rounds)}


def main() -> None:
    """Measure, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=9)
    parser.add_argument("--slots", type=int, default=400)
    parser.add_argument("--no-sync", action="store_true")
    args = parser.parse_args()
    with TemporaryDirectory() as scratch, patch("os.fsync") if args.no_sync else nullcontext():
        spec = check({**SPEC, "storage": scratch, "budget": {"trials": 10 * args.trials}})
        folder = SweepFolder(scratch, "scale")
        folder.create()
        measured = ledger(spec, folder, args.trials, args.epochs)
        measured |= loop(spec, folder)
    measured |= asyncio.run(switchboard(args.slots, 20))
    print(json.dumps({"trials": args.trials} | {name: round(value, 3) for name, value in measured.items()}))


def _rss_mib() -> float:
    """Resident memory of this process, from Linux's /proc."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS:")).split()[1]) / 1024


if __name__ == "__main__":
    main()
