"""What the workers of a trial did not get to log of its checkpoints, since they were killed or it only paused (wandb).

`python -m orchestrator.salvage STORAGE NAME NUMBER...` logs it in one more part of each trial's run. It is a process of
its own: the SDK leaves a service and variables behind that others would take for theirs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from orchestrator import ranking, runlog
from orchestrator.errors import TrackingError
from orchestrator.folder import SweepFolder
from orchestrator.messages import Ended, Job, Outcome
from orchestrator.naming import run_id
from orchestrator.spec import Spec

if TYPE_CHECKING:
    from orchestrator.ledger import TrialRecord

# Of the process, not of the trial: what the trial printed, and where it ran, is in the run as it is.
ENVIRONMENT = {"WANDB_CONSOLE": "off", "WANDB_X_DISABLE_META": "true", "WANDB_X_DISABLE_STATS": "true"}


def unlogged(spec: Spec, folder: SweepFolder, record: TrialRecord) -> dict[str, list[str]]:
    """A trial's checkpoints, by path, with their aliases: all that are kept, where one of them is not in its run."""
    there = folder.checkpoints(record.number)
    kept = ranking.kept_epochs(spec.checkpoints.keep, list(there), record.best_epoch)
    parts = [runlog.read(path) for path in folder.run_files(run_id(folder.name, record.number))]
    if not parts or kept <= set(runlog.last_checkpoints(parts).values()):
        return {}
    return {there[epoch]: names for epoch, names in ranking.aliases(kept, record.best_epoch).items()}


def ending(record: TrialRecord) -> Ended:
    """How a trial ended, of a sweep that nobody runs: one that was running was interrupted."""
    outcome = Outcome(record.outcome) if record.state != "RUNNING" else Outcome.INTERRUPTED
    return Ended(number=record.number, outcome=outcome, error=record.error)


def salvage(folder: SweepFolder, numbers: Sequence[int]) -> None:
    """Have logged what is not, in the runs of trials that have no workers any more.

    Raises:
        TrackingError: that failed.
    """
    command = [sys.executable, "-m", "orchestrator.salvage", folder.storage, folder.name, *map(str, numbers)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **ENVIRONMENT})
    if done.returncode:
        raise TrackingError(f"checkpoints could not be logged: {done.stderr.strip().rpartition(chr(10))[2]}")


def main(storage: str, name: str, *numbers: str) -> None:
    """Log them; ends with exit code 1 where a run could not be written."""
    from orchestrator.ledger import Ledger
    from orchestrator.tracker import Tracker

    problems: list[str] = []
    folder = SweepFolder(storage, name)
    spec = Spec.from_yaml(folder.read_text("sweep.yaml"))
    tracker = Tracker(spec, folder, 0, problems.append)
    records = Ledger(folder, spec, read_only=True).records
    for record in (records[int(number)] for number in numbers):
        if checkpoints := unlogged(spec, folder, record):
            job = Job(
                number=record.number, params=record.params, seed=record.seed, curve=record.curve,
                changes=record.changes, repeat_of=record.repeat_of,
            )  # fmt: skip
            tracker.add_part(job, ending(record), checkpoints)
    sys.exit("; ".join(problems) or 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
