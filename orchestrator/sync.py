"""`sync`: what a sweep wrote to disk is brought to W&B once it no longer runs, from the ledger and the run files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from orchestrator import ranking, wandb_yaml
from orchestrator.delivery import Delivery
from orchestrator.errors import OrchestratorError
from orchestrator.folder import SweepFolder
from orchestrator.ledger import Ledger, TrialRecord
from orchestrator.messages import Ended, Landed, Outcome
from orchestrator.naming import is_artifact
from orchestrator.page import Page
from orchestrator.results import ALIVE, STATES, Status, build, write
from orchestrator.spec import Spec
from orchestrator.tracking import close_dead, succeed


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a sync did."""

    arrived: int
    there: int
    missing: dict[str, str]
    """What did not arrive, by run, and why."""
    address: str


def sync(folder: SweepFolder, spec: Spec, say: Callable[[str], None]) -> Told:
    """Bring up what is not there yet, into the sweep that W&B has of it, made here where it has none.

    Raises:
        TrackingError: the server cannot be reached, or refuses.
    """
    ledger, page = Ledger(folder, spec), Page(spec)
    said = Status(json.loads(folder.read_text("results.json"))["status"])
    said = Status.DEAD if said in ALIVE else said  # whoever calls has the sweep's lock: nobody runs it
    folder.download_tree("wandb")
    page.connect()
    if (sweep_id := ledger.recall("wandb_sweep")) is None:
        sweep_id = page.make_sweep(wandb_yaml.to_wandb(spec.load_space()), ledger.recall("command"))
        ledger.remember("wandb_sweep", sweep_id)
    delivery, missing, arrived, there = Delivery(folder, page), dict[str, str](), 0, 0
    evicted = {r.number for r in ranking.evicted(spec.goal, ledger.records, spec.checkpoints.keep_trials)}
    # Marked as sent they may be, and yet not be there: refused, lost, or deleted since.
    sent = [r.number for r in ledger.records if delivery.segments(r.number) and not delivery.waiting(r.number)]
    delivery.missing(sent, evicted=evicted)
    for record in ledger.records:
        name = delivery.run_id(record.number)
        if not delivery.segments(record.number):
            if record.wandb_run is not None:
                missing[name] = "its files are not here"
            continue
        if not delivery.waiting(record.number):
            there += 1
            continue
        with _named(missing, name):
            _send(folder, spec, page, delivery, record, sweep_id, evicted=record.number in evicted)
            ledger.landed(Landed(number=record.number, url=page.address(name)))
            say(f"{name}  {page.address(name)}")
            arrived += 1
    for number in evicted:
        with _named(missing, f"{delivery.run_id(number)}'s checkpoints, which are to be deleted"):
            page.drop_checkpoints(delivery.run_id(number))
    with _named(missing, "what the sweep found"):
        _tell_end(spec, ledger, page, delivery, finished=said is Status.FINISHED and not missing)
        page.set_state(sweep_id, STATES.get(said, "PAUSED"))
    write(folder, build(spec, folder, ledger.records, said, ledger.recall("end")))
    folder.push(folder.ledger.name)
    address = page.address("").replace("/runs/", f"/sweeps/{sweep_id}")
    return Told(arrived=arrived, there=there, missing=missing, address=address)


@contextmanager
def _named(missing: dict[str, str], name: str) -> Iterator[None]:
    """Note what did not arrive, and go on with the rest."""
    try:
        yield
    except OrchestratorError as exc:
        missing[name] = str(exc)


def _send(
    folder: SweepFolder,
    spec: Spec,
    page: Page,
    delivery: Delivery,
    record: TrialRecord,
    sweep_id: str,
    *,
    evicted: bool,
) -> None:
    outcome = Outcome(record.outcome) if record.state != "RUNNING" else Outcome.INTERRUPTED
    close_dead(folder, Ended(number=record.number, outcome=outcome, error=record.error))
    page.admit(delivery.run_id(record.number), sweep_id)
    delivery.hold(record.number)
    for path in delivery.waiting(record.number):
        delivery.send(path)
    delivery.check(record.number, evicted=evicted)
    if spec.start_from and is_artifact(spec.start_from):
        page.use(delivery.run_id(record.number), spec.start_from)


def _tell_end(spec: Spec, ledger: Ledger, page: Page, delivery: Delivery, *, finished: bool) -> None:
    """What is known of a sweep once its runs are there: its winner, and what was measured of it afterwards."""
    best = next(iter(ranking.ranked(spec.goal, ledger.records)), None)
    if finished and best is not None and best.checkpoint:
        former = [delivery.run_id(number) for number in succeed(ledger, best.number)]
        page.crown(delivery.run_id(best.number), former, spec.tracking.registry, spec.tracking.registry_aliases)
        delivery.keep_export(best.number)
    if measured := ledger.recall("evaluation"):
        page.add_to_summary(delivery.run_id(measured["trial"]), measured["metrics"])
