"""Which hyperparameters decided: studies in memory whose answer is known."""

from __future__ import annotations

import random
from collections.abc import Callable

import optuna
import pytest

from orchestrator.importance import TOP_TRIALS, importances


def study_of(trials: int, score: Callable[[optuna.Trial], float]) -> tuple[optuna.Study, list[int]]:
    """A study of random trials, every second one pruned, and the trials' numbers, best first."""
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    scores = {}
    for _ in range(trials):
        trial = study.ask()
        scores[trial.number] = score(trial)
        trial.report(scores[trial.number], 1)
        pruned = optuna.trial.TrialState.PRUNED if trial.number % 2 else optuna.trial.TrialState.COMPLETE
        study.tell(trial, None if trial.number % 2 else scores[trial.number], state=pruned)
    return study, sorted(scores, key=lambda number: -scores[number])


@pytest.mark.parametrize("trials", [4 * TOP_TRIALS, 200])
def test_what_decides_comes_first_and_the_shares_add_up(trials: int) -> None:
    def score(trial: optuna.Trial) -> float:
        return 10 * trial.suggest_float("much", 0, 1) + trial.suggest_float("little", 0, 1)

    found = importances(*study_of(trials, score))
    assert list(found) == ["much", "little"]
    assert found["much"] > 0.75
    assert sum(found.values()) == pytest.approx(1)


def test_conditional_and_categorical_parameters_count() -> None:
    def score(trial: optuna.Trial) -> float:
        noise = random.Random(trial.number).random() + 0 * trial.suggest_float("nothing", 0, 1)
        if trial.suggest_categorical("kind", ["good", "bad"]) == "bad":
            return noise
        return 2 + trial.suggest_float("only_of_good", 0, 1) + noise / 100

    found = importances(*study_of(100, score))
    assert set(found) == {"kind", "only_of_good", "nothing"}
    assert list(found)[-1] == "nothing"


def test_too_few_trials_tell_nothing() -> None:
    study, best_first = study_of(20, lambda trial: trial.suggest_float("x", 0, 1))
    assert importances(study, best_first[: 2 * TOP_TRIALS - 1]) == {}
    assert set(importances(study, best_first[: 2 * TOP_TRIALS])) == {"x"}


def test_a_parameter_with_one_value_tells_nothing() -> None:
    study, best_first = study_of(20, lambda trial: trial.suggest_float("x", 1, 1) * trial.number)
    assert importances(study, best_first) == {}
