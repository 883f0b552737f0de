"""Rows end to end on one line, each seeing itself alone, through torch's flash attention of many lengths.

No padding is computed and no mask is built: on a GPU that is the same update for fewer products. transformers
knows such batches, but only with a package that must be compiled; torch has the same kernel. Of models whose
attention is plain: whether it is, two rows show before training, together against each by itself.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch

NAME = "rows_alone"
FAR = 6e-2  #: how far logits may part, of their norm, in half precision


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **given: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' contract: heads first, [1, H, T, size] in, [1, T, H, size] out; `cu_seq_lens_q` says
    where rows begin.
    """
    from torch.nn.attention.varlen import varlen_attn

    known = inspect.signature(varlen_attn).parameters
    starts, longest = given["cu_seq_lens_q"], given["max_length_q"]
    kind = query.dtype if query.dtype in (torch.bfloat16, torch.float16) else torch.bfloat16
    flat = [part[0].transpose(0, 1).to(kind) for part in (query, key, value)]
    more: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}
    groups = query.shape[1] // key.shape[1]
    if groups > 1 and "enable_gqa" in known:
        more["enable_gqa"] = True
    elif groups > 1:
        flat[1:] = [part.repeat_interleave(groups, 1) for part in flat[1:]]
    usual = query.shape[-1] ** -0.5
    if scaling is not None and abs(scaling - usual) > 1e-6 * usual:
        flat[0] = flat[0] * (scaling / usual)
    ask, keys, values = (part.contiguous() for part in flat)
    seen: Any = varlen_attn(ask, keys, values, starts, starts, longest, longest, **more)
    return seen[None].to(query.dtype), None


def use(model: Any) -> bool:
    """Let a model on a GPU take rows end to end. Returns False, and leaves it as it was, where it cannot."""
    device = next(model.parameters()).device
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    if device.type != "cuda" or window or next(model.parameters()).dtype == torch.float16:
        return False
    try:
        from torch.nn.attention.varlen import varlen_attn  # noqa: F401
        from transformers import AttentionInterface
        from transformers.masking_utils import AttentionMaskInterface
    except ImportError:
        return False
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, lambda *_, **__: None)
    before = config._attn_implementation
    try:
        far = gap(model, device)
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError):
        far = float("nan")
    if not far < FAR:
        model.set_attn_implementation(before)
        return False
    return True


@torch.no_grad()
def gap(model: Any, device: torch.device) -> float:
    """How far the logits of two rows on a line part from those of each, as a share of their norm."""
    size = model.config.get_text_config().vocab_size
    rows = [torch.arange(3, 3 + length, device=device) % size for length in (19, 13)]
    was, kind = model.training, torch.bfloat16
    model.eval()
    try:
        with torch.autocast("cuda", kind):
            alone = [model(input_ids=row[None], use_cache=False).logits[0].float() for row in rows]
            model.set_attn_implementation(NAME)
            line = torch.cat(rows)[None]
            places = torch.cat([torch.arange(len(row), device=device) for row in rows])[None]
            starts = torch.tensor([0, 19, 32], dtype=torch.int32, device=device)
            given = {"cu_seq_lens_q": starts, "cu_seq_lens_k": starts, "max_length_q": 19, "max_length_k": 19}
            together = model(input_ids=line, position_ids=places, use_cache=False, **given).logits[0].float()
    finally:
        model.train(was)
    wanted = torch.cat(alone)
    return float((together - wanted).norm() / wanted.norm())
