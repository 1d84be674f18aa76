"""The sweep's folder: local, by a file URL, and in storage that is not local (fsspec's, in memory, and S3)."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import fsspec
import pyarrow
import pytest
from conftest import S3_KEYS
from pyarrow import fs

from orchestrator import folder as folders
from orchestrator.errors import InputError, StorageError, StorageFullError
from orchestrator.folder import SweepFolder, sweeps_in


@pytest.fixture(params=["local", "file", "memory", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if request.param == "s3":
        for name, value in S3_KEYS.items():
            monkeypatch.setenv(name, value)
        yield f"s3://sweeps/{tmp_path.name}?{request.getfixturevalue('s3')}"
        return
    if request.param != "memory":
        yield ("file://" if request.param == "file" else "") + str(tmp_path / "results")
        return
    yield f"fsspec+memory://{tmp_path.name}/results"
    fsspec.filesystem("memory").rm(f"/{tmp_path.name}", recursive=True)


@pytest.fixture
def folder(storage: str) -> SweepFolder:
    folder = SweepFolder(storage, "sweep")
    folder.create()
    return folder


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SweepFolder]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = SweepFolder(f"fsspec+memory://{tmp_path.name}", "sweep")
    folder.create()
    yield folder
    fsspec.filesystem("memory").rm(f"/{tmp_path.name}", recursive=True)


def write_checkpoint(folder: SweepFolder, number: int, epoch: int, scratch: Path, text: str = "weights") -> str:
    path = folder.checkpoint(number, epoch)
    with folder.writing(path, scratch) as local:
        local.write_text(text)
    return path


def fail_while_writing(folder: SweepFolder, path: str, scratch: Path) -> None:
    with pytest.raises(ZeroDivisionError), folder.writing(path, scratch) as local:
        local.write_text(str(1 / (local.write_text("half") - 4)))


class TestAnyStorage:
    def test_it_exists_once_its_spec_is_written(self, folder: SweepFolder, storage: str) -> None:
        assert not folder.exists()
        assert sweeps_in(storage) == []
        folder.write_text("sweep.yaml", "a: 1\n")
        assert folder.exists()
        assert SweepFolder(storage, "sweep").exists()
        assert not SweepFolder(storage, "other").exists()
        assert sweeps_in(storage) == ["sweep"]

    def test_text_goes_in_and_comes_out(self, folder: SweepFolder, storage: str) -> None:
        folder.write_text("results.json", "ä" * 3)
        folder.write_text("results.json", "ö" * 5)
        assert SweepFolder(storage, "sweep").read_text("results.json") == "ö" * 5

    def test_what_is_not_there_is_said_with_its_place(self, folder: SweepFolder) -> None:
        with pytest.raises(StorageError, match=r"sweep/results\.json\S* cannot be read"):
            folder.read_text("results.json")

    def test_checkpoints_by_epoch(self, folder: SweepFolder, tmp_path: Path) -> None:
        assert folder.checkpoints(3) == {}
        for epoch in (10, 2, 1):
            write_checkpoint(folder, 3, epoch, tmp_path)
        write_checkpoint(folder, 4, 7, tmp_path)
        folder.write_text("trials/3/error-0.txt", "boom")
        assert list(folder.checkpoints(3)) == [1, 2, 10]
        assert folder.checkpoints(3)[10] == folder.checkpoint(3, 10) == "trials/3/epoch-0010.ckpt"
        folder.drop_checkpoints(3, kept={2, 5})
        assert list(folder.checkpoints(3)) == [2]
        assert folder.read_text("trials/3/error-0.txt") == "boom"
        assert list(folder.checkpoints(4)) == [7]
        folder.drop_checkpoints(5)

    def test_a_checkpoint_as_a_local_file(self, folder: SweepFolder, tmp_path: Path) -> None:
        path = write_checkpoint(folder, 0, 1, tmp_path, "some weights")
        into = tmp_path / "into"
        assert folder.local_copy(path, into).read_text() == "some weights"
        target = tmp_path / "deep" / "er" / "best.ckpt"
        folder.download(path, target)
        assert target.read_text() == "some weights"
        assert [p.name for p in target.parent.iterdir()] == ["best.ckpt"]

    def test_a_download_of_nothing_leaves_nothing(self, folder: SweepFolder, tmp_path: Path) -> None:
        with pytest.raises(StorageError, match=r"epoch-0001\.ckpt\S* cannot be copied to "):
            folder.download(folder.checkpoint(0, 1), tmp_path / "target" / "best.ckpt")
        assert list((tmp_path / "target").iterdir()) == []

    def test_deleting(self, folder: SweepFolder) -> None:
        folder.write_text("a/b.txt", "x")
        folder.delete("a/b.txt")
        folder.delete("a/b.txt")
        assert not folder.has("a/b.txt")

    def test_deleting_a_folder(self, folder: SweepFolder) -> None:
        folder.write_text("kept/a", "1")
        folder.write_text("gone/b/c", "2")
        folder.delete_folder("gone")
        folder.delete_folder("gone")
        assert (folder.has("kept/a"), folder.has("gone/b/c"), folder.has("gone")) == (True, False, False)
        folder.delete_folder("")
        assert not folder.has("kept/a")

    def test_a_file_is_whole_or_not_there(self, folder: SweepFolder, tmp_path: Path) -> None:
        path = write_checkpoint(folder, 0, 1, tmp_path, "first")
        fail_while_writing(folder, path, tmp_path)
        assert folder.local_copy(path, tmp_path).read_text() == "first"
        assert list(folder.checkpoints(0)) == [1]

    def test_the_paths_shown_lead_there(self, folder: SweepFolder, storage: str) -> None:
        folder.write_text("sweep.yaml", "x")
        shown, mark, options = folder.show("").partition("?")
        place, _, name = shown.rstrip("/").rpartition("/")
        assert SweepFolder(place + mark + options, name).read_text("sweep.yaml") == "x"
        assert folder.ray_url == folder.show("ray")


class TestLock:
    def test_one_process_at_a_time(self, folder: SweepFolder) -> None:
        assert not folder.is_run()
        with folder.locked():
            assert folder.is_run()
            with pytest.raises(InputError, match="is run by another process on this machine"), folder.locked():
                pass
        assert not folder.is_run()
        with folder.locked():
            assert folder.is_run()

    def test_it_goes_with_the_process(self, tmp_path: Path) -> None:
        folder = SweepFolder(str(tmp_path), "sweep")
        script = (
            "import sys, time; from orchestrator.folder import SweepFolder\n"
            "with SweepFolder(sys.argv[1], 'sweep').locked():\n    print('held', flush=True); time.sleep(60)"
        )
        process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        with process:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            assert folder.is_run()
            with pytest.raises(InputError), folder.locked():
                pass
            process.kill()
            process.wait()
            assert not folder.is_run()


class TestLocal:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> SweepFolder:
        folder = SweepFolder(str(tmp_path), "sweep")
        folder.create()
        return folder

    def test_nothing_is_left_beside(self, folder: SweepFolder, tmp_path: Path) -> None:
        folder.write_text("a.txt", "x")
        fail_while_writing(folder, "b.ckpt", tmp_path)
        assert [path.name for path in folder.work.iterdir()] == ["a.txt"]

    def test_a_reader_never_sees_half(self, folder: SweepFolder, tmp_path: Path) -> None:
        folder.write_text("b.ckpt", "old")
        with folder.writing("b.ckpt", tmp_path) as local:
            local.write_text("ne")
            assert folder.read_text("b.ckpt") == "old"
            local.write_text("new")
        assert folder.read_text("b.ckpt") == "new"

    def test_what_killed_workers_left_is_dropped(self, folder: SweepFolder, tmp_path: Path) -> None:
        write_checkpoint(folder, 0, 1, tmp_path)
        (folder.work / "trials/0/.epoch-0002.ckpt.4711").write_text("half")
        assert list(folder.checkpoints(0)) == [1]
        folder.drop_checkpoints(0, kept={1})
        assert [path.name for path in (folder.work / "trials/0").iterdir()] == ["epoch-0001.ckpt"]

    def test_a_folder_that_cannot_be_written_is_said(self, folder: SweepFolder) -> None:
        (folder.work / "trials").write_text("a file")
        with pytest.raises(StorageError, match=r"trials/0/x\.txt cannot be written"):
            folder.write_text("trials/0/x.txt", "x")
        (folder.work.parent / "file").write_text("x")
        with pytest.raises(StorageError, match="cannot be made"):
            SweepFolder(str(folder.work.parent / "file"), "sweep").create()

    def test_the_newest_sweep_is_last(self, tmp_path: Path) -> None:
        for index, name in enumerate(("b", "c", "a")):
            folder = SweepFolder(str(tmp_path), name)
            folder.write_text("sweep.yaml", "x")
            os.utime(folder.work / "sweep.yaml", (index, index))
        (tmp_path / "no sweep").mkdir()
        assert sweeps_in(str(tmp_path)) == ["b", "c", "a"]
        assert sweeps_in(str(tmp_path / "nowhere")) == []

    def test_relative_folders_stay_where_they_were(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        folder = SweepFolder("./results", "sweep")
        monkeypatch.chdir("/")
        folder.write_text("a", "x")
        assert (tmp_path / "results/sweep/a").read_text() == "x"


class TestRemote:
    def test_the_ledger_is_worked_on_here_and_pushed(self, remote: SweepFolder) -> None:
        remote.ledger.write_text("line 1\n")
        remote.push("ledger.journal")
        assert remote.read_text("ledger.journal") == "line 1\n"

    def test_another_machine_pulls_it(self, remote: SweepFolder) -> None:
        remote.write_text("ledger.journal", "line 1\nline 2\n")
        remote.ledger.write_text("line 1\n")  # an old copy, of an earlier run here
        remote.pull("ledger.journal")
        assert remote.ledger.read_text() == "line 1\nline 2\n"

    def test_what_was_not_pushed_yet_is_not_lost(self, remote: SweepFolder) -> None:
        remote.ledger.write_text("line 1\nline 2\n")
        remote.write_text("ledger.journal", "line 1\n")
        before = remote.ledger.stat().st_ino
        remote.pull("ledger.journal")
        assert remote.ledger.read_text() == "line 1\nline 2\n"
        assert remote.ledger.stat().st_ino == before  # a sweep that runs here may be writing to it
        assert [path.name for path in remote.work.iterdir()] == ["ledger.journal"]

    def test_what_the_storage_has_counts_where_both_went_on(self, remote: SweepFolder) -> None:
        remote.ledger.write_text("line 1\nmine\n")
        remote.write_text("ledger.journal", "line 1\ntheirs\n")
        remote.pull("ledger.journal")
        assert remote.ledger.read_text() == "line 1\ntheirs\n"

    def test_what_is_replaced_while_it_is_read_is_read_again(self, remote: SweepFolder) -> None:
        remote.write_text("results.json", "the newer, longer one")
        whole = remote._fs

        class Meanwhile:
            """Gives as much as the older one had, the first time."""

            asked = 0

            def open_input_file(self, path: str) -> pyarrow.NativeFile:
                self.asked += 1
                return pyarrow.BufferReader(b"the newer") if self.asked == 1 else whole.open_input_file(path)

            def get_file_info(self, path: str) -> fs.FileInfo:
                return whole.get_file_info(path)

        remote._fs = Meanwhile()
        assert remote.read_text("results.json") == "the newer, longer one"

    def test_pulling_what_is_not_there_does_nothing(self, remote: SweepFolder) -> None:
        remote.pull("ledger.journal")
        assert not remote.ledger.exists()

    def test_trees(self, remote: SweepFolder, tmp_path: Path) -> None:
        (tmp_path / "run" / "files").mkdir(parents=True)
        (tmp_path / "run" / "files" / "x").write_text("1")
        remote.upload_tree(tmp_path / "run", "wandb/run")
        assert remote.read_text("wandb/run/files/x") == "1"

    def test_scratch_files_go(self, remote: SweepFolder, tmp_path: Path) -> None:
        (tmp_path / "scratch").mkdir()
        write_checkpoint(remote, 0, 1, tmp_path / "scratch")
        assert list((tmp_path / "scratch").iterdir()) == []

    def test_options_of_a_url_stay_at_its_end(self) -> None:
        folder = SweepFolder("s3://bucket/sweeps/?endpoint_override=localhost%3A9&scheme=http&region=x", "a")
        assert folder.show("ray") == "s3://bucket/sweeps/a/ray?endpoint_override=localhost%3A9&scheme=http&region=x"

    def test_one_that_cannot_be_opened_is_said(self) -> None:
        with pytest.raises(StorageError, match="storage 'nonsense://x' cannot be opened: "):
            SweepFolder("nonsense://x", "a")


class TestLease:
    """Two machines are two host names."""

    @pytest.fixture(autouse=True)
    def fast(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(folders, "LEASE_EVERY_S", 0.2)
        monkeypatch.setattr(folders, "LEASE_LOST_S", 3.0)

    def elsewhere(self, folder: SweepFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SweepFolder:
        """The same folder as another machine sees it."""
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
        monkeypatch.setattr(folders.socket, "gethostname", lambda: "another")
        return SweepFolder(folder.storage, folder.name)

    def test_another_machine_sees_that_it_is_run(
        self, remote: SweepFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with remote.locked():
            there = self.elsewhere(remote, tmp_path, monkeypatch)
            assert there.is_run()
        assert not there.is_run()
        assert not remote.has("lease.json")

    def test_another_machine_that_hears_of_it_keeps_off(
        self, remote: SweepFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        heard: list[str] = []
        host = folders.socket.gethostname()
        with remote.locked():
            there = self.elsewhere(remote, tmp_path, monkeypatch)
            renewed = folders.Lease(owner="x", host=host, process=1, said_at=0.0)
            monkeypatch.setattr(there, "_lease", iter([renewed, replace(renewed, said_at=1.0)]).__next__)
            with pytest.raises(InputError, match=f"is run by process 1 on {host}"), there.locked(heard.append):
                pass
        assert heard == [f"{host} ran this sweep: watching for 3 s at most whether it still does"]

    def test_a_lease_that_nobody_renews_runs_out(
        self, remote: SweepFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lost = folders.Lease(owner="x", host="lost", process=1, said_at=0.0)
        remote.write_text("lease.json", json.dumps(asdict(lost)))
        there = self.elsewhere(remote, tmp_path, monkeypatch)
        assert not there.is_run()
        with there.locked():
            assert there.is_run()


class TestTrouble:
    @pytest.fixture(autouse=True)
    def fast(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(folders, "RETRY_AFTER_S", (0.0, 0.0))

    def failing(self, monkeypatch: pytest.MonkeyPatch, folder: SweepFolder, *errors: int) -> list[int]:
        """The next writes fail with these error numbers."""
        left = list(errors)

        class Failing:
            def __getattr__(self, name: str) -> Any:
                if name == "open_output_stream" and left:
                    number = left.pop(0)
                    raise OSError(number, os.strerror(number))
                return getattr(whole, name)

        whole = folder._fs
        monkeypatch.setattr(folder, "_fs", Failing())
        return left

    def test_a_storage_that_is_briefly_away_is_asked_again(
        self, folder: SweepFolder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.failing(monkeypatch, folder, errno.EIO, errno.ETIMEDOUT)
        folder.write_text("a", "text")
        assert folder.read_text("a") == "text"

    def test_one_that_stays_away_is_an_error(self, folder: SweepFolder, monkeypatch: pytest.MonkeyPatch) -> None:
        self.failing(monkeypatch, folder, *[errno.EIO] * 3)
        with pytest.raises(StorageError, match=r"/a\S* cannot be written"):
            folder.write_text("a", "text")

    def test_one_that_is_full_is_named_at_once(self, folder: SweepFolder, monkeypatch: pytest.MonkeyPatch) -> None:
        left = self.failing(monkeypatch, folder, errno.ENOSPC, errno.ENOSPC)
        with pytest.raises(StorageFullError, match=r"/a\S* cannot be written: .*No space left"):
            folder.write_text("a", "text")
        assert left == [errno.ENOSPC]


def test_what_is_furthest_on_is_the_newest(folder: SweepFolder, tmp_path: Path) -> None:
    assert folder.newest(0) is None
    write_checkpoint(folder, 0, 1, tmp_path)
    folder.write_text(folder.partial(0, 1), "in the second epoch")
    assert folder.newest(0) == "trials/0/partial-0001.ckpt"
    write_checkpoint(folder, 0, 2, tmp_path)
    assert folder.newest(0) == "trials/0/epoch-0002.ckpt"
    folder.drop_checkpoints(0, kept={1, 2})
    assert not folder.has(folder.partial(0, 1))
    assert list(folder.checkpoints(0)) == [1, 2]
