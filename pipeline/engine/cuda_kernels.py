"""What a decoded token needs beside its matrix products, each in one launch (Triton).

A step of a model of 1.5 G weights reads 3 GB and takes a millisecond of an H100's memory; a launch takes two
microseconds even in a CUDA graph, and transformers' layers make some forty-five beside their products. Here a
layer makes five: norm with the residual added, heads turned and put into their columns, attention over the
columns a row really has, the second norm, and the gate; `cuda_products` has them in one with their products.

Attention is split over a row's columns (Dao et al., "Flash-Decoding", 2023), so that a few long rows fill the
chip. The token is drawn and written down by `cuda_choose`, whose launches stand here too, so that whoever
needs all of them takes one module.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from pipeline.engine.cuda_choose import choose, follow

__all__ = ["ATTEND", "Attend", "add_norm", "attend", "choose", "counters_of", "follow", "gate", "turn"]


@dataclass(slots=True)
class Attend:
    """How a row's attention is cut: columns of a part and of a block of it."""

    part: int = 256
    block: int = 32
    stages: int = 3
    warps: int = 4
    columns_ahead: bool = False  #: a part's columns are asked for before the queries are there
    ahead: int = 0  #: columns of a following product's weights that are asked for meanwhile


ATTEND = Attend()


@functools.cache
def counters_of(device: torch.device) -> torch.Tensor:
    """How many parts of something have arrived; each launch leaves zeros."""
    return torch.zeros(1 << 16, dtype=torch.int32, device=device)


@triton.jit
def gdc_wait(PDL: tl.constexpr):
    """Wait for the launch before, where this one may have started early."""
    if PDL:
        tl.extra.cuda.gdc_wait()


@triton.jit
def gdc_launch(PDL: tl.constexpr):
    """Let the next launch start."""
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def prefetch(pointers):
    """Ask for lines of memory that are needed soon."""
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [pointers], dtype=tl.int32, is_pure=False, pack=1
    )


@triton.jit
def _add_norm(rows, more, weight, out, width, eps, ADDED: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < width
    full = tl.load(rows + row * width + at, mask=inside, other=0.0).to(tl.float32)
    kind = rows.dtype.element_ty
    if ADDED:
        full += tl.load(more + row * width + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(rows + row * width + at, full.to(kind), mask=inside)
        full = full.to(kind).to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(full * full, axis=0) / width + eps)
    normed = (full * scale).to(kind).to(tl.float32)
    learnt = tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * width + at, (learnt * normed).to(kind), mask=inside)


