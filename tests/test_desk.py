"""The desk, without Ray: runs written by a real tracker are brought to the double, whatever that does meanwhile."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import ClassVar

import pytest
from conftest import clean_environment
from doubles.wandb_server import HISTORY, Run, WandbServer
from writer import Writer

from orchestrator import runlog, sweep
from orchestrator.artifact import job_of
from orchestrator.desk import Desk
from orchestrator.folder import SweepFolder, sent_marker
from orchestrator.ledger import Ledger
from orchestrator.messages import Asked, Ended, Joined, Landed, Notice, Outcome, Report, Started
from orchestrator.spec import Spec, check, resolve
from orchestrator.tracking import News, Tracking
from orchestrator.verbs import resume

# What `Writer` has trials report.
CURVE = {1: 0.1, 2: 0.2, 3: 0.0}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def server() -> Iterator[WandbServer]:
    with WandbServer() as server:
        yield server
        assert server.unknown == []


class Stage:
    """A sweep's folder, its desk, and workers."""

    def __init__(self, root: Path, server: WandbServer, **more: object) -> None:
        data = {
            "name": "s", "trainable": {"model": {"class_path": "argparse.Namespace"}},  # takes any hyperparameter
            "space": {"x": {"type": "float", "low": 0.0, "high": 1.0}},
            "metric": "score", "goal": "maximize", "storage": str(root),
            "tracking": {"project": "p", "mode": "online", **more},
        }  # fmt: skip
        self.spec: Spec = resolve(check(data), datetime(2026, 11, 21))
        self.folder = SweepFolder(str(root), "s")
        self.folder.create()
        self.folder.write_text("sweep.yaml", self.spec.to_yaml())
        self.environment = clean_environment(root) | server.env
        self.heard: list[News] = []
        self.desk: Tracking | None = None

    def open(self, sweep_id: str | None = None) -> Tracking:
        self.desk = Tracking(self.folder, sweep_id=sweep_id, command="python -m orchestrator search x")
        return self.desk

    def work(self, first: int, last: int, end: str = "well", *, told: str = "") -> None:
        """Run trials, and tell the desk of them as the sweep does; `told` is in what workers tell, if they may."""
        assert self.desk is not None
        for said in self.write(first, last, end):
            match said:
                case "started", number, segment:
                    self.desk.follow(number, segment)
                case "ended", number:
                    self.desk.ended(number, "complete", None, closed=True)
                case "notice", text if told and told in text:
                    pass
                case _:
                    pytest.fail(str(said))

    def write(self, first: int, last: int, end: str) -> Writer:
        """Run trials that nobody is told of."""
        return Writer(self.folder, {**self.environment, "WANDB_API_KEY": ""}, first, last, end)

    def until(self, holds: Callable[[], bool], timeout_s: float = 120) -> None:
        """Wait for something that the desk does."""
        assert self.desk is not None
        deadline = time.monotonic() + timeout_s
        while not holds():
            self.heard += self.desk.news()
            assert time.monotonic() < deadline, (self.heard, self.folder.log.read_text()[-2000:])
            time.sleep(0.05)

    def record(self, trials: int, *others: Ended) -> Ledger:
        """What is on record of trials of three epochs, of a sweep that finished; most completed, others ended thus."""
        ends = {ended.number: ended for ended in others}
        ledger = Ledger(self.folder, self.spec, create=True)
        for number in range(trials):
            ledger.ask()
            ledger.start(Started(number=number, slot="slot-0", wandb_run=f"run-s-{number}"))
            for epoch, value in CURVE.items():
                path, best = (self.folder.checkpoint(number, at) for at in (epoch, min(epoch, 2)))
                ledger.report(
                    Report(number=number, epoch=epoch, value=value, metrics={}, best_epoch=min(epoch, 2),
                           checkpoint=path, best_checkpoint=best)
                )  # fmt: skip
            ledger.end(ends.get(number, Ended(number=number, outcome=Outcome.COMPLETE)))
        ledger.remember("wandb_sweep", next(news.sweep_id for news in self.heard if isinstance(news, Joined)))
        self.folder.write_text("results.json", json.dumps({"status": "finished"}))
        return ledger

    def sync(self, code: int = 0) -> str:
        """What `sync` prints, in a folder where it leaves nothing."""
        command = [sys.executable, "-m", "orchestrator", "sync", self.folder.show("").rstrip("/")]
        here = self.folder.work.parent / "here"
        here.mkdir(exist_ok=True)
        done = subprocess.run(
            command, cwd=here, env=self.environment, capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert not list(here.iterdir())
        return done.stdout + done.stderr

    def finish(self, winner: int | None = 0, former: Sequence[int] = ()) -> list[str] | None:
        assert self.desk is not None
        missing = self.desk.finish("FINISHED", winner, former)
        self.heard += self.desk.news()
        return missing

    @property
    def notices(self) -> list[str]:
        """What was said, each once, as the view shows it."""
        return list(dict.fromkeys(news.text for news in self.heard if isinstance(news, Notice)))


@pytest.fixture
def stage(tmp_path: Path, server: WandbServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Stage]]:
    stages = []
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name, value in (clean_environment(tmp_path) | server.env).items():
        monkeypatch.setenv(name, value)

    def make(**more: object) -> Stage:
        stages.append(Stage(tmp_path, server, **more))
        return stages[-1]

    yield make
    for made in stages:
        if made.desk is not None:
            made.desk.close()


