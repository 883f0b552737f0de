"""The command line: `ratchet COMMAND`, the same as `python -m pipeline COMMAND`.

Each command is a file of `pipeline/commands/`. Every command but `run`, `stage`, `eval`, `solve` and `doctor`
answers without loading torch.
"""

from __future__ import annotations

import os
import sys

if __package__ in (None, "") and __name__ == "__main__":  # accelerate launch pipeline/__main__.py
    sys.path[0] = os.path.dirname(sys.path[0]) or "."  # else a room shadows a standard module: select

import importlib
import warnings
from typing import Annotated, Any

import typer
import typer.core
import typer.main

from pipeline import __version__
from pipeline.errors import RatchetError, nearest
from pipeline.models.environment import prepare as prepare_environment

#: in the order of `--help`: command -> its file in pipeline/commands/
COMMANDS = {
    "run": "run",
    "stage": "stage",
    "plan": "plan",
    "check": "check",
    "doctor": "doctor",
    "status": "status",
    "ls": "ls",
    "show": "show",
    "report": "report",
    "eval": "evaluate",
    "solve": "solve",
    "compare": "compare",
    "export": "export",
    "push": "push",
    "sync": "sync",
    "verify": "verify",
    "fork": "fork",
    "gc": "gc",
    "rm": "rm",
}
HELP = {"help_option_names": ["-h", "--help"]}


class Commands(typer.core.TyperGroup):
    """The commands, each loaded when it is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, name: str) -> Any:
        if name not in COMMANDS:
            ctx.fail(f"no command {name!r}{nearest(name, COMMANDS)}")
        module = importlib.import_module(f"pipeline.commands.{COMMANDS[name]}")
        alone = typer.Typer(rich_markup_mode="markdown", add_completion=False, context_settings=HELP)
        alone.command(name)(module.command)
        return typer.main.get_command(alone)


app = typer.Typer(
    cls=Commands,
    help="Language models that teach themselves to reason, and never slip back.\n\n"
    "Start with: ratchet run recipes/quickstart.yaml",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings=HELP,
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"ratchet {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version.")
    ] = False,
) -> None:
    """Language models that teach themselves to reason, and never slip back."""


def main() -> None:
    """The console script. A user's error is one sentence (or a short list) and its exit code."""
    prepare_environment()
    warnings.filterwarnings("ignore", category=FutureWarning)  # the libraries' own, about each other
    try:
        left = app(standalone_mode=False)  # what typer.Exit carried comes back as a value, Ctrl-C as 130
    except RatchetError as error:
        typer.echo(f"{type(error).__name__}: {error}", err=True)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        left = 130
    except Exception as problem:  # the command line's own errors; their class moved between versions of typer
        if not hasattr(problem, "show"):
            raise
        problem.show()
        sys.exit(2)
    if left == 130:
        typer.echo("Interrupted. The same command goes on from here.", err=True)
    sys.exit(left if isinstance(left, int) else 0)


if __name__ == "__main__":
    main()
