"""Finding trainables and sweeps by name; sources.py finds search spaces. Nothing is imported that could load torch.

Adding one is adding one file: the file's name is the registration.

    trainables/NAME.py      with TRAINABLE, an orchestrator.Trainable or TrainFunction
    sweeps/NAME.yaml        a sweep's specification
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

import yaml

from orchestrator import signature
from orchestrator.errors import InputError, SpecError
from orchestrator.naming import closest, near_miss
from orchestrator.trainable import AnyTrainable, Trainable, TrainFunction

TRAINABLES, SPACES, SWEEPS = "trainables", "search_spaces", "sweeps"


class _Loader(yaml.SafeLoader):
    """YAML as people write it: PyYAML follows YAML 1.1, in which `1e-4` is text (yaml/pyyaml#173)."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+0123456789."),
)


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    """A mapping whose keys are there once: of two, YAML libraries take the last, and say nothing."""
    seen: set[str] = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode) and key.value in seen:
            raise yaml.MarkedYAMLError(problem=f"the key '{key.value}' is there twice", problem_mark=key.start_mark)
        seen.add(key.value if isinstance(key, yaml.ScalarNode) else "")
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _construct_mapping)


def parse_yaml(text: str, source: str) -> Any:
    """Read YAML.

    Raises:
        InputError: the text is not YAML; the message gives the place.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        what = getattr(exc, "problem", None) or " ".join(str(exc).split())
        raise InputError(f"{source} is not valid YAML{where}: {what}") from exc


def read_yaml(path: Path) -> Any:
    """Read a YAML file.

    Raises:
        InputError: it cannot be read, or is not YAML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise InputError(f"{path} cannot be read as text in UTF-8: {exc}") from exc
    return parse_yaml(text, str(path))


def kind_of(data: object) -> str:
    """What a YAML file holds, in a word."""
    kinds = {list: "a list", dict: "a mapping", str: "text", type(None): "nothing", bool: "a truth value"}
    return kinds.get(type(data), "a number")


def write_yaml(data: Any) -> str:
    """YAML that `parse_yaml` reads back, its keys in their order."""
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)


def names(kind: str) -> dict[str, Path]:
    """Every name of a kind (`trainables`, `sweeps`) and the file that gives it."""
    found: dict[str, Path] = {}
    suffix = {TRAINABLES: ".py", SWEEPS: ".yaml"}[kind]
    for folder in folders(kind):
        for path in sorted(folder.iterdir()):
            if path.suffix == suffix and not path.name.startswith("_"):
                found.setdefault(path.stem, path)
    return found


def summary(path: Path) -> str:
    """The first line of what a file says of itself: its docstring, or its first comment."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        try:
            return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
        except SyntaxError as exc:
            return f"is not Python: {exc}"
    first = text.partition("\n")[0]
    return first.lstrip("# ") if first.startswith("#") else ""


def foresee_trainable(reference: str | Mapping[str, Any]) -> AnyTrainable | None:
    """The trainable that `load_trainable` would give, its classes read from their files and not run.

    Its `route` tells hyperparameters that nothing takes. None where the files alone cannot tell.
    """
    if not isinstance(reference, str):
        parts = {part: reference.get(part) or {} for part in ("model", "data")}
        classes = {part: _foresee_class(given["class_path"]) for part, given in parts.items() if given}
        arguments = {part: given.get("init_args") or {} for part, given in parts.items()}
        return Trainable(
            model=classes["model"],
            data=classes.get("data"),
            model_args=arguments["model"],
            data_args=arguments["data"],
        )
    path, name = _file_of(reference)
    node = signature.defined(path, name) if path else None
    match node:
        case ast.ClassDef() if path:
            return Trainable(model=signature.foresee(path, name))
        case ast.FunctionDef(args=ast.arguments(args=[ast.arg(arg="context"), *_]), decorator_list=[]) if path:
            return TrainFunction(train=signature.foresee(path, name))
        case ast.Call(func=ast.Name(id=("Trainable" | "TrainFunction") as kind), keywords=keywords) if path:
            given = {each.arg: each.value for each in keywords if isinstance(each.arg, str)}
            named = {part: node.id for part, node in given.items() if isinstance(node, ast.Name)}
            built = {part: signature.foresee(path, named.get(part, "")) for part in given}
            if kind == "TrainFunction" and "train" in built:
                return TrainFunction(train=built["train"])
            if kind == "Trainable" and "model" in built:
                return Trainable(model=built["model"], data=built.get("data"))
    return None


def trainer_arguments() -> frozenset[str]:
    """What Lightning's Trainer takes, read from its file; nothing where Lightning is not installed."""
    foreseen = _foresee_class("lightning.pytorch.trainer.trainer.Trainer")
    return frozenset() if foreseen.__signature__ == signature.ANYTHING else frozenset(foreseen.__signature__.parameters)


