"""A trial's checkpoint as an artifact of Weights & Biases: what it is, and which were not logged (wandb).

Workers log those that a trial keeps when they end it. What they did not get to log, because they were killed or the
trial only paused, is written into the last file of its run afterwards, as the SDK would have written it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator import ranking, runlog
from orchestrator.errors import StorageError, TrackingError
from orchestrator.folder import SweepFolder
from orchestrator.messages import Job
from orchestrator.naming import run_id
from orchestrator.spec import Spec

if TYPE_CHECKING:
    from orchestrator.ledger import TrialRecord


def of_checkpoint(spec: Spec, folder: SweepFolder, job: Job, path: str, value: float | None) -> Any:
    """A `wandb.Artifact` of a checkpoint, by a link to the file, which stays until it has been uploaded.

    Args:
        spec: the sweep's.
        folder: the sweep's.
        job: the trial.
        path: the checkpoint's, in the sweep's folder.
        value: the sweep's metric at its epoch.
    """
    import wandb

    held = folder.hold(path, job.number)
    artifact = wandb.Artifact(runlog.model_of(run_id(folder.name, job.number)), type=runlog.MODEL)
    entry = artifact.add_file(str(held), name=held.name, policy="immutable", skip_cache=True)
    artifact.metadata = {
        "sweep": spec.name,
        "metric": spec.metric,
        "goal": spec.goal,
        "value": value,
        "epoch": folder.epoch_of(path),
        "hyperparameters": {**spec.params, **job.params},
        "seed": job.seed,
        "checksum": {"md5, base64": entry.digest},
        "path": folder.show(path),
    }
    return artifact


def job_of(record: TrialRecord) -> Job:
    """What of a trial on record describes its checkpoints."""
    return Job(number=record.number, params=record.params, seed=record.seed, curve=record.curve)


def log_left(spec: Spec, folder: SweepFolder, job: Job) -> None:
    """Log, in the run of a trial that has no workers any more, all checkpoints that it keeps, where one is not logged.

    Raises:
        TrackingError: that cannot be written.
    """
    files = folder.run_files(run_id(folder.name, job.number))
    try:
        there = folder.checkpoints(job.number)
        best = ranking.best_epoch(spec.goal, job.curve)
        kept = ranking.kept_epochs(spec.checkpoints.keep, list(there), best)
        logged = runlog.last_checkpoints([runlog.read(path) for path in files])
        if not files or kept <= set(logged.values()):
            return
        artifacts = [
            (of_checkpoint(spec, folder, job, there[epoch], job.curve.get(epoch)), aliases)
            for epoch, aliases in ranking.aliases(kept, best).items()
        ]
        runlog.log_artifacts(files[-1], artifacts, project=spec.tracking.project, entity=spec.tracking.entity)
    except (OSError, ValueError, ImportError, StorageError) as exc:
        name = run_id(folder.name, job.number)
        raise TrackingError(f"the checkpoints of {name} cannot be logged: {exc}") from exc
