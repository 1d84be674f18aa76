"""What a person sees of a sweep: a live view in a terminal, a line a trial elsewhere, a table at the end (rich)."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator import advice, ranking
from orchestrator.capacity import Concurrency
from orchestrator.folder import SweepFolder
from orchestrator.ledger import Ledger, TrialRecord
from orchestrator.results import Status
from orchestrator.spec import Spec

STYLES = {"COMPLETE": "green", "PRUNED": "yellow", "FAIL": "red", "RUNNING": "cyan"}
TOP = 5
# After so long without a trial's end, a log is told that some run.
SILENCE_S = 30.0


class Progress:
    """The state of the view: what ran, what runs, what is best, and how long it may take yet."""

    def __init__(self, console: Console, spec: Spec, ledger: Ledger) -> None:
        self.console, self.spec, self.ledger = console, spec, ledger
        self.total = spec.trials + spec.budget.repeat
        self._began = time.monotonic()
        self._first_began: float | None = None
        self._attempts_before = {record.number: len(record.attempts) for record in ledger.records}
        self._ended_before = self._ended()
        self._said: set[str] = set()

    def notice(self, text: str) -> None:
        """Print something once, above whatever is live."""
        if text not in self._said:
            self._said.add(text)
            self.console.print(Text(f"note: {text}", style="yellow"))

    def changed(self, record: TrialRecord) -> None:
        """A trial began, reported or ended."""
        # Not the start that an earlier run of the sweep saw: this one's pace counts from its own.
        if self._first_began is None and len(record.attempts) > self._attempts_before.get(record.number, 0):
            self._first_began = time.monotonic()

    def tick(self) -> None:
        """Time went by."""

    def restore(self) -> None:
        """Give the terminal back."""
        self.console.show_cursor()

    def line(self) -> str:
        """Where the sweep stands, in one line."""
        parts = [f"{self._ended()}/{self.total} trials"]
        if best := next(iter(ranking.ranked(self.spec.goal, self.ledger.records)), None):
            parts.append(f"best {self.spec.metric} {best.value:.4g} (trial {best.number})")
        if (left_s := self.left_s()) is not None:
            parts.append(f"about {duration(left_s)} left")
        return "  ".join(parts)

    def left_s(self) -> float | None:
        """Seconds until the last trial has ended, at the pace since the first began; None before one has ended."""
        done, now = self._ended() - self._ended_before, time.monotonic()
        at_this_pace = None
        if done and self._first_began is not None:
            at_this_pace = (now - self._first_began) / done * (self.total - self._ended())
        if self.spec.budget.wall_time_s is None:
            return at_this_pace
        wall_left_s = max(0.0, self.spec.budget.wall_time_s - (now - self._began))
        return wall_left_s if at_this_pace is None else min(at_this_pace, wall_left_s)

    def _ended(self) -> int:
        return sum(record.state != "RUNNING" for record in self.ledger.records)


class Lines(Progress):
    """A line when a trial ends: for logs, pipes and CI."""

    def __init__(self, console: Console, spec: Spec, ledger: Ledger) -> None:
        super().__init__(console, spec, ledger)
        self._printed_at = time.monotonic()
        self._shown = {record.number for record in ledger.records if record.state != "RUNNING"}

    def changed(self, record: TrialRecord) -> None:
        """Say how a trial ended."""
        super().changed(record)
        if record.state == "RUNNING" or record.number in self._shown:
            return
        self._shown.add(record.number)
        value = "" if record.value is None else f"  {self.spec.metric} {record.value:.4g}"
        what = f"trial {record.number}  {record.state}{value}  {many(len(record.curve), 'epoch')}"
        error = f"  {record.error}" if record.error else ""
        if record.state == "FAIL":
            folder = SweepFolder(self.spec.storage, self.spec.name or "")
            error += f"; see {here(folder.show(f'trials/{record.number}/'))}"
        self._print(f"{what}{error}  |  {self.line()}")

    def tick(self) -> None:
        """Say from time to time that trials run, or only wait."""
        if time.monotonic() - self._printed_at > SILENCE_S and any(record.curve for record in self.ledger.records):
            left = [record for record in self.ledger.records if record.state == "RUNNING"]
            training = sum(bool(record.attempts) and record.attempts[-1].ended is None for record in left)
            waiting = f", {len(left) - training} waiting" if training < len(left) else ""
            self._print(f"{many(training, 'trial')} running{waiting}  |  {self.line()}")

    def _print(self, text: str) -> None:
        self._printed_at = time.monotonic()
        self.console.print(Text(text))


class Screen(Progress):
    """A live view: where the sweep stands, what runs, and the best so far."""

    def __init__(self, console: Console, spec: Spec, ledger: Ledger) -> None:
        super().__init__(console, spec, ledger)
        self.live = Live(console=console, transient=True, auto_refresh=False, get_renderable=self._draw)

    def tick(self) -> None:
        """Draw again."""
        self.live.refresh()

    def _draw(self) -> RenderableType:
        bar = ProgressBar(total=max(1, self.total), completed=self._ended(), width=30)
        head = Table.grid(padding=(0, 2))
        head.add_row(Text(self.spec.name or "", style="bold"), bar, self.line())
        records = self.ledger.records
        running = [record for record in records if record.state == "RUNNING"]
        best = [record for record in ranking.ranked(self.spec.goal, records) if record.state != "RUNNING"]
        if not any(record.curve for record in records):
            waited = duration(time.monotonic() - self._began)
            return Group(head, Text(f"starting workers: the first takes 20 s or more, {waited} so far", style="dim"))
        return Group(head, trial_table(self.spec, [*running[:TOP], *best[:TOP]], self.console.width))


@contextmanager
def view(spec: Spec, folder: SweepFolder, ledger: Ledger, at_once: Concurrency) -> Iterator[Progress]:
    """Show a sweep's progress while the block runs, as the output allows."""
    console = make_console()
    new = "resuming" if ledger.records else "sweep"
    at_most = f"up to {at_once.trials} at once" if at_once.trials > 1 else "one at a time"
    console.print(f"{new} {spec.name}: {many(spec.trials, 'trial')}, {at_most}; {here(folder.show(''))}")
    if not console.is_terminal:
        console.print("starting workers ...")
        yield Lines(console, spec, ledger)
        return
    screen = Screen(console, spec, ledger)
    with screen.live:
        yield screen


