"""README.md of an exported model: what it is, how it was made, what was measured, how to load it.

Written beside the weights and outside their hash. Not here: the card of a run's rows (`card.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import yaml

from pipeline import __version__
from pipeline.models.heads import head_of
from pipeline.recipe.measures import measures
from pipeline.report import summary

if TYPE_CHECKING:
    from pipeline.models.registry import Weights
    from pipeline.run.run import Run


def model_card(
    run: Run, weights: Weights, number: int, folder: str, rows: Sequence[Mapping[str, Any]]
) -> str:
    """The card of a model as it stood after round `number`. rows: as metrics.jsonl has them."""
    spec = run.recipe.models[weights.model]
    hub = "/" in spec.base and "://" not in spec.base and not spec.base.startswith((".", "/", "~"))
    head = {
        "library_name": "transformers",
        "pipeline_tag": "token-classification" if weights.head == "value" else "text-generation",
        **({"base_model": spec.base} if hub else {}),
        "license": run.recipe.header.license or "unknown",
        "tags": ["ratchet", "reasoning", "self-improvement"],
    }
    front = yaml.safe_dump(head, sort_keys=False, allow_unicode=True)
    parts = [_what(run, weights, number), _measured(run, number, rows), _use(weights, folder)]
    text = "\n\n".join([*parts, _made(run, number)])
    return f"---\n{front}---\n# {run.name}, {weights.model} after round {number}\n\n{text}\n"


def _what(run: Run, weights: Weights, number: int) -> str:
    spec = run.recipe.models[weights.model]
    kind = "A process reward model that scores the steps of worked solutions"
    if head_of(weights.head).policy:
        also = " and scores their steps" if "scores" in head_of(weights.head).does else ""
        kind = f"A language model that writes worked solutions{also}"
    tuned = "all weights" if spec.lora == "none" else "LoRA, merged"
    if weights.round < 0:
        return f"{kind}: `{spec.base}` as it came; the run has promoted no version of its own."
    later = ""
    if weights.round != number:
        later = f"; the rounds after it, up to {number}, did not train it or were refused by the gate"
    about = f"\n\n{run.recipe.header.about.strip()}" if run.recipe.header.about.strip() else ""
    return (
        f"{kind}: `{spec.base}`, fine-tuned ({tuned}) in round {weights.round} of self-improvement on what "
        f"models of the same run wrote{later}.{about}"
    )


def _measured(run: Run, number: int, rows: Sequence[Mapping[str, Any]]) -> str:
    """The round's own numbers, and the end's where this is the end."""
    lines = ["## Measured", ""]
    for row in (row for row in rows if row["round"] == number):
        metrics = {name: value for name, value in row["metrics"].items() if value is not None}
        said = summary.result(metrics, measures(run.recipe))
        if said:
            where = "at the end" if row.get("final") else "in the round"
            lines.append(f"- {where}, by `{row['stage']}`: {'; '.join(said)}")
    if len(lines) == 2:
        lines.append("Nothing was measured after this round.")
    tasks = ", ".join(f"`{task.use}`" for task in run.recipe.tasks)
    return "\n".join(
        [*lines, "", f"Task: {tasks}. It was trained on nothing else and may do worse elsewhere."]
    )


def _use(weights: Weights, folder: str) -> str:
    kind = "AutoModelForTokenClassification" if weights.head == "value" else "AutoModelForCausalLM"
    lines = [
        "## Use",
        "",
        "```python",
        f"from transformers import {kind}, AutoTokenizer",
        "",
        f'model = {kind}.from_pretrained("{folder}")',
        f'tokenizer = AutoTokenizer.from_pretrained("{folder}")',
        "```",
    ]
    if head_of(weights.head).policy:
        lines += ["", "Word prompts as the run's task does (`task` in its recipe)."]
    return "\n".join(lines)


def _made(run: Run, number: int) -> str:
    manifest = run.prepare_folder.manifest()
    splits = manifest.extra.get("splits", {}) if manifest else {}
    counts = ", ".join(f"{num:,} {split}" for split, num in splits.items()) or "unknown"
    return (
        f"## Made\n\nBy Ratchet {__version__}: run `{run.name}`, seed {run.recipe.seed}, {number} of "
        f"{run.recipe.rounds} rounds; problems: {counts}. The licences of its base and of its data apply."
    )
