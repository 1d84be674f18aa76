"""The command line: finds the verbs, parses, and turns errors into exit codes."""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import sys
from collections.abc import Callable, Sequence

from orchestrator import verbs
from orchestrator.errors import InputError, OrchestratorError

EXAMPLES = """\
examples:
  python -m orchestrator.search                                   the default sweep, here and now
  python -m orchestrator.search digits_ddp budget.trials=50       a sweep from sweeps/, with an override
  python -m orchestrator.search my_sweep.yaml --dry-run           what would run, and why
  python -m orchestrator status                                   the newest sweep in ./results
  python -m orchestrator best digits-20261120-201500 --download winner
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code: 0, 1 for what went wrong, 2 for input that breaks rules."""
    sys.path[:0] = [] if os.getcwd() in sys.path or "" in sys.path else [os.getcwd()]  # as `python -m` does
    parser = make_parser()
    arguments, more = parser.parse_known_args(argv)
    if any(word.startswith("-") or "=" not in word for word in more) or (more and "words" not in arguments):
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    if more:  # argparse takes what stands before the first option only
        arguments.words += more
    run: Callable[[argparse.Namespace], int] = arguments.run
    try:
        return run(arguments)
    except InputError as exc:
        print("\n".join(f"error: {problem}" for problem in exc.problems), file=sys.stderr)
        return exc.exit_code
    except OrchestratorError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return exc.exit_code


def make_parser() -> argparse.ArgumentParser:
    """The parser of every verb: those of `orchestrator/verbs/`, `search` first."""
    parser = argparse.ArgumentParser(
        prog="python -m orchestrator",
        description="Hyperparameter sweeps for PyTorch Lightning on Ray, with Optuna and Weights & Biases.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    subparsers = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    names = [module.name for module in pkgutil.iter_modules(verbs.__path__)]
    for name in sorted(names, key=lambda name: (name != "search", name)):
        verb = importlib.import_module(f"{verbs.__name__}.{name}")
        text = (verb.__doc__ or "").partition("\n")[0]
        sub = subparsers.add_parser(
            name, help=text[0].lower() + text[1:].rstrip("."), description=text, allow_abbrev=False
        )
        verb.add_arguments(sub)
        sub.set_defaults(run=verb.run)
    return parser
