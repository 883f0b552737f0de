"""How much memory a run takes at its peak, from the recipe and the shapes of its models; loads no torch.

Python with its libraries, and of the most demanding stage: the weights of every model that acts there, the
cache of the rows under way (up to what an engine gives it), logits; or a training's weights, activations,
gradients and optimizer. Held against real runs in docs/benchmarks.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.engine.rungs import LARGE_WEIGHTS, large_rung_of
from pipeline.models.environment import processor_flags
from pipeline.models.heads import head_of
from pipeline.models.packaged import PACKAGES, packaged, wanted
from pipeline.recipe.cost import PROMPT, Lengths, expected
from pipeline.recipe.shape import Recipe, Stage, first_part, measured

PYTHON = 0.65e9  #: Python, torch, transformers, trl, pyarrow
SLACK = 1.2  #: what the allocator keeps beside what is in use, and the copies of a load
CACHE = 2 << 30  #: that an engine gives the rows of one rung
LARGE = 200_000_000  #: bytes of a model's files from which bfloat16 serves on a CPU that multiplies it
LOGITS = 5  #: copies of a step's logits in float32, sorted ones included
CHUNK = 128  #: problems, where a recipe does not say
MICRO = 32_768  #: tokens of a training's micro-batch
SMALL = 10_000_000  #: bytes a seed policy's files have, about


@dataclass(frozen=True)
class Shape:
    """Of a model: numbers of weights and sizes of its layers."""

    weights: float
    layers: int
    hidden: int
    inner: int
    shared: int  #: keys of all heads of a layer
    words: int
    given: int = 4  #: bytes of a weight in its file

    @classmethod
    def guessed(cls, weights: float) -> Shape:
        """Of which the number of weights alone is known."""
        hidden = int((weights / 360) ** 0.5)
        return cls(weights, 30, hidden, int(2.7 * hidden), hidden // 3, 50_000)

    @classmethod
    def read(cls, folder: Path) -> Shape | None:
        """Of a model's folder; None where it holds no weights, or says too little of itself."""
        size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        try:
            said = json.loads((folder / "config.json").read_text())
            said = said.get("text_config") or said
            given = 4 if (said.get("dtype") or said.get("torch_dtype")) == "float32" else 2
            heads = said["num_attention_heads"]
            each = said.get("head_dim") or said["hidden_size"] // heads
            shared = (said.get("num_key_value_heads") or heads) * each
            inner = said.get("intermediate_size") or 4 * said["hidden_size"]
            layers, hidden, words = (int(said[k]) for k in ("num_hidden_layers", "hidden_size", "vocab_size"))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None if not size else cls.guessed(size / 4)
        return cls(size / given, layers, hidden, int(inner), int(shared), words, given) if size else None


def folder_of(base: str, checkpoints: Path) -> Path | None:
    """Where a base's weights lie, if they are here already."""
    if packaged(base):
        return checkpoints / "seed" / wanted(base).folder_name
    return None if base.startswith("seed://") else Path(base)


def needed(recipe: Recipe, find: Callable[[str], Path | None]) -> tuple[float, list[str]]:
    """Bytes at the peak of a run in one process, and the bases of which nothing is known. find: the folder
    of a base.
    """
    shapes: dict[str, Shape] = {}
    unknown = []
    for name, model in recipe.models.items():
        if model.engine.server:
            continue
        shape = _shape(model.base, find(model.base))
        if shape is None:
            unknown.append(model.base)
        else:
            shapes[name] = shape
    stages = [_stage(recipe, stage, shapes) for stage in recipe.stages if stage.built]
    return PYTHON + SLACK * max(stages, default=0.0), unknown


def _shape(base: str, folder: Path | None) -> Shape | None:
    if folder is not None and folder.is_dir() and (found := Shape.read(folder)):
        return found
    if packaged(base):
        name = base.removeprefix("seed://").partition("?")[0]
        return Shape.guessed(PACKAGES[name].parameters)
    if base.startswith("seed://"):
        return Shape(SMALL / 4, 4, 128, 512, 128, 64)
    named = re.search(r"(\d+(?:\.\d+)?)([bBmM])\b", base)
    return Shape.guessed(float(named[1]) * (1e9 if named[2] in "bB" else 1e6)) if named else None


def width(shape: Shape, dtype: str) -> int:
    """Bytes of a number of a model that acts, or trains frozen."""
    if dtype != "auto":
        return 4 if dtype == "float32" else 2
    if _on_gpu():
        return 2
    large = shape.weights * shape.given >= LARGE
    return 2 if large and processor_flags() & {"amx_bf16", "avx512_bf16"} else 4


