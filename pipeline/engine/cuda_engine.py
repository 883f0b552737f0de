"""What the local engine does otherwise on a GPU.

Rows that write go a few tokens at a time, through few launches where the model allows it, and logits of a
large vocabulary are made of some positions at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from pipeline.engine.cpu_attention import feels_length
from pipeline.engine.cuda_batch import DeviceBatch, Tables
from pipeline.engine.cuda_forward import fast_of

if TYPE_CHECKING:
    from pipeline.engine.local import Engine

LOGITS = 1 << 27  #: that a GPU holds at once of sequences it reads


def prepare(engine: Engine) -> None:
    """Give an engine the GPU's batch and, where the model allows it, a body in few launches."""
    engine.batch_kind, engine.tables = DeviceBatch, Tables(engine.device)
    config = engine.model.config.get_text_config()
    kinds = getattr(config, "layer_types", None) or []
    window = getattr(config, "sliding_window", None) and (not kinds or "sliding_attention" in kinds)
    if not window and not feels_length(config) and engine.top is not None:
        engine.fast = fast_of(engine.model, engine.top)


def by_parts(
    hidden: torch.Tensor, top: Callable[[torch.Tensor], torch.Tensor], num_tokens: int, reduce: Any,
    *more: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """`reduce` of the logits of hidden states [R, A, width], of some at a time, for those of a large
    vocabulary take more room than the weights. more [R, A]: of each position, given to `reduce` too.
    """
    size = max(1, LOGITS // num_tokens)
    parts = zip(hidden.flatten(0, 1).split(size), *(one.flatten().split(size) for one in more), strict=True)
    return torch.cat([reduce(top(part).float(), *each) for part, *each in parts]).view(hidden.shape[:2])
