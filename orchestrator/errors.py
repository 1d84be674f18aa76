"""Every error the orchestrator raises on purpose.

    OrchestratorError                 exit code 1
    ├── InputError                    exit code 2: the user's input, every problem in it at once
    │   ├── SpecError                 a sweep's specification
    │   └── SpaceError                a search space
    ├── SweepError                    a sweep that could not be started, resumed or finished
    ├── StorageError                  the sweep's folder cannot be read or written
    │   └── StorageFullError          there is no room left
    └── TrackingError                 W&B cannot be reached, refuses, or has not what was asked for
        └── UndeliverableError        a run that no further try would bring to W&B

Errors carry data, not only text, and survive pickling, because they cross processes.
"""

from __future__ import annotations

from collections.abc import Sequence


class OrchestratorError(Exception):
    """Base of every error raised on purpose; `exit_code` is what the command line returns for it."""

    exit_code = 1


class InputError(OrchestratorError):
    """The user's input breaks rules; `problems` lists every one of them, a sentence each."""

    exit_code = 2

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        return "\n".join(self.problems)


class SpecError(InputError):
    """A sweep's specification breaks rules."""


class SpaceError(InputError):
    """A search space breaks rules."""


class SweepError(OrchestratorError):
    """A sweep could not be started, resumed or finished."""


class StorageError(OrchestratorError):
    """The sweep's folder cannot be read or written."""


class StorageFullError(StorageError):
    """There is no room left in the sweep's folder."""


class TrackingError(OrchestratorError):
    """Weights & Biases cannot be reached, refuses, or has not what was asked for."""


class UndeliverableError(TrackingError):
    """A run that no further try would bring to Weights & Biases."""
