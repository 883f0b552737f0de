"""What a round gives to a monitor beside its numbers: tables, pictures, interactive curves, artifacts.

    for name, make in media(folder, checkpoints, number, final): log(name, make())

Each is made from committed shards and metrics by itself, so that whoever is in a hurry can stop in between.
Not here: when they are told (`follow.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.evaluate import LEARNING, TROUBLE, TRUST
from pipeline.report.html import declared
from pipeline.report.html.data import RunData, load_run
from pipeline.report.monitor import Lines, Media, Picture, Reference, Table, artifacts, plots, tables
from pipeline.store.workspace import Workspace

MOST_ROUNDS = 25  #: that get tables and pictures; of more rounds these are spread evenly


def is_shown(number: int, rounds: int) -> bool:
    """Does a round get more than its numbers? The last one always does."""
    return number == rounds or number % -(-max(rounds, 1) // MOST_ROUNDS) == 0


def until(found: RunData, number: int, final: bool) -> RunData:
    """The run as it was when this round closed."""
    return replace(
        found,
        rows=[r for r in found.rows if r["round"] <= number and (final or not r.get("final"))],
        gates={n: gate for n, gate in found.gates.items() if n <= number},
        seconds={key: seconds for key, seconds in found.seconds.items() if key[0] <= number},
        metrics={n: values for n, values in found.metrics.items() if n <= number},
    )


def media(
    folder: Path, checkpoints: Path, number: int, final: bool
) -> Iterator[tuple[str, Callable[[], Media | None]]]:
    """(name, what makes it) of everything of a round; what makes nothing has nothing to show.

    Raises:
        RecipeError: the run is not there.
        DamagedData: a file of it is not what its manifest says.
    """
    whole = load_run(folder.name, Workspace(folder.parent, checkpoints))
    if not final and not is_shown(number, whole.run.recipe.rounds):
        return
    found = until(whole, number, final)
    for name, build in tables.tables(found, number, final):
        yield name, build
    yield from _curves(found)
    for name, title, spec in plots.plots(found):
        yield f"plots/{name}", partial(Picture, title, spec)
    references = list(artifacts.artifacts(found, number, final))
    lines = Table(artifacts.LINEAGE, [each.line() for each in references])
    yield "lineage/artifacts", lambda: lines
    for each in references:
        if each.folder.is_dir():  # weights may have been taken away since
            yield f"{each.name}:{each.alias}", partial(_made, each)


def _made(reference: Reference) -> Reference:
    return reference


#: kind of panel -> x, y and what x is called
AXES = {
    "over": ("k", "value", "k"),
    "calibration": ("score", "true", "score that the PRM gave"),
    "roc": ("false", "true", "unsound steps that pass"),
}


def _curves(found: RunData) -> Iterator[tuple[str, Callable[[], Media | None]]]:
    """Curves that a reader may point at, a line a round."""
    told = [
        (figure.panel.picture, declared.rows_of(found, figure), *AXES[figure.panel.kind])
        for figure in declared.figures(found, LEARNING, TROUBLE, TRUST)
        if figure.panel.kind in AXES and figure.panel.picture
    ]
    for name, rows, x, y, xname in told:
        for stage in dict.fromkeys(row["stage"] for row in rows):
            lines: dict[int, list[dict[str, Any]]] = {}
            for row in rows:
                if row["stage"] == stage:
                    lines.setdefault(row["round"], []).append(row)
            yield f"curves/{name}/{stage}", partial(Lines, lines, x, y, xname, name.replace("_", " "))
