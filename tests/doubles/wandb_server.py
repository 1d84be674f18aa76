"""A double of the Weights & Biases server: the real SDK works against it, online, on this machine.

The SDK speaks two protocols, and both are answered from what it asks:

* GraphQL on ``/graphql``. The documents are read by a small parser and answered field by field, as a schema would,
  so that a query that asks for a field the double lacks fails loudly (`WandbServer.unknown`) instead of getting an
  invented answer. Source: ``wandb/apis/_generated/operations.py``, ``wandb/sdk/artifacts/_generated/operations.py``,
  ``wandb/apis/public/{runs,sweeps,files}.py``, and the documents inside the ``wandb-core`` binary (``strings``).
* The file stream, ``POST /files/ENTITY/PROJECT/RUN/file_stream``: lines of history, system metrics, console output and
  the summary, each chunk with its offset. Source: requests of SDK 0.31, recorded.

Files go to URLs that the server hands out, here ``/storage/...``; nobody but the server gives those a meaning.

>>> with WandbServer() as server:  # doctest: +SKIP
...     subprocess.run([sys.executable, "train.py"], env=os.environ | server.env)
...     assert server.runs["trial-1"].state == "finished"
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import itertools
import json
import re
import socket
import sys
import threading
import time
import traceback
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, TypeVar

import yaml

ORGANIZATION = "acme"
HISTORY, EVENTS, SUMMARY, OUTPUT = "wandb-history.jsonl", "wandb-events.jsonl", "wandb-summary.json", "output.log"

Row = dict[str, Any]
Arguments = dict[str, Any]
Node = Mapping[str, Any]
"""A GraphQL object: values by field name, or functions of the field's arguments."""


T = TypeVar("T")


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _node_id(kind: str, key: str | int) -> str:
    """Return a global id as W&B makes them; the SDK decodes those of artifacts into download paths."""
    return base64.b64encode(f"{kind}:{key}".encode()).decode()


# What the server knows ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chunk:
    """Lines of one file of the file stream, as one request brought them."""

    file: str
    offset: int
    lines: list[str]


@dataclass
class Sweep:
    """A sweep, as `wandb.sweep` created it."""

    id: str
    entity: str
    project: str
    config_text: str
    """YAML, as the SDK sent it."""
    state: str = "PENDING"
    """PENDING until its first run, then RUNNING, PAUSED, CANCELED or FINISHED."""
    run_ids: list[str] = field(default_factory=list)
    created_at: str = field(default_factory=_now)

    @property
    def config(self) -> dict[str, Any]:
        """The sweep's definition."""
        return yaml.safe_load(self.config_text) or {}

    @property
    def name(self) -> str | None:
        """The name given in the definition; `id` is what W&B calls the sweep's name."""
        return self.config.get("name")


@dataclass
class Run:
    """A run, by its id. A killed client leaves it "running"; W&B calls it "crashed" minutes later, tests set that."""

    id: str
    entity: str
    project: str
    display_name: str | None = None
    raw_config: dict[str, Any] = field(default_factory=dict)
    """The config as W&B stores it: ``{"lr": {"value": 0.1}, "_wandb": {...}}``."""
    tags: list[str] = field(default_factory=list)
    group: str | None = None
    job_type: str | None = None
    notes: str | None = None
    commit: str | None = None
    sweep_id: str | None = None
    summary: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    exit_code: int | None = None
    state: str = "running"
    upserts: int = 0
    """UpsertBucket requests: one for each `wandb.init`, and one for each later change of config or tags."""
    inits: int = 0
    """`wandb.init` calls that reached the server: the requests that carry the name of the host."""
    used_artifacts: list[str] = field(default_factory=list)
    """Names (``collection:v0``) of the versions that the run declared as inputs."""
    stop: bool = False
    """Set by a test: the file stream then asks the client to stop the run."""
    chunks: list[Chunk] = field(default_factory=list)
    """Every chunk of the file stream, in the order of arrival."""
    lines: dict[str, dict[int, str]] = field(default_factory=dict)
    """Lines of each file of the file stream by line number, so that what is sent again replaces itself."""
    created_at: str = field(default_factory=_now)
    heartbeat_at: str = field(default_factory=_now)

    @property
    def config(self) -> dict[str, Any]:
        """The config as the user wrote it."""
        return {key: entry["value"] for key, entry in self.raw_config.items() if key != "_wandb"}

    @property
    def history(self) -> list[Row]:
        """The logged rows, in order: one for each step, the one that came last.

        "Re-syncing the same `.wandb` file can duplicate metrics" of runs in shared mode, whose steps the server counts;
        for all others the SDK takes care that rows which are sent again come under the same steps. Source:
        core/internal/runsync/{sharedsync,syncstate}.go of wandb/wandb.
        """
        rows = [json.loads(line) for line in self.text(HISTORY)]
        return [row for _, row in sorted({row["_step"]: row for row in rows}.items())]

    @property
    def events(self) -> list[Row]:
        """The system metrics, in order."""
        return [json.loads(line) for line in self.text(EVENTS)]

    @property
    def output(self) -> list[str]:
        """The console output, a line each, with the time stamp that the client puts in front."""
        return self.text(OUTPUT)

    def text(self, file: str) -> list[str]:
        """Return the assembled lines of one file of the file stream."""
        lines = self.lines.get(file, {})
        return [lines[number] for number in sorted(lines)]

    def append(self, chunk: Chunk) -> None:
        """Take in one chunk; offsets are line numbers, and a resumed run counts on from the server's line counts."""
        self.chunks.append(chunk)
        self.lines.setdefault(chunk.file, {}).update(enumerate(chunk.lines, start=chunk.offset))
        if chunk.file == SUMMARY:
            self.summary = json.loads(chunk.lines[-1])


@dataclass
class ArtifactVersion:
    """One version of an artifact collection."""

    id: str
    entity: str
    project: str
    collection: str
    type: str
    digest: str
    run_id: str | None = None
    description: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    aliases: set[str] = field(default_factory=set)
    """Names that the client gave it; `version` works as one too. The SDK sends them in no order."""
    tags: list[str] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    manifest: bytes = b""
    state: Literal["PENDING", "COMMITTED"] = "PENDING"
    index: int | None = None
    """The number in the version's name, given on commit."""
    source: ArtifactVersion | None = None
    """The version that was linked into this collection, if it is a link."""
    created_at: str = field(default_factory=_now)

    @property
    def version(self) -> str:
        """The version's own name in its collection: "v0"."""
        return f"v{self.index}"


