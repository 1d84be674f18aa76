"""How many trials a sweep runs at once follows the cluster that it runs on."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from contextlib import ExitStack, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import ray
from ray._private.state import state
from ray.core.generated.gcs_pb2 import ActorTableData, PlacementGroupTableData
from simulated import simulate

from orchestrator import cluster
from orchestrator import sweep as module
from orchestrator.capacity import HEAD
from orchestrator.errors import InputError
from orchestrator.folder import SweepFolder
from orchestrator.ledger import Ledger, TrialRecord
from orchestrator.messages import Left, Outcome, Started
from orchestrator.preflight import Found
from orchestrator.samplers import Proposer
from orchestrator.spec import Spec
from orchestrator.sweep import Sweep

NODE = {"CPU": 2.0}


class Said(list[str]):
    """A view that keeps what it is told once."""

    def notice(self, text: str) -> None:
        self.append(text)

    def changed(self, record: TrialRecord) -> None:
        pass


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> list[Mapping[str, float]]:
    """The cluster's, which the test changes; it is looked at whenever the sweep comes to it."""
    found: list[Mapping[str, float]] = [{HEAD: 1.0}]
    monkeypatch.setattr(module.cluster, "is_given", lambda: True)
    monkeypatch.setattr(module.cluster, "nodes", lambda: found)
    monkeypatch.setattr(module.cluster, "free_forgotten", lambda: 0)
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


def test_trials_that_only_wait_end_the_sweep_which_can_be_resumed(
    tmp_path: Path, nodes: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.ray, "get", lambda answer: answer)
    now = 0.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    board = SimpleNamespace(
        news=SimpleNamespace(remote=lambda: heard),
        interrupt=SimpleNamespace(remote=lambda outcome: interrupted.append(outcome)),
    )
    interrupted: list[Outcome] = []
    heard: list[Any] = []
    sweep, _ = make(tmp_path)
    sweep._board = board

    def hear(at: float, *news: Any) -> bool:
        """Whether the sweep goes on when it has heard this."""
        nonlocal now
        now, heard[:] = at, news
        sweep._hear_news()
        sweep._look_for_workers()
        return not interrupted

    limit_s = sweep.spec.failures.wait_timeout_s or 0.0
    assert hear(2 * limit_s)  # nothing is to be run
    number = sweep.ledger.ask().number
    sweep._live["a"] = number
    assert hear(3 * limit_s, Started(number=number, slot="s", wandb_run=None))
    assert hear(5 * limit_s)  # it trains
    assert hear(5 * limit_s, Left(number=number))
    assert hear(6 * limit_s)
    assert not hear(6 * limit_s + 1)
    assert interrupted == [Outcome.INTERRUPTED]  # it goes on from where it was
    assert sweep.status == "failed"
    assert "none has had workers for 21600 s (failures.wait_timeout_s)" in str(sweep._why)
    assert sweep.ledger.records[number].state == "RUNNING"
    before = list(sweep.ledger._journal.read_logs(0))  # now: it is read as it is asked for
    assert not hear(9 * limit_s)
    assert list(sweep.ledger._journal.read_logs(0)) == before  # said once


def test_a_sweep_that_goes_on_waits_for_its_nodes(
    tmp_path: Path, nodes: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep, _ = make(tmp_path)
    spec, folder = sweep.spec, sweep.folder
    monkeypatch.setattr(module.cluster, "connected", nullcontext)
    monkeypatch.setattr(module, "NODES_LOOK_S", 0.0)
    looks = iter([nodes, nodes, [*nodes, NODE]])
    monkeypatch.setattr(module.cluster, "nodes", lambda: next(looks))
    with ExitStack() as stack:
        assert module._at_once(spec, stack, folder, patience_s=60.0).trials == 1
    said = capsys.readouterr().err
    assert said.count("waiting for nodes, 60 s at most: resources: a trial needs 2 CPUs") == 1
    monkeypatch.setattr(module.cluster, "nodes", lambda: nodes)
    monkeypatch.setattr(module.preflight, "check", lambda *_, **__: Found(problems=["node n1: no disk"]))
    with ExitStack() as stack, pytest.raises(InputError, match="a trial needs 2 CPUs") as raised:
        module._at_once(spec, stack, folder)
    assert raised.value.problems[1:] == ("node n1: no disk",)  # in one list


def test_nodes_for_elastic_trials_are_asked_for_as_far_as_there_can_be_such(
    tmp_path: Path, nodes: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Mapping[str, float], int]] = []
    monkeypatch.setattr(module.cluster, "ask_for", lambda worker, workers: asked.append((worker, workers)))
    sweep, _ = make(tmp_path, workers="1..4")
    nodes += [NODE] * 3
    for live in range(3):
        sweep._live = dict.fromkeys(map(str, range(live)), 0)
        look(sweep)
    assert asked == [({"CPU": 1}, 0), ({"CPU": 1}, 4), ({"CPU": 1}, 6)]
    fixed, _ = make(tmp_path / "fixed")
    look(fixed)
    assert len(asked) == 3  # a reservation that waits says it


def test_a_number_that_was_asked_for_stays(tmp_path: Path, nodes: list[Any]) -> None:
    sweep, said = make(tmp_path, concurrency=1)
    nodes += [NODE] * 10
    look(sweep)
    assert (sweep.concurrency, said) == (1, [])


def begin(tmp_path: Path, trials: int) -> Sweep:
    spec = Spec.model_validate(
        {
            "name": "sweep", "trainable": "x", "space": {"x": {"type": "float", "low": 0, "high": 1}}, "metric": "m",
            "goal": "maximize", "search": {"sampler": "tpe", "seed": 1}, "budget": {"trials": trials},
        }
    )  # fmt: skip
    folder = SweepFolder(str(tmp_path), "sweep")
    folder.create()
    return Sweep(spec, folder, Ledger(folder, spec, create=True), Said())  # type: ignore[arg-type]


