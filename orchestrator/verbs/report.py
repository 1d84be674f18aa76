"""Write a sweep's report: one page with figures, to open in a browser, without a network."""

from __future__ import annotations

import argparse
from pathlib import Path

from orchestrator import front
from orchestrator.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of which sweep, and where to."""
    front.add_sweep(parser, required=False)
    parser.add_argument("--output", metavar="FILE", type=Path, help="where to (default: report.html in its folder)")


def run(arguments: argparse.Namespace) -> int:
    """Write the page and say where it is."""
    from orchestrator import report

    folder, spec = front.find_sweep(arguments)
    ledger, status = front.look(folder, spec)
    page = report.page(spec, folder, ledger.records, ledger.importances(), status)
    if arguments.output:
        try:
            arguments.output.parent.mkdir(parents=True, exist_ok=True)
            arguments.output.write_text(page, encoding="utf-8")
        except OSError as exc:
            raise InputError(f"--output {arguments.output} cannot be written: {exc}; name another file") from exc
    else:
        folder.write_text("report.html", page)
    front.print_rows([("report", str(arguments.output or folder.show("report.html")))])
    return 0