class _Refusal(Exception):
    """A request that the real server would turn down too."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Unknown(Exception):
    """A request that the double cannot answer as W&B would."""


@dataclass
class _State:
    """Everything stored, shared by the protocols; guarded by one lock, since every request is short."""

    entity: str
    url: str = ""
    sweeps: dict[str, Sweep] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)
    artifacts: dict[str, list[ArtifactVersion]] = field(default_factory=dict)
    versions_made: Counter[str] = field(default_factory=Counter)
    """By collection: the number of a deleted version is not given again."""
    projects: set[tuple[str, str]] = field(default_factory=set)
    views: list[dict[str, Any]] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def address(self, kind: str, owner: str, name: str = "") -> str:
        """Return where the bytes of a file go, and come from."""
        return f"{self.url}/storage/{kind}/{owner}/{urllib.parse.quote(name)}"

    def find_run(self, entity: str, project: str, run_id: str) -> Run | None:
        run = self.runs.get(run_id)
        return run if run and (run.entity, run.project) == (entity, project) else None

    def versions(self) -> Iterator[ArtifactVersion]:
        """Iterate over the versions in their own collections, without links."""
        return (v for members in self.artifacts.values() for v in members if v.source is None)

    def version_by_id(self, artifact_id: str) -> ArtifactVersion:
        for version in self.versions():
            if version.id == artifact_id:
                return version
        raise _Refusal(404, f"artifact {artifact_id!r} not found")

    def version_by_name(self, entity: str, project: str, name: str) -> ArtifactVersion | None:
        """Find ``collection:alias``, where the alias may be a version or left out (then it is "latest")."""
        collection, _, alias = name.partition(":")
        for version in self.artifacts.get(collection, []):
            if (version.entity, version.project, version.state) != (entity, project, "COMMITTED"):
                continue
            if (alias or "latest") in version.aliases | {version.version}:
                return version
        return None


# GraphQL --------------------------------------------------------------------------------------------------------------

_TOKEN = re.compile(r'\.\.\.|[$@]?[A-Za-z_]\w*|"(?:\\.|[^"\\])*"|-?\d+(?:\.\d+)?|[{}()\[\]:!=]')
_IGNORED = re.compile(r"#[^\n]*")


@dataclass
class _Field:
    """A requested field, with its arguments filled in from the variables."""

    name: str
    alias: str
    arguments: Arguments
    selection: list[_Field | str]
    """Fields, and names of fragments."""


class _Document:
    """A parsed GraphQL document with one operation.

    Type conditions (``... on Run``) always hold: the double has one type behind each interface.
    """

    def __init__(self, text: str, variables: dict[str, Any]) -> None:
        self._tokens = _TOKEN.findall(_IGNORED.sub("", text))
        self._variables = dict(variables)
        self._declared = ""
        self.operation = ""
        self.selection: list[_Field | str] = []
        self.fragments: dict[str, list[_Field | str]] = {}
        while self._tokens:
            self._definition()

    def _next(self, expected: str | None = None) -> str:
        token: str = self._tokens.pop(0)
        if expected not in (None, token):
            raise _Refusal(400, f"Syntax Error: expected {expected}, found {token}")
        return token

    def _skip(self, token: str) -> bool:
        if self._tokens and self._tokens[0] == token:
            self._tokens.pop(0)
            return True
        return False

    def _definition(self) -> None:
        kind, name = self._next(), self._next()
        if kind == "fragment":
            self._next("on")
            self._next()
            self.fragments[name] = self._selection()
            return
        self.operation = name
        if self._skip("("):
            while not self._skip(")"):
                self._default(self._next())
        self.selection = self._selection()

    def _default(self, token: str) -> None:
        """Read one token of the variables' declaration; only default values matter."""
        if token.startswith("$"):
            self._declared = token[1:]
        elif token == "=":
            self._variables.setdefault(self._declared, self._value())

    def _selection(self) -> list[_Field | str]:
        self._next("{")
        selection: list[_Field | str] = []
        while not self._skip("}"):
            if not self._skip("..."):
                selection += self._field()
            elif self._tokens[0] in ("on", "{"):
                if self._skip("on"):
                    self._next()
                selection += self._selection()
            else:
                selection.append(self._next())
        return selection

    def _field(self) -> list[_Field]:
        alias = name = self._next()
        if self._skip(":"):
            name = self._next()
        arguments = self._arguments()
        included = True
        while self._tokens[0] in ("@include", "@skip"):
            wanted = self._next() == "@include"
            included &= bool(self._arguments()["if"]) == wanted
        selection = self._selection() if self._tokens[0] == "{" else []
        return [_Field(name, alias, arguments, selection)] if included else []

    def _arguments(self) -> Arguments:
        return self._pairs(")") if self._skip("(") else {}

    def _pairs(self, end: str) -> dict[str, Any]:
        pairs = {}
        while not self._skip(end):
            name = self._next()
            self._next(":")
            pairs[name] = self._value()
        return pairs

    def _value(self) -> Any:
        token = self._next()
        if token == "{":
            return self._pairs("}")
        if token == "[":
            values = []
            while not self._skip("]"):
                values.append(self._value())
            return values
        if token.startswith("$"):
            return self._variables.get(token[1:])
        # What is left is a number, a string, true, false or null, all as in JSON, or the name of an enumeration.
        return json.loads(token) if not re.match(r"(?!true$|false$|null$)[A-Za-z_]", token) else token


def _select(node: Any, selection: list[_Field | str], fragments: Mapping[str, list[_Field | str]]) -> Any:
    """Pick from a node what was asked for."""
    if isinstance(node, list):
        return [_select(item, selection, fragments) for item in node]
    if node is None or not selection:
        return node
    answer: dict[str, Any] = {}
    for wanted in selection:
        if isinstance(wanted, str):
            answer |= _select(node, fragments[wanted], fragments)
            continue
        if wanted.name not in node:
            kind = node.get("__typename", "Object")
            raise _Unknown(f'Cannot query field "{wanted.name}" on type "{kind}".')
        value = node[wanted.name]
        if callable(value):
            value = value(wanted.arguments)
        answer[wanted.alias] = _select(value, wanted.selection, fragments)
    return answer