def assert_sent_alike(run: Run) -> None:
    """Every row that was sent again, in whatever request, was the same row under the same step."""
    sent = [json.loads(line) for chunk in run.chunks if chunk.file == HISTORY for line in chunk.lines]
    assert len({json.dumps(row, sort_keys=True) for row in sent}) == len(run.history)


def assert_whole(server: WandbServer, number: int) -> None:
    run = server.runs[f"s-{number}"]
    assert_sent_alike(run)
    assert (run.state, run.exit_code, run.sweep_id) == ("finished", 0, *server.sweeps)
    assert [(row["score"], row["loss"]) for row in run.history if "score" in row] == [(0.1, -1), (0.2, -2), (0.0, -3)]
    best, latest = server.artifacts[f"model-s-{number}"]
    assert (best.files, latest.files) == (
        {"epoch-0002.ckpt": f"{number}/2".encode()},
        {"epoch-0003.ckpt": f"{number}/3".encode()},
    )
    assert ("best" in best.aliases, "latest" in latest.aliases) == (True, True)


def test_runs_arrive_while_they_are_written(server: WandbServer, stage: Callable[..., Stage]) -> None:
    """What a run says, with the death of one; the winner linked to the registry; the page's state."""
    here = stage(registry="winners", registry_aliases=["candidate"])
    here.folder.write_text(here.folder.onnx(0), "as exported")
    here.open()
    here.work(0, 2)
    here.work(2, 3, "die")
    assert here.desk is not None
    here.until(lambda: Landed(number=2, url=f"{server.url}/team/p/runs/s-2") in here.heard)
    ledger = here.record(4, Ended(number=2, outcome=Outcome.FAILED, error="killed"))
    here.desk.ended(2, "failed", "killed", closed=False, job=job_of(ledger.records[2]))
    here.until(lambda: [len(version.aliases) for version in server.artifacts.get("model-s-1", [])] == [1, 1])
    kept, _ = server.artifacts["model-s-1"]
    kept.aliases.add("production")  # somebody counts on it
    here.desk.evict([1])
    assert here.finish(winner=0) == [], here.notices
    (sweep,) = server.sweeps.values()
    assert (sweep.state, sweep.project, sorted(sweep.run_ids)) == ("FINISHED", "p", ["s-0", "s-1", "s-2"])
    assert sweep.config["description"] == "Started by: python -m orchestrator search x"
    assert_whole(server, 0)
    run, dead = server.runs["s-0"], server.runs["s-2"]
    assert (run.summary["score"], run.summary["best_score"], run.summary["best_loss"]) == (0.0, 0.2, -2)
    assert (run.summary["best_epoch"], run.summary["epochs"], run.summary["outcome"]) == (2, 3, "complete")
    assert (run.config["x"], run.config["sweep"]["seed"], run.display_name) == (0.5, 7, "s/0")
    assert b"\nwandb==" in run.files["requirements.txt"]
    assert [row["system.cpu/l:elsewhere"] for row in run.events if "system.cpu/l:elsewhere" in row] == [12.5]
    assert (dead.state, dead.exit_code, dead.summary["outcome"], dead.summary["error"]) == (
        "failed", 1, "failed", "killed",
    )  # fmt: skip
    assert len([row for row in dead.history if "score" in row]) == 3
    assert {name: dead.summary[name] for name in ("score", "best_score", "best_epoch")} == {
        "score": 0.0, "best_score": 0.2, "best_epoch": 2,
    }  # fmt: skip
    # What it had reached is there, though it got to log none of it.
    assert [(version.aliases, version.files) for version in server.artifacts["model-s-2"]] == [
        ({"best"}, {"epoch-0002.ckpt": b"2/2"}), ({"latest"}, {"epoch-0003.ckpt": b"2/3"}),
    ]  # fmt: skip
    best = server.artifacts["model-s-0"][0]
    assert best.aliases == {"best", "sweep-best"}
    assert best.metadata["value"] == 0.2
    assert (best.metadata["epoch"], best.metadata["hyperparameters"]) == (2, {"x": 0.5})
    assert (best.metadata["metric"], best.metadata["goal"], best.metadata["seed"]) == ("score", "maximize", 7)
    checksum = base64.b64encode(hashlib.md5(b"0/2").digest()).decode()
    assert best.metadata["checksum"] == {"md5, base64": checksum}
    assert server.artifacts["model-s-1"] == [kept]  # the other is evicted
    assert [(link.source, link.aliases) for link in server.artifacts["winners"]] == [(best, {"candidate", "latest"})]
    assert not list((here.folder.work / "wandb" / "checkpoints").iterdir())
    assert run.files["model.onnx"] == b"as exported"
    assert [view["type"] for view in server.views] == ["project-view"]
    assert here.notices == []

    # The sweep goes on: another trial paused, and wins, and another one's files are gone.
    here.open(sweep.id)
    here.work(3, 4, "pause")
    assert here.desk is not None
    here.desk.follow(4, "wandb/offline-run-20261121_120000-s-4")
    here.until(lambda: "s-3" in server.runs and server.runs["s-3"].summary.get("outcome") == "paused")
    here.desk.ended(3, "pruned", None, closed=False)
    here.desk.ended(4, "complete", None, closed=True)
    assert here.finish(winner=3, former=[0]) == ["s-4"]
    assert any("the files of W&B run s-4 are not in" in text for text in here.notices)
    assert (server.runs["s-3"].summary["outcome"], server.runs["s-3"].exit_code) == ("pruned", 0)
    assert_whole(server, 3)
    assert best.aliases == {"best"}
    assert "sweep-best" in server.artifacts["model-s-3"][0].aliases
    assert len(server.views) == 1

    # An unfinished trial is to go on from a checkpoint that W&B has.
    here.folder.drop_checkpoints(0)
    Ledger(here.folder, here.spec, create=True).ask()
    resume._place(here.folder, here.spec, ["0=team/p/model-s-0:best"])
    assert here.folder.checkpoints(0) == {2: "trials/0/epoch-0002.ckpt"}
    assert here.folder.read_text("trials/0/epoch-0002.ckpt") == "0/2"

    # And once more, to an end that nobody said.
    here.open(sweep.id)
    here.until(lambda: sweep.state == "RUNNING")
    here.desk.close()
    assert sweep.state == "PAUSED"


