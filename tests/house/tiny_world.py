"""The recipe of the tiny world, for the tests that change it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SETTINGS = {"use": "countdown", "train": 40, "dev": 12, "test": 12, "max_tokens": 60}


def recipe_data(base: Path | str, **more: Any) -> dict[str, Any]:
    """Two rounds of ReST-EM on the tiny policy, a few seconds in all."""
    return {
        "name": "tiny",
        "task": dict(SETTINGS),
        "models": {
            "policy": {
                "base": str(base),
                "lora": {"r": 4},
                "gate": {"metric": "measure/accuracy/greedy", "margin": 0.02},
            }
        },
        "rounds": 2,
        "stages": {
            "sample": {"generate": "sample", "by": "policy", "n": 3, "chunk": 16},
            "check": {"label": "outcome", "from": "sample"},
            "rows": {"select": "correct", "from": "check", "max_per_problem": 2, "mix": "all_rounds"},
            "learn": {"train": "sft", "model": "policy", "from": "rows", "steps": 4, "batch_size": 8},
            "measure": {"evaluate": "accuracy", "of": "policy", "split": "dev", "samples": 2},
        },
        "finally": {
            "final": {"evaluate": "accuracy", "of": ["policy", "policy@0"], "split": "test", "samples": 2},
        },
        **more,
    }
