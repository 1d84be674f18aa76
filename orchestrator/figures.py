"""The figures of a sweep's report, as plain data in plotly's schema (https://plotly.com/javascript/reference/).

A colour is the name of one of the page's, such as `@best`: which it is depends on whether the reader's screen is light
or dark, so the page fills it in.
"""

from __future__ import annotations

import html
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from orchestrator import ranking
from orchestrator.ledger import Attempt, TrialRecord
from orchestrator.ranking import Goal
from orchestrator.space import Parameter
from orchestrator.spec import Spec

Figure = dict[str, Any]
"""`data`, a list of traces, and `layout`; also a part of one."""

STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running"}
# By rank, so that colours spread evenly however the values do.
RANK_COLOURS = [[0, "@rank-low"], [0.5, "@rank-mid"], [1, "@rank-high"]]
# Axes of the parallel coordinates beside the metric's, the most important; more could not be told apart.
MAX_AXES = 9
# Points of all curves together; drawing more takes seconds.
MAX_POINTS = 40_000
# How many times as far from the best as most values are, one is too far to be shown from the beginning.
HOPELESS = 4.0
# Trials whose number fits into their bar.
MAX_LABELLED = 60
TRIAL = "trial %{customdata}"


def figures(spec: Spec, records: Sequence[TrialRecord], importances: Mapping[str, float]) -> dict[str, Figure]:
    """Every figure that the trials give something to draw for, by the panel it goes into."""
    space = dict(spec.load_space())
    varied = sorted(space, key=lambda name: -importances.get(name, 0.0))
    trials = _Trials(spec, records)
    if not records:
        return {}
    drawn = {"slots": slots(records)}
    if trials.ranked:
        drawn |= {"best": best_so_far(trials), "curves": curves(trials)}
        drawn |= {f"front-{place}": front(trials, name) for place, name in enumerate(list(spec.objectives)[:2], 1)}
        for place, name in enumerate(varied[:2], 1):
            drawn[f"slice-{place}"] = slices(trials, name, space[name])
        if len(varied) > 1:
            first, second = varied[:2]
            drawn["map"] = both(trials, (first, space[first]), (second, space[second]))
        if varied:
            drawn["parallel"] = parallel(trials, {name: space[name] for name in varied[:MAX_AXES]})
    if importances:
        drawn["importance"] = importance(importances)
    return {name: figure for name, figure in drawn.items() if figure["data"]}


class _Trials:
    """A sweep's trials, as every figure needs them."""

    def __init__(self, spec: Spec, records: Sequence[TrialRecord]) -> None:
        self.metric, self.goal, self.records = spec.metric, spec.goal, records
        self.front = ranking.front(spec.goals, records)
        self.ranked = ranking.ranked(spec.goal, records)
        self.best = self.ranked[0] if self.ranked else None
        last = max(len(self.ranked) - 1, 1)
        self.score = {record.number: 1 - place / last for place, record in enumerate(self.ranked)}
        """1 for the best trial, 0 for the worst."""
        self.value_range = focus(spec.goal, [value for record in self.ranked if (value := record.value) is not None])

    def of_state(self, state: str) -> list[TrialRecord]:
        return [record for record in self.records if record.state == state]


def best_so_far(trials: _Trials) -> Figure:
    """Every trial's value, and the best of those that had their whole budget by then."""
    data = []
    for state, colour in STATES.items():
        shown = [record for record in trials.of_state(state) if record.value is not None]
        if shown:
            data.append(_dots(shown, [r.number for r in shown], [r.value for r in shown], colour))
    pool = trials.of_state("COMPLETE") or trials.ranked
    steps: list[TrialRecord] = []
    for record in sorted(pool, key=lambda record: record.number):
        if ranking.ranked(trials.goal, [*steps[-1:], record])[:1] == [record]:
            steps.append(record)
    if steps:
        x, y = [record.number for record in steps], [record.value for record in steps]
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": "best so far",
                "x": [*x, trials.records[-1].number],
                "y": [*y, y[-1]],
                "customdata": [*x, x[-1]],
                "line": {"shape": "hv", "width": 2.5, "color": "@best"},
                "marker": {"size": [9] * len(x) + [0], "color": "@best"},
                "hovertemplate": f"{TRIAL}: %{{y:.6g}}<extra>best so far</extra>",
            }
        )
    return {"data": data, "layout": {"xaxis": {"title": {"text": "trial"}}, "yaxis": _value_axis(trials)}}


