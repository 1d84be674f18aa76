"""A cluster of asynchronous workers without the wait: trials replayed from a table of curves, event by event.

Time is simulated and proposals take none of it, so every worker is busy all the time, and what has been computed by
time t is t times the number of workers.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from benchmarks.table import EPOCHS, Table


class Contender(Protocol):
    """A search method: who proposes, and who stops."""

    def ask(self) -> tuple[int, Mapping[str, Any]]:
        """What a free worker is to train: a trial's number, a new one or one that was paused, and hyperparameters."""

    def tell(self, number: int, epoch: int, loss: float, epoch_s: float) -> bool:
        """An epoch of a trial is over, and took so long; whether the trial keeps its worker.

        After the last epoch it never does.
        """


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """What happened once."""

    ended_s: float
    number: int
    row: int
    epoch: int
    loss: float


def simulate(contender: Contender, table: Table, *, workers: int, compute_s: float) -> list[Epoch]:
    """Let workers train what the contender proposes.

    Args:
        contender: told of one epoch at a time, in the order in which they end; of equals, the lower number first.
        table: what each trial's curve and speed are looked up in.
        workers: how many trials there are at once.
        compute_s: seconds of all workers together after which nothing is heard any more.

    Returns:
        Every epoch that ended in time, in order.
    """
    done: list[Epoch] = []
    trained: dict[int, int] = {}
    running: list[tuple[float, int, int]] = []  # when the epoch ends, the trial's number and its row

    def train(now_s: float, number: int, row: int) -> None:
        heapq.heappush(running, (now_s + float(table.epoch_s[row]), number, row))

    def begin(now_s: float) -> None:
        number, params = contender.ask()
        train(now_s, number, table.row(params))

    for _ in range(workers):
        begin(0.0)
    while running[0][0] * workers <= compute_s:
        now_s, number, row = heapq.heappop(running)
        epoch = trained[number] = trained.get(number, 0) + 1
        loss, epoch_s = float(table.losses[row, epoch - 1]), float(table.epoch_s[row])
        done.append(Epoch(ended_s=now_s, number=number, row=row, epoch=epoch, loss=loss))
        if contender.tell(number, epoch, loss, epoch_s) and epoch < EPOCHS:
            train(now_s, number, row)
        else:
            begin(now_s)
    return done
