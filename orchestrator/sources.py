"""Where search spaces come from: named files, other teams' packages, modules, YAML files, URLs; with their versions.

A named space is a file in `search_spaces/`, in the current folder or beside the installed orchestrator, whose path
there is its name (`vision/convnet`), or comes with an installed package, by an entry point of the group
`orchestrator.search_spaces`:

    NAME = "package"                one folder of such files: each is NAME/PATH
    NAME = "package.module:SPACE"   one space

A version is a whole number, written `NAME@2`; without one the latest is meant. A Python file holds a name's one version
in `SPACE`, or all of them in `VERSIONS`, written out as `{1: ..., 2: ...}`. In YAML a version is a file, `NAME@2.yaml`;
a file without a number is version 1.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from orchestrator import catalog, derivation, wandb_yaml
from orchestrator.comparison import differences
from orchestrator.document import EXTENDS
from orchestrator.errors import SpaceError, SpecError
from orchestrator.naming import closest, near_miss
from orchestrator.space import Space

GROUP = "orchestrator.search_spaces"
URL_TIMEOUT_S = 30
MAX_URL_BYTES = 2**20
SCHEMES = ("http://", "https://")


@dataclass(frozen=True, kw_only=True)
class Named:
    """One version of a named space."""

    name: str
    version: int
    path: Path
    """The file that it is written in."""
    attribute: str | None = None
    """What in a Python file it is; None for `SPACE` or `VERSIONS`."""

    @property
    def reference(self) -> str:
        """What it is loaded by."""
        return f"{self.name}@{self.version}"

    def load(self) -> Space:
        """The space of a Python file.

        Raises:
            SpaceError: the file does not hold it.
        """
        module = _module(self.name, self.path)
        names = [self.attribute] if self.attribute else ["VERSIONS", "SPACE"]
        found = next((getattr(module, name) for name in names if hasattr(module, name)), None)
        if isinstance(found, Mapping) and not isinstance(found, Space):
            found = found.get(self.version)
        if found is None:
            defined = [name for name in vars(module) if not name.startswith("_")]
            raise SpaceError(
                f"'{self.name}': {self.path} defines no '{names[-1]}'{near_miss(names[-1], defined)};"
                " write SPACE = Space({...})"
            )
        return _as_space(found, self.name)


def names() -> dict[str, dict[int, Named]]:
    """Every named space with its versions, oldest first; the current folder's come before installed ones."""
    found: dict[str, dict[int, Named]] = {}
    for place in _places():
        here: dict[str, dict[int, Named]] = {}
        for each in place:
            here.setdefault(each.name, {}).setdefault(each.version, each)
        for name, versions in here.items():
            found.setdefault(name, dict(sorted(versions.items())))
    return found


def find(reference: str) -> Named:
    """The named space that `NAME` or `NAME@VERSION` means.

    Raises:
        SpaceError: there is none.
    """
    name, at, version = reference.removeprefix(f"{catalog.SPACES}.").partition("@")
    known = names()
    if name not in known:
        if (short := name.removeprefix(f"{catalog.SPACES}/").removesuffix(".py")) in known:
            raise SpaceError(f"no search space '{name}'; by name it is '{short}'")
        otherwise = "or give a YAML file, a URL or package.module:NAME"
        raise SpaceError(catalog.unknown("search space", name, known, otherwise))
    if not at:
        return list(known[name].values())[-1]
    if not version.isdecimal() or int(version) not in known[name]:
        there = ", ".join(map(str, known[name]))
        raise SpaceError(f"search space '{name}' has no version '{version}'; available: {there}")
    return known[name][int(version)]


