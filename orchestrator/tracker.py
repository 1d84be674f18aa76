"""The trial's Weights & Biases run and its artifacts (wandb). Opened by rank 0's worker alone.

W&B is a record beside the record: whatever it does, the trial goes on. What the SDK itself exports to the environment
is taken out again, because child processes would join its service and lose their logs with it.
"""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.credentials import Mode, tracking_mode
from orchestrator.folder import SweepFolder
from orchestrator.messages import Job, Outcome, Report, first_line
from orchestrator.naming import run_id
from orchestrator.spec import Spec

# Seconds to wait for the server before a run goes on offline; W&B's own default is 90.
INIT_TIMEOUT_S = 20.0
# Seconds that the end of a trial waits for uploads; what is not up by then is on disk.
FINISH_TIMEOUT_S = 60.0

# Outcomes that a run ends with exit code 0 for: the trial did what it was asked to.
GOOD = {Outcome.COMPLETE, Outcome.PRUNED, Outcome.DIVERGED, Outcome.PAUSED}

# Set by the SDK for its own children (see above), or by `wandb agent`, whose run this is not.
FOREIGN = ("WANDB_SERVICE", "WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH", "WANDB_RUN_ID", "WANDB_RESUME", "WANDB_MODE")


class Tracker:
    """Opens and closes the run of each trial; on ranks other than 0 everything is a harmless no-op."""

    def __init__(
        self, spec: Spec, folder: SweepFolder, sweep_id: str | None, rank: int, notify: Callable[[str], None]
    ) -> None:
        self._spec, self._folder, self._sweep_id = spec, folder, sweep_id
        self._rank, self._notify = rank, notify
        self._run: Any = None
        self._mode: Mode = tracking_mode(spec.tracking.mode, os.environ)
        prepare_environment(folder)

    def open(self, job: Job) -> str | None:
        """Open the trial's run, or go on with it; its URL where it is online, else its folder.

        A server that does not answer costs `INIT_TIMEOUT_S` once; the runs of this worker are offline from then on.
        """
        import wandb

        if self._rank != 0 or self._mode == "disabled":
            # So that `wandb.log` in a user's module is a no-op here instead of an error.
            self._run = self._run or wandb.init(mode="disabled")
            return None
        config = {
            **self._spec.params,
            **job.params,
            "sweep": {"name": self._spec.name, "number": job.number, "seed": job.seed,
                      "space": self._spec.space_identity, "trainable": _plain(self._spec.trainable)},
        }  # fmt: skip
        try:
            self._run = self._init(job.number, config)
        except Exception as exc:  # noqa: BLE001 - the SDK raises what its transport does; the trial goes on without
            wandb.teardown()  # the SDK holds on to an id whose init failed
            if self._mode == "offline":
                self._notify(f"no W&B run for trial {job.number}: {first_line(exc)}")
                return None
            self._notify(
                f"W&B cannot be reached ({' '.join(str(exc).split())[:200]}); runs are kept on disk instead:"
                f" `wandb sync {self._folder.show('wandb')}/offline-run-*` uploads them"
            )
            self._mode = "offline"
            return self.open(job)
        self._run.define_metric("trainer/global_step")
        self._run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
        if self._mode == "online":
            return str(self._run.url)
        return str(Path(self._run.dir).parent.relative_to(self._folder.work))

    def logger(self) -> Any:
        """Lightning's logger on the open run, or None."""
        if not self._live:
            return None
        from lightning.pytorch.loggers import WandbLogger

        return WandbLogger(experiment=self._run)

    def log(self, metrics: Mapping[str, float], *, step: int | None = None) -> None:
        """Log numbers in the open run, against the step they belong to."""
        if self._live:
            self._run.log({**metrics, **({"trainer/global_step": step} if step is not None else {})})

    def log_images(
        self, key: str, images: Sequence[Any], *, captions: Sequence[str] | None = None, step: int | None = None
    ) -> None:
        """Log images in the open run, each with its caption."""
        if self._live:
            import wandb

            pictures = [
                wandb.Image(image, caption=caption)
                for image, caption in zip(images, captions or itertools.repeat(None, len(images)), strict=True)
            ]
            self._run.log({key: pictures, **({"trainer/global_step": step} if step is not None else {})})

    @property
    def _live(self) -> bool:
        """Whether there is a run that keeps what is logged."""
        return self._run is not None and self._rank == 0 and self._mode != "disabled"

    def close(
        self, outcome: Outcome, report: Report | None, error: str | None, checkpoints: Mapping[str, Sequence[str]]
    ) -> None:
        """Say in the run how the trial ended, log its checkpoints as artifacts, and close it."""
        if not self._live:
            return
        run, self._run = self._run, None
        try:
            _sign(run, outcome, error)
            if report is not None:
                run.summary.update({"best_epoch": report.best_epoch, "epochs": report.epoch})
            for path, aliases in checkpoints.items():
                self._log_artifact(run, path, aliases, report)
            if outcome in (Outcome.INTERRUPTED, Outcome.MOVED):  # it goes on in the same run
                run.mark_preempting()
            self._finish(run, exit_code=0 if outcome in GOOD else 1)
        except Exception as exc:  # noqa: BLE001 - the SDK raises what its transport does; the trial itself is done
            where = self._folder.show("wandb")
            self._notify(f"W&B run {run.id} is incomplete on the server ({first_line(exc)}); `wandb sync {where}/...`")

    def close_dead(self, number: int, outcome: Outcome, error: str | None) -> None:
        """Close the run of a trial whose workers died without doing so."""
        self._sign_again(number, lambda run: _sign(run, outcome, error), exit_code=0 if outcome in GOOD else 1)

    def crown(self, number: int, path: str) -> None:
        """Give the sweep's best checkpoint the alias `sweep-best`, in the winner's own run."""
        self._sign_again(number, lambda run: self._log_artifact(run, path, ["best", "sweep-best"], None), exit_code=0)

    def add_to_summary(self, number: int, metrics: Mapping[str, float]) -> None:
        """Put numbers into the summary of a trial's run."""
        self._sign_again(number, lambda run: run.summary.update(dict(metrics)), exit_code=0)

    def _sign_again(self, number: int, change: Callable[[Any], None], exit_code: int) -> None:
        if self._mode == "disabled":
            return
        run = self._init(number, {})
        change(run)
        self._finish(run, exit_code)

    def _finish(self, run: Any, exit_code: int) -> None:
        directory = Path(run.dir).parent
        run.finish(exit_code=exit_code)
        self._folder.upload_tree(directory, f"wandb/{directory.name}")

    def _init(self, number: int, config: Mapping[str, Any]) -> Any:
        import wandb

        tracking = self._spec.tracking
        self._folder.work.mkdir(parents=True, exist_ok=True)
        return wandb.init(
            project=tracking.project,
            entity=tracking.entity,
            id=run_id(self._spec.name or "", number),
            name=f"{self._spec.name}/{number}",
            config=dict(config),
            tags=tracking.tags or None,
            dir=str(self._folder.work),
            mode=self._mode,
            resume="allow",
            settings=wandb.Settings(
                sweep_id=self._sweep_id if self._mode == "online" else None,
                init_timeout=INIT_TIMEOUT_S,
                finish_timeout=FINISH_TIMEOUT_S,
                console="wrap",
                silent=True,
                x_save_requirements=False,  # 0.1 s a trial, for a list that is the same for every trial
                x_transaction_log_flush_interval=1,  # seconds of log that a killed process may lose; 15 by default
            ),
        )

    def _log_artifact(self, run: Any, path: str, aliases: Sequence[str], report: Report | None) -> None:
        import wandb

        metadata: dict[str, Any] = {
            "sweep": self._spec.name,
            "metric": self._spec.metric,
            "path": self._folder.show(path),
        }
        if report is not None:
            metadata |= {"epoch": report.epoch if "latest" in aliases else report.best_epoch}
        artifact = wandb.Artifact(f"model-{run.id}", type="model", metadata=metadata)
        with tempfile.TemporaryDirectory() as scratch:  # the SDK stages a copy of its own
            local = self._folder.local_copy(path, Path(scratch))
            artifact.add_file(str(local), name=local.name, skip_cache=True)
        run.log_artifact(artifact, aliases=list(aliases))


