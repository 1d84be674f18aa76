"""How many trials run at once: decided from what one needs and what there is, so that none waits for ever."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.errors import SpecError
from orchestrator.spec import Resources

# What a slot itself takes of its node while its workers train: nothing to speak of, but Tune wants a number above 0.
SLOT_SHARE = 0.001
# The custom resource of the node that carries the sweep; a cluster without it pays the share in CPUs.
HEAD = "head"


@dataclass(frozen=True, kw_only=True)
class Concurrency:
    """How many trials run at once, and why."""

    trials: int
    reason: str


def concurrency(resources: Resources, nodes: Sequence[Mapping[str, float]], budget_trials: int) -> Concurrency:
    """Trials at once on a cluster that can have these nodes, what each offers in Ray's resource names.

    A worker lies on one node: one of two GPUs does not fit on two nodes with one each. A trial that may do with fewer
    workers counts with all of them, where there is room for as many.

    Raises:
        SpecError: not one fits, or fewer than were asked for.
    """
    have = {name: sum(node.get(name, 0.0) for node in nodes) for name in {name for node in nodes for name in node}}
    slot_cpu = 0 if HEAD in have else SLOT_SHARE
    there = sum(_fit(resources, node, slot_cpu) for node in nodes)
    workers = max(resources.fewest_workers, min(resources.most_workers, there))
    need = {"CPU": workers * resources.cpus_per_worker, "GPU": workers * resources.gpus_per_worker}
    fits = {"CPU": _whole(have.get("CPU", 0.0) / (need["CPU"] + slot_cpu))}
    if need["GPU"]:
        fits["GPU"] = _workers(resources.gpus_per_worker, have.get("GPU", 0.0)) // workers
    scarce = min(fits, key=lambda name: fits[name])
    needs = " and ".join(f"{amount:g} {name}{'s' if amount != 1 else ''}" for name, amount in need.items() if amount)
    possible = f"{have.get(scarce, 0):g} {scarce}{'s' if have.get(scarce, 0) != 1 else ''}"
    what = f"a trial needs {needs} (resources.workers={resources.workers}), and there can be {possible}"
    if there // workers < fits[scarce]:
        scarce = "nodes"
        fits[scarce] = there // workers
        what += f", on nodes that hold {there} such worker{'s' if there != 1 else ''}"
    if not fits[scarce]:
        raise SpecError(f"resources: {what}; ask for less, or start the sweep where there is more")
    if isinstance(resources.concurrency, int):
        most = there // resources.fewest_workers if resources.is_elastic else fits[scarce]
        if resources.concurrency > most:
            raise SpecError(
                f"resources.concurrency is {resources.concurrency}, but {what}: at most {most} at once;"
                " lower it, or leave it at 'auto'"
            )
        return Concurrency(trials=min(resources.concurrency, budget_trials), reason="as resources.concurrency says")
    if budget_trials < fits[scarce]:
        return Concurrency(trials=budget_trials, reason=f"no more are to be run; {what}")
    return Concurrency(trials=fits[scarce], reason=what)


def workers_that_fit(resources: Resources, free: Iterable[Mapping[str, float]]) -> int:
    """Workers of one trial, up to the most that it asks for, that there is room for on nodes with so much free."""
    return min(resources.most_workers, sum(_fit(resources, node, 0) for node in free))


def workers_wanted(resources: Resources, nodes: Iterable[Mapping[str, float]], trials: int) -> int:
    """Workers that so many trials would have at most, of as many as a cluster holds that can have these nodes."""
    return min(trials * resources.most_workers, sum(_fit(resources, node, 0) for node in nodes))


def _fit(resources: Resources, node: Mapping[str, float], slot_cpu: float) -> int:
    """Workers that fit on one node; slots that take CPUs take them, at most, where the workers are."""
    fits = _whole(node.get("CPU", 0.0) / (resources.cpus_per_worker + slot_cpu / resources.fewest_workers))
    return min(fits, _workers(resources.gpus_per_worker, node.get("GPU", 0.0))) if resources.gpus_per_worker else fits


def _workers(gpus_each: float, gpus: float) -> int:
    """Workers that GPUs are enough for; a worker's share of a GPU lies on one of them: 2 hold two shares of 0.6."""
    if gpus_each >= 1 or (1 / gpus_each).is_integer():  # then what is left of one is for as many as it looks
        return _whole(gpus / gpus_each)
    return int(gpus) * _whole(1 / gpus_each)


def slots_to_start(*, ready: int, remaining_trials: int, trial_s: float, start_s: float, cpus: int) -> int:
    """How many slots may be starting now, besides the `ready` ones.

    A slot's start keeps more than one core busy for as long as several short trials take. A few start at once, by the
    cores there are; more when those that are ready would still be at work in twice the time that a start takes.

    Args:
        ready: slots that have begun a trial.
        remaining_trials: trials that have not ended.
        trial_s: seconds of a trial so far, the longest or the mean.
        start_s: seconds the first slot took to start.
        cpus: cores of the machine that carries the slots.
    """
    first = max(1, cpus // 4)
    if not ready:
        return first
    return remaining_trials if remaining_trials * trial_s / ready > 2 * start_s else max(0, first - ready)


def _whole(ratio: float) -> int:
    """The whole part, where 2 / 0.1 is 20 in spite of floating point."""
    return int(ratio + 1e-9)
