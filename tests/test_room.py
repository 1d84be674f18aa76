"""How many trials a sweep runs at once follows the cluster that it runs on."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import pytest
from simulated import simulate

from orchestrator import sweep as module
from orchestrator.capacity import HEAD
from orchestrator.errors import SpecError
from orchestrator.ledger import Ledger
from orchestrator.sweep import Sweep

NODE = {"CPU": 2.0}


class Said(list[str]):
    """A view that keeps what it is told once."""

    def notice(self, text: str) -> None:
        self.append(text)


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> list[Mapping[str, float]]:
    """The cluster's, which the test changes; it is looked at whenever the sweep comes to it."""
    found: list[Mapping[str, float]] = [{HEAD: 1.0}]
    monkeypatch.setattr(module.cluster, "is_given", lambda: True)
    monkeypatch.setattr(module.cluster, "nodes", lambda: found)
    monkeypatch.setattr(module.cluster, "free_forgotten", lambda: None)
    return found


def make(tmp_path: Path, **resources: Any) -> tuple[Sweep, Said]:
    folder, spec = simulate(tmp_path, 1, budget={"trials": 100}, resources={"workers": 2, **resources})
    said = Said()
    sweep = Sweep(spec, folder, Ledger(folder, spec), said)  # type: ignore[arg-type]
    sweep.concurrency = 1
    return sweep, said


def look(sweep: Sweep) -> None:
    sweep._count_room()
    sweep._look_for_room()


def test_nodes_that_come_take_trials_and_those_that_go_do_not(tmp_path: Path, nodes: list[Any]) -> None:
    sweep, said = make(tmp_path)
    nodes.append(NODE)
    look(sweep)
    assert (sweep.concurrency, said) == (1, [])
    nodes += [NODE] * 10
    look(sweep)
    assert sweep.concurrency == 11
    del nodes[5:]
    look(sweep)
    assert sweep.concurrency == 4
    assert [text.partition(":")[0] for text in said] == [
        "up to 11 at once from now on",
        "up to 4 at once from now on",
    ]
    del nodes[1:]  # all of them: trials wait, and nobody is told that none could ever run
    look(sweep)
    assert sweep.concurrency == 4


def test_a_sweep_that_goes_on_waits_for_its_nodes(
    tmp_path: Path, nodes: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = make(tmp_path)[0].spec
    monkeypatch.setattr(module.cluster, "connected", nullcontext)
    monkeypatch.setattr(module, "NODES_LOOK_S", 0.0)
    looks = iter([nodes, nodes, [*nodes, NODE]])
    monkeypatch.setattr(module.cluster, "nodes", lambda: next(looks))
    with ExitStack() as stack:
        assert module._at_once(spec, stack, patience_s=60.0).trials == 1
    said = capsys.readouterr().err
    assert said.count("waiting for nodes, 60 s at most: resources: a trial needs 2 CPUs") == 1
    monkeypatch.setattr(module.cluster, "nodes", lambda: nodes)
    with ExitStack() as stack, pytest.raises(SpecError, match="a trial needs 2 CPUs"):
        module._at_once(spec, stack)


def test_a_number_that_was_asked_for_stays(tmp_path: Path, nodes: list[Any]) -> None:
    sweep, said = make(tmp_path, concurrency=1)
    nodes += [NODE] * 10
    look(sweep)
    assert (sweep.concurrency, said) == (1, [])
