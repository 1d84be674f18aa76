"""The sweep's folder: every path in it, and how files get there whole (pyarrow's file systems).

<storage>/<name>/
    sweep.yaml            the resolved spec
    ledger.journal        the Optuna study, the record of everything
    results.json, .csv    made from the ledger at every change of state
    sweep.log             what the libraries had to say
    lease.json            who runs the sweep, and since when nothing was heard; there while it runs
    trials/<number>/      checkpoints, `epoch-0003.ckpt`; `partial-0003.ckpt` of one that had to move in its next epoch;
                          `model.onnx` where it was exported; `source.txt`, what `resume --from` took it on from
    wandb/                the W&B runs of every trial, as the SDK lays them out
    start_from.ckpt       the checkpoint that every trial starts from, if one was named
    known.json            what was known before it began, if it was told where to look
    control.json          what a user last asked of it on the command line
    ray/                  Ray's own files
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO, TypeVar

from pyarrow import fs

from orchestrator.errors import InputError, StorageError, StorageFullError
from orchestrator.naming import near_miss, run_id

T = TypeVar("T")
CHECKPOINT = re.compile(r"epoch-(\d+)\.ckpt")
PARTIAL = re.compile(r"partial-(\d+)\.ckpt")
HALF_WRITTEN = re.compile(r"\.(?:epoch|partial)-\d+\.ckpt\.\d+")
# How often a sweep's lock is tried again, and after how long: whoever asks whether it is held has it for an instant.
LOOKS, LOOK_S = 20, 0.05
# How often the process that runs a sweep says so in the storage, and after how long a silence it counts as gone.
LEASE_EVERY_S, LEASE_LOST_S = 10.0, 45.0
# Pauses before a storage that fails is asked again; after the last it is an error.
RETRY_AFTER_S = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
# What checkpoints leave free on a disk for the sweep's record: some thousand trials', and the results twice.
RESERVE_BYTES = 32 * 2**20
FULL = {errno.ENOSPC, errno.EDQUOT}
# What does not pass by waiting.
LASTING = FULL | {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG}


@dataclass(frozen=True, kw_only=True)
class Lease:
    """Who runs a sweep, for machines that do not share its lock."""

    owner: str
    host: str
    process: int
    said_at: float
    """When it was last renewed: seconds since the epoch, by the clock of `host`."""


class SweepFolder:
    """One sweep's folder in a storage: a local folder, or a URL that pyarrow knows.

    The ledger and the logs are appended to, which object stores cannot; they live in `work`, the folder itself where
    it is local, and are copied up by `push` where it is not.
    """

    def __init__(self, storage: str, name: str) -> None:
        if "://" not in storage:
            storage = str(Path(storage).expanduser().resolve())
        self.storage, self.name = storage, name
        try:
            if "://" in storage:
                self._fs, root = fs.FileSystem.from_uri(storage)
            else:
                self._fs, root = fs.LocalFileSystem(), storage
        except (OSError, ValueError, NotImplementedError) as exc:
            raise StorageError(f"storage '{storage}' cannot be opened: {exc}") from exc
        self._root = f"{root.rstrip('/')}/{name}"
        self.is_local = isinstance(self._fs, fs.LocalFileSystem)
        self.work = Path(self._root) if self.is_local else _scratch() / name
        self.ledger = self.work / "ledger.journal"
        self.log = self.work / "sweep.log"
        self.lock = self.work / ".lock"
        self.ray_url = self.show("ray")

    def exists(self) -> bool:
        """Whether a sweep was started here."""
        return self.has("sweep.yaml")

    def has(self, path: str) -> bool:
        """Whether a file is there."""
        info = self._look(self._at(path))
        return bool(info.type != fs.FileType.NotFound)

    def _look(self, what: str | fs.FileSelector) -> Any:
        """What there is.

        Raises:
            StorageError: that cannot be told.
        """
        try:
            return self._fs.get_file_info(what)
        except OSError as exc:
            raise StorageError(f"{self.storage} cannot be read: {exc}") from exc

    def free_gib(self) -> float | None:
        """How much the storage has free; None for an object store, which does not say."""
        if not self.is_local:
            return None
        there = next(place for place in (Path(self._root), *Path(self._root).parents) if place.is_dir())
        return shutil.disk_usage(there).free / 2**30

    def create(self) -> None:
        """Make the folder."""
        try:
            self._fs.create_dir(self._root, recursive=True)
            self.work.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise StorageError(f"{self.show('')} cannot be made: {exc}") from exc

    @contextmanager
    def locked(self, say: Callable[[str], None] = lambda _: None) -> Iterator[None]:
        """Be the one process that runs this sweep, on this machine by a lock, which goes with the process however that
        ends; for others by a lease in the storage, which runs out.

        Args:
            say: told when another machine's lease has to be watched first, for up to `LEASE_LOST_S`.

        Raises:
            InputError: another process has it.
        """
        with self._flocked():
            self._watch_out(say)
            over, owner = threading.Event(), uuid.uuid4().hex
            self._renew_lease(owner)
            keeper = threading.Thread(target=self._keep_lease, args=(owner, over), name="lease", daemon=True)
            keeper.start()
            try:
                yield
            finally:
                over.set()
                keeper.join()
                with suppress(OSError):  # then it runs out
                    self.delete("lease.json")

    def _watch_out(self, say: Callable[[str], None]) -> None:
        """See whether another machine renews the lease; clocks may differ, so only its changing counts."""
        first = self._lease()
        if first is None or first.host == socket.gethostname():
            return
        say(f"{first.host} ran this sweep: watching for {LEASE_LOST_S:g} s at most whether it still does")
        deadline = time.monotonic() + LEASE_LOST_S
        while time.monotonic() < deadline:
            time.sleep(1)
            if (now := self._lease()) is None:
                return
            if now != first:
                raise InputError(f"{self.show('')} is run by process {now.process} on {now.host}; stop it there first")

    def _lease(self) -> Lease | None:
        try:
            return Lease(**json.loads(self.read_text("lease.json"))) if self.has("lease.json") else None
        except (StorageError, ValueError, TypeError):  # gone in between, or of another edition
            return None

    def _renew_lease(self, owner: str) -> None:
        lease = Lease(owner=owner, host=socket.gethostname(), process=os.getpid(), said_at=time.time())
        self.write_text("lease.json", json.dumps(asdict(lease)))

    def _keep_lease(self, owner: str, over: threading.Event) -> None:
        while not over.wait(LEASE_EVERY_S):
            lease = self._lease()
            if lease is not None and lease.owner != owner:
                # Two processes that write one ledger would spoil it. This one was away for long: suspended, say.
                print(f"error: {lease.host} took over {self.show('')}; this process ends", file=sys.stderr, flush=True)
                os._exit(1)
            with suppress(StorageError):  # said by the sweep, which writes more than this
                self._renew_lease(owner)

    @contextmanager
    def _flocked(self) -> Iterator[None]:
        self.work.mkdir(parents=True, exist_ok=True)
        with self.lock.open("w") as lock:
            try:
                _lock(lock)
            except BlockingIOError as exc:
                raise InputError(
                    f"{self.show('')} is run by another process on this machine; wait for it, or end it:"
                    f" python -m orchestrator stop {self.show('').rstrip('/')}"
                ) from exc
            yield

    def is_run(self) -> bool:
        """Whether a process runs the sweep now: on this machine by its lock, elsewhere by what was last heard of it."""
        if self._is_locked():
            return True
        lease = self._lease()
        elsewhere = lease is not None and lease.host != socket.gethostname()
        return elsewhere and lease is not None and time.time() - lease.said_at < LEASE_LOST_S

    def _is_locked(self) -> bool:
        try:
            with self.lock.open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def show(self, path: str) -> str:
        """A path in the folder, as a user can give it to other tools."""
        if self.is_local:
            return f"{self._root}/{path}"
        place, mark, options = self.storage.partition("?")  # of a URL, such as S3's endpoint_override
        return f"{place.rstrip('/')}/{self.name}/{path}{mark}{options}"

    def read_text(self, path: str) -> str:
        """Read a small file.

        Raises:
            StorageError: it is not there, or cannot be read.
        """
        try:
            while True:
                with self._fs.open_input_file(self._at(path)) as file:
                    data: bytes = file.read()
                # An object store is asked for the size first and then for so many bytes, of whatever is there by then.
                if self.is_local or len(data) == self._fs.get_file_info(self._at(path)).size:
                    return data.decode("utf-8")
        except OSError as exc:
            raise StorageError(f"{self.show(path)} cannot be read: {exc}") from exc

    def write_text(self, path: str, text: str) -> None:
        """Write a small file whole: beside, then renamed, so that a reader never sees half of it."""

        def write() -> None:
            with self._whole(path) as target, self._fs.open_output_stream(target) as stream:
                stream.write(text.encode("utf-8"))

        patiently(write)

    def push(self, *names: str) -> None:
        """Copy files of `work` up, where the storage is not local."""
        for name in names if not self.is_local else ():
            self.upload(self.work / name, name)

    def pull(self, name: str) -> None:
        """Bring a file that only grows into `work`, where the storage is not local and has it.

        What is in `work` stays if it is what the storage has, or more of it: it was not all pushed yet, and may be
        written to right now.
        """
        if self.is_local or not self.has(name):
            return
        local = self.work / name
        fetched = self.work / f".{name}.{os.getpid()}.pulled"
        self.download(name, fetched)
        pushed = fetched.read_bytes()
        if local.is_file() and local.read_bytes().startswith(pushed):
            fetched.unlink()
        else:
            fetched.replace(local)

    def upload(self, local: Path, path: str) -> None:
        """Copy a local file into the folder, whole."""

        def copy() -> None:
            with self._whole(path) as target:
                here = fs.LocalFileSystem()
                fs.copy_files(str(local), target, source_filesystem=here, destination_filesystem=self._fs)
                if self.is_local:
                    _leave_room(target)

        patiently(copy)

    @contextmanager
    def writing(self, path: str, scratch: Path, *, synced: bool = False) -> Iterator[Path]:
        """A local path to write a large file to; in the folder, whole, when the block ends.

        Args:
            path: where it goes.
            scratch: for temporary files.
            synced: whether it is then on the disk, too, and survives a loss of power; as what object stores take does.
        """
        if self.is_local:
            with self._whole(path) as target:
                yield Path(target)
                _leave_room(target)
                if synced:
                    _sync(target)
            if synced:
                _sync(os.path.dirname(self._at(path)))  # where its name is
        else:
            local = scratch / Path(path).name
            yield local
            self.upload(local, path)
            local.unlink()

    def upload_tree(self, local: Path, path: str) -> None:
        """Copy a local folder up, where the storage is not local."""
        if self.is_local:
            return
        for file in sorted(p for p in local.rglob("*") if p.is_file()):
            self.upload(file, f"{path}/{file.relative_to(local)}")

    def download_tree(self, path: str) -> None:
        """Bring a folder into `work`, where the storage is not local; what is there already stays."""
        if self.is_local:
            return
        selector = fs.FileSelector(self._at(path), recursive=True, allow_not_found=True)
        for info in self._look(selector):
            local = self.work / info.path.removeprefix(f"{self._root}/")
            if info.type == fs.FileType.File and not local.exists():
                self.download(info.path.removeprefix(f"{self._root}/"), local)

    def download_run(self, run_id: str) -> None:
        """Bring the files that a W&B run was written to into `work`, where the storage is not local; without media."""
        selector = fs.FileSelector(self._at("wandb"), allow_not_found=True)
        for info in () if self.is_local else self._look(selector):
            # The SDK counts those of one second.
            if re.fullmatch(rf"offline-run-\d+_\d+-{re.escape(run_id)}(-\d+)?", info.base_name):
                name = f"wandb/{info.base_name}/run-{run_id}.wandb"
                if not (self.work / name).exists() and self.has(name):
                    self.download(name, self.work / name)

    def download(self, path: str, local: Path) -> None:
        """Copy a file of the folder to a local path, whole."""
        beside = local.with_name(f".{local.name}.{os.getpid()}")
        try:
            local.parent.mkdir(parents=True, exist_ok=True)
            fs.copy_files(
                self._at(path), str(beside), source_filesystem=self._fs, destination_filesystem=fs.LocalFileSystem()
            )
            beside.replace(local)
        except OSError as exc:
            with suppress(OSError):
                beside.unlink(missing_ok=True)
            raise StorageError(f"{self.show(path)} cannot be copied to {local}: {exc}") from exc

    def delete(self, path: str) -> None:
        """Delete a file, if it is there.

        Raises:
            StorageError: it is there, and cannot be deleted.
        """
        try:
            self._fs.delete_file(self._at(path))
        except FileNotFoundError:  # another process was faster, or it never was
            pass
        except OSError as exc:
            if self.has(path):
                raise StorageError(f"{self.show(path)} cannot be deleted: {exc}") from exc

    def delete_folder(self, path: str) -> None:
        """Delete a folder and what is in it, if it is there.

        Raises:
            StorageError: it is there, and cannot be deleted.
        """
        try:
            if self.has(path):
                self._fs.delete_dir(self._at(path))
        except OSError as exc:
            raise StorageError(f"{self.show(path)} cannot be deleted: {exc}") from exc

    def delete_if_empty(self) -> None:
        """Delete the sweep's own folder where nothing is in it; object stores have none."""
        if self.is_local:
            with suppress(OSError):  # something is in it, which another process may have put there a moment ago
                os.rmdir(self._root)

    def checkpoint(self, number: int, epoch: int) -> str:
        """The path, relative to the folder, of a trial's checkpoint at the end of an epoch."""
        return f"trials/{number}/epoch-{epoch:04d}.ckpt"

    def onnx(self, number: int) -> str:
        """The path, relative to the folder, of a trial's model as ONNX."""
        return f"trials/{number}/model.onnx"

    def partial(self, number: int, epoch: int) -> str:
        """The path of a trial's checkpoint in mid-epoch, after `epoch` whole ones."""
        return f"trials/{number}/partial-{epoch:04d}.ckpt"

    def checkpoints(self, number: int) -> dict[int, str]:
        """A trial's checkpoints by epoch, oldest first."""
        return self._by_epoch(number, CHECKPOINT)

    def newest(self, number: int) -> str | None:
        """The checkpoint that is furthest on, one in mid-epoch where there is such; None where there is none."""
        found = [*self.checkpoints(number).items(), *self._by_epoch(number, PARTIAL).items()]
        return max(found, key=lambda item: (item[0], PARTIAL.search(item[1]) is not None))[1] if found else None

    def _by_epoch(self, number: int, pattern: re.Pattern[str]) -> dict[int, str]:
        selector = fs.FileSelector(self._at(f"trials/{number}"), allow_not_found=True)
        names = [info.base_name for info in self._look(selector)]
        found = {int(match[1]): f"trials/{number}/{match[0]}" for name in names if (match := pattern.fullmatch(name))}
        return dict(sorted(found.items()))

    def set_source(self, number: int, name: str) -> None:
        """Note which checkpoint, a path or an artifact's version, a trial was told to go on from."""
        self.write_text(f"trials/{number}/source.txt", name)

    def source(self, number: int) -> str | None:
        """The last one of these; None where it goes on from its own."""
        return self.read_text(path) if self.has(path := f"trials/{number}/source.txt") else None

    weights = "start_from.ckpt"
    """The checkpoint whose weights every trial starts from, where there is one."""
    known = "known.json"
    """The results from elsewhere that it began with, where there are any; as the module `known` writes them."""

    @property
    def spare(self) -> Path:
        """Where W&B runs are written to on a machine on which there is no room in `work`."""
        root = hashlib.sha256(self._root.encode()).hexdigest()[:8]  # another storage may have a sweep of that name
        return Path(tempfile.gettempdir()) / f"orchestrator-{self.name}-{root}"

    def run_files(self, run_id: str | None = None) -> list[Path]:
        """The files here that a W&B run, or any, was written to, oldest first: one each time it was opened."""
        found: dict[Path | str, Path] = {}
        # The SDK counts the folders of one second. Those of other runs are not looked into: there may be thousands.
        pattern = f"offline-run-*-{run_id}*/run-{run_id}.wandb" if run_id else "offline-run-*/run-*.wandb"
        for place in (self.work, self.spare):
            for path in (place / "wandb").glob(pattern):
                found.setdefault(path if self.is_local else path.parent.name, path)  # else it may be here twice
        return sorted(found.values(), key=lambda path: path.parent.name)

    @staticmethod
    def epoch_of(checkpoint: str) -> int:
        """The epoch that a checkpoint of `checkpoint` ends."""
        return int(checkpoint.rpartition("epoch-")[2].removesuffix(".ckpt"))

    def held_checkpoints(self, number: int) -> Path:
        """Where a trial's checkpoints wait until they have been uploaded; on the machine that trains it."""
        return self.work / "wandb" / "checkpoints" / str(number)

    def hold(self, checkpoint: str, number: int) -> Path:
        """Let a trial's checkpoint wait for its upload, whatever is kept, as a link where there can be one."""
        held = self.held_checkpoints(number) / Path(checkpoint).name
        held.parent.mkdir(parents=True, exist_ok=True)
        local = self.local_copy(checkpoint, held.parent)
        if local != held:
            held.unlink(missing_ok=True)
            try:
                os.link(local, held)
            except OSError:  # a file system without links
                shutil.copyfile(local, held)
        return held

    def drop_held(self, number: int) -> None:
        """Delete what waited for its upload."""
        shutil.rmtree(self.held_checkpoints(number), ignore_errors=True)
        if not self.is_local:
            self.delete_folder(f"wandb/checkpoints/{number}")

    def runs(self) -> set[str]:
        """The W&B runs of which there are files on this machine, by id."""
        return {path.stem.removeprefix("run-") for path in self.run_files()}

    def unsent_runs(self) -> set[str]:
        """The W&B runs on this machine of which something is not marked as sent, or a checkpoint still waits, by id."""
        unsent = {path.stem.removeprefix("run-") for path in self.run_files() if not sent_marker(path).exists()}
        return unsent | {run_id(self.name, int(held.name)) for held in self.held_checkpoints(0).parent.glob("[0-9]*")}

    def drop_checkpoints(self, number: int, *, kept: Collection[int] = ()) -> None:
        """Delete a trial's checkpoints, except those of some epochs, and what a killed worker left half written."""
        for epoch, path in self.checkpoints(number).items():
            if epoch not in kept:
                self.delete(path)
        for info in self._look(fs.FileSelector(self._at(f"trials/{number}"), allow_not_found=True)):
            if HALF_WRITTEN.fullmatch(info.base_name) or PARTIAL.fullmatch(info.base_name):
                self.delete(f"trials/{number}/{info.base_name}")

    def local_copy(self, path: str, into: Path) -> Path:
        """A file of the folder as a local file: itself where the storage is local, else a copy in `into`."""
        if self.is_local:
            return Path(self._at(path))
        self.download(path, into / Path(path).name)
        return into / Path(path).name

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root

    @contextmanager
    def _whole(self, path: str) -> Iterator[str]:
        """Where to write a file that is there whole or not at all: beside, then renamed, as object stores do it."""
        target = self._at(path)
        head, _, tail = target.rpartition("/")
        beside = f"{head}/.{tail}.{os.getpid()}" if self.is_local else target
        try:
            if self.is_local:
                self._fs.create_dir(head, recursive=True)
            yield beside
            if self.is_local:
                self._fs.move(beside, target)
        except OSError as exc:
            raise refusal(self.show(path), exc) from exc
        finally:
            if self.is_local:
                with suppress(OSError):  # moved away, or never made
                    Path(beside).unlink()


