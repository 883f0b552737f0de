"""Attention whose bits do not depend on how much padding stands behind a row: plain matrix products, summed
in fixed blocks.

A matrix product over more columns than MKL's own block (256 on Intel's machines, fewer than 192 on AMD's
Zen 4) is split by its length, so the values are summed in blocks of 128 columns, in order. A masked column
then adds an exact zero wherever it stands, and a batch need only look at the columns in use (measured:
bitwise equal for 16 to 2,048 columns in steps of 8, one and two threads; `selftest` checks it on each
machine). A prefill of few queries is padded, as `products` pads few rows. On CPU it is 1.3 to 1.6 times as
fast as torch's fused kernel for one new column, which makes one small product a row and head anyway.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import pad
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from pipeline.models.products import least_rows

NAME = "ratchet"
LEAST = 16  #: columns, and their number a multiple of 8: other products take another way
BLOCK = 128  #: columns summed at once
QUERIES = 512  #: queries at once, for their scores take queries x columns


def attend(
    module: torch.nn.Module | None,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """The signature of transformers: query [R, H, Q, D], keys and values [R, K, C, D], an additive mask
    [R, 1, Q, C].
    """
    if attention_mask is None or attention_mask.dtype == torch.bool:  # someone else's call of the model
        return sdpa_attention_forward(
            module or torch.nn.Module(), query, key, value, attention_mask, scaling=scaling, **more
        )
    asked_queries = query.shape[2]
    if 1 < asked_queries < least_rows() or asked_queries == key.shape[2]:  # a prefill, not one new column
        few = max(0, least_rows() - asked_queries)
        query, attention_mask = pad(query, (0, 0, 0, few)), pad(attention_mask, (0, 0, 0, few))
    short = max(LEAST, -(-key.shape[2] // 8) * 8) - key.shape[2]
    if short:
        key, value = pad(key, (0, 0, 0, short)), pad(value, (0, 0, 0, short))
        attention_mask = pad(attention_mask, (0, short), value=-torch.inf)
    rows, heads, num_queries, size = query.shape
    shared = heads // key.shape[1]  # heads that share keys are packed together: no copy of the keys
    keys, scale = key.transpose(2, 3), size**-0.5 if scaling is None else scaling
    parts = []
    for first in range(0, num_queries, QUERIES):
        asked = query[:, :, first : first + QUERIES]
        mask = attention_mask[:, :, first : first + QUERIES]
        if shared > 1:
            asked = asked.reshape(rows, key.shape[1], -1, size)
            mask = mask.repeat(1, 1, shared, 1) if num_queries > 1 else mask
        weight = torch.matmul(asked, keys).mul_(scale).add_(mask)
        weight = weight.softmax(-1, dtype=torch.float32).to(value.dtype)
        out = torch.matmul(weight[..., :BLOCK], value[:, :, :BLOCK])
        for start in range(BLOCK, value.shape[2], BLOCK):
            block = slice(start, start + BLOCK)
            out += torch.matmul(weight[..., block], value[:, :, block])
        parts.append(out.reshape(rows, heads, -1, value.shape[-1]))
    whole = parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
    return whole[:, :, :asked_queries].transpose(1, 2).contiguous(), None


def feels_length(config: Any) -> bool:
    """Do positions turn by the longest row of a forward (`longrope`, `dynamic`)? Then a row feels its
    neighbours.
    """
    found = getattr(config, "rope_parameters", None) or {}
    each = [found, *(value for value in found.values() if isinstance(value, dict))]
    return any(str(one.get("rope_type", "")) in ("longrope", "dynamic") for one in each)


def use(model: Any) -> bool:
    """Let a model that runs on torch's fused kernel use this instead; one that needs its own attention
    keeps it.
    """
    if model.config._attn_implementation != "sdpa":
        return False
    ALL_ATTENTION_FUNCTIONS.register(NAME, attend)
    ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)
    return True
