"""A sweep's report: one HTML page with everything in it, that opens without a network (plotly)."""

from __future__ import annotations

import base64
import gzip
import html
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from string import Template
from typing import Any

from plotly.offline import get_plotlyjs

from orchestrator import ranking
from orchestrator.figures import STATES, figures
from orchestrator.folder import SweepFolder
from orchestrator.ledger import TrialRecord
from orchestrator.progress import duration
from orchestrator.results import Status
from orchestrator.spec import Spec

# Every panel a report can have: its title, and a sentence on how to read it. Wide ones take the page's whole width.
PANELS = {
    "best": ("Best so far", "A dot is a trial’s best epoch; the line is the best of the complete ones."),
    "front-1": ("Two objectives", "Every trial; the line joins those that no other one beats in all objectives."),
    "front-2": ("Two more", "The same trials, against another objective."),
    "curves": ("Learning curves", "Every trial by epoch. Pruned trials are faint, and end in a dot."),
    "parallel": (
        "Parallel coordinates",
        "A line is a trial, its colour the stronger the better its rank. Drag along an axis to filter, here and in the"
        " table; drag a name to move its axis.",
    ),
    "importance": ("Importance", "Each hyperparameter’s share in telling the top trials from the rest (PED-ANOVA)."),
    "map": (
        "Two together",
        "Every trial that has both: the stronger the colour the better the rank; a ring is around the best of all.",
    ),
    "slice-1": ("One alone", "Every trial that has it; a ring is around the best of all."),
    "slice-2": ("Another alone", "Every trial that has it; a ring is around the best of all."),
    "slots": ("Slots", "What ran where, and when. Where a row is empty, the slot was idle."),
}
WIDE = {"parallel", "slots"}
# Those with the metric upwards.
VALUED = {"best", "front-1", "front-2", "curves", "slice-1", "slice-2"}


