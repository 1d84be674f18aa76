"""The largest batch that fits into memory, found by trying before a trial begins (Lightning's Tuner)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.tuner.tuning import Tuner
from lightning.pytorch.utilities.memory import is_oom_error

from orchestrator.errors import SpecError
from orchestrator.messages import first_line
from orchestrator.spec import BATCH_SIZES, plain_name

# Where no hyperparameter says how large a batch may be: Lightning's own limit.
LIMIT = 8192


def name_in(params: Mapping[str, Any]) -> str:
    """What the batch size is called among hyperparameters, such as `data.batch_size`."""
    return next((name for name in params if plain_name(name) in BATCH_SIZES), BATCH_SIZES[0])


def largest(trainer: pl.Trainer, model: pl.LightningModule, data: Any, *, at_most: int) -> int:
    """Train three steps each with batches of 1, 2, 4 ... until memory runs out, or one of all examples has been tried.

    Args:
        trainer: of one device; it is used up.
        model: its batch size is 1 to begin with: of one that is larger than the dataset, Lightning tries no other.
            Afterwards its weights are as before, what else it holds may not be.
        data: the data module, or None where the model has the dataloaders.
        at_most: no larger batch is tried; the result is a power of two, or what holds all examples.

    Raises:
        RuntimeError: memory runs out with a single example, in torch's words.
        SpecError: neither model nor data keeps its batch size as `batch_size`.
    """
    try:
        found = Tuner(trainer).scale_batch_size(
            model, datamodule=data, init_val=1, max_trials=at_most.bit_length(), max_val=2 * at_most + 1
        )
    except MisconfigurationException as exc:
        raise SpecError(f"training.batch_size is 'largest': {first_line(exc)}") from exc
    except ValueError as exc:  # it halves a batch of one as well, and no loader takes 0
        raise _out_of_memory(exc) or exc from None
    if found is None:
        raise SpecError("training.batch_size is 'largest', which trainer.fast_dev_run leaves out")
    return found


def _out_of_memory(exc: BaseException) -> BaseException | None:
    """What an error came of, where that is memory."""
    while (context := exc.__context__) is not None:
        if is_oom_error(context):
            return context
        exc = context
    return None
