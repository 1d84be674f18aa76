"""`sync`: what a sweep wrote to disk is brought to W&B once it no longer runs, from the ledger and the run files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator import ranking
from orchestrator.artifact import job_of
from orchestrator.delivery import Delivery, alone, named
from orchestrator.errors import InputError
from orchestrator.folder import SweepFolder
from orchestrator.ledger import Ledger, TrialRecord
from orchestrator.messages import Ended, Landed, Outcome
from orchestrator.page import REMADE, Page
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
        InputError: it has no runs, and is to have none.
        TrackingError: the server cannot be reached, or refuses.
    """
    if spec.tracking.mode == "disabled":
        raise InputError(f"{spec.name} has no W&B runs to bring up: it was run with tracking.mode=disabled")
    with alone(folder):
        return _sync(folder, spec, say)


def _sync(folder: SweepFolder, spec: Spec, say: Callable[[str], None]) -> Told:
    ledger = Ledger(folder, spec)
    page = Page(spec, ledger.recall("wandb_sweep"))
    delivery = Delivery(spec, folder, page, say)
    said = Status(json.loads(folder.read_text("results.json"))["status"])
    said = Status.DEAD if said in ALIVE else said  # whoever calls has the sweep's lock: nobody runs it
    folder.download_tree("wandb")
    _reach(page, delivery, ledger, say)
    missing, arrived, there = dict[str, str](), 0, 0
    evicted = {r.number for r in ranking.evicted(spec.goal, ledger.records, spec.checkpoints.keep_trials)}
    for record in ledger.records:
        if delivery.waiting(record.number):
            outcome = Outcome(record.outcome) if record.state != "RUNNING" else Outcome.INTERRUPTED
            close_dead(folder, Ended(number=record.number, outcome=outcome, error=record.error))
        if record.number not in evicted:
            with named(missing, f"{delivery.run_id(record.number)}'s checkpoints"):
                delivery.log_left(job_of(record))
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
        with named(missing, name):
            _send(page, delivery, record, evicted=record.number in evicted)
            ledger.landed(Landed(number=record.number, url=page.address(name)))
            say(f"{name}  {page.address(name)}")
            arrived += 1
    for number in (each for each in evicted if delivery.run_id(each) not in missing):
        with named(missing, f"{delivery.run_id(number)}'s checkpoints, which are to be deleted"):
            delivery.drop_checkpoints(number)
    missing |= delivery.keep_exports(r.number for r in ledger.records if r.wandb_run is not None)
    missing |= _conclude(spec, ledger, page, delivery, said)
    write(folder, build(spec, folder, ledger.records, said, ledger.recall("end")))
    folder.push(folder.ledger.name)
    address = page.address("").replace("/runs/", f"/sweeps/{page.sweep_id}")
    return Told(arrived=arrived, there=there, missing=missing, address=address)


def _reach(page: Page, delivery: Delivery, ledger: Ledger, say: Callable[[str], None]) -> None:
    """Connect to the sweep's page, which is made where there is none, or none any more."""
    page.connect()
    if page.sweep_id is None:
        page.make_sweep(ledger.recall("command"))
        ledger.remember("wandb_sweep", page.sweep_id)
        if page.deleted:
            say(f"{REMADE} (it was {page.deleted})")
    delivery.join_all()  # also what an earlier one that was interrupted had not come to


def _send(page: Page, delivery: Delivery, record: TrialRecord, *, evicted: bool) -> None:
    page.admit(delivery.run_id(record.number))
    delivery.hold(record.number)
    for path in delivery.waiting(record.number):
        delivery.send(path)
    delivery.settle(record.number, evicted=evicted)


def _conclude(spec: Spec, ledger: Ledger, page: Page, delivery: Delivery, said: Status) -> dict[str, str]:
    """Say what is known of a sweep once its runs are there; what of that did not arrive, and why."""
    best = next(iter(ranking.ranked(spec.goal, ledger.records)), None)
    winner = best.number if said is Status.FINISHED and best and best.checkpoint else None
    former = [] if winner is None else succeed(ledger, winner)
    missing = delivery.conclude(lambda: page.set_state(STATES.get(said, "PAUSED")), winner, former)
    if measured := ledger.recall("evaluation"):
        name = delivery.run_id(measured["trial"])
        with named(missing, f"{name}'s evaluation"):
            page.add_to_summary(name, measured["metrics"])
    return missing
