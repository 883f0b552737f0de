"""Does the engine's contract hold on this machine? A row's bits must not depend on its neighbours or on the
threads.

Run at start-up, once for each shape of model on a machine (the verdict is kept in a file): the same rows are
written and read alone, in small company and in a full batch, on one thread and on two, with and without the
columns behind the last token, whole and in two parts.
Where they differ, the engine is made more careful step by step; where nothing helps (GPUs, other libraries)
it says "in distribution only".
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
import os
import platform
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from pipeline.engine.cpu_attention import feels_length
from pipeline.engine.cpu_forward import KINDS
from pipeline.engine.endings import STEP
from pipeline.engine.growth import Request
from pipeline.engine.local import Engine
from pipeline.engine.prefix_cache import CacheBudget, PrefixCache, reading, remember, sizes
from pipeline.engine.rungs import RUNGS
from pipeline.errors import StorageError
from pipeline.models.heads import head_of
from pipeline.store.disk import DISK

SIZES = (1, 2, 7, 33, 128, 512)
ENOUGH = 33  #: rows that are compared whatever it takes: two or seven prove nothing
NUM_TOKENS = 3
PARTS = 300  #: columns of the longest row that is read in parts
NUM_READ = 40  #: rows that are also read: a forward over a few already has hundreds of columns
_known: dict[str, Any] = {}
Progress = Callable[[int, int, float], None]


def self_test(
    engine: Engine,
    rungs: Sequence[int] = RUNGS[:2],
    seconds: float = 5.0,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> bool:
    """Find the fastest way of working that keeps a row's bits its own, and set the engine to it.

    Tries, in order: as it is; looking at all columns of a rung; batches of 16 rows or more. Sets
    `engine.exact`, `trim`, `min_rows` and `remembers`. `seconds` bounds the batches above 33 rows. cache: a
    JSON file of verdicts: a machine that found one for such a model, with these versions, threads and code,
    takes it. progress: called with (looks done, looks at most, 0).
    """
    if engine.device.type != "cpu":
        return engine.exact  # a GPU's products take another way by the number of rows: nothing to look for
    key = conditions(engine, rungs)
    verdicts = _stored(cache)
    if key not in _known and key in verdicts:
        _known[key] = tuple(verdicts[key])
    if key not in _known:
        with _few_layers(engine):
            _known[key] = _looked(engine, rungs, seconds, progress or (lambda *_: None))
        if cache is not None:
            _store(cache, {**_stored(cache), key: list(_known[key])})
    engine.exact, engine.trim, engine.min_rows, engine.remembers = _known[key]
    return engine.exact


def _looked(
    engine: Engine, rungs: Sequence[int], seconds: float, progress: Progress
) -> tuple[bool, bool, int, bool]:
    """The verdict: exact, trim, min_rows, remembers."""
    config = engine.model.config.get_text_config()
    ways = ((True, 1), (False, 1), (False, 16)) if not feels_length(config) else ()
    held = [rung for rung in rungs if rung <= engine.context] or rungs[:1]
    held = sorted({min(engine.rung_of(rung), max(engine.context, held[0])) for rung in held})
    for number, (engine.trim, engine.min_rows) in enumerate(ways):
        progress(number, len(ways) + 1, 0.0)
        if _holds(engine, held, seconds):
            progress(len(ways), len(ways) + 1, 0.0)
            return True, engine.trim, engine.min_rows, engine.remembers and _goes_on(engine)
    return False, True, 1, False


def cache_file() -> Path:
    """Where this user's verdicts are kept: RATCHET_CACHE, or `ratchet` in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("RATCHET_CACHE") or Path(home) / "ratchet") / "self-test.json"