def create_sweep(spec: Spec, parameters: Mapping[str, Any], folder: SweepFolder) -> str:
    """Make the W&B sweep that every run joins, its space given as W&B `parameters`; its id.

    Raises:
        wandb.errors.Error: the server cannot be reached, or refuses.
    """
    import wandb

    prepare_environment(folder)
    config = {
        "method": "custom",
        "name": spec.name,
        "metric": {"name": spec.metric, "goal": spec.goal},
        "parameters": {**parameters, **{name: {"value": v} for name, v in spec.params.items()}},
    }
    return str(wandb.sweep(config, project=spec.tracking.project, entity=spec.tracking.entity))


def prepare_environment(folder: SweepFolder) -> None:
    """Make this process's wandb a client of its own, with its files in the sweep's folder."""
    for name in FOREIGN:
        os.environ.pop(name, None)
    os.environ.setdefault("WANDB_DATA_DIR", str(folder.work / "wandb"))
    os.environ.setdefault("WANDB_CACHE_DIR", str(folder.work / "wandb" / "cache"))


def _sign(run: Any, outcome: Outcome, error: str | None) -> None:
    """How the trial ended, where a table of runs can be filtered by it."""
    run.summary["outcome"] = str(outcome)
    if outcome in (Outcome.PRUNED, Outcome.DIVERGED, Outcome.OUT_OF_MEMORY):
        run.tags = (*(run.tags or ()), str(outcome))
    run.summary["error"] = error  # also where there is none: an earlier attempt may have left one


def _plain(value: Any) -> Any:
    return value.model_dump() if hasattr(value, "model_dump") else value


def problem() -> str | None:
    """Why W&B cannot be reached from this machine or does not accept its key; None where all is well."""
    import wandb

    try:
        who = wandb.Api(timeout=int(INIT_TIMEOUT_S)).viewer
    except Exception as exc:  # noqa: BLE001 - the SDK raises what its transport does
        return f"cannot be reached, or refuses the key ({first_line(exc)}); check WANDB_BASE_URL and `wandb login`"
    return None if who is not None else "refuses the key; check `wandb login`"
