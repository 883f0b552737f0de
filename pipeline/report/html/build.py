"""The HTML report: one self-contained file of one or several runs, finished or not. No network, no server.

    build_report(["quickstart"], Path("data"), Path("checkpoints"), None)  ->  data/quickstart/report.html

Made from shards and metrics alone. Model text is data: it travels as compressed JSON in base64 and is
inserted as text only; a content security policy lets none but the page's own scripts run, and forbids any
request. Charts are Vega-Lite, its JavaScript comes from vl-convert. Needs a browser of 2023 or later
(DecompressionStream).
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import __version__
from pipeline.errors import RecipeError
from pipeline.report.console import Console
from pipeline.report.html import data_columns, data_traces, data_trees, page, panels, pieces
from pipeline.report.html.data import RunData, load_run
from pipeline.store.disk import DISK
from pipeline.store.workspace import Workspace

if TYPE_CHECKING:
    from markupsafe import Markup

HERE = Path(__file__).parent
SCRIPTS = ("charts.js", "traces.js", "tree.js")
MOST_PACKED = 4_000_000  #: bytes of traces and trees in the file, after compression
PANELS = {
    "learning": "Better?",
    "stall": "Stall",
    "learned": "Problems",
    "filter": "Filter",
    "prm": "PRM",
    "more": "More",
    "traces": "Traces",
    "trees": "Trees",
    "gate": "Gate",
    "cost": "Cost",
    "recipe": "Recipe",
}


def build_report(
    run_names: list[str], workspace: Workspace, out: Path | None, console: Console | None = None
) -> Path:
    """Writes the report of these runs and returns its path (by default in the first run's folder).

    Raises:
        RecipeError: no run, or none of such a name.
        DamagedData: a file of a run is not what its manifest says.
    """
    if not run_names:
        raise RecipeError("report: name at least one run; `ratchet status` lists them")
    names = list(dict.fromkeys(run_names))
    found = [load_run(name, workspace) for name in names]
    text = render(found, console=console)
    target = out or workspace.data / names[0] / "report.html"
    DISK.write(target, text.encode("utf-8", "replace"))
    return target


def render(
    found: Sequence[RunData], most_traces: int = data_traces.MOST_TRACES, console: Console | None = None
) -> str:
    """The whole page as text."""
    share, most_text = max(most_traces // len(found), 1), data_traces.MOST_TEXT // len(found)
    traces = []
    for one in found:
        with (console or Console(quiet=True)).task(f"reading {one.name}") as bar:
            traces.append(data_traces.read_traces(one, share, most_text, bar))
    trees = [
        data_trees.read_trees(one, mine, max(data_trees.MOST_TREES // len(found), 1))
        for one, mine in zip(found, traces, strict=True)
    ]
    columns, packed = fit(found, traces, trees)
    whole, before, after = sections(found, columns["learned"], traces)
    has_traces, has_trees = bool(columns["columns"]["id"]), any(trees)
    present = {name for name, body in (*before.items(), *after.items()) if body}
    present |= ({"traces"} if has_traces else set()) | ({"trees"} if has_trees else set())
    vega, script = scripts()
    names = ", ".join(one.name for one in found)
    looped = any(one.run.recipe.rounds for one in found)
    named = PANELS if looped else PANELS | {"learning": "Measured"}
    return (
        pieces.environment()
        .get_template("page.html")
        .render(
            policy=trusted(policy(vega, script)),
            title=f"{names}: Ratchet report",
            css=trusted(asset("page.css")),
            header=page.header(found, columns["learned"], [len(each) for each in trees], present),
            links=[(name, text) for name, text in named.items() if name in present],
            panels=list(before.values()),
            traces=has_traces,
            trees=has_trees,
            closing=list(after.values()),
            footer=f"Made by Ratchet {__version__} from committed shards and metrics of {names}.",
            charts=trusted(inline_json(whole.specs)),
            packed=packed,
            vega=trusted(vega),
            script=trusted(script),
        )
    )


def sections(
    found: Sequence[RunData], learned: Sequence[pieces.Rows], traces: Sequence[data_traces.Traces]
) -> tuple[pieces.Page, dict[str, Markup], dict[str, Markup]]:
    """The panels before and after the traces; one without content is empty, and leaves."""
    whole = pieces.Page()
    before = {
        "learning": page.learning(whole, found),
        "stall": page.stall(whole, found, traces),
        "learned": page.learned(whole, found, learned),
        "filter": panels.filtering(whole, found, traces),
        "prm": panels.reward(whole, found),
        "more": panels.more(whole, found),
    }
    after = {"gate": panels.gate(found), "cost": panels.costs(whole, found), "recipe": panels.recipe(found)}
    return whole, before, after


def trusted(text: str) -> Markup:
    """Text of our own that must stand as it is: styles, scripts, JSON without any `<`."""
    from markupsafe import Markup

    return Markup(text)


def asset(name: str) -> str:
    """A file that lies beside this one."""
    return (HERE / name).read_text(encoding="utf-8")


@cache
def scripts() -> tuple[str, str]:
    """Vega's JavaScript and the page's own."""
    import vl_convert

    own = "\n".join([*(asset(name) for name in SCRIPTS), "begin();"])
    bundle = vl_convert.javascript_bundle()  # type: ignore[call-arg]  # its stub lacks the default
    for text in (bundle, own):
        assert "</script" not in text.lower(), "a script may not hold its own end"
        assert "<!--" not in text, "a script may not hold the start of a comment"
    return bundle, own


def policy(*allowed: str) -> str:
    """A content security policy: these scripts, inline styles, and no request at all."""
    hashes = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in allowed)
    named = " ".join(f"'sha256-{each}'" for each in hashes)
    return (
        f"default-src 'none'; script-src {named}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def inline_json(value: Any) -> str:
    """JSON that may stand inside a script element: no `<` is left in it."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def pack(value: Any) -> str:
    """JSON, gzip, base64: what the page unpacks. No date is in it, so equal runs give equal files."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode("utf-8", "replace"), 7, mtime=0)).decode()


def fit(
    found: Sequence[RunData], traces: Sequence[data_traces.Traces], trees: Sequence[list[dict[str, Any]]]
) -> tuple[dict[str, Any], str]:
    """The packed traces and trees, with as many problems dropped as the file must be smaller."""
    grown = [tree for each in trees for tree in each]
    while True:
        columns = data_columns.columns(list(found), list(traces))
        packed = pack({"traces": columns, "trees": grown})
        shown = sum(mine.shown for mine in traces)
        if len(packed) <= MOST_PACKED or not shown:
            return columns, packed
        for mine in traces:
            mine.keep(int(mine.shown * 0.95 * MOST_PACKED / len(packed)), data_traces.MOST_TEXT)
