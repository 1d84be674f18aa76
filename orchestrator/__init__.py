"""Hyperparameter sweeps for PyTorch Lightning on Ray, with Optuna and Weights & Biases.

What a trainable or a search space needs is exported here and loads neither torch nor ray; everything else is
the command line's: `python -m orchestrator --help`.
"""

from orchestrator.context import Context
from orchestrator.errors import (
    InputError,
    OrchestratorError,
    SpaceError,
    SpecError,
    StorageError,
    SweepError,
    TrackingError,
)
from orchestrator.prior import Beta, LogUniform, Normal
from orchestrator.reference import fetch_checkpoint
from orchestrator.space import Choice, Fixed, Float, Int, Space
from orchestrator.trainable import Trainable, TrainFunction

__all__ = [
    "Beta",
    "Choice",
    "Context",
    "Fixed",
    "Float",
    "InputError",
    "Int",
    "LogUniform",
    "Normal",
    "OrchestratorError",
    "Space",
    "SpaceError",
    "SpecError",
    "StorageError",
    "SweepError",
    "TrackingError",
    "TrainFunction",
    "Trainable",
    "fetch_checkpoint",
]
