"""The report: its figures are plotly's, its page keeps its word, and a real browser draws all of it."""

from __future__ import annotations

import html
import re
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
from browser import CHROMIUM, DRIVER, browser, console, look_at
from simulated import simulate

from orchestrator import cli, figures, report
from orchestrator.folder import SweepFolder
from orchestrator.ledger import Ledger
from orchestrator.results import Status
from orchestrator.spec import Spec

# What the page is made of, which anyone can list: https://plotly.com/javascript/reference/ knows no other names.
CHART = {"slots", "best", "curves", "slice-1", "slice-2", "map", "parallel", "importance"}

# And where there are several objectives.
OBJECTIVES = {"val/loss": "minimize", "latency_ms": "minimize"}
FRONTS = {"front-1", "front-2"}


def ledger_of(made: tuple[SweepFolder, Spec]) -> Ledger:
    folder, spec = made
    return Ledger(folder, spec, read_only=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[SweepFolder, Spec]:
    return simulate(tmp_path_factory.mktemp("sweeps"), 20)


@pytest.fixture(scope="module")
def ledger(made: tuple[SweepFolder, Spec]) -> Ledger:
    return ledger_of(made)


@pytest.fixture(scope="module")
def drawn(made: tuple[SweepFolder, Spec], ledger: Ledger) -> dict[str, Any]:
    return figures.figures(made[1], ledger.records, ledger.importances())


class TestFigures:
    def test_every_panel_has_one_and_plotly_knows_all_it_says(self, drawn: dict[str, Any]) -> None:
        assert set(drawn) == CHART <= set(report.PANELS)
        for figure in drawn.values():
            plain = plotly_colours({key: figure[key] for key in ("data", "layout")})
            go.Figure(plain)  # raises ValueError for a name or a value that plotly does not know

    def test_every_trial_is_in_every_figure_of_trials(self, ledger: Ledger, drawn: dict[str, Any]) -> None:
        numbers = {record.number for record in ledger.records}
        for name in ("best", "curves", "map", "slots"):
            found = {number for trace in drawn[name]["data"] for number in trace["customdata"]}
            lacking = {r.number for r in ledger.records if name == "map" and r.params.get("momentum") is None}
            assert numbers - found <= lacking, name
        assert set(drawn["parallel"]["layout"]["meta"]["trials"]) == numbers

    def test_the_line_of_the_best_never_falls_and_ends_at_the_best(self, drawn: dict[str, Any]) -> None:
        [line] = [trace for trace in drawn["best"]["data"] if trace["name"] == "best so far"]
        assert line["y"] == sorted(line["y"])
        [winner] = [trace for trace in drawn["curves"]["data"] if "the best" in trace["name"]]
        assert line["customdata"][-1] == winner["customdata"][0]

    def test_a_slot_runs_one_trial_at_a_time(self, drawn: dict[str, Any]) -> None:
        rows: dict[str, list[tuple[float, float]]] = {}
        for trace in drawn["slots"]["data"]:
            for row, began, took in zip(trace["y"], trace["base"], trace["x"], strict=True):
                rows.setdefault(row, []).append((began, began + took))
        assert len(rows) == 2
        for stretches in map(sorted, rows.values()):
            ends = [end for _, end in stretches]
            assert all(end <= began for end, (began, _) in zip(ends, stretches[1:], strict=False))

    def test_a_row_says_how_much_of_it_is_filled(self, drawn: dict[str, Any]) -> None:
        _, end = drawn["slots"]["layout"]["xaxis"]["range"]
        filled = Counter[str]()
        for trace in drawn["slots"]["data"]:
            for row, took in zip(trace["y"], trace["x"], strict=True):
                filled[row] += took
        assert len(filled) == 2
        assert {row.split()[2] for row in filled} == {f"{took / end:.0%}" for took in filled.values()}

    def test_among_a_thousand_lines_the_best_stand_out(self, tmp_path: Path) -> None:
        folder, spec = simulate(tmp_path, 1000)
        records = Ledger(folder, spec, read_only=True).records
        colours = figures.figures(spec, records, {})["parallel"]["data"][0]["line"]["color"]
        assert (colours == sorted(colours), colours[0], colours[-1]) == (True, 0, 1)
        assert sum(colour > 0.5 for colour in colours) < 0.25 * len(colours)

    def test_trials_without_a_parameter_have_a_place_on_its_axis(self, drawn: dict[str, Any]) -> None:
        [axis] = [each for each in drawn["parallel"]["data"][0]["dimensions"] if each["label"] == "momentum"]
        assert axis["ticktext"][0] == "not used"
        assert axis["tickvals"][0] == min(axis["values"]) == axis["range"][0]

    def test_thousands_of_epochs_are_thinned_and_the_best_stays(self) -> None:
        epochs = list(range(1, 5001))
        kept = figures._thinned(epochs, 40, 1234)
        assert len(kept) <= 43
        assert {1, 1234, 5000} <= set(kept)

    @pytest.mark.parametrize(
        ("goal", "values", "found"),
        [
            ("minimize", [1.0, 1.1, 1.2, 1.3, 1e9], True),
            ("maximize", [0.7, 0.8, 0.9, 1.0], False),
            ("minimize", [1, 9], False),
        ],
    )
    def test_hopeless_values_do_not_flatten_the_others(self, goal: Any, values: list[float], found: bool) -> None:
        limits = figures.focus(goal, values)
        assert (limits is not None) is found
        assert limits is None or (limits[0] < 1.0 and 1.3 < limits[1] < 9)

    def test_no_trials_no_figures(self, made: tuple[SweepFolder, Spec]) -> None:
        assert figures.figures(made[1], [], {}) == {}


class TestPage:
    def test_it_is_one_file_that_asks_for_nothing(self, made: tuple[SweepFolder, Spec], ledger: Ledger) -> None:
        page = report.page(made[1], made[0], ledger.records, ledger.importances(), Status.FINISHED)
        assert not re.search(
            r"""(?:src|href)=["'](?!data:)""", re.sub(r"<script[^>]*>.*?</script>", "", page, flags=re.DOTALL)
        )
        assert "default-src 'none'" in page
        assert len(page) < 5e6

    def test_its_commands_are_commands(self, made: tuple[SweepFolder, Spec], ledger: Ledger) -> None:
        page = report.page(made[1], made[0], ledger.records, {}, Status.FINISHED)
        commands = [shlex.split(html.unescape(found)) for found in re.findall(r"<code>(.*?)</code>", page)]
        assert [command[3] for command in commands] == ["replay", "best"]
        for command in commands:
            cli.make_parser().parse_args(command[3:])

    def test_what_the_user_wrote_is_text(self, tmp_path: Path) -> None:
        evil = "<script>alert(1)</script>"
        folder, spec = simulate(tmp_path, 3, metric=evil, params={evil: evil})
        page = report.page(spec, folder, ledger_of((folder, spec)).records, {}, Status.DEAD)
        assert evil not in page
        assert "&lt;script&gt;alert(1)" in page

    def test_the_verb_writes_it_beside_the_ledger_or_where_it_is_told_to(
        self, made: tuple[SweepFolder, Spec], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        where = made[0].show("").rstrip("/")
        assert cli.main(["report", where]) == 0
        assert f"{where}/report.html" in capsys.readouterr().out
        assert cli.main(["report", where, "--output", str(tmp_path / "new" / "r.html")]) == 0
        assert (tmp_path / "new" / "r.html").read_text() == made[0].read_text("report.html")

    def test_a_sweep_that_has_just_begun_has_one_too(self, tmp_path: Path) -> None:
        folder, spec = simulate(tmp_path, 1)
        page = report.page(spec, folder, [], {}, Status.RUNNING)
        assert "none yet" in page
        assert 'class="plot"' not in page


@pytest.mark.slow
@pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs Chromium: apt-get install chromium chromium-driver")
@pytest.mark.parametrize(("trials", "objectives"), [(10, {}), (20, OBJECTIVES), (1000, {})])
def test_a_browser_draws_every_panel(trials: int, objectives: dict[str, str], tmp_path: Path) -> None:
    folder, _ = simulate(tmp_path, trials, objectives=objectives)
    assert cli.main(["report", folder.show("").rstrip("/")]) == 0
    path = tmp_path / folder.name / "report.html"
    assert path.stat().st_size < 5e6
    with browser() as driver:
        for width, theme in ((1280, "light"), (400, "dark")) if trials < 1000 else ((1280, "light"),):
            look_at(driver, path, width=width, theme=theme)
            names = driver.execute_script("return Object.keys(figures)")
            assert set(names) == CHART | (FRONTS if objectives else set())
            assert names == [name for name in driver.execute_script(DRAWN) if name in names]
            assert driver.execute_script("return document.documentElement.scrollWidth <= innerWidth"), "no side scroll"
            assert driver.execute_script("return getComputedStyle(document.body).backgroundColor") == BACKGROUND[theme]
        assert (
            driver.execute_script(
                "return performance.getEntriesByType('resource').filter(e => e.name.startsWith('http')).length"
            )
            == 0
        )
        assert driver.execute_script(SORTED) == sorted(driver.execute_script(SORTED), reverse=True)
        shown = driver.execute_script(FILTERED)
        assert 0 < shown < trials
        assert driver.execute_async_script(BRUSHED) < shown
        assert console(driver) == []


BACKGROUND = {"light": "rgb(246, 247, 249)", "dark": "rgb(14, 18, 23)"}
# The panels that hold something plotly drew: marks, or the axes of the parallel coordinates.
DRAWN = """
return Object.keys(figures).filter((name) =>
  document.getElementById(name).querySelectorAll(".points path, .js-line, .bars path, .parcoords .y-axis").length > 1)
"""
SORTED = """
const head = [...document.querySelectorAll("th")].find((each) => each.innerText.includes("val/accuracy"));
if (head.ariaSort !== "descending") { head.firstChild.click(); }
if (head.ariaSort !== "descending") { head.firstChild.click(); }
const values = [...document.querySelectorAll("tbody tr")].map((row) => row.cells[2].dataset.v);
return values.filter((value) => value !== undefined).map(Number);
"""
FILTERED = """
document.querySelector("[data-state=PRUNED]").click();
return [...document.querySelectorAll("tbody tr")].filter((row) => !row.hidden).length;
"""
# Select the upper half of the metric's axis, as dragging along it does.
BRUSHED = """
const plot = document.getElementById("parallel");
const last = plot.data[0].dimensions.length - 1, [low, high] = plot.data[0].dimensions[last].range;
Plotly.restyle(plot, {[`dimensions[${last}].constraintrange`]: [[(low + high) / 2, high]]}).then(() =>
  arguments[0]([...document.querySelectorAll("tbody tr")].filter((row) => !row.hidden).length));
"""


def plotly_colours(part: Any) -> Any:
    """The figure with a real colour wherever it names one of the page's."""
    if isinstance(part, str):
        return "#123456" if part.startswith("@") else part
    if isinstance(part, list):
        return [plotly_colours(each) for each in part]
    return {key: plotly_colours(value) for key, value in part.items()} if isinstance(part, dict) else part