def front(trials: _Trials, name: str) -> Figure:
    """Two objectives of every trial against each other, and the Pareto front, which is that of all objectives."""
    data = []
    for state, colour in STATES.items():
        shown = [record for record in trials.of_state(state) if record.value is not None and name in record.measured]
        if shown:
            x = [record.measured[name] for record in shown]
            data.append(_dots(shown, x, [record.value for record in shown], colour))
    if trials.front:
        line = sorted(trials.front, key=lambda record: record.measured[name])
        dots = _dots(line, [r.measured[name] for r in line], [r.value for r in line], "best")
        data.append(dots | {"mode": "lines+markers", "name": "Pareto front", "line": {"width": 2, "color": "@best"}})
    layout = {"xaxis": {"title": {"text": _text(name)}, "tickformat": ".4~g"}, "yaxis": _value_axis(trials)}
    return {"data": data, "layout": layout, "title": f"{trials.metric} and {name}"}


def curves(trials: _Trials) -> Figure:
    """The metric by epoch, of every trial: the winner's in front, pruned ones faint behind."""
    most = max(20, MAX_POINTS // max(1, len(trials.records)))
    looks = {"PRUNED": (1, 0.55), "FAIL": (1, 0.7), "RUNNING": (1.5, 0.9), "COMPLETE": (1.5, 0.75)}
    data = []
    for state, (width, opacity) in looks.items():
        group = [record for record in trials.of_state(state) if record.curve and record is not trials.best]
        if group:
            data.append(_lines(group, most, STATES[state], STATES[state], width, opacity))
            data.append(_ends(group, STATES[state], opacity))
    if trials.best:
        data.append(_lines([trials.best], most, "best", f"trial {trials.best.number}, the best", 3, 1))
    layout = {"xaxis": {"title": {"text": "epoch"}, "rangemode": "tozero"}, "yaxis": _value_axis(trials)}
    return {"data": data, "layout": layout}


def parallel(trials: _Trials, space: Mapping[str, Parameter]) -> Figure:
    """Every trial with a value as a line across its hyperparameters to its value; the most important are next to it."""
    shown = trials.ranked[::-1]  # the best are drawn last, on top
    fade = max(1.0, math.log10(len(shown)))  # among a thousand lines, half of which are of the better half
    dimensions = [
        _Scale(parameter, [record.params.get(name) for record in shown]).dimension(name)
        for name, parameter in reversed(list(space.items()))
    ]
    values = [value for record in shown if (value := record.value) is not None]
    low, high = trials.value_range or (min(values), max(values))
    high += 1e-9 * (high == low)
    dimensions.append(
        {"label": _text(trials.metric), "values": [min(max(v, low), high) for v in values],
         **_ticks_of(low, high, log=False)}
    )  # fmt: skip
    trace = {
        "type": "parcoords",
        "dimensions": dimensions,
        "line": {
            "color": [_rounded(trials.score[r.number] ** fade) for r in shown],
            "colorscale": RANK_COLOURS,
            "cmin": 0,
            "cmax": 1,
        },
        "unselected": {"line": {"color": "@grid", "opacity": 0.25}},
        "labelfont": {"size": 13, "color": "@text"},
        "tickfont": {"size": 11, "color": "@muted"},
        "rangefont": {"size": 1, "color": "rgba(0,0,0,0)"},
    }
    layout = {"margin": {"l": 70, "r": 70, "t": 46, "b": 18}, "meta": {"trials": [r.number for r in shown]}}
    return {"data": [trace], "layout": layout}


def importance(importances: Mapping[str, float]) -> Figure:
    """Each hyperparameter's share, the largest on top."""
    shown = list(importances.items())[:12][::-1]
    trace = {
        "type": "bar",
        "orientation": "h",
        "y": [_text(name) for name, _ in shown],
        "x": [share for _, share in shown],
        "text": [f"{share:.0%}" for _, share in shown],
        "textposition": "outside",
        "cliponaxis": False,
        "marker": {"color": "@complete"},
        "hovertemplate": "%{y}: %{x:.1%}<extra></extra>",
    }
    layout = {
        "xaxis": {"visible": False, "range": [0, 1.15 * max(share for _, share in shown)]},
        "yaxis": {"showgrid": False, "ticks": ""},
        "bargap": 0.35,
        "showlegend": False,
        "margin": {"l": 56, "r": 16, "t": 12, "b": 12},
    }
    return {"data": [trace], "layout": layout}


def slices(trials: _Trials, name: str, parameter: Parameter) -> Figure:
    """The value against one hyperparameter, of every trial for which it was active."""
    data = []
    for state, colour in STATES.items():
        shown = [r for r in trials.of_state(state) if r.value is not None and r.params.get(name) is not None]
        if shown:
            x = [_on_axis(parameter, record.params[name]) for record in shown]
            data.append(_dots(shown, x, [record.value for record in shown], colour))
    if trials.best and trials.best.params.get(name) is not None:
        x = [_on_axis(parameter, trials.best.params[name])]
        data.append(_ring(trials.best, x, [trials.best.value]))
    layout = {"xaxis": _axis(name, parameter), "yaxis": _value_axis(trials), "showlegend": False}
    return {"data": data, "layout": layout, "title": f"{trials.metric} against {name}"}


def both(trials: _Trials, first: tuple[str, Parameter], second: tuple[str, Parameter]) -> Figure:
    """Where the trials are that are good, over two hyperparameters."""
    (x_name, x_parameter), (y_name, y_parameter) = first, second
    shown = [r for r in trials.ranked[::-1] if r.params.get(x_name) is not None and r.params.get(y_name) is not None]
    if not shown:
        return {"data": []}

    def places(records: Iterable[TrialRecord]) -> tuple[list[Any], list[Any]]:
        taken = list(records)
        return (
            [_on_axis(x_parameter, r.params[x_name]) for r in taken],
            [_on_axis(y_parameter, r.params[y_name]) for r in taken],
        )

    x, y = places(shown)
    dots = _dots(shown, x, y, "complete")
    dots["marker"] |= {
        "color": [trials.score[r.number] for r in shown],
        "colorscale": RANK_COLOURS,
        "cmin": 0,
        "cmax": 1,
        "size": 10 if len(shown) < 200 else 7,
        "opacity": 0.95,
        "line": {"width": 1, "color": "@rank-edge"},
    }
    dots["text"] = [f"{_text(trials.metric)} {r.value:.6g}" for r in shown]
    dots["hovertemplate"] = f"{TRIAL}: %{{text}}<extra></extra>"
    data = [dots, *(_ring(record, *places([record])) for record in shown if record is trials.best)]
    layout = {"xaxis": _axis(x_name, x_parameter), "yaxis": _axis(y_name, y_parameter), "showlegend": False}
    return {"data": data, "layout": layout, "title": f"{x_name} and {y_name}"}


@dataclass(frozen=True, kw_only=True)
class _Stretch:
    """A trial's time on a slot, in seconds since the first trial began."""

    record: TrialRecord
    slot: str
    began_s: float
    ended_s: float


def slots(records: Sequence[TrialRecord]) -> Figure:
    """What ran on which slot, and when; what is empty was idle."""
    stretches = _stretches(records)
    if not stretches:
        return {"data": []}
    lanes = _lanes(stretches)
    end_s = max(stretch.ended_s for stretch in stretches)
    unit, unit_s = next(
        (u, s) for u, s in (("hours", 3600), ("minutes", 60), ("seconds", 1)) if end_s >= 2 * s or s == 1
    )
    labels = {lane: f"slot {lane + 1}  {_share_busy(lane, lanes, stretches):.0%} busy" for lane in set(lanes.values())}
    data = []
    for state, colour in STATES.items():
        shown = [stretch for stretch in stretches if stretch.record.state == state]
        if shown:
            data.append(
                {
                    "type": "bar",
                    "orientation": "h",
                    "name": colour,
                    "y": [labels[lanes[each.slot]] for each in shown],
                    "base": [round(each.began_s / unit_s, 5) for each in shown],
                    "x": [round((each.ended_s - each.began_s) / unit_s, 5) for each in shown],
                    "customdata": [each.record.number for each in shown],
                    "text": [str(each.record.number) for each in shown] if len(stretches) <= MAX_LABELLED else None,
                    "textposition": "inside",
                    "insidetextanchor": "middle",
                    "textangle": 0,
                    "constraintext": "none",
                    "insidetextfont": {"color": f"@on-{colour}", "size": 11},
                    "marker": {
                        "color": f"@{colour}",
                        "line": {"color": "@card", "width": 1 if len(shown) < 300 else 0},
                    },
                    "hovertemplate": f"{TRIAL}, {colour}: %{{base:.3~f}} to %{{x:.3~f}} {unit}<extra></extra>",
                }
            )
    layout = {
        "barmode": "overlay",
        "bargap": 0.3,
        "xaxis": {"title": {"text": f"{unit} since the first trial began"}, "range": [0, end_s / unit_s]},
        "yaxis": {"categoryorder": "array", "categoryarray": [labels[lane] for lane in sorted(labels, reverse=True)],
                  "showgrid": False, "ticks": ""},
        "meta": {"rows": len(labels)},
    }  # fmt: skip
    return {"data": data, "layout": layout}


def _stretches(records: Sequence[TrialRecord]) -> list[_Stretch]:
    attempts = [(record, attempt) for record in records for attempt in record.attempts]
    seen = sorted(moment for _, each in attempts for moment in (each.started, each.ended) if moment is not None)
    if not seen:
        return []
    return [
        _Stretch(
            record=record,
            slot=attempt.slot,
            began_s=(attempt.started - seen[0]).total_seconds(),
            ended_s=(_end(record, attempt, seen) - seen[0]).total_seconds(),
        )
        for record, attempt in attempts
    ]


def _end(record: TrialRecord, attempt: Attempt, seen: Sequence[datetime]) -> datetime:
    """When an attempt ended; of one whose end was not seen, the last thing known before its trial was tried again."""
    if attempt.ended is not None:
        return attempt.ended
    later = [each.started for each in record.attempts if each.started > attempt.started]
    return max(moment for moment in seen if not later or moment < min(later))


def _lanes(stretches: Sequence[_Stretch]) -> dict[str, int]:
    """A row for each slot; one that was started after another had gone takes its row."""
    spans: dict[str, tuple[float, float]] = {}
    for each in stretches:
        began, ended = spans.get(each.slot, (math.inf, 0.0))
        spans[each.slot] = (min(began, each.began_s), max(ended, each.ended_s))
    free_at: list[float] = []
    lanes = {}
    for slot, (began, ended) in sorted(spans.items(), key=lambda item: item[1]):
        lane = next((lane for lane, at in enumerate(free_at) if at <= began), len(free_at))
        free_at[lane:] = [ended, *free_at[lane + 1 :]]
        lanes[slot] = lane
    return lanes


def _share_busy(lane: int, lanes: Mapping[str, int], stretches: Sequence[_Stretch]) -> float:
    """How much of a lane's row is filled: of the time from the sweep's first trial to the end of its last."""
    busy_s = sum(each.ended_s - each.began_s for each in stretches if lanes[each.slot] == lane)
    end_s = max(each.ended_s for each in stretches)
    return min(1.0, busy_s / end_s) if end_s else 1.0


# Parts of figures.


def _dots(records: Sequence[TrialRecord], x: Sequence[Any], y: Sequence[Any], colour: str) -> Figure:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": colour,
        "x": list(x),
        "y": list(y),
        "customdata": [record.number for record in records],
        "marker": {"color": f"@{colour}", "size": 8 if len(records) < 200 else 6, "opacity": 0.85},
        "hovertemplate": f"{TRIAL}: %{{y:.6g}} at %{{x}}<extra>{colour}</extra>",
    }


