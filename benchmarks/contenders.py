"""The search methods that are compared, each driven as its own framework would drive it (Optuna, Ray Tune).

Ours are the very classes of a sweep, the ledger and the scheduler; the peers are used as their documentation says, with
the defaults they have.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.pruners import BasePruner, HyperbandPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import TrialState
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch

from benchmarks.simulator import Contender
from benchmarks.table import EPOCHS, SPACE
from orchestrator import schedule
from orchestrator.folder import SweepFolder
from orchestrator.ledger import Ledger
from orchestrator.messages import Ended, Outcome, Report, Verdict
from orchestrator.space import Choice, Float, Int
from orchestrator.spec import Spec

REDUCTION_FACTOR = 3  # of the peers: Hyperband's default, with rungs at 1, 3 and 9 of 27 epochs


@dataclass(frozen=True)
class _Trial:
    """What schedulers ask of one of Tune's trials."""

    trial_id: str


class Ours:
    """A sweep's ledger and scheduler, told what the sweep would tell them."""

    def __init__(self, seed: int) -> None:
        self._spec = Spec.model_validate(
            {
                "name": "sweep",
                "trainable": "none",
                "space": SPACE.to_data(),
                "metric": "loss",
                "goal": "minimize",
                "search": {"seed": seed},
                "budget": {"trials": SPACE.grid_size() // 2},
                "schedule": {"max_epochs": EPOCHS},
                "checkpoints": {"keep": "none"},
            }
        )
        self._place = tempfile.TemporaryDirectory(prefix="search-quality-")
        folder = SweepFolder(self._place.name, "sweep")
        folder.create()
        self._ledger = Ledger(folder, self._spec, create=True)
        self._scheduler = schedule.build(self._spec)

    def ask(self) -> tuple[int, Mapping[str, Any]]:
        """A paused trial that may go on, or the ledger's next one; as `Sweep` does."""
        if ready := self._scheduler.ready():
            record = self._ledger.go_on(ready[0], None)
            self._scheduler.resumed(record.number)
        else:
            record = self._ledger.ask()
            self._scheduler.begin(record.number, record.proposed)
        return record.number, record.params

    def tell(self, number: int, epoch: int, loss: float, epoch_s: float) -> bool:
        """As `Sweep` does: the scheduler judges an epoch, the ledger hears of it, of a pause, or of the end."""
        report = Report(
            number=number,
            epoch=epoch,
            value=loss,
            metrics={},
            best_epoch=epoch,
            checkpoint=None,
            best_checkpoint=None,
            epoch_s=epoch_s,
        )
        verdict = self._scheduler.report(number, epoch, loss)
        if epoch < EPOCHS and verdict is Verdict.CONTINUE:
            self._ledger.report(report)
            return True
        stopped = Outcome.PAUSED if verdict is Verdict.PAUSE else Outcome.PRUNED
        outcome = Outcome.COMPLETE if epoch == EPOCHS else stopped
        self._ledger.end(Ended(number=number, outcome=outcome, report=report))
        if outcome is not Outcome.PAUSED:
            self._scheduler.end(number)
        return False


class RayTune:
    """Tune's searcher and scheduler, called in the order of `TuneController._process_trial_result`."""

    def __init__(self, seed: int, sampler: BaseSampler | None, scheduler: TrialScheduler) -> None:
        self._searcher = OptunaSearch(_suggest_all, metric="loss", mode="min", seed=seed, sampler=sampler)
        self._scheduler = scheduler
        self._numbers = itertools.count()

    def ask(self) -> tuple[int, Mapping[str, Any]]:
        """The searcher's suggestion."""
        number = next(self._numbers)
        params = self._searcher.suggest(str(number))
        self._scheduler.on_trial_add(None, _Trial(str(number)))
        return number, params

    def tell(self, number: int, epoch: int, loss: float, epoch_s: float) -> bool:
        """The scheduler decides; the searcher hears of an epoch that is not the last, or of the end."""
        result = {"training_iteration": epoch, "loss": loss}
        trial = _Trial(str(number))
        if epoch < EPOCHS and self._scheduler.on_trial_result(None, trial, result) == TrialScheduler.CONTINUE:
            self._searcher.on_trial_result(trial.trial_id, result)
            return True
        self._scheduler.on_trial_complete(None, trial, result)
        self._searcher.on_trial_complete(trial.trial_id, result)
        return False


class OptunaAlone:
    """Optuna's study with its own sampler and pruner: `report`, `should_prune`, `tell`."""

    def __init__(self, seed: int, pruner: BasePruner) -> None:
        # Hyperband draws a trial's bracket from the study's name, which would be a random one.
        self._study = optuna.create_study(sampler=TPESampler(seed=seed), pruner=pruner, study_name=f"seed {seed}")
        self._trials: dict[int, optuna.Trial] = {}

    def ask(self) -> tuple[int, Mapping[str, Any]]:
        """Suggest parameter by parameter, as an objective does."""
        trial = self._study.ask()
        self._trials[trial.number] = trial
        return trial.number, _suggest_all(trial)

    def tell(self, number: int, epoch: int, loss: float, epoch_s: float) -> bool:
        """Report, and ask whether to prune."""
        trial = self._trials[number]
        trial.report(loss, epoch)
        if epoch == EPOCHS:
            self._study.tell(trial, loss)
        elif trial.should_prune():
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            return True
        return False


def _suggest_all(trial: Any) -> dict[str, Any]:
    """The space as a define-by-run function, which is how conditions are said to Optuna and to `OptunaSearch`."""
    params: dict[str, Any] = {}
    for name, parameter in SPACE.items():
        if SPACE.is_active(name, params):
            if isinstance(parameter, Choice):
                params[name] = trial.suggest_categorical(name, list(parameter.options))
            elif isinstance(parameter, Float):
                params[name] = trial.suggest_float(name, parameter.low, parameter.high, step=parameter.step)
            elif isinstance(parameter, Int):
                params[name] = trial.suggest_int(name, parameter.low, parameter.high)
    return params


def _asha() -> ASHAScheduler:
    return ASHAScheduler(metric="loss", mode="min", max_t=EPOCHS, grace_period=1, reduction_factor=REDUCTION_FACTOR)


def _random(seed: int) -> BaseSampler:
    return RandomSampler(seed=seed)


OURS, RANDOM = "ours", "random"
CONTENDERS: dict[str, Callable[[int], Contender]] = {
    OURS: Ours,
    "OptunaSearch + ASHA": lambda seed: RayTune(seed, None, _asha()),
    "Optuna TPE + Hyperband": lambda seed: OptunaAlone(seed, HyperbandPruner(max_resource=EPOCHS)),
    "Optuna TPE + halving": lambda seed: OptunaAlone(seed, SuccessiveHalvingPruner()),
    "random + ASHA": lambda seed: RayTune(seed, _random(seed), _asha()),
    RANDOM: lambda seed: RayTune(seed, _random(seed), FIFOScheduler()),
}
"""By name, from a seed."""
