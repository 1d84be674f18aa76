"""How runs get from the sweep's folder to W&B: the SDK's own `wandb sync`, also of runs that are still written (wandb).

A worker writes its run to disk and nowhere else, so nothing that the server does can reach training. Here the SDK's
syncing engine (wandb-core, in a process of its own) replays the file to the server: while it grows, through outages,
and segment by segment where a trial was interrupted and went on. Source: `wandb/cli/beta_sync.py` and
https://github.com/wandb/wandb/tree/main/core/internal/runsync.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from orchestrator import artifact, runlog
from orchestrator.credentials import own_folders
from orchestrator.errors import OrchestratorError, TrackingError, UndeliverableError
from orchestrator.folder import SweepFolder, sent_marker
from orchestrator.messages import Job
from orchestrator.naming import is_artifact, run_id
from orchestrator.page import Facts, Page, translated
from orchestrator.spec import Spec

# How often a sync under way is looked at.
LOOK_EVERY_S = 0.5
INIT_TIMEOUT_S = 30.0


class Delivery:
    """Brings the runs of one sweep to the server."""

    def __init__(self, spec: Spec, folder: SweepFolder, page: Page, notify: Callable[[str], None]) -> None:
        self._spec, self._folder, self._page, self._notify = spec, folder, page, notify
        self._gone: set[str] = set()  # what trials started from, and W&B has no more
        os.environ.update(own_folders(folder.work))

    def run_id(self, number: int) -> str:
        """The W&B id of a trial's run."""
        return run_id(self._folder.name, number)

    def segments(self, number: int) -> list[Path]:
        """The files that a trial's run was written to, oldest first."""
        return self._folder.run_files(self.run_id(number))

    def waiting(self, number: int) -> list[Path]:
        """Those that are not, or not wholly, on the server."""
        return [path for path in self.segments(number) if not sent_marker(path).exists()]

    def send(self, path: Path, *, live: bool = False, said: Callable[[str], None] | None = None) -> None:
        """Replay a segment to the server; a live one until the run's process has said how it ended.

        `said` hears at once of what the engine gives up on, e.g. uploads that the server refused in mid-run.

        Raises:
            TrackingError: not everything arrived; the segment is as it was, and can be sent again.
        """
        from wandb.sdk import wandb_setup

        singleton, sent = wandb_setup.singleton(), path.stat()
        errors: list[str] = []

        async def sync() -> None:
            service, settings = singleton.ensure_service(), singleton.settings.model_copy()
            settings.x_graphql_retry_max = None  # the engine's own patience, of hours
            settings.x_graphql_timeout_seconds = None
            begun = await service.init_sync(
                {path}, settings, cwd=None, live=live, entity=self._page.entity, project=self._page.project,
                run_id="", job_type="", tag_replacements={},
            )  # fmt: skip
            ticket = (await begun.wait_async(timeout=INIT_TIMEOUT_S)).id
            task = asyncio.ensure_future((await service.sync(ticket, parallelism=1)).wait_async(timeout=None))
            while not task.done():
                await asyncio.wait([task], timeout=LOOK_EVERY_S)
                status = await (await service.sync_status(ticket)).wait_async(timeout=None)
                _hear(status.new_messages, errors, said)
            _hear(task.result().messages, errors, said)

        with translated():
            singleton.asyncer.run(sync)
        if errors or not os.path.samestat(sent, path.stat()):  # it was amended meanwhile
            # The engine marks what it is done with, whether it arrived or not.
            sent_marker(path).unlink(missing_ok=True)
        if errors:
            raise TrackingError(f"W&B did not take all of run {path.parent.name}: {errors[0]}")

    def missing(self, numbers: Sequence[int], *, evicted: Collection[int] = ()) -> dict[int, str]:
        """See that what is on disk of some trials' runs is on the server; what is not, by number, waits again.

        Args:
            numbers: of the trials.
            evicted: those whose checkpoints are not kept there.

        Raises:
            TrackingError: the server cannot be asked.
        """
        facts = self._page.facts([self.run_id(number) for number in numbers])
        found = {}
        for number in numbers:
            written = {path: runlog.read(path) for path in self.segments(number)}
            there = facts.get(self.run_id(number))
            missing = _missing(list(written.values()), there, checkpoints=number not in evicted)
            missing = missing or _missing_files(written, there.files if there else {})
            if missing is None:
                self._folder.drop_held(number)
                continue
            found[number] = f"W&B has not all of run {self.run_id(number)}: {missing} is missing"
            for segment in self.segments(number):
                sent_marker(segment).unlink(missing_ok=True)
            self.hold(number)
        return found

    def log_left(self, job: Job) -> None:
        """Log the checkpoints of a trial that has no workers any more, as far as these did not get to.

        Raises:
            TrackingError: that cannot be written.
        """
        artifact.log_left(self._spec, self._folder, job)

    def join_all(self) -> None:
        """Make what W&B has of the runs that are on disk members of the sweep, which may have been made anew.

        Not those that are not its own.

        Raises:
            TrackingError: the server cannot be asked, or refuses.
        """
        for name, facts in self._page.facts(sorted(self._folder.runs())).items():
            with suppress(UndeliverableError):  # said where the run itself is brought up
                if facts.sweep is None:
                    self._page.admit(name)
        self._page.deleted = None

    def drop_checkpoints(self, number: int) -> None:
        """Delete what of a trial's checkpoints is on the server.

        Raises:
            TrackingError: the server cannot be asked, or refuses.
        """
        logged = {digest for path in self.segments(number) for digest in runlog.read(path).checkpoints}
        self._page.drop_checkpoints(self.run_id(number), logged)

    def hold(self, number: int) -> None:
        """Let a trial's checkpoints wait for their upload once more, where they do not; what was sent may be gone."""
        if not self._folder.held_checkpoints(number).exists():
            for path in self._folder.checkpoints(number).values():
                self._folder.hold(path, number)

    def settle(self, number: int, *, evicted: bool) -> None:
        """See that all of one trial's run is there, and nothing that is kept no more; say what its weights come from.

        Raises:
            TrackingError: something is missing, or the server cannot be asked.
        """
        for missing in self.missing([number], evicted=[number] if evicted else []).values():
            raise TrackingError(missing)
        if len(segments := self.segments(number)) > 1:  # else nothing can be former
            parts = [runlog.read(path) for path in segments]
            logged = {digest for part in parts for digest in part.checkpoints}
            if former := logged - runlog.last_checkpoints(parts).keys():
                self._page.drop_checkpoints(self.run_id(number), former)
        for source in filter(is_artifact, filter(None, (self._spec.start_from, self._folder.source(number)))):
            if source not in self._gone and not self._page.use(self.run_id(number), source):
                self._gone.add(source)
                self._notify(
                    f"{source} is not in W&B any more, so that runs cannot say there that they started from it"
                )

    def conclude(self, tell: Callable[[], None], winner: int | None, former: Sequence[int]) -> dict[str, str]:
        """Say how the sweep ended and which checkpoint is its best; what W&B did not take of that, and why.

        Args:
            tell: says on the page how the sweep ended.
            winner: the trial whose checkpoint is the sweep's best, where there is one.
            former: those whose were at earlier ends of it.
        """
        missing: dict[str, str] = {}
        with named(missing, "how the sweep ended"):
            tell()
        if winner is None:
            return missing
        tracking, name = self._spec.tracking, self.run_id(winner)
        with named(missing, f"the alias of {name}'s checkpoint"):
            self._page.crown(name, [self.run_id(number) for number in former])
        if tracking.registry:
            with named(missing, f"the link of {name}'s checkpoint to the registry"):
                self._page.link(name, tracking.registry, tracking.registry_aliases)
        return missing

    def keep_exports(self, numbers: Iterable[int]) -> dict[str, str]:
        """Save the models that some trials were exported to with their runs; what W&B did not take of that, and why."""
        missing: dict[str, str] = {}
        for number in numbers:
            name = self.run_id(number)
            with named(missing, f"{name}'s model as ONNX"), tempfile.TemporaryDirectory() as scratch:
                if not self._folder.has(self._folder.onnx(number)):
                    continue
                path = self._folder.local_copy(self._folder.onnx(number), Path(scratch))
                facts = self._page.facts([name]).get(name)
                if facts is None or not (md5 := facts.files.get(path.name)) or not _is(path, md5):
                    self._page.keep(name, path)
        return missing


