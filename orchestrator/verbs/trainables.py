"""List what can be trained."""

from __future__ import annotations

import argparse

from orchestrator import catalog, front


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """There are none."""


def run(_: argparse.Namespace) -> int:
    """Print every name and what it says of itself."""
    front.print_rows([(name, catalog.summary(path)) for name, path in catalog.names(catalog.TRAINABLES).items()])
    return 0