def test_a_trial_that_leaves_slots_free_says_so_for_the_next_ones_proposal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, frees, ask = begin(tmp_path, trials=9), list[int](), Ledger.ask
    monkeypatch.setattr(sweep, "tick", lambda: None)
    monkeypatch.setattr(Ledger, "ask", lambda self, *, free: (frees.append(free), ask(self, free=free))[1])
    sweep._slots = {"one", "two", "three"}
    for concurrency in (3, 2):
        sweep.concurrency = concurrency
        for tune_id in "abc"[:concurrency]:
            while sweep.propose(tune_id) is None:
                pass
        assert sweep.propose("d") is None, "no slot is left"
        sweep._live.clear()
    assert frees == [2, 1, 0, 1, 0]


def test_a_sweep_is_not_over_while_its_next_proposal_is_in_the_making(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_go_on, draw = threading.Event(), Proposer._draw

    def waiting(self: Proposer, *arguments: Any) -> dict[str, Any]:
        assert may_go_on.wait(60)
        return draw(self, *arguments)

    monkeypatch.setattr(Proposer, "_draw", waiting)
    sweep = begin(tmp_path, trials=1)
    monkeypatch.setattr(sweep, "tick", lambda: None)  # there is no Ray to ask for news
    assert sweep.propose("a") is None
    may_go_on.set()
    while (proposed := sweep.propose("a")) is None:
        pass
    assert isinstance(proposed, dict)
    assert proposed["number"] == 0


OURS, THEIRS = ray.JobID.from_int(1), ray.JobID.from_int(2)


@pytest.mark.parametrize(
    ("job", "gone", "told", "actor", "freed"),
    [
        (OURS, False, True, "DEAD", True),  # Ray Train forgot it
        (OURS, False, False, "DEAD", True),  # asked for by an actor that was dead before GCS heard of it
        (OURS, False, False, "ALIVE", False),
        (OURS, False, False, "RESTARTING", False),
        (THEIRS, True, False, "DEAD", True),
        (THEIRS, True, False, "ALIVE", False),  # an actor that outlives its job
        (THEIRS, False, True, "DEAD", False),  # another sweep, which frees it itself
        (OURS, False, False, None, False),  # this process's own
    ],
)
def test_what_dead_actors_had_reserved_is_freed(
    monkeypatch: pytest.MonkeyPatch, job: ray.JobID, gone: bool, told: bool, actor: str | None, freed: bool
) -> None:
    creator = ray.ActorID.nil() if actor is None else ray.ActorID.of(job, ray.TaskID.nil(), 1)
    reserved = ray.PlacementGroupID.of(job)
    group = PlacementGroupTableData(
        placement_group_id=reserved.binary(), state=PlacementGroupTableData.CREATED, creator_job_id=job.binary(),
        creator_job_dead=gone, creator_actor_id=creator.binary(), creator_actor_dead=told,
    )  # fmt: skip
    tables = Mock()
    tables.get_placement_group_table.return_value = [group.SerializeToString()]
    monkeypatch.setattr(state, "_connect_and_get_accessor", lambda: tables)
    monkeypatch.setattr(state, "actor_table", lambda actor_id: {creator.hex(): {"State": actor}}[actor_id])
    monkeypatch.setattr(ray, "get_runtime_context", lambda: Mock(get_job_id=OURS.hex))
    removed: list[ray.PlacementGroupID] = []
    groups = sys.modules["ray.util.placement_group"]  # the attribute of that name is a function
    monkeypatch.setattr(groups, "remove_placement_group", lambda group: removed.append(group.id))
    left = cluster.free_forgotten()
    assert removed == [reserved] * freed
    assert left == (job == OURS and actor is not None and not freed)


def test_a_cluster_is_left_once_nothing_is_reserved(
    tmp_path: Path, nodes: list[Mapping[str, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, _ = make(tmp_path)
    left, alive = iter([2, 0, 0, 1]), iter(["TrainController", "TrainController", "Switchboard", "TrainController"])
    monkeypatch.setattr(cluster, "free_forgotten", lambda: next(left))
    monkeypatch.setattr(state, "actor_table", lambda *_: {"one": {"ActorClassName": next(alive)}})
    monkeypatch.setattr(ray, "get_runtime_context", lambda: Mock(get_job_id=OURS.hex))
    with sweep._following():
        pass
    assert list(left) == [1]


@pytest.mark.parametrize(
    ("group", "owner", "waits"),
    [
        (PlacementGroupTableData.PENDING, b"us", True),
        (PlacementGroupTableData.RESCHEDULING, b"us", True),
        (PlacementGroupTableData.CREATED, b"us", False),  # its workers start
        (PlacementGroupTableData.PENDING, b"another slot", False),
        (PlacementGroupTableData.PENDING, None, False),  # a driver's own, as those of Tune
    ],
)
def test_only_what_a_slots_own_workers_wait_for_counts(
    monkeypatch: pytest.MonkeyPatch, group: int, owner: bytes | None, waits: bool
) -> None:
    actor = None if owner is None else ActorTableData(owner_address={"worker_id": owner}).SerializeToString()
    reserved = PlacementGroupTableData(state=group, creator_actor_id=ray.ActorID.nil().binary())
    tables = Mock(**{"get_actor_info.return_value": actor})
    tables.get_placement_group_table.return_value = [reserved.SerializeToString()]
    monkeypatch.setattr(state, "_connect_and_get_accessor", lambda: tables)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: Mock(get_worker_id=b"us".hex))
    assert cluster.waits_for_room() is waits
