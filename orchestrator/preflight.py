"""What has to hold on every node before the first trial: looked at in one go, a task a node, seconds in all (ray)."""

from __future__ import annotations

import hashlib
import http.client
import os
import platform
import shutil
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.placement_group import NODE_ID_LABEL_KEY

from orchestrator import catalog
from orchestrator.credentials import base_url, has_key, redacted, to_workers
from orchestrator.errors import StorageError, TrackingError
from orchestrator.folder import SweepFolder
from orchestrator.messages import first_line
from orchestrator.spec import STORAGE_SCHEMES, Spec

# How long all nodes together may take to answer: the first task on a node starts a process there. And how often it is
# looked whether those that have yet to answer are still there.
ANSWER_S, LOOK_S = 120.0, 1.0
# The same where a sweep goes on.
AGAIN_S = 10.0
# How long a server on the network may take to answer a node.
SERVER_S = 10.0
# By how much clocks may differ: a lease, and a token of S3's, allow for more.
CLOCKS_S = 5.0
# Free disk below which checkpoints and Ray's own files soon have no room.
MIN_FREE_GIB = 2.0
# What must be the same version everywhere for what is sent from one node to be read on another.
PACKAGES = ("ray", "torch", "lightning", "optuna", "wandb", "numpy", "pyarrow", "sweep-orchestrator")
CODE = ("orchestrator", catalog.TRAINABLES, catalog.SPACES)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What one node says of itself."""

    python: str
    packages: dict[str, str]
    code: str
    """A digest of the project's own files, as that node would import them."""
    clock_s: float
    """Seconds since the epoch."""
    free_gib: float
    storage: str | None
    """Why what the sweep wrote cannot be read there, or nothing be written; None where all is well."""
    trainable: str | None
    """Why the trainable cannot be found there; None where it can."""
    missing: Sequence[str] = ()
    """Paths in the spec that are there where the sweep starts, but not on this node."""
    unreachable: Sequence[str] = ()
    """Why what the spec names by a URL cannot be had there, a sentence each."""
    wandb: str | None = None
    """Why W&B cannot be asked from there; None where it can, or where no run goes there."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """A node, or why it did not answer."""

    name: str
    facts: Facts | None = None
    error: str | None = None
    skew_s: float = 0.0
    """By how much its clock is ahead of this machine's; the time that the answer took is taken off."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What is to be said of the nodes, a sentence each."""

    problems: Sequence[str] = ()
    """What would cost the sweep trials."""
    remarks: Sequence[str] = ()
    """What the sweep can do without, and the trainable's own code perhaps not."""


def check(spec: Spec, folder: SweepFolder, *, again: bool = False) -> Found:
    """Look at every other node of the connected cluster that can train.

    Args:
        spec: the sweep's.
        folder: where it is, or is to be.
        again: whether it ran before: a node that does not answer soon may be why it goes on, and is not waited for.
    """
    token, place = uuid.uuid4().hex, f"preflight-{uuid.uuid4().hex[:8]}"
    if again:  # servers can take longer to refuse than there is time, and were asked when the sweep began
        spec = spec.model_copy(update={"tracking": spec.tracking.model_copy(update={"mode": "disabled"})})
    try:
        folder.write_text(f"{place}/here", token)
    except StorageError as exc:
        return Found(problems=[f"storage: {exc}"])
    try:
        data = [value for value in _named(spec) if not (again and _is_url(value)) and _is_meant(value)]
        here = look(spec, f"{place}/here", token, f"{place}/this")
        asked = _ask_all(spec, place, token, data, AGAIN_S if again else ANSWER_S)
        nodes = [node for node in asked if node.facts is not None or not again]
        problems = [*problems_here(here, folder.free_gib()), *problems_of(nodes, here)]
        for node in nodes:
            if node.facts and node.facts.storage is None and not folder.has(f"{place}/{node.name}"):
                problems.append(f"storage: what node {node.name} writes to {folder.show('')} is not seen here")
    finally:
        folder.delete_folder(place)
        folder.delete_if_empty()
    silent = [f"node {node.name}: {node.error}, and was not looked at" for node in asked if node not in nodes]
    return Found(problems=problems, remarks=[*silent, *remarks_on(nodes)])


def remarks_on(nodes: Sequence[Node]) -> Iterator[str]:
    """What is no problem of the sweep's own, whose runs go to W&B from where it runs, with the key that is there."""
    said: dict[str, list[str]] = {}
    for node in nodes:
        if node.facts and node.facts.wandb:
            said.setdefault(node.facts.wandb, []).append(node.name)
    for text, names in said.items():
        who = f"{len(names)} nodes, such as {names[0]}" if len(names) > 1 else f"node {names[0]}"
        why = "only what the trainable itself asks of W&B would miss it: runs go up from where the sweep runs"
        yield f"{who}: {text}; {why}"


