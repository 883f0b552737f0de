"""Attention whose bits do not depend on how much padding stands behind a row: plain matrix products, summed
in fixed blocks.

A matrix product over more columns than MKL's own block (256 on Intel's machines, fewer than 192 on AMD's
Zen 4) is split by its length, so the values are summed in blocks of 128 columns, in order. A masked column
then adds an exact zero wherever it stands, and a batch need only look at the columns in use (measured:
bitwise equal for 16 to 2,048 columns in steps of 8, one and two threads; `selftest` checks it on each
machine). A product of one query has other bits than one of many. A policy, whose running batch has one query
a row, reads its prefixes by one query at a time too, so a column has the same bits whether it was read or
written; a reward model never writes and takes 512 queries at once, few of them padded as `products` pads few
rows. On CPU it is 1.3 to 1.6 times as fast as torch's fused kernel for one new column, which makes one small
product a row and head anyway.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch.nn.functional import pad
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from pipeline.engine.cpu_linear import least_rows

NAMES = ("ratchet", "ratchet-one-by-one")
LEAST = 16  #: columns, and their number a multiple of 8: other products take another way
LEAST_PRODUCT = 400  #: multiplications of a product: a smaller one takes another way too
BLOCK = 128  #: columns summed at once
QUERIES = 512  #: queries at once, for their scores take queries x columns


def attend(
    module: torch.nn.Module | None,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    one_by_one: bool = False,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """The signature of transformers: query [R, H, Q, D], keys and values [R, K, C, D], an additive mask
    [R, 1, Q, C]. one_by_one: each query has the bits it has alone.
    """
    if attention_mask is None or attention_mask.dtype == torch.bool:  # someone else's call of the model
        return sdpa_attention_forward(
            module or torch.nn.Module(), query, key, value, attention_mask, scaling=scaling, **more
        )
    num_queries = query.shape[2]
    last = (num_queries - 1) % QUERIES + 1  # queries of the last block
    shared = query.shape[1] // key.shape[1]  # heads that share keys are packed together: no copy of the keys
    few = 0 if one_by_one else max(0, -(-least_rows() // shared) - last)
    if few:
        query, attention_mask = pad(query, (0, 0, 0, few)), pad(attention_mask, (0, 0, 0, few))
    short = columns_of(key.shape[2], query.shape[3]) - key.shape[2]
    if short:
        key, value = pad(key, (0, 0, 0, short)), pad(value, (0, 0, 0, short))
        attention_mask = pad(attention_mask, (0, short), value=-torch.inf)
    if key.stride(2) != key.shape[3]:  # columns (the values' too) side by side, as in a running batch: else
        # another product
        key, value = key.contiguous(), value.contiguous()
    rows, heads, size = query.shape[0], query.shape[1], query.shape[3]
    keys, scale = key.transpose(2, 3), size**-0.5 if scaling is None else scaling
    parts = []
    several = 1 if one_by_one else QUERIES
    for first in range(0, query.shape[2], several):
        asked = query[:, :, first : first + several]
        mask = attention_mask[:, :, first : first + several]
        if shared > 1:
            asked = asked.reshape(rows, key.shape[1], -1, size)
            mask = mask.repeat(1, 1, shared, 1) if mask.shape[2] > 1 else mask
        weight = torch.matmul(asked, keys).mul_(scale).add_(mask)
        weight = weight.softmax(-1, dtype=torch.float32).to(value.dtype)
        out = torch.matmul(weight[..., :BLOCK], value[:, :, :BLOCK])
        for start in range(BLOCK, value.shape[2], BLOCK):
            block = slice(start, start + BLOCK)
            out += torch.matmul(weight[..., block], value[:, :, block])
        parts.append(out.reshape(rows, heads, -1, value.shape[-1]))
    whole = parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
    return whole[:, :, :num_queries].transpose(1, 2).contiguous(), None


def columns_of(number: int, size: int) -> int:
    """So many columns attention looks at where there are `number`; size: of a head."""
    return -(-max(number, LEAST, -(-LEAST_PRODUCT // size)) // 8) * 8


def feels_length(config: Any) -> bool:
    """Do positions turn by the longest row of a forward (`longrope`, `dynamic`)? Then a row feels its
    neighbours.
    """
    found = getattr(config, "rope_parameters", None) or {}
    each = [found, *(value for value in found.values() if isinstance(value, dict))]
    return any(str(one.get("rope_type", "")) in ("longrope", "dynamic") for one in each)


def use(model: Any, one_by_one: bool) -> bool:
    """Let a model that runs on torch's fused kernel use this instead; one that needs its own attention
    keeps it.
    """
    if model.config._attn_implementation != "sdpa":
        return False
    name = NAMES[one_by_one]
    ALL_ATTENTION_FUNCTIONS.register(name, functools.partial(attend, one_by_one=one_by_one))
    ALL_MASK_ATTENTION_FUNCTIONS.register(name, sdpa_mask)
    model.set_attn_implementation(name)
    return True
