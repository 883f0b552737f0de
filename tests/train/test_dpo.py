"""train/dpo: the loss by hand, the reference, what it does to its pairs, and what is refused."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from train_world import END, EQUALS, NUMBER, PLUS, THEN, job_of, weights

from pipeline.errors import Diverged, NothingKept, RecipeError
from pipeline.rows import Pair
from pipeline.train.dpo import Settings, train

FAST: dict[str, Any] = {"steps": 6, "batch_size": 8, "learning_rate": 1e-2, "max_length": 32}


def sums(num: int, **more: Any) -> list[Pair]:
    """`a + b =` with the right sum preferred to the next one, of three lengths."""
    rows = []
    for i in range(num):
        a, b = i % 9, (3 * i + i // 9) % 9
        rows.append(
            Pair(
                problem_id=f"p{i}", prompt="", chosen="", rejected="", margin=1.0, trace_id=f"t{i}",
                rejected_id=f"u{i}", prompt_ids=[NUMBER + a, PLUS, NUMBER + b, EQUALS],
                chosen_ids=[NUMBER + a + b, *[THEN] * (i % 3), END],
                rejected_ids=[NUMBER + a + b + 1, *[THEN] * (i % 2), END], **more,
            )
        )  # fmt: skip
    return rows


def by_hand(folder: Path, rows: list[Pair]) -> np.ndarray:
    """[N, 2]: the log-likelihood of each half under the model of a folder, one row at a time, by its logits."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    found = []
    for row in rows:
        for ids in (row.chosen_ids, row.rejected_ids):
            whole = torch.tensor([[*row.prompt_ids, *ids]])
            with torch.no_grad():
                spread = model(whole).logits[0, :-1].log_softmax(-1)
            start = len(row.prompt_ids)
            found.append(sum(spread[start - 1 + k, token].item() for k, token in enumerate(ids)))
    return np.array(found).reshape(-1, 2)


def first_loss(base: Path, folder: Path, rows: list[Pair], **settings: Any) -> float:
    """The loss of the first step over all rows, before any weight has moved."""
    given = FAST | {"steps": 1, "batch_size": len(rows), "log_every": 1} | settings
    return train(job_of(base, folder, rows, lora=given.pop("lora", {"r": 4})), Settings(**given)).metrics[
        "loss"
    ]


def moved(base: Path, folder: Path, rows: list[Pair]) -> Path:
    """Whole weights some steps away from the base."""
    train(job_of(base, folder, rows, lora=None), Settings(**FAST))
    return folder / "out"


def test_the_loss_is_the_papers(base: Path, tmp_path: Path) -> None:
    """-log sigmoid(beta (winner's log-ratio - loser's)), and the winners' NLL by their tokens."""
    rows = sums(8)
    assert first_loss(base, tmp_path / "start", rows) == pytest.approx(math.log(2), abs=1e-6)
    start = moved(base, tmp_path / "moved", rows)
    now, then = by_hand(start, rows), by_hand(base, rows)
    ratio = now - then
    beta = 0.3
    wanted = np.mean(np.log1p(np.exp(-beta * (ratio[:, 0] - ratio[:, 1]))))
    nll = -now[:, 0].sum() / sum(len(row.chosen_ids) for row in rows)
    common: dict[str, Any] = {"lora": None, "reference": "base", "beta": beta}
    given = FAST | {"steps": 1, "batch_size": 8, "log_every": 1, "learning_rate": 1e-12}
    for number, (more, expected) in enumerate(
        [
            ({}, wanted),
            ({"loss": ["sigmoid", "sft"]}, wanted + nll),
            (
                {"loss": ["sigmoid", "sft"], "loss_weights": [0.5, 2.0], "micro_batch": 2},
                wanted / 2 + 2 * nll,
            ),
            ({"loss": ["hinge"]}, np.mean(np.maximum(0, 1 - beta * (ratio[:, 0] - ratio[:, 1])))),
        ]
    ):
        job = job_of(base, tmp_path / f"{number}", rows, lora=None, adapter=start)
        settings = Settings(**given | {k: v for k, v in common.items() if k != "lora"} | more)
        report = train(job, settings)
        assert report.metrics["loss"] == pytest.approx(expected, rel=1e-5)
    assert report.metrics["chosen/before"] == pytest.approx(now[:, 0].mean(), rel=1e-5)
    assert report.metrics["rejected/after"] == pytest.approx(now[:, 1].mean(), rel=1e-5)
    assert report.metrics["pair_accuracy"] == np.mean(ratio[:, 0] > ratio[:, 1])
    assert report.metrics["reward_margin"] == pytest.approx(
        beta * np.mean(ratio[:, 0] - ratio[:, 1]), rel=1e-4
    )