def _on_gpu() -> bool:
    return Path("/dev/nvidiactl").exists()


def _stage(recipe: Recipe, stage: Stage, shapes: dict[str, Shape]) -> float:
    """Bytes of one stage."""
    if stage.room == "train":
        name = stage.settings.model
        return _training(recipe, stage, name, shapes[name]) if name in shapes else 0.0
    acting = dict.fromkeys(measured(stage) if stage.room == "evaluate" else stage.models.values())
    acting |= dict.fromkeys(stage.models.values())
    return sum(_engine(recipe, stage, name, shapes) for name in acting)


def _engine(recipe: Recipe, stage: Stage, name: str, shapes: dict[str, Shape]) -> float:
    """Bytes of one engine: weights, the vocabulary's product once more, rows under way, logits."""
    plain = first_part(name)
    shape = shapes.get(plain)
    if shape is None:
        return 0.0
    model = recipe.models[plain]
    each = width(shape, model.dtype)
    large = shape.weights >= LARGE_WEIGHTS
    found = shape.weights * each + (shape.words * shape.hidden * each if large else 0)
    if model.head and model.head != "token" and not head_of(model.head).policy:
        return found + CACHE / 16  # reads alone: what a search remembers
    rows = min(model.engine.max_rows, _rows(recipe, stage))
    columns = max(_prompt(task, name, stage, model.base) + _limit(stage, task) for task in recipe.tasks)
    if large and not _on_gpu():
        columns = large_rung_of(round(columns))  # rows of a large model share the batch of that many
    token = 2 * shape.layers * shape.shared * each
    # a full batch is two thirds of what an engine gives it, and half as many rows wait ahead
    fits = max(1.0, CACHE / 1.5 / (columns * token))
    live = min(rows, fits)
    return found + min(rows * columns * token, CACHE) + live * shape.words * 4 * LOGITS


def _rows(recipe: Recipe, stage: Stage) -> float:
    """Completions under way together."""
    traces = 1.0
    if stage.room in ("generate", "label"):
        cost = expected(recipe, stage, Lengths(recipe.tasks))
        length = Lengths(recipe.tasks).typical_tokens
        traces = max([1.0, cost.traces, *(tokens / length for tokens in cost.written.values())])
    problems: float = recipe.header.window * (stage.settings.chunk or CHUNK)
    if stage.room == "evaluate":
        there = sum(getattr(task, stage.settings.on_split, 0) or problems for task in recipe.tasks)
        problems = min(problems, there, stage.settings.problems or there)
    return problems * traces


def _question(base: str) -> int:
    """Tokens of a question: our seeds have a token for each number and sign."""
    return PROMPT if base.startswith("seed://") and not packaged(base) else 3 * PROMPT


def _prompt(task: Any, name: str, stage: Stage, base: str) -> float:
    """Tokens of a prompt with its worked examples."""
    question = _question(base)
    first = stage.section == "before" or name.endswith("@0") or stage.room == "generate"
    shots = int(task.shots(-1 if first else 1))
    return question + shots * (question + task.typical_tokens)


def _limit(stage: Stage, task: Any) -> int:
    return int(stage.settings.completion_limit or task.max_tokens)


def _training(recipe: Recipe, stage: Stage, name: str, shape: Shape) -> float:
    """Bytes of a training: frozen weights or all of them with their gradients and moments, an adapter, and
    what the layers keep of a micro-batch for the way back.
    """
    model, settings = recipe.models[name], stage.settings
    length = min(
        settings.max_length,
        max(_question(model.base) + PROMPT + task.typical_tokens for task in recipe.tasks),
    )
    if model.lora == "none":
        each, found = 4, 16 * shape.weights
    else:
        each = width(shape, model.dtype)
        rank = int(model.lora.get("r", 8))
        thin = shape.layers * rank * (7 * shape.hidden + 3 * shape.inner + 2 * shape.shared)
        found = each * shape.weights + 16 * thin
    tokens = min(MICRO, settings.batch_size * length)
    kept = shape.layers * (12 * shape.hidden + 4 * shape.inner) * each
    return float(found + tokens * (kept + LOGITS * 4 * shape.words / 4))


def told(recipe: Recipe, find: Callable[[str], Path | None]) -> str:
    """`4.7 GB`, and what is not known."""
    found, unknown = needed(recipe, find)
    return f"{found / 1e9:.1f} GB" + (f" and what {', '.join(unknown)} takes" if unknown else "")
