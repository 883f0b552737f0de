"""Rows and jobs for the training tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.rows import Example
from pipeline.train import TrainJob

NUMBER, EQUALS, PLUS, THEN, END = 3, 25, 23, 28, 2


def additions(num: int) -> list[Example]:
    """`a + b =` -> `c ;`, of three lengths, as token ids of the tiny world's vocabulary."""
    rows = []
    for i in range(num):
        a, b = i % 10, (3 * i + i // 10) % 10
        completion = [NUMBER + a + b, *[THEN] * (i % 3), END]
        prompt = [NUMBER + a, PLUS, NUMBER + b, EQUALS]
        rows.append(
            Example(
                problem_id=f"p{i}",
                trace_id=f"t{i}",
                prompt="",
                completion="",
                prompt_ids=prompt,
                completion_ids=completion,
            )
        )
    return rows


def job_of(base: Path, folder: Path, rows: Sequence[Any], **more: Any) -> TrainJob:
    """A job whose folders lie in `folder`."""
    for name in ("out", "scratch"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    values: dict[str, Any] = {"adapter": None, "seed": 7, "round": 1, "lora": {"r": 4}, **more}
    return TrainJob(
        rows=lambda: iter(rows), base=base, out=folder / "out", scratch=folder / "scratch", **values
    )


def weights(folder: Path) -> dict[str, np.ndarray]:
    """All tensors of a folder."""
    from safetensors.numpy import load_file

    return {k: v for path in sorted(folder.glob("*.safetensors")) for k, v in load_file(path).items()}
