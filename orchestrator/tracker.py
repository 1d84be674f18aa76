"""The trial's Weights & Biases run and its artifacts (wandb). Opened by rank 0's worker alone.

A worker writes its run to disk and nowhere else; the desk brings it to the server (`delivery.py`). So W&B can be slow,
down or full, and the trial goes on all the same.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import itertools
import os
import shutil
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from orchestrator import artifact, runlog
from orchestrator.credentials import own_folders
from orchestrator.folder import SweepFolder
from orchestrator.messages import GOES_ON, GOOD, Job, Outcome, Report, Sample, first_line
from orchestrator.naming import run_id
from orchestrator.spec import Spec
from orchestrator.wandb_yaml import to_config

# The SDK's settings where its variables `WANDB_<NAME>` do not say otherwise: what it does on disk takes it 0.02 s, and
# what it has to say belongs in no trial's console.
DEFAULTS: dict[str, Any] = {"init_timeout": 20.0, "finish_timeout": 20.0, "console": "wrap", "silent": True}
# How long git may take to say what is not committed.
GIT_TIMEOUT_S = 10.0
# A run needs less; where the disk has not even so much left, it is written elsewhere.
MIN_FREE_MIB = 64

# What is the sweep's own to say, of each run: the SDK would let these override it. See docs/wandb.md.
FOREIGN = (
    "WANDB_SERVICE",  # set by the SDK for its own children, which would lose their logs with their parent's
    "WANDB_SWEEP_ID",  # set by `wandb agent`, whose run this is not
    "WANDB_SWEEP_PARAM_PATH",
    "WANDB_RUN_ID",
    "WANDB_RESUME",
    "WANDB_FORK_FROM",
    "WANDB_RESUME_FROM",
    "WANDB_MODE",
    "WANDB_NAME",
    "WANDB_RUN_GROUP",  # makes the panels of the sweep's page average over its runs (wandb#4227)
)

# How long the SDK's service, which nobody waits for, may take to have written a run's end; a moment, as a rule.
WRITTEN_S = 5.0


class Tracker:
    """Opens and closes the run of each trial; on ranks other than 0 everything is a harmless no-op."""

    def __init__(self, spec: Spec, folder: SweepFolder, rank: int, notify: Callable[[str], None]) -> None:
        self._spec, self._folder = spec, folder
        self._rank, self._notify = rank, notify
        self._off = rank != 0 or spec.tracking.mode == "disabled"
        for name in FOREIGN:
            os.environ.pop(name, None)
        os.environ.update(own_folders(folder.work))
        self._run = _harmless()
        self._reports: list[tuple[Report, int | None]] = []
        self._parts: list[Path] = []
        self._step: int | None = None

    def open(self, job: Job) -> str | None:
        """Open the trial's run, or go on with it; its folder, relative to the sweep's where it is in there."""
        self._job, self._reports, self._parts = job, [], []
        return self._open()

    def _open(self) -> str | None:
        """Open a part of the run, a file of its own; a trial goes on without where that cannot be."""
        self._run = _harmless()  # what the last one was told is gone with it
        if self._off:
            return None
        try:
            return self._open_part()
        except Exception as exc:  # noqa: BLE001 - the SDK raises what its service does; the trial goes on without
            _let_go()
            self._run = _harmless()
            self._notify(f"trial {self._job.number} goes on without a W&B run: {first_line(exc)}")
            return None

    def _open_part(self) -> str:
        job, work = self._job, self._folder.work
        try:
            self._run = self._init_again(job, _with_room(work))
        except Exception as exc:  # noqa: BLE001 - the SDK raises what its service does; the trial goes on without
            _let_go()  # the SDK holds on to an id whose init failed
            work = self._folder.spare
            said = f"W&B runs cannot be written to {self._folder.work / 'wandb'} ({first_line(exc)})"
            self._run = self._init(job, _with_room(work))
            self._notify(
                f"{said}; they are in {work} on {socket.gethostname()} instead, and brought up from there if that is"
                f" the sweep's machine; from another, copy them to {self._folder.work / 'wandb'} before the next `sync`"
            )
        self._parts.append(Path(self._run.settings.sync_file))
        self._take_over_summary()
        self._run.define_metric("trainer/global_step")
        self._run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
        if job.changes:
            _tell_copies(self._run, self._spec, job)
        os.environ.update(own_folders(work))  # where the SDK keeps artifacts until they are uploaded
        directory = Path(self._run.dir).parent
        self._save_beside(directory)
        return str(directory.relative_to(work)) if work == self._folder.work else str(directory)

    def _take_over_summary(self) -> None:
        """Begin with what the run's earlier parts have in their summaries: a part's takes the place of the run's."""
        try:
            self._add_summaries(self._job)
        except Exception as exc:  # noqa: BLE001 - what is in those files is the user's; the run itself is open
            self._notify(f"the summary of W&B run {self._run.id} begins anew: {first_line(exc)}")

    def _add_summaries(self, job: Job) -> None:
        if job.curve or job.attempt or job.moves:
            self._folder.download_run(self._run.id)
        parts = dict.fromkeys([*self._folder.run_files(self._run.id), *self._parts])
        earlier = runlog.summary(path for path in parts if path != self._parts[-1])
        summary = {name: value for name, value in earlier.items() if name not in ("outcome", "error")}  # it goes on
        if summary:
            self._run.summary.update(summary)

    def logger(self) -> Any:
        """Lightning's logger on the open run; where none is kept, one that takes everything and keeps nothing."""
        from lightning.pytorch.loggers import WandbLogger

        tracker = self

        class Logger(WandbLogger):
            """On whichever part of the run is open."""

            @property
            def experiment(self) -> Any:
                tracker._reopen()
                return tracker._run

            def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
                tracker._step = step
                tracker._safely(lambda: super(Logger, self).log_metrics(metrics, step))

        return Logger(experiment=self._run)

    def log(self, metrics: Mapping[str, Any], *, step: int | None = None) -> None:
        """Log numbers, or what W&B shows of other kinds, in the open run, against the step they belong to."""
        self._reopen()
        if self._live:
            at = {"trainer/global_step": step} if step is not None else {}
            self._safely(lambda: self._run.log({**metrics, **at}))

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
            self.log({key: pictures}, step=step)

    @property
    def _live(self) -> bool:
        """Whether there is a run that keeps what is logged."""
        return not self._run.disabled

    def sampled(self, samples: Sequence[Sample]) -> None:
        """Put what the systems of other nodes did into the open run, beside what the SDK samples of this one."""
        run = self._run  # this is a thread of its own, in which it may be replaced, or closing
        interface: Any = None if run.disabled else run._interface
        for sample in samples if interface else ():
            # `publish_stats` has the time of the call for that of the sample.
            stats = interface._make_stats(dict(sample.values))
            stats.timestamp.FromNanoseconds(int(sample.taken_at_s * 1e9))
            record = interface._make_record(stats=stats)
            with contextlib.suppress(Exception):  # whatever its service is gone by, which the next row finds out
                interface._publish(record)

    def watch(self, module: Any) -> None:
        """Log a module's gradients, parameters and topology, as far as the spec says."""
        tracking = self._spec.tracking
        if self._live and (tracking.watch or tracking.watch_graph):
            self._run.watch(
                module,
                log=tracking.watch,
                log_freq=tracking.watch_every,
                log_graph=tracking.watch_graph,
                idx=0,  # or the SDK counts the modules of this process, and every trial has other names for the same
            )

    def has_row(self, **where: float) -> bool:
        """Whether the open run has, from an earlier time that it was open, a row with the sweep's metric and these."""
        if not self._live:
            return False
        files = self._folder.run_files(self._run.id)
        return any(runlog.has_row(path, self._spec.metric, **where) for path in files)

    def reported(self, report: Report) -> None:
        """Keep the best epoch's metrics beside the newest ones, which W&B shows by their own names."""
        self._reports.append((report, self._step))
        self._reopen()
        if self._live:
            self._safely(lambda: self._summarize(report))

    def _summarize(self, report: Report) -> None:
        if Path(self._run.dir).is_relative_to(self._folder.work) and not _has_room(Path(self._run.dir)):
            self._run.finish(exit_code=0)  # while there is room for the end of this part
            self._begin_anew()  # or there was none any more, and the last rows are not in it
        best: dict[str, Any] = {}
        if report.epoch == report.best_epoch:
            best = {**{f"best_{name}": value for name, value in report.metrics.items()}, "best_epoch": report.epoch}
        self._run.summary.update({"epochs": report.epoch, **best})  # once: each time takes the SDK half a millisecond

    def _reopen(self) -> None:
        """Go on in another part where the user's code has finished the run."""
        if self._live and self._run._is_finished:  # the SDK has no public way to ask
            self._open()

    def _safely(self, act: Callable[[], None]) -> None:
        """Do something with the open run; once more in another part of it where the SDK's service is gone."""
        try:
            act()
        except (TypeError, ValueError):
            raise  # what was to be logged cannot be
        except Exception:  # noqa: BLE001 - the SDK raises what its service does; the trial goes on
            self._begin_anew()
            try:
                act()
            except Exception as exc:  # noqa: BLE001 - as above
                self._notify(f"trial {self._job.number} goes on without a W&B run: {first_line(exc)}")
                _let_go()
                self._run = _harmless()

    def _begin_anew(self) -> None:
        """Go on in another part, with what no part has: the SDK writes no more to one that it once could not write."""
        _let_go()
        self._open()
        there = sum((runlog.values(part, self._spec.metric) for part in self._parts), Counter[float]())
        for report, step in self._reports if self._live else ():
            if there[report.value] > 0:
                there[report.value] -= 1
            else:
                at = {} if step is None else {"trainer/global_step": step}
                self._run.log({**report.metrics, "epoch": report.epoch - 1, **at})
            self._summarize(report)

    def close(
        self,
        outcome: Outcome,
        error: str | None,
        *,
        checkpoints: Mapping[str, Sequence[str]] = MappingProxyType({}),
        curve: Mapping[int, float] = MappingProxyType({}),
    ) -> bool:
        """Say in the run how the trial ended, log its checkpoints as artifacts, and close it; whether that worked.

        Args:
            outcome: how the trial ended.
            error: what went wrong, if anything did.
            checkpoints: the aliases of each checkpoint that is kept, by path.
            curve: the sweep's metric by epoch.
        """
        self._reopen()
        if not self._live:
            return True
        run = self._run

        def end() -> None:
            _sign(self._run, outcome, error)
            for path, aliases in checkpoints.items():
                value = curve.get(self._folder.epoch_of(path))
                checkpoint = artifact.of_checkpoint(self._spec, self._folder, self._job, path, value)
                self._run.log_artifact(checkpoint, aliases=list(aliases))
            if outcome in GOES_ON:
                self._run.mark_preempting()

        try:
            self._finish(end, outcome)
            for segment in self._folder.run_files(run.id):  # also those of workers that died on this machine
                self._folder.upload_tree(segment.parent, f"wandb/{segment.parent.name}")
            held = self._folder.held_checkpoints(self._job.number)
            self._folder.upload_tree(held, f"wandb/checkpoints/{held.name}")
            if not self._folder.log.exists():  # the sweep is on another machine, and so is what brings them to W&B
                shutil.rmtree(held, ignore_errors=True)
        except Exception as exc:  # noqa: BLE001 - the SDK raises what its service does; the trial itself is done
            self._notify(f"W&B run {run.id} on disk is incomplete ({first_line(exc)})")
            return False
        return True

    def _finish(self, end: Callable[[], None], outcome: Outcome) -> None:
        """Let the run end, on disk; what raises is not the disk's or the service's being away for a moment."""
        try:
            self._finish_part(end, outcome)
        except Exception:  # noqa: BLE001 - the SDK raises what its service does
            self._begin_anew()
            self._finish_part(end, outcome)

    def _finish_part(self, end: Callable[[], None], outcome: Outcome) -> None:
        run = self._run
        try:
            end()
        finally:  # else the next trial's init would be given this run again
            run.finish(exit_code=0 if outcome in GOOD else 1)
            self._run = _harmless()
            _count_modules_anew()
            _forget_artifacts()
        deadline = time.monotonic() + WRITTEN_S
        while not runlog.has_ended(self._parts[-1]):
            if time.monotonic() > deadline:
                raise OSError(f"{self._parts[-1]} does not say how it ended")
            time.sleep(0.02)

    def _init_again(self, job: Job, work: Path) -> Any:
        """Open a part in a folder, the second time with another service: the one there was may have died meanwhile."""
        try:
            return self._init(job, work)
        except Exception:  # noqa: BLE001 - the SDK raises what its service does
            _let_go()
            return self._init(job, work)

    def _init(self, job: Job, work: Path) -> Any:
        import wandb

        tracking = self._spec.tracking
        return wandb.init(
            project=tracking.project,
            entity=tracking.entity,
            id=run_id(self._spec.name or "", job.number),
            name=f"{self._spec.name}/{job.number}",
            config=_config(self._spec, job),
            tags=tracking.tags or None,
            group=_group(self._spec, job),
            dir=str(work),
            mode="offline",
            resume="allow",
            settings=wandb.Settings(
                x_save_requirements=False,  # 0.1 s a trial, for a list that is the same for every trial
                x_transaction_log_flush_interval=0.1,  # seconds of log that a killed process may lose; 15 by default
                **{name: value for name, value in DEFAULTS.items() if f"WANDB_{name.upper()}" not in os.environ},
            ),
        )

    def _save_beside(self, directory: Path) -> None:
        """Put the list of installed packages, and what was not committed, where W&B keeps them."""
        settings, texts = self._run.settings, {"requirements.txt": _packages()}
        if not (settings.disable_git or settings.disable_code) and (difference := _uncommitted()):
            texts["diff.patch"] = difference
        for name, text in texts.items():
            path = directory / "files" / name
            with contextlib.suppress(OSError):  # a full disk
                path.write_text(text, encoding="utf-8")
                self._run.save(str(path), base_path=str(path.parent), policy="now")


