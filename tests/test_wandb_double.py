"""The double of W&B's server, exercised by the real SDK: what a client stores and reads back is what W&B would hold.

Clients are subprocesses, since wandb leaves a service and environment variables behind in its process.
"""

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from doubles.wandb_server import WandbServer

Client = Callable[..., list]
WANDB_FOLDERS = ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "HOME", "TMPDIR")


@pytest.fixture
def server() -> Iterator[WandbServer]:
    with WandbServer() as server:
        yield server
        assert server.unknown == []


@pytest.fixture
def client(server: WandbServer, tmp_path: Path) -> Client:
    """Return a function that runs Python code with wandb imported and returns what it passes to `show`."""

    def run(code: str, exit_status: int = 0) -> list:
        env = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
        env |= server.env | dict.fromkeys(WANDB_FOLDERS, str(tmp_path))
        script = "\n".join((_PRELUDE, code))
        process = subprocess.Popen(
            [sys.executable, "-c", script], env=env, cwd=tmp_path, stdout=subprocess.PIPE, text=True, process_group=0
        )
        try:
            output, _ = process.communicate(timeout=600)
        finally:
            _wait_for_group(process.pid)
        assert process.returncode == exit_status
        return [json.loads(line.removeprefix("show ")) for line in output.splitlines() if line.startswith("show ")]

    return run


_PRELUDE = """
import json, os, signal, subprocess, sys, time, wandb

def show(*values):
    print("show", json.dumps(values[0] if len(values) == 1 else values), flush=True)

def start(id, **kwargs):
    settings = {"silent": True, "x_file_stream_transmit_interval": 1, "x_save_requirements": False}
    settings |= kwargs.pop("settings", {})
    return wandb.init(
        entity="team", project="digits", id=id, resume="allow", settings=wandb.Settings(**settings), **kwargs
    )

def create_sweep():
    sweep_id = wandb.sweep(
        {"method": "custom", "name": "demo", "metric": {"name": "loss", "goal": "minimize"},
         "parameters": {"lr": {"min": 0.1, "max": 1.0}}}, entity="team", project="digits")
    for name in ("WANDB_SERVICE", "WANDB_ENTITY", "WANDB_PROJECT"):
        os.environ.pop(name, None)
    return sweep_id

def model(text):
    artifact = wandb.Artifact("model-trial", type="model", metadata={"epoch": 1})
    with artifact.new_file("weights/model.txt") as file:
        file.write(text)
    return artifact
"""


def _wait_for_group(group: int, seconds: float = 15) -> None:
    """Wait until wandb-core, which the client leaves behind for a moment, is gone too."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    os.killpg(group, signal.SIGKILL)
    pytest.fail("the client left a process behind")


def _losses(server: WandbServer, run_id: str) -> list[float]:
    return [row["loss"] for row in server.runs[run_id].history]


def test_run_of_a_sweep(server: WandbServer, client: Client) -> None:
    (sweep_id,) = client("""
sweep_id = create_sweep()
run = start("trial", name="lr 0.5", tags=["a"], group="g", job_type="train", notes="why", config={"lr": 0.5},
            settings={"sweep_id": sweep_id})
print("hello")
for step in range(3):
    run.log({"loss": 3 - step})
run.config.update({"depth": {"min": 2}})
run.summary["best"] = 1
run.finish()
show(sweep_id)
""")
    sweep, run = server.sweeps[sweep_id], server.runs["trial"]
    assert (sweep.name, sweep.project, sweep.state, sweep.run_ids) == ("demo", "digits", "RUNNING", ["trial"])
    assert sweep.config["metric"] == {"name": "loss", "goal": "minimize"}
    assert (run.entity, run.project, run.sweep_id, run.display_name) == ("team", "digits", sweep_id, "lr 0.5")
    assert (run.tags, run.group, run.job_type, run.notes) == (["a"], "g", "train", "why")
    assert run.config == {"lr": 0.5, "depth": {"min": 2}}
    assert _losses(server, "trial") == [3, 2, 1]
    assert (run.summary["loss"], run.summary["best"]) == (1, 1)
    assert any(line.endswith("hello") for line in run.output)
    assert "wandb-metadata.json" in run.files
    assert (run.state, run.exit_code, run.inits) == ("finished", 0, 1)


def test_failed_run_and_unknown_sweep(server: WandbServer, client: Client) -> None:
    server.fail(500, count=1, path="file_stream")  # The client tries again, and nothing is lost.
    (message,) = client("""
run = start("failed")
run.log({"loss": 1})
run.finish(exit_code=1)
try:
    start("lost", settings={"sweep_id": "nowhere"})
except wandb.errors.CommError as exc:
    show(str(exc))