def _maybe(make: Callable[[T], Node], thing: T | None) -> Node | None:
    """Return the node of a thing that may not exist, which is null in GraphQL."""
    return None if thing is None else make(thing)


def _connection(nodes: Iterable[Node], arguments: Arguments) -> Node:
    """Page through nodes as all of W&B's lists do; a cursor is the number of nodes before it."""
    nodes = list(nodes)
    start = int(arguments.get("after") or 0)
    stop = start + int(arguments.get("first") or len(nodes))
    edges = [
        {"node": node, "cursor": str(number), "version": f"v{node.get('versionIndex')}"}
        for number, node in enumerate(nodes[start:stop], start=start + 1)
    ]
    page = {"__typename": "PageInfo", "endCursor": str(min(stop, len(nodes))), "hasNextPage": stop < len(nodes)}
    return {"edges": edges, "pageInfo": page, "totalCount": len(nodes)}


# Answers to queries ---------------------------------------------------------------------------------------------------

_FEATURES = (  # Those whose queries are answered below; the SDK asks differently without them. wandb_internal.proto
    "LARGE_FILENAMES",
    "ARTIFACT_TAGS",
    "CLIENT_IDS",
    "ARTIFACT_COLLECTION_MEMBERSHIP_FILES",
    "USE_ARTIFACT_WITH_ENTITY_AND_PROJECT_INFORMATION",
    "PROJECT_ARTIFACT_COLLECTION_MEMBERSHIP",
    "ARTIFACT_MEMBERSHIP_IN_LINK_ARTIFACT_RESPONSE",
    "TOTAL_COUNT_IN_FILE_CONNECTION",
    "MARK_RUN_FILES_UPLOADED",
)


def _lookup(run: Run, path: str) -> Any:
    """Return what a filter or an order of `Api.runs` calls ``path``; see its docstring in wandb/apis/public/api.py."""
    head, _, key = path.partition(".")
    if head in ("summary_metrics", "summaryMetrics"):
        return run.summary.get(key)
    if head == "config":
        return run.config.get(key.removesuffix(".value"))
    named = {
        "sweep": run.sweep_id,
        "name": run.id,
        "state": run.state,
        "display_name": run.display_name,
        "displayName": run.display_name,
        "group": run.group,
        "jobType": run.job_type,
        "tags": run.tags,
        "created_at": run.created_at,
        "createdAt": run.created_at,
    }
    if path not in named:
        raise _Unknown(f"runs filtered or ordered by {path!r}")
    return named[path]


def _matches(run: Run, query: Mapping[str, Any]) -> bool:
    """Apply the part of MongoDB's query language that `Api.runs` is used with here."""
    for path, wanted in query.items():
        if path in ("$and", "$or"):
            if not (all if path == "$and" else any)(_matches(run, part) for part in wanted):
                return False
            continue
        found = _lookup(run, path)
        operators = wanted if isinstance(wanted, dict) else {"$in": [wanted]}
        for operator, operand in operators.items():
            if operator not in ("$in", "$ne"):
                raise _Unknown(f"the operator {operator!r} in a filter of runs")
            values = found if isinstance(found, list) else [found]
            held = any(value in operand for value in values) if operator == "$in" else operand not in values
            if not held:
                return False
    return True


def _ordered(runs: Iterable[Run], order: str) -> list[Run]:
    """Sort as ``+created_at`` or ``-summary_metrics.loss`` says; runs without a value come last."""
    path = order.lstrip("+-")
    with_value = [run for run in runs if _lookup(run, path) is not None]
    without = [run for run in runs if _lookup(run, path) is None]
    return sorted(with_value, key=lambda run: _lookup(run, path), reverse=order.startswith("-")) + without


