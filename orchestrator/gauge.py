"""System metrics of a trial's other nodes, which its run has beside those of rank 0's (wandb).

The SDK samples the machine that a run is written on. On every other node of a worker group the first rank has that one
sampled, too, by a run of which nothing else is kept. What it finds goes by the switchboard to rank 0, and into the
trial's run under the names that W&B's own shared mode would give it: `cpu/l:10.0.0.2-rank-4`, with the node as a label.
Source: `x_label` and `x_primary` in `wandb/sdk/wandb_settings.py`
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from orchestrator import runlog
from orchestrator.messages import Node, Sample, first_line
from orchestrator.spec import Spec

# How often what was sampled is passed on; the SDK samples every 15 s.
EVERY_S = 5.0
# How long ending the sampling may hold up the end of a trial.
LEAVE_S = 5.0


class Gauge:
    """One for each rank of a worker group; idle where all ranks live on one node."""

    def __init__(
        self,
        spec: Spec,
        nodes: Sequence[Node],
        rank: int,
        say: Callable[..., Any],
        keep: Callable[[Sequence[Sample]], None],
        notify: Callable[[str], None],
    ) -> None:
        """Take a rank's part in it.

        Args:
            spec: the sweep's; where it keeps no runs, there is nothing to do.
            nodes: where the ranks live, by rank.
            rank: this one.
            say: calls the switchboard, in the name of this worker group.
            keep: puts samples into the trial's run, on rank 0.
            notify: says something to the user.
        """
        ids = [node.id for node in nodes]
        self._rank, self._address = rank, nodes[rank].address
        self._say, self._keep, self._notify = say, keep, notify
        several = len(set(ids)) > 1 and spec.tracking.mode != "disabled"
        self._speaks_for_its_node = several and ids.index(ids[rank]) == rank

    @contextlib.contextmanager
    def over(self, number: int, folder: Path) -> Iterator[None]:
        """Sample this node while a trial trains; on rank 0, keep what the others sample.

        Args:
            number: of the trial.
            folder: for temporary files.
        """
        if not self._speaks_for_its_node:
            yield
            return
        ended = threading.Event()
        thread = threading.Thread(target=self._work, args=[number, folder, ended], name="gauge", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(LEAVE_S)

    def _work(self, number: int, folder: Path, ended: threading.Event) -> None:
        try:
            if self._rank == 0:
                self._collect(number, ended)
            else:
                self._pass_on(number, folder, ended)
        except Exception as exc:  # noqa: BLE001 - whatever it is, the trial goes on without
            where = "other nodes" if self._rank == 0 else f"node {self._address}"
            with contextlib.suppress(Exception):  # it is the switchboard that is gone, and the sweep with it
                self._notify(f"W&B runs go on without the system metrics of {where}: {first_line(exc)}")

    def _collect(self, number: int, ended: threading.Event) -> None:
        while not ended.wait(EVERY_S):
            if samples := self._say("samples", number):
                self._keep(samples)

    def _pass_on(self, number: int, folder: Path, ended: threading.Event) -> None:
        if ended.wait(EVERY_S):  # so soon over that there is nothing to sample
            return
        run = _sampled(folder, f"{self._address}-rank-{self._rank}")
        path, at = Path(run.settings.sync_file), runlog.IDENTITY
        try:
            while not ended.wait(EVERY_S):  # then the trial's run is closed, and nothing more goes into it
                samples, at = runlog.samples(path, after=at)
                if samples:
                    self._say("sampled", number, samples)
        finally:
            run.finish()


def _sampled(folder: Path, label: str) -> Any:
    """A run of its own, beside `wandb.run`, in which the SDK writes down what this node does."""
    import wandb

    return wandb.init(
        project="system",
        dir=str(folder),
        mode="offline",
        reinit="create_new",
        settings=wandb.Settings(
            x_label=label,
            x_primary=False,  # no host, code or packages
            x_transaction_log_flush_interval=0.1,
            x_save_requirements=False,
            disable_git=True,
            disable_code=True,
            save_code=False,
            console="off",
            silent=True,
        ),
    )