def down(server: WandbServer) -> None:
    server.pause()


def up(server: WandbServer) -> None:
    server.resume()
    server.heal()


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        pytest.param(down, up, "cannot be reached", id="unreachable at start"),
        pytest.param(lambda s: s.fail(403, path="Viewer"), up, "refuses the key (403)", id="refuses the key"),
        pytest.param(lambda s: s.fail(429, seconds=5), up, None, id="rate limit"),
        pytest.param(lambda s: s.fail(503, seconds=8), up, None, id="fails for a while"),
        pytest.param(lambda s: s.delay(0.7), up, None, id="slow"),
        pytest.param(
            lambda s: s.fail(401, count=1, path="file_stream"), up, "stopped taking run s-0", id="a single 401"
        ),
        pytest.param(
            lambda s: s.fail(403, count=5, path="file_stream"), up, "stopped taking run s-0", id="one 403 after another"
        ),
        pytest.param(
            lambda s: s.fail(404, count=1, path="file_stream"), up, "stopped taking run s-0", id="a single 404"
        ),
    ],
)
def test_trouble_loses_nothing(
    server: WandbServer,
    stage: Callable[..., Stage],
    before: Callable[[WandbServer], None],
    after: Callable[[WandbServer], None],
    said: str | None,
) -> None:
    here = stage()
    before(server)
    here.open()
    here.work(0, 2)
    if said:
        here.until(lambda: any(said in text for text in here.notices))
    after(server)
    here.until(lambda: all(f"s-{number}" in server.runs for number in range(2)))
    assert here.finish() == []
    for number in range(2):
        assert_whole(server, number)
    if said:
        assert len([text for text in here.notices if said in text]) == 1