def load_space(reference: str | Mapping[str, Any], *, within: tuple[str, ...] = ()) -> Space:
    """The space of a reference, or written out in place; its origin says which it is.

    A reference is a name, with or without a version; the path of a YAML file; a URL of one; or `package.module:NAME`.
    A sweep's file is read as its space, also one of W&B's.

    Args:
        reference: what to load.
        within: the references that are being loaded, each of which extends the next.

    Raises:
        SpaceError: there is no such space, or it breaks rules.
    """
    if isinstance(reference, Mapping):
        return _of_data(reference, "the space", within)
    label, path = reference, Path(reference)
    if not _is_elsewhere(reference):
        named = find(reference)
        label, path = named.reference, named.path
    if label in within:
        raise SpaceError(f"space: '{label}' extends itself: {' extends '.join((*within, label))}")
    if reference.startswith(SCHEMES):
        space = _of_data(_fetch(reference), label, (*within, label))
    elif path.suffix in (".yaml", ".yml"):
        space = _of_data(_read_file(path), label, (*within, label))
    else:
        space = _of_module(reference) if _is_elsewhere(reference) else named.load()
    return space.known_as(f"{label} ({space.digest})", *(f"  {line}" for line in space.origin))


def written_out(reference: str | Mapping[str, Any]) -> dict[str, Any]:
    """The space as a document that needs nothing else to be read, with its name, version, digest and origin.

    Raises:
        SpaceError: there is no such space, or it breaks rules.
    """
    if isinstance(reference, Mapping) and "digest" in reference and EXTENDS not in reference:
        return dict(reference)
    space, labels = load_space(reference), dict[str, Any]()
    if isinstance(reference, Mapping):
        labels = {"source": dict(reference)} if EXTENDS in reference else {}
    elif ":" in reference:
        labels = {"source": reference}
    elif _is_elsewhere(reference):
        labels = {"source": str(Path(reference).resolve())}  # the sweep may be resumed from another folder
    else:
        named = find(reference)
        labels = {"name": named.name, "version": named.version, "source": named.reference}
    origin = {"origin": list(space.origin)} if space.origin else {}
    data = space.to_data()
    return labels | {"digest": space.digest} | origin | (data if "parameters" in data else {"parameters": data})


def identity(document: str | Mapping[str, Any]) -> dict[str, Any]:
    """What a sweep records of its space besides the space: name and version where it has them, and digest."""
    if isinstance(document, str):
        return {"name": document}
    return {key: document[key] for key in ("name", "version", "digest") if key in document}


def changed_since(document: str | Mapping[str, Any]) -> str | None:
    """How the source of a space that was written out has changed since; None where it has not, or cannot be told.

    URLs are not asked: going on needs no network.
    """
    source = document.get("source") if isinstance(document, Mapping) else None
    if not isinstance(document, Mapping) or source is None or (isinstance(source, str) and source.startswith(SCHEMES)):
        return None
    then = Space.from_data({key: value for key, value in document.items() if key != "digest"})
    try:
        now = load_space(source)
    except (SpaceError, SpecError):
        return None  # it is gone, and the sweep has what it needs
    if now == then:
        return None
    what = source if isinstance(source, str) else "what the space is made of"
    said = f"{what} has changed since the sweep began: its digest was {then.digest} and is {now.digest}"
    return "\n  ".join([said, *differences(then, now)])


def _places() -> Iterator[Iterator[Named]]:
    for folder in catalog.folders(catalog.SPACES):
        yield _in_folder(folder, "")
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        yield _of_entry_point(point.name, point.value)


def _in_folder(folder: Path, prefix: str) -> Iterator[Named]:
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.suffix not in (".py", ".yaml") or any(part.startswith(("_", ".")) for part in inside.parts):
            continue
        name, at, version = f"{prefix}{inside.with_suffix('').as_posix()}".partition("@")
        if path.suffix == ".py":
            yield from (Named(name=name, version=each, path=path) for each in _versions_in(path, "VERSIONS"))
        elif not at or version.isdecimal():
            yield Named(name=name, version=int(version or 1), path=path)


def _of_entry_point(name: str, value: str) -> Iterator[Named]:
    module, _, attribute = value.partition(":")
    spec = catalog.find_module(module)
    if spec is None:
        return
    if attribute and spec.origin:
        path = Path(spec.origin)
        for version in _versions_in(path, attribute):
            yield Named(name=name, version=version, path=path, attribute=attribute)
        return
    for folder in spec.submodule_search_locations or ():
        yield from _in_folder(Path(folder), f"{name}/")


