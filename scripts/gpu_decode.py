"""How fast tokens are written on a GPU: the engine's ways side by side, against `generate` and
`generate_batch` of transformers, as a share of what the memory allows."""

from __future__ import annotations

import contextlib
import copy
import random
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gpu_world import Record, bytes_of, make, median_seconds, sync

from pipeline.engine import cuda_engine
from pipeline.engine.batch import Batch
from pipeline.engine.cuda_batch import DeviceBatch
from pipeline.engine.cuda_forward import Fast, gaps, kernels_of
from pipeline.engine.growth import Request
from pipeline.engine.local import Engine

#: the engine's ways: (name, kind of batch, few launches, recorded as a graph)
WAYS = (
    ("few_graph", DeviceBatch, "plain", True),  # as it is by default
    ("products", DeviceBatch, "products", True),
    ("products_no_pdl", DeviceBatch, "no_pdl", True),
)
SLOW = (
    ("few_eager", DeviceBatch, "plain", False),
    ("hf_graph", DeviceBatch, "", True),
    ("each", Batch, "", False),
)


MANY = ("few_graph",)  #: of the ways, those measured with many rows too


def ceilings(record: Record, device: str, tiny: bool) -> None:
    """The two rates that bound everything: a large copy, and a large product of random numbers."""
    size = 1 << (20 if tiny else 31)
    from_, to = (torch.empty(size, dtype=torch.uint8, device=device) for _ in range(2))
    from_.random_(0, 255)
    spent = median_seconds(lambda: to.copy_(from_), device)
    record.note("copy_tb_per_second", 2 * size / spent / 1e12)
    side = 256 if tiny else 8192
    a, b = (
        torch.randn(side, side, device=device, dtype=torch.bfloat16 if device == "cuda" else None)
        for _ in range(2)
    )
    spent = median_seconds(lambda: a @ b, device)
    record.note("matmul_tflops", 2 * side**3 / spent / 1e12)


def set_way(engine: Engine, kind: type[Batch], few: str, graph: bool, kept: Any) -> None:
    """Let the engine work one of WAYS. kept: its body in few launches."""
    engine.clear()
    engine._batches.clear()
    engine.batch_kind, engine.records = kind, graph and engine.device.type == "cuda"
    engine.fast = kept if few else None
    if few and engine.device.type == "cuda":
        kept.products = None if few == "plain" else own_products(engine, kept, few != "no_pdl")


def own_products(engine: Engine, kept: Any, pdl: bool) -> Any:
    """Products with what stands between them, whatever the switch says."""
    from pipeline.engine.cuda_products import Products, fits

    if not all(fits(layer, kept.size) for layer in kept.layers):
        raise ValueError("a product of these shapes cannot be cut: only torch's own run")
    return Products(engine.device, pdl)


def prompts_of(size: int, number: int, least: int, most: int) -> list[list[int]]:
    """Random prompts."""
    draw = random.Random(0)  # noqa: S311  fixed rows, no secret
    return [[draw.randrange(size) for _ in range(draw.randrange(least, most + 1))] for _ in range(number)]


def steady(engine: Engine, rows: int, prompt: int, tokens: int, ask: int) -> tuple[float, float]:
    """`rows` rows that all write `tokens` tokens after `prompt`: (tokens a second while they decode, all
    told)."""
    prompts = prompts_of(engine.model.config.vocab_size, rows, prompt, prompt)
    todo = [Request(ids, tokens, seed=i, ends_on=0) for i, ids in enumerate(prompts)]
    begun = sync(engine.device.type)
    engine.submit(todo)
    engine.step(1)  # reads the prompts
    middle = sync(engine.device.type)
    while engine.busy:
        engine.step(ask)
    end = sync(engine.device.type)
    assert all(len(row.new_ids) == tokens for row in todo)
    return rows * (tokens - 1) / (end - middle), rows * tokens / (end - begun)


def queue(engine: Engine, number: int, live: int, most: int, ask: int) -> float:
    """`number` short prompts of which `live` write at a time, ends as they fall: tokens a second."""
    prompts = prompts_of(engine.model.config.vocab_size, number, 8, 16)
    engine.max_rows = live
    engine._batches.clear()
    todo = [Request(ids, most, seed=i) for i, ids in enumerate(prompts)]
    begun = sync(engine.device.type)
    engine.submit(todo)
    while engine.busy:
        engine.step(ask)
    return sum(len(row.new_ids) for row in todo) / (sync(engine.device.type) - begun)