def problems_here(here: Facts, storage_gib: float | None) -> Iterator[str]:
    """What is wrong where the sweep runs, which needs no trial to be found out.

    Args:
        here: what this machine says.
        storage_gib: how much the storage has free; None where nobody knows.
    """
    few = f"free, fewer than {MIN_FREE_GIB:g}"
    if here.free_gib < MIN_FREE_GIB:
        yield f"this machine: {here.free_gib:.1f} GiB of disk are {few}"
    if storage_gib is not None and storage_gib < MIN_FREE_GIB:
        yield f"storage: {storage_gib:.1f} GiB are {few}: checkpoints would soon have no room"


def problems_of(nodes: Sequence[Node], here: Facts) -> Iterator[str]:
    """What is wrong, told from what the nodes and this machine say."""
    for node in nodes:
        facts = node.facts
        if facts is None:
            yield f"node {node.name}: {node.error}"
            continue
        if facts.python != here.python:
            yield f"node {node.name}: Python is {facts.python}, here it is {here.python}"
        for name in sorted({*facts.packages, *here.packages}):
            there, ours = facts.packages.get(name, "missing"), here.packages.get(name, "missing")
            if there != ours:
                yield f"node {node.name}: {name} is {there}, here it is {ours}; install from constraints.txt on both"
        if facts.code != here.code:
            yield f"node {node.name}: the project's code is not the same as here; `ray up` brings it there again"
        if abs(node.skew_s) > CLOCKS_S:
            yield f"node {node.name}: its clock is {node.skew_s:+.0f} s from this one; let both keep time by NTP"
        if facts.free_gib < MIN_FREE_GIB:
            yield f"node {node.name}: {facts.free_gib:.1f} GiB of disk are free, fewer than {MIN_FREE_GIB:g}"
        for what, problem in (("storage", facts.storage), ("trainable", facts.trainable)):
            if problem:
                yield f"node {node.name}: {what}: {problem}"
        for path in facts.missing:
            yield f"node {node.name}: {path}, which the spec names, is here and not there"
        for problem in facts.unreachable:
            yield f"node {node.name}: {problem}"


def look(spec: Spec, path: str, token: str, answer: str, data: Sequence[str] | None = None) -> Facts:
    """What this machine says of itself.

    Args:
        spec: the sweep's.
        path: a file in the sweep's folder that holds `token`.
        token: what it holds.
        answer: a file of the sweep's folder to write.
        data: paths and URLs that the trials' data is said to be at; None where no trials train.
    """
    trains = data is not None
    urls, paths = ([value for value in data or () if _is_url(value) is wanted] for wanted in (True, False))
    return Facts(
        python=platform.python_version(),
        packages={name: version for name in PACKAGES if (version := _version(name))},
        code=_digest(),
        clock_s=time.time(),
        free_gib=shutil.disk_usage(tempfile.gettempdir()).free / 2**30,
        storage=_problem_with_storage(spec, path, token, answer),
        trainable=_problem_with_trainable(spec) if trains else None,
        missing=[path for path in paths if not Path(path).expanduser().exists()],
        unreachable=[problem for url in urls if (problem := _problem_with_url(url))],
        wandb=_problem_with_wandb(spec) if trains and spec.tracking.mode == "online" else None,
    )


@ray.remote(num_cpus=0, max_calls=1, max_retries=0)
def _look_there(spec_text: str, cwd: str, environ: Mapping[str, str], *args: Any) -> Facts:
    os.environ.update(environ)
    if Path(cwd).is_dir():  # as workers do, so that the same files are found
        os.chdir(cwd)
    return look(Spec.from_yaml(spec_text), *args)


def _ask_all(spec: Spec, place: str, token: str, data: Sequence[str], answer_s: float) -> list[Node]:
    """Ask every other node that can train, all at once; one that goes meanwhile is none of the cluster's any more."""
    asked_at, this = time.time(), ray.get_runtime_context().get_node_id()
    asked, nodes = {}, []
    for node in ray.nodes():
        if node["Alive"] and node["Resources"].get("CPU") and node["NodeID"] != this:
            name = f"{node['NodeManagerAddress']}-{node['NodeID'][:6]}"
            there = _look_there.options(label_selector={NODE_ID_LABEL_KEY: node["NodeID"]})
            told = (spec.to_yaml(), os.getcwd(), to_workers(os.environ))
            asked[there.remote(*told, f"{place}/here", token, f"{place}/{name}", data)] = name, node["NodeID"]
    deadline = time.monotonic() + answer_s
    while asked:
        answers, _ = ray.wait(list(asked), num_returns=1, timeout=LOOK_S)
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        for answer, (name, node_id) in list(asked.items()):
            if answer in answers:
                nodes += _answered(name, answer, asked_at) if node_id in alive else []
            elif node_id in alive and time.monotonic() < deadline:
                continue
            else:
                ray.cancel(answer)  # or the autoscaler would look for such a node
                nodes += [Node(name=name, error=f"did not answer in {answer_s:g} s")] if node_id in alive else []
            del asked[answer]
    return nodes


