"""Fetch a checkpoint from W&B by its reference, ENTITY/PROJECT/NAME:ALIAS."""

from __future__ import annotations

import argparse
from pathlib import Path

from orchestrator.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which, and where it goes."""
    parser.add_argument("reference", metavar="ENTITY/PROJECT/NAME:ALIAS", help="e.g. team/project/model-digits-7:best")
    parser.add_argument("folder", metavar="DIR", type=Path, help="where it goes")


def run(arguments: argparse.Namespace) -> int:
    """Download it, and print which version that is, and where.

    Raises:
        InputError: that is no reference, or W&B has no such checkpoint.
        TrackingError: the server cannot be reached, or refuses.
    """
    from orchestrator import page
    from orchestrator.naming import is_artifact

    if not is_artifact(arguments.reference):
        raise InputError(f"'{arguments.reference}' names no artifact; write ENTITY/PROJECT/NAME:ALIAS")
    version, path = page.fetch(arguments.reference, arguments.folder)
    print(f"{version}\n{path}")
    return 0
