"""Check a sweep's file and overrides, and start nothing."""

from __future__ import annotations

import argparse
from datetime import datetime

from orchestrator import front
from orchestrator.spec import WarmStart, resolve


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to check."""
    front.add_spec(parser)


def run(arguments: argparse.Namespace) -> int:
    """Say that it is valid; what is not raises."""
    spec = front.read_spec(arguments.words)
    resolved = resolve(spec, datetime.now().astimezone())  # where the environment has its say
    if sweeps := spec.warm_start.sweeps:
        from orchestrator import auto, earlier

        settled, _ = auto.settle(resolved, at_once=1)
        earlier.gather(settled.model_copy(update={"warm_start": WarmStart(sweeps=sweeps)}))
    what = spec.trainable if isinstance(spec.trainable, str) else spec.trainable.model.class_path
    print(f"valid: {what}, {spec.goal} {spec.metric} over {', '.join(spec.load_space())}")
    print("the cluster and W&B were not asked: `preflight` does")
    return 0