def _ring(record: TrialRecord, x: Sequence[Any], y: Sequence[Any]) -> Figure:
    """Around the best trial."""
    marker = {"symbol": "circle-open", "size": 16, "color": "@best", "line": {"width": 3, "color": "@best"}}
    return _dots([record], x, y, "best") | {"marker": marker, "hoverinfo": "skip", "hovertemplate": None}


def _lines(records: Sequence[TrialRecord], most: int, colour: str, name: str, width: float, opacity: float) -> Figure:
    """Curves as one trace, with a gap between one and the next: a thousand traces would take plotly seconds."""
    x: list[int | None] = []
    y: list[float | None] = []
    numbers: list[int] = []
    for record in records:
        epochs = _thinned(list(record.curve), most, record.best_epoch)
        x += [*epochs, None]
        y += [*(_rounded(record.curve[epoch]) for epoch in epochs), None]
        numbers += [record.number] * (len(epochs) + 1)
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": x,
        "y": y,
        "customdata": numbers,
        "opacity": opacity,
        "line": {"color": f"@{colour}", "width": width},
        "hovertemplate": f"{TRIAL}, epoch %{{x}}: %{{y:.6g}}<extra></extra>",
    }


def _ends(records: Sequence[TrialRecord], colour: str, opacity: float) -> Figure:
    """A dot where each curve ends, which is all there is of a curve of one epoch."""
    x = [max(record.curve) for record in records]
    dots = _dots(records, x, [record.curve[epoch] for record, epoch in zip(records, x, strict=True)], colour)
    return dots | {
        "marker": {"color": f"@{colour}", "size": 4, "opacity": opacity},
        "hoverinfo": "skip",
        "hovertemplate": None,
        "showlegend": False,
    }


