"""What is asked of a sweep from another terminal."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator import control
from orchestrator.control import Control
from orchestrator.folder import SweepFolder
from orchestrator.messages import Command


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    folder = SweepFolder(str(tmp_path), "s")
    folder.create()
    return folder


def test_what_is_asked_is_heard_once_and_what_was_asked_before_never(folder: SweepFolder) -> None:
    control.ask(folder, Command.STOP)
    ear = Control(folder)
    assert ear.heard() is None
    for command in (Command.PAUSE, Command.PAUSE, Command.RESUME):  # the same may be asked again
        control.ask(folder, command)
        assert (ear.heard(), ear.heard()) == (command, None)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"command": "pause"}', '{"command": "sing", "asked": "1"}'])
def test_what_nobody_can_understand_is_not_heard(folder: SweepFolder, text: str) -> None:
    ear = Control(folder)
    folder.write_text(control.FILE, text)
    assert ear.heard() is None
    control.ask(folder, Command.STOP)
    assert ear.heard() is Command.STOP
