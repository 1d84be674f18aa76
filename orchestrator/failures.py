"""What is done about a failure: decided here, from facts alone, and carried out elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from orchestrator.messages import Outcome

# What runs out of memory says, in the words of torch (on a GPU, of a GPU that others fill, on a CPU), of Python, and of
# Ray, which kills the largest process of a node before the kernel has to.
OUT_OF_MEMORY = re.compile(
    r"OutOfMemoryError|CUDA out of memory|CUDA error: out of memory|MemoryError"
    r"|DefaultCPUAllocator: (can't allocate|not enough) memory|running low on memory"
)
# How often a trial moves to other nodes without its having failed; more, and it may be what takes its nodes down.
MAX_MOVES = 10
# Attempts of different trials that a node must have failed, and none that went well since, before it is avoided.
BAD_AFTER = 2
# Worker groups that may go down one after the other, none of which took a trial: more would only do the same. Where
# their processes died it may be what kills them, or takes their nodes, and not they themselves.
MAX_RAISED, MAX_DIED = 3, 10
# Trials that fail alike, tried as often as each may be, where none has come to the end of an epoch: it is not theirs.
ALIKE = 2


def kind(error: str) -> Outcome:
    """What a worker's failure makes of its trial, from what is known of it."""
    return Outcome.OUT_OF_MEMORY if OUT_OF_MEMORY.search(error) else Outcome.FAILED


def is_retried(*, outcome: Outcome, attempt: int, retries: int) -> bool:
    """Whether a trial whose workers were lost on its attempt number `attempt`, counted from 0, is tried again."""
    return outcome is Outcome.FAILED and attempt < retries


def ends_sweep(outcome: Outcome) -> bool:
    """Whether a trial that ended so shows that every other would."""
    return outcome in (Outcome.REJECTED, Outcome.BROKEN)


def is_broken(*, raised: int, died: int) -> bool:
    """Whether worker groups that went down in a row without a trial, so many by an error, show that none will have one.

    Args:
        raised: those that raised something.
        died: those whose processes died, or that could not start for a process or a node that did.
    """
    return raised >= MAX_RAISED or died >= MAX_DIED


def too_many(*, failed: int, max_failed: int | None) -> bool:
    """Whether so many failed trials end the sweep."""
    return max_failed is not None and failed >= max_failed


def is_everyones(errors: Sequence[str | None], *, has_epochs: bool) -> bool:
    """Whether trials fail by what is common to all of them, such as a mistake in the module.

    Args:
        errors: of the trials that failed, in words.
        has_epochs: whether any trial has come to the end of one.
    """
    return not has_epochs and len(errors) >= ALIKE and len(set(errors)) == 1


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
