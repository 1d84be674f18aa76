"""Which hyperparameters decided where a trial came in: PED-ANOVA (optuna)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import optuna

# The top tenth of the trials is told from the rest, and never fewer than five of them: what PED-ANOVA's authors take,
# and what Optuna's documentation of its evaluator asks for.
TOP_SHARE, TOP_TRIALS = 0.1, 5


def importances(study: optuna.Study, best_first: Sequence[int]) -> dict[str, float]:
    """Each hyperparameter's share in telling the top trials from the rest, largest first; the shares add up to 1.

    The order alone counts, so pruned trials count as well: Optuna itself looks at none but COMPLETE ones, which with
    early stopping are a few of the best. Conditional hyperparameters are weighed by how often they are active.

    Source: https://arxiv.org/abs/2304.10255 (PED-ANOVA), https://arxiv.org/abs/2601.20800 (conditions).

    Args:
        study: the sweep's study, which knows what each hyperparameter ranged over.
        best_first: numbers of the trials that have a value, the best first.

    Returns:
        A share by name; empty where trials are too few, or too much alike, to tell.
    """
    if len(best_first) < 2 * TOP_TRIALS:
        return {}
    # It brings scikit-learn, which every start of a sweep would wait a second or two for.
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    trials = study.get_trials(deepcopy=False)
    ranks = optuna.create_study(direction="minimize", storage=optuna.storages.InMemoryStorage())
    ranks.add_trials(
        optuna.trial.create_trial(
            params=trials[number].params, distributions=trials[number].distributions, value=float(rank)
        )
        for rank, number in enumerate(best_first)
    )
    share = max(TOP_SHARE, TOP_TRIALS / len(best_first))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a condition was rarely met, and its parameter's share is rough
        found = get_param_importances(
            ranks, evaluator=PedAnovaImportanceEvaluator(target_quantile=share), normalize=False
        )
    total = sum(found.values())
    return {name: value / total for name, value in found.items()} if total > 0 else {}
