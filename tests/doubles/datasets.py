"""Small datasets in the true on-disk formats, which torchvision's own classes download and read."""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import struct
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
from torchvision.datasets import CIFAR10, MNIST

_ALTERED = {MNIST: ("mirrors", "resources"), CIFAR10: ("url", "tgz_md5", "train_list", "test_list", "meta")}
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def write_mnist(folder: Path, train: int = 240, test: int = 60) -> None:
    """Four gzipped files of idx format, as on MNIST's servers (http://yann.lecun.com/exdb/mnist/)."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", train), ("t10k", test)):
        images, labels = _learnable(count, (28, 28))
        header = struct.pack(">BBBBIII", 0, 0, 8, 3, *images.shape)
        (folder / f"{split}-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + images.tobytes(), mtime=0))
        header = struct.pack(">BBBBI", 0, 0, 8, 1, count)
        (folder / f"{split}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(header + labels.tobytes(), mtime=0))


def write_cifar10(folder: Path, batch: int = 40, test: int = 40) -> None:
    """One archive of pickled batches, as on CIFAR's server (https://www.cs.toronto.edu/~kriz/cifar.html)."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / CIFAR10.filename, "w:gz") as archive:
        for name, count in [*((name, batch) for name, _ in CIFAR10.train_list), ("test_batch", test)]:
            images, labels = _learnable(count, (3, 32, 32))
            _add(archive, name, {"data": images.reshape(count, -1), "labels": labels.tolist()})
        _add(archive, "batches.meta", {"label_names": CLASSES})


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve the files of a folder on this machine; at which address."""

    class Quiet(SimpleHTTPRequestHandler):
        def copyfile(self, source: Any, outputfile: Any) -> None:
            with suppress(ConnectionResetError):  # who asks only for the address hangs up before the end
                super().copyfile(source, outputfile)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's word
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def serve_from(folder: Path, address: str) -> None:
    """Let torchvision take the files of a folder for those on its servers: their addresses and checksums, no more."""
    MNIST.mirrors = [address]
    MNIST.resources = [(name, _md5(folder / name)) for name, _ in MNIST.resources]
    CIFAR10.url = f"{address}{CIFAR10.filename}"
    CIFAR10.tgz_md5 = _md5(folder / CIFAR10.filename)
    with tarfile.open(folder / CIFAR10.filename) as archive:
        sums = {Path(member.name).name: _sum(archive, member) for member in archive.getmembers()}
    CIFAR10.train_list = [[name, sums[name]] for name, _ in CIFAR10.train_list]
    CIFAR10.test_list = [[name, sums[name]] for name, _ in CIFAR10.test_list]
    CIFAR10.meta = {**CIFAR10.meta, "md5": sums["batches.meta"]}


@contextmanager
def in_place(folder: Path) -> Iterator[None]:
    """Serve the files of a folder to torchvision in this process, in place of those on its servers."""
    before = [(kind, name, vars(kind)[name]) for kind, names in _ALTERED.items() for name in names]
    with serving(folder) as address:
        try:
            serve_from(folder, address)
            yield
        finally:
            for kind, name, value in before:
                setattr(kind, name, value)


def _learnable(count: int, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Noise, and a band of light at a height that tells the class."""
    random = np.random.default_rng(count)
    labels = (np.arange(count) % 10).astype(np.uint8)
    images = random.integers(0, 60, (count, *shape), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[..., 2 * label + 4 : 2 * label + 6, :] += 180
    return images, labels


def _add(archive: tarfile.TarFile, name: str, entry: object) -> None:
    member, content = tarfile.TarInfo(f"{CIFAR10.base_folder}/{name}"), pickle.dumps(entry)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def _sum(archive: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    content = archive.extractfile(member)
    assert content is not None
    return hashlib.md5(content.read(), usedforsecurity=False).hexdigest()
