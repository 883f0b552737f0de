"""`tasks`: every task, what it is, its data's licence, and where its data come from."""

from __future__ import annotations

import re

import typer

from pipeline.errors import RatchetError


def listing() -> str:
    """A line a task: name, what it is, licence, origin."""
    from pipeline.recipe.methods import method, methods

    rows = [("task", "what it is", "licence", "data from")]
    for name in methods("tasks"):
        try:
            module = method("tasks", name)
        except RatchetError as error:
            rows.append((name, f"cannot be used: {error}".split("\n")[0], "", ""))
            continue
        said = (module.__doc__ or "").strip().split("\n\n")[0]
        what = re.split(r"(?<!al)\. ", " ".join(said.split()))[0].rstrip(".")
        hub = module.Settings.model_fields.get("hub")
        origin = module.Task.origin or (f"hub://{hub.default}" if hub else "made by itself")
        rows.append((name, what, module.Task.licence or ("-" if hub is None else "not stated"), origin))
    width = [max(len(row[i]) for row in rows) for i in (0, 2, 3)]
    lines = [f"{n:<{width[0]}}  {o:<{width[2]}}  {lic:<{width[1]}}  {w}" for n, w, lic, o in rows]
    wanted = "task.path takes a local file or folder (.jsonl, .json, .parquet) in place of every hub:// name"
    return "\n".join([*lines, "", f"{wanted}; `hub` another name."])


def command() -> None:
    """List the tasks: where their data come from, their licence, what they are.

    `ratchet tasks`
    """
    typer.echo(listing())
