"""Arguments as LightningCLI users write them: a class path among them is the object that it describes, made anew."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Union, get_args, get_origin

from orchestrator import catalog

KEYS = {"class_path", "init_args"}


def call(build: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """Call a class or a function, with an object for every class path in what it is given, however deep.

    As jsonargparse does it, which is behind LightningCLI: an argument whose type is a mapping stays as it is written,
    and one that is to return such an object (`OptimizerCallable`) is the class with its `init_args`, to be called.

    Raises:
        SpecError: there is no such class.
    """
    hints = _hints(build)
    return build(**{name: _made(value, hints.get(name)) for name, value in arguments.items()})


def made(value: Any) -> Any:
    """A value, lists and mappings through, with an object for every class path in it.

    Raises:
        SpecError: there is no such class.
    """
    return _made(value, None)


def class_paths(value: Any, where: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every mapping with a class path in a value, each with where it is; `where` is the value's own key."""
    yield from ((place, given) for place, given in mappings(value, where) if _is_class_path(given))


def mappings(value: Any, where: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every mapping in a value, each with where it is; `where` is the value's own key."""
    if isinstance(value, list):
        for each in value:
            yield from mappings(each, where)
    elif isinstance(value, Mapping):
        yield where, value
        for name, each in value.items():
            yield from mappings(each, f"{where}.{name}")


def _is_class_path(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("class_path"), str) and set(value) <= KEYS


def _hints(build: Callable[..., Any]) -> dict[str, Any]:
    try:
        parameters = inspect.signature(build, eval_str=True).parameters
    except (NameError, AttributeError, TypeError, ValueError):  # names for type checkers only; what is written in C
        return {}
    return {name: parameter.annotation for name, parameter in parameters.items()}


def _made(value: Any, hint: Any) -> Any:
    if isinstance(value, list):
        return [_made(each, None) for each in value]
    if not isinstance(value, Mapping):
        return value
    kinds = _kinds(hint)
    if not _is_class_path(value):
        return {name: _made(each, None) for name, each in value.items()}
    if any(_is_mapping(kind) for kind in kinds):
        return value
    build, arguments = catalog.load_class(value["class_path"]), value.get("init_args") or {}
    if any(_returns(kind, build) for kind in kinds):
        return partial(build, **made(arguments))
    return call(build, arguments)


def _kinds(hint: Any) -> tuple[Any, ...]:
    """What a type may be: those of a union, or itself."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _is_mapping(kind: Any) -> bool:
    kind = get_origin(kind) or kind
    return isinstance(kind, type) and issubclass(kind, Mapping)


def _returns(kind: Any, build: Any) -> bool:
    """Whether a type is that of a function which returns objects of a class."""
    if get_origin(kind) is not Callable or not isinstance(build, type):
        return False
    returned = _kinds(get_args(kind)[-1])
    return any(isinstance(each, type) and issubclass(build, each) for each in returned)
