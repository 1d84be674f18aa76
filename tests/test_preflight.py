"""What the preflight makes of what nodes say; that it asks them is shown on a real cluster (tests/test_cluster.py)."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayError

from orchestrator import preflight
from orchestrator.preflight import CLOCKS_S, Facts, Node, problems_of
from orchestrator.spec import Spec

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
        (Node(name="n1", error="did not answer"), "node n1: did not answer"),
    ],
)
def test_what_is_wrong_is_said(found: Node, said: str) -> None:
    (problem,) = problems_of([found], GOOD)
    assert problem.startswith(said)


def test_everything_that_is_wrong_is_said_at_once() -> None:
    found = [node(python="3.12.1", storage="cannot be read"), replace(node(free_gib=0.5), name="n2")]
    assert len(list(problems_of(found, GOOD))) == 3


def test_a_node_that_goes_while_it_is_asked_is_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def listed(name: str, alive: bool = True) -> dict[str, Any]:
        return {"NodeID": name, "Alive": alive, "NodeManagerAddress": "10.0.0.1", "Resources": {"CPU": 1.0}}

    def get(answer: str, timeout: float) -> None:
        there.update(going=listed("going", alive=False))
        raise RayError(answer)

    there = {name: listed(name) for name in ("silent", "going")}
    task = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda *_: "no answer"))
    monkeypatch.setattr(preflight, "_look_there", task)
    monkeypatch.setattr(preflight.ray, "nodes", lambda: list(there.values()))
    monkeypatch.setattr(preflight.ray, "get", get)
    monkeypatch.setattr(preflight.ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "here"))
    spec = Spec.model_validate({"trainable": "digits", "space": "digits", "metric": "x", "goal": "maximize"})
    (silent,) = preflight._ask_all(spec, "place", "token", [])
    assert silent.name == "10.0.0.1-silent"
    assert "no answer" in str(silent.error)
