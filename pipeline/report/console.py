"""What a person sees while a run goes on: a line a stage, progress on what takes over two seconds, a table
a round.

On a terminal it draws (rich); elsewhere it prints plain lines, and a line about progress every half minute.
`quiet` says only what went wrong and the result; `log_json` gives one JSON object a line; `main=False`
(another rank) says nothing. Not here: what the numbers mean (`summary.py`), the record (`metrics.py`).
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from pipeline.recipe.measures import Measure
from pipeline.report import summary as summaries
from pipeline.report import wording
from pipeline.run import activity

if TYPE_CHECKING:
    from rich.console import RenderableType

SHOW_AFTER = 2.0  #: seconds until progress is worth a line
PLAIN_EVERY = 30.0  #: seconds between plain lines about progress
TELL_EVERY = 1.0  #: seconds between two words to those who look from another terminal
MOST_ROUNDS = 10  #: rows of the round table


class Speed:
    """How fast something goes, and when it will be done: by what was done since it (again) began."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock, self.began = clock, clock()
        self.first: int | None = None
        self.done = 0

    def saw(self, done: int) -> None:
        """What an earlier launch did is no work of this one."""
        if self.first is None:
            self.first = 0 if done <= 1 else done
        self.done = done

    @property
    def seconds(self) -> float:
        return self.clock() - self.began

    @property
    def rate(self) -> float | None:
        """Per second; None before anything was done."""
        fresh = self.done - (self.first or 0)
        return fresh / self.seconds if fresh > 0 and self.seconds > 0 else None

    def left(self, total: int | None) -> float | None:
        """Seconds; None where nobody can say."""
        return (total - self.done) / self.rate if total and self.rate else None


class Bar:
    """Progress of one stage or task. Call it with how far it is and what else is worth saying."""

    def __init__(self, console: Console, name: str, total: int | None) -> None:
        self.console, self.name, self.total = console, name, total
        self.pace = Speed(console.clock)
        self.facts: dict[str, Any] = {}
        self.told = self.pace.began
        self.drawn: Any = None

    def __call__(self, done: int | None = None, total: int | None = None, *more: Any, **facts: Any) -> None:
        """done: None where `facts` hold a `step` (training); total: where it became known only now."""
        for key in ("total_steps", "max_steps", "steps"):
            total = facts.pop(key, None) or total
        step = facts.pop("step", None)
        done = done if done is not None else step
        self.total = total or self.total
        self.facts.update(facts)
        if done is not None:
            self.pace.saw(int(done))
        self.console._advance(self)

    def said(self) -> str:
        """`1,200 of 12,000, 85/s, 2 min 07 s left, right 9.8 %`."""
        parts = [f"{self.pace.done:,}" + (f" of {self.total:,}" if self.total else "")]
        if (rate := self.pace.rate) is not None:
            parts.append(f"{rate:.3g}/s" if rate < 1000 else f"{wording.count(rate)}/s")
        if (left := self.pace.left(self.total)) is not None:
            parts.append(f"{wording.duration(left)} left")
        return ", ".join([*parts, *(wording.fact(n, v) for n, v in self.facts.items())])