def _file_of(reference: str) -> tuple[Path | None, str]:
    """Where a trainable of that name, or `package.module:NAME`, is written, and what it is called there."""
    if ":" not in reference:
        return names(TRAINABLES).get(reference), "TRAINABLE"
    module, _, name = reference.partition(":")
    spec = find_module(module)
    return (Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None), name


def _foresee_class(class_path: str) -> signature.Foreseen:
    module, _, name = class_path.rpartition(".")
    home = _home_of(module, name)
    return signature.foresee(*home) if home else signature.Foreseen(name, signature.ANYTHING)


def _home_of(module: str, name: str, seen: frozenset[str] = frozenset()) -> tuple[Path, str] | None:
    """The file that defines a name of a module, and what it is called there: packages import much from their parts."""
    path, _ = _file_of(f"{module}:{name}")
    if path is None or module in seen or _parsed(path) is None:
        return None
    if signature.defined(path, name):
        return path, name
    for source, imported, called in _imported(module, path):
        if called in (name, "*") and (home := _home_of(source, name if called == "*" else imported, seen | {module})):
            return home
    return None


def _imported(module: str, path: Path) -> Iterator[tuple[str, str, str]]:
    """What a module's file imports at its top level from others: from which, what, and what it is called here."""
    package = module.split(".") if path.stem == "__init__" else module.split(".")[:-1]
    tree = _parsed(path)
    for node in tree.body if tree else ():
        if isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((source, alias.name, alias.asname or alias.name) for alias in node.names)


def _parsed(path: Path) -> ast.Module | None:
    """A file's statements; None where they are of no Python that this one reads."""
    try:
        return signature.parsed(path)
    except (SyntaxError, ValueError):
        return None


def problem_with_trainable(reference: str) -> str | None:
    """Why a trainable's name or `package.module:NAME` leads nowhere, or None; imports nothing."""
    if ":" in reference:
        return problem_with_object(reference)
    known = names(TRAINABLES)
    if reference not in known:
        return unknown("trainable", reference, known, "or give package.module:NAME")
    return _problem_with_file(known[reference], "TRAINABLE", reference)


def problem_with_class(class_path: str) -> str | None:
    """Why `package.module.Class` leads nowhere, or None; imports nothing."""
    module, _, name = class_path.rpartition(".")
    if not module or not name or not all(part.isidentifier() for part in class_path.split(".")):
        return f"'{class_path}' is not a class path; write package.module.Class, with dots alone"
    return _problem_with_attribute(module, name, class_path)


def problem_with_object(reference: str) -> str | None:
    """Why `package.module:NAME` leads nowhere, or None; imports nothing."""
    module, _, name = reference.partition(":")
    return _problem_with_attribute(module, name, reference)


def load_object(reference: str) -> Any:
    """What `package.module:NAME` names. Imports its module.

    Raises:
        SpecError: there is no such thing.
    """
    module, _, name = reference.partition(":")
    return _attribute(module, name)