@triton.jit
def _turn(
    found, positions, cos, sin, ask_norm, key_norm, queries, keys, values, new, heads, shared, eps,
    row_stride, head_stride, NORMED: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    half: tl.constexpr = SIZE // 2
    at = tl.arange(0, half)
    start = found + (token * (heads + 2 * shared) + head) * SIZE
    first, second = tl.load(start + at), tl.load(start + half + at)
    place = tl.load(positions + token)
    row = token // new
    if head >= heads + shared:
        to = values + row * row_stride + (head - heads - shared) * head_stride + place * SIZE
        tl.store(to + at, first)
        tl.store(to + half + at, second)
    else:
        a, b = first.to(tl.float32), second.to(tl.float32)
        asking = head < heads
        if NORMED:
            scale = 1.0 / tl.sqrt((tl.sum(a * a, axis=0) + tl.sum(b * b, axis=0)) / SIZE + eps)
            a, b = a * scale, b * scale
            if asking:
                a *= tl.load(ask_norm + at).to(tl.float32)
                b *= tl.load(ask_norm + half + at).to(tl.float32)
            else:
                a *= tl.load(key_norm + at).to(tl.float32)
                b *= tl.load(key_norm + half + at).to(tl.float32)
            a, b = a.to(first.dtype).to(tl.float32), b.to(first.dtype).to(tl.float32)
        c = tl.load(cos + place * SIZE + at).to(tl.float32)
        s = tl.load(sin + place * SIZE + at).to(tl.float32)
        if asking:
            to = queries + (token * heads + head) * SIZE
        else:
            to = keys + row * row_stride + (head - heads) * head_stride + place * SIZE
        tl.store(to + at, (a * c - b * s).to(first.dtype))
        tl.store(to + half + at, (b * c + a * s).to(first.dtype))


@triton.jit
def _prefetch_lines(
    following, num_lines, each: tl.constexpr, WIDTH: tl.constexpr, wide: tl.constexpr
):  # fmt: skip
    """Every program of a launch asks for its share of a following product's weights."""
    shared, part = tl.program_id(1), tl.program_id(2)
    program = (tl.program_id(0) * tl.num_programs(1) + shared) * tl.num_programs(2) + part
    num = tl.num_programs(0) * tl.num_programs(1) * tl.num_programs(2)
    for start in range(program * 512, num_lines, num * 512):
        line = tl.minimum(start + tl.arange(0, 512), num_lines - 1)
        prefetch(following + (line // each) * WIDTH + (line % each) * wide)


@triton.jit
def _prefetch_columns(keys, values, begin, first, last, NUM: tl.constexpr, wide: tl.constexpr):
    """A part's columns of the cache, as far as the row has any."""
    spot = begin + tl.minimum(first + tl.arange(0, NUM // wide) * wide, last)
    prefetch(keys + spot)
    prefetch(values + spot)


@triton.jit
def _arrived(counter, live):
    """Count this part; the last of `live` parts sets the counter back and goes on with all of them."""
    complete = tl.atomic_add(counter, 1, sem="acq_rel") == live - 1
    if complete:
        tl.store(counter, 0)
    return complete


@triton.jit
def _joined(sums, most, totals, place, live, real, GROUP: tl.constexpr, SIZE: tl.constexpr):
    """The weighted sums of all parts of a row's columns, and their weights."""
    size = tl.arange(0, SIZE)
    top = tl.full([GROUP], float("-inf"), tl.float32)
    total = tl.zeros([GROUP], tl.float32)
    held = tl.zeros([GROUP, SIZE], tl.float32)
    for other in range(0, live):
        spot = place + other
        peak = tl.load(most + spot, mask=real, other=0.0, cache_modifier=".cg")
        higher = tl.maximum(top, peak)
        fade, more = tl.exp(top - higher), tl.exp(peak - higher)
        sum_ = tl.load(totals + spot, mask=real, other=1.0, cache_modifier=".cg")
        total = total * fade + sum_ * more
        spot = spot[:, None] * SIZE + size[None, :]
        found = tl.load(sums + spot, mask=real[:, None], other=0.0, cache_modifier=".cg")
        held = held * fade[:, None] + found * more[:, None]
        top = higher
    return held, total


@triton.jit
def _attend(
    queries, keys, values, positions, sums, most, totals, counters, out, scale, heads, row_stride,
    head_stride, parts,
    following, num_lines,
    SHARED: tl.constexpr, GROUP: tl.constexpr, SIZE: tl.constexpr, PART: tl.constexpr,
    BLOCK: tl.constexpr, STAGES: tl.constexpr, PDL: tl.constexpr, PRECISION: tl.constexpr,
    COLUMNS_AHEAD: tl.constexpr, AHEAD: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """One part of a row's columns for the heads that share them; the last part to arrive joins all."""
    row = tl.program_id(0).to(tl.int64)
    shared, part = tl.program_id(1), tl.program_id(2)
    wide: tl.constexpr = 1024 // keys.dtype.element_ty.primitive_bitwidth  # of a line of the cache
    if COLUMNS_AHEAD:
        last = tl.load(positions + row).to(tl.int32) * SIZE
        if part * PART * SIZE <= last:
            line = row * row_stride + shared * head_stride
            _prefetch_columns(keys, values, line, part * PART * SIZE, last, PART * SIZE, wide)
    if AHEAD:
        _prefetch_lines(following, num_lines, AHEAD // wide, WIDTH, wide)
    gdc_wait(PDL)
    gdc_launch(PDL)
    length = (tl.load(positions + row) + 1).to(tl.int32)
    first = part * PART
    if first < length:
        ask, size, columns = tl.arange(0, GROUP), tl.arange(0, SIZE), tl.arange(0, BLOCK)
        head, real = shared * SHARED + ask, ask < SHARED
        lines = (row * heads + head)[:, None] * SIZE + size[None, :]
        query = tl.load(queries + lines, mask=real[:, None], other=0.0)
        top = tl.full([GROUP], float("-inf"), tl.float32)
        total = tl.zeros([GROUP], tl.float32)
        held = tl.zeros([GROUP, SIZE], tl.float32)
        begin = row * row_stride + shared * head_stride
        for start in tl.range(first, tl.minimum(first + PART, length), BLOCK, num_stages=STAGES):
            column = start + columns
            inside = column < length
            spot = begin + column[:, None] * SIZE + size[None, :]
            key = tl.load(keys + spot, mask=inside[:, None], other=0.0)
            value = tl.load(values + spot, mask=inside[:, None], other=0.0)
            weight = tl.dot(query, tl.trans(key), input_precision=PRECISION) * scale
            weight = tl.where(inside[None, :], weight, float("-inf"))
            higher = tl.maximum(top, tl.max(weight, axis=1))
            weight = tl.exp(weight - higher[:, None])
            fade = tl.exp(top - higher)
            held = held * fade[:, None] + tl.dot(weight.to(value.dtype), value, input_precision=PRECISION)
            total = total * fade + tl.sum(weight, axis=1)
            top = higher
        live = tl.cdiv(length, PART)
        complete = live == 1
        if live > 1:
            place = (row * heads + head) * parts
            tl.store(sums + (place + part)[:, None] * SIZE + size[None, :], held, mask=real[:, None])
            tl.store(most + place + part, top, mask=real)
            tl.store(totals + place + part, total, mask=real)
            tl.debug_barrier()
            complete = _arrived(counters + row * tl.num_programs(1) + shared, live)
            if complete:
                held, total = _joined(sums, most, totals, place, live, real, GROUP, SIZE)
        if complete:
            tl.store(out + lines, (held / total[:, None]).to(out.dtype.element_ty), mask=real[:, None])


@triton.jit
def _gate(both, out, inner, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < inner
    gate = tl.load(both + row * 2 * inner + at, mask=inside, other=0.0)
    up = tl.load(both + row * 2 * inner + inner + at, mask=inside, other=0.0).to(tl.float32)
    full = gate.to(tl.float32)
    opened = (full / (1.0 + tl.exp(-full))).to(gate.dtype).to(tl.float32)
    tl.store(out + row * inner + at, (opened * up).to(gate.dtype), mask=inside)


def add_norm(rows: torch.Tensor, more: torch.Tensor | None, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """The RMS norm of rows [R, W], to which `more` is added first, in place."""
    out = torch.empty_like(rows)
    block = triton.next_power_of_2(rows.shape[1])
    warps = 4 if block <= 2048 else 8
    _add_norm[(len(rows),)](
        rows, rows if more is None else more, weight, out, rows.shape[1], eps,
        ADDED=more is not None, BLOCK=block, num_warps=warps,
    )  # fmt: skip
    return out


def turn(
    found: torch.Tensor, positions: torch.Tensor, turns: tuple[torch.Tensor, torch.Tensor],
    norms: tuple[torch.Tensor, torch.Tensor] | None, keys: torch.Tensor, values: torch.Tensor,
    new: int, heads: int, eps: float,
) -> torch.Tensor:  # fmt: skip
    """Queries [tokens, heads, size] of `found` [tokens, all heads x size], turned by their positions
    [tokens]; keys and values go to their columns of keys and values [rows, shared heads, columns, size], of
    which `new` tokens each belong to a row.
    """
    shared, size = keys.shape[1], keys.shape[3]
    queries = torch.empty(len(found), heads, size, dtype=found.dtype, device=found.device)
    ask, key = norms or (found, found)
    _turn[(len(found), heads + 2 * shared)](
        found, positions.contiguous(), *turns, ask, key, queries, keys, values, new, heads, shared, eps,
        keys.stride(0), keys.stride(1), NORMED=norms is not None, SIZE=size, num_warps=1,
    )  # fmt: skip
    return queries


def attend(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, positions: torch.Tensor, scale: float,
    pdl: bool = False, following: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """One query a row, [R, heads, size], over the columns up to its position; [R, heads x size]. pdl: it may
    start while the launch before it ends. following: weights that are needed soon after.
    """
    num, heads, size = queries.shape
    shared = heads // keys.shape[1]
    parts = triton.cdiv(keys.shape[2], ATTEND.part)
    single = {"dtype": torch.float32, "device": queries.device}
    sums = torch.empty(num, heads, parts, size, **single)  # type: ignore[call-overload]
    most, totals = torch.empty(2, num, heads, parts, **single)  # type: ignore[call-overload]
    out = torch.empty(num, heads * size, dtype=queries.dtype, device=queries.device)
    exact = queries.dtype == torch.float32
    ahead: tuple[torch.Tensor, int] = queries, 0
    if following is not None:
        ahead = following, following.shape[0] * ATTEND.ahead * following.element_size() // 128
    _attend[(num, keys.shape[1], parts)](
        queries, keys, values, positions.contiguous(), sums, most, totals, counters_of(queries.device), out,
        scale, heads, keys.stride(0), keys.stride(1), parts, *ahead, SHARED=shared,
        GROUP=max(16, triton.next_power_of_2(shared)), SIZE=size, PART=ATTEND.part,
        BLOCK=32 if exact else ATTEND.block, STAGES=ATTEND.stages, PDL=pdl,
        PRECISION="ieee" if exact else "tf32", COLUMNS_AHEAD=ATTEND.columns_ahead,
        AHEAD=0 if following is None else ATTEND.ahead, WIDTH=1 if following is None else following.shape[1],
        num_warps=ATTEND.warps, launch_pdl=pdl,
    )  # fmt: skip
    return out


def gate(both: torch.Tensor) -> torch.Tensor:
    """silu of the first half of [R, 2 x inner], times the second."""
    inner = both.shape[1] // 2
    out = torch.empty(len(both), inner, dtype=both.dtype, device=both.device)
    block = 1024
    _gate[(len(both), triton.cdiv(inner, block))](both, out, inner, BLOCK=block, num_warps=4)
    return out
