"""What the preflight makes of what nodes say; that it asks them is shown on a real cluster (tests/test_cluster.py)."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator import preflight
from orchestrator.folder import SweepFolder
from orchestrator.preflight import CLOCKS_S, Facts, Node, problems_here, problems_of, remarks_on
from orchestrator.spec import Spec

SPEC = {"trainable": "digits", "space": "digits", "metric": "x", "goal": "maximize"}
GOOD = Facts(
    python="3.11.9",
    packages={"ray": "2.60.0", "torch": "2.13.0"},
    code="abc",
    clock_s=0.0,
    free_gib=100.0,
    storage=None,
    trainable=None,
)


def node(skew_s: float = 0.0, **facts: Any) -> Node:
    return Node(name="n1", facts=replace(GOOD, **facts), skew_s=skew_s)


def test_nothing_is_wrong() -> None:
    assert list(problems_of([node(skew_s=CLOCKS_S)], GOOD)) == []


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (node(python="3.12.1"), "node n1: Python is 3.12.1, here it is 3.11.9"),
        (node(packages={"ray": "2.59.0", "torch": "2.13.0"}), "node n1: ray is 2.59.0, here it is 2.60.0; install"),
        (node(packages={"ray": "2.60.0"}), "node n1: torch is missing, here it is 2.13.0; install"),
        (node(code="abd"), "node n1: the project's code is not the same as here; `ray up`"),
        (node(skew_s=-60.0), "node n1: its clock is -60 s from this one"),
        (node(free_gib=0.5), "node n1: 0.5 GiB of disk are free, fewer than 2"),
        (node(storage="cannot be read"), "node n1: storage: cannot be read"),
        (node(trainable="no such file"), "node n1: trainable: no such file"),
        (node(missing=["/data"]), "node n1: /data, which the spec names, is here and not there"),
        (node(unreachable=["http://x/y, which"]), "node n1: http://x/y, which"),
        (Node(name="n1", error="did not answer"), "node n1: did not answer"),
    ],
)
def test_what_is_wrong_is_said(found: Node, said: str) -> None:
    (problem,) = problems_of([found], GOOD)
    assert problem.startswith(said)


def test_the_disks_of_the_sweep_itself_are_looked_at(tmp_path: Path) -> None:
    assert list(problems_here(GOOD, 100.0)) == list(problems_here(GOOD, None)) == []
    own, storage = problems_here(replace(GOOD, free_gib=0.5), 1.0)
    assert own == "this machine: 0.5 GiB of disk are free, fewer than 2"
    assert storage.startswith("storage: 1.0 GiB are free, fewer than 2")
    free = SweepFolder(str(tmp_path / "not" / "yet"), "s").free_gib()
    assert free
    assert free > 0
    assert SweepFolder("s3://bucket/sweeps?region=us-west-2", "s").free_gib() is None


def test_everything_that_is_wrong_is_said_at_once() -> None:
    found = [node(python="3.12.1", storage="cannot be read"), replace(node(free_gib=0.5), name="n2")]
    assert len(list(problems_of(found, GOOD))) == 3


def test_what_only_the_trainable_might_miss_is_a_remark() -> None:
    found = [node(wandb="W&B refuses the key"), node()]
    assert list(problems_of(found, GOOD)) == []
    (remark,) = remarks_on(found)
    assert remark.startswith("node n1: W&B refuses the key; only what the trainable itself asks of W&B")
    (remark,) = remarks_on([*found, replace(found[0], name="n2")])
    assert remark.startswith("2 nodes, such as n1: W&B refuses the key; ")


class Answers(BaseHTTPRequestHandler):
    """A server that has `/data` and no more."""

    def do_GET(self) -> None:
        """As a link that is signed for a download: no other method is served."""
        self.send_response({"/data": 206, "/odd": 200, "/empty": 416}.get(self.path.partition("?")[0], 404))
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def web() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_data_that_cannot_be_downloaded_is_a_problem(web: str, tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    data = [f"{web}/data?X-Amz-Signature=abc", f"{web}/odd", f"{web}/empty", f"file://{tmp_path}/data", str(tmp_path)]
    gone = [f"{web}/none", "http://127.0.0.1:1/data", f"file://{tmp_path}/none"]
    folder = SweepFolder(str(tmp_path), "s")
    folder.write_text("here", "token")
    spec = Spec.model_validate(SPEC | {"name": "s", "storage": str(tmp_path), "params": {"x": data[0], "y": gone[2]}})
    facts = preflight.look(spec, "here", "token", "answer", [*data, *gone, "/none"])
    assert [problem.partition(",")[0] for problem in facts.unreachable] == gone
    assert facts.missing == ["/none"]
    assert facts.storage is None
    assert [each for each in preflight._named(spec) if preflight._is_meant(each)] == [data[0]]  # the other is written


def test_what_is_secret_in_an_address_is_not_said(web: str) -> None:
    for url in (
        f"{web}/none?X-Amz-Signature=hunter2",
        f"{web.replace('//', '//user:hunter2@')}/none",
        "s3://a/b?token=hunter2",
    ):
        said = str(preflight._problem_with_url(url))
        assert "which the spec names" in said
        assert "hunter2" not in said


def test_another_sweep_that_begins_meanwhile_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of one name at once: the one that looks longer must not take the other's folder away."""
    spec = Spec.model_validate(SPEC | {"name": "s", "storage": str(tmp_path)})
    folder = SweepFolder(str(tmp_path), "s")

    def ask(*_: Any) -> list[Node]:
        folder.write_text("sweep.yaml", "the other one's")
        return []

    monkeypatch.setattr(preflight, "_ask_all", ask)
    assert preflight.check(spec, folder).problems == []
    assert [path.name for path in (tmp_path / "s").iterdir()] == ["sweep.yaml"]
    folder.delete("sweep.yaml")
    monkeypatch.setattr(preflight, "_ask_all", lambda *_: [])
    preflight.check(spec, folder)
    assert not (tmp_path / "s").exists()
    monkeypatch.setattr(preflight, "_ask_all", interrupted)
    with pytest.raises(KeyboardInterrupt):
        preflight.check(spec, folder)
    assert not (tmp_path / "s").exists()


