"""The file that a W&B run is written to, `run-ID.wandb`: what it says, and the last words of a run that died (wandb).

It is a log of protobuf records in LevelDB's format, after a header of seven bytes: blocks of 32 KiB, in which every
fragment of a record has a header of seven bytes with its checksum, length and kind. A process that is killed may leave
an unfinished record at the end. Source: https://github.com/google/leveldb/blob/main/doc/log_format.md and
`core/internal/transactionlog` of https://github.com/wandb/wandb.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from orchestrator.folder import sent_marker
from orchestrator.messages import GOES_ON, GOOD, Outcome, Sample

BLOCK, HEADER = 32 * 1024, struct.Struct("<IHB")
# The type of artifact that a checkpoint is, in W&B's own words.
MODEL = "model"
IDENTITY = 7  # bytes: ":W&B", a magic number and the version of the format
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4
# Records of a run's end, of which its exit is one.
TAIL = 10


def records(path: Path, *, after: int = IDENTITY) -> Iterator[tuple[int, bytes]]:
    """Every whole record of a run's file, each with the position at which it ends; what follows is unfinished.

    Args:
        path: the file.
        after: the position at which a record ends, from which on they are read.
    """
    base = after - after % BLOCK
    with path.open("rb") as file:
        file.seek(base)
        data = file.read()
    at, parts = after - base, b""
    while at + HEADER.size <= len(data):
        left = BLOCK - at % BLOCK
        if left < HEADER.size:  # too little for a header: padding
            at += left
            continue
        checksum, length, kind = HEADER.unpack_from(data, at)
        part = data[at + HEADER.size : at + HEADER.size + length]
        if kind not in (FULL, FIRST, MIDDLE, LAST) or len(part) < length or checksum != _checksum(kind, part):
            return
        at += HEADER.size + length
        parts = part if kind in (FULL, FIRST) else parts + part
        if kind in (FULL, LAST):
            yield base + at, parts


@dataclass(frozen=True, kw_only=True)
class Written:
    """What a run's file holds."""

    rows: int
    """Of history."""
    steps: int
    """How far W&B counts them: the number of the last one, and one more; a file that goes on with a run begins at 0."""
    checkpoints: Mapping[str, int]
    """Epochs of the trial's checkpoints that were logged, by the artifact's digest."""
    artifacts: frozenset[str]
    """Digests of what else was logged as an artifact, such as tables."""
    files: frozenset[str]
    """Names of what was saved beside it, in the folder `files`, such as media."""
    ended: bool
    """Whether the run's process got to say how it ended."""


def read(path: Path) -> Written:
    """Count what a run's file holds."""
    kinds: Counter[str] = Counter()
    checkpoints, others, files = dict[str, int](), set[str](), set[str]()
    steps = 0
    for _, record in _parsed(path):
        kinds[record.WhichOneof("record_type")] += 1
        if record.WhichOneof("record_type") == "artifact":
            told = json.loads(record.artifact.metadata or "{}")
            if record.artifact.name == model_of(path.stem.removeprefix("run-")) and {"sweep", "epoch"} <= told.keys():
                checkpoints[record.artifact.digest] = told["epoch"]
            else:  # of that name, too: Lightning's logger gives it to what a user has it log
                others.add(record.artifact.digest)
        if record.WhichOneof("record_type") == "history":
            steps = record.history.step.num + 1
        files |= {item.path for item in record.files.files}
    return Written(
        rows=kinds["history"],
        steps=steps,
        checkpoints=checkpoints,
        artifacts=frozenset(others),
        files=frozenset(files),
        ended=bool(kinds["exit"]),
    )


def last_checkpoints(parts: Sequence[Written]) -> Mapping[str, int]:
    """The checkpoints that a run keeps, of those that its parts have logged, oldest part first.

    A part that logs any logs all that are kept by then, so that those of earlier parts are not kept any more.
    """
    return next((part.checkpoints for part in reversed(parts) if part.checkpoints), {})


def model_of(run_id: str) -> str:
    """The name of the artifact whose versions are the checkpoints of a run."""
    return f"model-{run_id}"


def summary(paths: Iterable[Path]) -> dict[str, Any]:
    """The summary that a run's files come to, without what W&B itself adds: of every name the last value."""
    found: dict[str, Any] = {}
    for path in paths:
        for _, record in _parsed(path):
            for item in (*record.history.item, *record.summary.update):
                names = list(item.nested_key) or [item.key]
                if not names[0].startswith("_"):
                    _put(found, names, json.loads(item.value_json))
    return found


def _put(into: dict[str, Any], names: Sequence[str], value: Any) -> None:
    for name in names[:-1]:
        if not isinstance(into.get(name), dict):
            into[name] = {}
        into = into[name]
    into[names[-1]] = value


def has_ended(path: Path) -> bool:
    """Whether the process that writes it got to say how the run ended; whatever else it holds is not looked at."""
    from wandb.proto import wandb_internal_pb2 as messages

    last = deque(records(path), maxlen=TAIL)
    return any(messages.Record.FromString(data).WhichOneof("record_type") == "exit" for _, data in last)


def has_row(path: Path, key: str, **where: float) -> bool:
    """Whether a row of history has a key, and other keys' values."""
    for _, record in _parsed(path):
        row = _row(record)
        if key in row and all(name in row and json.loads(row[name]) == value for name, value in where.items()):
            return True
    return False


def values(path: Path, key: str) -> Counter[float]:
    """How often a row of history has each value of a metric."""
    found: Counter[float] = Counter()
    for _, record in _parsed(path):
        if key in (row := _row(record)):
            found[json.loads(row[key])] += 1
    return found


