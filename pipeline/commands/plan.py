"""`plan RECIPE`: what a recipe would do and cost, from its stages alone."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.commands import HERE, Overrides


def command(
    target: Annotated[str, typer.Argument(help="A recipe file or a run.")], overrides: Overrides = None
) -> None:
    """Say what a recipe would do, and what it would cost: stages, inputs, models, rows, tokens, time, memory,
    disk.

    `ratchet plan recipes/rest_em_math.yaml rounds=2`
    """
    from pipeline.recipe.plan import describe
    from pipeline.run.session import find

    typer.echo(describe(find(target, overrides or [], None, HERE.data), HERE.data, HERE.checkpoints))
