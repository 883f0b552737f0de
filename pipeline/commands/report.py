"""`report RUN...`: one HTML file that shows what happened."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands import HERE, console_for


def command(
    names: Annotated[list[str], typer.Argument(metavar="RUN...", help="One run, or several side by side.")],
    to: Annotated[Path | None, typer.Option(help="The file to write; RUN/report.html by default.")] = None,
) -> None:
    """Write one HTML file that shows what happened: no server, no network, also of an unfinished run.

    `ratchet report quickstart`
    """
    from pipeline.report.html.build import build_report

    written = build_report(names, HERE, to, console_for(False, False))
    typer.echo(f"{written}: open it in a browser")