class _Queries:
    """The types of W&B's GraphQL schema that the SDK reads."""

    def __init__(self, state: _State) -> None:
        self._state = state
        self.root: Node = {
            "__typename": "Query",
            "viewer": self.user(),
            "serverInfo": {"features": [{"name": name, "isEnabled": True} for name in _FEATURES]},
            "project": lambda a: self.project(a.get("entityName"), a["name"]),
            "model": lambda a: self.project(a.get("entityName"), a["name"]),
            "entity": lambda a: self.entity(a["name"]),
            "models": lambda a: _connection(
                [self.project(*found) or {} for found in sorted(state.projects) if found[0] == a["entityName"]], a
            ),
            "artifact": lambda a: self.artifact(state.version_by_id(a["id"])),
        }

    def user(self) -> Node:
        return {
            "__typename": "User",
            "id": _node_id("User", 1),
            "name": "Test",
            "username": "test",
            "email": "",
            "admin": False,
            "flags": "{}",
            "entity": self._state.entity,
            "deletedAt": None,
            "apiKeys": _connection([], {}),
            "teams": _connection([{"name": self._state.entity}], {}),
        }

    def entity(self, name: str) -> Node:
        return {
            "__typename": "Entity",
            "id": _node_id("Entity", name),
            "name": name,
            "xxhashDigestsEnabled": False,
            "organization": {
                "name": ORGANIZATION,
                "orgEntity": {"name": f"{ORGANIZATION}_org"},
                "coreWeaveOrganizationId": None,
            },
            "user": None,
        }

    def project(self, entity: str | None, name: str) -> Node | None:
        entity = entity or self._state.entity
        if (entity, name) not in self._state.projects:
            return None
        return {
            "__typename": "Project",
            "id": _node_id("Project", f"{entity}/{name}"),
            "internalId": _node_id("ProjectInternalId", 1),
            "name": name,
            "entityName": entity,
            "createdAt": "2026-01-01T00:00:00",
            "isBenchmark": False,
            "user": None,
            "readOnly": False,
            "entity": lambda a: self.entity(entity),
            "run": lambda a: _maybe(self.run, self._state.find_run(entity, name, a["name"])),
            "bucket": lambda a: _maybe(self.run, self._state.find_run(entity, name, a["name"])),
            "runs": lambda a: _connection(map(self.run, self._runs(entity, name, a)), a),
            "runCount": lambda a: len(self._runs(entity, name, a)),
            "sweep": lambda a: _maybe(self.sweep, self._find_sweep(entity, name, a["sweepName"])),
            "sweeps": lambda a: _connection(map(self.sweep, self._sweeps(entity, name)), a),
            "totalSweeps": lambda a: len(self._sweeps(entity, name)),
            "artifact": lambda a: _maybe(self.artifact, self._state.version_by_name(entity, name, a["name"])),
            "artifactCollection": lambda a: self.collection(entity, name, a["name"]),
            "artifactCollectionMembership": lambda a: _maybe(
                self.membership, self._state.version_by_name(entity, name, a["name"])
            ),
            "artifactType": lambda a: self.artifact_type(entity, name, a["name"]),
        }

    def _runs(self, entity: str, project: str, arguments: Arguments) -> list[Run]:
        query = json.loads(arguments.get("filters") or "{}")
        runs = [r for r in self._state.runs.values() if (r.entity, r.project) == (entity, project)]
        return _ordered([run for run in runs if _matches(run, query)], arguments.get("order") or "+created_at")

    def _sweeps(self, entity: str, project: str) -> list[Sweep]:
        return [s for s in self._state.sweeps.values() if (s.entity, s.project) == (entity, project)]

    def _find_sweep(self, entity: str, project: str, sweep_id: str) -> Sweep | None:
        return next((s for s in self._sweeps(entity, project) if s.id == sweep_id), None)

    def sweep(self, sweep: Sweep) -> Node:
        runs = [self._state.runs[run_id] for run_id in sweep.run_ids]
        return {
            "__typename": "Sweep",
            "id": _node_id("Sweep", sweep.id),
            "name": sweep.id,
            "displayName": sweep.name,
            "method": sweep.config.get("method"),
            "state": sweep.state,
            "description": sweep.config.get("description"),
            "config": sweep.config_text,
            "bestLoss": None,
            "createdAt": sweep.created_at,
            "updatedAt": sweep.created_at,
            "heartbeatAt": sweep.created_at,
            "earlyStopJobRunning": False,
            "controller": None,
            "controllerRunName": None,
            "scheduler": None,
            "runCount": len(runs),
            "runCountExpected": None,
            "runs": lambda a: _connection(map(self.run, runs), a),
            "project": lambda a: self.project(sweep.entity, sweep.project),
        }

    def run(self, run: Run) -> Node:
        internal = run.raw_config.get("_wandb", {}).get("value", {})
        return {
            "__typename": "Run",
            "id": _node_id("Run", run.id),
            "name": run.id,
            "displayName": run.display_name,
            "projectId": "1",
            "sweepName": run.sweep_id,
            "state": run.state,
            "tags": run.tags,
            "group": run.group,
            "jobType": run.job_type,
            "commit": run.commit,
            "description": None,
            "notes": run.notes,
            "readOnly": False,
            "createdAt": run.created_at,
            "heartbeatAt": run.heartbeat_at,
            "config": json.dumps(run.raw_config),
            "wandbConfig": lambda a: json.dumps({key: value for key, value in internal.items() if key in a["keys"]}),
            "summaryMetrics": json.dumps(run.summary),
            "systemMetrics": json.dumps(run.events[-1] if run.events else {}),
            "exitcode": run.exit_code,
            "shouldStop": run.stop,
            "stopped": run.stop,
            "failed": run.state == "failed",
            "running": run.state == "running",
            "user": lambda a: self.user(),
            "project": lambda a: self.project(run.entity, run.project),
            **self._lines(run),
            **self._files(run),
            **self._run_artifacts(run),
        }

    @staticmethod
    def _lines(run: Run) -> Node:
        """Return the fields that read the file stream; counts and tails are what a resumed run continues from."""
        history = run.history

        def page(arguments: Arguments) -> list[str]:
            low, high = arguments.get("minStep", 0), arguments.get("maxStep", float("inf"))
            rows = [row for row in history if low <= row["_step"] < high]
            return [json.dumps(row) for row in rows[: arguments.get("samples")]]

        def sampled(arguments: Arguments) -> list[list[Row]]:
            specs = arguments["specs"]  # GraphQL takes one value for a list of one; `_set_sweep_state` relies on it.
            specs = [json.loads(spec) for spec in ([specs] if isinstance(specs, str) else specs)]
            wanted = [spec.get("keys", []) for spec in specs]
            return [[{key: row[key] for key in keys} for row in history if set(keys) <= set(row)] for keys in wanted]

        return {
            "logLineCount": len(run.output),
            "historyLineCount": len(run.text(HISTORY)),
            "eventsLineCount": len(run.events),
            "historyTail": json.dumps(run.text(HISTORY)[-1:]),
            "eventsTail": json.dumps(run.text(EVENTS)[-1:]),
            "historyKeys": {"lastStep": max((row["_step"] for row in history), default=-1)},
            "history": page,
            "events": lambda a: run.text(EVENTS)[: a.get("samples")],
            "sampledHistory": sampled,
            "parquetHistory": {"parquetUrls": [], "liveData": history},  # All of it is "not exported yet".
        }

    def _files(self, run: Run) -> Node:
        def files(arguments: Arguments) -> Node:
            names = arguments.get("names") or list(run.files)
            return _connection((self.file("runs", run.id, n, run.files[n]) for n in names if n in run.files), arguments)

        return {"fileCount": len(run.files), "files": files}

    def file(self, kind: str, owner: str, name: str, content: bytes) -> Node:
        """Return a stored file of a run or an artifact."""
        url, digest = self._state.address(kind, owner, name), base64.b64encode(hashlib.md5(content).digest()).decode()
        return {
            "__typename": "File",
            "id": _node_id("File", f"{owner}/{name}"),
            "name": name,
            "displayName": name,
            "url": url,
            "directUrl": url,
            "storagePath": name,
            "sizeBytes": len(content),
            "mimetype": None,
            "updatedAt": None,
            "digest": digest,
            "md5": digest,
        }

    def _run_artifacts(self, run: Run) -> Node:
        committed = [v for v in self._state.versions() if v.state == "COMMITTED"]
        used = [v for v in committed if f"{v.collection}:{v.version}" in run.used_artifacts]
        return {
            "outputArtifacts": lambda a: _connection((self.artifact(v) for v in committed if v.run_id == run.id), a),
            "inputArtifacts": lambda a: _connection(map(self.artifact, used), a),
        }

    def artifact_type(self, entity: str, project: str, name: str) -> Node:
        return {
            "__typename": "ArtifactType",
            "id": _node_id("ArtifactType", name),
            "name": name,
            "description": None,
            "createdAt": None,
            "artifactCollection": lambda a: self.collection(entity, project, a["name"]),
            "artifactCollections": lambda a: _connection(
                (
                    node
                    for each, versions in self._state.artifacts.items()
                    if (node := self.collection(entity, project, each)) and versions[0].type == name
                ),
                a,
            ),
        }

    def collection(self, entity: str, project: str, name: str) -> Node | None:
        versions = [v for v in self._state.artifacts.get(name, []) if (v.entity, v.project) == (entity, project)]
        if not versions:
            return None
        committed = [version for version in versions if version.state == "COMMITTED"]
        return {
            "__typename": "ArtifactPortfolio" if versions[0].source else "ArtifactSequence",
            "id": _node_id("ArtifactCollection", name),
            "name": name,
            "description": None,
            "createdAt": versions[0].created_at,
            "updatedAt": versions[-1].created_at,
            "defaultArtifactType": lambda a: self.artifact_type(entity, project, versions[0].type),
            "tags": _connection([], {}),
            "project": lambda a: self.project(entity, project),
            "digestAlgorithm": "MANIFEST_MD5",
            "latestArtifact": lambda a: _maybe(self.artifact, committed[-1] if committed else None),
            "artifacts": lambda a: _connection(map(self.artifact, reversed(committed)), a),
            "artifactMembership": lambda a: _maybe(
                self.membership, self._state.version_by_name(entity, project, f"{name}:{a['aliasName']}")
            ),
        }

    def membership(self, version: ArtifactVersion) -> Node:
        """Return a version as a member of the collection that it was found in, its own or one it is linked to."""
        return {
            "__typename": "ArtifactCollectionMembership",
            "id": _node_id("ArtifactMembership", f"{version.collection}:{version.version}"),
            "versionIndex": version.index,
            "createdAt": version.created_at,
            "aliases": self._aliases(version),
            "artifactCollection": lambda a: self.collection(version.entity, version.project, version.collection),
            "artifact": lambda a: self.artifact(version),
            "files": lambda a: _connection(
                (
                    self.file("artifacts", version.id, name, content)
                    for name, content in version.files.items()
                    if name in (a.get("names") or version.files)
                ),
                a,
            ),
        }

    def artifact(self, version: ArtifactVersion) -> Node:
        origin = version.source or version
        return {
            "__typename": "Artifact",
            "id": version.id,
            "state": version.state,
            "digest": version.digest,
            "digestAlgorithm": "MANIFEST_MD5",
            "versionIndex": origin.index,
            "description": version.description,
            "metadata": json.dumps(version.metadata),
            "tags": [{"__typename": "Tag", "id": _node_id("Tag", tag), "name": tag} for tag in version.tags],
            "ttlDurationSeconds": -2,  # No limit; wandb/sdk/artifacts/_validators.py
            "ttlIsInherited": True,
            "historyStep": None,
            "size": sum(map(len, version.files.values())),
            "fileCount": len(version.files),
            "commitHash": "",
            "createdAt": version.created_at,
            "updatedAt": version.created_at,
            "aliases": self._aliases(version),
            "artifactType": lambda a: self.artifact_type(version.entity, version.project, version.type),
            "artifactSequence": lambda a: self.collection(origin.entity, origin.project, origin.collection),
            "currentManifest": {"file": {"directUrl": self._state.address("manifests", version.id)}},
            "createdBy": lambda a: _maybe(self.run, self._state.runs.get(version.run_id or "")),
            "artifactMemberships": lambda a: _connection(
                (
                    self.membership(member)
                    for members in self._state.artifacts.values()
                    for member in members
                    if member.id == version.id
                ),
                a,
            ),
            "usedBy": lambda a: _connection(
                (
                    self.run(run)
                    for run in self._state.runs.values()
                    if f"{origin.collection}:{origin.version}" in run.used_artifacts
                ),
                a,
            ),
        }

    def _aliases(self, version: ArtifactVersion) -> list[Node]:
        return [
            {
                "__typename": "ArtifactAlias",
                "id": _node_id("ArtifactAlias", f"{version.collection}:{alias}"),
                "alias": alias,
                "artifactCollection": lambda a: self.collection(version.entity, version.project, version.collection),
            }
            for alias in [*sorted(version.aliases), version.version]
        ]


