"""What a class or a function takes, read from its file without running it: a misspelt name is found in milliseconds."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

# Bases whose `__init__` takes nothing that a user could mean; a class with any other base may inherit arguments.
PLAIN_BASES = ("LightningModule", "LightningDataModule", "Module", "object")


class Foreseen:
    """Stands in for a class or function that has not been imported: it has a name and a signature, and is not called.

    Both are where `inspect.signature` and messages look for them.
    """

    def __init__(self, name: str, signature: inspect.Signature) -> None:
        self.__name__, self.__signature__ = name, signature

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: what is foreseen is not run."""


ANYTHING = inspect.Signature(
    [
        inspect.Parameter("positional", inspect.Parameter.VAR_POSITIONAL),
        inspect.Parameter("keywords", inspect.Parameter.VAR_KEYWORD),
    ]
)
"""The signature of what cannot be told from a file."""


def foresee(path: Path, name: str) -> Foreseen:
    """The class or function `name` of a Python file; one that takes anything where the file alone cannot tell."""
    node = defined(path, name)
    match node:
        case ast.ClassDef():
            return Foreseen(name, _of_class(node))
        case ast.FunctionDef() if not node.decorator_list:
            return Foreseen(name, _of_function(node, skip=0))
    return Foreseen(name, ANYTHING)


def defined(path: Path, name: str) -> ast.AST | None:
    """The statement at the top level of a file that defines `name`, or the value that it is assigned."""
    for node in parsed(path).body:
        match node:
            case ast.ClassDef() | ast.FunctionDef() if node.name == name:
                return node
            case ast.Assign(targets=[ast.Name(id=assigned)], value=value) if assigned == name:
                return value
            case ast.AnnAssign(target=ast.Name(id=assigned), value=ast.expr() as value) if assigned == name:
                return value
    return None


def parsed(path: Path) -> ast.Module:
    """A file's statements, for reading only: whoever asks again has the same ones.

    Raises:
        SyntaxError, ValueError: they are of no Python that this one reads.
    """
    return _parsed(path.read_text(encoding="utf-8"))


@lru_cache(maxsize=64)
def _parsed(text: str) -> ast.Module:
    return ast.parse(text)


def _of_class(node: ast.ClassDef) -> inspect.Signature:
    if node.decorator_list or node.keywords:
        return ANYTHING
    # The last one counts, as when it is run: those before it may be for type checkers.
    for statement in reversed(node.body):
        if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
            return _of_function(statement, skip=1)
    plain = all(ast.unparse(base).rpartition(".")[2] in PLAIN_BASES for base in node.bases)
    return inspect.Signature() if plain else ANYTHING


def _of_function(node: ast.FunctionDef, skip: int) -> inspect.Signature:
    given = node.args
    if given.kwarg:
        return ANYTHING
    kinds: Sequence[tuple[list[ast.arg], Any]] = (
        (given.posonlyargs, inspect.Parameter.POSITIONAL_ONLY),
        (given.args, inspect.Parameter.POSITIONAL_OR_KEYWORD),
        (given.kwonlyargs, inspect.Parameter.KEYWORD_ONLY),
    )
    parameters = [inspect.Parameter(each.arg, kind) for each_kind, kind in kinds for each in each_kind]
    return inspect.Signature(parameters[skip:])
