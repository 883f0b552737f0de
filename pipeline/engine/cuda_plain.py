"""The launches of `cuda_kernels` in plain torch: for a machine without Triton, and to check the others by."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import rms_norm, silu

from pipeline.engine import draws


def add_norm(rows: torch.Tensor, more: torch.Tensor | None, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """The RMS norm of rows [R, W], to which `more` is added first, in place."""
    if more is not None:
        rows.add_(more)
    return rms_norm(rows, (rows.shape[1],), weight, eps)


def turn(
    found: torch.Tensor, positions: torch.Tensor, turns: tuple[torch.Tensor, torch.Tensor],
    norms: tuple[torch.Tensor, torch.Tensor] | None, keys: torch.Tensor, values: torch.Tensor,
    new: int, heads: int, eps: float,
) -> torch.Tensor:  # fmt: skip
    """Queries, turned; keys and values go to their columns, as in `cuda_kernels.turn`."""
    shared, size = keys.shape[1], keys.shape[3]
    asking = heads + shared
    found = found.view(len(found), -1, size)
    turned = found[:, :asking]
    if norms is not None:
        parts = turned.split((heads, shared), dim=1)
        turned = torch.cat(
            [rms_norm(part, (size,), norm, eps) for part, norm in zip(parts, norms, strict=True)], 1
        )
    cos, sin = (part[positions][:, None] for part in turns)
    first, second = turned.chunk(2, dim=-1)
    turned = turned * cos + torch.cat((-second, first), dim=-1) * sin
    row = torch.arange(len(found), device=found.device) // new
    keys[row, :, positions] = turned[:, heads:]
    values[row, :, positions] = found[:, asking:]
    return turned[:, :heads].contiguous()


def attend(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, positions: torch.Tensor, scale: float,
    pdl: bool = False,
) -> torch.Tensor:  # fmt: skip
    """One query a row, [R, heads, size], over the columns up to its position; [R, heads x size]."""
    num, heads, size = queries.shape
    shared = keys.shape[1]
    asked = queries.view(num, shared, -1, size)
    weight = torch.matmul(asked, keys[:num].transpose(2, 3)).float() * scale
    seen = torch.arange(keys.shape[2], device=keys.device) <= positions[:, None]
    weight = weight.masked_fill(~seen[:, None, None], -torch.inf).softmax(-1).to(values.dtype)
    return torch.matmul(weight, values[:num]).reshape(num, heads * size)


def gate(both: torch.Tensor) -> torch.Tensor:
    """silu of the first half of [R, 2 x inner], times the second."""
    first, second = both.chunk(2, dim=-1)
    return silu(first) * second


def choose(
    logits: torch.Tensor, temperature: torch.Tensor, uniforms: torch.Tensor, steps: torch.Tensor,
    greedy: torch.Tensor,
) -> tuple[Any, Any]:  # fmt: skip
    """The token of each row [R] and its log-probability at temperature 1, as in `cuda_kernels.choose`."""
    logits = logits.float()
    uniform = uniforms.gather(1, steps[:, None]).squeeze(1)
    drawn = draws.pick(draws.weights(logits / temperature[:, None])[0], uniform)
    tokens = torch.where(greedy != 0, logits.argmax(-1), drawn)
    total = draws.weights(logits)[1]
    return tokens, logits.gather(-1, tokens[:, None]).squeeze(-1) - total


def follow(
    state: torch.Tensor, tokens: torch.Tensor, logprobs: torch.Tensor, written: torch.Tensor,
    following: torch.Tensor, hits: torch.Tensor, lines: tuple[int, ...], length: int,
) -> None:  # fmt: skip
    """Write down a token for each row whose flags are 0, in place, as in `cuda_kernels.follow`."""
    LAST, POSITION, STATE, COUNT, LIMIT, MASK, FLAGS, STEPS, TOKENS = lines  # noqa: N806
    last, before, live = state[LAST], state[STATE], state[FLAGS] == 0
    state[TOKENS:].scatter_(0, state[STEPS][None], tokens[None])
    written.scatter_(0, state[STEPS][None], logprobs[None])
    state[COUNT] += live
    state[STEPS] += live
    flags = hits[tokens, before] & state[MASK]
    flags = flags | (state[COUNT] >= state[LIMIT]) * length
    goes_on = live & (flags == 0)  # one that ended stays where it is: there may be no column behind
    state[FLAGS] = torch.where(live, flags, state[FLAGS])
    state[STATE] = torch.where(goes_on, following[tokens, before], before)
    state[LAST] = torch.where(goes_on, tokens, last)
    state[POSITION] += goes_on
