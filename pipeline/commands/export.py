"""`export RUN ROUND`: a model as an ordinary Hugging Face folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands import HERE, RunName
from pipeline.commands.evaluate import _round_of
from pipeline.errors import RecipeError
from pipeline.models.registry import merge
from pipeline.recipe import read as recipes
from pipeline.report.model_card import model_card
from pipeline.run.record import metrics_rows
from pipeline.run.session import open_run
from pipeline.store.disk import DISK
from pipeline.store.workspace import Workspace


def export_model(name: str, number: int, model: str, to: Path | None, workspace: Workspace) -> str:
    """A model after a round, adapter merged, in a folder that plain transformers loads."""
    run = open_run(name, workspace)
    if model not in run.recipe.models:
        raise RecipeError(f"run {name}: no model {model!r}{recipes.nearest(model, run.recipe.models)}")
    weights = run.versions.standing(model, _round_of(run, number))
    target = to or Path("exports") / f"{name}-{number:03d}-{model}"
    if target.exists() and any(target.iterdir()) and not (target / "manifest.json").exists():
        raise RecipeError(f"{target}: is there already and was not made by export; choose another with --to")
    merge(weights.base, weights.adapter, weights.head, target, {"run": name, "round": number, "model": model})
    card = model_card(run, weights, number, str(target), metrics_rows(run))
    DISK.write(target / "README.md", card.encode("utf-8", "replace"))
    kind = "AutoModelForTokenClassification" if weights.head == "value" else "AutoModelForCausalLM"
    return f"{target}: load it with transformers.{kind}.from_pretrained({json.dumps(str(target))})"


def command(
    name: RunName,
    round_number: Annotated[int, typer.Argument(metavar="ROUND")],
    model: Annotated[str, typer.Option(help="Which model of the recipe.")] = "policy",
    to: Annotated[
        Path | None, typer.Option(help="The folder to write; exports/RUN-ROUND-MODEL by default.")
    ] = None,
) -> None:
    """Merge a model's adapter into an ordinary Hugging Face folder.

    `ratchet export quickstart 3 --to my-model`
    """

    typer.echo(export_model(name, round_number, model, to, HERE))