def _harmless() -> Any:
    """A run that takes everything and keeps nothing, for `wandb.log` and loggers of users where none is kept."""
    import wandb

    return wandb.init(mode="disabled")


def _let_go() -> None:
    """Let the SDK's service go, and what it knows of runs."""
    import wandb

    with contextlib.suppress(Exception, SystemExit):  # it may be dead, and the SDK has forgotten it all the same
        wandb.teardown()


def _count_modules_anew() -> None:
    """Let the first module that the next trial's code watches have the names that this one's had."""
    from wandb.sdk import wandb_watch

    wandb_watch._global_watch_idx = 0


def _forget_artifacts() -> None:
    """Let go of the last trial's artifacts: with each goes a temporary folder, e.g. of a table that was logged.

    The SDK keeps a hundred, and a worker that is killed does not clean up after itself.
    """
    from wandb.sdk.artifacts import artifact_instance_cache as kept

    with contextlib.suppress(AttributeError, RuntimeError):  # another edition of the SDK, or a user's thread that logs
        for each in list(kept.artifact_instance_cache_by_client_id.values()):
            used = [entry.local_path or "" for entry in each.manifest.entries.values()]
            # Files that are not copied when they are added (`policy="immutable"`) wait there for their upload.
            if each._tmp_dir is not None and not any(path.startswith(each._tmp_dir.name) for path in used):
                each._tmp_dir.cleanup()
        kept.artifact_instance_cache.clear()
        kept.artifact_instance_cache_by_client_id.clear()


