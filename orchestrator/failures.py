"""What is done about a failure: decided here, from facts alone, and carried out elsewhere."""

from __future__ import annotations

from orchestrator.messages import Outcome


def is_retried(*, outcome: Outcome, attempt: int, retries: int) -> bool:
    """Whether a trial whose workers were lost on its attempt number `attempt`, counted from 0, is tried again."""
    return outcome is Outcome.FAILED and attempt < retries


def ends_sweep(outcome: Outcome) -> bool:
    """Whether a trial that ended so shows that every other would."""
    return outcome in (Outcome.REJECTED, Outcome.BROKEN)


def too_many(*, failed: int, max_failed: int | None) -> bool:
    """Whether so many failed trials end the sweep."""
    return max_failed is not None and failed >= max_failed