def load_class(class_path: str) -> Any:
    """The class of `package.module.Class`. Imports its module.

    Raises:
        SpecError: there is no such class.
    """
    module, _, name = class_path.rpartition(".")
    return _attribute(module, name)


def load_trainable(reference: str | Mapping[str, Any]) -> AnyTrainable:
    """The trainable of a name, of `package.module:NAME`, or of class paths. Imports its module, and so torch.

    Raises:
        SpecError: what was found is not a trainable.
    """
    if isinstance(reference, str):
        found = load_object(reference) if ":" in reference else _own_attribute(TRAINABLES, reference, "TRAINABLE")
        if isinstance(found, AnyTrainable):
            return found
        if isinstance(found, type):  # a LightningModule with its own dataloaders
            return Trainable(model=found)
        if inspect.isfunction(found) and next(iter(inspect.signature(found).parameters), None) == "context":
            return TrainFunction(train=found)
        raise SpecError(
            f"{reference} is a {type(found).__name__}; a trainable is a Trainable, a TrainFunction, a LightningModule"
            " class, or a function train(context, **hyperparameters)"
        )
    parts = {part: reference.get(part) for part in ("model", "data")}
    classes = {part: load_class(given["class_path"]) for part, given in parts.items() if given}
    arguments = {part: given.get("init_args") or {} for part, given in parts.items() if given}
    return Trainable(
        model=classes["model"],
        data=classes.get("data"),
        model_args=arguments["model"],
        data_args=arguments.get("data", {}),
    )


def find_sweep(reference: str) -> Path:
    """The file of a sweep: a path as it stands, or a name from `sweeps/`.

    Raises:
        SpecError: there is none.
    """
    path = Path(reference)
    if path.is_file():
        return path
    known = names(SWEEPS)
    if reference in known:
        return known[reference]
    if path.is_dir():
        raise SpecError(f"'{reference}' is a folder; give a sweep's YAML file, or a name from sweeps/")
    if re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", reference) and path.suffix not in (".yaml", ".yml"):
        raise SpecError(f"no sweep '{reference}'; to set a key of the spec, write {reference}=VALUE")
    is_path = path.suffix or path.with_suffix(".yaml").is_file()
    files = {str(file): file for file in path.parent.glob("*.y*ml") if file.stem != "cluster"} if is_path else {}
    if path.suffix in (".yaml", ".yml"):
        hint = near_miss(reference, [*files, *known]) or "; is this the right folder?"
        raise SpecError(f"no file '{reference}'{hint}")
    raise SpecError(unknown("sweep", reference, {**known, **files}, "or give a YAML file"))


def folders(kind: str) -> Iterable[Path]:
    """Where a kind lives: in the current folder first, then beside the installed orchestrator."""
    spots = (Path.cwd() / kind, Path(__file__).resolve().parent.parent / kind)
    return dict.fromkeys(spot.resolve() for spot in spots if spot.is_dir())


def unknown(what: str, name: str, known: Iterable[str], otherwise: str) -> str:
    """That there is no such name, with the near miss and all there are."""
    available = ", ".join(sorted(known)) or "none"
    return f"no {what} '{name}'{near_miss(name, known) or ';'} available: {available}" + (
        f" ({otherwise})" if otherwise else ""
    )


def find_module(dotted: str) -> ModuleSpec | None:
    """Find a module without importing its parents, which `importlib.util.find_spec` would."""
    first, *rest = dotted.split(".")
    # Both at once: a folder without __init__.py here gives way to an installed package of its name, as in an import.
    spec = PathFinder.find_spec(first, [str(Path.cwd()), *sys.path]) or _ask_finders(first, None)
    found = first
    for part in rest:
        if spec is None or spec.submodule_search_locations is None:
            return None
        found = f"{found}.{part}"
        spec = _ask_finders(found, list(spec.submodule_search_locations))
    return spec