def _with_room(folder: Path) -> Path:
    """The folder, made if need be.

    Raises:
        OSError: its disk is full, or nearly so: what would be lost is a run's end, without a word.
    """
    (folder / "wandb").mkdir(parents=True, exist_ok=True)
    if not _has_room(folder / "wandb"):
        raise OSError(f"less than {MIN_FREE_MIB} MiB are left on its disk")
    return folder


def _has_room(folder: Path) -> bool:
    return shutil.disk_usage(folder).free >= MIN_FREE_MIB << 20


def _group(spec: Spec, job: Job) -> str | None:
    """The group of the runs of one configuration with several seeds; a trial of its own has none."""
    return None if job.repeat_of is None else f"{spec.name}/{job.repeat_of} repeated"


def _tell_copies(run: Any, spec: Spec, job: Job) -> None:
    """Say in the run where the trial was copied from, and with what it goes on."""
    copies = [f"{spec.name}/{each.copied_from}@{each.epoch}" for each in job.changes if each.copied_from is not None]
    run.config.update({**to_config({**spec.params, **job.params}), "copied_from": copies}, allow_val_change=True)
    run.summary["copied_from"] = copies[-1] if copies else None


def _config(spec: Spec, job: Job) -> dict[str, Any]:
    """Hyperparameters, in their groups, and under `sweep` what else defines the trial."""
    params = {**spec.params, **job.params}
    grouped = to_config(params)
    group = grouped.get("sweep")  # of the user's, who may have one of that name
    return {
        **grouped,
        "sweep": {
            **(group if isinstance(group, dict) else {}),
            "name": spec.name,
            "number": job.number,
            "seed": job.seed,
            "params": params,
            "space": spec.space_identity,
            "trainable": _plain(spec.trainable),
            "resources": spec.resources.model_dump(),
            "start_from": spec.start_from,
        },
    }