def waits_for_a_lock(process: int) -> bool:
    """Whether a process waits until another one gives a lock of a file back; proc_locks(5)."""
    return any(line.split()[1:3] == ["->", "FLOCK"] and line.split()[5] == str(process)
               for line in Path("/proc/locks").read_text().splitlines())  # fmt: skip


def test_the_desk_of_a_killed_sweep_leaves_before_the_next_one_begins(
    server: WandbServer, stage: Callable[..., Stage]
) -> None:
    """It says that nobody runs the sweep, which the next one would take for something that is asked of it."""
    here = stage()
    former = here.open()
    old = former._process
    here.until(lambda: any(sweep.state == "RUNNING" for sweep in server.sweeps.values()))
    (sweep,) = server.sweeps.values()
    old.send_signal(signal.SIGSTOP)  # as if the server were slow
    assert old.stdin is not None
    old.stdin.close()
    new = here.open(sweep.id)
    here.until(lambda: waits_for_a_lock(new._process.pid))
    old.send_signal(signal.SIGCONT)
    former.close()
    assert old.returncode == 0
    assert sweep.state == "PAUSED"
    here.until(lambda: sweep.state == "RUNNING")
    assert here.finish(winner=None) == []
    assert not [news for news in here.heard if isinstance(news, Asked)]
    assert sweep.state == "FINISHED"


def test_down_at_the_end_is_named(server: WandbServer, stage: Callable[..., Stage]) -> None:
    here = stage()
    here.open()
    here.work(0, 1)
    held = here.folder.work / "wandb" / "checkpoints"
    here.until(lambda: not any(held.iterdir()))  # what is held for a run goes once all of it is there
    server.pause()
    here.work(1, 2)
    began = time.monotonic()
    assert here.finish() == ["s-1", "how the sweep ended"]
    assert time.monotonic() - began < 60  # nobody waits for a server that does not answer
    assert any("orchestrator sync" in text for text in here.notices)


def test_two_sweeps_of_one_name_keep_their_runs(
    server: WandbServer, stage: Callable[..., Stage], tmp_path: Path
) -> None:
    """The second one's stay on disk, whoever would bring them up; nothing of the first one's is touched."""
    first = stage()
    first.open()
    first.work(0, 2)
    assert first.finish() == []
    (sweep,) = server.sweeps
    before = {name: (run.upserts, list(run.chunks), dict(run.files)) for name, run in server.runs.items()}
    aliases = [set(version.aliases) for version in server.artifacts["model-s-0"]]

    (tmp_path / "other").mkdir()
    second = Stage(tmp_path / "other", server)
    second.open()
    second.work(0, 2)
    assert second.desk is not None
    second.desk.evict([1])
    assert second.finish(winner=0) == ["s-0", "s-1", "the alias of s-0's checkpoint"]
    text = f"W&B's project team/p has the runs of another sweep called s ({sweep}): they are left alone"
    assert len([said for said in second.notices if said.startswith(text)]) == 1
    assert any("name=..." in said for said in second.notices)
    second.record(2)
    assert f"s-1 ({text}" in second.sync(code=1)
    after = {name: (run.upserts, list(run.chunks), dict(run.files)) for name, run in server.runs.items()}
    assert after == before
    assert {run.sweep_id for run in server.runs.values()} == {sweep}
    assert [set(version.aliases) for version in server.artifacts["model-s-0"]] == aliases
    assert len(server.artifacts["model-s-1"]) == 2