def test_the_golden_of_the_papers_loss() -> None:
    """beta .1, log-ratios 2 and -1: .55436; at the start .69315."""
    assert math.log1p(math.exp(-0.1 * 3)) == pytest.approx(0.55436, abs=5e-6)


@pytest.mark.parametrize("lora", [{"r": 4}, None])
def test_it_learns_and_says_what_it_did(base: Path, tmp_path: Path, lora: dict | None) -> None:
    rows = sums(40)
    report = train(
        job_of(base, tmp_path, rows, lora=lora), Settings(**FAST | {"steps": 40, "learning_rate": 3e-3})
    )
    found = report.metrics
    assert found["loss"] < found["loss/first"]
    assert found["pair_accuracy"] > 0.8
    assert found["reward_margin"] > 0
    assert found["chosen/after"] - found["rejected/after"] > found["chosen/before"] - found["rejected/before"]
    names = {path.name for path in (tmp_path / "out").iterdir()}
    wanted = (
        {"adapter_config.json", "adapter_model.safetensors"} if lora else {"config.json", "model.safetensors"}
    )
    assert wanted <= names
    assert not any("ref" in name for name in names)
    if lora is None:
        after = by_hand(tmp_path / "out", rows)
        assert found["chosen/after"] == pytest.approx(after[:, 0].mean(), rel=1e-4)


def test_the_winners_nll_keeps_their_likelihood(base: Path, tmp_path: Path) -> None:
    given = FAST | {"steps": 30, "learning_rate": 3e-3}
    alone = train(job_of(base, tmp_path / "1", sums(40)), Settings(**given)).metrics
    both = train(job_of(base, tmp_path / "2", sums(40)), Settings(**given, loss=["sigmoid", "sft"])).metrics
    assert both["chosen/after"] > max(alone["chosen/after"], both["chosen/before"])


def test_an_adapters_reference_is_the_start_or_the_base(base: Path, tmp_path: Path) -> None:
    rows = sums(16)
    train(job_of(base, tmp_path / "1", rows), Settings(**FAST))
    still = FAST | {"steps": 1, "learning_rate": 1e-12, "batch_size": 16}
    kept = tmp_path / "1/out"
    start = train(job_of(base, tmp_path / "2", rows, adapter=kept), Settings(**still)).metrics
    assert start["loss"] == pytest.approx(math.log(2), abs=1e-6)
    of_base = train(
        job_of(base, tmp_path / "3", rows, adapter=kept), Settings(**still, reference="base")
    ).metrics
    assert abs(of_base["loss"] - math.log(2)) > 1e-3
    assert of_base["chosen/before"] == start["chosen/before"]
    then = by_hand(base, rows)
    margin = of_base["chosen/before"] - of_base["rejected/before"] - (then[:, 0] - then[:, 1]).mean()
    assert of_base["reward_margin"] == pytest.approx(0.1 * margin, rel=1e-3)


def test_the_split_of_a_batch_changes_nothing(base: Path, tmp_path: Path) -> None:
    given = FAST | {"loss": ["sigmoid", "sft"], "learning_rate": 1e-3, "log_every": 1}
    runs = [
        train(job_of(base, tmp_path / f"{micro}", sums(20)), Settings(**given, micro_batch=micro))
        for micro in (8, 2)
    ]
    one, two = ([entry["loss"] for entry in run.history] for run in runs)
    np.testing.assert_allclose(one, two, rtol=2e-5)
    first, second = weights(tmp_path / "8/out"), weights(tmp_path / "2/out")
    for name in first:
        np.testing.assert_allclose(first[name], second[name], atol=2e-4, err_msg=name)


FEW = [
    {"loss": ["ipo"]},
    {"loss": ["robust"], "label_smoothing": 0.1},
    {"args": {"use_weighting": True, "ld_alpha": 0.5}, "loss": ["sigmoid", "sft"]},
]
REST = [
    {"loss": ["aot"], "label_smoothing": 0.1},
    *({"loss": [name]} for name in ("nca_pair", "bco_pair", "sppo_hard", "aot", "aot_unpaired", "apo_zero",
                                    "apo_down", "discopop", "sigmoid_norm")),
    {"loss": ["exo_pair"], "label_smoothing": 1e-3},
    {"args": {"f_divergence_type": "js_divergence"}},
]  # fmt: skip


@pytest.mark.parametrize(
    "more", [*FEW, *(pytest.param(more, marks=pytest.mark.full) for more in REST)], ids=str
)
def test_every_loss_of_trl_takes_a_step(base: Path, tmp_path: Path, more: dict) -> None:
    report = train(job_of(base, tmp_path, sums(8)), Settings(**FAST | {"steps": 2} | more))
    assert math.isfinite(report.metrics["loss"])
    assert report.metrics["chosen/after"] != report.metrics["chosen/before"]


