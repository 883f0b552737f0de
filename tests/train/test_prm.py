"""train/prm: the position trained is the position read, on labels that are any number."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from train_world import job_of, weights

from pipeline.errors import NothingKept, RecipeError
from pipeline.rows import StepExample
from pipeline.train.prm import Settings, train

FAST = {"steps": 6, "batch_size": 8, "learning_rate": 1e-2, "max_length": 32}
GOOD, BAD, FILL, MARK = 3, 4, 28, 29  # words of the tiny world


def steps(num: int, good: float = 0.9, bad: float = 0.1) -> list[StepExample]:
    """Two steps of unequal length; the word in the step decides its label. Prompts of three lengths."""
    rows = []
    for i in range(num):
        prompt = [10 + i % 7] * (1 + i % 3)
        first, second = (GOOD, BAD) if i % 2 else (BAD, GOOD)
        tokens = [*prompt, first, FILL, MARK, second, MARK]
        rows.append(
            StepExample(
                problem_id=f"p{i}",
                trace_id=f"t{i}",
                prompt="",
                completions=["", ""],
                labels=[good if first == GOOD else bad, good if second == GOOD else bad],
                token_ids=tokens,
                step_ends=[len(prompt) + 3, len(prompt) + 5],
            )
        )
    return rows


def read_scores(base: Path, out: Path, rows: list[StepExample], head: str = "value") -> list[list[float]]:
    """The scores as an engine reads them: base and adapter merged, one row at a time, at index step_end - 1."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoModelForTokenClassification, AutoTokenizer

    reading = json.loads((out / "prm.json").read_text())
    is_adapter = (out / "adapter_config.json").exists()
    source = base if is_adapter else out
    if head == "value":
        labels = {"num_labels": 1} if is_adapter and "two" not in base.name else {}
        model = AutoModelForTokenClassification.from_pretrained(source, **labels)
    else:
        model = AutoModelForCausalLM.from_pretrained(source)
    if is_adapter:
        model = PeftModel.from_pretrained(model, out).merge_and_unload()
    model.eval()
    vocabulary = AutoTokenizer.from_pretrained(base).get_vocab()
    found = []
    for row in rows:
        with torch.no_grad():
            logits = model(torch.tensor([row.token_ids])).logits[0, [end - 1 for end in row.step_ends]]
        if head == "token":
            raw = logits[:, vocabulary["+"]] - logits[:, vocabulary["-"]]
        else:
            raw = logits[:, 1] - logits[:, 0] if logits.shape[-1] == 2 else logits[:, 0]
        found.append((raw.sigmoid() if reading["activation"] == "sigmoid" else raw).tolist())
    return found


@pytest.mark.parametrize(("head", "lora"), [("value", {"r": 8}), ("value", None), ("token", {"r": 8})])
def test_soft_targets_are_recovered(base: Path, tmp_path: Path, head: str, lora: dict | None) -> None:
    rows = steps(40)
    job = job_of(base, tmp_path, rows, lora=lora, head=head)
    train(job, Settings(**FAST | {"steps": 150, "target": "soft", "batch_size": 20}))
    scores = read_scores(base, tmp_path / "out", rows, head)
    np.testing.assert_allclose(scores, [row.labels for row in rows], atol=0.05)
    assert json.loads((tmp_path / "out/prm.json").read_text()) == {
        "head": head,
        "target": "soft",
        "activation": "sigmoid",
    }


@pytest.mark.parametrize(
    ("target", "good", "bad", "expected"),
    [("value", 0.75, 0.25, (0.75, 0.25)), ("advantage", 0.5, -0.6, (0.5, -0.6)), ("hard", 0.1, 0.0, (1, 0))],
)
def test_each_target_is_recovered(
    base: Path, tmp_path: Path, target: str, good: float, bad: float, expected: tuple[float, float]
) -> None:
    rows = steps(40, good, bad)
    train(
        job_of(base, tmp_path, rows, lora={"r": 8}),
        Settings(**FAST | {"steps": 150, "target": target, "batch_size": 20}),
    )
    wanted = [[expected[0] if label == good else expected[1] for label in row.labels] for row in rows]
    np.testing.assert_allclose(read_scores(base, tmp_path / "out", rows), wanted, atol=0.08)
    reading = json.loads((tmp_path / "out/prm.json").read_text())
    assert reading["activation"] == ("sigmoid" if target == "hard" else "none")


