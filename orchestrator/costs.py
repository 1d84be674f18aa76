"""What an epoch of a configuration costs: a linear model of the logarithm of its seconds (scikit-learn).

Axes of a space work together as factors do: twice the width, a third of the batches. So little is needed to learn them
(Lee et al., Cost-aware Bayesian Optimization, 2020, arXiv:2003.10870, who find a linear model to be enough, too).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

EPOCH_S = "epoch_s"
"""The attribute of a trial on record with the seconds of its fastest epoch, of all workers together."""

PENALTIES = np.geomspace(0.1, 1000.0, 9)
"""On weights; the one is taken that foretells each trial best from the others: noise is not taken for a cost."""


def log_costs(known: Array, seconds: Array, asked: Array, options: NDArray[np.int64]) -> Array:
    """(m,): the logarithm of the seconds that an epoch is expected to take.

    Args:
        known: (n, axes), places of trials that were timed, as `axes.Axes` has them.
        seconds: (n,), above 0, what their epochs took.
        asked: (m, axes), places.
        options: (axes,), how many options a choice has, 0 for a range.
    """
    from sklearn.linear_model import RidgeCV  # takes a second to import, which a sweep's start has better uses for

    model = RidgeCV(PENALTIES).fit(_features(known, options), np.log(seconds))
    return np.asarray(model.predict(_features(asked, options)))


def _features(places: Array, options: NDArray[np.int64]) -> Array:
    """(n, features): ranges as they are, choices by option; of what is not active, the middle and none."""
    columns = []
    for column, count in zip(places.T, options, strict=True):
        if count:
            columns += [(column == option).astype(float) for option in range(count)]
        else:
            columns.append(np.where(np.isnan(column), 0.5, column))
    return np.stack(columns, axis=1)
