"""The pieces of the HTML report: figures, tables, sections, runs side by side.

They are macros of `parts.html`, which jinja2 fills and escapes; what a model wrote is not here at all (it
travels packed, and the page inserts it as text). A figure is a place that the page fills with a chart of
`charts.py`, with the same numbers in a table below it for those who cannot see it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.report import wording
from pipeline.report.html import charts
from pipeline.report.html.data import RunData

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

Rows = list[dict[str, Any]]
SHARE = wording.percent
MOST_LINES = 400  #: of a table


@cache
def environment() -> Environment:
    """jinja2 over this folder: everything is escaped, and a name that is missing is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def part(macro: str, *values: Any) -> Markup:
    """A piece of the page."""
    made: Markup = getattr(environment().get_template("parts.html").module, macro)(*values)
    return made


@dataclass
class Page:
    """What has been put on the page so far."""

    specs: dict[str, dict[str, Any]] = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)  #: of the same charts
    pictures: dict[str, str] = field(default_factory=dict)  #: what a monitor calls them; those it is sent

    def figure(
        self,
        name: str,
        spec: dict[str, Any],
        title: str,
        note: str,
        table: Markup,
        wide: bool = False,
        picture: str = "",
    ) -> Markup:
        """A chart with its caption and its numbers."""
        assert name not in self.specs, name
        self.specs[name], self.titles[name] = spec, title
        if picture:
            self.pictures[name] = picture
        return part("figure", name, title, note, table, wide)


def table(
    rows: Rows, columns: dict[str, str], forms: Mapping[str, Callable[[Any], str]] | None = None
) -> Markup:
    """Rows as an HTML table, those of rounds spread evenly where there are too many. columns: key -> heading;
    forms: key -> how a number is written."""
    forms = forms or {}
    shown, more = rows, ""
    if len(rows) > MOST_LINES:
        if all("round" in row for row in rows):
            each = max(len(rows) // len({row["round"] for row in rows}), 1)
            shown = charts.thinned(rows, max(MOST_LINES // each, 2))
        shown = shown[:MOST_LINES]
        more = f"{len(shown):,} of {len(rows):,} rows, spread evenly; all of them are in metrics.jsonl."
    head = [(name, _is_number(rows, key)) for key, name in columns.items()]
    lines = [
        [(_cell(row.get(key), forms.get(key)), _is_number([row], key)) for key in columns] for row in shown
    ]
    return part("table", head, lines, more)


def _is_number(rows: Rows, key: str) -> bool:
    return bool(rows) and isinstance(rows[0].get(key), (int, float)) and key not in ("round", "k")


def _cell(value: Any, form: Callable[[Any], str] | None) -> str:
    if value is None:
        return ""
    if form is not None:
        return form(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value).replace(" %", "\u00a0%")


RANGE = {"value": "value", "low": "95 % from", "high": "to"}
SHARES = dict.fromkeys(("value", "low", "high"), SHARE)


def section(name: str, title: str, lead: str, body: Markup) -> Markup:
    """One panel; nothing where it has no body."""
    return part("section", name, title, lead, body) if body else body


def by_run(found: Sequence[RunData], body: Callable[[int, RunData], Markup]) -> Markup:
    """A panel's part for each run, side by side where there are several; nothing where none has anything."""
    parts = [(one.name, body(number, one)) for number, one in enumerate(found)]
    if not any(made for _, made in parts):
        return joined([])
    return part("by_run", [(name, made or nothing("Nothing of this yet.")) for name, made in parts])


def joined(parts: Sequence[Markup]) -> Markup:
    """Pieces one after the other."""
    from markupsafe import Markup

    return Markup("").join(parts)


def pair(parts: Sequence[Markup]) -> Markup:
    """Figures side by side where there is room; one alone is as wide as the page."""
    return part("pair", parts) if parts else joined([])


def nothing(text: str) -> Markup:
    """In place of a chart that has no data."""
    return part("note", text)
