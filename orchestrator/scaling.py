"""What a batch size and a learning rate mean with several workers: decided from the spec and their number."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from orchestrator.errors import SpecError
from orchestrator.spec import BATCH_SIZES, RATES, Training, plain_name


def scaled(params: Mapping[str, Any], training: Training, workers: int) -> dict[str, Any]:
    """Hyperparameters as each of `workers` gets them.

    Raises:
        SpecError: a global batch size that cannot be shared out evenly.
    """
    factor = {"none": 1.0, "linear": float(workers), "sqrt": math.sqrt(workers)}[training.lr_scaling]
    result = dict(params)
    for name, value in params.items():
        if plain_name(name) in BATCH_SIZES and training.batch_size == "global":
            if value % workers:
                raise SpecError(
                    f"{name} is {value} for all workers together (training.batch_size=global), which {workers} workers"
                    f" cannot share evenly; make it a multiple of {workers}"
                )
            result[name] = value // workers
        elif plain_name(name) in RATES and factor != 1:
            result[name] = value * factor
    return result