def _ask_finders(dotted: str, path: list[str] | None) -> ModuleSpec | None:
    """Ask every finder, as an import does: editable installs bring one of their own."""
    try:
        answers = (finder.find_spec(dotted, path) for finder in sys.meta_path)
        return next((spec for spec in answers if spec is not None), None)
    except KeyError:  # perhaps a folder without __init__.py in another such, which would have to be imported first
        folders = [folder for place in path or [] if (folder := Path(place, dotted.rpartition(".")[2])).is_dir()]
        spec = ModuleSpec(dotted, None, is_package=True)
        spec.submodule_search_locations = [str(folder) for folder in folders]
        return spec if folders else None


def _problem_with_attribute(module: str, name: str, written: str) -> str | None:
    if not all(part.isidentifier() for part in (*module.split("."), name)):
        return f"'{written}' is not package.module:NAME"
    spec = find_module(module)
    if spec is None:
        hint = _near_module(module)
        return f"'{written}': no module '{module}' is importable from {Path.cwd()} or the installed packages{hint}"
    if not spec.origin or not spec.origin.endswith(".py"):
        return None
    return _problem_with_file(Path(spec.origin), name, written, module)


def _near_module(dotted: str) -> str:
    """`; did you mean 'package.other'?` where a part of it is like what is there, at the top level in this folder."""
    places, found = [str(Path.cwd())], ""
    for part in dotted.split("."):
        spec = find_module(found + part)
        if spec is None:
            close = closest(part, (module.name for module in pkgutil.iter_modules(places)))
            return f"; did you mean '{dotted.replace(found + part, found + close, 1)}'?" if close else ""
        places, found = list(spec.submodule_search_locations or []), f"{found}{part}."
    return ""


def _problem_with_file(path: Path, name: str, written: str, module: str = "") -> str | None:
    """Why a module's file does not give `name`, or None; the file is read, not run."""
    try:
        defined = _top_level_names(signature.parsed(path).body)
        if "*" in defined and module:
            defined = _names_in(module)
    except (SyntaxError, ValueError) as exc:
        return f"'{written}': {path} is not Python: {exc}"
    if name in defined or defined & {"*", "__getattr__"}:  # with the latter two, only running it can tell
        return None
    return f"'{written}': {path} defines no '{name}'{near_miss(name, defined)}"


def _names_in(module: str, seen: frozenset[str] = frozenset()) -> set[str]:
    """What a module defines, with what it imports by `*`; that stays in it where files do not tell."""
    path, _ = _file_of(f"{module}:*")
    tree = _parsed(path) if path else None
    if path is None or tree is None or module in seen:
        return {"*"}
    found = _top_level_names(tree.body)
    wholly = [source for source, name, _ in _imported(module, path) if name == "*"]
    stars = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.names[0].name == "*"]
    if len(wholly) == len(stars):  # none in a branch
        found = (found - {"*"}).union(*(_names_in(source, seen | {module}) for source in wholly))
    return found


def _top_level_names(body: Iterable[ast.AST]) -> set[str]:
    """What these statements, and those in their branches, define in the module; `*` for what is imported so."""
    found: set[str] = set()
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found.update((alias.asname or alias.name).partition(".")[0] for alias in node.names)
        else:
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
            found |= _top_level_names(ast.iter_child_nodes(node))
    return found


def _own_attribute(kind: str, module: str, name: str) -> Any:
    """`name` of a file in one of a kind's folders. They are made one package: a user's own folder need not be one."""
    importlib.import_module(kind).__path__ = [str(folder) for folder in folders(kind)]
    return _attribute(f"{kind}.{module}", name)


def _attribute(module: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(module), name)
    except AttributeError as exc:
        raise SpecError(f"module '{module}' defines no '{name}'") from exc
    except ImportError as exc:
        raise SpecError(f"module '{module}' cannot be imported: {exc}") from exc
