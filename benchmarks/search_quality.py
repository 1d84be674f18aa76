"""How good a model is found in how much compute: this orchestrator's search and its peers on real learning curves.

    python -m benchmarks.search_quality digits

Every method searches the same table by the same simulated workers, `--seeds` times with 4 and with 16 workers. Compute
is in trainings: seconds of all workers together over those of an average training of all 27 epochs. Regret is the best
loss seen so far above the best in the table; over the seeds the interquartile mean is given, with a 95% interval from
a stratified bootstrap (Agarwal et al., 2021, arXiv:2108.13264).
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.pool import Pool
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray

from benchmarks.contenders import CONTENDERS, OURS, RANDOM
from benchmarks.simulator import simulate
from benchmarks.table import EPOCHS, TASKS, load

Array = NDArray[np.float64]

WORKERS = (4, 16)
SHOWN = (2, 5, 10, 20, 30, 50)
RESAMPLES = 2000


@dataclass(frozen=True)
class Job:
    """One search."""

    task: str
    contender: str
    workers: int
    seed: int
    trainings: float


def budgets(trainings: float) -> Array:
    """Where regret is read off, in trainings: 25 times for each doubling, up to the whole budget."""
    return np.geomspace(1.0, trainings, 1 + round(25 * np.log2(trainings)))


def regrets(job: Job) -> Array:
    """(budgets,): the regret of one search; before the first epoch has ended, that of the worst loss there is."""
    warnings.simplefilter("ignore")  # what Optuna calls experimental
    table = load(job.task)
    training_s = float(table.epoch_s.mean()) * EPOCHS
    contender = CONTENDERS[job.contender](job.seed)
    events = simulate(contender, table, workers=job.workers, compute_s=job.trainings * training_s)
    spent = np.array([0.0, *(event.ended_s * job.workers / training_s for event in events)])
    best = np.minimum.accumulate([table.losses.max(), *(event.loss for event in events)])
    found: Array = best[np.searchsorted(spent, budgets(job.trainings), side="right") - 1] - table.losses.min()
    return found


def searched(pool: Pool, jobs: Sequence[Job], kept: Path | None) -> Array:
    """(jobs, budgets): the regrets of one method's searches."""
    first = jobs[0]
    name = f"{first.task}-{first.contender}-{first.workers}-{len(jobs)}-{first.trainings:g}.npy"
    path = kept / name if kept else None
    if path and path.exists():
        found: Array = np.load(path)
        return found
    found = np.array(pool.map(regrets, jobs, chunksize=1))
    if path:
        np.save(path, found)
    return found


def interquartile_mean(samples: Array) -> Array:
    """(..., seeds) to (...): the mean of the middle half."""
    quarter = samples.shape[-1] // 4
    middle = np.sort(samples, axis=-1)[..., quarter : samples.shape[-1] - quarter]
    mean: Array = middle.mean(axis=-1)
    return mean


def resampled(curves: Array, seed: int) -> Array:
    """(seeds, budgets) to (`RESAMPLES`, budgets): the interquartile mean of as many seeds, drawn again and again."""
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(curves), size=(RESAMPLES, len(curves)))
    return np.array([interquartile_mean(curves[seeds].T) for seeds in drawn])


def reached(curve: Array, target: float, at: Array) -> float:
    """The budget from which on a curve is no worse than a target; infinite where it never is."""
    good = curve <= target
    return float(at[np.argmax(good)]) if good.any() else float("inf")


def ratios(owns: Array, others: Array) -> Array:
    """Of the compute that ours and another method need; where neither gets there, none."""
    with np.errstate(invalid="ignore"):
        found: Array = owns / others
    return found[~np.isnan(found)]


def interval(samples: Array) -> tuple[float, float]:
    """The middle 95%."""
    low, high = np.quantile(samples, [0.025, 0.975], method="nearest")
    return float(low), float(high)


