"""What has to hold on every node before the first trial: looked at in one go, a task a node, seconds in all (ray)."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.placement_group import NODE_ID_LABEL_KEY

from orchestrator import catalog
from orchestrator.errors import StorageError
from orchestrator.folder import SweepFolder
from orchestrator.messages import first_line
from orchestrator.spec import Spec

# How long all nodes together may take to answer: the first task on a node starts a process there.
ANSWER_S = 120.0
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


@dataclass(frozen=True, kw_only=True)
class Node:
    """A node, or why it did not answer."""

    name: str
    facts: Facts | None = None
    error: str | None = None
    skew_s: float = 0.0
    """By how much its clock is ahead of this machine's; the time that the answer took is taken off."""


def check(spec: Spec, folder: SweepFolder) -> list[str]:
    """Look at every other node of the connected cluster that can train; the problems found, a sentence each."""
    token, place, was_there = uuid.uuid4().hex, f"preflight-{uuid.uuid4().hex[:8]}", folder.has("")
    try:
        folder.write_text(f"{place}/here", token)
    except StorageError as exc:
        return [f"storage: {exc}"]
    paths = [path for path in _paths(spec) if Path(path).expanduser().exists()]
    here = look(spec, f"{place}/here", token, f"{place}/this")
    nodes = _ask_all(spec, place, token, paths)
    problems = list(problems_of(nodes, here))
    for node in nodes:
        if node.facts and node.facts.storage is None and not folder.has(f"{place}/{node.name}"):
            problems.append(f"storage: what node {node.name} writes to {folder.show('')} is not seen here")
    folder.delete_folder(place if was_there else "")
    return problems


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


def look(spec: Spec, path: str, token: str, answer: str, paths: Sequence[str] | None = None) -> Facts:
    """What this machine says of itself.

    Args:
        spec: the sweep's.
        path: a file in the sweep's folder that holds `token`.
        token: what it holds.
        answer: a file of the sweep's folder to write.
        paths: what the trials' data is said to be at; None where no trials train.
    """
    trains = paths is not None
    return Facts(
        python=platform.python_version(),
        packages={name: version for name in PACKAGES if (version := _version(name))},
        code=_digest(),
        clock_s=time.time(),
        free_gib=shutil.disk_usage(tempfile.gettempdir()).free / 2**30,
        storage=_problem_with_storage(spec, path, token, answer),
        trainable=_problem_with_trainable(spec) if trains else None,
        missing=[path for path in paths or () if not Path(path).expanduser().exists()],
    )


@ray.remote(num_cpus=0, max_calls=1)
def _look_there(spec_text: str, cwd: str, *args: Any) -> Facts:
    if Path(cwd).is_dir():  # as workers do, so that the same files are found
        os.chdir(cwd)
    return look(Spec.from_yaml(spec_text), *args)


def _ask_all(spec: Spec, place: str, token: str, paths: Sequence[str]) -> list[Node]:
    """Ask every other node that can train, all at once; one that goes meanwhile is none of the cluster's any more."""
    asked_at, asked, this = time.time(), {}, ray.get_runtime_context().get_node_id()
    for node in ray.nodes():
        if node["Alive"] and node["Resources"].get("CPU") and node["NodeID"] != this:
            name = f"{node['NodeManagerAddress']}-{node['NodeID'][:6]}"
            there = _look_there.options(label_selector={NODE_ID_LABEL_KEY: node["NodeID"]})
            args = (spec.to_yaml(), os.getcwd(), f"{place}/here", token, f"{place}/{name}", paths)
            asked[name] = node["NodeID"], there.remote(*args)
    deadline, nodes = time.monotonic() + ANSWER_S, []
    for name, (node_id, answer) in asked.items():
        try:
            facts = ray.get(answer, timeout=max(0.1, deadline - time.monotonic()))
        except RayError as exc:
            if not any(node["NodeID"] == node_id and node["Alive"] for node in ray.nodes()):
                continue
            nodes.append(Node(name=name, error=f"did not answer in {ANSWER_S:g} s ({first_line(exc)})"))
        else:  # its clock was read between the asking and now
            skew_s = max(0.0, facts.clock_s - time.time()) or min(0.0, facts.clock_s - asked_at)
            nodes.append(Node(name=name, facts=facts, skew_s=skew_s))
    return nodes


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


def _paths(spec: Spec) -> Iterator[str]:
    """Values of the spec that name a place on disk from its root, as data usually is given."""
    values = [*spec.params.values()]
    if not isinstance(spec.trainable, str):
        parts = (spec.trainable.model, spec.trainable.data)
        values += [value for part in parts if part for value in part.init_args.values()]
    yield from (value for value in values if isinstance(value, str) and value.startswith(("/", "~")))


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