def test_runs_say_what_they_come_from(server: WandbServer, stage: Callable[..., Stage]) -> None:
    """The version that they started from, whatever becomes of its alias meanwhile, and the trial that they repeat."""
    first = stage()
    first.open()
    first.work(0, 1)
    assert first.finish() == []
    best, latest = server.artifacts["model-s-0"]
    here = stage(project="other")
    with sweep._weights(here.spec.model_copy(update={"start_from": "team/p/model-s-0:best"})) as (here.spec, weights):
        assert weights is not None
        assert weights.read_text() == "0/2"
    here.folder.write_text("sweep.yaml", here.spec.to_yaml())
    best.aliases.remove("best")
    latest.aliases.add("best")
    here.open()
    here.work(1, 2)

    # One of its trials goes on from a checkpoint of another one.
    ledger = Ledger(here.folder, here.spec, create=True)
    for _ in range(3):
        ledger.ask()
    resume._place(here.folder, here.spec, ["2=team/p/model-s-0:best"])
    latest.aliases.clear()
    here.work(2, 3)
    assert here.finish(winner=None) == [], here.notices
    assert server.runs["s-1"].config["sweep"]["start_from"] == "team/p/model-s-0:v0"
    assert server.runs["s-1"].used_artifacts == ["model-s-0:v0"]
    assert server.runs["s-2"].used_artifacts == ["model-s-0:v0", "model-s-0:v1"]
    assert here.notices == []

    # What they started from is deleted.
    server.artifacts["model-s-0"].remove(best)
    here.open(list(server.sweeps)[-1])
    here.work(3, 5, "repeat")
    assert here.finish(winner=None) == []
    assert [server.runs[f"s-{number}"].group for number in range(5)] == [None, None, None, *["s/0 repeated"] * 2]
    assert here.notices == [
        "team/p/model-s-0:v0 is not in W&B any more, so that runs cannot say there that they started from it"
    ]


def test_a_run_of_no_sweep_is_left_alone(server: WandbServer, stage: Callable[..., Stage]) -> None:
    here = stage()
    here.open()
    here.work(0, 1)
    assert here.finish(winner=None) == []
    run = server.runs["s-0"]
    run.sweep_id, run.raw_config = None, {"lr": {"value": 0.1}}  # as if it were somebody's
    before = (run.upserts, list(run.chunks), dict(run.files))
    here.record(1)
    (path,) = here.folder.run_files("s-0")
    sent_marker(path).unlink()
    assert "s-0 (W&B's project team/p has a run s-0 which is of no sweep: it is left alone" in here.sync(code=1)
    assert (run.upserts, list(run.chunks), dict(run.files)) == before


def test_files_that_are_refused_are_missed(server: WandbServer, stage: Callable[..., Stage]) -> None:
    """Media and other files of a run: the SDK's engine says nothing of them, so they are looked for."""
    here = stage()
    server.fail(403, path="storage/runs")
    here.open()
    here.work(0, 1)
    assert here.finish(winner=None) == ["s-0"]
    assert any("2 files (media/table/words_0_" in text for text in here.notices)
    assert server.runs["s-0"].files == {}
    server.heal()
    here.record(1)
    assert "1 run brought to W&B" in here.sync()
    saved = server.runs["s-0"].files
    assert {name.partition("_")[0] for name in saved} >= {"media/table/words", "requirements.txt"}

    # One that somebody deleted, and one that is not what was saved.
    saved["requirements.txt"] = b"half"
    saved.pop(next(name for name in saved if name.startswith("media/")))
    here.environment["WANDB_IGNORE_GLOBS"] = "requirements.txt,media/*"
    assert "0 runs brought to W&B" in here.sync()
    del here.environment["WANDB_IGNORE_GLOBS"]
    assert "1 run brought to W&B" in here.sync()
    assert b"\nwandb==" in saved["requirements.txt"]
    assert [name for name in saved if name.startswith("media/")]


