"""The sweep's folder: every path in it, and how files get there whole (pyarrow's file systems).

    <storage>/<name>/
        sweep.yaml            the resolved spec
        ledger.journal        the Optuna study, the record of everything
        results.json, .csv    made from the ledger at every change of state
        sweep.log             what the libraries had to say
        trials/<number>/      checkpoints, `epoch-0003.ckpt`
        wandb/                the W&B runs of every trial, as the SDK lays them out
        ray/                  Ray's own files
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from pyarrow import fs

from orchestrator.errors import InputError, StorageError

CHECKPOINT = re.compile(r"epoch-(\d+)\.ckpt")


class SweepFolder:
    """One sweep's folder in a storage: a local folder, or a URL that pyarrow knows.

    The ledger and the logs are appended to, which object stores cannot; they live in `work`, the folder itself where
    it is local, and are copied up by `push` where it is not.
    """

    def __init__(self, storage: str, name: str) -> None:
        self.storage, self.name = storage, name
        try:
            if "://" in storage:
                self._fs, root = fs.FileSystem.from_uri(storage)
            else:
                self._fs, root = fs.LocalFileSystem(), str(Path(storage).expanduser().resolve())
        except (OSError, ValueError) as exc:
            raise StorageError(f"storage '{storage}' cannot be opened: {exc}") from exc
        self._root = f"{root.rstrip('/')}/{name}"
        self.is_local = isinstance(self._fs, fs.LocalFileSystem)
        self.work = Path(self._root) if self.is_local else _scratch() / name
        self.ledger = self.work / "ledger.journal"
        self.log = self.work / "sweep.log"
        self.wandb = self.work  # wandb makes `wandb/` in it
        self.lock = self.work / ".lock"
        self.ray_url = f"{storage.rstrip('/')}/{name}/ray" if not self.is_local else str(self.work / "ray")

    def exists(self) -> bool:
        """Whether a sweep was started here."""
        return self._exists("sweep.yaml")

    def create(self) -> None:
        """Make the folder."""
        self._fs.create_dir(self._root, recursive=True)
        self.work.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the one process that runs this sweep; the lock goes with the process, however that ends.

        Raises:
            InputError: another process on this machine has it.
        """
        self.work.mkdir(parents=True, exist_ok=True)
        with self.lock.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as exc:
                raise InputError(f"{self.show('')} is run by another process on this machine") from exc
            yield

    def is_locked(self) -> bool:
        """Whether a process on this machine runs the sweep now."""
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
        return f"{self.storage.rstrip('/')}/{self.name}/{path}"

    def read_text(self, path: str) -> str:
        """Read a small file.

        Raises:
            StorageError: it is not there, or cannot be read.
        """
        try:
            with self._fs.open_input_stream(self._at(path)) as stream:
                text: str = stream.readall().decode("utf-8")
                return text
        except OSError as exc:
            raise StorageError(f"{self.show(path)} cannot be read: {exc}") from exc

    def write_text(self, path: str, text: str) -> None:
        """Write a small file whole: beside, then renamed, so that a reader never sees half of it."""
        with self._whole(path) as target, self._fs.open_output_stream(target) as stream:
            stream.write(text.encode("utf-8"))

    def push(self, *names: str) -> None:
        """Copy files of `work` up, where the storage is not local."""
        for name in names if not self.is_local else ():
            self.upload(self.work / name, name)

    def pull(self, name: str) -> None:
        """Bring a file into `work`, where the storage is not local and has it."""
        if not self.is_local and self._exists(name):
            self.download(name, self.work / name)

    def upload(self, local: Path, path: str) -> None:
        """Copy a local file into the folder, whole."""
        with self._whole(path) as target:
            fs.copy_files(str(local), target, source_filesystem=fs.LocalFileSystem(), destination_filesystem=self._fs)

    @contextmanager
    def writing(self, path: str, scratch: Path) -> Iterator[Path]:
        """A local path to write a large file to; in the folder, whole, when the block ends."""
        if self.is_local:
            with self._whole(path) as target:
                yield Path(target)
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

    def download(self, path: str, local: Path) -> None:
        """Copy a file of the folder to a local path, whole."""
        local.parent.mkdir(parents=True, exist_ok=True)
        beside = local.with_name(f".{local.name}.{os.getpid()}")
        try:
            fs.copy_files(
                self._at(path), str(beside), source_filesystem=self._fs, destination_filesystem=fs.LocalFileSystem()
            )
            beside.replace(local)
        except OSError as exc:
            beside.unlink(missing_ok=True)
            raise StorageError(f"{self.show(path)} cannot be copied to {local}: {exc}") from exc

    def delete(self, path: str) -> None:
        """Delete a file, if it is there."""
        if self._exists(path):
            self._fs.delete_file(self._at(path))

    def checkpoint(self, number: int, epoch: int) -> str:
        """The path, relative to the folder, of a trial's checkpoint at the end of an epoch."""
        return f"trials/{number}/epoch-{epoch:04d}.ckpt"

    def checkpoints(self, number: int) -> dict[int, str]:
        """A trial's checkpoints by epoch, oldest first."""
        selector = fs.FileSelector(self._at(f"trials/{number}"), allow_not_found=True)
        found = {}
        for info in self._fs.get_file_info(selector):
            if match := CHECKPOINT.fullmatch(info.base_name):
                found[int(match[1])] = f"trials/{number}/{info.base_name}"
        return dict(sorted(found.items()))

    def drop_checkpoints(self, number: int, *, kept: Collection[int] = ()) -> None:
        """Delete a trial's checkpoints, except those of some epochs."""
        for epoch, path in self.checkpoints(number).items():
            if epoch not in kept:
                self.delete(path)

    def local_copy(self, path: str, into: Path) -> Path:
        """A file of the folder as a local file: itself where the storage is local, else a copy in `into`."""
        if self.is_local:
            return Path(self._at(path))
        self.download(path, into / Path(path).name)
        return into / Path(path).name

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}"

    def _exists(self, path: str) -> bool:
        info = self._fs.get_file_info(self._at(path))
        return bool(info.type != fs.FileType.NotFound)

    def _whole(self, path: str) -> _Whole:
        return _Whole(self._fs, self._at(path), self.show(path), rename=self.is_local)


class _Whole:
    """A file that is there whole or not at all: written beside and renamed; object stores do so by themselves."""

    def __init__(self, filesystem: fs.FileSystem, path: str, shown: str, rename: bool) -> None:
        self._fs, self._path, self._shown = filesystem, path, shown
        head, _, tail = path.rpartition("/")
        self._beside = f"{head}/.{tail}.{os.getpid()}" if rename else path
        self._parent = head if rename else None

    def __enter__(self) -> str:
        if self._parent:
            self._fs.create_dir(self._parent, recursive=True)
        return self._beside

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None and self._beside != self._path:
            self._fs.move(self._beside, self._path)
        elif isinstance(error, OSError):
            raise StorageError(f"{self._shown} cannot be written: {error}") from error


def sweeps_in(storage: str) -> list[str]:
    """The sweeps of a storage, by name, the newest last."""
    folder = SweepFolder(storage, "x")
    root = folder._root.rpartition("/")[0]
    found = []
    for info in folder._fs.get_file_info(fs.FileSelector(root, allow_not_found=True)):
        spec = folder._fs.get_file_info(f"{info.path}/sweep.yaml")
        if spec.type == fs.FileType.File:
            found.append((spec.mtime_ns, info.base_name))
    return [name for _, name in sorted(found)]


def _scratch() -> Path:
    """Where the working copies of sweeps in remote storage live on this machine."""
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "sweep-orchestrator"
