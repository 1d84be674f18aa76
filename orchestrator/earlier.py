"""What was found before: trials of earlier sweeps and runs in W&B, gathered as a sweep begins."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from orchestrator import folder, known, page
from orchestrator.errors import InputError, SpecError, TrackingError
from orchestrator.known import Found, Known
from orchestrator.ledger import Ledger, TrialRecord
from orchestrator.messages import Outcome
from orchestrator.samplers import SAMPLERS
from orchestrator.spec import Spec

CHANGED = "whose hyperparameters changed as they trained"


def gather(spec: Spec) -> tuple[list[Known], list[str]]:
    """What `warm_start` finds that fits the sweep, and a line of each source about it.

    Args:
        spec: the sweep, resolved.

    Raises:
        SpecError: with every source that is not there, or is about something else.
    """
    taken: list[Known] = []
    lines: list[str] = []
    problems: list[str] = []
    sources = [(name, _sweep) for name in spec.warm_start.sweeps]
    for name, read in [*sources, *([(spec.warm_start.runs, _runs)] if spec.warm_start.runs else [])]:
        try:
            found = list(read(spec, name))
        except InputError as exc:
            problems += exc.problems
            continue
        fitting, dropped = known.fitted(spec, found)
        taken += fitting
        without = "".join(f", {count} {why}" for why, count in dropped.most_common())
        lines.append(f"warm start from {name}: {len(fitting)} of {len(found)} results taken{without}")
    if problems:
        raise SpecError(problems)
    if taken and not SAMPLERS[spec.search.sampler].learns:
        lines.append(f"sampler {spec.search.sampler} learns nothing from these")
    return taken, lines


def _sweep(spec: Spec, name: str) -> Iterator[Found | str]:
    """The trials of an earlier sweep."""
    try:
        there = folder.find(name, spec.storage, where="storage")
    except InputError as exc:
        raise InputError([f"warm_start.sweeps: {problem}" for problem in exc.problems]) from exc
    earlier = Spec.from_yaml(there.read_text("sweep.yaml"))
    if (earlier.metric, earlier.goal) != (spec.metric, spec.goal):
        raise InputError(
            f"warm_start.sweeps: '{name}' was to {earlier.goal} {earlier.metric}, and this sweep is to {spec.goal}"
            f" {spec.metric}; results of another metric say nothing here: take it out"
        )
    return map(_trial, Ledger(there, earlier, read_only=True).records)


def _trial(record: TrialRecord) -> Found | str:
    if record.state == "FAIL":
        return "failed"
    if record.changes:
        return CHANGED
    return Found(params=record.proposed, curve=record.curve)


def _runs(spec: Spec, project: str) -> Iterator[Found | str]:
    """The runs of a project in W&B."""
    entity, _, name = project.rpartition("/")
    # In a process of its own: the SDK leaves a service and variables behind that this one would pass on.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        asked = process.submit(page.results, name, entity or spec.tracking.entity, spec.warm_start.filters)
        try:
            runs = asked.result()
        except TrackingError as exc:
            raise InputError(f"warm_start.runs is '{project}': {exc}") from exc
    if not runs:
        raise InputError(f"warm_start.runs is '{project}', which has no runs that match {spec.warm_start.filters}")
    return (_run(spec, run) for run in runs)


def _run(spec: Spec, run: Mapping[str, Any]) -> Found | str:
    """A run: its best value where it says that, as our own runs do, else its last one."""
    summary, config, last = run["summary"], run["config"], spec.schedule.max_epochs
    if run["state"] != "finished":
        return str(run["state"])
    if config.get("copied_from"):
        return CHANGED
    value = summary.get(f"best_{spec.metric}", summary.get(spec.metric))
    if isinstance(value, Mapping):  # of a metric that was defined with a summary of its own
        value = value.get("max" if spec.goal == "maximize" else "min")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"without {spec.metric}"
    # One that does not say how long it trained, or that it was stopped, is taken for a whole one.
    whole = summary.get("outcome", Outcome.COMPLETE) == Outcome.COMPLETE
    epochs = int(summary.get("epochs", last if whole else 1))
    return Found(params=dict(_flat(config)), curve={min(epochs, last): float(value)})


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """A run's config with its groups' names joined by dots, as hyperparameters are named here; whole groups as well."""
    for name, value in config.items():
        yield f"{prefix}{name}", value
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