def test_of_a_trial_that_went_on_the_checkpoints_that_are_kept_last_stay(
    server: WandbServer, stage: Callable[..., Stage]
) -> None:
    """It was interrupted, which logs what it had reached, and went on until the whole sweep was killed."""
    here = stage()
    here.open()
    here.work(0, 1)
    assert here.finish(winner=None) == []
    assert [version.aliases for version in server.artifacts["model-s-0"]] == [{"best"}, {"latest"}]
    ledger = here.record(1, Ended(number=0, outcome=Outcome.INTERRUPTED))
    assert [word for word, *_ in here.write(0, 1, "die")] == ["started"]
    here.folder.delete(here.folder.checkpoint(0, 3))
    newest, best = here.folder.checkpoint(0, 4), here.folder.checkpoint(0, 2)
    here.folder.write_text(newest, "0/4")
    ledger.report(
        Report(number=0, epoch=4, value=0.1, metrics={}, best_epoch=2, checkpoint=newest, best_checkpoint=best)
    )
    assert "1 run brought to W&B" in here.sync()
    there = {name: data for version in server.artifacts["model-s-0"] for name, data in version.files.items()}
    assert there == {"epoch-0002.ckpt": b"0/2", "epoch-0004.ckpt": b"0/4"}
    aliases = {min(version.files): version.aliases for version in server.artifacts["model-s-0"]}
    assert aliases == {"epoch-0002.ckpt": {"best", "sweep-best"}, "epoch-0004.ckpt": {"latest"}}
    assert "0 runs brought to W&B, 1 was there" in here.sync()

    # Somebody deletes the page, and everything else is there.
    (former,) = server.sweeps
    server.delete_sweep(former)
    server.fail(403, count=1, path="UpsertBucket")  # before the run is in the new one
    assert f"another one is made (it was {former})" in here.sync(code=1)
    assert "0 runs brought to W&B, 1 was there" in here.sync()
    (sweep,) = server.sweeps.values()
    assert (sweep.run_ids, server.runs["s-0"].sweep_id) == (["s-0"], sweep.id)
    assert sweep.id != former

    # The winner was exported after its sweep had been interrupted.
    here.folder.write_text(here.folder.onnx(0), "as exported")
    here.folder.write_text("results.json", json.dumps({"status": "interrupted"}))
    for _ in range(2):
        assert "0 runs brought to W&B, 1 was there" in here.sync()
        assert server.runs["s-0"].files["model.onnx"] == b"as exported"

    # All of it is sent once more, though a checkpoint that was logged is nowhere any more.
    server.artifacts["model-s-0"].clear()
    del server.runs["s-0"].lines[HISTORY][0]
    assert "1 run brought to W&B" in here.sync()
    there = {name: data for version in server.artifacts["model-s-0"] for name, data in version.files.items()}
    assert there == {"epoch-0002.ckpt": b"0/2", "epoch-0004.ckpt": b"0/4"}


def test_rows_that_were_sent_twice_do_not_stand_for_others(server: WandbServer, stage: Callable[..., Stage]) -> None:
    here = stage()
    here.open()
    here.work(0, 1, "pause")
    here.until(lambda: "s-0" in server.runs and server.runs["s-0"].state == "finished")
    here.work(0, 1)
    assert here.finish(winner=None) == []
    run = server.runs["s-0"]
    assert [row["_step"] for row in run.history] == list(range(8))

    # The first four once more, and the other four lost.
    runlog.amend(here.folder.run_files("s-0")[0], {"again": True})
    reopened = here.open(*server.sweeps)
    reopened.ended(0, "complete", None, closed=True)
    assert here.finish(winner=None) == []
    lines = run.lines[HISTORY]
    for number in [number for number, line in lines.items() if json.loads(line)["_step"] > 3]:
        del lines[number]
    assert len(lines) == 8
    reopened = here.open(*server.sweeps)
    reopened.ended(0, "complete", None, closed=True)
    assert here.finish(winner=None) == []
    assert any("all after row 4 is missing" in text for text in here.notices)
    assert [row["_step"] for row in run.history] == list(range(8))
    assert_sent_alike(run)


