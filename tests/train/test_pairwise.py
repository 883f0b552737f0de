"""train/pairwise: the loss by hand, that it learns an order, and that the engine reads what was trained."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from test_dpo import sums
from train_world import END, job_of

from pipeline.errors import NothingKept
from pipeline.train.pairwise import Settings, train

FAST: dict[str, Any] = {"steps": 6, "batch_size": 8, "learning_rate": 1e-2, "max_length": 32}


def test_the_loss_is_bradley_and_terrys() -> None:
    """Two pairs of hand-made scores, the last columns 2 and 1, 0 and 2; margins 0.5 and 1, the second one
    sure by 0.8.
    """
    from pipeline.train._pairwise import loss_of

    logits = torch.zeros(4, 3, 1)
    logits[0, 2], logits[2, 1], logits[1, 0], logits[3, 2] = 1.5, -0.5, 0.25, 1.0
    labels = torch.tensor([[2, 1, 0.5, 1.0], [0, 2, 1.0, 0.8]])

    def s(x: float) -> float:
        return -math.log(1 / (1 + math.exp(-x)))

    outputs = SimpleNamespace(logits=logits)
    plain = (s(2.0) + 0.8 * s(-0.75) + 0.2 * s(0.75)) / 2
    assert loss_of(0.0, 0.0)(outputs, labels).item() == pytest.approx(plain, rel=1e-6)
    apart = (s(2.0 - 0.5) + 0.8 * s(-1.75) + 0.2 * s(1.75)) / 2
    assert loss_of(1.0, 0.0)(outputs, labels).item() == pytest.approx(apart, rel=1e-6)
    smooth = (0.9 * s(2.0) + 0.1 * s(-2.0) + 0.74 * s(-0.75) + 0.26 * s(0.75)) / 2
    assert loss_of(0.0, 0.1)(outputs, labels).item() == pytest.approx(smooth, rel=1e-6)
    assert loss_of(0.0, 0.0)(outputs, labels, 4).item() == pytest.approx(plain / 2, rel=1e-6)


def test_it_learns_an_order_and_the_engine_reads_it(base: Path, tmp_path: Path) -> None:
    from pipeline.engine.local import Engine

    rows = sums(60, whole=False)
    given = FAST | {"steps": 120, "learning_rate": 5e-3}
    report = train(job_of(base, tmp_path, rows, head="value", lora={"r": 8}), Settings(**given))
    found = report.metrics
    assert found["loss"] < found["loss/first"]
    assert found["pair_accuracy/after"] > max(0.75, found["pair_accuracy/before"])
    assert found["score_margin"] > 0
    reading = json.loads((tmp_path / "out/prm.json").read_text())
    assert reading == {"activation": "sigmoid", "head": "value", "target": "pairs"}
    engine = Engine(base, tmp_path / "out", head="value")
    both = [
        ([*row.prompt_ids, *ids], [len(row.prompt_ids) + len(ids) - 1])
        for row in rows[:20]
        for ids in (row.chosen_ids, row.rejected_ids)
    ]
    scores = np.array([one[0] for one in engine.score(both)]).reshape(-1, 2)
    assert ((scores > 0) & (scores < 1)).all()
    assert (scores[:, 0] > scores[:, 1]).mean() > 0.7


def test_the_split_of_a_batch_changes_nothing(base: Path, tmp_path: Path) -> None:
    runs = [
        train(
            job_of(base, tmp_path / f"{micro}", sums(20), head="value"),
            Settings(**FAST | {"learning_rate": 1e-3}, log_every=1, micro_batch=micro),
        )
        for micro in (8, 2)
    ]
    one, two = ([entry["loss"] for entry in run.history] for run in runs)
    np.testing.assert_allclose(one, two, rtol=2e-5)


def test_rows_that_cannot_be_trained_are_counted(base: Path, tmp_path: Path) -> None:
    good = sums(5)
    texts = dataclasses.replace(good[0], chosen_ids=[])
    same = dataclasses.replace(good[0], rejected_ids=good[0].chosen_ids)
    long = dataclasses.replace(good[0], rejected_ids=[4] * 40 + [END])
    job = job_of(base, tmp_path / "1", [*good, texts, same, long], head="value")
    assert train(job, Settings(**FAST)).dropped == {"no_token_ids": 1, "same": 1, "too_long": 1}
    with pytest.raises(NothingKept, match="no pair to train on: 1 no_token_ids"):
        train(job_of(base, tmp_path / "2", [texts], head="value"), Settings(**FAST))