def decode(record: Record, scratch: Path, device: str, shape: str, ways: Any, tiny: bool, rows: Any) -> None:
    """Each way at each number of rows."""
    folder = make(scratch / shape, shape, device)
    engine = Engine(folder, device=device, max_rows=max(rows), name=shape)
    if device == "cpu":  # the GPU's ways, in plain torch
        cuda_engine.prepare(engine)
    kept = engine.fast
    record.note(f"{shape}/few_launches", kept is not None)
    if kept is None and not tiny:  # measured all the same; the gap says what is wrong
        kept = Fast(engine.model.base_model, kernels_of(engine.device))
    if kept is not None:
        record.note(f"{shape}/few_launches/gaps", list(gaps(engine.model, kept, engine.top)))
        record.attempt(f"{shape}/last_gaps", lambda: record.note(f"{shape}/gaps", last_gaps(engine, kept)))
    prompt, tokens = (12, 9) if tiny else (256, 256)
    if device == "cuda":
        set_way(engine, *ways[0][1:], kept)
        engine.max_rows = rows[0]
        steady(engine, rows[0], prompt, 4, 4)  # compiles
    record.ready()
    best, chosen = 0.0, ways[0]
    for number in rows:
        engine.max_rows = number
        for way in ways:
            name, kind, few, graph = way
            if few and kept is None:
                continue
            if number > rows[0] and name not in MANY:
                continue  # what is slow at few rows need not be measured at many
            measure = partial(one_way, record, engine, folder, shape, way, kept, number, (prompt, tokens))
            rate = record.attempt(f"{shape}/{name}/{number}", measure)
            if number == rows[0] and rate and rate > best:
                best, chosen = rate, way
    record.note(f"{shape}/best", chosen[0])
    ways = (chosen,)
    set_way(engine, *chosen[1:], kept)
    engine.max_rows = rows[0]
    if chosen[1] is DeviceBatch:
        for at_once in (8, 4):

            def fewer(at_once: int = at_once) -> None:
                steady(engine, rows[0], prompt, 4, 4)
                rate, _ = steady(engine, rows[0], prompt, tokens, at_once)
                record.note(f"{shape}/{chosen[0]}/{rows[0]}/{at_once}_at_once", rate)

            record.attempt(f"{shape}/{at_once}_at_once", fewer)
    if device == "cuda":
        set_way(engine, *ways[0][1:], kept)
        engine.max_rows = rows[0]
        record.attempt(f"{shape}/profile", profile, record, engine, rows[0], prompt)
    for name, kind, few, graph in ways[:1]:
        set_way(engine, kind, few, graph, kept)
        number = 24 if tiny else 512
        live, length = min(64, rows[-1]), 24 if tiny else 238
        queued = partial(queues, record, engine, f"{shape}/{name}", (number, live, length))
        record.attempt(f"{shape}/{name}/queue", queued)


