"""`check RECIPE... [key=value]`: every mistake of recipe files, without loading torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands import HERE


def check(recipe_files: list[Path], overrides: list[str]) -> tuple[list[str], list[str]]:
    """(every mistake, what else there is to say), each line with its file in front."""
    from pipeline.errors import RecipeError
    from pipeline.recipe.look import look
    from pipeline.recipe.read import examine, plain

    problems: list[str] = []
    said: list[str] = []
    for path in recipe_files:
        try:
            recipe, found = examine(plain(path, overrides), str(path))
        except RecipeError as error:
            problems += error.problems
            continue
        seen = look(recipe, HERE)
        found = [*found, *(f"{path}: {line}" for line in (*recipe.not_built, *seen.lines()))]
        problems += dict.fromkeys(found)
        if not found:
            said.append(f"{path}: ok ({len(recipe.stages)} stages, {recipe.rounds} rounds)")
        said += [f"{path}: note: {line}" for line in seen.notes]
    return problems, said


def command(
    words: Annotated[
        list[str], typer.Argument(metavar="RECIPE... [key=value]...", help="Recipe files, then changes.")
    ],
) -> None:
    """Check recipe files: every problem at once, without loading torch.

    - `ratchet check recipes/*.yaml`
    - `ratchet check recipes/star_gsm8k.yaml task.path=~/gsm8k models.policy.base=~/qwen`
    """
    from pipeline.errors import RecipeError

    files = [Path(word) for word in words if "=" not in word or Path(word).is_file()]
    if not files:
        raise RecipeError("check: name a recipe file, for example recipes/quickstart.yaml")
    problems, said = check(files, [word for word in words if Path(word) not in files])
    for line in said:
        typer.echo(line)
    if problems:
        raise RecipeError(problems)
