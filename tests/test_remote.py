"""The way from a laptop to a head, against a double of `ray exec`; the real one is in tests/test_hosts.py."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from orchestrator import front, remote
from orchestrator.errors import InputError, SweepError
from orchestrator.remote import Head
from orchestrator.spec import Spec, check

SPEC = {"trainable": "digits", "space": "digits", "metric": "val/accuracy", "goal": "maximize"}


class Shell:
    """Answers as a head would, and keeps what it was told."""

    def __init__(self, home: Path, *answers: tuple[int, str]) -> None:
        self.home, self.answers, self.told = home, list(answers), list[str]()

    def run(self, command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        assert command[2:4] == ["ray.scripts.scripts", "exec"]
        assert options["env"]["RAY_AUTH_MODE"] == "token"
        self.told.append(command[5])
        code, text = self.answers.pop(0) if self.answers else (0, "")
        return subprocess.CompletedProcess(command, code, text, "")


@pytest.fixture
def file(tmp_path: Path) -> str:
    (tmp_path / "cluster.yaml").write_text("cluster_name: x\n")
    return str(tmp_path / "cluster.yaml")


def head_with(file: str, monkeypatch: pytest.MonkeyPatch, *answers: tuple[int, str]) -> tuple[Head, Shell]:
    shell = Shell(Path(file).parent, *answers)
    monkeypatch.setattr(remote.subprocess, "run", shell.run)
    monkeypatch.setattr(remote.time, "sleep", lambda _: None)
    return Head(file), shell


def test_a_sweep_arrives_as_it_was_given(file: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real_run = subprocess.run
    head, shell = head_with(file, monkeypatch)
    spec = check(dict(SPEC), ["budget.trials=3", 'space={optimizer: {options: ["it\'s", "$HOME"]}}'])
    head.submit(spec, "mine")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ray").write_text('#!/bin/bash\nprintf "%s\\n" "$@" > "$HOME/submitted"\n')
    (tmp_path / "bin" / "ray").chmod(0o755)
    environment = {"HOME": str(tmp_path), "PATH": f"{tmp_path}/bin:/usr/bin:/bin"}
    real_run(["bash", "-c", shell.told[0]], check=True, env=environment)
    arrived = Spec.from_yaml((tmp_path / "sweeps" / "mine.yaml").read_text())
    assert arrived.name == "mine"
    assert arrived.budget.trials == 3
    assert arrived.space == spec.space
    assert "storage" not in arrived.model_fields_set  # the cluster's own is meant
    assert (tmp_path / "submitted").read_text().splitlines() == [
        "job", "submit", "--no-wait", "--submission-id", "mine", "--", "bash", "-c",
        "cd ~/orchestrator && exec python -m orchestrator.search ~/sweeps/mine.yaml",
    ]  # fmt: skip


def test_a_head_that_refuses_is_said(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    head, _ = head_with(file, monkeypatch, (1, "job mine exists already"))
    with pytest.raises(SweepError, match="did not take the sweep: job mine exists already"):
        head.submit(check(dict(SPEC)), "mine")


@pytest.mark.parametrize(("said", "code"), [("succeeded", 0), ("failed", 1), ("was stopped", 143)])
def test_following_ends_with_the_job(said: str, code: int, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    running = (0, "Status for job 'mine': RUNNING")
    away = (255, "ssh: connection timed out")
    head, shell = head_with(file, monkeypatch, (0, ""), running, away, away, (0, ""), (0, f"Job 'mine' {said}"))
    assert head.follow("mine") == code
    assert shell.told.count("ray job logs --follow mine") == 3


def test_following_is_given_up_when_the_head_stays_away(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "AWAY_S", 0.0)
    head, _ = head_with(file, monkeypatch, (255, ""), (255, "ssh: no route to host"))
    with pytest.raises(SweepError, match=r"no route to host.*attach mine cluster="):
        head.follow("mine")


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(InputError, match=r"cluster is 'no\.yaml', which is no file"):
        Head("no.yaml")


def test_the_cluster_is_taken_out_of_the_words() -> None:
    assert front.take_cluster(["digits", "cluster=c.yaml", "a=b"]) == ("c.yaml", ["digits", "a=b"])
    assert front.take_cluster(["digits"]) == (None, ["digits"])
