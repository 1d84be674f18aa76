"""A view of a sweep made for comparing its trials, in Weights & Biases: a workspace or a report (wandb-workspaces).

The library uses the key and the server that the SDK does. A saved view needs no more rights than logging a run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.errors import InputError, TrackingError
from orchestrator.page import public_api, translated
from orchestrator.space import Parameter
from orchestrator.spec import Spec
from orchestrator.wandb_yaml import path_of

# Trials whose curves are drawn: the best ones, as runs are ordered by the metric.
MOST_CURVES = 20
# Columns of the table of runs beside hyperparameters and the metric.
COLUMNS = ("run:displayName", "run:state", "run:duration")


def save(spec: Spec, sweep_id: str | None, *, as_report: bool = False) -> str:
    """Save a view of the sweep's project, or a report with the same panels, which can be written into; its URL.

    Every call saves another one: what someone has made of an earlier one stays.

    Raises:
        InputError: the sweep has no page in W&B.
        TrackingError: W&B cannot be reached, or refuses, or the library is not installed.
    """
    if sweep_id is None:
        raise InputError(f"{spec.name} has no page in W&B: its runs are on disk only (tracking.mode)")
    try:
        with translated():
            return (_save_report if as_report else _save_view)(spec, sweep_id)
    except ImportError as exc:
        raise TrackingError("a view needs the package wandb-workspaces: pip install wandb-workspaces") from exc


def _save_view(spec: Spec, sweep_id: str) -> str:
    import wandb_workspaces.workspaces as ws

    space = dict(spec.load_space())
    view = ws.Workspace(
        entity=_entity(spec),
        project=spec.tracking.project,
        name=f"Sweep {spec.name}",
        sections=[
            ws.Section(name="Trials compared", panels=_panels(spec, space), is_open=True,
                       layout_settings=ws.SectionLayoutSettings(columns=2, rows=3)),
        ],
        runset_settings=ws.RunsetSettings(
            filters=[ws.Metric("Sweep") == sweep_id],
            order=[ws.Ordering(ws.Summary(spec.metric), ascending=spec.goal == "minimize")],
            pinned_columns=[*COLUMNS, f"summary:{spec.metric}", *_columns(space)],
        ),
    )  # fmt: skip
    return str(view.save().url)


def _save_report(spec: Spec, sweep_id: str) -> str:
    import wandb_workspaces.reports.v2 as wr
    from wandb_workspaces import expr

    space = dict(spec.load_space())
    runs = wr.Runset(
        entity=_entity(spec),
        project=spec.tracking.project,
        name=f"Sweep {spec.name}",
        filters=[expr.Metric("Sweep") == sweep_id],
        order=[wr.OrderBy(wr.SummaryMetric(spec.metric), ascending=spec.goal == "minimize")],
        pinned_columns=[*COLUMNS, f"summary:{spec.metric}"],
        column_order=[*COLUMNS, f"summary:{spec.metric}", *_columns(space)],
    )
    report = wr.Report(
        entity=_entity(spec),
        project=spec.tracking.project,
        title=f"Sweep {spec.name}",
        description=f"{spec.goal} {spec.metric} over {', '.join(space)}",
        blocks=[wr.PanelGrid(runsets=[runs], panels=_panels(spec, space))],
    )
    return str(report.save().url)


def _columns(space: Mapping[str, Parameter]) -> Iterator[str]:
    """The hyperparameters' columns in the table of runs, where W&B has each group as one value."""
    for name in space:
        group, *rest = path_of(name, space)
        yield ".".join([f"config:{group}.value", *rest])


def _panels(spec: Spec, space: Mapping[str, Parameter]) -> list[Any]:
    """Parallel coordinates, importance, curves of the best trials, best so far."""
    import wandb_workspaces.reports.v2 as wr

    metric = wr.SummaryMetric(spec.metric)
    axes = [
        wr.ParallelCoordinatesPlotColumn(wr.Config(name), log=True if getattr(parameter, "log", False) else None)
        for name, parameter in space.items()
    ]
    return [
        wr.ParallelCoordinatesPlot(
            title="Parallel coordinates",
            columns=[
                *axes,
                wr.ParallelCoordinatesPlotColumn(metric, inverted=True if spec.goal == "minimize" else None),
            ],
            layout=wr.Layout(0, 0, 24, 8),
        ),
        wr.ParameterImportancePlot(with_respect_to=spec.metric, layout=wr.Layout(0, 8, 8, 8)),
        wr.LinePlot(
            title=f"The best {MOST_CURVES} trials",
            x="epoch",
            y=[spec.metric],
            max_runs_to_show=MOST_CURVES,
            layout=wr.Layout(8, 8, 8, 8),
        ),
        wr.ScatterPlot(
            title="Best so far",
            x="run.createdAt",
            y=metric,
            running_ymax=spec.goal == "maximize",
            running_ymin=spec.goal == "minimize",
            layout=wr.Layout(16, 8, 8, 8),
        ),
    ]


def _entity(spec: Spec) -> str:
    """The team or user the sweep is in; the key's own where the spec names none."""
    return str(spec.tracking.entity or public_api().default_entity)