@dataclass(frozen=True, kw_only=True)
class Result:
    """A method's searches with so many workers."""

    mean: Array
    """(budgets,): the interquartile mean."""
    again: Array
    """(`RESAMPLES`, budgets): the same of other draws of the seeds."""


def summary(results: Mapping[str, Result], at: Array) -> list[str]:
    """The table of one number of workers, as lines of text."""
    target, targets = results[RANDOM].mean[-1], results[RANDOM].again[:, -1]
    ours = results[OURS]
    own = reached(ours.mean, target, at)
    owns = np.array([reached(*pair, at) for pair in zip(ours.again, targets, strict=True)])
    shown = [budget for budget in SHOWN if budget <= at[-1]]
    lines = [f"{'regret after trainings':26}" + "".join(f"{budget:>10}" for budget in shown) + "   to reach random's"]
    for name, result in results.items():
        needs = reached(result.mean, target, at)
        need = np.array([reached(*pair, at) for pair in zip(result.again, targets, strict=True)])
        values = "".join(f"{result.mean[np.searchsorted(at, budget)]:10.4f}" for budget in shown)
        low, high = interval(need)
        lines.append(f"{name:26}{values}   {needs:6.1f} ({low:.1f} to {high:.1f})")
    for name, result in results.items():
        if name == OURS:
            continue
        needs = reached(result.mean, target, at)
        need = np.array([reached(*pair, at) for pair in zip(result.again, targets, strict=True)])
        low, high = interval(ratios(owns, need))
        worse = np.quantile(ours.again - result.again, 0.025, axis=0) > 0
        lines.append(
            f"ours / {name}: {own / needs:.2f} ({low:.2f} to {high:.2f}) of the compute;"
            f" no worse at {np.mean(ours.mean <= result.mean):.0%} of the budgets,"
            f" surely worse at {np.mean(worse):.0%}"
        )
    return lines


def plot(task: str, results: Mapping[int, Mapping[str, Result]], at: Array, path: Path) -> None:
    """Regret against compute, a panel for each number of workers."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(results), figsize=(10, 4), sharey=True, layout="constrained")
    for panel, (workers, methods) in zip(panels, results.items(), strict=True):
        for name, result in methods.items():
            [line] = panel.plot(at, result.mean, label=name, linewidth=2 if name == OURS else 1)
            low, high = np.quantile(result.again, [0.025, 0.975], axis=0)
            panel.fill_between(at, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        panel.set(xscale="log", yscale="log", title=f"{task}, {workers} workers", xlabel="compute, trainings")
    panels[0].set_ylabel("regret, interquartile mean")
    panels[0].legend(fontsize=8)
    figure.savefig(path, dpi=80)


def main() -> None:
    """Run everything, print the tables, and write the plot beside this file."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("task", choices=TASKS)
    options.add_argument("--seeds", type=int, default=50)
    options.add_argument("--trainings", type=float, default=50, help="the whole budget of each search")
    options.add_argument("--processes", type=int, default=os.cpu_count())
    options.add_argument("--kept", type=Path, help="a folder for regrets; those in it are not made again")
    args = options.parse_args()
    began_s, at = time.monotonic(), budgets(args.trainings)
    results: dict[int, dict[str, Result]] = {}
    with multiprocessing.get_context("spawn").Pool(args.processes) as pool:
        for workers in WORKERS:
            results[workers] = {}
            for name in CONTENDERS:
                jobs = [Job(args.task, name, workers, seed, args.trainings) for seed in range(args.seeds)]
                curves = searched(pool, jobs, args.kept)
                again = resampled(curves, seed=workers)
                results[workers][name] = Result(mean=interquartile_mean(curves.T), again=again)
            lines = summary(results[workers], at)
            print(f"{args.task}, {workers} workers, {args.seeds} seeds", *lines, sep="\n", end="\n\n", flush=True)
    plot(args.task, results, at, Path(__file__).parent / f"search_quality_{args.task}.png")
    print(f"{time.monotonic() - began_s:.0f} s with {args.processes} processes")


if __name__ == "__main__":
    main()
