"""A disk that is full: a small one is mounted, and filled; needs root."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from conftest import Sweeps
from test_ledger import make_report, make_spec
from test_sweep import PROBE, options, space

from orchestrator import folder as folders
from orchestrator.checkpoint import LARGE, Writer
from orchestrator.errors import StorageFullError
from orchestrator.folder import SweepFolder
from orchestrator.ledger import Ledger

SIZE = folders.RESERVE_BYTES + 8 * 2**20


class Disk:
    """A small one."""

    def __init__(self, path: Path) -> None:
        self.path, self._filler = path, path / "filler"

    def fill(self) -> None:
        """Leave nothing."""
        with suppress(OSError), self._filler.open("wb", buffering=0) as file:
            while file.write(bytes(2**16)):
                pass
        with suppress(OSError), self._filler.open("ab", buffering=0) as file:
            while file.write(b"x"):
                pass

    def free(self) -> None:
        """Take away what it was filled with."""
        self._filler.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        yield Disk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.fixture
def folder(disk: Disk) -> SweepFolder:
    found = SweepFolder(str(disk.path), "s")
    found.create()
    return found


def write(folder: SweepFolder, scratch: Path, floats: int, *, epochs: int) -> None:
    """Write a checkpoint of so many numbers after each epoch."""
    writer = Writer(folder, scratch)
    try:
        for epoch in range(1, epochs + 1):
            written = writer.write({"weights": torch.zeros(floats)}, folder.checkpoint(0, epoch))
            if written is not None:
                written.result()
    finally:
        writer.close()


@pytest.mark.parametrize("floats", [2**16, LARGE // 2], ids=["small", "large"])
def test_a_checkpoint_that_finds_no_room_is_an_error_that_names_it(
    floats: int, disk: Disk, folder: SweepFolder, tmp_path: Path
) -> None:
    disk.fill()
    with pytest.raises(StorageFullError, match=r"trials/0/epoch-0001\.ckpt cannot be written: .*No space left"):
        write(folder, tmp_path, floats, epochs=1)
    assert list((folder.work / "trials/0").iterdir()) == []


def test_checkpoints_leave_the_record_its_room(folder: SweepFolder, tmp_path: Path) -> None:
    with pytest.raises(StorageFullError, match=r"No space left on device, but what is kept for the sweep's record"):
        write(folder, tmp_path, 2**18, epochs=99)
    (tmp_path / "by a strategy.ckpt").write_bytes(bytes(2**20))
    with pytest.raises(StorageFullError, match="kept for the sweep's record"):
        folder.upload(tmp_path / "by a strategy.ckpt", folder.checkpoint(0, 99))
    assert max(folder.checkpoints(0)) in range(5, 9)
    folder.write_text("results.json", "x" * 2**20)


def test_a_record_that_finds_no_room_is_not_spoilt(
    disk: Disk, folder: SweepFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "RETRY_AFTER_S", ())
    ledger = Ledger(folder, make_spec(), create=True)
    number = ledger.ask().number
    disk.fill()

    def report_many() -> None:
        for epoch in range(1, 999):  # what is left of its last page
            ledger.report(make_report(number, epoch, 0.5))

    with pytest.raises(StorageFullError, match=r"ledger\.journal cannot be written: .*No space left"):
        report_many()
    disk.free()
    again = Ledger(folder, make_spec())
    known = again.records[number].curve
    assert len(known) < 998
    again.report(make_report(number, 999, 0.75))
    assert Ledger(folder, make_spec(), read_only=True).records[number].curve == {**known, 999: 0.75}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_sweep_goes_on_without_checkpoints_and_keeps_its_record(lone_sweeps: Sweeps, disk: Disk) -> None:
    with (disk.path / "others").open("wb") as others:  # that a disk holds what is not ours, too
        others.write(bytes(SIZE - folders.RESERVE_BYTES))
    sweeps = lone_sweeps  # on a cluster that is named, the look before would refuse such a disk
    printed = sweeps.run(
        "search", *PROBE, "name=full", f"storage={disk.path}", "search.sampler=grid", "schedule.scheduler=none",
        "schedule.max_epochs=3", "failures.retries=0", f"params.folder={sweeps.folder}", space(x=options(0.25, 0.5)),
    )  # fmt: skip
    assert printed.count("goes on without a checkpoint, and it writes no more") == 2  # one for each trial
    assert f"{disk.path}/full/trials/0/epoch-0001.ckpt cannot be written" in printed
    folder = SweepFolder(str(disk.path), "full")
    records = Ledger(folder, make_spec(name="full"), read_only=True).records
    assert [(record.state, len(record.curve), record.checkpoint) for record in records] == [("COMPLETE", 3, None)] * 2
    assert folder.checkpoints(0) == folder.checkpoints(1) == {}
