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

from orchestrator import cli
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
        self.looks, self.sweep_id, self.deleted = 0, None, None
        self.dropped: list[str] = []
        self.dropping: Callable[[], None] = lambda: None

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

    def admit(self, run_id: str) -> None:
        """It is a member now."""

    def address(self, run_id: str) -> str:
        return f"https://example.com/{run_id}"

    def drop_checkpoints(self, run_id: str) -> None:
        self.dropped.append(run_id)
        self.dropping()

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

    def __init__(self, page: FakePage) -> None:
        self.page = page
        self.sent: set[int] = set()
        self.checked: Callable[[], None] = lambda: None
        self.settling: Callable[[], None] = lambda: None

    def run_id(self, number: int) -> str:
        return f"s-{number}"

    def segments(self, number: int) -> list[Path]:
        return [Path(f"offline-run-{number}/run-s-{number}.wandb")]

    def waiting(self, number: int) -> list[Path]:
        if number in self.sent:
            self.checked()
        return [] if number in self.sent else self.segments(number)

    def send(self, path: Path, **_: object) -> None:
        self.sent.add(int(path.stem.rpartition("-")[2]))

    def settle(self, number: int, **_: object) -> None:
        self.settling()

    def conclude(self, tell: Callable[[], None], *_: object) -> dict[str, str]:
        tell()
        return {}

    def drop_checkpoints(self, number: int) -> None:
        self.page.drop_checkpoints(self.run_id(number))

    def keep_exports(self, _: list[int]) -> dict[str, str]:
        return {}


@pytest.fixture
def page() -> FakePage:
    return FakePage()


@pytest.fixture
def desk(tmp_path: Path, page: FakePage, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.setattr(module, "LOOK_EVERY_S", 0.02)
    folder, spec = simulate(tmp_path, 1)
    desk = Desk(spec, folder, io.StringIO())
    desk._page, desk._delivery = page, FakeDelivery(page)  # type: ignore[assignment]
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


def test_a_server_that_recovers_before_the_end_gets_all(
    desk: Desk, page: FakePage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the desk would have waited until it tried again."""
    for name in ("FIRST_WAIT_S", "MAX_WAIT_S"):
        monkeypatch.setattr(module, name, 3600)
    page.down = True
    desk.open("sweep001", "x")
    desk.follow(0, "offline-run-0")
    page.until(lambda: page.connects == 1)
    page.down = False
    desk.finish("FINISHED", None, [])
    assert said(desk)[-1] == ("Delivered", {"missing": []})
    assert page.state == "FINISHED"


def test_an_instant_without_the_server_does_not_end_the_wait(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """What counts is for how long it has been away, and not before the sweep's end."""
    monkeypatch.setattr(module.time, "monotonic", lambda: 1000.0)
    long, short = module.UNREACHABLE_TIMEOUT_S + 1, module.UNREACHABLE_TIMEOUT_S - 1
    desk._connected, desk._cut_off_at = True, 0.0
    assert not desk._is_hopeless(1000 - long)
    desk._cut_off()
    assert not desk._is_hopeless(1000 - long)
    desk._cut_off_at = 1000 - long
    desk._cut_off()
    assert not desk._is_hopeless(1000 - short)
    assert desk._is_hopeless(1000 - long)
    desk._connected = True
    assert desk._is_hopeless(1000 - module.FINISH_TIMEOUT_S - 1)


def test_what_is_noted_at_the_last_moment_is_done(desk: Desk, page: FakePage) -> None:
    delivery = desk._delivery
    assert isinstance(delivery, FakeDelivery)
    evicts = iter([lambda: None, lambda: desk.evict([0])])  # asked what waits first for sending, then at the end
    delivery.sent, delivery.checked = {0}, lambda: next(evicts, lambda: None)()
    desk.open("sweep001", "x")
    desk.ended(0, "complete", None, closed=True)
    desk.finish("FINISHED", None, [])
    assert page.dropped == ["s-0"]


def test_runs_are_checked_and_dropped_a_few_at_a_time(desk: Desk, page: FakePage) -> None:
    """Each takes several requests, and a resumed sweep drops the checkpoints of all that it ever dropped."""
    delivery, left = desk._delivery, list[int]()
    assert isinstance(delivery, FakeDelivery)
    delivery.settling = page.dropping = lambda: left.append(desk._at_once._value)
    desk.open("sweep001", "x")
    desk.evict([0])
    desk.finish("FINISHED", None, [])
    assert left == 2 * [module.AT_ONCE - 1]


def test_an_end_is_told_to_a_server_that_comes_back(desk: Desk, page: FakePage) -> None:
    """Also where all runs are there already."""
    desk.open("sweep001", "x")
    page.until(lambda: page.looks)
    page.down = True
    page.until(lambda: not desk._connected)
    ends = threading.Thread(target=desk.finish, args=["FINISHED", None, []])
    ends.start()
    connects = page.connects
    page.until(lambda: page.connects > connects or not ends.is_alive())
    page.down = False
    ends.join(60)
    assert page.state == "FINISHED"
    assert said(desk)[-1] == ("Delivered", {"missing": []})


def test_a_trial_that_ends_has_its_own_folders_looked_for(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not those of all others, of which there may be thousands, in an object store."""
    asked: list[str] = []
    monkeypatch.setattr(desk._folder, "download_tree", asked.append)
    desk.open("sweep001", "x")
    desk.follow(3, "wandb/offline-run-20261121_120000-s-3")
    desk.follow(3, "/tmp/elsewhere/wandb/offline-run-20261121_120001-s-3")
    desk.ended(3, "complete", None, closed=True)
    desk.ended(4, "complete", None, closed=True)
    assert asked == [
        "wandb", "wandb/offline-run-20261121_120000-s-3", "wandb/checkpoints/3", "wandb/checkpoints/4",
    ]  # fmt: skip


def test_a_sweep_without_runs_gets_no_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, _ = simulate(tmp_path, 1, tracking={"mode": "disabled"})
    assert cli.main(["sync", folder.show("").rstrip("/")]) == 2
    assert "tracking.mode=disabled" in capsys.readouterr().err
