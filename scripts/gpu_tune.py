"""How a layer's products and its attention are best cut for a few rows: every cut that fits, compiled in
several processes, timed in a CUDA graph over the weights of as many layers as do not fit the chip's cache."""

from __future__ import annotations

import itertools
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from gpu_world import SHAPES, Record, median_seconds

SHARED_MEMORY = 220 << 10
LAYERS = 28


class World:
    """The tensors of one product of a shape, for several layers."""

    def __init__(self, shape: str, rows: int, layers: int) -> None:
        from pipeline.engine.cpu_forward import _Product

        like = SHAPES[shape]
        self.width, inner = like["hidden_size"], like["intermediate_size"]
        self.heads, self.shared = like["num_attention_heads"], like["num_key_value_heads"]
        self.size = self.width // self.heads
        self.num, self.layers = rows, layers
        torch.manual_seed(0)
        asks = (self.heads + 2 * self.shared) * self.size
        shapes = {
            "asks": (asks, self.width),
            "out": (self.width, self.heads * self.size),
            "gates": (2 * inner, self.width),
            "down": (self.width, inner),
        }
        self.products = {
            name: [_Product(self.some(*dims) / 32, self.some(dims[0]) if name == "asks" else None)
                   for _ in range(layers)]
            for name, dims in shapes.items()
        }  # fmt: skip
        self.rows = {name: self.some(rows, dims[1]) for name, dims in shapes.items()}
        self.learnt = self.some(self.width)
        self.stream = self.some(rows, self.width)
        self.columns = 512
        cache = (rows, self.shared, self.columns, self.size)
        self.caches = [(self.some(*cache), self.some(*cache)) for _ in range(layers)]
        self.positions = torch.randint(256, self.columns, (rows,), device="cuda")
        angle = torch.rand(self.columns, self.size // 2, device="cuda")
        self.turns = tuple(torch.cat([a, a], -1).bfloat16() for a in (angle.cos(), angle.sin()))
        self.queries = self.some(rows, self.heads, self.size)

    @staticmethod
    def some(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)

    def launch(self, name: str, pdl: bool) -> Any:
        """What runs one layer of a product, or of attention."""
        from pipeline.engine import cuda_kernels
        from pipeline.engine.cuda_products import Products, Weighed

        products = Products(torch.device("cuda"), pdl)
        squares = None if name == "attend" else self.rows[name].float().square().sum(1) / 24
        squares = None if squares is None else squares.expand(24, -1).contiguous()
        given = None if name == "attend" else Weighed(self.rows[name], squares, 24)

        def run(layer: int) -> torch.Tensor:
            keys, values = self.caches[layer]
            if name == "attend":
                return cuda_kernels.attend(
                    self.queries, keys, values, self.positions, self.size**-0.5, pdl=pdl
                )
            product = self.products[name][layer]
            if name == "asks":
                return products.turned(
                    given, product, self.positions, self.turns, keys, values, self.heads, 1e-6
                )
            if name == "gates":
                return products.gated(given, product, 1e-6)
            products.added(self.rows[name], product, self.stream, self.learnt)
            return self.stream

        return run

    def gap(self, name: str, run: Any) -> float:
        """How far a launch is from plain torch in single precision, as a share of its norm."""
        from pipeline.engine import cuda_plain as plain

        product, rows = self.products.get(name, [None])[0], self.rows.get(name)
        keys, values = self.caches[0]
        before = self.stream.normal_().float().clone()
        found = run(0).float()
        if name == "attend":
            single = (part.float() for part in (self.queries, keys, values))
            wanted = plain.attend(*single, self.positions, self.size**-0.5)
        else:
            rows = rows.float()
            if name in ("asks", "gates"):
                rows = plain.add_norm(rows, None, torch.ones_like(rows[0]), 1e-6)
            wanted = rows @ product.weight.float().T
            if name == "asks":
                turns = tuple(part.float() for part in self.turns)
                wanted = plain.turn(
                    wanted + product.bias.float(), self.positions, turns, None, keys.float(), values.float(),
                    1, self.heads, 1e-6,
                )  # fmt: skip
            else:
                wanted = plain.gate(wanted) if name == "gates" else before + wanted
        return float((found - wanted).norm() / wanted.norm())

    def plain(self, name: str) -> Any:
        """The same with a library's product and the launches behind it."""
        from pipeline.engine import cuda_kernels as kernels

        def run(layer: int) -> None:
            product, rows = self.products[name][layer], self.rows[name]
            if name == "asks":
                found = product(kernels.add_norm(rows, None, self.learnt, 1e-6))
                keys, values = self.caches[layer]
                kernels.turn(found, self.positions, self.turns, None, keys, values, 1, self.heads, 1e-6)
            elif name == "gates":
                kernels.gate(product(rows))
            else:
                kernels.add_norm(self.stream, product(rows), self.learnt, 1e-6)

        return run

    def microseconds(self, run: Any) -> float:
        """Of one layer, in a graph of all."""
        aside, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            run(0)
            torch.cuda.synchronize()
            graph.capture_begin()
            for layer in range(self.layers):
                run(layer)
            graph.capture_end()
        torch.cuda.current_stream().wait_stream(aside)
        spent = median_seconds(lambda: [graph.replay() for _ in range(4)], "cuda", 5, 1)
        return spent / 4 / self.layers * 1e6


def kind_of(name: str) -> str:
    return {"asks": "turned", "out": "added", "gates": "gated", "down": "added"}[name]


def cuts(name: str, shape: str, rows: int) -> list[dict[str, int]]:
    """The cuts worth trying."""
    like = SHAPES[shape]
    width, inner = like["hidden_size"], like["intermediate_size"]
    heads, shared = like["num_attention_heads"], like["num_key_value_heads"]
    size = width // heads
    if name == "attend":
        return [
            {"part": part, "block": block, "stages": stages, "warps": warps}
            for part, block, stages, warps in itertools.product(
                (64, 128, 256), (32, 64, 128), (2, 3, 4), (2, 4)
            )
            if block <= part and stages <= max(2, part // block)
            and 2 * stages * block * size * 2 <= SHARED_MEMORY
        ]  # fmt: skip
    columns = {"asks": (heads + 2 * shared) * size, "out": width, "gates": 2 * inner, "down": width}[name]
    long = {"asks": width, "out": heads * size, "gates": width, "down": inner}[name]
    halves = 2 if name in ("asks", "gates") else 1
    alone = columns // halves
    found = []
    for block, step, stages in itertools.product((16, 32, 64, 128), (64, 128), (3, 4, 6)):
        memory = (max(rows, 16) + halves * block) * step * 2 * stages
        if alone % block or long % step or memory > SHARED_MEMORY or (name == "asks" and block > size // 2):
            continue
        blocks, steps = alone // block, long // step
        wanted = [p for p in range(1, 21) if steps % p == 0 and 90 <= blocks * p <= 420 and steps // p >= 2]
        wanted = wanted[:: max(1, -(-len(wanted) // 3))]
        if name == "gates":
            wanted = [1]
        for parts in wanted:
            if memory * min(2, -(-blocks * parts // 132)) > 2 * SHARED_MEMORY or block == 128 and stages > 4:
                continue
            if name == "gates" and block == 16:
                continue
            warps = (4, 8) if name == "gates" and block >= 64 else (4,)
            found += [
                {"columns": block, "step": step, "parts": parts, "stages": stages, "warps": w} for w in warps
            ]
    return found


def use(name: str, shape: str, cut: dict[str, int]) -> None:
    """Let a product be cut so."""
    from pipeline.engine import cuda_kernels, cuda_products

    if name == "attend":
        for key, value in cut.items():
            setattr(cuda_kernels.ATTEND, key, value)
        return
    like = SHAPES[shape]
    width, inner = like["hidden_size"], like["intermediate_size"]
    heads, shared = like["num_attention_heads"], like["num_key_value_heads"]
    size = width // heads
    dims = {
        "asks": ((heads + 2 * shared) * size, width),
        "out": (width, heads * size),
        "gates": (2 * inner, width),
        "down": (width, inner),
    }[name]
    cuda_products.TUNED[(kind_of(name), *dims)] = cuda_products.Tiling(**cut)


_world: list[World] = []


def _compile(shape: str, rows: int, jobs: list[tuple[str, dict[str, int]]]) -> int:
    """In a process of its own: run each once, so that it is in the compiler's cache."""
    if not _world:
        _world.append(World(shape, rows, 1))
    done = 0
    for name, cut in jobs:
        try:
            use(name, shape, cut)
            _world[0].launch(name, True)(0)
            torch.cuda.synchronize()
            done += 1
        except Exception as problem:  # noqa: BLE001  the one that times it says so
            print(f"  {name} {cut}: {type(problem).__name__} {str(problem)[:120]}", flush=True)
    return done


def tune(record: Record, shape: str, rows: int, processes: int) -> None:
    """All cuts of a shape; the best goes to the record."""
    names = ("gates", "down", "attend", "asks", "out")
    jobs = [(name, cut) for name in names for cut in cuts(name, shape, rows)]
    record.note("cuts", {name: sum(1 for n, _ in jobs if n == name) for name in names})
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        shares = [jobs[i :: 3 * processes] for i in range(3 * processes)]
        record.note(
            "compiled", sum(pool.map(_compile, *zip(*((shape, rows, s) for s in shares), strict=True)))
        )
    world = World(shape, rows, LAYERS)
    record.ready()
    for name in names:
        if name != "attend":
            record.attempt(f"{name}/plain", lambda name=name: record.note(
                f"{name}/plain_us", world.microseconds(world.plain(name))))  # fmt: skip
        found: list[tuple[float, dict[str, int]]] = []
        for cut in cuts(name, shape, rows):
            use(name, shape, cut)
            try:
                launch = world.launch(name, True)
                if not (gap := world.gap(name, launch)) < 2e-2:
                    record.note(f"{name}/wrong", f"{cut}: {gap:.3g} off")
                    continue
                found.append((round(world.microseconds(launch), 2), cut))
            except Exception as problem:  # noqa: BLE001
                record.note(f"{name}/failed", f"{cut}: {type(problem).__name__}: {problem}"[:300])
        found.sort(key=lambda one: one[0])
        if not found:
            continue
        record.note(f"{name}/best", found[0][1])
        record.note(f"{name}/us", found[0][0])
        record.note(f"{name}/others", [[spent, *cut.values()] for spent, cut in found[1:9]])
        use(name, shape, found[0][1])
        record.note(f"{name}/us_no_pdl", world.microseconds(world.launch(name, False)))


def use_best(path: Path, shape: str) -> bool:
    """Let products be cut as an earlier run found best."""
    import json

    if not path.is_file():
        return False
    found = json.loads(path.read_text())
    for name in ("gates", "down", "attend", "asks", "out"):
        if f"{name}/best" in found:
            use(name, shape, found[f"{name}/best"])
    return True


def processes() -> int:
    return max(1, min(14, (os.cpu_count() or 2) - 2))
