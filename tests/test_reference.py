"""How a checkpoint that is an artifact gets here; that it does is in tests/test_tracking.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator import reference
from orchestrator.errors import TrackingError


def test_a_download_that_does_not_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "FETCH_TIMEOUT_S", 0.01)
    with pytest.raises(TrackingError, match=r"W&B has not sent team/project/model:v0 within 0\.01 s"):
        reference.fetched("team/project/model:v0", tmp_path)
