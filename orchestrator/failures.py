"""What is done about a failure: decided here, from facts alone, and carried out elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from orchestrator.messages import Outcome

# What runs out of memory says, in the words of torch (on a GPU, on a CPU), of Python, and of Ray, which kills the
# largest process of a node before the kernel has to.
OUT_OF_MEMORY = re.compile(
    r"OutOfMemoryError|CUDA out of memory|MemoryError|DefaultCPUAllocator: (can't allocate|not enough) memory"
    r"|running low on memory"
)
# How often a trial moves to other nodes without its having failed; more, and it may be what takes its nodes down.
MAX_MOVES = 10
# Attempts of different trials that a node must have failed, and none that went well since, before it is avoided.
BAD_AFTER = 2


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


def is_moved(*, outcome: Outcome, moves: int) -> bool:
    """Whether a trial that lost its workers is only moved elsewhere, which does not count as an attempt of it."""
    return outcome is Outcome.MOVED and moves < MAX_MOVES


def avoided(failed: Mapping[str, Iterable[int]], nodes: Iterable[str]) -> list[str]:
    """The nodes that get no more trials, by id: those that keep failing them, while most of the others do not.

    Args:
        failed: of each node the trials that failed there since one last went well.
        nodes: all that are alive and can train.
    """
    alive = set(nodes)
    bad = sorted(node for node, trials in failed.items() if node in alive and len(set(trials)) >= BAD_AFTER)
    return bad if 2 * len(bad) < len(alive) else []  # where most are bad, it is not the nodes
