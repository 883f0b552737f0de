"""Does the engine compute what transformers itself computes? One look at each shape of model, before its
first use.

`selftest` compares the engine with itself; a family whose layers the engine misreads (windows it does not
know of, positions of the family's own) is as exact there as any. Here the tokens that the engine writes and
reads are held against the model's own forward over the whole row, without cache, mask or positions of ours.
A family that differs, or whose forward does not take what the engine gives it, is read by `whole`; one that
differs there too (it is not causal, say) is refused with one sentence.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pipeline.engine.growth import Request
from pipeline.engine.local import Engine
from pipeline.errors import RatchetError, RecipeError
from pipeline.models.heads import head_of

NUM_TOKENS = 4  #: that a row writes
LONGEST = 1024  #: a row is longer than the smallest window, up to here
#: of the logits' own spread, the share that a log-probability may be off by
OFF = {torch.float32: 0.01, torch.bfloat16: 0.25, torch.float16: 0.25}
KNOWN_WINDOWS = {"sliding_window", "max_window_layers"}  #: what the engine's masks come from
KINDS = {"full_attention", "sliding_attention"}  #: of layers, that a running batch has a cache for
Shape = tuple[str, str | None, str]  #: a model's configuration, its head, and the dtype that is asked for
_whole: set[Shape] = set()  #: of models that are read whole
_known: dict[tuple[Any, ...], tuple[float, int]] = {}


def shape_of(folder: Path, head: str | None, dtype: str) -> Shape:
    """What one look holds for: a reward model that differs says nothing of the policy on the same base."""
    return (folder / "config.json").read_text(), head, dtype


def has_state(folder: Path) -> bool:
    """Is this a model with a state instead of a cache, whose rows are read whole?"""
    from transformers import AutoConfig

    kinds = {str(kind) for kind in getattr(AutoConfig.from_pretrained(folder), "layer_types", None) or KINDS}
    return not kinds <= KINDS


def hides_window(folder: Path) -> bool:
    """Does the configuration speak of a window that the engine does not know (GPT-Neo's local layers)? Read
    too far, only a row's last tokens are off, and by less than half precision rounds: float32 tells.
    """
    from transformers import AutoConfig

    return any(name not in KNOWN_WINDOWS for name in _spans(AutoConfig.from_pretrained(folder)))


def fits(folder: Path, shape: Shape, made: Callable[[], Engine], refuse: bool = False) -> Engine | None:
    """An engine that gives what its model's own forward gives, looked at once for each shape of model in a
    process; None where it does not (now, or when it was looked at before), or where the family's code fails
    in it.

    Raises:
        RecipeError: with `refuse`, in place of None; and whatever is wrong with the folder itself.
    """
    if shape in _whole and not refuse:
        return None
    try:
        engine = made()
        off, length = _off(engine)
        reason = (
            f"read here a row of {length} tokens differs from transformers' own forward (by {off:.2g} of "
            "what its logits spread)"
        )
    except RatchetError:
        raise
    except (RuntimeError, ValueError, TypeError, AttributeError, LookupError, NotImplementedError) as problem:
        # the code of some 200 families: what it raises for an unknown cache or mask is anything
        if type(problem).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator" in str(problem):
            raise
        first = (str(problem).splitlines() or [""])[0]
        off, reason = math.inf, f"its forward fails here ({type(problem).__name__}: {first[:160]})"
    if off < math.inf and off <= OFF.get(engine.dtype, 0.25):
        return engine
    if refuse:
        kind = json.loads((folder / "config.json").read_text()).get("model_type", "?")
        raise RecipeError(
            f"{folder}: models of type {kind} are not served here: {reason}. Use engine: {{server: [...]}}, "
            "or another base (docs/models.md lists the families)"
        )
    _whole.add(shape)
    return None


def _off(engine: Engine) -> tuple[float, int]:
    """How far the engine is from its model's own forward, and on a row of how many tokens."""
    config = engine.model.config.get_text_config()
    kind, how = type(engine.model).__name__, (type(engine).__name__, engine.reads_whole)
    key = (kind, how, str(config.to_dict()), engine.dtype, engine.device.type, engine.head)
    if key not in _known:
        # scores of a model of their own; what else there is reads a language model's words
        look = _off_scores if head_of(engine.head).reads in ("scalar", "marks") else _off_tokens
        _known[key] = look(engine, _rows(engine, config))
    return _known[key]


def _rows(engine: Engine, config: Any) -> list[list[int]]:
    """A token, a few, and more than the smallest window has."""
    spans = _spans(config).values()
    draw = random.Random(1)  # noqa: S311  fixed rows, no secret
    longest = min(max(24, min(spans, default=0) + 8), engine.context - NUM_TOKENS)
    upper = min(len(engine.tokenizer), config.vocab_size)
    lengths = sorted({1, max(1, min(7, longest)), max(1, longest)})
    return [[draw.randrange(upper) for _ in range(length)] for length in lengths]


def _spans(config: Any) -> dict[str, int]:
    """What a configuration has of windows, in tokens; longer ones than a look reads are left out."""
    return {
        name: value
        for name, value in config.get_text_config().to_dict().items()
        if ("window" in name or "chunk" in name) and isinstance(value, int) and 1 < value <= LONGEST
    }


@torch.inference_mode()
def _own(engine: Engine, ids: list[int]) -> torch.Tensor:
    """The model's own float32 logits [T, V] over a row."""
    return (
        engine.model(input_ids=torch.tensor([ids], device=engine.device), use_cache=False).logits[0].float()
    )


def _off_tokens(engine: Engine, rows: list[list[int]]) -> tuple[float, int]:
    """The largest error of a policy's log-probabilities, written and read, and the length of its row."""
    written = [Request(ids, NUM_TOKENS, temperature=0.0, ends_on=0, tag=i) for i, ids in enumerate(rows)]
    engine.submit(written)
    while engine.busy:
        engine.step()
    whole = [[*row.ids, *row.new_ids] for row in written]
    read = engine.logprobs([(ids, 1) for ids in whole])
    found: list[tuple[float, int]] = []
    for row, ids, seen in zip(written, whole, read, strict=True):
        logits = _own(engine, ids)[:-1]
        own = (
            logits.log_softmax(-1)
            .gather(-1, torch.tensor(ids[1:], device=logits.device)[:, None])[:, 0]
            .cpu()
        )
        far = [(own - torch.tensor(seen)).abs(), (own[-NUM_TOKENS:] - torch.tensor(row.logprobs)).abs()]
        found.append((_share(torch.cat(far), logits, engine.dtype), len(ids)))
    return max(found)


def _off_scores(engine: Engine, rows: list[list[int]]) -> tuple[float, int]:
    """The largest error of a reward model's scores, and the length of its row."""
    said = engine.score([(ids, range(len(ids))) for ids in rows])
    own = [engine.scores_of(_own(engine, ids)).cpu() for ids in rows]
    spread = torch.cat(own)  # of all rows: the scores of one token spread nothing
    return max(
        (_share((mine - torch.tensor(seen)).abs(), spread, engine.dtype), len(ids))
        for ids, seen, mine in zip(rows, said, own, strict=True)
    )


def _share(off: torch.Tensor, spread: torch.Tensor, dtype: torch.dtype) -> float:
    """An error as a share of the spread of what it is an error of. In half precision one token may be far off
    (an expert chosen by a hair): the mean tells, which does not see a window (`hides_window`).
    """
    whole = spread.std(unbiased=False).clamp(min=1e-3)
    return float((off.max() if dtype == torch.float32 else off.mean()) / whole)