@contextmanager
def alone(folder: SweepFolder) -> Iterator[None]:
    """Be the one process on this machine that brings a sweep's runs up, once any other has left.

    The desk of a sweep that was killed outlives it, to say so on the page; what comes next is said after that.
    """
    with (folder.work / ".desk").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def named(missing: dict[str, str], name: str) -> Iterator[None]:
    """Note what did not arrive, and why, and go on with the rest."""
    try:
        yield
    except OrchestratorError as exc:
        missing[name] = str(exc)


def _missing(written: Sequence[runlog.Written], facts: Facts | None, *, checkpoints: bool) -> str | None:
    """What of a run's files is not on the server."""
    if facts is None:
        return "the run"
    # Neither says it all: rows that were sent twice count twice, and after those that are missing there may be others.
    if (rows := sum(each.rows for each in written) - facts.rows) > 0:
        return f"{rows} rows"
    if facts.steps < sum(each.steps for each in written):
        return f"all after row {facts.steps}"
    kept = runlog.last_checkpoints(written).keys() if checkpoints else frozenset[str]()
    others = frozenset().union(*(each.artifacts for each in written))
    for found, what in ((kept - facts.digests, "checkpoints"), (others - facts.digests, "tables or other artifacts")):
        if found:
            return f"{len(found)} {what}"
    return "its end" if facts.state == "running" else None


def _missing_files(written: Mapping[Path, runlog.Written], there: Mapping[str, str | None]) -> str | None:
    """What of the files that a run's segments saved, as far as they are still on disk, is not on the server.

    Media are named after what is in them.
    """
    from wandb.sdk import wandb_setup

    ignored = wandb_setup.singleton().settings.ignore_globs
    saved = {name: path.parent / "files" / name for path, each in written.items() for name in each.files}
    missing = [
        name
        for name, path in saved.items()  # where several segments saved one, the last one's
        if path.is_file()
        and not any(fnmatch(name, pattern) for pattern in ignored)
        and not (name in there and (name.startswith("media/") or _is(path, there[name])))
    ]
    return f"{len(missing)} files ({', '.join(sorted(missing)[:3])})" if missing else None


def _is(path: Path, md5: str | None) -> bool:
    """Whether a file is the one with this MD5; what a user saved is a link, whose target may have changed since."""
    from wandb.sdk.lib.hashutil import md5_file_b64

    return md5 is None or path.is_symlink() or md5_file_b64(path) == md5


def _hear(messages: Any, errors: list[str], said: Callable[[str], None] | None) -> None:
    """Keep what the engine gave up on; what it is merely doing is of no interest."""
    from wandb.proto.wandb_sync_pb2 import ServerSyncMessage

    for message in messages:
        if message.severity >= ServerSyncMessage.SEVERITY_ERROR:
            text = message.content.partition("] ")[2] or message.content
            errors.append(text)
            if said:
                said(text)
