"""`status RUN`: how far it is and what it measured, as lines for people; `--watch` follows it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any

import typer

from pipeline.commands import HERE
from pipeline.recipe.measures import Measure, main_measure, measures
from pipeline.report import summary, wording
from pipeline.run.overview import overview
from pipeline.run.session import open_run
from pipeline.run.status import run_status, state_of
from pipeline.store.workspace import Workspace

MOST_ROUNDS = 40  #: lines of the table of rounds
EVERY, PLAIN_EVERY = 2.0, 30.0  #: seconds between looks: on a terminal, and where lines stay


def run_lines(runs: list[dict[str, Any]]) -> str:
    """Every run, a line each: state, rounds, last result, work, disk."""
    if not runs:
        return "No runs yet. Start one: ratchet run recipes/quickstart.yaml"
    rows = [("run", "state", "rounds", "work", "disk", "last result")]
    for one in runs:
        if one["state"] == "unreadable":
            rows.append((one["run"], "unreadable", "", "", "", one["result"]))
            continue
        work, disk = wording.duration(one["seconds"]), wording.size(one["disk_bytes"])
        rows.append((one["run"], one["state"], one["rounds_done"], work, disk, one["result"]))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def to_text(found: dict[str, Any], known: Sequence[Measure] = ()) -> str:
    """One run: its rounds, what it does now, what it found. known: what its evaluations declare."""
    disk = f"{wording.size(found['disk_bytes'])} of rows, {wording.size(found['weights_bytes'])} of weights"
    lines = [f"{found['run']}: {state_of(found)}, {wording.duration(found['seconds'])} of work, {disk}"]
    lines += _rounds(found["rounds"], known)
    for entry in found["rounds"]:
        if not entry["done"] and any(one["state"] != "waiting" for one in entry["stages"].values()):
            width = max(map(len, entry["stages"]), default=0)
            lines.append(f"round {entry['round']}:")
            lines += [f"  {name:<{width}}  {one['state']}" for name, one in entry["stages"].items()]
    if said := now_line(found):
        lines.append(said)
    if result := summary.result(found["final"]["metrics"], known):
        lines.append(f"final, after round {found['final']['round']}: {'; '.join(result)}")
    if found["final"]["test_read"] > 1:
        lines.append(f"note: test was read {found['final']['test_read']} times (the run was extended)")
    if (outcome := found["outcome"]) and not outcome["ok"] and not found["running"]:
        lines.append(f"last launch ended with exit code {outcome['exit_code']}: {outcome['message']}")
    return "\n".join(lines)


def _rounds(rounds: list[dict[str, Any]], known: Sequence[Measure]) -> list[str]:
    """The table of what was measured, as the console has it."""
    told = []
    for entry in spread(rounds):
        seconds = sum(one["seconds"] for one in entry["stages"].values())
        row = {"round": entry["round"], "metrics": entry["metrics"]}
        line = summary.round_line(row, known, seconds or None)
        told.append(line | ({} if entry["done"] else {"gate": "open"}))
    columns = summary.used_columns(told)
    rows = [dict(zip(columns, columns, strict=True)), *told]
    widths = {column: max(len(row[column]) for row in rows) for column in columns}
    table = ["  ".join(f"{row[column]:>{widths[column]}}" for column in columns) for row in rows]
    caption = summary.caption(rounds, known)
    return [*([caption] if caption else []), *table]


def spread(rounds: list[dict[str, Any]], most: int = MOST_ROUNDS) -> list[dict[str, Any]]:
    """The rounds that a table shows: all of a few; of many those that have not begun are left out, the last
    ten that have are there, and the others are spread evenly."""
    if len(rounds) <= most:
        return rounds
    begun = [e for e in rounds if any(one["state"] != "waiting" for one in e["stages"].values())]
    early, late = begun[:-10], begun[-10:]
    step = -(-len(early) // (most - 10)) if early else 1
    return [*early[::step], *late]


def now_line(found: dict[str, Any]) -> str:
    """`now: round 2, learn: 140 of 313, 4.45/s, 39 s left, loss 0.136; rounds left: about 3 min 02 s`."""
    told = found["now"]
    if not found["running"] or told is None:
        return "now: working, but not saying at what" if found["running"] else ""
    where = [] if told.get("round") is None else [f"round {told['round']}"]
    parts = [", ".join([*where, str(told.get("stage", ""))])]
    if told.get("done") is not None:
        total = f" of {told['total']:,}" if told.get("total") else ""
        facts = [f"{told['done']:,}{total}"]
        facts += [f"{told['rate']:.3g}/s"] if told.get("rate") else []
        facts += [f"{wording.duration(told['left'])} left"] if told.get("left") is not None else []
        facts += [wording.fact(name, value) for name, value in told.get("facts", {}).items()]
        parts[0] += f": {', '.join(facts)}"
    if left := found["seconds_left"]:
        parts.append(f"rounds left: about {wording.duration(left)}")
    if told["age"] > 30:
        parts.append(f"said {wording.duration(told['age'])} ago")
    return f"now: {'; '.join(parts)}"


def follow(
    name: str,
    workspace: Workspace,
    echo: Callable[[str], None],
    plain: bool | None = None,
    plain_every: float = PLAIN_EVERY,
) -> None:
    """Show a run until nobody works on it any more: drawn anew on a terminal, else a line now and then (each
    `plain_every` seconds)."""
    known = measures(open_run(name, workspace).recipe)
    if not sys.stdout.isatty() if plain is None else plain:
        last = ""
        while (found := run_status(name, workspace))["running"]:
            if (said := now_line(found)) != last:
                echo(said)
                last = said
            time.sleep(plain_every)
        echo(to_text(found, known))
        return
    from rich.live import Live
    from rich.text import Text

    with Live(refresh_per_second=1, transient=True) as live:
        while (found := run_status(name, workspace))["running"]:
            live.update(Text(to_text(found, known)))
            time.sleep(EVERY)
    echo(to_text(found, known))


def last_result(measured: Iterable[tuple[Mapping[str, float], str]], known: Sequence[Measure]) -> str:
    """`greedy 32.6 % [29.8, 35.6] (test, final)`: the newest main metric of a run; empty where none.

    measured: (metrics, where they were measured), the newest first.
    """
    for metrics, where in measured:
        if head := main_measure(metrics, known):
            said = wording.within(metrics, head.name, head.metric.share)
            return f"{head.metric.brief} {said} ({where})"
    return ""


def all_runs(workspace: Workspace) -> list[dict[str, Any]]:
    """Every run, a short line each; one that cannot be read says why."""
    return overview(workspace, last_result)


def command(
    name: Annotated[str | None, typer.Argument(help="A run; without it, every run is listed.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow it until nobody works on it.")] = False,
) -> None:
    """Say how far a run is and what it measured; what it does now, its speed, the time left, the disk used.

    - `ratchet status`
    - `ratchet status quickstart --watch` (from another terminal; Ctrl-C leaves the run alone)
    - `ratchet status quickstart --json`
    """
    from pipeline.errors import RecipeError
    from pipeline.run.status import run_status

    if name is None:
        if watch:
            raise RecipeError("status --watch: name the run to follow; `ratchet ls` lists them")
        found = all_runs(HERE)
        typer.echo(json.dumps(found, indent=1) if as_json else run_lines(found))
    elif watch:
        follow(name, HERE, typer.echo)
    else:
        one = run_status(name, HERE)
        if as_json:
            typer.echo(json.dumps(one, indent=1))
        else:
            typer.echo(to_text(one, measures(open_run(name, HERE).recipe)))
