"""How many problems a chunk has where the recipe does not say.

A small model's chunk is 128 problems. Of a larger one a chunk should take half a minute to a minute, for a
kill costs what was under way. The size is decided by the recipe and the weights alone, never by a clock,
before the stage starts, and stands in its plan.json; a stage that was planned keeps what its plan says.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pipeline.models.registry import Weights
from pipeline.recipe.cost import Lengths, expected
from pipeline.recipe.shape import Recipe, Stage
from pipeline.store.plan import Plan

DEFAULT_CHUNK = 128
LEAST = 8  #: problems: a batch should stay large
LARGE = 200_000_000  #: bytes of a model's files: of a smaller one 128 problems take seconds
SECONDS = 45.0  #: that a chunk is expected to take
#: tokens that a core writes a second, times the bytes of its model's files: 190 tokens/s of SmolLM2-135M
BYTES_A_SECOND = 1e11
PROMPT = 100  #: tokens of a prompt, read in a tenth of the time that writing them would take


def chunk_size(recipe: Recipe, stage: Stage, models: Iterable[Weights], planned: Plan | None) -> int:
    """Problems a chunk: as the recipe says, else as the stage's plan does, else by the models that act."""
    if stage.settings.chunk:
        return int(stage.settings.chunk)
    if planned is not None and planned.chunks:
        return max(len(chunk.ids) for chunk in planned.chunks)
    size = max((_size(weights.base) for weights in models), default=0)
    if size < LARGE or not recipe.tasks:
        return DEFAULT_CHUNK
    cost = expected(recipe, stage, Lengths(recipe.tasks))
    tokens = sum(cost.written.values()) + (sum(cost.read.values()) + PROMPT) / 10
    number = SECONDS * BYTES_A_SECOND / size / max(tokens, 1.0)
    return int(min(DEFAULT_CHUNK, max(LEAST, number)))


def _size(folder: Path) -> int:
    """Bytes of a model's weights as float32 would have them; 0 where they are not here (a server's)."""
    return sum(path.stat().st_size for path in Path(folder).glob("*.safetensors"))
