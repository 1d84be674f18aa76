"""The command line: finds the verbs, parses, and turns errors into exit codes."""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import re
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from orchestrator import front, verbs
from orchestrator.errors import InputError, OrchestratorError
from orchestrator.naming import near_miss

EXAMPLES = """\
examples:
  python -m orchestrator.search                                   the default sweep, here and now
  python -m orchestrator.search digits_ddp budget.trials=50       a sweep from sweeps/, with an override
  python -m orchestrator.search my_sweep.yaml --dry-run           what would run, and why
  python -m orchestrator status                                   the newest sweep in ./results
  python -m orchestrator best digits-20261120-201500 --download winner
"""


# What argparse says of a word that it does not know.
CHOICE = re.compile(r"argument \S+: invalid choice: '(.*)' \(choose from (.+)\)")


class _Parser(argparse.ArgumentParser):
    """Says what is wrong as every other mistake is said."""

    def error(self, message: str) -> NoReturn:
        """Raise it.

        Raises:
            InputError: always.
        """
        if wrong := CHOICE.fullmatch(message):
            known = re.findall(r"'(.+?)'", wrong[2])
            message = f"no '{wrong[1]}' here{near_miss(wrong[1], known) or ';'} there are: {', '.join(known)}"
        raise InputError(f"{message.replace(', key=value', '')}; `{self.prog} --help` tells more")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code: 0, 1 for what went wrong, 2 for input that breaks rules."""
    os.environ.pop("WANDB_SERVICE", None)  # of the notebook that this was started in: it would end with that
    sys.path[:0] = [] if os.getcwd() in sys.path or "" in sys.path else [os.getcwd()]  # as `python -m` does
    try:
        arguments = parse(sys.argv[1:] if argv is None else argv)
        run: Callable[[argparse.Namespace], int] = arguments.run
        code = run(arguments)
        sys.stdout.flush()
    except InputError as exc:
        print("\n".join(f"error: {problem}" for problem in exc.problems), file=sys.stderr)
        return exc.exit_code
    except OrchestratorError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return exc.exit_code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:  # whoever read our output has read enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    return code


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The verb and its arguments.

    Raises:
        InputError: there is no such verb or option.
    """
    parser = make_parser()
    known = [module.name for module in pkgutil.iter_modules(verbs.__path__)]
    if not words:
        raise InputError(f"a verb is wanted, one of {', '.join(known)}; `{parser.prog} --help` tells more")
    if not words[0].startswith("-") and words[0] not in known:
        raise InputError(f"no verb '{words[0]}'{near_miss(words[0], known) or ';'} there are: {', '.join(known)}")
    cluster, words = front.take_cluster(words)
    arguments, more = parser.parse_known_args(words)
    arguments.given = words
    problems = []
    verb = arguments.parser.prog.removeprefix(f"{parser.prog} ")
    if cluster is not None and "cluster" not in arguments:
        there = f"ray exec FILE 'cd ~/orchestrator && python -m orchestrator {words[0]} ...'"
        problems.append(f"{words[0]} takes no cluster=FILE: it does its work here; on the head, {there} does")
    elif cluster is not None:
        arguments.cluster = cluster
    for word in more:
        if word.startswith("-"):
            options = [option for option in arguments.parser._option_string_actions if option.startswith("--")]
            name = word.partition("=")[0]
            if "." in name:
                problems.append(f"no option '{name}'; overrides have no dashes: write {word.lstrip('-')}")
            else:
                hint = near_miss(name, options) or ";"
                problems.append(f"no option '{name}'{hint} {verb} has: {', '.join(options)}")
        elif "=" not in word or "words" not in arguments:
            problems.append(f"{verb} takes no '{word}'; `{arguments.parser.prog} --help` tells what it takes")
    if problems:
        raise InputError(problems)
    if more:  # argparse takes what stands before the first option only
        arguments.words += more
    return arguments


def make_parser() -> argparse.ArgumentParser:
    """The parser of every verb: those of `orchestrator/verbs/`, `search` first."""
    parser = _Parser(
        prog="python -m orchestrator",
        description="Hyperparameter sweeps for PyTorch Lightning on Ray, with Optuna and Weights & Biases.",
        epilog=EXAMPLES,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=16, width=100),
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
        sub.set_defaults(run=verb.run, parser=sub)
    return parser
