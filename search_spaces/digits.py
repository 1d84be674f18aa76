"""Optimiser and regularisation of a small convnet on handwritten digits."""

from orchestrator.space import Choice, Float, Int, Space

SPACE = Space(
    {
        "optimizer": Choice(["sgd", "adamw"]),
        "lr": Float(1e-3, 1e-1, log=True),
        "momentum": Float(0.5, 0.99, when={"optimizer": "sgd"}),
        "weight_decay": Float(1e-6, 1e-2, log=True),
        "channels": Int(8, 32, step=8),
        "dropout": Float(0.0, 0.5),
    }
)