def page(
    spec: Spec,
    folder: SweepFolder,
    records: Sequence[TrialRecord],
    importances: Mapping[str, float],
    status: Status,
) -> str:
    """The page, as HTML."""
    drawn = figures(spec, records, importances)
    best = next(iter(ranking.ranked(spec.goal, records)), None)
    parts = {
        "title": _text(spec.name),
        "status": _text(status),
        "subtitle": _subtitle(spec, records),
        "tiles": "".join(_tile(*tile) for tile in _tiles(spec, records, best)),
        "winner": _winner(folder, best) if best else "",
        "panels": "".join(
            _panel(name, drawn[name].pop("title", title), hint + _beyond(name, drawn[name]))
            for name, (title, hint) in PANELS.items()
            if name in drawn
        ),
        "filters": _filters(records),
        "table": _table(spec, records, best),
        "spec": _text(spec.to_yaml()),
        "style": _part("report.css"),
        "script": _part("report.js"),
        "figures": json.dumps(drawn, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
        "plotly": base64.b64encode(gzip.compress(get_plotlyjs().encode("utf-8"), mtime=0)).decode("ascii"),
    }
    return Template(_part("report.html")).substitute(parts)


def _part(name: str) -> str:
    return resources.files("orchestrator").joinpath("report_page", name).read_text(encoding="utf-8")


def _subtitle(spec: Spec, records: Sequence[TrialRecord]) -> str:
    what = spec.trainable if isinstance(spec.trainable, str) else spec.trainable.model.class_path
    parts = [f"<b>{_text(what)}</b>", f"{_text(spec.goal)} <b>{_text(spec.metric)}</b>"]
    if began := [record.started for record in records if record.started]:
        parts.append(f"started {min(began).astimezone():%d %B %Y, %H:%M}")
    return " · ".join(parts)


def _tiles(spec: Spec, records: Sequence[TrialRecord], best: TrialRecord | None) -> Iterator[tuple[str, str, str]]:
    """Label, figure and remark of what one wants to know first."""
    if best is not None:
        yield f"best {spec.metric}", f"{best.value:.5g}", f"trial {best.number}, epoch {best.best_epoch}"
    counts = {state: sum(record.state == state for record in records) for state in STATES}
    remark = ", ".join(f"{count:,} {STATES[state]}" for state, count in counts.items() if count)
    yield "trials", f"{len(records):,}", remark or "none yet"
    moments = [moment for record in records for moment in (record.started, record.ended) if moment]
    if moments:
        yield "from first to last", duration((max(moments) - min(moments)).total_seconds()), _pace(records)
    epochs = sum(len(record.curve) for record in records)
    whole = spec.schedule.max_epochs * len(records)
    if epochs and whole:
        yield "epochs trained", f"{epochs:,}", f"{1 - epochs / whole:.0%} less than all to the end"


def _pace(records: Sequence[TrialRecord]) -> str:
    took_s = [took for record in records if record.ended and (took := record.worked_s(record.ended)) is not None]
    return f"{duration(sum(took_s) / len(took_s))} a trial" if took_s else ""


def _tile(label: str, figure: str, remark: str) -> str:
    remark = f'<dd class="remark">{_text(remark)}</dd>'
    return f'<div class="tile"><dt>{_text(label)}</dt><dd>{_text(figure)}</dd>{remark}</div>'


def _winner(folder: SweepFolder, best: TrialRecord) -> str:
    chips = "".join(
        f"<div><dt>{_text(name)}</dt><dd>{_text(_number(value))}</dd></div>" for name, value in best.params.items()
    )
    rows = [("reproduce it", reproduce(folder, best))]
    if best.checkpoint:
        rows.append(("fetch its checkpoint", shlex.join([*COMMAND, "best", _where(folder), "--download", "winner"])))
    commands = "".join(
        f'<div class="command"><span>{label}</span><code>{_text(command)}</code>'
        f'<button type="button" aria-label="copy: {label}">copy</button></div>'
        for label, command in rows
    )
    title = f"Trial {best.number} is the best"
    return f'<section class="card winner"><h2>{title}</h2><dl class="chips">{chips}</dl>{commands}</section>'


COMMAND = ("python", "-m", "orchestrator")


def reproduce(folder: SweepFolder, best: TrialRecord) -> str:
    """The command that trains the best trial again."""
    return shlex.join([*COMMAND, "replay", _where(folder), str(best.number)])


def _where(folder: SweepFolder) -> str:
    return folder.show("").rstrip("/")


def _panel(name: str, title: str, hint: str) -> str:
    wide = " wide" if name in WIDE else ""
    return (
        f'<section class="card{wide}"><h2>{_text(title)}</h2><p class="hint">{hint}</p>'
        f'<div class="plot" id="{name}" role="img" aria-label="{_text(title)}"></div></section>'
    )


def _beyond(name: str, figure: Mapping[str, Any]) -> str:
    """What a panel says whose axis of the metric does not begin with every value."""
    cut = name in VALUED and "range" in figure["layout"]["yaxis"]
    return " Some values are far beyond its axis: a double click shows them." if cut else ""


def _filters(records: Sequence[TrialRecord]) -> str:
    counts = {state: sum(record.state == state for record in records) for state in STATES}
    shown = [("", "all", len(records)), *((state, STATES[state], n) for state, n in counts.items() if n)]
    return "".join(
        f'<button type="button" data-state="{state}" aria-pressed="{str(not state).lower()}">{label} <b>{count:,}</b>'
        "</button>"
        for state, label, count in shown
    )


def _table(spec: Spec, records: Sequence[TrialRecord], best: TrialRecord | None) -> str:
    """Head and rows; a cell's `data-v` is what it is sorted by."""
    params = list(dict.fromkeys(name for record in records for name in record.params))
    columns = ["trial", "state", spec.metric, "at epoch", "epochs", "time", *params, "W&B run", "error"]
    numeric = {2, 3, 4, 5} | {
        6 + place for place, name in enumerate(params)
        if all(isinstance(record.params.get(name), int | float | None) for record in records)
    }  # fmt: skip
    head = "".join(
        f'<th scope="col"{_class(place in numeric)}><button type="button">{_text(name)}</button></th>'
        for place, name in enumerate(columns)
    )
    rows = []
    for record in records:
        cells = "".join(
            f"<td{_class(place in numeric)}{_sorted_by(value)}>{shown}</td>"
            for place, (value, shown) in enumerate(_cells(record, params))
        )
        mark = ' class="best"' if record is best else ""
        rows.append(f'<tr data-number="{record.number}" data-state="{record.state}"{mark}>{cells}</tr>')
    return f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"


def _cells(record: TrialRecord, params: Sequence[str]) -> Iterator[tuple[Any, str]]:
    """What a cell is sorted by, and what it shows."""
    yield record.number, str(record.number)
    yield record.state, f'<span class="state {STATES[record.state]}">{STATES[record.state]}</span>'
    yield record.value, "" if record.value is None else f"{record.value:.6g}"
    yield record.best_epoch, _shown(record.best_epoch)
    yield len(record.curve), str(len(record.curve))
    took_s = record.worked_s(record.ended) if record.ended else None
    yield took_s, "" if took_s is None else duration(took_s)
    for name in params:
        yield record.params.get(name), _shown(record.params.get(name))
    run = record.wandb_run or ""
    yield run, f'<a href="{_text(run)}" rel="noreferrer">open</a>' if "://" in run else _text(run.rpartition("/")[2])
    yield record.error, _text(record.error or "")


def _class(is_numeric: bool) -> str:
    return ' class="n"' if is_numeric else ""


def _sorted_by(value: Any) -> str:
    return "" if value is None else f' data-v="{_text(value)}"'


def _shown(value: Any) -> str:
    return "" if value is None else _text(_number(value))


def _number(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _text(value: Any) -> str:
    return html.escape(str(value))