# Answers to mutations -------------------------------------------------------------------------------------------------


_RUN_FIELDS = {
    "display_name": "displayName",
    "tags": "tags",
    "group": "groupName",
    "job_type": "jobType",
    "notes": "notes",
    "commit": "commit",
}
"""Fields of `Run` by their names in `UpsertBucket`; see the mutation inside wandb-core."""


class _Mutations:
    """The changes that the SDK makes through GraphQL."""

    def __init__(self, state: _State, queries: _Queries) -> None:
        self._state = state
        self._queries = queries
        self.root: Node = {
            name: lambda a, change=change: change(a["input"])
            for name, change in {
                "upsertSweep": self._upsert_sweep,
                "upsertBucket": self._upsert_run,
                "createRunFiles": self._create_run_files,
                "markRunFilesUploaded": lambda given: {"success": True},
                "stopRun": self._stop_run,
                "createArtifact": self._create_artifact,
                "createArtifactManifest": self._create_manifest,
                "createArtifactFiles": self._create_artifact_files,
                "commitArtifact": self._commit_artifact,
                "useArtifact": self._use_artifact,
                "linkArtifact": self._link_artifact,
                "upsertView": self._upsert_view,
                "updateArtifact": self._update_artifact,
                "addAliases": self._add_aliases,
                "deleteAliases": self._delete_aliases,
                "deleteArtifact": self._delete_artifact,
            }.items()
        }

    def _upsert_sweep(self, given: Arguments) -> Node:
        """Create a sweep, or change the one whose `id` is given (wandb/apis/public/sweeps.py, `_upsert_sweep`)."""
        state = self._state
        if given.get("id"):
            sweep = next((s for s in state.sweeps.values() if given["id"] in (s.id, _node_id("Sweep", s.id))), None)
            if sweep is None:
                raise _Refusal(404, f"sweep {given['id']!r} not found")
            sweep.config_text = given.get("config") or sweep.config_text
        else:
            entity = given.get("entityName") or state.entity
            sweep = Sweep(f"sweep{next(state.numbers):03}", entity, given["projectName"], given["config"])
            state.sweeps[sweep.id] = sweep
            state.projects.add((entity, sweep.project))
        sweep.state = given.get("state") or sweep.state
        return {"sweep": self._queries.sweep(sweep), "configValidationWarnings": []}

    def _upsert_run(self, given: Arguments) -> Node:
        """Create or change a run: what is absent or null stays, since only the first request of a run has it all."""
        state = self._state
        run = next((r for r in state.runs.values() if _node_id("Run", r.id) == given.get("id")), None)
        run = run or state.runs.get(given.get("name") or given.get("id") or "")
        inserted = run is None
        if run is None:
            run = Run(given["name"], given.get("entityName") or state.entity, given.get("modelName") or "uncategorized")
        if run.sweep_id is None:
            self._join(run, given.get("sweep"))
        state.runs[run.id] = run
        state.projects.add((run.entity, run.project))
        for name, key in _RUN_FIELDS.items():
            if given.get(key) is not None:
                setattr(run, name, given[key])
        if given.get("config") is not None:
            run.raw_config = json.loads(given["config"])
        if given.get("summaryMetrics") is not None:
            run.summary = json.loads(given["summaryMetrics"])
        run.upserts += 1
        if given.get("host"):
            run.inits += 1
            run.state, run.exit_code = "running", None
        return {"bucket": self._queries.run(run), "inserted": inserted}

    def _join(self, run: Run, sweep_id: str | None) -> None:
        if not sweep_id:
            return
        sweep = self._state.sweeps.get(sweep_id)
        if sweep is None:
            raise _Refusal(404, f"sweep {sweep_id!r} not found")
        run.sweep_id = sweep_id
        sweep.run_ids.append(run.id)
        sweep.state = "RUNNING" if sweep.state == "PENDING" else sweep.state

    def _upsert_view(self, given: Arguments) -> Node:
        """Save a workspace's view or a report (wandb_workspaces/workspaces/internal.py, reports/v2/gql.py)."""
        entity, project = given["entityName"], given["projectName"]
        if (entity, project) not in self._state.projects:
            raise _Refusal(404, f"project {entity}/{project} not found")
        view = {**given, "id": _node_id("View", next(self._state.numbers)), "updatedAt": _now()}
        self._state.views.append(view)
        return {"view": {**view, "project": self._queries.project(entity, project)}, "inserted": True}

    def _create_run_files(self, given: Arguments) -> Node:
        """Hand out an upload address for each file of a run."""
        run = self._state.find_run(given["entityName"], given["projectName"], given["runName"])
        if run is None:
            raise _Refusal(404, f"run {given['runName']!r} not found")
        files = [{"name": n, "uploadUrl": self._state.address("runs", run.id, n)} for n in given["files"]]
        return {"runID": _node_id("Run", run.id), "uploadHeaders": [], "files": files}

    def _stop_run(self, given: Arguments) -> Node:
        for run in self._state.runs.values():
            if _node_id("Run", run.id) == given["id"]:
                run.stop = True
                return {"success": True}
        return {"success": False}

    def _create_artifact(self, given: Arguments) -> Node:
        """Start a version, or return the committed one with the same digest, the new aliases added.

        The client uploads nothing if the answer's state is COMMITTED.
        """
        state = self._state
        entity, project = given.get("entityName") or state.entity, given["projectName"]
        collection = (given.get("artifactCollectionNames") or [given.get("artifactCollectionName")])[0]
        aliases = {alias["alias"] for alias in given.get("aliases") or []}
        versions = state.artifacts.setdefault(collection, [])
        for version in versions:
            if version.state == "COMMITTED" and version.digest == given["digest"]:
                self._claim(version, aliases)
                return {"artifact": self._queries.artifact(version)}
        version = ArtifactVersion(
            id=_node_id("Artifact", next(state.numbers)),
            entity=entity,
            project=project,
            collection=collection,
            type=given["artifactTypeName"],
            digest=given["digest"],
            run_id=given.get("runName"),
            description=given.get("description"),
            metadata=json.loads(given.get("metadata") or "{}"),
            aliases=aliases,
            tags=[tag["tagName"] for tag in given.get("tags") or []],
        )
        versions.append(version)
        state.projects.add((entity, project))
        return {"artifact": self._queries.artifact(version)}

    def _claim(self, version: ArtifactVersion, aliases: set[str]) -> None:
        """Give a version aliases; within a collection, an alias belongs to one version."""
        for other in self._state.artifacts[version.collection]:
            if other is not version and other.state == "COMMITTED":
                other.aliases -= aliases
        version.aliases |= aliases

    def _create_manifest(self, given: Arguments) -> Node:
        """Hand out the address of the manifest, the list of an artifact's files; asked for before and after them."""
        version = self._state.version_by_id(given["artifactID"])
        file = {
            "id": _node_id("File", version.id),
            "uploadUrl": self._state.address("manifests", version.id),
            "uploadHeaders": [],
        }
        return {"artifactManifest": {"id": _node_id("ArtifactManifest", version.id), "file": file}}

    def _create_artifact_files(self, given: Arguments) -> Node:
        """Hand out upload addresses; every file is asked for, although W&B skips those it holds already."""
        files = [
            {
                "storagePath": file["name"],
                "uploadUrl": self._state.address("artifacts", file["artifactID"], file["name"]),
                "uploadHeaders": [],
                "uploadMultipartUrls": None,
                "artifact": {"id": file["artifactID"]},
            }
            for file in given["artifactFiles"]
        ]
        return {"files": _connection(files, {})}

    def _commit_artifact(self, given: Arguments) -> Node:
        """Make a version visible, once all that its manifest names has arrived."""
        version = self._state.version_by_id(given["artifactID"])
        contents = json.loads(version.manifest or "{}").get("contents", {})
        missing = [name for name, entry in contents.items() if "ref" not in entry and name not in version.files]
        if missing or not version.manifest:
            raise _Refusal(400, f"artifact {version.collection!r} is incomplete: {missing or 'no manifest'}")
        if version.state == "PENDING":
            version.index = self._state.versions_made[version.collection]
            self._state.versions_made[version.collection] += 1
            version.state = "COMMITTED"
            self._claim(version, version.aliases)
        return {"artifact": self._queries.artifact(version)}

    def _use_artifact(self, given: Arguments) -> Node:
        version = self._state.version_by_id(given["artifactID"])
        name = f"{version.collection}:{version.version}"
        run = self._state.runs[given["runName"]]
        if name not in run.used_artifacts:
            run.used_artifacts.append(name)
        return {"artifact": self._queries.artifact(version)}

    def _link_artifact(self, given: Arguments) -> Node:
        """Make a version a member of another collection too, with aliases of its own there."""
        source = self._state.version_by_id(given["artifactID"])
        name = given["artifactPortfolioName"]
        members = self._state.artifacts.setdefault(name, [])
        link = next((member for member in members if member.id == source.id), None)
        if link is None:
            link = replace(
                source,
                entity=given["entityName"],
                project=given["projectName"],
                collection=name,
                aliases=set(),
                index=len(members),
                source=source,
            )
            members.append(link)
            self._state.projects.add((link.entity, link.project))
        self._claim(link, {"latest"} | {alias["alias"] for alias in given.get("aliases") or []})
        return {"versionIndex": link.index, "artifactMembership": self._queries.membership(link)}

    def _update_artifact(self, given: Arguments) -> Node:
        version = self._state.version_by_id(given["artifactID"])
        if given.get("metadata") is not None:
            version.metadata = json.loads(given["metadata"])
        if given.get("description") is not None:
            version.description = given["description"]
        return {"artifact": self._queries.artifact(version)}

    def _members(self, given: Arguments) -> Iterator[tuple[ArtifactVersion, str]]:
        for alias in given["aliases"]:
            for member in self._state.artifacts.get(alias["artifactCollectionName"], []):
                if member.id == given["artifactID"]:
                    yield member, alias["alias"]

    def _delete_artifact(self, given: Arguments) -> Node:
        """Delete a version, which may have aliases only where that was said."""
        version = self._state.version_by_id(given["artifactID"])
        if version.aliases and not given.get("deleteAliases"):
            raise _Refusal(400, f"version {version.version} has aliases")
        for members in self._state.artifacts.values():
            members[:] = [member for member in members if member.id != version.id]
        return {"artifact": {"id": version.id}}

    def _add_aliases(self, given: Arguments) -> Node:
        for member, alias in self._members(given):
            self._claim(member, {alias})
        return {"success": True}

    def _delete_aliases(self, given: Arguments) -> Node:
        for member, alias in self._members(given):
            member.aliases.discard(alias)
        return {"success": True}


