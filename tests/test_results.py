"""`results.json` and `results.csv`: a document that other programs rely on."""

import csv
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from orchestrator import results
from orchestrator.folder import SweepFolder
from orchestrator.ledger import TrialRecord
from orchestrator.results import Status
from orchestrator.spec import Spec

KEYS = [
    "number",
    "state",
    "params",
    "value",
    "measured",
    "epochs",
    "seed",
    "repeat_of",
    "copied_from",
    "wandb_run",
    "checkpoint",
    "error",
    "started",
    "ended",
]
BEGAN = datetime(2026, 11, 20, 20, 15, 30, 123456, tzinfo=UTC)


def make_spec(**checkpoints: Any) -> Spec:
    return Spec.model_validate(
        {"name": "s", "trainable": "x", "space": {}, "metric": "val/a", "goal": "maximize", "checkpoints": checkpoints}
    )


def record(number: int, state: str, value: float | None, **changes: Any) -> TrialRecord:
    given: dict[str, Any] = {
        "number": number,
        "state": state,
        "params": {"lr": 0.1, "optimizer": "sgd"},
        "value": value,
        "best_epoch": value and 1,
        "curve": {} if value is None else {1: value, 3: 0.0},
        "seed": 5,
        "wandb_run": f"wandb/offline-run-{number}",
        "checkpoint": None if value is None else f"trials/{number}/epoch-0001.ckpt",
        "error": None,
        "started": BEGAN,
        "ended": None if state == "RUNNING" else BEGAN,
        "attempts": (),
    }
    return TrialRecord(**{**given, **changes})


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    return SweepFolder(str(tmp_path), "s")


@pytest.fixture
def records() -> list[TrialRecord]:
    return [
        record(0, "PRUNED", 0.95),
        record(1, "COMPLETE", 0.9),
        record(2, "FAIL", 0.99, error="ValueError: boom, twice"),
        record(3, "RUNNING", None, started=None, wandb_run="https://wandb.ai/x/y/runs/s-3", params={"depth": None}),
    ]


def test_the_document(folder: SweepFolder, records: list[TrialRecord], tmp_path: Path) -> None:
    document = results.build(make_spec(), folder, records, Status.RUNNING)
    assert list(document) == [
        "sweep", "metric", "goal", "objectives", "constraints", "status", "end", "best", "front", "trials",
    ]  # fmt: skip
    assert {key: document[key] for key in ("sweep", "metric", "goal", "status")} == {
        "sweep": "s", "metric": "val/a", "goal": "maximize", "status": "running"
    }  # fmt: skip
    assert [list(trial) for trial in document["trials"]] == [KEYS] * 4
    assert document["trials"][0] == {
        "number": 0,
        "state": "PRUNED",
        "params": {"lr": 0.1, "optimizer": "sgd"},
        "value": 0.95,
        "measured": {},
        "epochs": 3,
        "seed": 5,
        "repeat_of": None,
        "copied_from": None,
        "wandb_run": f"{tmp_path}/s/wandb/offline-run-0",
        "checkpoint": f"{tmp_path}/s/trials/0/epoch-0001.ckpt",
        "error": None,
        "started": "2026-11-20T20:15:30.123+00:00",
        "ended": "2026-11-20T20:15:30.123+00:00",
    }
    assert document["trials"][2]["error"] == "ValueError: boom, twice"
    waiting = document["trials"][3]
    assert [waiting[key] for key in ("value", "epochs", "checkpoint", "started", "ended")] == [
        None,
        0,
        None,
        None,
        None,
    ]
    assert waiting["wandb_run"] == "https://wandb.ai/x/y/runs/s-3"


def test_best_is_one_of_the_trials(folder: SweepFolder, records: list[TrialRecord]) -> None:
    document = results.build(make_spec(), folder, records, Status.RUNNING)
    assert document["best"] is document["trials"][1]  # had its whole budget
    assert results.build(make_spec(), folder, records[:1], Status.RUNNING)["best"]["number"] == 0
    assert results.build(make_spec(), folder, records[3:], Status.RUNNING)["best"] is None
    assert results.build(make_spec(), folder, [], Status.RUNNING)["best"] is None


def test_checkpoints_that_were_not_kept_are_null(folder: SweepFolder, records: list[TrialRecord]) -> None:
    trials = results.build(make_spec(keep_trials=1), folder, records, Status.RUNNING)["trials"]
    assert [trial["checkpoint"] is not None for trial in trials] == [False, True, False, False]


def test_states_and_status_are_words() -> None:
    assert [str(status) for status in Status] == [
        "running", "paused", "finished", "stopped", "cancelled", "interrupted", "failed", "dead",
    ]  # fmt: skip
    assert json.dumps(Status.DEAD) == '"dead"'


def test_the_files(folder: SweepFolder, records: list[TrialRecord]) -> None:
    folder.create()
    document = results.build(make_spec(), folder, records, Status.FINISHED)
    results.write(folder, document)
    assert json.loads(folder.read_text("results.json")) == document
    rows = list(csv.DictReader(folder.read_text("results.csv").splitlines()))
    assert list(rows[0]) == [
        *(key for key in KEYS if key not in ("params", "measured")),
        "params.lr",
        "params.optimizer",
        "params.depth",
    ]
    assert [row["value"] for row in rows] == ["0.95", "0.9", "0.99", ""]
    assert rows[2]["error"] == "ValueError: boom, twice"
    assert (rows[0]["params.lr"], rows[3]["params.lr"]) == ("0.1", "")


def test_a_sweep_without_trials(folder: SweepFolder) -> None:
    folder.create()
    results.write(folder, results.build(make_spec(), folder, [], Status.RUNNING))
    assert json.loads(folder.read_text("results.json"))["trials"] == []
    assert folder.read_text("results.csv").strip() == ""
