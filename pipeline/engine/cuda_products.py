"""A layer of a new token in five launches: products that do what stands between them (Triton, Hopper).

With few rows a product reads its weights once and computes almost nothing, so the launches between cost as
much as a third of the step. Here queries, keys and values come out of their product turned and in their
columns, the gate is closed where gate and up are computed, and the residual is added, with the squares that
the next norm needs, where a layer's output is. A norm's scale belongs to a row, so it is applied behind the
product. Where a product has too few columns to fill the chip, its sum is split, and the last to arrive adds
the parts up in their order: the bits do not depend on who that is. Each launch starts while the one before
ends (programmatic dependent launch) and asks for its weights meanwhile.

A launch reads ids and positions one after another, so it is given them laid out so: a column of several is
not. Unproven and therefore off (`cuda_forward.PRODUCTS`): docs/gpu.md says what was measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from pipeline.engine.cuda_kernels import counters_of, gdc_launch, gdc_wait

MOST_ROWS = 64  #: that the products here take; more are dearer to compute than to read for


@dataclass(frozen=True, slots=True)
class Tiling:
    """How a product is cut: a block's columns (of each half, if it has two), the sum's steps, its parts."""

    columns: int
    step: int
    parts: int
    stages: int
    warps: int = 4


#: (kind, columns, width of the sum): found by `scripts/gpu_tune.py` on an H100; others follow `tiling_of`
TUNED: dict[tuple[str, int, int], Tiling] = {
    ("turned", 2048, 1536): Tiling(16, 128, 2, 6),
    ("added", 1536, 1536): Tiling(16, 128, 1, 6),
    ("gated", 17920, 1536): Tiling(32, 64, 1, 4),
    ("added", 1536, 8960): Tiling(64, 128, 5, 4),
}
KINDS = ("turned", "gated", "added")


def tiling_of(kind: str, columns: int, width: int, half: int = 0) -> Tiling | None:
    """How to cut a product, or None where no cut fits. half: of a head, where two columns are mixed."""
    alone = columns if kind == "added" else columns // 2
    tuned = TUNED.get((kind, columns, width))
    if tuned is not None and _divides(tuned, alone, width, half):
        return tuned
    step = next((step for step in (64, 32, 16) if width % step == 0), 0)
    limit = {"turned": half, "gated": 32, "added": 64}[kind]
    block = next(
        (b for b in (64, 32, 16) if b <= limit and alone % b == 0 and (not half or half % b == 0)), 0
    )
    if not step or not block:
        return None
    blocks, steps = alone // block, width // step
    parts = [p for p in range(1, min(16, steps) + 1) if steps % p == 0]
    enough = next((p for p in parts if blocks * p >= 160), parts[-1])
    found = Tiling(block, step, 1 if kind == "gated" else enough, 4)
    return found if _divides(found, alone, width, half) else None


def _divides(tiling: Tiling, alone: int, width: int, half: int) -> bool:
    """Whether blocks and parts come out even, as the launches need."""
    even = alone % tiling.columns == 0 and width % (tiling.parts * tiling.step) == 0
    return even and (not half or half % tiling.columns == 0)


def _cut(kind: str, columns: int, width: int, half: int = 0) -> Tiling:
    """The cut of a product that `fits` has let pass."""
    tiling = tiling_of(kind, columns, width, half)
    if tiling is None:
        raise ValueError(f"a product of {columns} columns and a sum of {width} cannot be cut ({kind})")
    return tiling


@triton.jit
def _ahead(weight, lines, begin, WIDTH: tl.constexpr, COLUMNS: tl.constexpr, BYTES: tl.constexpr):
    """Ask for the first columns of the weights before the rows are there."""
    for start in tl.static_range(0, COLUMNS, 128 // BYTES):
        tl.inline_asm_elementwise(
            "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [weight + lines * WIDTH + begin + start],
            dtype=tl.int32, is_pure=False, pack=1,
        )  # fmt: skip


@triton.jit
def _scale(squares, line, real, eps, room, BLOCKS: tl.constexpr, WIDTH: tl.constexpr):
    """What the norm multiplies each row with: its squares come in as many parts as the product had blocks."""
    part = tl.arange(0, triton.next_power_of_2(BLOCKS))
    inside = (part < BLOCKS)[:, None] & real[None, :]
    found = tl.load(squares + part[:, None] * room + line[None, :], mask=inside, other=0.0)
    return 1.0 / tl.sqrt(tl.sum(found, axis=0) / WIDTH + eps)


@triton.jit
def _put_turned(
    a, b, tile, each: tl.constexpr, COLUMNS: tl.constexpr, line, real, out, positions, cos, sin, keys,
    values, row_stride, head_stride, kind: tl.constexpr, HEADS: tl.constexpr, SHARED: tl.constexpr,
    SIZE: tl.constexpr,
):  # fmt: skip
    """Two halves of a head, turned by the rows' positions: queries go to `out`, others to their columns."""
    head = (tile // each).to(tl.int64)
    inner = (tile % each) * COLUMNS + tl.arange(0, COLUMNS)
    place = tl.load(positions + line, mask=real, other=0)
    c = tl.load(cos + place[:, None] * SIZE + inner[None, :], mask=real[:, None], other=0.0)
    s = tl.load(sin + place[:, None] * SIZE + inner[None, :], mask=real[:, None], other=0.0)
    c, s = c.to(tl.float32), s.to(tl.float32)
    x, y = a * c - b * s, b * c + a * s
    far = line.to(tl.int64)[:, None]
    if head < HEADS:
        to = out + (far * HEADS + head) * SIZE + inner[None, :]
        tl.store(to, x.to(kind), mask=real[:, None])
        tl.store(to + SIZE // 2, y.to(kind), mask=real[:, None])
    elif head < HEADS + SHARED:
        to = keys + far * row_stride + (head - HEADS) * head_stride
        to += place[:, None] * SIZE + inner[None, :]
        tl.store(to, x.to(kind), mask=real[:, None])
        tl.store(to + SIZE // 2, y.to(kind), mask=real[:, None])
    else:
        to = values + far * row_stride + (head - HEADS - SHARED) * head_stride
        to += place[:, None] * SIZE + inner[None, :]
        tl.store(to, a.to(kind), mask=real[:, None])
        tl.store(to + SIZE // 2, b.to(kind), mask=real[:, None])


@triton.jit
def _summed(room, PARTS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Both sums over what all parts have left."""
    first = tl.zeros([ROWS, COLUMNS], tl.float32)
    second = tl.zeros([ROWS, COLUMNS], tl.float32)
    for p in tl.static_range(PARTS):
        first += tl.load(room + p * 2 * ROWS * COLUMNS, cache_modifier=".cg")
        second += tl.load(room + (p * 2 + 1) * ROWS * COLUMNS, cache_modifier=".cg")
    return first, second


@triton.jit
def _pair(
    rows, weight, bias, squares, out, positions, cos, sin, keys, values, held, counters, num, eps,
    row_stride, head_stride,
    WIDTH: tl.constexpr, HALF: tl.constexpr, TURNED: tl.constexpr, HEADS: tl.constexpr, SHARED: tl.constexpr,
    SIZE: tl.constexpr, BIASED: tl.constexpr, BLOCKS: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr, STEP: tl.constexpr, PARTS: tl.constexpr, STAGES: tl.constexpr, PDL: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Two columns at once: gate and up (HALF columns apart), or the two that a rotation mixes."""
    tile, part = tl.program_id(0), tl.program_id(1)
    if TURNED:
        each: tl.constexpr = SIZE // 2 // COLUMNS
        column = (tile // each) * SIZE + (tile % each) * COLUMNS + tl.arange(0, COLUMNS)
    else:
        column = tile * COLUMNS + tl.arange(0, COLUMNS)
    other, line, step = column + HALF, tl.arange(0, ROWS), tl.arange(0, STEP)
    real = line < num
    tl.static_assert(WIDTH % (PARTS * STEP) == 0)
    begin = part * (WIDTH // PARTS)
    if PDL:
        _ahead(weight, column, begin, WIDTH, 2 * STEP, weight.dtype.element_ty.primitive_bitwidth // 8)
        _ahead(weight, other, begin, WIDTH, 2 * STEP, weight.dtype.element_ty.primitive_bitwidth // 8)
    gdc_wait(PDL)
    gdc_launch(PDL)
    first, second = tl.zeros([ROWS, COLUMNS], tl.float32), tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in tl.range(begin, begin + WIDTH // PARTS, STEP, num_stages=STAGES):
        at = start + step
        row = tl.load(rows + line[:, None] * WIDTH + at[None, :], mask=real[:, None], other=0.0)
        one = tl.load(weight + column[:, None] * WIDTH + at[None, :])
        two = tl.load(weight + other[:, None] * WIDTH + at[None, :])
        first = tl.dot(row, tl.trans(one), first, input_precision=PRECISION)
        second = tl.dot(row, tl.trans(two), second, input_precision=PRECISION)
    complete = True
    if PARTS > 1:
        spot = line[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :]
        room = held + tile * PARTS * 2 * ROWS * COLUMNS + spot
        tl.store(room + part * 2 * ROWS * COLUMNS, first)
        tl.store(room + (part * 2 + 1) * ROWS * COLUMNS, second)
        tl.debug_barrier()
        complete = tl.atomic_add(counters + tile, 1, sem="acq_rel") == PARTS - 1
        if complete:
            tl.store(counters + tile, 0)
            first, second = _summed(room, PARTS, ROWS, COLUMNS)
    if complete:
        kind = rows.dtype.element_ty
        scale = _scale(squares, line, real, eps, num, BLOCKS, WIDTH)[:, None]
        first, second = first * scale, second * scale
        if BIASED:
            first += tl.load(bias + column).to(tl.float32)[None, :]
            second += tl.load(bias + other).to(tl.float32)[None, :]
        a, b = first.to(kind).to(tl.float32), second.to(kind).to(tl.float32)
        if TURNED:
            _put_turned(
                a, b, tile, each, COLUMNS, line, real, out, positions, cos, sin, keys, values, row_stride,
                head_stride, kind, HEADS, SHARED, SIZE,
            )  # fmt: skip
        else:
            opened = (a / (1.0 + tl.exp(-a))).to(kind).to(tl.float32) * b
            to = out + line[:, None] * HALF + column[None, :]
            tl.store(to, opened.to(kind), mask=real[:, None])


@triton.jit
def _added(
    rows, weight, stream, learnt, weighed, squares, held, counters, num, total,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, STEP: tl.constexpr,
    PARTS: tl.constexpr, STAGES: tl.constexpr, PDL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A layer's output onto the stream of the residual, with what the next norm needs."""
    tile, part = tl.program_id(0), tl.program_id(1)
    column = tile * COLUMNS + tl.arange(0, COLUMNS)
    line, step = tl.arange(0, ROWS), tl.arange(0, STEP)
    real = line < num
    tl.static_assert(WIDTH % (PARTS * STEP) == 0)
    length: tl.constexpr = WIDTH // PARTS
    begin = part * length
    if PDL:
        _ahead(weight, column, begin, WIDTH, 2 * STEP, weight.dtype.element_ty.primitive_bitwidth // 8)
    gdc_wait(PDL)
    gdc_launch(PDL)
    found = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in tl.range(begin, begin + length, STEP, num_stages=STAGES):
        at = start + step
        row = tl.load(rows + line[:, None] * WIDTH + at[None, :], mask=real[:, None], other=0.0)
        one = tl.load(weight + column[:, None] * WIDTH + at[None, :])
        found = tl.dot(row, tl.trans(one), found, input_precision=PRECISION)
    complete = True
    if PARTS > 1:
        spot = tl.arange(0, ROWS)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :]
        room = held + tile * PARTS * ROWS * COLUMNS + spot
        tl.store(room + part * ROWS * COLUMNS, found)
        tl.debug_barrier()
        complete = tl.atomic_add(counters + tile, 1, sem="acq_rel") == PARTS - 1
        if complete:
            tl.store(counters + tile, 0)
            found = tl.zeros([ROWS, COLUMNS], tl.float32)
            for p in tl.static_range(PARTS):
                found += tl.load(room + p * ROWS * COLUMNS, cache_modifier=".cg")
    if complete:
        kind = stream.dtype.element_ty
        spot = line[:, None] * total + column[None, :]
        whole = tl.load(stream + spot, mask=real[:, None], other=0.0).to(tl.float32)
        whole = (whole + found.to(kind).to(tl.float32)).to(kind)
        tl.store(stream + spot, whole, mask=real[:, None])
        whole = whole.to(tl.float32)
        by = tl.load(learnt + column).to(tl.float32)
        tl.store(weighed + spot, (whole * by[None, :]).to(kind), mask=real[:, None])
        tl.store(squares + tile * num + line, tl.sum(whole * whole, axis=1), mask=real)


@triton.jit
def _begin(ids, words, learnt, stream, weighed, squares, width, BLOCK: tl.constexpr, PDL: tl.constexpr):
    """A token's embedding onto the stream, with what the first norm needs."""
    gdc_wait(PDL)
    gdc_launch(PDL)
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < width
    word = tl.load(words + tl.load(ids + row) * width + at, mask=inside, other=0.0)
    tl.store(stream + row * width + at, word, mask=inside)
    full = word.to(tl.float32)
    by = tl.load(learnt + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(weighed + row * width + at, (full * by).to(word.dtype), mask=inside)
    tl.store(squares + row, tl.sum(full * full, axis=0))


class Weighed:
    """Rows [R, W] times what a norm learnt, and the sums of their squares, in parts [blocks, room]."""

    def __init__(self, rows: torch.Tensor, squares: torch.Tensor, blocks: int) -> None:
        self.rows, self.squares, self.blocks = rows, squares, blocks


class Products:
    """The products of a body's layers for up to MOST_ROWS rows. pdl: a launch starts while the last ends."""

    def __init__(self, device: torch.device, pdl: bool) -> None:
        self.pdl = pdl
        self.late: frozenset[str] = frozenset()  #: kinds that start when the launch before has ended
        self.most = MOST_ROWS
        self.counters = counters_of(device)

    def begin(
        self, ids: torch.Tensor, words: torch.Tensor, learnt: torch.Tensor
    ) -> tuple[torch.Tensor, Weighed]:
        """The stream [R, W] of tokens [R], and what the first product takes."""
        num, width = len(ids), words.shape[1]
        stream, weighed = torch.empty(2, num, width, dtype=words.dtype, device=words.device)
        squares = torch.empty(1, num, dtype=torch.float32, device=words.device)
        _begin[(num,)](
            ids.contiguous(), words, learnt, stream, weighed, squares, width,
            BLOCK=triton.next_power_of_2(width), PDL=self.pdl, num_warps=4, launch_pdl=self.pdl,
        )  # fmt: skip
        return stream, Weighed(weighed, squares, 1)

    def turned(
        self, given: Weighed, product: Any, positions: torch.Tensor,
        turns: tuple[torch.Tensor, torch.Tensor], keys: torch.Tensor, values: torch.Tensor, heads: int,
        eps: float,
    ) -> torch.Tensor:  # fmt: skip
        """Queries [R, heads, size], turned; keys and values go to their columns."""
        shared, size = keys.shape[1], keys.shape[3]
        num, (columns, width) = len(given.rows), product.weight.shape
        tiling = _cut("turned", columns, width, size // 2)
        out = torch.empty(num, heads, size, dtype=given.rows.dtype, device=given.rows.device)
        rows = _rows_of(num)
        tiles = columns // 2 // tiling.columns
        _pair[(tiles, tiling.parts)](
            given.rows, product.weight, product.weight if product.bias is None else product.bias,
            given.squares, out, positions.contiguous(), *turns, keys, values,
            self._room(given.rows, tiles, 2, rows, tiling), self.counters, num, eps, keys.stride(0),
            keys.stride(1), WIDTH=width, HALF=size // 2, TURNED=True, HEADS=heads, SHARED=shared, SIZE=size,
            BIASED=product.bias is not None, BLOCKS=given.blocks,
            **self._options("turned", given.rows, tiling, rows),
        )  # fmt: skip
        return out

    def gated(self, given: Weighed, product: Any, eps: float) -> torch.Tensor:
        """silu(gate) x up, [R, inner]."""
        num, (columns, width) = len(given.rows), product.weight.shape
        tiling = _cut("gated", columns, width)
        out = torch.empty(num, columns // 2, dtype=given.rows.dtype, device=given.rows.device)
        rows, tiles, none = _rows_of(num), columns // 2 // tiling.columns, given.rows
        _pair[(tiles, tiling.parts)](
            given.rows, product.weight, product.weight if product.bias is None else product.bias,
            given.squares, out, self.counters, none, none, none, none,
            self._room(given.rows, tiles, 2, rows, tiling), self.counters, num, eps, 0, 0, WIDTH=width,
            HALF=columns // 2, TURNED=False, HEADS=0, SHARED=0, SIZE=0, BIASED=product.bias is not None,
            BLOCKS=given.blocks, **self._options("gated", given.rows, tiling, rows),
        )  # fmt: skip
        return out

    def added(self, rows: torch.Tensor, product: Any, stream: torch.Tensor, learnt: torch.Tensor) -> Weighed:
        """The product of `rows` onto the stream; what the next product takes, with what its norm learnt."""
        num, (columns, width) = len(rows), product.weight.shape
        tiling = _cut("added", columns, width)
        tiles, high = columns // tiling.columns, _rows_of(num)
        weighed = torch.empty_like(stream)
        squares = torch.empty(tiles, num, dtype=torch.float32, device=rows.device)
        _added[(tiles, tiling.parts)](
            rows, product.weight, stream, learnt, weighed, squares, self._room(rows, tiles, 1, high, tiling),
            self.counters, num, columns, WIDTH=width, **self._options("added", rows, tiling, high),
        )  # fmt: skip
        return Weighed(weighed, squares, tiles)

    def _room(self, rows: torch.Tensor, tiles: int, halves: int, high: int, tiling: Tiling) -> torch.Tensor:
        """Where parts of sums wait for the last."""
        size = tiles * tiling.parts * halves * high * tiling.columns if tiling.parts > 1 else 1
        return torch.empty(size, dtype=torch.float32, device=rows.device)

    def _options(self, kind: str, rows: torch.Tensor, tiling: Tiling, high: int) -> dict[str, Any]:
        pdl = self.pdl and kind not in self.late
        return {
            "ROWS": high,
            "COLUMNS": tiling.columns,
            "STEP": tiling.step,
            "PARTS": tiling.parts,
            "STAGES": tiling.stages,
            "PDL": pdl,
            "PRECISION": "ieee" if rows.dtype == torch.float32 else "tf32",
            "num_warps": tiling.warps,
            "launch_pdl": pdl,
        }


def _rows_of(num: int) -> int:
    return max(16, triton.next_power_of_2(num))


def fits(layer: Any, size: int) -> bool:
    """Whether the products of a layer can be cut so."""
    asked = (
        ("turned", layer.asks, size // 2),
        ("added", layer.out, 0),
        ("gated", layer.gates, 0),
        ("added", layer.down, 0),
    )
    plain = layer.out.bias is None and layer.down.bias is None and layer.norms is None
    cuts = [tiling_of(kind, len(one.weight), one.weight.shape[1], half) for kind, one, half in asked]
    return plain and None not in cuts