def _answered(name: str, answer: Any, asked_at: float) -> list[Node]:
    """A node that has answered."""
    try:
        facts = ray.get(answer)
    except RayError as exc:
        return [Node(name=name, error=f"cannot answer ({first_line(exc)})")]
    # Its clock was read between the asking and now.
    skew_s = max(0.0, facts.clock_s - time.time()) or min(0.0, facts.clock_s - asked_at)
    return [Node(name=name, facts=facts, skew_s=skew_s)]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _digest() -> str:
    """Of the project's Python files and their paths, as they are found from here."""
    digest = hashlib.sha256()
    root = Path(__file__).resolve().parent.parent
    for file in sorted(path for folder in CODE for path in (root / folder).rglob("*.py")):
        digest.update(str(file.relative_to(root)).encode() + file.read_bytes())
    return digest.hexdigest()


def _named(spec: Spec) -> Iterator[str]:
    """Values of the spec that name a place on disk from its root, or a URL, as data usually is given."""
    values = [*spec.params.values()]
    if not isinstance(spec.trainable, str):
        parts = (spec.trainable.model, spec.trainable.data)
        values += [value for part in parts if part for value in part.init_args.values()]
    texts = (value for value in values if isinstance(value, str))
    yield from (text for text in texts if text.startswith(("/", "~")) or _is_url(text))


def _is_meant(data: str) -> bool:
    """Whether trials read what is named, told from here: a place that is not there may be one that they write to."""
    if data.startswith("http"):
        return True
    return _problem_with_url(data) is None if _is_url(data) else Path(data).expanduser().exists()


def _is_url(value: str) -> bool:
    scheme, mark, _ = value.partition("://")
    return bool(mark) and scheme in ("http", "https", *STORAGE_SCHEMES)


def _problem_with_url(url: str) -> str | None:
    """Why it cannot be downloaded from there; nothing of it is."""
    try:
        if url.startswith("http"):
            _ask_for_a_byte(url)
        else:
            place, mark, options = url.partition("?")
            storage, _, name = place.rstrip("/").rpartition("/")
            if not SweepFolder(storage + mark + options, name).has(""):
                return f"{redacted(url)}, which the spec names, is not there"
    except urllib.error.HTTPError as exc:
        return f"{redacted(url)}, which the spec names, cannot be downloaded there: {exc}"
    except (OSError, ValueError, http.client.HTTPException, StorageError) as exc:  # also of what is no URL
        return f"{redacted(url)}, which the spec names, is not reached from there: {redacted(str(exc))}"
    return None


def _ask_for_a_byte(url: str) -> None:
    """Not by HEAD, which a link that is signed for a download does not allow."""
    request = urllib.request.Request(url, headers={"Range": "bytes=0-0"})
    try:
        urllib.request.urlopen(request, timeout=SERVER_S).close()
    except urllib.error.HTTPError as exc:
        if exc.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:  # it is there, and empty
            raise


def _problem_with_wandb(spec: Spec) -> str | None:
    """Why W&B is not reached from there, or refuses the key that is there; the one that is here stays here."""
    if not has_key(os.environ):
        try:
            urllib.request.urlopen(base_url(), timeout=SERVER_S).close()
        except urllib.error.HTTPError:  # an answer
            return None
        except OSError as exc:
            return f"W&B at {base_url()} is not reached from there ({first_line(exc)})"
        return None
    from orchestrator.page import Page  # loads wandb, which the sweep's own process keeps out

    try:
        Page(spec).connect()
    except TrackingError as exc:
        return str(exc)
    return None


def _problem_with_storage(spec: Spec, path: str, token: str, answer: str) -> str | None:
    try:
        folder = SweepFolder(spec.storage, spec.name or "")
        if folder.read_text(path) != token:
            return f"{folder.show('')} is another place there than here"
        folder.write_text(answer, token)
    except StorageError as exc:
        return f"{exc}; let it be a URL, or a folder that every node sees as the same"
    return None


def _problem_with_trainable(spec: Spec) -> str | None:
    """Why it cannot be found there; it is not imported, which would take the time that a worker's start takes."""
    if isinstance(spec.trainable, str):
        return catalog.problem_with_trainable(spec.trainable)
    parts = (spec.trainable.model, spec.trainable.data)
    problems = [catalog.problem_with_class(part.class_path) for part in parts if part]
    return "; ".join(problem for problem in problems if problem) or None
