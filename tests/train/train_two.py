"""What each rank of tests/train/test_two_processes.py runs."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from test_trainer_checkpoints import steps_rows
from train_world import additions, job_of

from pipeline.rows import Example, Pair
from pipeline.train import dpo, policy_gradient, prm, sft

COMMON = {"steps": 8, "batch_size": 8, "learning_rate": 1e-2, "max_length": 32, "log_every": 1}


def sums(num: int) -> list[Pair]:
    """Each addition preferred to the same with another end."""
    return [
        Pair(
            problem_id=row.problem_id, prompt="", chosen="", rejected="", margin=1.0, trace_id=row.trace_id,
            rejected_id=f"u{number}", prompt_ids=row.prompt_ids, chosen_ids=row.completion_ids,
            rejected_ids=[row.completion_ids[0] + 1, *row.completion_ids[1:]],
        )
        for number, row in enumerate(additions(num))
    ]  # fmt: skip


def episodes(num: int) -> list[Example]:
    """Additions with an advantage and what they were drawn by, in groups of four."""
    return [
        dataclasses.replace(
            row,
            problem_id=f"g{number // 4}",
            advantage=[(number % 4 - 1.5) / 2],
            old_logprobs=[-2.0 - 0.01 * (number % 3)] * len(row.completion_ids),
        )
        for number, row in enumerate(additions(num))
    ]


def start(what: str, base: Path, folder: Path, die_at: int = 0, **more: Any) -> None:
    """One training; what it reported goes to report.json."""
    told: list[dict[str, float]] = []

    def report(values: dict[str, float]) -> None:
        told.append(values)
        if values["step"] == die_at and die_at and os.environ.get("RANK") == "1":
            os._exit(9)

    kind, _, variant = what.partition("-")
    token = variant == "token"
    made: dict[str, Any] = {"prm": steps_rows, "dpo": sums, "gradient": episodes}
    rows = made.get(kind, additions)(20)
    values = {"lora": {"r": 4}, "save_every": 2, "report": report, "head": "token" if token else None, **more}
    if variant == "nan":
        values["lora"] = {"r": 4, "init_lora_weights": False, "lora_alpha": 1e38}
    job = job_of(base, folder, rows, **values)
    if kind == "prm":
        clip = {"value_clip": 0.2} if variant == "clipped" else {}
        prm.train(job, prm.Settings(**COMMON, target="soft" if token else "value", **clip))
    elif kind == "dpo":
        dpo.train(job, dpo.Settings(**COMMON, loss=("sigmoid", "sft")))
    elif kind == "gradient":
        given = {key: value for key, value in COMMON.items() if key not in ("steps", "batch_size")}
        policy_gradient.train(job, policy_gradient.Settings(**given, loss="dapo", minibatches=4, epochs=2))
    else:
        extra = {"accumulated": {"micro_batch": 2}, "odd": {"batch_size": 7}}.get(variant, {})
        sft.train(job, sft.Settings(**COMMON | extra))
    if os.environ.get("RANK", "0") == "0":
        (folder / "report.json").write_text(json.dumps(told))


def main(base: str, folder: str, what: str, die_at: str) -> None:
    start(what, Path(base), Path(folder), int(die_at))
