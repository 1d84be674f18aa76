"""What the SDK raises of W&B's trouble leaves in words that a user can act on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
from simulated import simulate
from wandb.sdk.lib.asyncio_manager import RunCancelledError
from wandb.sdk.lib.service.service_connection import WandbApiFailedError
from wandb.sdk.lib.service.service_token import WandbServiceConnectionError
from wandb.sdk.mailbox import HandleAbandonedError, MailboxClosedError

from orchestrator.errors import TrackingError
from orchestrator.page import Page, translated


@pytest.mark.parametrize(
    "lost", [HandleAbandonedError, MailboxClosedError, RunCancelledError, WandbServiceConnectionError]
)
def test_a_service_that_is_gone_is_trouble_like_any_other(lost: type[Exception]) -> None:
    with pytest.raises(TrackingError, match="wandb-core"), translated():
        raise lost("the connection was closed")


@pytest.mark.parametrize(
    ("status", "key", "said"),
    [
        ("401 Unauthorized", True, "refuses the key"),
        ("401 Unauthorized", False, "refuses the key"),
        ("403 Forbidden", True, "refuses the key"),
        ("403 Forbidden", False, "does not permit that to the owner of the key"),
        ("503 Service Unavailable", False, "fails"),
    ],
)
def test_a_refusal_is_of_the_key_only_where_every_key_would_do(status: str, key: bool, said: str) -> None:
    with pytest.raises(TrackingError, match=said), translated(key=key):
        raise WandbApiFailedError(f"returned error {status}")


@pytest.mark.parametrize("name", ["s-401", "model-s-429:latest", "s-503/history", "team/503"])
def test_a_name_is_not_a_refusal(name: str) -> None:
    with pytest.raises(TrackingError, match=f"there is no {name}"), translated():
        raise WandbApiFailedError(f"there is no {name}")


def test_a_winner_without_a_checkpoint_there_is_no_silent_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Page(simulate(tmp_path, 1)[1])
    monkeypatch.setattr(page, "_versions", lambda run_id: [])
    for ask in (lambda: page.crown("s-0", ["s-1"]), lambda: page.link("s-0", "winners", [])):
        with pytest.raises(TrackingError, match="no checkpoint of run s-0 with the alias `best`"):
            ask()


@pytest.mark.parametrize(
    ("said", "target"),
    [
        ("winners", "wandb-registry-model/winners"),
        ("vision/winners", "wandb-registry-vision/winners"),
        ("wandb-registry-vision/winners", "wandb-registry-vision/winners"),
    ],
)
def test_a_collection_is_one_of_the_registry(
    said: str, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As W&B names it: a path without that mark is a collection of a project."""
    page, best = Page(simulate(tmp_path, 1)[1]), Mock()
    monkeypatch.setattr(page, "_best", lambda run_id: best)
    page.link("s-0", said, ["candidate"])
    best.link.assert_called_once_with(target, aliases=["candidate"])


def test_the_sdk_is_loaded_before_there_are_threads_that_use_it() -> None:
    """Two that import it at once see halves of it: the resumed sweep of a killed one had none of its runs sent."""
    code = "import sys; from unittest.mock import Mock; from orchestrator.page import Page; Page(Mock());"
    subprocess.run([sys.executable, "-c", f"{code} sys.exit('wandb' not in sys.modules)"], check=True)