def test_what_is_refused_at_the_end_is_named_and_nothing_else_is_lost(
    server: WandbServer, stage: Callable[..., Stage]
) -> None:
    """A registry that only others may write to, and a winner whose checkpoint is gone; `sync` mends both."""
    here = stage(registry="winners")
    here.folder.write_text(here.folder.onnx(0), "as exported")
    server.fail(403, path="LinkArtifact")
    server.fail(403, path="UpdateArtifact")
    here.open()
    here.work(0, 1)
    unmarked = ["the alias of s-0's checkpoint", "the link of s-0's checkpoint to the registry"]
    assert here.finish(winner=0) == unmarked
    (sweep,) = server.sweeps.values()
    assert sweep.state == "FINISHED"
    assert server.runs["s-0"].files["model.onnx"] == b"as exported"
    assert [text.partition(" (")[0] for text in here.notices] == [f"not in W&B: {name}" for name in unmarked]
    assert not any("refuses the key" in text for text in here.notices)

    server.heal()
    here.record(1)
    server.fail(403, path="UpsertSweep")
    sweep.state = "RUNNING"
    printed = here.sync(code=1)
    assert "how the sweep ended (W&B at" in printed
    best = server.artifacts["model-s-0"][0]
    assert "sweep-best" in best.aliases
    assert [link.source for link in server.artifacts["winners"]] == [best]
    server.heal()
    assert "0 runs brought to W&B, 1 was there" in here.sync()
    assert sweep.state == "FINISHED"


@pytest.mark.parametrize(
    ("size_mib", "end"), [pytest.param(1, "well", id="full"), pytest.param(80, "fill", id="fills up")]
)
def test_a_full_disk_costs_no_trial(
    size_mib: int, end: str, stage: Callable[..., Stage], server: WandbServer, tmp_path: Path
) -> None:
    """The desk and `sync` find what was written elsewhere."""
    here = stage()
    runs = here.folder.work / "wandb"
    runs.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "tmpfs", str(runs)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no disk can be mounted here")
    try:
        desk = here.open()
        here.work(0, 2, end, told="MiB are left on its disk")
        assert here.finish(winner=None) == [], here.notices
        desk.close()
        for number in range(2):
            (path,) = tmp_path.glob(f"orchestrator-s-*/wandb/offline-run-*/run-s-{number}.wandb")
            assert runlog.read(path).ended
            run = server.runs[f"s-{number}"]
            assert [row["score"] for row in run.history if "score" in row] == list(CURVE.values())
            assert (run.state, run.summary["outcome"], run.summary["epochs"]) == ("finished", "complete", 3)
            assert [version.aliases for version in server.artifacts[f"model-s-{number}"]] == [{"best"}, {"latest"}]
        del server.runs["s-1"].lines[HISTORY][1]
        here.record(2)
        assert "1 run brought to W&B, 1 was there" in here.sync()
    finally:
        subprocess.run(["umount", str(runs)], check=True)


class Odd:
    """Page and delivery in one: whatever is asked of it goes wrong once, in a way that nobody has thought of."""

    answers: ClassVar[dict[str, object]] = {
        "look": ("RUNNING", set()), "waiting": [], "segments": [], "run_id": "s-0", "conclude": {},
        "keep_exports": {},
    }  # fmt: skip

    def __init__(self) -> None:
        self.asked: set[str] = set()

    def __getattr__(self, name: str) -> Callable[..., object]:
        def answer(*_: object, **__: object) -> object:
            if name not in self.asked:
                self.asked.add(name)
                raise RuntimeError(f"{name} is odd")
            return self.answers.get(name)

        return answer


def test_threads_outlive_what_nobody_thought_of(stage: Callable[..., Stage], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.desk.MAX_WAIT_S", 0.1)
    monkeypatch.setattr("orchestrator.desk.LOOK_EVERY_S", 0.1)
    here, said = stage(), io.StringIO()
    desk = Desk(here.spec, here.folder, said)
    desk._page = desk._delivery = Odd()  # type: ignore[assignment]
    desk.open("sweep001", "x")
    desk.evict([0])
    deadline = time.monotonic() + 60
    while not desk._trials[0].arrived:
        assert time.monotonic() < deadline, said.getvalue()
        time.sleep(0.05)
    for name in ("connect", "look", "waiting", "segments", "drop_checkpoints"):
        assert f"RuntimeError: {name} is odd" in said.getvalue()
    desk.finish("FINISHED", None, [])
    assert '["Delivered", {"missing": []}]' in said.getvalue()
    for thread in (thread for thread in threading.enumerate() if thread.name == "page"):
        thread.join(60)
        assert not thread.is_alive()
