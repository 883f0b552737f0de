"""`check RECIPE...`: every mistake of recipe files, without loading torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(recipe_files: Annotated[list[Path], typer.Argument(metavar="RECIPE...")]) -> None:
    """Check recipe files: every problem at once, without loading torch.

    `ratchet check recipes/*.yaml`
    """
    from pipeline.errors import RecipeError
    from pipeline.recipe.read import load

    problems: list[str] = []
    for path in recipe_files:
        try:
            found = load(path)
        except RecipeError as error:
            problems += error.problems
            continue
        problems += [f"{path}: {line}" for line in found.not_built]
        if not found.not_built:
            typer.echo(f"{path}: ok ({len(found.stages)} stages, {found.rounds} rounds)")
    if problems:
        raise RecipeError(problems)