def test_steps_are_trained_as_they_are_and_completions_end(base: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from pipeline.train.dpo import ids_of

    tokenizer = AutoTokenizer.from_pretrained(base)
    row = dataclasses.replace(sums(1)[0], chosen_ids=[5, 6], rejected_ids=[7])
    assert ids_of(row, tokenizer, {END}) == ((row.prompt_ids, [5, 6, END], [7, END]), "")
    step = dataclasses.replace(row, whole=False)
    assert ids_of(step, tokenizer, {END}) == ((row.prompt_ids, [5, 6], [7]), "")
    text = Pair(problem_id="p", prompt="1 + 2 =", chosen="3", rejected="4")
    (prompt, chosen, rejected), fault = ids_of(text, tokenizer, {tokenizer.eos_token_id})
    assert tokenizer.convert_ids_to_tokens([*prompt, *chosen]) == ["1", "+", "2", "=", "3", "</s>"]
    assert tokenizer.convert_ids_to_tokens(rejected) == ["4", "</s>"]
    assert not fault


def test_rows_that_cannot_be_trained_are_counted(base: Path, tmp_path: Path) -> None:
    good = sums(5)
    long = dataclasses.replace(good[0], rejected_ids=[4] * 40 + [END])
    same = dataclasses.replace(good[0], rejected_ids=good[0].chosen_ids)
    report = train(job_of(base, tmp_path / "1", [*good, long, same]), Settings(**FAST))
    assert report.dropped == {"too_long": 1, "same": 1}
    assert report.metrics["examples"] == 5
    with pytest.raises(NothingKept, match="no pair to train on: 1 too_long"):
        train(job_of(base, tmp_path / "2", [long]), Settings(**FAST))


def test_a_nan_names_its_pairs(base: Path, tmp_path: Path) -> None:
    from test_sft import poisoned

    bad = poisoned(base, tmp_path / "bad")
    with pytest.raises(Diverged, match="are to blame"):
        train(job_of(bad, tmp_path, sums(16)), Settings(**FAST))
    assert not list((tmp_path / "out").iterdir())


def test_mistakes_are_said(base: Path, tmp_path: Path) -> None:
    for given, words in (
        ({"loss": ["sft"]}, "no loss over pairs"),
        ({"loss_weights": [1, 2]}, "2 weights for 1 losses"),
        ({"loss": ["sigmoid", "sft"], "loss_weights": [1, 0]}, "0 is not above 0"),
        ({"loss": ["ipo", "sft", "ipo"]}, "ipo stands there twice"),
        ({"label_smoothing": 0.1}, "sigmoid takes none: .* aot, aot_unpaired, exo_pair, robust do"),
        ({"loss": ["exo_pair"]}, "needs one above 0"),
        ({"loss": ["sigmoyd"]}, "Input should be"),
    ):
        with pytest.raises(ValidationError, match=words):
            Settings(**given)
    with pytest.raises(RecipeError, match="args.beta: not here; it is set by beta"):
        train(job_of(base, tmp_path / "1", sums(8)), Settings(**FAST, args={"beta": 0.2}))
    with pytest.raises(RecipeError, match="aot sorts a whole batch"):
        train(job_of(base, tmp_path / "2", sums(8)), Settings(**FAST, loss=["aot"], micro_batch=2))
    with pytest.raises(RecipeError, match="8 of 8 pairs have a confidence below 1"):
        train(job_of(base, tmp_path / "3", sums(8, confidence=0.7)), Settings(**FAST))
    assert "train: dpo cannot train" in Settings().fault_of_lora({"target_modules": ["lm_head"]})


def test_a_killed_training_ends_with_the_same_bytes(base: Path, tmp_path: Path) -> None:
    """Stopped after a checkpoint, by what stops a program; the reference is not read a second time."""
    settings = Settings(
        **FAST | {"steps": 8, "loss": ["sigmoid", "sft"], "learning_rate": 1e-3, "log_every": 1}
    )
    rows = sums(20)
    whole = train(job_of(base, tmp_path / "whole", rows, save_every=3), settings)

    def stop(values: dict[str, float]) -> None:
        if values["step"] == 5:
            raise KeyboardInterrupt

    job = job_of(base, tmp_path / "killed", rows, save_every=3, report=stop)
    with pytest.raises(KeyboardInterrupt):
        train(job, settings)
    kept = tmp_path / "killed/scratch/reference.json"
    first = kept.stat().st_mtime_ns
    said: list[dict[str, float]] = []
    again = train(job_of(base, tmp_path / "killed", rows, save_every=3, report=said.append), settings)
    assert [values["step"] for values in said if "resumed" in values] == [3]
    assert kept.stat().st_mtime_ns == first
    assert again.metrics == whole.metrics
    assert again.history == whole.history
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "whole/out" / name).read_bytes() == (tmp_path / "killed/out" / name).read_bytes()