def _sign(run: Any, outcome: Outcome, error: str | None) -> None:
    """How the trial ended, where a table of runs can be filtered by it."""
    run.summary["outcome"] = str(outcome)
    if outcome in (Outcome.PRUNED, Outcome.STOPPED, Outcome.DIVERGED, Outcome.OUT_OF_MEMORY):
        run.tags = (*(run.tags or ()), str(outcome))
    run.summary["error"] = error  # also where there is none: an earlier attempt may have left one


@functools.cache
def _packages() -> str:
    installed = {f"{found.name}=={found.version}" for found in importlib.metadata.distributions()}
    return "\n".join(sorted(installed, key=str.lower)) + "\n"


@functools.cache
def _uncommitted() -> str:
    """The difference to the last commit, where training was started; as this process, which stays, has loaded it.

    The SDK takes it of the folder that runs are written to, and only where it saves code, too.
    """
    try:
        command = ["git", "diff", "HEAD"]
        return subprocess.run(command, capture_output=True, check=True, timeout=GIT_TIMEOUT_S).stdout.decode(
            errors="replace"
        )
    except (OSError, subprocess.SubprocessError):  # no git, or no repository
        return ""


def _plain(value: Any) -> Any:
    return value.model_dump() if hasattr(value, "model_dump") else value