def interrupted(*_: Any) -> list[Node]:
    raise KeyboardInterrupt


def test_a_sweep_that_goes_on_asks_nothing_of_servers_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which may take longer to refuse than nodes have to answer."""
    (tmp_path / "data").touch()
    data = {"path": f"{tmp_path}/data", "url": "http://127.0.0.1:1/data"}
    more = {"name": "s", "storage": str(tmp_path), "tracking": {"mode": "online", "project": "p"}, "params": data}
    told: list[tuple[str, list[str]]] = []

    def ask(spec: Spec, place: str, token: str, data: list[str], answer_s: float) -> list[Node]:
        told.append((spec.tracking.mode, data))
        return []

    monkeypatch.setattr(preflight, "_ask_all", ask)
    for again in (False, True):
        preflight.check(Spec.model_validate(SPEC | more), SweepFolder(str(tmp_path), "s"), again=again)
    assert told == [("online", [*data.values()]), ("disabled", [data["path"]])]


@pytest.mark.parametrize("url", ["http://exa mple/data", "http://[::1/data", "s3://"])
def test_what_is_no_url_is_said_as_such(url: str) -> None:
    assert f"{url}, which the spec names, is not" in str(preflight._problem_with_url(url))


def test_wandb_is_asked_with_the_key_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, web: str) -> None:
    spec = Spec.model_validate(SPEC | {"tracking": {"mode": "online"}})
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", web)
    assert preflight._problem_with_wandb(spec) is None  # none is needed there
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:1")
    assert "W&B at http://127.0.0.1:1 is not reached from there" in str(preflight._problem_with_wandb(spec))


def test_a_node_that_goes_while_it_is_asked_is_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def listed(name: str) -> dict[str, Any]:
        return {"NodeID": name, "Alive": True, "NodeManagerAddress": "10.0.0.1", "Resources": {"CPU": 1.0}}

    def wait(asked: list[str], **_: Any) -> tuple[list[str], list[str]]:
        nodes["going"]["Alive"] = False
        return [], asked

    nodes, cancelled = {name: listed(name) for name in ("silent", "going")}, list[str]()
    answers = iter(["answer of silent", "answer of going"])
    task = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda *_: next(answers)))
    monkeypatch.setattr(preflight, "_look_there", task)
    monkeypatch.setattr(preflight.ray, "nodes", lambda: list(nodes.values()))
    monkeypatch.setattr(preflight.ray, "wait", wait)
    monkeypatch.setattr(preflight.ray, "cancel", cancelled.append)
    monkeypatch.setattr(preflight.ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "here"))
    (silent,) = preflight._ask_all(Spec.model_validate(SPEC), "place", "token", [], 0.0)
    assert silent == Node(name="10.0.0.1-silent", error="did not answer in 0 s")
    assert cancelled == ["answer of silent", "answer of going"]


def test_a_sweep_that_goes_on_does_not_wait_for_a_node_that_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []

    def ask_all(spec: Spec, place: str, token: str, data: Any, answer_s: float) -> list[Node]:
        waited.append(answer_s)
        return [Node(name="n1", error="did not answer in 10 s"), node(python="2.7")]

    monkeypatch.setattr(preflight, "_ask_all", ask_all)
    spec = Spec.model_validate(SPEC | {"name": "s", "storage": str(tmp_path)})
    first = preflight.check(spec, SweepFolder(str(tmp_path), "s"))
    again = preflight.check(spec, SweepFolder(str(tmp_path), "s"), again=True)
    assert waited == [preflight.ANSWER_S, preflight.AGAIN_S]
    assert "node n1: did not answer in 10 s" in first.problems
    assert again.remarks == ["node n1: did not answer in 10 s, and was not looked at"]
    assert any("Python is 2.7" in problem for problem in again.problems)
    assert not any("answer" in problem for problem in again.problems)