def test_labels_stand_at_the_last_token_of_each_step(tmp_path: Path) -> None:
    """By token id: where a label is known stands the step's own last token, padding is on the right."""
    import torch

    from pipeline.train._batches import step_batches
    from pipeline.train.prm import read

    rows = steps(6)
    rows[0] = dataclasses.replace(rows[0], labels=[None, -0.5])
    corpus = read(job_of(tmp_path, tmp_path, rows), Settings(target="advantage"), {})  # type: ignore[arg-type]
    batch = step_batches(corpus, pad=0, keep_columns=False)(list(range(6)))
    labels, ids = batch["labels"], batch["input_ids"]
    assert labels.dtype == torch.float32
    known = ~torch.isnan(labels)
    assert (ids[known] == MARK).all()
    assert known.sum() == 11  # of 12 steps one is null; a negative label is a label
    assert torch.isnan(labels).float().mean().item() == pytest.approx(1 - 11 / ids.numel())
    assert [labels[0, end - 1].item() for end in rows[0].step_ends][1] == -0.5
    for i, row in enumerate(rows):
        assert ids[i, : len(row.token_ids)].tolist() == row.token_ids
        assert not ids[i, len(row.token_ids) :].any()
    narrow = step_batches(corpus, pad=0, keep_columns=True)(list(range(6)))
    columns = narrow["logits_to_keep"]
    assert torch.equal(torch.nan_to_num(narrow["labels"]), torch.nan_to_num(labels[:, columns]))
    assert narrow["labels"].shape[1] < ids.shape[1]


@pytest.mark.parametrize("head", ["value", "token"])
def test_accumulation_and_padding_give_the_same_update(base: Path, tmp_path: Path, head: str) -> None:
    rows = steps(24)
    rows = [
        dataclasses.replace(row, labels=[None, row.labels[1]]) if i % 3 else row for i, row in enumerate(rows)
    ]
    found = []
    for micro_batch in (8, 2, 1):
        folder = tmp_path / str(micro_batch)
        job = job_of(base, folder, rows, lora={"r": 4}, head=head)
        # plain gradient descent: Adam would hide a wrong scale
        settings = Settings(**FAST | {"target": "soft", "micro_batch": micro_batch, "args": {"optim": "sgd"}})
        found.append((train(job, settings), weights(folder / "out")))
    for report, arrays in found[1:]:
        assert report.metrics["loss"] == pytest.approx(found[0][0].metrics["loss"], rel=1e-5)
        for name, array in arrays.items():
            np.testing.assert_allclose(array, found[0][1][name], atol=2e-6, err_msg=name)


def test_an_adapter_goes_on_with_its_head(base: Path, tmp_path: Path) -> None:
    rows = steps(20)
    train(job_of(base, tmp_path / "1", rows), Settings(**FAST | {"target": "soft"}))
    still = Settings(**FAST | {"steps": 1, "learning_rate": 1e-12, "target": "soft"})
    train(job_of(base, tmp_path / "2", rows, adapter=tmp_path / "1/out"), still)
    one, two = read_scores(base, tmp_path / "1/out", rows), read_scores(base, tmp_path / "2/out", rows)
    np.testing.assert_allclose(one, two, atol=1e-6)


def ready_made(base: Path, folder: Path, num_labels: int) -> Path:
    """A PRM from elsewhere: an ordinary token-classification folder with its own head."""
    import torch
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    torch.manual_seed(1)
    model = AutoModelForTokenClassification.from_pretrained(base, num_labels=num_labels)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("num_labels", [1, 2])
def test_an_off_the_shelf_prm_is_a_base(base: Path, tmp_path: Path, num_labels: int) -> None:
    import torch
    from transformers import AutoModelForTokenClassification

    folder = ready_made(base, tmp_path / ("two" if num_labels == 2 else "one"), num_labels)
    rows = steps(20)
    still = Settings(**FAST | {"steps": 1, "learning_rate": 1e-12, "target": "soft"})
    train(job_of(folder, tmp_path / "job", rows), still)
    with torch.no_grad():
        logits = AutoModelForTokenClassification.from_pretrained(folder)(
            torch.tensor([rows[0].token_ids])
        ).logits
    raw = logits[0, :, 1] - logits[0, :, 0] if num_labels == 2 else logits[0, :, 0]
    before = raw.sigmoid()[[end - 1 for end in rows[0].step_ends]].tolist()
    np.testing.assert_allclose(
        read_scores(folder, tmp_path / "job/out", rows[:1])[0], before, atol=1e-6
    )  # its head is kept, not drawn anew
    if num_labels == 2:
        with pytest.raises(RecipeError, match="scores with 2 labels"):
            train(job_of(folder, tmp_path / "job2", rows), Settings(**FAST, target="value"))


