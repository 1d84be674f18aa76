"""Kinds of training loop: one file here is one kind, a class `Loop` in it, and adding a kind is adding one file.

A trainable says by `loop` which one trains it: `package.module` of a file like these, which need not be in here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from orchestrator.attempt import Attempt


class AnyLoop(Protocol):
    """What a worker makes of a kind of loop, once, to train trial after trial with it."""

    def fit(self, trainable: Any, attempt: Attempt) -> None:
        """Build the trial, `attempt.begin()`, train it, and `attempt.report(...)` every epoch.

        To be left behind is nothing that the next trial could find.
        """

    def test(self, trainable: Any, attempt: Attempt) -> dict[str, float]:
        """Measure the checkpoint `attempt.start_from` on the test split.

        Raises:
            SpecError: the trainable does not say how.
        """
