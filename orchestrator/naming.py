"""Names: what a trial is called everywhere, where sweeps are kept, and what a mistyped name was meant to be."""

from __future__ import annotations

import difflib
import re
import zlib
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime

# W&B run ids may hold letters, digits, '-' and '_' and be 64 characters long; eight are left for the trial's number.
SWEEP_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,55}")
SWEEP_NAME_RULE = "up to 56 letters, digits, '-' and '_', the first a letter or digit"

DEFAULT_STORAGE = "./results"


def default_storage(environ: Mapping[str, str]) -> str:
    """Where sweeps are kept that do not say where: a cluster's setup says it on its nodes by this variable."""
    return environ.get("ORCHESTRATOR_STORAGE") or DEFAULT_STORAGE


def run_id(sweep: str, number: int) -> str:
    """The W&B run id of a trial: its durable name `<sweep>/<number>`, spelt as W&B allows."""
    return f"{sweep}-{number}"


def is_artifact(checkpoint: str) -> bool:
    """Whether a checkpoint is named as an artifact of W&B, `ENTITY/PROJECT/NAME:ALIAS`, and not by a path."""
    return re.fullmatch(r"[^/:\s]+/[^/:\s]+/[^/:\s]+:[^/:\s]+", checkpoint) is not None


def sweep_name(trainable: str, now: datetime) -> str:
    """A name for a sweep that was given none: what it trains, and when, e.g. `digits-20261120-201530`."""
    stem = re.sub(r"[^A-Za-z0-9]+", "-", trainable.rpartition(".")[2].rpartition(":")[2]).strip("-").lower()
    return f"{(stem or 'sweep')[:40]}-{now:%Y%m%d-%H%M%S}"


def trial_seed(sweep_seed: int, number: int) -> int:
    """The seed of a trial, in [0, 2**32): the same for the same sweep seed and number on every machine."""
    return zlib.crc32(f"{sweep_seed}/{number}".encode())


def closest(word: str, known: Iterable[str]) -> str | None:
    """The known name that `word` was probably meant to be: like it, in another case, without its group, or cut short.

    None where nothing is close.
    """
    as_written = {name: name for name in known}
    if (alone := word.rpartition(".")[2]) in as_written:
        return alone
    for spelt, sought in ((as_written, word), ({name.lower(): name for name in as_written}, word.lower())):
        if close := difflib.get_close_matches(sought, spelt, n=1):
            return spelt[close[0]]
    longer = [name for name in as_written if len(word) >= 3 and name.startswith(word)]
    return longer[0] if len(longer) == 1 else None


def near_miss(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` when something known is close to `word`, else nothing."""
    close = closest(word, known)
    return "" if close is None else f"; did you mean '{close}'?"


def hint(wrong: object, right: Collection[object]) -> str:
    """The near miss among `right`, whatever its case, or all of them."""
    shown = {str(each): repr(each) for each in right}
    close = closest(str(wrong), shown)
    return f"available: {', '.join(shown.values()) or 'none'}" if close is None else f"did you mean {shown[close]}?"