class Console:
    """Where a run speaks. Every method may be called in every mode."""

    def __init__(
        self,
        quiet: bool = False,
        log_json: bool = False,
        *,
        main: bool = True,
        file: TextIO | None = None,
        plain: bool | None = None,
        width: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.quiet, self.log_json, self.main, self.clock = quiet, log_json, main, clock
        self.file = file or sys.stdout
        self.plain = (not self.file.isatty()) if plain is None else plain
        self.width = width
        self.seconds: dict[int, float] = {}  # by round, of this launch
        self.now: Path | None = None  #: where `status --watch` looks
        self._told = -TELL_EVERY
        self._rich: Any = None
        self._live: Any = None
        self._round: int | None = None

    # --- what a run says -------------------------------------------------------------------------

    def run_started(self, name: str, recipe: Any = "", resumed_from: str | None = None) -> None:
        """The first line says whether the run begins or goes on, and from where."""
        begins = f"goes on from {resumed_from}" if resumed_from else "begins"
        self._event("run_started", run=name, recipe=str(recipe), resumed_from=resumed_from)
        self._line(f"{name} {begins}" + (f"   {recipe}" if str(recipe) else ""), style="bold")

    def changed(self, lines: Sequence[str]) -> None:
        """Settings that changed since the last launch and may."""
        for line in lines:
            self.note(f"changed: {line}")

    def stage_started(self, round_number: int, stage: str, sentence: str = "") -> None:
        """Nothing to see yet, but the round's heading."""
        self._event("stage_started", round=round_number, stage=stage, sentence=sentence)
        self._tell(round=round_number, stage=stage)
        if round_number != self._round:
            self._round = round_number
            what = "round 0, before the first" if round_number == 0 else f"round {round_number}"
            self._line("")
            self._line(what, style="bold cyan")

    def stage_done(self, round_number: int, stage: str, facts: Mapping[str, Any], seconds: float) -> None:
        """One line a finished stage."""
        self.seconds[round_number] = self.seconds.get(round_number, 0.0) + seconds
        self._event(
            "stage_done", round=round_number, stage=stage, facts=dict(facts), seconds=round(seconds, 3)
        )
        cells = (f"  {stage:<10}", f"{wording.duration(seconds):>11}", wording.facts(facts))
        if self.plain or self._silent():
            self._line("  ".join(cells).rstrip())
        else:
            self._print(_row(cells))

    def round_done(
        self,
        round_number: int,
        rows: Sequence[Mapping[str, Any]],
        decision: Mapping[str, Any] | None = None,
        known: Sequence[Measure] = (),
    ) -> None:
        """The table of all rounds so far; rows: as metrics.jsonl has them, decision: what gate.json says,
        known: what the recipe's evaluations declare."""
        self._event("round_done", round=round_number, gate=dict(decision or {}))
        rows = [row for row in rows if not row.get("final") and row["round"] <= round_number]
        newest = rows[-MOST_ROUNDS:]
        lines = [summaries.round_line(row, known, self.seconds.get(row["round"])) for row in newest]
        if not lines or self._silent():
            return
        columns = summaries.used_columns(lines)
        self._line("")
        if caption := summaries.caption(rows, known):
            self._line(f"  {caption}", style="dim")
        if self.plain:
            widths = {c: max(len(c), *(len(line[c]) for line in lines)) for c in columns}
            for line in [dict(zip(columns, columns, strict=True)), *lines]:
                self._line("  " + "  ".join(f"{line[c]:>{widths[c]}}" for c in columns).rstrip())
        else:
            self._print(_table(columns, lines))

    def gate(self, round_number: int, model: str, decision: Any) -> None:
        """A refused model, and why; a promoted one stands in the table."""
        self._event(
            "gate", round=round_number, model=model, promote=decision.promote, reasons=decision.reasons
        )
        if decision.promote:
            return
        self._line(f"  {model} refused; the best promoted one stays:", style="yellow", always=True)
        for reason in decision.reasons:
            self._line(f"    {reason}", style="yellow", always=True)

    def finished(self, summary: Mapping[str, Any]) -> None:
        """The result, where everything lies, and what to do next.

        summary: {"run", "metrics": of `finally` or the last round, "result": in words, "seconds",
        "where": {what: path}, "next": [commands]}; all but "run" may be absent.
        """
        self._event("finished", **summary)
        if self.log_json or not self.main:
            return
        lines = list(summary.get("result", [])) or ["finished"]
        if "seconds" in summary:
            lines.append(f"{wording.duration(summary['seconds'])} of work")
        places = {str(what): str(path) for what, path in summary.get("where", {}).items()}
        commands = list(summary.get("next", []))
        if self.plain or self.quiet:
            self._line("", always=True)
            self._line(f"{summary['run']}: {'; '.join(lines)}", always=True)
            for what, path in places.items():
                self._line(f"  {what}: {path}", always=True)
            for command in commands:
                self._line(f"  next: {command}", always=True)
        else:
            self._print(_panel(summary["run"], lines, places, commands))

    def warn(self, text: str) -> None:
        """Something a person should know; also in quiet mode."""
        self._event("warning", text=text)
        self._line(f"warning: {text}", style="yellow", always=True)

    def note(self, text: str) -> None:
        self._event("note", text=text)
        self._line(f"  {text}", style="dim")

    # --- progress ---------------------------------------------------------------------------------

    @contextlib.contextmanager
    def progress(self, name: str, total: int | None = None) -> Iterator[Bar]:
        """Progress of a stage; shows itself once it has taken two seconds."""
        bar = Bar(self, name, total)
        try:
            yield bar
        finally:
            if self._live is not None and bar.drawn is not None:
                self._live.remove_task(bar.drawn)
                if not self._live.tasks:  # a task may run within a stage
                    self._live.stop()
                    self._live = None

    def task(self, text: str) -> contextlib.AbstractContextManager[Bar]:
        """Progress of something that is no stage: building a seed, loading a model."""
        return self.progress(text, None)

    def _tell(self, **values: Any) -> None:
        """For `status --watch`, whatever this console shows itself."""
        if self.now is not None and self.main:
            self._told = self.clock()
            activity.tell(self.now, {"round": self._round, **values})

    def _advance(self, bar: Bar) -> None:
        if self.clock() - self._told >= TELL_EVERY:
            pace = bar.pace
            more = {"rate": pace.rate, "left": pace.left(bar.total), "facts": bar.facts}
            self._tell(stage=bar.name, done=pace.done, total=bar.total, **more)
        if self._silent() and not self.log_json:
            return
        if not self.main or bar.pace.seconds < SHOW_AFTER:
            return
        now = self.clock()
        if self.plain or self.log_json:
            if now - bar.told >= PLAIN_EVERY:
                bar.told = now
                facts = {**bar.facts, "done": bar.pace.done, "total": bar.total}
                self._event("progress", name=bar.name, facts=facts)
                self._line(f"  {bar.name}: {bar.said()}")
            return
        if bar.drawn is None:
            self._live = self._live or _live(self._console())
            bar.drawn = self._live.add_task(bar.name, total=bar.total, said="")
        self._live.update(bar.drawn, completed=bar.pace.done, total=bar.total, said=bar.said())

    # --- how it is said ---------------------------------------------------------------------------

    def _silent(self) -> bool:
        return self.quiet or not self.main or self.log_json

    def _event(self, event: str, **values: Any) -> None:
        if self.log_json and self.main:
            line = json.dumps({"event": event, **values}, default=str, ensure_ascii=False)
            print(self._clean(line), file=self.file, flush=True)

    def _line(self, text: str, style: str = "", always: bool = False) -> None:
        if self.log_json or not self.main or (self.quiet and not always):
            return
        if self.plain:
            print(self._clean(text), file=self.file, flush=True)
        else:
            from rich.text import Text

            self._print(Text(self._clean(text), style=style))

    def _clean(self, text: str) -> str:
        """Text that the stream can take: a path or an answer may hold what its encoding does not."""
        encoding = getattr(self.file, "encoding", None) or "utf-8"
        return text.encode(encoding, "replace").decode(encoding)

    def _print(self, what: RenderableType) -> None:
        self._console().print(what, highlight=False, soft_wrap=False)

    def _console(self) -> Any:
        if self._rich is None:
            from rich.console import Console as RichConsole

            self._rich = RichConsole(file=self.file, width=self.width, force_terminal=not self.plain)
        return self._rich


def _live(console: Any) -> Any:
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(bar_width=24))
    live = Progress(
        *columns, TextColumn("{task.fields[said]}", markup=False), console=console, transient=True,
        refresh_per_second=4,
    )  # fmt: skip
    live.start()
    return live