""")
    run = server.runs["failed"]
    assert (run.state, run.exit_code, run.sweep_id) == ("failed", 1, None)
    assert _losses(server, "failed") == [1]
    assert "nowhere" in message
    assert "lost" not in server.runs


def test_resumed_run_goes_on(server: WandbServer, client: Client) -> None:
    """Both a finished run and a killed one continue their history, config and summary under the same id."""
    client(
        """
run = start("killed", config={"lr": 0.5})
run.log({"loss": 3})
run.log({"loss": 2})
stored = wandb.Api().run("team/digits/killed")
while stored.lastHistoryStep < 1:
    time.sleep(0.1)
os.kill(os.getpid(), signal.SIGKILL)
""",
        exit_status=-signal.SIGKILL,
    )
    run = server.runs["killed"]
    assert (run.state, run.exit_code, _losses(server, "killed")) == ("running", None, [3, 2])
    (seen,) = client("""
run = start("killed", tags=["resumed"], config={"depth": 2})
show(run.resumed, run.starting_step, run.summary["loss"])
run.log({"loss": 1})
run.finish()
run = start("killed")
run.log({"loss": 0})
run.finish()
""")
    assert seen == [True, 2, 2]
    assert (run.state, run.exit_code, run.inits) == ("finished", 0, 3)
    assert _losses(server, "killed") == [3, 2, 1, 0]
    assert [row["_step"] for row in run.history] == [0, 1, 2, 3]
    assert [chunk.offset for chunk in run.chunks if chunk.file == "wandb-history.jsonl"][-2:] == [2, 3]
    assert run.config == {"lr": 0.5, "depth": 2}


def test_artifacts(server: WandbServer, client: Client) -> None:
    client("""
run = start("trial")
run.log_artifact(model("one"), aliases=["best"]).wait()
run.log_artifact(model("two"), aliases=["best", "last"]).wait()
run.log_artifact(model("one"), aliases=["kept"]).wait()
run.finish()
run = start("reader")
best = run.use_artifact("model-trial:best")
run.link_artifact(best, "team/digits/portfolio", aliases=["production"])
run.finish()
""")
    first, second = server.artifacts["model-trial"]
    assert (first.version, first.aliases) == ("v0", {"kept", "latest"})
    assert (second.version, second.aliases) == ("v1", {"best", "last"})
    assert (second.type, second.metadata, second.run_id) == ("model", {"epoch": 1}, "trial")
    assert second.files == {"weights/model.txt": b"two"}
    assert [(link.source, link.aliases) for link in server.artifacts["portfolio"]] == [
        (second, {"latest", "production"})
    ]
    shown = client("""
api = wandb.Api()
artifact = api.artifact("team/digits/model-trial:best")
folder = artifact.download()
show(open(os.path.join(folder, "weights/model.txt")).read())
show([artifact.name for artifact in api.run("team/digits/trial").logged_artifacts()])
show([artifact.name for artifact in api.run("team/digits/reader").used_artifacts()])
show(api.artifact("team/digits/portfolio:production").digest == artifact.digest)
show([version.version for version in api.artifacts("model", "team/digits/model-trial")])
artifact.aliases = ["last", "new"]
artifact.metadata["kept"] = True
artifact.save()
""")
    assert shown == ["two", ["model-trial:v0", "model-trial:v1"], ["model-trial:v1"], True, ["v1", "v0"]]
    assert (second.aliases, second.metadata) == ({"last", "new"}, {"epoch": 1, "kept": True})


def test_public_api(server: WandbServer, client: Client) -> None:
    shown = client("""
from wandb.apis.public.sweeps import _set_sweep_state
sweep_id = create_sweep()
for number, loss in enumerate([0.2, 0.1]):
    run = start(f"trial-{number}", tags=["a"], config={"lr": 0.5}, settings={"sweep_id": sweep_id})
    run.log({"loss": 1})
    run.log({"loss": loss})
    run.finish(exit_code=number)
api = wandb.Api()
run = api.run("team/digits/trial-1")
show(run.state, run.config, run.summary["loss"], run.tags)
show([row["loss"] for row in run.scan_history()], [row["loss"] for row in run.history(pandas=False)])
show([row["loss"] for row in run.history(keys=["loss"], pandas=False)], run.metadata["program"])
sweep = api.sweep(f"team/digits/{sweep_id}")
show(sweep.state, sorted(run.id for run in sweep.runs), sweep.best_run().id)
show([run.id for run in api.runs("team/digits", filters={"state": "finished"})])
run.tags = ["a", "b"]
run.update()
_set_sweep_state(api, sweep_id, "FINISHED", entity="team", project="digits")
""")
    run, rows, sampled, sweep, finished = shown
    assert run == ["failed", {"lr": 0.5}, 0.1, ["a"]]
    assert rows == [[1, 0.1], [1, 0.1]]
    assert sampled == [[1, 0.1], "<python with no main file>"]
    assert sweep == ["RUNNING", ["trial-0", "trial-1"], "trial-1"]
    assert finished == ["trial-0"]
    assert server.runs["trial-1"].tags == ["a", "b"]
    assert [sweep.state for sweep in server.sweeps.values()] == ["FINISHED"]


def test_offline_run_is_synced(server: WandbServer, client: Client) -> None:
    (statuses,) = client("""
