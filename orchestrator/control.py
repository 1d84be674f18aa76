"""What a user asks of a sweep that runs, from another terminal: a small file in the sweep's folder."""

from __future__ import annotations

import json
import uuid

from orchestrator.errors import StorageError
from orchestrator.folder import SweepFolder
from orchestrator.messages import Command

FILE = "control.json"


class Control:
    """The sweep's ear; what was asked before it began to listen was asked of an earlier process."""

    def __init__(self, folder: SweepFolder) -> None:
        self._folder = folder
        self._known = self._read()

    def heard(self) -> Command | None:
        """What was asked since the last call, the last of several; None where nothing was."""
        said = self._read()
        if said is None or said == self._known:
            return None
        self._known = said
        return said[0]

    def _read(self) -> tuple[Command, str] | None:
        try:
            said = json.loads(self._folder.read_text(FILE))
            return Command(said["command"]), str(said["asked"])
        except StorageError:  # nothing was ever asked, or the storage does not answer: the next look is in a second
            return None
        except (ValueError, KeyError, TypeError):  # no user's command wrote that, and no sweep ends because of it
            return None


def ask(folder: SweepFolder, command: Command) -> None:
    """Ask something of the process that runs a sweep; it hears of it within seconds.

    Raises:
        StorageError: the sweep's folder cannot be written.
    """
    # The same may be asked again, and is then new.
    folder.write_text(FILE, json.dumps({"command": str(command), "asked": uuid.uuid4().hex}))