def test_the_engine_reads_what_was_trained(base: Path, tmp_path: Path) -> None:
    """The project's own engine gives the scores that a plain forward gives, for both heads."""
    engine = pytest.importorskip("pipeline.engine.local")
    rows = steps(12)
    for head in ("value", "token"):
        job = job_of(base, tmp_path / head, rows, lora={"r": 4}, head=head)
        train(job, Settings(**FAST | {"steps": 20, "target": "soft"}))
        out = tmp_path / head / "out"
        served = engine.Engine(base, out, head=head)
        scores = served.score([(row.token_ids, [end - 1 for end in row.step_ends]) for row in rows])
        np.testing.assert_allclose(scores, read_scores(base, out, rows, head), atol=1e-5)


def test_merged_into_its_base_a_reward_model_scores_the_same(base: Path, tmp_path: Path) -> None:
    """`export`, and `run://RUN@3/prm` as a base: an ordinary folder that brings its head."""
    engine = pytest.importorskip("pipeline.engine.local")
    from pipeline.models.registry import brings_head, merge

    rows = steps(12)
    for head in ("value", "token"):
        job = job_of(base, tmp_path / head, rows, lora={"r": 4}, head=head)
        train(job, Settings(**FAST | {"steps": 20, "target": "soft"}))
        merge(base, job.out, head, tmp_path / f"merged-{head}", {})
        assert brings_head(tmp_path / f"merged-{head}")
        scores = [
            engine.Engine(folder, adapter, head=head).score(
                [(row.token_ids, [end - 1 for end in row.step_ends]) for row in rows]
            )
            for folder, adapter in ((base, job.out), (tmp_path / f"merged-{head}", None))
        ]
        np.testing.assert_allclose(scores[0], scores[1], atol=1e-4)


def test_rows_that_cannot_be_trained_are_counted(base: Path, tmp_path: Path) -> None:
    rows = steps(10)
    rows[0] = dataclasses.replace(rows[0], labels=[None, None])
    rows[1] = dataclasses.replace(rows[1], step_ends=[3, 99])
    rows[2] = dataclasses.replace(rows[2], labels=[0.5])
    rows[3] = dataclasses.replace(rows[3], labels=[float("nan"), 0.5])
    rows[4] = dataclasses.replace(rows[4], token_ids=[*rows[4].token_ids, *[FILL] * 40])
    report = train(job_of(base, tmp_path, rows), Settings(**FAST))
    assert report.dropped == {"no_label": 1, "bad_steps": 2, "bad_label": 1, "too_long": 1}
    assert report.metrics["examples"] == 5
    with pytest.raises(NothingKept, match="no step to train on: 1 no_label"):
        train(job_of(base, tmp_path / "none", rows[:1]), Settings(**FAST))


def test_what_does_not_fit_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="labels from -0.5 to 0.9 are no probabilities"):
        train(job_of(base, tmp_path, steps(4, bad=-0.5)), Settings(**FAST, target="soft"))
    with pytest.raises(RecipeError, match="head token is a probability; use target soft or hard"):
        train(job_of(base, tmp_path, steps(4), head="token"), Settings(**FAST, target="value"))


def test_token_head_needs_its_marks(tmp_path: Path) -> None:
    import shutil

    from base_world import make_base

    folder = make_base(tmp_path / "base")
    path = folder / "tokenizer.json"
    shutil.copy(path, tmp_path / "kept.json")
    path.write_text(path.read_text().replace('"+"', '"plus"'))
    with pytest.raises(RecipeError, match=r"lacks '\+'"):
        train(job_of(folder, tmp_path, steps(4), head="token"), Settings(**FAST, target="soft"))


def test_a_critic_is_held_near_what_it_said(base: Path, tmp_path: Path) -> None:
    """Value clipping: by hand, and in a training, where a score goes no further than the clip."""
    import torch

    from pipeline.train.prm import clipped_errors

    found = clipped_errors(
        torch.tensor([0.9, 0.6, 0.5]), torch.tensor([0.5] * 3), torch.tensor([1.0] * 3), 0.2
    )
    assert found.tolist() == pytest.approx([0.09, 0.16, 0.25])
    rows = steps(16, good=5.0, bad=-5.0)
    slow = FAST | {"learning_rate": 0.02, "args": {"optim": "sgd"}}  # no momentum carries a score on

    def said(name: str, number: int, clip: float | None) -> np.ndarray:
        settings = Settings(target="advantage", value_clip=clip, **slow | {"steps": number})
        train(job_of(base, tmp_path / name, rows, head="value", lora={"r": 4}), settings)
        return np.concatenate(read_scores(base, tmp_path / name / "out", rows))

    start = said("start", 1, 1e-6)  # errors weigh as ever in the first step, so it is a small one
    free, held = said("free", 40, None), said("held", 40, 0.2)
    assert np.abs(held - start).mean() < 0.5 < 1 < np.abs(free - start).mean()
    assert np.array_equal(said("again", 40, 0.2), held)
    with pytest.raises(ValueError, match="value_clip: 0.2 is for a squared error"):
        Settings(target="soft", value_clip=0.2)
