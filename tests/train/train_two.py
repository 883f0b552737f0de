"""What each rank of tests/train/test_two_processes.py runs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from test_trainer_checkpoints import steps_rows
from train_world import additions, job_of

from pipeline.train import prm, sft

COMMON = {"steps": 8, "batch_size": 8, "learning_rate": 1e-2, "max_length": 32, "log_every": 1}


def start(what: str, base: Path, folder: Path, die_at: int = 0, **more: Any) -> None:
    """One training; what it reported goes to report.json."""
    told: list[dict[str, float]] = []

    def report(values: dict[str, float]) -> None:
        told.append(values)
        if values["step"] == die_at and die_at and os.environ.get("RANK") == "1":
            os._exit(9)

    kind, _, variant = what.partition("-")
    token = variant == "token"
    rows = steps_rows(20) if kind == "prm" else additions(20)
    values = {"lora": {"r": 4}, "save_every": 2, "report": report, "head": "token" if token else None, **more}
    if variant == "nan":
        values["lora"] = {"r": 4, "init_lora_weights": False, "lora_alpha": 1e38}
    job = job_of(base, folder, rows, **values)
    if kind == "prm":
        prm.train(job, prm.Settings(**COMMON, target="soft" if token else "value"))
    else:
        extra = {"accumulated": {"micro_batch": 2}, "odd": {"batch_size": 7}}.get(variant, {})
        sft.train(job, sft.Settings(**COMMON | extra))
    if os.environ.get("RANK", "0") == "0":
        (folder / "report.json").write_text(json.dumps(told))


def main(base: str, folder: str, what: str, die_at: str) -> None:
    start(what, Path(base), Path(folder), int(die_at))
