"""Training on a GPU: under bfloat16, rows end to end against the same rows padded, against float32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.rows import Example
from pipeline.train import TrainJob, TrainReport, _alone, sft


def some(number: int) -> list[Example]:
    draw = torch.Generator().manual_seed(1)
    found = []
    for i in range(number):
        long, short = torch.randint(2, 30, (2,), generator=draw).tolist()
        ids = torch.randint(2, 40, (long + short,), generator=draw).tolist()
        found.append(
            Example(
                problem_id=f"p{i}", trace_id=f"t{i}", prompt="", completion="", prompt_ids=ids[:long],
                completion_ids=[*ids[long:], 1],
            )
        )  # fmt: skip
    return found


def trained(folder: Path, place: Path, dtype: str, lora: dict | None) -> TrainReport:
    (place / "out").mkdir(parents=True)
    (place / "kept").mkdir()
    rows = some(48)
    job = TrainJob(
        lambda: iter(rows),
        folder,
        None,
        place / "out",
        place / "kept",
        seed=5,
        round=1,
        lora=lora,
        dtype=dtype,
    )
    settings = sft.Settings(steps=24, batch_size=16, max_length=64, learning_rate=1e-2, log_every=4)
    return sft.train(job, settings)


@pytest.mark.gpu
@pytest.mark.parametrize("lora", [{"r": 8}, None])
def test_bfloat16_and_rows_end_to_end_learn_what_float32_learns(
    lora: dict | None, device: str, policy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    used: list[bool] = []
    use = _alone.use
    monkeypatch.setattr(_alone, "use", lambda model: used.append(use(model)) or used[-1])
    line = trained(policy_folder, tmp_path / "line", "auto", lora)
    assert used == [device == "cuda"]
    monkeypatch.setattr(_alone, "use", lambda model: False)
    padded = trained(policy_folder, tmp_path / "padded", "auto", lora)
    exact = trained(policy_folder, tmp_path / "exact", "float32", lora)
    for found in (line, padded):
        for one, other in zip(found.history, exact.history, strict=True):
            assert one["loss"] == pytest.approx(other["loss"], rel=0.03)
    assert line.history[-1]["loss"] < 0.9 * line.history[0]["loss"], "nothing was learnt"
    from safetensors.torch import load_file

    weights = [load_file(path) for path in sorted((tmp_path / "line" / "out").glob("*.safetensors"))]
    assert weights
    assert all(bool(torch.isfinite(one).all()) for part in weights for one in part.values())