# HTTP -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Reply:
    status: int
    body: bytes

    @classmethod
    def json(cls, content: Any, status: int = 200) -> _Reply:
        return cls(status, json.dumps(content).encode())


class _Routes:
    """Takes requests to the protocol they speak."""

    def __init__(self, state: _State) -> None:
        self._state = state
        self._queries = _Queries(state)
        self._mutations = _Mutations(state, self._queries)

    def answer(self, method: str, path: str, body: bytes) -> _Reply:
        """Answer one request; whatever goes wrong in here is recorded, since the client's retries would hide it."""
        try:
            with self._state.lock:
                return self._route(method, [urllib.parse.unquote(part) for part in path.strip("/").split("/")], body)
        except _Refusal as refusal:
            return _Reply.json({"errors": [{"message": str(refusal)}]}, refusal.status)
        except _Unknown as unknown:
            self._state.unknown.append(str(unknown))
            return _Reply.json({"errors": [{"message": str(unknown)}]}, 400)
        except Exception as exc:  # noqa: BLE001 - a fault of the double is a finding of the test
            self._state.unknown.append(f"{method} {path}: {''.join(traceback.format_exception(exc))}")
            return _Reply.json({"errors": [{"message": repr(exc)}]}, 400)  # The client would retry a 500 for minutes.

    def _route(self, method: str, parts: list[str], body: bytes) -> _Reply:
        match method, *parts:
            case "POST", "graphql":
                return self._graphql(json.loads(body))
            case "POST", "files", entity, project, run_id, "file_stream":
                return self._file_stream(entity, project, run_id, json.loads(body))
            case (("PUT" | "GET"), "storage", kind, owner, *name):
                return self._storage(method, kind, owner, "/".join(name), body)
        raise _Unknown(f"{method} /{'/'.join(parts)}")

    def _graphql(self, request: dict[str, Any]) -> _Reply:
        document = _Document(request["query"], request.get("variables") or {})
        root = {**self._mutations.root, **self._queries.root}
        try:
            return _Reply.json({"data": _select(root, document.selection, document.fragments)})
        except _Unknown as unknown:
            raise _Unknown(f"{document.operation}: {unknown}") from unknown

    def _file_stream(self, entity: str, project: str, run_id: str, request: dict[str, Any]) -> _Reply:
        """Take in lines, and the end of the run: ``complete`` with its exit code."""
        run = self._state.find_run(entity, project, run_id)
        if run is None:
            raise _Refusal(404, f"run {run_id!r} not found")
        for name, part in (request.get("files") or {}).items():
            run.append(Chunk(name, part.get("offset", 0), part["content"]))
        run.heartbeat_at = _now()
        if request.get("complete"):
            run.exit_code = request.get("exitcode", 0)
            run.state = "failed" if run.exit_code else "finished"
        return _Reply.json({"limits": {}, "stopped": run.stop})

    def _storage(self, method: str, kind: str, owner: str, name: str, body: bytes) -> _Reply:
        """Store or return the bytes behind an address that was handed out."""
        if kind == "manifests":
            version = self._state.version_by_id(owner)
            if method == "PUT":
                version.manifest = body
            return _Reply(200, version.manifest)
        files = self._state.runs[owner].files if kind == "runs" else self._state.version_by_id(owner).files
        if method == "PUT":
            files[name] = body
            return _Reply(200, b"")
        return _Reply(200, files[name]) if name in files else _Reply(404, b"")


