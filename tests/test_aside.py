"""Work in threads of its own, and the end of the process."""

from __future__ import annotations

import threading
import time

import pytest

from orchestrator import aside


def test_its_exception_is_raised_where_the_result_is_asked_for() -> None:
    asked = aside.begin("fails", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        asked.result(60)


def test_what_was_begun_may_end_but_is_not_waited_for_for_ever() -> None:
    ends = aside.begin("ends", time.sleep, 0.2)
    aside.wait(60)
    assert ends.done()
    held = threading.Event()
    hangs = aside.begin("hangs", held.wait)
    aside.wait(0.1)
    assert not hangs.done()
    held.set()
    aside.wait(60)
    assert hangs.done()