def refusal(what: str, exc: OSError) -> StorageError:
    """The error for a file that a storage did not take."""
    return (StorageFullError if exc.errno in FULL else StorageError)(f"{what} cannot be written: {exc}")


def _leave_room(path: str) -> None:
    """See that a file that was just written leaves the sweep's record its room.

    Raises:
        OSError: it does not, as if the disk were full.
    """
    if shutil.disk_usage(os.path.dirname(path)).free < RESERVE_BYTES:
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}, but what is kept for the sweep's record")


def _sync(path: str) -> None:
    """Have a file, or a folder's names, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def patiently(action: Callable[[], T]) -> T:
    """Do what may fail because the storage is briefly away, again and again for half a minute.

    Raises:
        StorageError: it failed for good.
    """
    for pause_s in RETRY_AFTER_S:
        try:
            return action()
        except StorageError as exc:
            cause = exc.__cause__
            if isinstance(cause, OSError) and cause.errno in LASTING:
                raise
            time.sleep(pause_s)
    return action()


def _lock(file: TextIO) -> None:
    """Lock a file for this process alone; tries for a moment, since somebody may only be looking.

    Raises:
        BlockingIOError: another process has it.
    """
    for _ in range(LOOKS):
        with suppress(BlockingIOError):
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(LOOK_S)
    return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def sent_marker(run_file: Path) -> Path:
    """The file by which W&B's syncing engine marks one as sent."""
    return run_file.with_suffix(".wandb.synced")