def one_way(
    record: Record, engine: Engine, folder: Path, shape: str, way: Any, kept: Any, number: int, size: Any
) -> float:
    """Tokens a second of one way at so many rows. size: tokens of the prompt, and to write."""
    name, kind, few, graph = way
    prompt, tokens = size
    set_way(engine, kind, few, graph, kept)
    steady(engine, number, prompt, 4, 4)  # compiles, records
    rate, all_told = steady(engine, number, prompt, tokens, 16)
    key = f"{shape}/{name}/{number}"
    record.note(f"{key}/tokens_per_second", rate)
    record.note(f"{key}/with_reading", all_told)
    weights, cache = bytes_of(folder, engine.dtype.itemsize, number * (prompt + tokens // 2))
    if "copy_tb_per_second" in record.found:
        limit = number / ((weights + cache) / record.found["copy_tb_per_second"] / 1e12)
        record.note(f"{key}/share_of_bandwidth", rate / limit)
    return rate


def queues(record: Record, engine: Engine, key: str, size: tuple[int, int, int]) -> None:
    """Rows that wait for a place in the batch. size: rows, of which so many live at a time, and tokens."""
    number, live, length = size
    queue(engine, number // 4, live, length, 8)
    record.note(f"{key}/queue_{live}", queue(engine, number, live, length, 8))


@torch.inference_mode()
def last_gaps(engine: Engine, kept: Any) -> dict[str, float]:
    """How far the last tokens' logits part from transformers' own in float32, as a share of their norm: read
    in few launches, written by torch's products and (on a GPU) by those with what stands between them, and
    transformers' own in half precision; of both rows, and of the one that is farther off.
    """
    from pipeline.engine.cache import Stash

    ids = torch.arange(48, device=engine.device).view(2, -1) % engine.num_tokens
    half = engine.model(input_ids=ids, use_cache=False).logits[:, -1].float()
    single = copy.deepcopy(engine.model).float()(input_ids=ids, use_cache=False).logits[:, -1]
    held = [Stash() for _ in kept.layers]
    found = {"transformers": half, "read": engine.top(kept.read(ids, held))[:, -1]}
    last, before = torch.full((2,), 23, device=engine.device), kept.products
    ways: dict[str, Any] = {"plain": None}
    if engine.device.type == "cuda":  # by default the engine has none
        with contextlib.suppress(ValueError):  # shapes that cannot be cut
            ways["products"] = own_products(engine, kept, True)
    for name, using in ways.items():
        kept.products = using
        found[name] = engine.top(kept.write(ids[:, -1], last, held))
    kept.products = before
    far = {name: (one.float() - single).norm() / single.norm() for name, one in found.items()}
    for name, one in found.items():
        far[f"{name}/worst_row"] = ((one.float() - single).norm(dim=-1) / single.norm(dim=-1)).max()
    return {name: float(one) for name, one in far.items()}


def profile(record: Record, engine: Engine, rows: int, prompt: int) -> None:
    """The kernels of a few steps, by time."""
    from torch.profiler import ProfilerActivity, profile

    todo = [
        Request(ids, 64, seed=i, ends_on=0)
        for i, ids in enumerate(prompts_of(engine.model.config.vocab_size, rows, prompt, prompt))
    ]
    engine.submit(todo)
    engine.step(8)
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as seen:
        begun = sync("cuda")
        engine.step(16)
        spent = sync("cuda") - begun
    engine.clear()
    record.note("profile/seconds_a_step", spent / 16)
    found = sorted(seen.key_averages(), key=lambda one: -one.self_device_time_total)[:22]
    record.note(
        "profile/kernels",
        [
            [one.key[:90], one.count, round(one.self_device_time_total / 16, 1)]
            for one in found
            if one.self_device_time_total > 0
        ],
    )
    for one in record.found["profile/kernels"]:
        print("   ", *one)


def against(record: Record, scratch: Path, device: str, shape: str, tiny: bool, rows: Any) -> None:
    """transformers' own `generate` and `generate_batch` on the same prompts."""
    from transformers import AutoModelForCausalLM

    folder = make(scratch / shape, shape, device)
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16 if device == "cuda" else torch.float32
    ).to(device)
    model.eval()
    record.ready()
    size = model.config.vocab_size
    prompt, tokens = (12, 9) if tiny else (256, 96)
    for number in rows[:1]:
        record.attempt(
            f"{shape}/generate_batch/{number}", continuous, record, model, device, shape, number,
            prompt, 256 if device == "cuda" and not tiny else tokens,
        )  # fmt: skip
    for number in rows[1:]:
        ids = torch.tensor(prompts_of(size, number, prompt, prompt), device=device)

        def theirs(ids: torch.Tensor = ids, number: int = number) -> None:
            given = {"do_sample": True, "top_k": 0, "pad_token_id": 0, "eos_token_id": -1}
            with torch.inference_mode():
                model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, **given)
                begun = sync(device)
                out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, **given)
            spent = sync(device) - begun
            assert out.shape[1] == prompt + tokens
            record.note(f"{shape}/generate/{number}/tokens_per_second", number * tokens / spent)

        record.attempt(f"{shape}/generate/{number}", theirs)


def continuous(
    record: Record, model: Any, device: str, shape: str, number: int, prompt: int, tokens: int
) -> None:
    """transformers' continuous batching."""
    from transformers import ContinuousBatchingConfig, GenerationConfig

    prompts = prompts_of(model.config.vocab_size, number, prompt, prompt)
    config = GenerationConfig(do_sample=True, top_k=0, max_new_tokens=tokens, eos_token_id=-1, pad_token_id=0)
    blocks = number * (-(-(prompt + tokens) // 256) + 1) + 8
    batching = ContinuousBatchingConfig(num_blocks=blocks, max_batch_tokens=max(1024, 16 * number))
    begun = sync(device)
    out = model.generate_batch(prompts, generation_config=config, continuous_batching_config=batching)
    record.note(f"{shape}/generate_batch/{number}/first_seconds", sync(device) - begun)
    begun = sync(device)
    out = model.generate_batch(prompts, generation_config=config, continuous_batching_config=batching)
    spent = sync(device) - begun
    written = sum(len(one.generated_tokens) for one in out.values())
    record.note(f"{shape}/generate_batch/{number}/tokens_per_second", written / spent)
    record.note(f"{shape}/generate_batch/{number}/tokens", written)
