"""Export the winner as ONNX, checked against the module."""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

from orchestrator import front
from orchestrator.errors import InputError, SweepError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of which sweep, which trial, and where to."""
    front.add_sweep(parser, required=False)
    parser.add_argument("--trial", metavar="NUMBER", type=int, help="another trial than the best")
    parser.add_argument("--output", metavar="FILE", type=Path, help="a copy of it, besides trials/NUMBER/model.onnx")


def run(arguments: argparse.Namespace) -> int:
    """Write `model.onnx` into the trial's folder and say how close it comes.

    Raises:
        InputError: there is no such trial.
        SweepError: there is no best trial yet, it cannot be exported, or a package that this needs is not installed.
    """
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise SweepError(
            f"exporting needs {', '.join(missing)}; in the orchestrator's folder:"
            " pip install -c constraints.txt -e '.[export]'"
        )
    from orchestrator import export, ranking

    folder, spec = front.find_sweep(arguments)
    records = front.look(folder, spec)[0].records
    if arguments.trial is None:
        chosen = ranking.ranked(spec.goal, records)[:1]
        if not chosen:
            raise SweepError(f"{spec.name} has no best trial yet: none has reached the end of an epoch")
    else:
        chosen = [record for record in records if record.number == arguments.trial]
        if not chosen:
            raise InputError(f"no trial {arguments.trial} in {spec.name}; its trials are 0 to {len(records) - 1}")
    furthest = export.to_onnx(spec, folder, chosen[0])
    path = folder.onnx(chosen[0].number)
    if arguments.output:
        folder.download(path, arguments.output)
    front.print_rows(
        [
            ("trial", str(chosen[0].number)),
            ("onnx", str(arguments.output or folder.show(path))),
            ("checked", f"outputs differ from the module's by at most {furthest:.2g}"),
        ]
    )
    return 0