def _row(cells: Sequence[str]) -> RenderableType:
    """Columns side by side; the last one wraps within itself."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2, 0, 0))
    for cell in cells[:-1]:
        grid.add_column(no_wrap=True, min_width=len(cell))
    grid.add_row(*(Text(cell, style="dim" if n == 1 else "") for n, cell in enumerate(cells)))
    return grid


def _table(columns: Sequence[str], lines: Sequence[Mapping[str, str]]) -> RenderableType:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, header_style="bold", padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column, justify="left" if column == "gate" else "right", no_wrap=column != "gate")
    for place, line in enumerate(lines):
        newest = "bold" if place == len(lines) - 1 else ""
        table.add_row(*(Text(line[c], style="red" if "REFUSED" in line[c] else newest) for c in columns))
    return table


def _panel(
    run: str, lines: Sequence[str], places: Mapping[str, str], commands: Sequence[str]
) -> RenderableType:
    from rich.panel import Panel
    from rich.text import Text

    text = Text()
    for number, line in enumerate(lines):
        text.append(f"{line}\n", style="" if number else "bold green")
    width = max(map(len, places), default=0)
    for number, (what, path) in enumerate(places.items()):
        text.append(("" if number else "\n") + f"{what:<{width}}  ", style="dim")
        text.append(f"{path}\n")
    for number, command in enumerate(commands):
        text.append("      " if number else "\nnext  ", style="dim")
        text.append(f"{command}\n", style="cyan")
    text.rstrip()
    return Panel(text, title=run, title_align="left", border_style="green", expand=False, padding=(1, 2))
