"""What a slot makes of a run of Ray Train's that ended badly, in Ray Train's own errors."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from ray.exceptions import ActorDiedError
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.exceptions import (
    WorkerGroupStartupFailedError,
    WorkerGroupStartupTimeoutError,
    WorkerHealthCheckFailedError,
)

from orchestrator.slot import _found_no_room, _has_died

KILLED = WorkerHealthCheckFailedError("gone", failure=ActorDiedError())


@pytest.mark.parametrize(
    ("error", "no_room", "died"),
    [
        (ControllerError(WorkerGroupStartupTimeoutError(2)), True, False),
        (ControllerError(WorkerGroupStartupFailedError("a node died")), False, True),
        (ControllerError(ActorDiedError()), False, True),
        (ControllerError(ImportError("no module")), False, False),
        (WorkerGroupError("x", {0: ValueError("boom")}), False, False),
        (WorkerGroupError("x", {0: ValueError("boom"), 1: KILLED}), False, True),
        (SimpleNamespace(), False, False),
    ],
)
def test_what_a_run_ended_by(error: Exception, no_room: bool, died: bool) -> None:
    assert (_found_no_room(error), _has_died(error)) == (no_room, died)
