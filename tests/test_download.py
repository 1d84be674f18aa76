"""Datasets are downloaded once, whole, or not at all."""

from __future__ import annotations

import multiprocessing
import socket
from pathlib import Path

import pytest
from doubles import datasets
from torchvision.datasets import CIFAR10, MNIST

from orchestrator.errors import InputError
from trainables._download import cache_folder, download


class Counted(MNIST):
    """MNIST, which tells how often it was downloaded."""

    def download(self) -> None:
        super().download()
        with (Path(self.root).parent.parent / "downloads").open("a") as file:
            file.write("once\n")

    @property
    def raw_folder(self) -> str:
        return str(Path(self.root) / "MNIST" / "raw")


def fetch(served: Path, address: str, folder: Path) -> None:
    """What a worker process does."""
    datasets.serve_from(served, address)
    download(Counted, folder)
    assert len(Counted(folder, train=True)) == 240


@pytest.mark.slow
def test_several_workers_download_once_and_put_right_what_was_left_half_done(tmp_path: Path) -> None:
    served = tmp_path / "served"
    datasets.write_mnist(served)
    datasets.write_cifar10(served, batch=1, test=1)
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, _ in MNIST.resources:
        (raw / name.removesuffix(".gz")).write_bytes(b"\0\0\x08\x01\0\0")  # cut off in the header
    (raw / "notes.txt").write_text("the user's own")
    (tmp_path / "data" / ".Counted-killed" / "MNIST").mkdir(parents=True)
    context = multiprocessing.get_context("spawn")
    with datasets.serving(served) as address:
        workers = [context.Process(target=fetch, args=(served, address, tmp_path / "data")) for _ in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert (tmp_path / "downloads").read_text() == "once\n"
    assert {path.name for path in (tmp_path / "data").iterdir()} == {"MNIST", ".Counted.lock"}
    assert (raw / "notes.txt").read_text() == "the user's own"


def test_no_network_is_said_clearly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MNIST, "mirrors", [f"{(tmp_path / 'nowhere').as_uri()}/"])
    with pytest.raises(InputError, match=r"MNIST is not in .*/data, and cannot be downloaded .*params\.data_dir=DIR"):
        download(MNIST, tmp_path / "data")
    assert not (tmp_path / "data" / "MNIST").exists()


@pytest.mark.parametrize("kind", [MNIST, CIFAR10])
def test_a_server_that_says_nothing_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[MNIST | CIFAR10]
) -> None:
    monkeypatch.setattr("trainables._download.SILENCE_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        monkeypatch.setattr(MNIST, "mirrors", [address])
        monkeypatch.setattr(CIFAR10, "url", f"{address}cifar.tar.gz")
        with pytest.raises(
            InputError, match=rf"{kind.__name__} is not in .*/data, and cannot be downloaded \(.*timed out"
        ):
            download(kind, tmp_path / "data")
    assert socket.getdefaulttimeout() is None


def test_the_cache_is_torchs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert cache_folder(None) == tmp_path / "datasets"
    assert cache_folder("~/here") == Path.home() / "here"
