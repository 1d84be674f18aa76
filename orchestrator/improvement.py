"""How much better a further trial can be: Optuna's terminator, asked in a thread, for it takes seconds (optuna)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from concurrent.futures import Future

import optuna
from optuna.trial import FrozenTrial, TrialState

from orchestrator import aside

# What Optuna's terminator wants to see before it says anything.
MIN_TRIALS = 20


class Improvement:
    """The room that is left above the best value, by the latest count."""

    def __init__(self) -> None:
        self._asked: Future[float] | None = None
        self._seen = 0
        self._troubles: list[str] = []

    def left(self, study: optuna.Study) -> float | None:
        """The latest answer, in the metric's unit, or None while there is none; asks again when trials have ended."""
        trials = study.get_trials(deepcopy=False)
        done = sum(trial.state is TrialState.COMPLETE for trial in trials)
        idle = self._asked is None or self._asked.done()
        answer = self._answer() if idle else None
        if idle and done >= MIN_TRIALS and done > self._seen:
            self._seen = done
            self._asked = aside.begin("improvement", room, list(trials), study.direction)
        return answer

    def troubles(self) -> list[str]:
        """Why there was no answer, each time since the last call."""
        found, self._troubles = self._troubles, []
        return found

    def _answer(self) -> float | None:
        if self._asked is None:
            return None
        try:
            return self._asked.result()
        except Exception as exc:  # noqa: BLE001 - the numerics of a model, whatever they raise, are no reason to end
            self._asked = None
            self._troubles.append(
                f"budget.min_improvement: Optuna's terminator has no answer ({exc!r}); asked again later"
            )
            return None


def room(trials: Sequence[FrozenTrial], direction: optuna.study.StudyDirection) -> float:
    """An upper bound of the improvement that is left, in the metric's unit; infinite where none can be given.

    Source: Makarova et al., Automatic Termination for Hyperparameter Optimization, 2022 (PMLR 188).
    """
    if not optuna.search_space.intersection_search_space(list(trials)):
        return float("inf")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # experimental since 3.2; covered by a test
        from optuna.terminator import RegretBoundEvaluator

        return float(RegretBoundEvaluator(seed=0).evaluate(list(trials), direction))
