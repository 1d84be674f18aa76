"""`results.json` and `results.csv`: what a sweep found, made from its ledger; documented in docs/results.md."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any

from orchestrator import ranking
from orchestrator.folder import SweepFolder
from orchestrator.ledger import TrialRecord
from orchestrator.spec import Spec


class Status(StrEnum):
    """How a sweep stands."""

    RUNNING = "running"
    PAUSED = "paused"  # runs, and starts no new trials until it is resumed
    FINISHED = "finished"
    STOPPED = "stopped"  # by the user: trials that ran went on to their end; `resume` goes on
    CANCELLED = "cancelled"  # by the user: trials that ran were stopped at a checkpoint; `resume` goes on
    INTERRUPTED = "interrupted"  # stopped by Ctrl-C or SIGTERM; `resume` goes on
    FAILED = "failed"  # too many failed trials, or a spec that does not fit its trainable
    DEAD = "dead"  # says "running", but no process holds its lock: it was killed; `resume` goes on


# Said of a sweep whose process is at work; it does not say so of itself when it was killed.
ALIVE = (Status.RUNNING, Status.PAUSED)


# How a sweep stands, in W&B's words. One that was interrupted will be resumed.
STATES = {
    Status.RUNNING: "RUNNING",
    Status.PAUSED: "PAUSED",
    Status.FINISHED: "FINISHED",
    Status.STOPPED: "FINISHED",
    Status.CANCELLED: "CANCELED",
    Status.INTERRUPTED: "PAUSED",
    Status.FAILED: "CANCELED",
}


def build(
    spec: Spec, folder: SweepFolder, records: Sequence[TrialRecord], status: Status, end: str | None = None
) -> dict[str, Any]:
    """The document that `results.json` holds; `end` is why the sweep is over, where not all its trials were run."""
    gone = {record.number for record in ranking.evicted(spec.goal, records, spec.checkpoints.keep_trials)}
    trials = [_trial(folder, record, kept=record.number not in gone) for record in records]
    best = next(iter(ranking.ranked(spec.goal, records)), None)
    return {
        "sweep": spec.name,
        "metric": spec.metric,
        "goal": spec.goal,
        "objectives": dict(spec.objectives),
        "constraints": list(spec.constraints),
        "status": str(status),
        "end": end,
        "best": trials[best.number] if best else None,
        "front": [record.number for record in ranking.front(spec.goals, records)],
        "trials": trials,
    }


def write(folder: SweepFolder, document: dict[str, Any]) -> None:
    """Write `results.json` and `results.csv`."""
    folder.write_text("results.json", json.dumps(document, indent=1) + "\n")
    folder.write_text("results.csv", _csv(document["trials"]))


def _trial(folder: SweepFolder, record: TrialRecord, kept: bool) -> dict[str, Any]:
    return {
        "number": record.number,
        "state": record.state,
        "params": dict(record.params),
        "value": record.value,
        "measured": dict(record.measured),
        "epochs": max(record.curve, default=0),
        "seed": record.seed,
        "repeat_of": record.repeat_of,
        "copied_from": _copies(record),
        "wandb_run": _place(folder, record.wandb_run),
        "checkpoint": _place(folder, record.checkpoint) if kept else None,
        "error": record.error,
        "started": _time(record.started),
        "ended": _time(record.ended),
    }


def _copies(record: TrialRecord) -> str | None:
    """Whose checkpoints it took, and of which epochs: `7@4 2@6`."""
    copies = [f"{change.copied_from}@{change.epoch}" for change in record.changes if change.copied_from is not None]
    return " ".join(copies) or None


def _place(folder: SweepFolder, path: str | None) -> str | None:
    return folder.show(path) if path and "://" not in path else path


def _time(moment: datetime | None) -> str | None:
    return moment.isoformat(timespec="milliseconds") if moment else None


def _csv(trials: Sequence[dict[str, Any]]) -> str:
    groups = ("measured", "params")
    plain = [name for name in trials[0] if name not in groups] if trials else []
    named = [(group, name) for group in groups for name in dict.fromkeys(n for trial in trials for n in trial[group])]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([*plain, *(f"{group}.{name}" for group, name in named)])
    for trial in trials:
        table.writerow([*(trial[name] for name in plain), *(trial[group].get(name) for group, name in named)])
    return text.getvalue()
