"""What the GPU's tests share: an engine that works as on a GPU, and rows written or compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pipeline.engine import cuda_engine
from pipeline.engine.endings import EOS
from pipeline.engine.growth import Request
from pipeline.engine.local import Engine


def gpu_engine(folder: Path, device: str, **more: Any) -> Engine:
    """An engine on the device; on a CPU the GPU's batch, in plain torch."""
    engine = Engine(folder, device=device, **more)
    if device == "cpu":
        cuda_engine.prepare(engine)
    return engine


def written(engine: Engine, rows: list[Request], at_once: int = 8) -> list[Request]:
    """The rows, after the engine wrote them."""
    engine.submit(rows)
    while engine.busy:
        engine.step(at_once)
    return rows


def parted(engine: Engine, prompts: list[list[int]], limit: int, close: float) -> tuple[int, int]:
    """Greedy tokens against `generate`: (tokens that are equal, rows that part where two logits lie close). A row
    that parts elsewhere fails."""
    device = engine.device
    equal = near = 0
    for row in written(engine, [Request(ids, limit, 0, 0.0, ends_on=EOS) for ids in prompts]):
        given = torch.tensor([row.ids], device=device)
        theirs = engine.model.generate(
            given, attention_mask=torch.ones_like(given), do_sample=False, max_new_tokens=limit, top_k=None
        )[0, len(row.ids) :].tolist()
        apart = [i for i, (a, b) in enumerate(zip(row.new_ids, theirs, strict=False)) if a != b]
        equal += apart[0] if apart else len(theirs)
        if not apart:
            assert row.new_ids == theirs
            continue
        seen = torch.tensor([row.ids + theirs[: apart[0]]], device=device)
        logits = engine.model(seen).logits[0, -1].float()
        gap = float(logits[theirs[apart[0]]] - logits[row.new_ids[apart[0]]])
        assert abs(gap) < close, f"token {apart[0]}: {row.new_ids} against {theirs}, logits {gap} apart"
        near += 1
    return equal, near
