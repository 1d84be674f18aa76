"""What runs and what is best, of a live sweep or a dead one."""

from __future__ import annotations

import argparse
import json

from orchestrator import front


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which sweep, and in which form."""
    front.add_sweep(parser, required=False)
    front.add_cluster(parser, "of a sweep on that cluster")
    parser.add_argument("--json", action="store_true", help="print what results.json holds")


def run(arguments: argparse.Namespace) -> int:
    """Print tables of what runs, what is best and what failed; or the document."""
    from orchestrator import ranking, results

    if arguments.cluster is not None:
        return front.run_there(arguments)
    folder, spec = front.find_sweep(arguments)
    alive = folder.is_run()
    ledger, status = front.look(folder, spec)
    document = results.build(spec, folder, ledger.records, status, ledger.recall("end"))
    if arguments.json:
        print(json.dumps(document, indent=1))
        return 0
    from orchestrator.progress import Progress, make_console, many, print_advice, trial_table

    console = make_console()
    running = [record for record in ledger.records if record.state == "RUNNING"]
    console.print(f"{spec.name}: {status}  {Progress(console, spec, ledger).line()}")
    for title, records in (
        ("running" if alive else "to be resumed", running),
        ("Pareto front", ranking.front(spec.goals, ledger.records)),
        ("best", ranking.ranked(spec.goal, ledger.records)[:5]),
        ("failed", [record for record in ledger.records if record.state == "FAIL"][-5:]),
    ):
        if records:
            console.print(f"\n{title}", style="bold")
            console.print(trial_table(spec, records, console.width))
    for trial in document["trials"]:
        if trial["error"] and trial["state"] == "FAIL":
            console.print(f"trial {trial['number']}: {trial['error']}", soft_wrap=True, markup=False)
    if document["end"]:
        console.print(f"\nthe sweep ended: {document['end']}", soft_wrap=True, markup=False)
    if status == "finished":
        print_advice(console, spec, ledger)
    if not alive and (unsent := folder.unsent_runs()):
        console.print(
            f"\n{many(len(unsent), 'W&B run')} not, or not wholly, sent from here:"
            f" python -m orchestrator sync {folder.show('').rstrip('/')}",
            soft_wrap=True,
        )
    if not alive and (running or status in ("dead", "interrupted")):
        console.print(f"\nto go on: python -m orchestrator resume {folder.show('').rstrip('/')}", soft_wrap=True)
    return 0