def conditions(engine: Engine, rungs: Sequence[int]) -> str:
    """Everything that a verdict depends on, hashed: shapes and not weights, kernels and their versions, the
    processor, threads, and the engine's own code.
    """
    shape = {k: v for k, v in engine.model.config.to_dict().items() if k not in ("_name_or_path", "id2label")}
    said = {
        "model": [type(engine.model).__name__, shape],
        "engine": [
            str(engine.dtype),
            engine.head,
            engine.remembers,
            engine._lean is not None,
            engine.max_rows,
        ],
        "rungs": list(rungs),
        "versions": [version(name) for name in ("torch", "transformers", "numpy")],
        "threads": torch.get_num_threads(),
        "kernels": [
            os.environ.get(name, "") for name in ("MKL_CBWR", "ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")
        ],
        "device": _processor() if engine.device.type == "cpu" else torch.cuda.get_device_name(engine.device),
        "code": _code(),
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()


@functools.lru_cache(maxsize=1)
def _processor() -> str:
    """The processor's own name, and the vectors it has."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n", 1)[0].splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return "\n".join(line for line in lines if line.startswith(("model", "cpu family", "stepping", "flags")))


@functools.lru_cache(maxsize=1)
def _code() -> str:
    """A hash of the engine's modules: new code is looked at again."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _stored(cache: Path | None) -> dict[str, Any]:
    """The verdicts in a file; it only saves time, so one that cannot be read is none."""
    try:
        found = json.loads(cache.read_bytes()) if cache is not None else {}
    except (OSError, ValueError):
        return {}
    whole = isinstance(found, dict) and all(isinstance(v, list) and len(v) == 4 for v in found.values())
    return found if whole else {}


def _store(cache: Path, verdicts: dict[str, Any]) -> None:
    with contextlib.suppress(OSError, StorageError):  # a home that cannot be written: look again next time
        DISK.write(cache, json.dumps(verdicts, indent=1).encode())


@contextmanager
def _few_layers(engine: Engine) -> Iterator[None]:
    """Only the first layers, so many that each kind of layer is there, two at least: layers of one kind make
    the same products, and what is asked is whether products of a shape feel their rows.
    """
    body = engine.model.base_model
    layers = getattr(body, "layers", None)
    if type(body).__name__ not in KINDS or layers is None:
        yield
        return
    kinds = [tuple(p.shape for p in layer.parameters()) for layer in layers]
    marks = getattr(body.config, "layer_types", None) or [""] * len(kinds)
    seen = list(zip(kinds, marks, strict=False))
    few = max(2, *(seen.index(kind) + 1 for kind in set(seen)))
    whole, lean = engine.num_layers, engine._lean
    lean_layers = lean.layers if lean is not None else []
    engine.clear()  # a batch that an earlier look left has a cache of all layers
    try:
        body.layers = layers[:few]
        engine.num_layers = min(few, whole)
        if lean is not None:
            lean.layers = lean_layers[:few]
        yield
    finally:
        body.layers, engine.num_layers = layers, whole
        if lean is not None:
            lean.layers = lean_layers
        engine.clear()


def _goes_on(engine: Engine) -> bool:
    """Has a prefix that is read in parts the bits of one that is read whole? 300 columns, two cuts."""
    if not engine.trim:
        return False  # a row has to look at all columns of its rung
    draw = random.Random(0)  # noqa: S311  fixed rows, no secret
    rows = [tuple(ids) for ids in _rows(engine, min(RUNGS[0], engine.context), 2 * NUM_READ) if len(ids) > 3]
    rows[1] = tuple(itertools.islice(itertools.cycle(rows[0]), min(PARTS, engine.context)))
    cuts = [sorted(draw.sample(range(1, len(ids)), 2)) for ids in rows]
    for size in (1, 2, 5, len(rows)):
        memory = PrefixCache(CacheBudget(1 << 30, 1))
        for end in (0, 1, None):
            part = [
                (ids if end is None else ids[: cut[end]], cut) for ids, cut in zip(rows, cuts, strict=True)
            ]
            whole = _read(engine, part[:size], PrefixCache(CacheBudget(0, 1)))
            if not _same(_read(engine, part[:size], memory), whole):
                return False
        if head_of(engine.head).policy and not _writes_on(engine, rows[:size]):
            return False
    return True


def _writes_on(engine: Engine, rows: Sequence[tuple[int, ...]]) -> bool:
    """Has a row that goes on from what was written the bits of one that goes on from what was read?"""
    memory, most = PrefixCache(CacheBudget(1 << 30, 1)), engine.context - 2 * NUM_TOKENS
    first = [
        Request(list(ids[:most]), NUM_TOKENS, i, ends_on=STEP, memory=memory) for i, ids in enumerate(rows)
    ]
    _finish(engine, first)
    ids = [[*row.ids, *row.new_ids] for row in first]
    again, whole = (
        [Request(each, NUM_TOKENS, i, ends_on=0, memory=one) for i, each in enumerate(ids)]
        for one in (memory, None)
    )
    _finish(engine, again)
    _finish(engine, whole)
    return [(row.new_ids, row.logprobs) for row in again] == [(row.new_ids, row.logprobs) for row in whole]


def _finish(engine: Engine, rows: Sequence[Request]) -> None:
    engine.submit(rows)
    while engine.busy:
        engine.step()


@torch.inference_mode()
def _read(
    engine: Engine, several: Sequence[tuple[tuple[int, ...], list[int]]], memory: PrefixCache
) -> list[Any]:
    """What the engine makes of sequences, whose tokens up to one of the cuts the memory may know."""
    if not head_of(engine.head).policy:
        items = [
            (ids, sorted({*(cut - 1 for cut in cuts if cut <= len(ids)), len(ids) - 1}))
            for ids, cuts in several
        ]
        return engine.score(items, [(memory, 0) for _ in items])
    readings = [reading(ids, (), memory, [cut for cut in cuts if cut < len(ids)]) for ids, cuts in several]
    found: dict[int, Any] = {}
    for group, width in engine.groups(*sizes(readings)):
        ones = [readings[i] for i in group]
        layers, logits = engine.prefill([one.ids for one in ones], width, [one.held for one in ones])
        remember(ones, layers)
        for row, (i, one) in enumerate(zip(group, ones, strict=True)):
            held = [tensor for layer in layers for tensor in (layer.keys, layer.values)]
            found[i] = [logits[row], *(tensor[row, :, : len(one.ids)] for tensor in held)]
    return [found[i] for i in range(len(readings))]


def _same(one: list[Any], other: list[Any]) -> bool:
    """Bitwise: scores, or tensors."""
    if one and isinstance(one[0], list) and one[0] and isinstance(one[0][0], torch.Tensor):
        pairs = zip(itertools.chain(*one), itertools.chain(*other), strict=True)
        return all(torch.equal(a, b) for a, b in pairs)
    return one == other


def _holds(engine: Engine, rungs: Sequence[int], seconds: float) -> bool:
    end = time.monotonic() + seconds
    largest = min(SIZES[-1], engine.max_rows)
    sizes = sorted({size for size in SIZES if size < largest} | {largest})
    for rung in rungs:
        rows = _rows(engine, rung, largest)
        told: list[Any] = []
        for size, larger in zip(sizes, [*sizes[1:], 0], strict=True):
            started = time.monotonic()
            found = _results(engine, rung, rows[:size])
            if any(a != b for a, b in zip(found, told, strict=False)):
                return False
            told = found
            late = time.monotonic() + (time.monotonic() - started) * larger / size > end
            if late and size >= ENOUGH:
                break  # a larger batch would take too long; what was seen so far has to do
        few, told = rows[: min(len(told), 7)], told[:7]
        for threads in sorted({1, 2} - {torch.get_num_threads()}):
            with _threads(engine, threads):
                if _results(engine, rung, few) != told:
                    return False
        if engine.trim and head_of(engine.head).policy:
            engine.trim = False
            whole = _results(engine, rung, few)
            engine.trim = True
            if whole != told:
                return False
    return True


def _rows(engine: Engine, rung: int, number: int) -> list[list[int]]:
    draw = random.Random(rung)  # noqa: S311  fixed rows, no secret
    upper = min(len(engine.tokenizer), engine.model.config.get_text_config().vocab_size)
    lengths = [draw.randrange(2, 24) for _ in range(number)]
    lengths[2:3] = [rung - NUM_TOKENS - 2]  # one that makes the others look at all the rung's columns
    return [[draw.randrange(upper) for _ in range(length)] for length in lengths]


def _results(engine: Engine, rung: int, prefixes: list[list[int]]) -> list[Any]:
    """What the engine makes of each prefix: scores for a reward model, tokens and log-probabilities for a
    policy.
    """
    if not head_of(engine.head).policy:
        return engine.score([(ids, range(len(ids))) for ids in prefixes[:NUM_READ]])
    read = engine.logprobs([(ids, 1) for ids in prefixes[:NUM_READ]])
    rows = [Request(ids, rung - len(ids) + 1, seed=i, ends_on=0, tag=i) for i, ids in enumerate(prefixes)]
    engine.submit(rows)
    engine.step(NUM_TOKENS)
    written = {row.tag: (ids, logprobs) for row, ids, logprobs in engine.written()}
    engine.clear()
    return [(read[i] if i < NUM_READ else None, written[i]) for i in range(len(rows))]


@contextmanager
def _threads(engine: Engine, number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    if engine.device.type == "cpu":
        torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
