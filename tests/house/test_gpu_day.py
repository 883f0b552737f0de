"""scripts/gpu_day.py with tiny shapes on the CPU: every part runs to its end, so that no time on a GPU goes into typing
errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: a figure that each part must leave
FIGURES = {
    "decode": "tiny/few_graph/3/tokens_per_second",
    "decode_slow": "tiny/each/3/tokens_per_second",
    "decode_small": "tiny/few_graph/queue_3",
    "against": "tiny/generate_batch/3/tokens_per_second",
    "score": "tiny/score/relative_gap",
    "search": "seed/4/vs_flat",
    "train": "tiny/sft_vs_trl",
}
QUICK = ("decode_small", "score")


@pytest.mark.parametrize("parts", [QUICK, pytest.param(tuple(FIGURES), marks=pytest.mark.full)], ids=len)
def test_parts_run_tiny(parts: tuple[str, ...], tmp_path: Path):
    command = [
        sys.executable, "scripts/gpu_day.py", "--tiny", "--run", ",".join(parts), "--out", str(tmp_path / "out"),
    ]  # fmt: skip
    done = subprocess.run(
        [*command, "--checkpoints", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    for part in parts:
        found = json.loads((tmp_path / "out" / f"{part}.json").read_text())
        failed = {name: value for name, value in found.items() if name.endswith(("failed", "traceback"))}
        assert not failed
        assert found[FIGURES[part]] >= 0
