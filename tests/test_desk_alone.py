"""The desk by itself, with a page and a delivery that do what a test tells them, when it tells them."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from simulated import simulate

from orchestrator import desk as module
from orchestrator.desk import Desk
from orchestrator.errors import TrackingError

pytestmark = pytest.mark.timeout(120)


class FakePage:
    """A page whose answers can be held back, and which can be down."""

    def __init__(self) -> None:
        self.state, self.down, self.connects = "PENDING", False, 0
        self.asked = threading.Condition()
        self.held = threading.Event()
        self.held.set()
        self.told: list[str] = []
        self.looks, self.sweep_id = 0, None

    def connect(self) -> None:
        self._note("connects")
        if self.down:
            raise TrackingError("cannot be reached")

    def set_state(self, state: str) -> None:
        with self.asked:
            self.told.append(state)
            self.asked.notify_all()
        assert self.held.wait(60)
        self.state = state

    def look(self, run_ids: list[str]) -> tuple[str, set[str]]:
        self._note("looks")
        if self.down:
            raise TrackingError("cannot be reached")
        return self.state, set()

    def _note(self, name: str) -> None:
        with self.asked:
            setattr(self, name, getattr(self, name) + 1)
            self.asked.notify_all()

    def until(self, holds: Callable[[], object]) -> None:
        """Wait until something has been asked of it."""
        with self.asked:
            assert self.asked.wait_for(holds, 60)


class FakeDelivery:
    """Runs of one file each, which are sent at once."""

    def __init__(self) -> None:
        self.sent: set[int] = set()

    def run_id(self, number: int) -> str:
        return f"s-{number}"

    def segments(self, number: int) -> list[Path]:
        return [Path(f"offline-run-{number}/run-s-{number}.wandb")]

    def waiting(self, number: int) -> list[Path]:
        return [] if number in self.sent else self.segments(number)

    def send(self, path: Path, **_: object) -> None:
        self.sent.add(int(path.stem.rpartition("-")[2]))

    def check(self, number: int, **_: object) -> None:
        """All of it is there."""

    def conclude(self, tell: Callable[[], None], *_: object) -> dict[str, str]:
        tell()
        return {}


@pytest.fixture
def page() -> FakePage:
    return FakePage()


@pytest.fixture
def desk(tmp_path: Path, page: FakePage, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.setattr(module, "LOOK_EVERY_S", 0.02)
    folder, spec = simulate(tmp_path, 1)
    desk = Desk(spec, folder, io.StringIO())
    desk._page, desk._delivery = page, FakeDelivery()  # type: ignore[assignment]
    yield desk
    page.down = False
    page.held.set()
    desk.finish("FINISHED", None, [])
    for thread in [each for each in threading.enumerate() if each.name == "page"]:
        thread.join(60)
        assert not thread.is_alive()


def said(desk: Desk) -> list[tuple[str, dict[str, Any]]]:
    assert isinstance(desk._out, io.StringIO)
    return [tuple(json.loads(line)) for line in desk._out.getvalue().splitlines()]


def test_a_pause_that_comes_while_the_page_is_told_is_not_undone(desk: Desk, page: FakePage) -> None:
    page.held.clear()
    desk.open("sweep001", "x")
    page.until(lambda: page.told == ["RUNNING"])
    desk.state("PAUSED")
    page.held.set()
    page.until(lambda: page.told == ["RUNNING", "PAUSED"])
    looks = page.looks
    page.until(lambda: page.looks > looks + 2)
    assert (page.state, [word for word, _ in said(desk)]) == ("PAUSED", [])
