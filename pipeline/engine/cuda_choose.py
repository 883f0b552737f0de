"""What becomes of the logits of a decoded token, each in one launch (Triton): drawn, and written down.

A token is drawn by the inverse CDF in vocabulary order, as `draws.pick` does, but in blocks: one pass over
the logits, one over the sums of the blocks, one over the block that the uniform falls into. Not here: the
layers (`cuda_kernels.py`).
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

VOCABULARY = 2048  #: tokens of one block of the logits


@triton.jit
def _weigh(logits, temperature, most, weights, totals, where, size, blocks, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    at = block * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(logits + row * size + at, mask=at < size, other=float("-inf")).to(tl.float32)
    top = tl.max(x, axis=0)
    seen = tl.where(top == float("-inf"), 0.0, top)  # a block that is cut away whole
    place = row * blocks + block
    tl.store(most + place, top)
    tl.store(where + place, tl.argmax(x, axis=0) + block * BLOCK)
    tl.store(totals + place, tl.sum(tl.exp(x - seen), axis=0))
    tl.store(weights + place, tl.sum(tl.exp((x - seen) / tl.load(temperature + row)), axis=0))


@triton.jit
def _choose(
    logits, temperature, uniforms, steps, greedy, most, weights, totals, where, tokens, logprobs, size,
    blocks, window, BLOCK: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    b = tl.arange(0, BLOCKS)
    here = b < blocks
    top = tl.load(most + row * blocks + b, mask=here, other=float("-inf"))
    peak = tl.max(top, axis=0)
    inverse = 1.0 / tl.load(temperature + row)
    total = tl.sum(tl.load(totals + row * blocks + b, mask=here, other=0.0) * tl.exp(top - peak), axis=0)
    mass = tl.load(weights + row * blocks + b, mask=here, other=0.0) * tl.exp((top - peak) * inverse)
    mass = tl.where(here, mass, 0.0)
    before = tl.cumsum(mass, axis=0)
    whole = tl.sum(mass, axis=0)
    uniform = tl.load(uniforms + row * window + tl.load(steps + row))
    target = tl.minimum(uniform, 0.9999999) * whole
    last = tl.max(tl.where(mass > 0, b, 0), axis=0)
    block = tl.minimum(tl.sum(((before <= target) & here).to(tl.int32), axis=0), last)
    behind = tl.sum(tl.where(b < block, mass, 0.0), axis=0)
    at = tl.arange(0, BLOCK)
    place = block * BLOCK + at
    x = tl.load(logits + row * size + place, mask=place < size, other=float("-inf")).to(tl.float32)
    each = tl.exp((x - peak) * inverse)
    each = tl.where(place < size, each, 0.0)
    line = tl.cumsum(each, axis=0) + behind
    final = tl.max(tl.where(each > 0, at, 0), axis=0)
    spot = tl.minimum(tl.sum(((line <= target) & (place < size)).to(tl.int32), axis=0), final)
    spot = tl.max(tl.where((at <= spot) & (each > 0), at, 0), axis=0)  # one that has weight
    if tl.load(greedy + row) != 0:
        token = tl.min(
            tl.where(here & (top == peak), tl.load(where + row * blocks + b, mask=here, other=0), size),
            axis=0,
        )
        token = tl.minimum(token, size - 1)
    else:
        token = block * BLOCK + spot
    tl.store(tokens + row, token.to(tl.int64))
    logit = tl.load(logits + row * size + token).to(tl.float32)
    tl.store(logprobs + row, logit - peak - tl.log(total))


@triton.jit
def _follow(
    state, tokens, logprobs, written, following, hits, num, stride, logprob_stride, states,
    LAST: tl.constexpr, POSITION: tl.constexpr, STATE: tl.constexpr, COUNT: tl.constexpr,
    LIMIT: tl.constexpr, MASK: tl.constexpr, FLAGS: tl.constexpr, STEPS: tl.constexpr,
    TOKENS: tl.constexpr, LENGTH: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * 128 + tl.arange(0, 128)
    real = row < num
    at = state + row
    token = tl.load(tokens + row, mask=real, other=0)
    steps = tl.load(at + STEPS * stride, mask=real, other=0)
    before = tl.load(at + STATE * stride, mask=real, other=0)
    flagged = tl.load(at + FLAGS * stride, mask=real, other=1)
    live = flagged == 0
    tl.store(at + (TOKENS + steps) * stride, token, mask=real)
    logprob = tl.load(logprobs + row, mask=real, other=0.0)
    tl.store(written + steps * logprob_stride + row, logprob, mask=real)
    count = tl.load(at + COUNT * stride, mask=real, other=0) + live.to(tl.int64)
    spot = token * states + before
    flags = tl.load(hits + spot, mask=real, other=0).to(tl.int64)
    flags = flags & tl.load(at + MASK * stride, mask=real, other=0)
    flags = flags | tl.where(count >= tl.load(at + LIMIT * stride, mask=real, other=0), LENGTH, 0)
    on = live & (flags == 0) & real
    tl.store(at + COUNT * stride, count, mask=real)
    tl.store(at + STEPS * stride, steps + live.to(tl.int64), mask=real)
    tl.store(at + FLAGS * stride, flags, mask=live & real)
    tl.store(at + STATE * stride, tl.load(following + spot, mask=on, other=0).to(tl.int64), mask=on)
    tl.store(at + LAST * stride, token, mask=on)
    position = tl.load(at + POSITION * stride, mask=on, other=0)
    tl.store(at + POSITION * stride, position + 1, mask=on)


def follow(
    state: torch.Tensor, tokens: torch.Tensor, logprobs: torch.Tensor, written: torch.Tensor,
    following: torch.Tensor, hits: torch.Tensor, lines: tuple[int, ...], length: int,
) -> None:  # fmt: skip
    """Write down a token for each row whose flags are 0, in place: the state's lines are last token,
    position, state of the endings, count, limit, mask, flags, steps, and from there on the tokens.
    """
    num = state.shape[1]
    _follow[(triton.cdiv(num, 128),)](
        state, tokens, logprobs, written, following, hits, num, state.stride(0), written.stride(0),
        following.shape[1], *lines, LENGTH=length, num_warps=4,
    )  # fmt: skip


def choose(
    logits: torch.Tensor, temperature: torch.Tensor, uniforms: torch.Tensor, steps: torch.Tensor,
    greedy: torch.Tensor,
) -> tuple[Any, Any]:  # fmt: skip
    """The token of each row [R] and its log-probability at temperature 1. temperature [R];
    uniforms [R, window], of which each row takes its `steps`-th.
    """
    num, size = logits.shape
    blocks = triton.cdiv(size, VOCABULARY)
    single = {"dtype": torch.float32, "device": logits.device}
    most, weights, totals = torch.empty(3, num, blocks, **single)  # type: ignore[call-overload]
    where = torch.empty(num, blocks, dtype=torch.int32, device=logits.device)
    tokens = torch.empty(num, dtype=torch.int64, device=logits.device)
    logprobs = torch.empty(num, **single)  # type: ignore[call-overload]
    _weigh[(num, blocks)](
        logits, temperature, most, weights, totals, where, size, blocks, BLOCK=VOCABULARY, num_warps=4
    )
    _choose[(num,)](
        logits, temperature, uniforms, steps, greedy, most, weights, totals, where, tokens, logprobs, size,
        blocks, uniforms.shape[1], BLOCK=VOCABULARY, BLOCKS=triton.next_power_of_2(blocks), num_warps=8,
    )  # fmt: skip
    return tokens, logprobs
