"""`compare RECIPE... --tokens N`: recipes at an equal budget of generated policy tokens, and one table.

Each round of a recipe gets N / rounds charged policy tokens; what its generate stages wrote beyond them is
not trained on (reason `budget`), so every method learns from the same number of tokens. Reward-model tokens
have a column of their own. Round 0 (`before`) is outside the budget and shown in the table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.errors import RecipeError
from pipeline.loop import run_loop
from pipeline.recipe import Recipe, load
from pipeline.report.metrics import by_round, read
from pipeline.session import session
from pipeline.status import run_status
from pipeline.world import World


def compare(
    paths: list[Path], tokens: int, overrides: list[str], console: Any, data: Path, checkpoints: Path
) -> str:
    """Run each recipe under its budget (or go on with it), and tabulate. Runs are named compare-RECIPE-sSEED.

    Raises:
        RecipeError: a recipe has no rounds to spread the tokens over.
    """
    done = []
    for path in paths:
        plain = load(path, overrides)
        if not plain.rounds:
            raise RecipeError(f"{path}: has no rounds, so there is nothing to spread {tokens} tokens over")
        share = tokens // plain.rounds
        recipe = load(
            path, [*overrides, f"tokens_per_round={share}"], f"compare-{plain.name}-s{plain.seed}-{tokens}"
        )
        with session(recipe, console, World(), data, checkpoints) as run:
            run.announce()
            run_loop(run)
        done.append(recipe)
    return table(done, data, checkpoints)


def tokens_of(metrics: dict[str, float], recipe: Recipe, heads: bool) -> int:
    """Charged tokens of a round's generate and label stages, of policies or of reward models."""
    names = {stage.name for stage in recipe.stages if stage.room in ("generate", "label")}
    total = 0.0
    for key, value in metrics.items():
        stage, _, rest = key.partition("/charged/")
        model = recipe.models.get(rest.split("@")[0]) if rest else None
        if model is not None and stage in names and (model.head is not None) == heads:
            total += value
    return int(total)


def table(recipes: list[Recipe], data: Path, checkpoints: Path) -> str:
    """Accuracy by round with intervals, tokens, PRM quality and wall time, a line a round of each recipe."""
    head = ("recipe", "round", "greedy", "95 %", "tokens", "PRM tokens", "PRM AUC", "seconds")
    lines: list[tuple[str, ...]] = [head]
    for recipe in recipes:
        rows = read(data / recipe.name / "metrics.jsonl")
        status = run_status(recipe.name, data, checkpoints)
        for number, metrics in by_round(row for row in rows if not row.get("final")).items():
            stages = status["rounds"][number]["stages"].values()
            lines.append(_line(recipe, str(number), metrics, sum(one["seconds"] for one in stages)))
        final = by_round(row for row in rows if row.get("final"))
        if final:
            lines.append(_line(recipe, "test", final[max(final)], 0.0))
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join("  ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)) for line in lines)


def _line(recipe: Recipe, number: str, metrics: dict[str, float], seconds: float) -> tuple[str, ...]:
    key = next((k for k in metrics if k.endswith(("/accuracy/greedy", "/accuracy/search"))), None)
    auc = next((k for k in metrics if k.endswith("/auc")), None)
    return (
        recipe.path.rsplit("/", 1)[-1].removesuffix(".yaml"),
        number,
        f"{metrics[key]:.3f}" if key else "",
        f"{metrics[key + '/low']:.3f}-{metrics[key + '/high']:.3f}"
        if key and key + "/low" in metrics
        else "",
        f"{tokens_of(metrics, recipe, heads=False):,}",
        f"{tokens_of(metrics, recipe, heads=True):,}",
        f"{metrics[auc]:.3f}" if auc else "",
        f"{seconds:.0f}" if seconds else "",
    )
