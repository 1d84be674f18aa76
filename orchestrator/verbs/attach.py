"""Show again what a sweep does that was started from here on a cluster."""

from __future__ import annotations

import argparse

from orchestrator import front
from orchestrator.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which sweep, and where."""
    parser.add_argument("sweep", metavar="SWEEP", help="its name, or that of the job which `resume` said")
    front.add_cluster(parser, "where it runs")


def run(arguments: argparse.Namespace) -> int:
    """Follow its log to its end; its exit code.

    Raises:
        InputError: no cluster is named.
    """
    if arguments.cluster is None:
        raise InputError("attach takes a sweep's name and cluster=FILE, the file that was given to `ray up`")
    from orchestrator.remote import Head

    return Head(arguments.cluster).follow(arguments.sweep)