def trial_table(spec: Spec, records: list[TrialRecord], width: int) -> Table:
    """Trials, a row each, with as many of their hyperparameters as a line of `width` characters has room for."""
    # In the space's own order, so that columns do not move from one drawing to the next.
    names = [name for name in (*spec.load_space(), *spec.params) if any(name in record.params for record in records)]
    columns = [
        ("trial", [str(record.number) for record in records]),
        ("state", [record.state for record in records]),
        (spec.metric, ["" if record.value is None else f"{record.value:.4g}" for record in records]),
        *((name, [plain(record.measured.get(name, "")) for record in records]) for name in spec.measured),
        ("epochs", [f"{max(record.curve, default=0)}/{spec.schedule.max_epochs}" for record in records]),
        ("time", [_took(record) for record in records]),
    ]
    left = width + 2 - sum(map(_width, columns))
    for name in names:
        column = name, [plain(record.params.get(name, "")) for record in records]
        more = _width(("...", [])) if name != names[-1] else 0
        if _width(column) + more > left:
            columns.append(("...", [""] * len(records)))
            break
        columns.append(column)
        left -= _width(column)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title, _ in columns:
        table.add_column(title, justify="left" if title == "state" else "right", no_wrap=True)
    for cells in zip(*(cells for _, cells in columns), strict=True):
        table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in cells))
    return table


def _width(column: tuple[str, list[str]]) -> int:
    """What a column takes of a line, the space between it and the next one included."""
    title, cells = column
    return max(map(len, (title, *cells))) + 2


