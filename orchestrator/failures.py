"""What is done about a failure: decided here, from facts alone, and carried out elsewhere."""

from __future__ import annotations

import re

from orchestrator.messages import Outcome

# What runs out of memory says, in the words of torch (on a GPU, on a CPU), of Python, and of Ray, which kills the
# largest process of a node before the kernel has to.
OUT_OF_MEMORY = re.compile(
    r"OutOfMemoryError|CUDA out of memory|MemoryError|DefaultCPUAllocator: (can't allocate|not enough) memory"
    r"|running low on memory"
)


def kind(error: str) -> Outcome:
    """What a worker's failure makes of its trial, from what is known of it."""
    return Outcome.OUT_OF_MEMORY if OUT_OF_MEMORY.search(error) else Outcome.FAILED


def is_retried(*, outcome: Outcome, attempt: int, retries: int) -> bool:
    """Whether a trial whose workers were lost on its attempt number `attempt`, counted from 0, is tried again."""
    return outcome is Outcome.FAILED and attempt < retries


def ends_sweep(outcome: Outcome) -> bool:
    """Whether a trial that ended so shows that every other would."""
    return outcome in (Outcome.REJECTED, Outcome.BROKEN)


def too_many(*, failed: int, max_failed: int | None) -> bool:
    """Whether so many failed trials end the sweep."""
    return max_failed is not None and failed >= max_failed
