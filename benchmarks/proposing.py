"""What a proposal costs, and how long a free slot waits for one: milliseconds by how many trials have finished.

    python -m benchmarks.proposing

Samplers that learn make proposals ahead, in a thread, while trials run. All figures have the record on disk in them:
what a proposal `takes` that is asked for as soon as the one before it was made, what a slot `waits` that becomes
free a while later, `--every` seconds after another did, and what each waits of `--together` that become free at the
same moment, from its turn on.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import tempfile
import time

import optuna

from orchestrator import aside
from orchestrator.distributions import chosen_for, distribution
from orchestrator.folder import SweepFolder
from orchestrator.ledger import Ledger
from orchestrator.messages import Ended, Outcome, Report
from orchestrator.space import Space
from orchestrator.spec import Spec

SPACE = {
    "lr": {"type": "float", "low": 1e-4, "high": 0.1, "log": True},
    "decay": {"type": "float", "low": 1e-6, "high": 1e-2, "log": True},
    "dropout": {"type": "float", "low": 0.0, "high": 0.5},
    "depth": {"type": "int", "low": 2, "high": 8},
    "width": {"type": "int", "low": 8, "high": 128, "log": True},
    "batch": {"options": [32, 64, 128]},
    "optimizer": {"options": ["sgd", "adamw"]},
    "momentum": {"type": "float", "low": 0.5, "high": 0.99, "when": {"optimizer": "sgd"}},
}
TUNE_ASKS_AGAIN_S = 0.1


def main() -> None:
    """Print a line for every sampler and number of finished trials."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samplers", nargs="+", default=["curves", "tpe", "qmc", "random", "cmaes", "gp"])
    parser.add_argument("--finished", nargs="+", type=int, default=[100, 1000, 5000])
    parser.add_argument("--proposals", type=int, default=5)
    parser.add_argument("--every", type=float, default=0.5, help="seconds from one free slot to the next")
    parser.add_argument("--together", type=int, default=4, help="how many slots are free at the same moment")
    args = parser.parse_args()
    for sampler in args.samplers:
        for finished in args.finished:
            if sampler == "gp" and finished > 1000:
                continue  # cubic in the trials: not what anybody waits for
            takes, waits, each = measured(sampler, finished, args.proposals, args.every, args.together)
            print(f"{sampler:8} {finished:6} finished  takes {takes:8.1f} ms  waits {waits:8.1f} ms"
                  f"  of {args.together} together {each:8.1f} ms", flush=True)  # fmt: skip
    aside.wait(60)  # for what is in the making


def measured(sampler: str, finished: int, proposals: int, every_s: float, together: int) -> tuple[float, float, float]:
    """Medians in milliseconds, after so many finished trials, a third of them pruned: what is taken, and waited."""
    space, rng = Space.from_data(SPACE), random.Random(0)
    spec = Spec.model_validate(
        {"name": "sweep", "trainable": "none", "space": SPACE, "metric": "m", "goal": "maximize",
         "search": {"sampler": sampler, "seed": 0}, "budget": {"trials": 2 * finished}}
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="proposing-") as place:
        folder = SweepFolder(place, "sweep")
        folder.create()
        Ledger(folder, spec, create=True)
        storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder.ledger)))
        study = optuna.load_study(storage=storage, study_name="sweep")
        study.add_trials(_trial(space, rng, index) for index in range(finished))
        ledger = Ledger(folder, spec)
        took_ms = []
        for _ in range(proposals):
            began = time.perf_counter()
            ledger.ask()
            took_ms.append(1000 * (time.perf_counter() - began))
        waited_ms = [each for _ in range(proposals) for each in _waits(ledger, 1, every_s, rng)]
        together_ms = [each for _ in range(proposals) for each in _waits(ledger, together, every_s, rng)]
        return statistics.median(took_ms), statistics.median(waited_ms), statistics.median(together_ms)


def _waits(ledger: Ledger, slots: int, every_s: float, rng: random.Random) -> list[float]:
    """What each waits, in milliseconds, of so many slots that become free at once after a while."""
    time.sleep(every_s)
    running = [record.number for record in ledger.records if record.state == "RUNNING"]
    for number in running[:slots]:
        ledger.end(_whole(number, rng.random()))
    waited_ms = []
    for free in reversed(range(slots)):
        began = time.perf_counter()
        while not ledger.ready:
            time.sleep(TUNE_ASKS_AGAIN_S)
        ledger.ask(free=free)
        waited_ms.append(1000 * (time.perf_counter() - began))
    return waited_ms


def _whole(number: int, value: float) -> Ended:
    """That a trial has come to its end."""
    report = Report(
        number=number,
        epoch=9,
        value=value,
        metrics={},
        best_epoch=9,
        checkpoint=None,
        best_checkpoint=None,
    )
    return Ended(number=number, outcome=Outcome.COMPLETE, report=report)


def _trial(space: Space, rng: random.Random, index: int) -> optuna.trial.FrozenTrial:
    params = space.sample(rng)
    value = -abs(math.log10(params["lr"]) + 2) + rng.gauss(0, 0.1)
    pruned = index % 3 == 0
    return optuna.trial.create_trial(
        state=optuna.trial.TrialState.PRUNED if pruned else optuna.trial.TrialState.COMPLETE,
        value=None if pruned else value,
        params=chosen_for(params),
        distributions={name: distribution(space[name]) for name in params},
        intermediate_values=dict.fromkeys(range(1, 2 if pruned else 10), value),
        user_attrs={"seed": index},
    )


if __name__ == "__main__":
    main()
