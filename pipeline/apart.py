"""Work beside the loop: a measurement that no gate reads, and a model as an ordinary Hugging Face folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline import recipe as recipes
from pipeline.errors import RecipeError
from pipeline.models.registry import merge
from pipeline.recipe import Stage, method, parse_yaml
from pipeline.run import Run
from pipeline.session import session
from pipeline.stages import run_stage
from pipeline.status import open_run
from pipeline.world import World


def finished_rounds(run: Run) -> list[int]:
    """The rounds of a run that have a gate."""
    return [number for number in range(run.recipe.rounds + 1) if run.gate(number) is not None]


def _round_of(run: Run, number: int | None) -> int:
    """The round that a user asks for; the last finished one without.

    Raises:
        RecipeError: it is not finished.
    """
    done = finished_rounds(run)
    if not done:
        raise RecipeError(f"run {run.name}: no round is finished yet")
    if number is not None and number not in done:
        raise RecipeError(
            f"run {run.name}: round {number} is not finished; finished: {', '.join(map(str, done))}"
        )
    return done[-1] if number is None else number


def evaluate_apart(
    name: str,
    number: int | None,
    split: str,
    overrides: list[str],
    console: Any,
    data: Path,
    checkpoints: Path,
) -> str:
    """Measure the policy of a run after a round, paired with its seed. Returns the numbers for people."""
    looked = open_run(name, data, checkpoints)
    number = _round_of(looked, number)
    policy = next((n for n, model in looked.recipe.models.items() if model.head is None), None)
    given: dict[str, Any] = {"of": [policy, f"{policy}@0"], "split": split, "samples": 0}
    for override in overrides:
        key, sign, value = override.partition("=")
        if not sign:
            raise RecipeError(f"{override!r}: an override is key=value, for example samples=16")
        given[key] = parse_yaml(value, override)
    problems: list[str] = []
    settings = recipes.validate(method("evaluate", "accuracy").Settings, given, "eval", "", problems)
    if problems:
        raise RecipeError(problems)
    print_of = recipes.fingerprint(recipes.data_settings(settings))[:8]
    stage = Stage(f"{split}_{number:03d}_{print_of}", "apart", "evaluate", "accuracy", settings)
    with session(looked.recipe, console, World(), data, checkpoints) as run:
        metrics = run_stage(run, stage, number).extra["metrics"]
    lines = [f"{name} after round {number}, {split}:"]
    for key, value in metrics.items():
        if key.count("/") <= 1 and not key.endswith(("/low", "/high")):
            ends = [metrics[f"{key}/{end}"] for end in ("low", "high") if f"{key}/{end}" in metrics]
            within = f"  [{ends[0]:.4f}, {ends[1]:.4f}]" if len(ends) == 2 else ""
            lines.append(f"  {key:<24} {value:8.4f}{within}")
    return "\n".join(lines)


def export_model(name: str, number: int, model: str, to: Path | None, data: Path, checkpoints: Path) -> str:
    """A model after a round, adapter merged, in a folder that plain transformers loads."""
    run = open_run(name, data, checkpoints)
    if model not in run.recipe.models:
        raise RecipeError(f"run {name}: no model {model!r}{recipes.nearest(model, run.recipe.models)}")
    weights = run.standing(model, _round_of(run, number))
    target = to or Path("exports") / f"{name}-{number:03d}-{model}"
    if target.exists() and any(target.iterdir()) and not (target / "manifest.json").exists():
        raise RecipeError(f"{target}: is there already and was not made by export; choose another with --to")
    merge(weights.base, weights.adapter, weights.head, target, {"run": name, "round": number, "model": model})
    kind = "AutoModelForTokenClassification" if weights.head == "value" else "AutoModelForCausalLM"
    return f"{target}: load it with transformers.{kind}.from_pretrained({json.dumps(str(target))})"