sweep_id = create_sweep()
run = start("offline", tags=["a"], config={"lr": 0.5}, settings={"mode": "offline", "sweep_id": sweep_id})
run.log({"loss": 2})
run.log({"loss": 1})
run.log_artifact(model("one"), aliases=["best"])
run.finish(exit_code=3)
folder = os.path.dirname(run.settings.sync_file)
show(subprocess.run([sys.executable, "-m", "wandb", "sync", folder]).returncode,
     any(name.endswith(".synced") for name in os.listdir(folder)))
""")
    run = server.runs["offline"]
    assert statuses == [0, True]
    assert (run.tags, run.config, run.sweep_id) == (["a"], {"lr": 0.5}, *server.sweeps)
    assert (run.state, run.exit_code, _losses(server, "offline")) == ("failed", 3, [2, 1])
    (version,) = server.artifacts["model-trial"]
    assert (version.aliases, version.files) == ({"best", "latest"}, {"weights/model.txt": b"one"})


def test_stop_flag(server: WandbServer, client: Client) -> None:
    client("""start("trial").finish()""")
    server.runs["trial"].stop = True
    (interrupted,) = client("""
import asyncio
from wandb.sdk.lib import run_stopping

run_stopping._SLEEP = lambda _: asyncio.sleep(0.1)  # asks at once again, and not after 15 s
try:
    run = start("trial")
    for step in range(300):
        run.log({"loss": step})
        time.sleep(0.1)
    show(False)
except KeyboardInterrupt:
    show(True)
""")
    assert interrupted


def _ask(server: WandbServer, query: str, password: str | None = None) -> dict:
    """Send a GraphQL request without the SDK."""
    manager = urllib.request.HTTPPasswordMgrWithPriorAuth()
    manager.add_password(None, server.url, "api", password or server.api_key, is_authenticated=True)
    opener = urllib.request.build_opener(urllib.request.HTTPBasicAuthHandler(manager))
    request = urllib.request.Request(f"{server.url}/graphql", json.dumps({"query": query}).encode())
    with opener.open(request, timeout=10) as response:
        return json.load(response)["data"]


VIEWER = "query Viewer { viewer { ...Who } } fragment Who on User { team: entity, email @include(if: false) }"


def test_unknown_requests_are_refused_and_recorded() -> None:
    with WandbServer() as server:
        for query in ("query Weather { weather { wind } }", "query Viewer { viewer { shoeSize } }"):
            with pytest.raises(urllib.error.HTTPError) as refused:
                _ask(server, query)
            refused.value.close()
        assert server.unknown == [
            'Weather: Cannot query field "weather" on type "Query".',
            'Viewer: Cannot query field "shoeSize" on type "User".',
        ]


def test_wrong_key_is_refused(server: WandbServer) -> None:
    assert _ask(server, VIEWER) == {"viewer": {"team": "team"}}
    with pytest.raises(urllib.error.HTTPError, match="401") as refused:
        _ask(server, VIEWER, password="f" * 40)
    refused.value.close()


def test_faults(server: WandbServer) -> None:
    server.fail(503, count=1, path="Viewer")
    with pytest.raises(urllib.error.HTTPError, match="503") as refused:
        _ask(server, VIEWER)
    refused.value.close()
    assert _ask(server, VIEWER)

    url = server.url
    server.pause()
    with pytest.raises(urllib.error.URLError):
        _ask(server, VIEWER)
    server.resume()
    assert server.url == url
    server.delay(0.2)
    start = time.monotonic()
    assert _ask(server, VIEWER)
    assert time.monotonic() - start >= 0.2

    server.fail(500)
    server.heal()
    assert _ask(server, VIEWER)


def test_nothing_is_left_behind() -> None:
    threads, variables = threading.active_count(), dict(os.environ)
    with WandbServer() as server:
        connection = http.client.HTTPConnection("127.0.0.1", int(server.url.rpartition(":")[2]))
        connection.request("GET", "/storage/runs/none/none")
        connection.getresponse().read()  # The connection stays open, as those of a client do.
    connection.close()
    assert (threading.active_count(), os.environ) == (threads, variables)
    with pytest.raises(ConnectionRefusedError):
        connection.request("GET", "/")