def sweeps_in(storage: str) -> list[str]:
    """The sweeps of a storage, by name, the newest last."""
    folder = SweepFolder(storage, "x")
    root = folder._root.rpartition("/")[0]
    found = []
    for info in folder._look(fs.FileSelector(root, allow_not_found=True)):
        spec = folder._look(f"{info.path}/sweep.yaml")
        if spec.type == fs.FileType.File:
            found.append((spec.mtime_ns, info.base_name))
    return [name for _, name in sorted(found)]


def find(reference: str | None, storage: str, *, where: str) -> SweepFolder:
    """A sweep by name in a storage, by folder or by URL; the newest of the storage where none is given.

    Args:
        reference: the name, folder or URL.
        storage: where a name is looked for.
        where: what says where that is, for the message.

    Raises:
        InputError: there is none.
    """
    known = sweeps_in(storage) if reference is None or "/" not in reference else []
    if reference is None:
        if not known:
            raise InputError(f"no sweep in {storage}; name one, or say where with {where}")
        reference = known[-1]
    elif "/" in reference:
        place, mark, options = reference.partition("?")  # of a URL, such as S3's endpoint_override
        storage, _, reference = place.rstrip("/").rpartition("/")
        storage += mark + options
    folder = SweepFolder(storage or "/", reference)
    if not folder.exists():
        known = known or sweeps_in(folder.storage)
        there = f" there are: {', '.join(known)}" if known else f" {where} is {storage}"
        raise InputError(f"no sweep '{reference}' in {storage}{near_miss(reference, known) or ';'}{there}")
    return folder


def _scratch() -> Path:
    """Where the working copies of sweeps in remote storage live on this machine."""
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "sweep-orchestrator"