@dataclass
class _Fault:
    """A status that requests are answered with instead."""

    status: int
    until: float
    left: float
    path: str

    def applies(self, path: str) -> bool:
        """Return whether this request fails, and count it."""
        if self.path not in path or self.left <= 0 or time.monotonic() >= self.until:
            return False
        self.left -= 1
        return True


class _Handler(BaseHTTPRequestHandler):
    """Reads one request and writes the answer."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # Headers and body are two writes; without this each answer waits for an ACK.
    server: _Listener

    def do_GET(self) -> None:
        self._respond()

    def do_POST(self) -> None:
        self._respond()

    def do_PUT(self) -> None:
        self._respond()

    def _respond(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        reply = self.server.respond(self.command, self.path, self.headers.get("Authorization"), body)
        self.send_response(reply.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        self.wfile.write(reply.body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name in the standard library
        """Keep the tests' output quiet."""


class _Listener(ThreadingHTTPServer):
    """The listening socket and its threads; closing it cuts the connections, so that no thread is left behind."""

    daemon_threads = False
    request_queue_size = 64

    def __init__(self, port: int, respond: Callable[[str, str, str | None, bytes], _Reply]) -> None:
        self.respond = respond
        self._connections: set[Any] = set()
        super().__init__(("127.0.0.1", port), _Handler)
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a connection that the client dropped, as killed clients do."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def close(self) -> None:
        self.shutdown()
        self._thread.join()
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.server_close()


