"""A trial on record, once more: replayed, or tested on the split that no search has looked at."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from orchestrator import cluster, ranking, runlog, solo
from orchestrator.errors import InputError, SweepError, TrackingError
from orchestrator.folder import SweepFolder, sent_marker
from orchestrator.ledger import Ledger, TrialRecord
from orchestrator.messages import Job, Task, Verdict
from orchestrator.naming import run_id, trial_seed
from orchestrator.page import Page
from orchestrator.spec import Spec


def replay(spec: Spec, folder: SweepFolder, record: TrialRecord) -> dict[int, float]:
    """Train a trial again for as many epochs as it had; the metric by epoch.

    Raises:
        InputError: it is a trial of a population, whose hyperparameters changed as it trained.
        SweepError: it failed.
    """
    _require_one_configuration(record)
    last = max(record.curve)
    job = Job(number=record.number, params=record.params, seed=record.seed)
    apart = _apart(spec, folder, "replays")
    with SweepFolder(apart.storage, apart.name or "").locked():  # another replay writes the same checkpoints
        (ran,) = solo.run(apart, [job], lambda report: Verdict.PRUNE if report.epoch >= last else Verdict.CONTINUE)
    return {report.epoch: report.value for report in ran.reports}


def evaluate(spec: Spec, folder: SweepFolder, *, seeds: int) -> tuple[int, dict[str, float]]:
    """Test the winner's checkpoint, and, where asked, as many trainings of it with other seeds.

    Returns:
        The winner's number, and its metrics; of the other seeds' their `mean` and `std` over the seeds.

    Raises:
        InputError: the sweep still runs, there is no winner whose checkpoint was kept, or it is to be trained again and
            has no single configuration.
        SweepError: testing failed.
    """
    with folder.locked(), cluster.connected():
        ledger = Ledger(folder, spec)
        winner = next(iter(ranking.ranked(spec.goal, ledger.records)), None)
        if winner is None:
            raise InputError(f"{spec.name} has no best trial yet: none has reached the end of an epoch")
        if winner.checkpoint is None:
            raise InputError(f"the checkpoint of trial {winner.number} was not kept (checkpoints.keep)")
        if seeds:
            _require_one_configuration(winner)
        metrics = _test(spec, winner)
        if seeds:
            metrics |= _spread(_train_again(spec, folder, winner, seeds))
        ledger.remember("evaluation", {"trial": winner.number, "seeds": seeds, "metrics": metrics})
        folder.push(folder.ledger.name)
        _log(spec, folder, winner, metrics)
    return winner.number, metrics


def _require_one_configuration(record: TrialRecord) -> None:
    if record.changes:
        raise InputError(
            f"trial {record.number} has no single configuration to train again: its hyperparameters changed as it"
            f" trained, and it went on from others' checkpoints, at epochs"
            f" {', '.join(str(change.epoch) for change in record.changes)}; its checkpoint is what was found"
        )


def _test(spec: Spec, winner: TrialRecord) -> dict[str, float]:
    """On one worker: shared out to several, some examples could be counted twice."""
    alone = {
        "resources": spec.resources.model_copy(update={"workers": 1, "strategy": "auto"}),
        "tracking": spec.tracking.model_copy(update={"mode": "disabled"}),
    }
    job = Job(
        number=winner.number, params=winner.params, seed=winner.seed, start_from=winner.checkpoint, task=Task.TEST
    )
    (ran,) = solo.run(spec.model_copy(update=alone), [job])
    return dict(ran.ended.tested or {})


def _train_again(spec: Spec, folder: SweepFolder, winner: TrialRecord, seeds: int) -> list[dict[str, float]]:
    jobs = [
        Job(number=number, params=winner.params, seed=trial_seed(winner.seed, number), task=Task.TRAIN_AND_TEST)
        for number in range(seeds)
    ]
    return [dict(ran.ended.tested or {}) for ran in solo.run(_apart(spec, folder, "evaluations"), jobs)]


def _spread(measured: Sequence[dict[str, float]]) -> dict[str, float]:
    spread = {}
    for name in measured[0]:
        values = [each[name] for each in measured]
        spread[f"{name}/mean"] = statistics.fmean(values)
        spread[f"{name}/std"] = statistics.stdev(values) if len(values) > 1 else 0.0
    return spread


def _log(spec: Spec, folder: SweepFolder, winner: TrialRecord, metrics: dict[str, float]) -> None:
    """Into the winner's own run.

    Raises:
        SweepError: W&B did not take it; it is on record all the same.
    """
    name = run_id(spec.name or "", winner.number)
    if spec.tracking.mode == "online":
        page = Page(spec, Ledger(folder, spec, read_only=True).recall("wandb_sweep"))
        try:
            page.connect()
            page.add_to_summary(name, metrics)
        except TrackingError as exc:
            text = f"measured {metrics}, which is on record, but W&B did not take it: {exc}; `sync` brings it up"
            raise SweepError(text) from exc
    elif (files := folder.run_files(name)) and not sent_marker(files[-1]).exists():  # else `sync` adds it there
        runlog.amend(files[-1], metrics)


def _apart(spec: Spec, folder: SweepFolder, where: str) -> Spec:
    """The same spec for a trial that is not of the sweep: in a folder beside the sweep's trials, with no W&B run."""
    checkpoints = spec.checkpoints.model_copy(update={"keep": "best"})
    tracking = spec.tracking.model_copy(update={"mode": "disabled"})
    storage = folder.show("").rstrip("/")
    if folder.has(folder.weights):  # what every trial starts from
        beside = SweepFolder(storage, where)
        beside.create()
        with tempfile.TemporaryDirectory() as scratch:
            beside.upload(folder.local_copy(folder.weights, Path(scratch)), beside.weights)
    return spec.model_copy(update={"storage": storage, "name": where, "tracking": tracking, "checkpoints": checkpoints})
