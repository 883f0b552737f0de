"""The command line: `ratchet COMMAND`, the same as `python -m pipeline COMMAND`.

Each command is a file of `pipeline/commands/`. Every command but `run`, `stage`, `eval`, `solve` and `doctor`
answers without loading torch.
"""

from __future__ import annotations

import os
import sys

if __package__ in (None, "") and __name__ == "__main__":  # accelerate launch pipeline/__main__.py
    # `accelerate launch pipeline` too; else a room shadows a standard module: select
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import importlib
import warnings
from typing import Annotated, Any

import typer
import typer.core
import typer.main

from pipeline import __version__
from pipeline.errors import RatchetError, lines, nearest
from pipeline.models.environment import prepare as prepare_environment
from pipeline.store.lock import PARENT
from pipeline.store.outcome import PIPE

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
    "compare": "budget",
    "curve": "curve",
    "export": "export",
    "push": "push",
    "sync": "sync",
    "verify": "verify",
    "fork": "fork",
    "gc": "gc",
    "new": "new",
    "rm": "rm",
    "recipes": "recipes",
    "tasks": "tasks",
    "schema": "schema",
    "env": "env",
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


def as_setting(option: str, words: list[str]) -> str:
    """`rounds=5` for an unknown `--rounds 5`: what was meant, empty where it reads like no setting."""
    place = next((i for i, word in enumerate(words) if option and word.split("=")[0] == option), None)
    if place is None or not option.startswith("--"):
        return ""
    _, sign, value = words[place].partition("=")
    after = words[place + 1] if place + 1 < len(words) else ""
    value = value if sign else "" if after.startswith("-") else after
    return f"{option.removeprefix('--').replace('-', '_')}={value or '...'}"


def main() -> None:
    """The console script. A user's error is one sentence (or a short list) and its exit code."""
    prepare_environment()
    warnings.filterwarnings("ignore", category=FutureWarning)  # the libraries' own, about each other
    try:
        left = app(standalone_mode=False)  # what typer.Exit carried comes back as a value, Ctrl-C as 130
    except RatchetError as error:
        if not os.environ.get(PARENT):  # the parent of `--launch` tells it, once
            typer.echo(f"{type(error).__name__}: {lines(str(error))}", err=True)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        left = 130
    except SystemExit as end:  # typer's own way out where nobody reads the console any more
        if isinstance(end.__context__, BrokenPipeError):
            sys.exit(PIPE)
        raise
    except Exception as problem:  # the command line's own errors; their class moved between versions of typer
        if not hasattr(problem, "show"):
            raise
        problem.show()
        if meant := as_setting(str(getattr(problem, "option_name", "")), sys.argv[1:]):
            typer.echo(f"Settings of a recipe have no dashes: {meant}", err=True)
        sys.exit(2)
    if left == 130:
        typer.echo("Interrupted. The same command goes on from here.", err=True)
    sys.exit(left if isinstance(left, int) else 0)


if __name__ == "__main__":
    main()
