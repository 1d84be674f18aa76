"""Start no new trials until the sweep is resumed; those that run go on."""

from __future__ import annotations

import argparse

from orchestrator import front


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which sweep."""
    front.add_sweep(parser, required=True)
    front.add_cluster(parser, "of a sweep on that cluster")


def run(arguments: argparse.Namespace) -> int:
    """Ask it of the process that runs the sweep, and return once that has obeyed."""
    from orchestrator.messages import Command

    return front.ask(arguments, Command.PAUSE)
