"""The commands, one file each: the command line calls `command`, whose docstring is what `--help` says.

`pipeline.__main__` loads the file of the command that was asked for, and no other; none of them loads torch
before it has to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.store.workspace import HERE

if TYPE_CHECKING:
    from pipeline.report.console import Console

__all__ = ["HERE", "LogJson", "Overrides", "Quiet", "RunName", "console_for"]

Overrides = Annotated[list[str] | None, typer.Argument(help="key.sub=value: stages.sample.n=16, seed=1")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say only what went wrong, and the result.")]
LogJson = Annotated[bool, typer.Option("--log-json", help="One JSON object a line instead of text.")]
RunName = Annotated[str, typer.Argument(help="A run, as `ratchet status` lists them.")]


def console_for(quiet: bool = False, log_json: bool = False, main: bool = True) -> Console:
    """The console of a command. main: is this the process that speaks?"""
    from pipeline.report.console import Console

    return Console(quiet=quiet, log_json=log_json, main=main)