def summary(
    console: Console,
    spec: Spec,
    folder: SweepFolder,
    records: list[TrialRecord],
    elapsed_s: float,
    *,
    status: Status,
    missing: bool,
) -> None:
    """The end of a sweep: the best trials, or the Pareto front, the winner, and where everything is.

    Args:
        console: where it is printed.
        spec: the sweep's.
        folder: its folder.
        records: its trials.
        elapsed_s: how long it took.
        status: how it ended.
        missing: whether something did not arrive in W&B.
    """
    best, front = ranking.ranked(spec.goal, records), ranking.front(spec.goals, records)
    states = {state: sum(record.state == state for record in records) for state in STYLES}
    states["to be resumed"] = states.pop("RUNNING")
    counts = ", ".join(f"{count} {state}" for state, count in states.items() if count)
    ended = "" if status is Status.FINISHED else f"{status}; "
    console.print(f"\n{spec.name}: {ended}{counts}; it took {duration(elapsed_s)}\n", soft_wrap=True)
    if not best:
        console.print("no trial reached the end of an epoch")
        return
    if front:
        console.print(f"Pareto front: {many(len(front), 'trial')}")
    shown = front or best[:TOP]
    console.print(trial_table(spec, shown, console.width))
    if changed := [str(record.number) for record in shown if record.changes]:
        which = f"trials {', '.join(changed)}" if len(changed) > 1 else f"trial {changed[0]}"
        console.print(f"hyperparameters of {which} changed in training; shown are the last", soft_wrap=True)
    winner = best[0]
    by = f" by {spec.metric} alone" if front else ""
    console.print(f"\nbest{by}: trial {winner.number}, {spec.metric} {winner.value:.6g} at epoch {winner.best_epoch}")
    rows = {name: plain(value) for name, value in winner.params.items()}
    place = here(folder.show("").rstrip("/"))
    rows["checkpoint"] = here(folder.show(winner.checkpoint)) if winner.checkpoint else "none kept"
    rows["results"] = here(folder.show("results.json"))
    if spec.tracking.mode == "online" and winner.wandb_run:
        rows["W&B run"] = winner.wandb_run if "://" in winner.wandb_run else here(folder.show(winner.wandb_run))
    elif spec.tracking.mode != "disabled":
        rows["W&B runs"] = here(folder.show("wandb"))
    if spec.tracking.mode == "offline" or missing:
        rows["upload the rest" if missing else "upload them"] = f"python -m orchestrator sync {place}"
    rows["fetch the best"] = f"python -m orchestrator best {place} --download DIR"
    width = max(map(len, rows))
    for name, value in rows.items():
        console.print(Text(f"  {name:<{width}}  {value}"), soft_wrap=True)


def print_advice(console: Console, spec: Spec, ledger: Ledger) -> None:
    """What the trials say about the search."""
    if found := advice.advice(spec, spec.load_space(), ledger.records, ledger.importances()):
        console.print("\nadvice", style="bold")
        for sentence in found:
            console.print(Text(f"  - {sentence}"), soft_wrap=True)


def here(path: str) -> str:
    """A path as it is written from the current folder, where it is below that."""
    return path.removeprefix(f"{Path.cwd()}/")


def make_console() -> Console:
    """The console for everything a verb prints: as wide as its lines where there is no terminal to fit."""
    # This output itself: what `sys.stdout` stands for is another thing while a sweep runs (`sweep._logging_to`).
    console = Console(highlight=False, soft_wrap=True, file=sys.stdout)
    return console if console.is_terminal else Console(highlight=False, soft_wrap=True, width=200, file=sys.stdout)


def plain(value: Any) -> str:
    """A hyperparameter, short enough for a table."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def many(count: int, noun: str) -> str:
    """`1 trial`, `2 trials`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def duration(seconds: float) -> str:
    """Seconds as people say them: 8 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _took(record: TrialRecord) -> str:
    seconds = record.worked_s(datetime.now().astimezone())
    if seconds is None:
        return ""
    return f"{seconds:.1f} s" if seconds < 10 else duration(seconds)