def _thinned(epochs: Sequence[int], most: int, best: int | None) -> list[int]:
    """At most about so many epochs of a curve, evenly; the first, the last and the best stay."""
    step = math.ceil(len(epochs) / most)
    kept = {*epochs[::step], epochs[-1]} | ({best} if best is not None else set())
    return [epoch for epoch in epochs if epoch in kept]


def focus(goal: Goal, values: Sequence[float]) -> list[float] | None:
    """The range of an axis on which a few hopeless values do not flatten all others; None where there are none such."""
    if len(values) < 4:
        return None
    sign = 1.0 if goal == "maximize" else -1.0
    better = sorted(sign * value for value in values)
    lower, best = statistics.quantiles(better, n=4, method="inclusive")[0], better[-1]
    bound = lower - HOPELESS * max(best - lower, 1e-12)
    if better[0] >= bound:
        return None
    margin = 0.06 * (best - bound)
    return sorted([sign * (bound - margin), sign * (best + margin)])


def _value_axis(trials: _Trials) -> Figure:
    axis: Figure = {"title": {"text": _text(trials.metric)}, "tickformat": ".4~g"}
    return axis | ({"range": trials.value_range} if trials.value_range else {})


def _axis(name: str, parameter: Parameter) -> Figure:
    axis: Figure = {"title": {"text": _text(name)}}
    if _options(parameter) is not None:
        order = [_text(option) for option in _options(parameter) or ()]
        return axis | {
            "type": "category",
            "categoryorder": "array",
            "categoryarray": order,
            "range": [-0.5, len(order) - 0.5],
        }
    return axis | ({"type": "log", "dtick": 1, "tickformat": "~g"} if _is_log(parameter) else {"tickformat": "~g"})