def _versions_in(path: Path, attribute: str) -> list[int]:
    """The versions that a Python file writes out under a name; version 1 where it writes out none. It is not run."""
    try:
        body = ast.parse(path.read_text(encoding="utf-8")).body
    except (SyntaxError, ValueError):
        return [1]  # which loading it will say
    for node in body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(each, ast.Name) and each.id == attribute for each in targets):
            value = getattr(node, "value", None)
            keys = value.keys if isinstance(value, ast.Dict) else []
            versions = [key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, int)]
            return versions or [1]
    return [1]


def _module(name: str, path: Path) -> Any:
    """A space's Python file, run once. By its path, for a name's folders need be no packages."""
    importlib.import_module(catalog.SPACES).__path__ = [str(folder) for folder in catalog.folders(catalog.SPACES)]
    dotted = f"{catalog.SPACES}.{name.replace('/', '.')}"
    known = sys.modules.get(dotted)
    if known is not None and getattr(known, "__file__", None) == str(path):
        return known
    spec = importlib.util.spec_from_file_location(dotted, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except SyntaxError as exc:
        raise SpaceError(f"'{name}': {path} is not Python: {exc}") from exc
    except ImportError as exc:
        raise SpaceError(f"'{name}': {path} cannot be imported: {exc}") from exc
    sys.modules[dotted] = module
    return module


def _of_module(reference: str) -> Space:
    name, _, version = reference.partition(":")
    if version.isdecimal() and name in names():
        raise SpaceError(f"'{reference}' is no search space; a version is written with an at sign: {name}@{version}")
    if problem := catalog.problem_with_object(reference):
        raise SpaceError(problem)
    return _as_space(catalog.load_object(reference), reference)


def _as_space(found: Any, reference: str) -> Space:
    if not isinstance(found, Space):
        raise SpaceError(f"'{reference}' is a {type(found).__name__}; a search space is an orchestrator.Space")
    return found


def _is_elsewhere(reference: str) -> bool:
    """Whether it is a file, a URL or a module, rather than a name."""
    return ":" in reference or reference.endswith((".yaml", ".yml"))


def _of_data(data: Any, where: str, within: tuple[str, ...]) -> Space:
    if not isinstance(data, Mapping):
        raise SpaceError(f"{where} holds {type(data).__name__}; a search space is a mapping from name to parameter")
    if isinstance(data.get("space"), str | Mapping) and not isinstance(data.get("metric", {}), Mapping):
        return load_space(data["space"], within=within)  # of a sweep's file
    if problem := wandb_yaml.flaw(data):
        raise SpaceError(f"space: {problem}")
    if wandb_yaml.is_sweep(data):
        return wandb_yaml.from_wandb(data["parameters"])
    if EXTENDS in data:
        return derivation.derive(data, partial(load_space, within=within))
    return Space.from_data(data)


def _read_file(path: Path) -> Any:
    if not path.is_file():
        if path.with_suffix("").as_posix() in names():
            raise SpaceError(f"no search space file '{path}'; by name it is '{path.with_suffix('').as_posix()}'")
        there = {file.stem: file for file in path.parent.glob("*.y*ml")}
        close = closest(path.stem, there)
        raise SpaceError(
            f"no search space file '{path}'; "
            + ("is this the right folder?" if close is None else f"did you mean '{there[close]}'?")
        )
    return catalog.read_yaml(path)


@cache
def _fetch(url: str) -> Any:
    """What a URL holds, asked once by this process."""
    from urllib.error import HTTPError
    from urllib.request import urlopen

    try:
        with urlopen(url, timeout=URL_TIMEOUT_S) as answer:
            text = answer.read(MAX_URL_BYTES + 1)
    except (OSError, ValueError) as exc:
        if isinstance(exc, HTTPError):
            exc.close()  # it is the answer, and holds its socket
        raise SpaceError(f"{url} cannot be read: {exc}") from exc
    if len(text) > MAX_URL_BYTES:
        raise SpaceError(f"{url} holds more than {MAX_URL_BYTES} bytes; a search space is smaller")
    try:
        return catalog.parse_yaml(text.decode("utf-8"), url)
    except UnicodeDecodeError as exc:
        raise SpaceError(f"{url} is not text: {exc}") from exc