class WandbServer:
    """The double, as a context manager: it listens on a free port until the block ends.

    `sweeps`, `runs` and `artifacts` are what clients have stored, by sweep id, run id and collection name, which are
    unique over all projects here. `unknown` has to stay empty: it lists what clients asked for and the double could
    not answer as W&B would.
    """

    def __init__(self, entity: str = "team") -> None:
        self.entity = entity
        self.api_key = "0123456789" * 4
        self._state = _State(entity)
        self._routes = _Routes(self._state)
        self._faults: list[_Fault] = []
        self._delay_s = 0.0
        self._closed = threading.Event()
        self._listener: _Listener | None = None
        self._port = 0

    @property
    def url(self) -> str:
        """The address for WANDB_BASE_URL."""
        return self._state.url

    @property
    def env(self) -> dict[str, str]:
        """The variables that make a client use this server."""
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": self.api_key}

    @property
    def sweeps(self) -> dict[str, Sweep]:
        """Sweeps by id."""
        return dict(self._state.sweeps)

    @property
    def runs(self) -> dict[str, Run]:
        """Runs by id."""
        return dict(self._state.runs)

    def put(self, *runs: Run) -> None:
        """Have runs that some client made long ago."""
        self._state.runs |= {run.id: run for run in runs}
        self._state.projects |= {(run.entity, run.project) for run in runs}

    def delete_sweep(self, sweep_id: str) -> None:
        """Delete a sweep, as somebody does on its page; its runs stay, and are members of none."""
        for run_id in self._state.sweeps.pop(sweep_id).run_ids:
            self._state.runs[run_id].sweep_id = None

    @property
    def artifacts(self) -> dict[str, list[ArtifactVersion]]:
        """Versions by the name of their collection, oldest first, uncommitted ones included."""
        return dict(self._state.artifacts)

    @property
    def views(self) -> list[dict[str, Any]]:
        """Saved workspace views and reports, oldest first, as they were sent; `spec` is JSON."""
        return list(self._state.views)

    @property
    def unknown(self) -> list[str]:
        """What could not be answered as W&B would."""
        return self._state.unknown

    def __enter__(self) -> WandbServer:
        self.resume()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self.pause()

    def pause(self) -> None:
        """Go down: refuse connections, and cut those that are open."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def resume(self) -> None:
        """Come back at the same address, with everything still stored."""
        if self._listener is None:
            self._listener = _Listener(self._port, self._respond)
            self._port = self._listener.server_port
            self._state.url = f"http://127.0.0.1:{self._port}"

    def fail(
        self, status: int, seconds: float | None = None, count: int | None = None, path: str | None = None
    ) -> None:
        """Answer with an error status, for some seconds, some requests, or until `heal`.

        `path` restricts it to requests whose path contains it; GraphQL requests count as ``/graphql/OPERATION``.
        """
        until = time.monotonic() + seconds if seconds is not None else float("inf")
        self._faults.append(_Fault(status, until, count if count is not None else float("inf"), path or ""))

    def delay(self, seconds: float) -> None:
        """Wait this long before each answer from now on."""
        self._delay_s = seconds

    def heal(self) -> None:
        """End the effects of `fail` and `delay`."""
        self._faults.clear()
        self._delay_s = 0.0

    def _respond(self, method: str, path: str, authorization: str | None, body: bytes) -> _Reply:
        self._closed.wait(self._delay_s)
        path = urllib.parse.urlsplit(path).path
        place = f"{path}/{_operation(body)}" if path == "/graphql" else path
        with self._state.lock:
            for fault in self._faults:
                if fault.applies(place):
                    return _Reply.json({"error": "injected by the test"}, fault.status)
        if path.startswith("/sdk/otel/"):
            return _Reply(200, b"")  # Telemetry about the client itself; wandb-core complains when it is refused.
        # Like W&B's upload addresses, those of the storage carry their own permission.
        if not path.startswith("/storage/") and authorization != self._authorization:
            return _Reply.json({"error": "user is not logged in"}, 401)
        return self._routes.answer(method, path, body)

    @property
    def _authorization(self) -> str:
        return "Basic " + base64.b64encode(f"api:{self.api_key}".encode()).decode()


def _operation(body: bytes) -> str:
    """Return the name of a GraphQL request's operation."""
    found = re.search(r"\b(?:query|mutation)\s+(\w+)", json.loads(body)["query"])
    return found[1] if found else ""
