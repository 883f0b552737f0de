"""What one problem is expected to cost a stage, as its method says, for a completion as the task has them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from pipeline.recipe.shape import Recipe, Stage
from pipeline.settings import Cost

PROMPT = 20  #: tokens of a prompt, where nothing was measured


@dataclass(frozen=True)
class Lengths:
    """A typical completion over the tasks of a recipe: the longest of them."""

    tasks: tuple[Any, ...] = field(default=())

    @property
    def typical_tokens(self) -> float:
        return max(task.typical_tokens for task in self.tasks)

    @property
    def typical_steps(self) -> float:
        return max(task.typical_steps for task in self.tasks)


def expected(recipe: Recipe, stage: Stage, lengths: Lengths) -> Cost:
    """What one problem is expected to cost a stage, and the traces that it leaves there."""
    return stage.settings.cost(lengths, sum(_arriving(recipe, stage, lengths).values()))


def _arriving(recipe: Recipe, stage: Stage, lengths: Lengths) -> dict[str, float]:
    """Traces of a problem that arrive, by the stage that wrote them; a labeller brings those it labels."""
    found: Counter[str] = Counter()
    for source in stage.sources:
        if not isinstance(source, str) or source == "train":
            continue
        earlier = recipe.stage(source)
        before = _arriving(recipe, earlier, lengths) if earlier.room == "label" else {}
        if earlier.built and earlier.room in ("generate", "label"):
            own = expected(recipe, earlier, lengths).traces - sum(before.values())
            found[earlier.name] = max(found[earlier.name], own)  # type: ignore[assignment]
        for name, traces in before.items():
            found[name] = max(found[name], traces)  # type: ignore[assignment]
    return dict(found)