def _on_axis(parameter: Parameter, value: Any) -> Any:
    return value if _options(parameter) is None else _text(value)


def _options(parameter: Parameter) -> Sequence[Any] | None:
    options: Sequence[Any] | None = getattr(parameter, "options", None)
    return options


def _is_log(parameter: Parameter) -> bool:
    return bool(getattr(parameter, "log", False))


class _Scale:
    """An axis of the parallel coordinates, with a place under its range for trials that do not have the parameter."""

    def __init__(self, parameter: Parameter, values: Sequence[Any]) -> None:
        self._options = None if (options := _options(parameter)) is None else [_text(option) for option in options]
        self._log = _is_log(parameter)
        self._values = values
        self._some_lack_it = any(value is None for value in values)
        places = [self._place(value) for value in values if value is not None]
        low, high = min(places, default=0.0), max(places, default=1.0)
        around = 0.1 * (abs(low) or 1.0) if low == high else 0.0
        self._low, self._high = low - around, high + around
        self._nowhere = _rounded(self._low - (1.0 if self._options else 0.14 * (self._high - self._low)))

    def dimension(self, name: str) -> Figure:
        """As plotly wants it."""
        if self._options is not None:
            ticks: Figure = {"tickvals": list(range(len(self._options))), "ticktext": list(self._options),
                             "range": [0, max(1, len(self._options) - 1)]}  # fmt: skip
        else:
            ticks = _ticks_of(self._low, self._high, log=self._log)
        if self._some_lack_it:
            ticks = {
                "tickvals": [self._nowhere, *ticks["tickvals"]],
                "ticktext": ["not used", *ticks["ticktext"]],
                "range": [self._nowhere, ticks["range"][1]],
            }
        places = [self._nowhere if value is None else self._place(value) for value in self._values]
        return {"label": _text(name), "values": [_rounded(place) for place in places], **ticks}

    def _place(self, value: Any) -> float:
        if self._options is not None:
            return float(self._options.index(_text(value)))
        return math.log10(value) if self._log else float(value)


def _ticks_of(low: float, high: float, *, log: bool) -> Figure:
    """Round numbers from `low` to `high`, which on a log scale are exponents of ten."""
    if log:
        steps = (1,) if high - low > 2 else (1, 3)
        numbers = [step * 10.0**power for power in range(math.floor(low), math.ceil(high) + 1) for step in steps]
        ticks = [(math.log10(number), number) for number in numbers if low <= math.log10(number) <= high]
    else:
        rough = (high - low) / 5
        magnitude = 10.0 ** math.floor(math.log10(rough))
        step = next(magnitude * factor for factor in (1, 2, 5, 10) if magnitude * factor >= rough)
        numbers = [step * count for count in range(math.ceil(low / step), math.floor(high / step) + 1)]
        ticks = [(number, number) for number in numbers]
    return {
        "tickvals": [place for place, _ in ticks],
        "ticktext": [f"{number:.4g}" for _, number in ticks],
        "range": [low, high],
    }


def _rounded(number: float) -> float:
    """To the digits that a figure can show; the page is a third as large."""
    return float(f"{number:.6g}")


def _text(value: Any) -> str:
    """As a label; plotly takes labels for a kind of HTML."""
    return html.escape(str(value), quote=False)
