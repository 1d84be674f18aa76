"""`sync`: what a sweep wrote to disk is brought to W&B once it no longer runs, from the ledger and the run files."""

from __future__ import annotations

import json
from collections.abc import Callable
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
from orchestrator.tracking import close_dead


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
    for record in ledger.records:
        name = delivery.run_id(record.number)
        if not delivery.segments(record.number):
            if record.wandb_run is not None:
                missing[name] = "its files are not here"
            continue
        if not delivery.waiting(record.number):
            there += 1
            continue
        try:
            _send(folder, spec, page, delivery, record, sweep_id)
            ledger.landed(Landed(number=record.number, url=page.address(name)))
            say(f"{name}  {page.address(name)}")
            arrived += 1
        except OrchestratorError as exc:
            missing[name] = str(exc)
    for record in ranking.evicted(spec.goal, ledger.records, spec.checkpoints.keep_trials):
        page.drop_checkpoints(delivery.run_id(record.number))
    best = next(iter(ranking.ranked(spec.goal, ledger.records)), None)
    if said is Status.FINISHED and best is not None and best.checkpoint and not missing:
        page.crown(delivery.run_id(best.number), spec.tracking.registry, spec.tracking.registry_aliases)
    page.set_state(sweep_id, STATES.get(said, "PAUSED"))
    write(folder, build(spec, folder, ledger.records, said, ledger.recall("end")))
    folder.push(folder.ledger.name)
    address = page.address("").replace("/runs/", f"/sweeps/{sweep_id}")
    return Told(arrived=arrived, there=there, missing=missing, address=address)


def _send(folder: SweepFolder, spec: Spec, page: Page, delivery: Delivery, record: TrialRecord, sweep_id: str) -> None:
    outcome = Outcome(record.outcome) if record.state != "RUNNING" else Outcome.INTERRUPTED
    close_dead(folder, Ended(number=record.number, outcome=outcome, error=record.error))
    page.admit(delivery.run_id(record.number), sweep_id)
    for path in delivery.waiting(record.number):
        delivery.send(path)
    delivery.check(record.number)
    if spec.start_from and is_artifact(spec.start_from):
        page.use(delivery.run_id(record.number), spec.start_from)