def samples(path: Path, *, after: int) -> tuple[list[Sample], int]:
    """What a run's file has of system metrics from a position on, and the position to go on from."""
    found = []
    for end, record in _parsed(path, after=after):
        after = end
        if record.WhichOneof("record_type") == "stats":
            values = {item.key: json.loads(item.value_json) for item in record.stats.item}
            found.append(Sample(taken_at_s=record.stats.timestamp.ToNanoseconds() / 1e9, values=values))
    return found, after


def say_last_words(path: Path, *, outcome: Outcome, error: str | None) -> None:
    """Write for a run whose process is gone how its trial ended; does nothing to one that said so itself.

    Raises:
        OSError: the file cannot be written.
    """
    from wandb.proto import wandb_internal_pb2 as messages

    end, number, introduced = IDENTITY, 0, False
    for at, record in _parsed(path):
        if record.WhichOneof("record_type") == "exit":
            return
        end, number, introduced = at, record.num, introduced or record.WhichOneof("record_type") == "run"
    summary = {"outcome": str(outcome), "error": error}
    update = [messages.SummaryItem(key=key, value_json=json.dumps(value)) for key, value in summary.items()]
    name = path.stem.removeprefix("run-")
    sweep, _, trial = name.rpartition("-")
    words = [] if introduced else [messages.Record(run=messages.RunRecord(run_id=name))]
    if words:  # it was killed before it had written who it is
        words[0].run.display_name = f"{sweep}/{trial}"
        words[0].run.start_time.FromDatetime(datetime.now(UTC))
    words.append(messages.Record(summary=messages.SummaryRecord(update=update)))
    if outcome in GOES_ON:
        words.append(messages.Record(preempting=messages.RunPreemptingRecord()))
    words.append(messages.Record(exit=messages.RunExitRecord(exit_code=0 if outcome in GOOD else 1)))
    for index, word in enumerate(words, start=1):
        word.num = number + index
    with path.open("r+b") as file:
        file.truncate(end)
        file.seek(end)
        for word in words:
            _append(file, word.SerializeToString())


def end_paused(path: Path, outcome: Outcome) -> None:
    """Say in the file of a run that only paused, and is not to go on, how its trial ended.

    Raises:
        OSError: the file cannot be written.
    """
    said = None
    for _, record in _parsed(path):
        for item in record.summary.update:
            said = json.loads(item.value_json) if item.key == "outcome" else said
    if said == Outcome.PAUSED and outcome is not Outcome.PAUSED:
        amend(path, {"outcome": str(outcome)})


def amend(path: Path, values: Mapping[str, Any]) -> None:
    """Add values to the summary of a run that has ended, as if it had said them before its end; it is sent again."""
    from wandb.proto import wandb_internal_pb2 as messages

    update = [messages.SummaryItem(key=key, value_json=json.dumps(value)) for key, value in values.items()]
    _insert(path, [messages.Record(summary=messages.SummaryRecord(update=update))])


def log_artifacts(
    path: Path, artifacts: Iterable[tuple[Any, Sequence[str]]], *, project: str | None, entity: str | None
) -> None:
    """Log artifacts, each with its aliases, in the file of a run whose process is gone; it is sent again.

    Source: `publish_artifact` in the SDK's `interface/interface.py`.

    Raises:
        OSError: the file cannot be written.
    """
    from wandb.proto import wandb_internal_pb2 as messages
    from wandb.sdk.interface.interface_queue import InterfaceQueue  # the one that needs no process behind it

    made = []
    for artifact, aliases in artifacts:
        record = InterfaceQueue()._make_artifact(artifact)
        record.run_id, record.project, record.entity = path.stem.removeprefix("run-"), project or "", entity or ""
        record.finalize = True
        record.aliases.extend(dict.fromkeys(["latest", *aliases]))
        made.append(messages.Record(artifact=record))
    _insert(path, made)


def _insert(path: Path, new: Sequence[Any]) -> None:
    """Add records to a file before the run's end, where it has one, and let it be sent again."""
    end, number = IDENTITY, 0
    after: list[Any] = []
    for at, record in _parsed(path):
        if after or record.WhichOneof("record_type") == "exit":
            after.append(record)
        else:
            end, number = at, record.num
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            file.write(path.read_bytes()[:end])
            for index, record in enumerate((*new, *after), start=1):
                record.num = number + index
                _append(file, record.SerializeToString())
        sent_marker(path).unlink(missing_ok=True)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)  # where the disk is full


def _row(record: Any) -> dict[str, str]:
    """A row of history, each value as JSON; of a record of another kind nothing."""
    return {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}


def _parsed(path: Path, *, after: int = IDENTITY) -> Iterator[tuple[int, Any]]:
    from wandb.proto import wandb_internal_pb2 as messages

    for end, data in records(path, after=after):
        yield end, messages.Record.FromString(data)


def _append(file: Any, data: bytes) -> None:
    begun = False
    while True:
        left = BLOCK - file.tell() % BLOCK
        if left < HEADER.size:
            file.write(b"\0" * left)
            left = BLOCK
        part, data = data[: left - HEADER.size], data[left - HEADER.size :]
        kind = (LAST if begun else FULL) if not data else (MIDDLE if begun else FIRST)
        file.write(HEADER.pack(_checksum(kind, part), len(part), kind) + part)
        if not data:
            return
        begun = True


def _checksum(kind: int, data: bytes) -> int:
    return zlib.crc32(data, zlib.crc32(bytes([kind])))
