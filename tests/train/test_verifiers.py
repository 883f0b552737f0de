"""train/orm and train/implicit, the step-aware loss and label smoothing: by hand, by torch itself, and as engines read
what was trained."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from base_world import WORDS
from train_world import job_of, weights

from pipeline.errors import NothingKept, RecipeError
from pipeline.rows import StepExample
from pipeline.train import implicit, orm, prm

FAST = {"steps": 6, "batch_size": 8, "learning_rate": 1e-2, "max_length": 32}
GOOD, BAD, FILL, MARK = 3, 4, 28, 29


def solved(num: int) -> list[StepExample]:
    """Two steps; right where the second holds GOOD, and the first says nothing of it: each stands twice. Prompts of
    three lengths, and the outcome at every step."""
    rows = []
    for i in range(num):
        pair = i // 2
        prompt = [10 + pair % 7] * (1 + pair % 3)
        last = GOOD if i % 2 else BAD
        tokens = [*prompt, 5 + pair % 3, FILL, MARK, last, MARK]
        rows.append(
            StepExample(
                problem_id=f"p{i}",
                trace_id=f"t{i}",
                prompt=" ".join(WORDS[t] for t in prompt),
                completions=["", ""],
                labels=[float(i % 2)] * 2,
                token_ids=tokens,
                step_ends=[len(prompt) + 3, len(prompt) + 5],
            )
        )
    return rows


def items_of(rows: list[StepExample]) -> tuple[list[Any], list[Any]]:
    """What the driver asks an engine to score, and the tokens of each prompt."""
    begins = [len(row.prompt.split()) for row in rows]
    return (
        [(row.token_ids, [end - 1 for end in row.step_ends]) for row in rows],
        [(None, begin) for begin in begins],
    )


def corpus_columns(module: Any, job: Any, settings: Any) -> list[list[int]]:
    corpus = module.read(job, settings, Counter())
    offsets = corpus.target_offsets
    return [corpus.target_columns[a:b].tolist() for a, b in zip(offsets, offsets[1:], strict=False)]


# --- the outcome reward model


def test_every_token_of_the_completion_has_the_outcome(base: Path, tmp_path: Path) -> None:
    rows = solved(6)
    columns = corpus_columns(orm, job_of(base, tmp_path, rows), orm.Settings())
    wanted = [list(range(len(row.prompt.split()), len(row.token_ids))) for row in rows]
    assert columns == wanted  # from the first token of the completion to its last


@pytest.mark.parametrize(
    ("head", "loss", "lm_weight"), [("value", "mse", 0.0), ("token", "bce", 0.0), ("token", "mse", 0.5)]
)
def test_one_step_of_an_orm_is_a_direct_computation(
    base: Path, tmp_path: Path, head: str, loss: str, lm_weight: float
) -> None:
    """The loss that the trainer reports at its first step, against torch on the same rows one at a time."""
    import torch
    from transformers import AutoModelForCausalLM

    rows = solved(8)
    settings = orm.Settings(**FAST | {"steps": 1, "loss": loss, "lm_weight": lm_weight})
    job = job_of(base, tmp_path, rows, head=head, lora={"r": 4})
    report = orm.train(job, settings)
    if head == "value":
        # the fresh head is drawn by the seed; the adapter adds nothing at the first step
        from pipeline.train import _setup
        from pipeline.train._verifier import load

        with _setup.exact():
            model: Any = load(job, True, False)
    else:
        model = AutoModelForCausalLM.from_pretrained(base)
    plus, minus = WORDS.index("+"), WORDS.index("-")
    total, number = 0.0, 0
    for row in rows:
        with torch.no_grad():
            logits = model(torch.tensor([row.token_ids])).logits[0].float()
        begin = len(row.prompt.split())
        raw = logits[begin:, plus] - logits[begin:, minus] if head == "token" else logits[begin:, 0]
        said = raw.sigmoid() if head == "token" else raw
        outcome = row.labels[-1] or 0.0
        if loss == "mse":
            total += float(((said - outcome) ** 2).sum())
        else:
            total += float(-(outcome * said.log() + (1 - outcome) * (1 - said).log()).sum())
        if lm_weight:
            following = logits[begin - 1 : -1].log_softmax(-1)
            written = torch.tensor(row.token_ids[begin:])
            total -= lm_weight * float(following.gather(-1, written[:, None]).sum())
        number += len(row.token_ids) - begin
    assert report.metrics["loss"] == pytest.approx(total / number, rel=1e-5)
    assert report.metrics["trained_positions"] == number


@pytest.mark.parametrize("head", ["value", "token"])
def test_an_orm_is_read_as_any_reward_model(base: Path, tmp_path: Path, head: str) -> None:
    from pipeline.engine.start import start_engine

    rows = solved(24)
    job = job_of(base, tmp_path, rows, head=head, lora={"r": 8})
    orm.train(job, orm.Settings(**FAST | {"steps": 120, "loss": "bce", "batch_size": 24}))
    assert json.loads((job.out / "prm.json").read_text()) == {
        "activation": "sigmoid", "head": head, "target": "outcome",
    }  # fmt: skip
    engine = start_engine(base, job.out, head=head, dtype="float32")
    assert engine.score_kind == "probability"
    scores = engine.score(*items_of(rows))
    for row, (first, last) in zip(rows, scores, strict=True):
        assert abs(last - (row.labels[-1] or 0)) < 0.1  # the last token tells
        assert 0.2 < first < 0.8  # before it both ends are as likely


def test_an_orm_says_what_does_not_fit(base: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="head value has no language model beside its score"):
        orm.train(job_of(base, tmp_path, solved(4), head="value"), orm.Settings(**FAST, lm_weight=1.0))
    with pytest.raises(ValueError, match="label_smoothing: 0.1 is for a cross-entropy"):
        orm.Settings(label_smoothing=0.1)
    rows = solved(6)
    rows[0] = dataclasses.replace(rows[0], labels=[1.0, None])
    rows[1] = dataclasses.replace(rows[1], labels=[1.0])
    rows[2] = dataclasses.replace(rows[2], prompt="5 5 5 5 5 5")
    rows[3] = dataclasses.replace(rows[3], labels=[1.0, math.inf])
    report = orm.train(job_of(base, tmp_path, rows, head="value"), orm.Settings(**FAST))
    assert report.dropped == {"no_outcome": 1, "bad_steps": 1, "bad_prompt": 1, "bad_label": 1}
    with pytest.raises(NothingKept, match="no outcome to train on: 1 no_outcome, 1 bad_steps"):
        orm.train(job_of(base, tmp_path, rows[:2], head="value"), orm.Settings(**FAST))
    signed = [dataclasses.replace(row, labels=[0.5, -0.5]) for row in rows[4:]]
    with pytest.raises(RecipeError, match="the outcome, is -0.5, no probability"):
        orm.train(job_of(base, tmp_path, signed, head="value"), orm.Settings(**FAST))


# --- the step-aware loss and label smoothing


def test_the_step_aware_loss_by_hand(base: Path, tmp_path: Path) -> None:
    """alpha .1: the solution weighs 1, each step .1 more where it ends; the mean is by weight."""
    import torch

    from pipeline.train._batches import step_batches
    from pipeline.train._trainers import labelled

    rows = solved(4)
    settings = prm.Settings(target="soft", step_weight=0.1)
    corpus = prm.read(job_of(base, tmp_path, rows), settings, Counter())
    for narrow in (False, True):
        batch = step_batches(corpus, 0, keep_columns=narrow)([0, 1, 2, 3])
        labels = batch["labels"]
        np.testing.assert_allclose(labels[..., 1][~labels[..., 1].isnan()], [0.1, 1.1] * 4, rtol=1e-6)
        assert float(labelled(labels)) == pytest.approx(4.8)
    logits = torch.zeros(1, 5, 1)
    logits[0, 2, 0], logits[0, 4, 0] = 1.0, -2.0
    given = torch.full((1, 5, 2), torch.nan)
    given[0, 2], given[0, 4] = torch.tensor([1.0, 0.1]), torch.tensor([0.0, 1.1])
    loss = prm.loss_of("soft", None)(type("O", (), {"logits": logits}), given)
    # -log s(1) = .313262, -log(1 - s(-2)) = .126928: (.1 * .313262 + 1.1 * .126928) / 1.2
    assert float(loss) == pytest.approx(0.142456, abs=1e-6)


def test_a_step_weight_changes_nothing_that_stands_alone(base: Path, tmp_path: Path) -> None:
    """Rows of one labelled step each: whatever it weighs, the weights are the plain ones."""
    rows = [dataclasses.replace(row, labels=[None, row.labels[1]]) for row in solved(16)]
    common = FAST | {"target": "soft", "args": {"optim": "sgd"}}
    prm.train(job_of(base, tmp_path / "a", rows, head="token"), prm.Settings(**common))
    prm.train(job_of(base, tmp_path / "b", rows, head="token"), prm.Settings(**common, step_weight=0.1))
    one, two = weights(tmp_path / "a/out"), weights(tmp_path / "b/out")
    for name, array in one.items():
        np.testing.assert_allclose(array, two[name], atol=1e-7, err_msg=name)


def test_label_smoothing_by_hand(base: Path, tmp_path: Path) -> None:
    from pipeline.train._verifier import smoothed

    assert smoothed(1.0, 0.1) == pytest.approx(0.9)
    assert smoothed(0.0, 0.1) == pytest.approx(0.1)
    assert smoothed(0.5, 0.3) == pytest.approx(0.5)
    job = job_of(base, tmp_path, solved(4))
    for module, more in ((prm, {"target": "hard"}), (orm, {"loss": "bce"}), (implicit, {})):
        values = module.read(job, module.Settings(**more, label_smoothing=0.1), Counter()).target_values
        assert sorted({round(float(v), 6) for v in values}) == [0.1, 0.9]
    with pytest.raises(ValueError, match="label_smoothing: 0.1 is for a cross-entropy"):
        prm.Settings(label_smoothing=0.1)


def test_later_settings_at_their_default_leave_fingerprints_alone() -> None:
    from pipeline.recipe.shape import data_settings

    said = data_settings(prm.Settings(**{"from": ("rows",)}))
    assert "step_weight" not in said
    assert "label_smoothing" not in said
    assert data_settings(prm.Settings(**{"from": ("rows",)}, step_weight=0.1))["step_weight"] == 0.1


# --- the implicit reward model


def test_the_implicit_loss_by_hand() -> None:
    import torch

    from pipeline.train._ratio import ratio_loss

    assert float(ratio_loss(torch.tensor([10.0]), torch.tensor([1.0]), 0.05)) == pytest.approx(
        0.47408, abs=1e-5
    )
    assert float(ratio_loss(torch.tensor([10.0]), torch.tensor([0.0]), 0.05)) == pytest.approx(
        0.97408, abs=1e-5
    )


def test_partial_sums_by_hand() -> None:
    """beta .05, a step whose log-ratio is 4 -> .2; the second step adds 6 -> .5."""
    from pipeline.engine.ratio import partial_sums

    ratios = {2: 1.0, 3: 3.0, 4: 6.0}  # of the token in each column

    def ours(spans: Any) -> list[list[float]]:
        return [[ratios[column] - 2.0 for column in range(begin, len(ids))] for ids, begin in spans]

    def start(spans: Any) -> list[list[float]]:
        return [[-2.0] * (len(ids) - begin) for ids, begin in spans]

    items = [([7, 7, 8, 8, 8, 8], [3, 4]), ([7, 7], [])]
    assert partial_sums(items, [2, 2], 0.05, ours, start) == [pytest.approx([0.2, 0.5]), []]


def test_an_implicit_model_takes_the_same_step_however_rows_are_cut(base: Path, tmp_path: Path) -> None:
    found = []
    for micro_batch in (8, 2):
        job = job_of(base, tmp_path / str(micro_batch), solved(16), head="implicit", lora={"r": 4})
        # plain gradient descent: Adam would hide a wrong scale
        settings = implicit.Settings(**FAST | {"micro_batch": micro_batch, "args": {"optim": "sgd"}})
        found.append((implicit.train(job, settings), weights(job.out)))
    (one, whole), (two, cut) = found
    assert two.metrics["loss"] == pytest.approx(one.metrics["loss"], rel=1e-5)
    for name, array in cut.items():
        np.testing.assert_allclose(array, whole[name], atol=2e-6, err_msg=name)


def test_an_implicit_model_starts_at_no_opinion_and_learns(base: Path, tmp_path: Path) -> None:
    from pipeline.engine.start import start_engine

    rows = solved(24)
    job = job_of(base, tmp_path, rows, head="implicit", lora={"r": 8})
    settings = implicit.Settings(**FAST | {"steps": 60, "batch_size": 24, "beta": 0.5, "log_every": 1})
    report = implicit.train(job, settings)
    # the adapter begins at zero: a ratio of exactly 1, whatever the weights, so the loss is log 2
    assert report.metrics["loss/first"] == pytest.approx(math.log(2), abs=1e-7)
    assert report.metrics["trained_positions"] == 60 * 24  # outcomes
    assert json.loads((job.out / "prm.json").read_text())["beta"] == 0.5
    engine = start_engine(base, job.out, head="implicit", dtype="float32")
    assert engine.score_kind == "log_odds"
    scores = engine.score(*items_of(rows))
    assert all((last > 0) == bool(row.labels[-1]) for row, (_, last) in zip(rows, scores, strict=True))


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model after a few steps, its adapter in out/."""
    folder = tmp_path_factory.mktemp("implicit")
    job = job_of(base, folder, solved(16), head="implicit", lora={"r": 4})
    implicit.train(job, implicit.Settings(**FAST | {"learning_rate": 3e-2}))
    return folder / "out"


def test_scores_are_a_direct_torch_computation(base: Path, trained: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from pipeline.engine.start import start_engine

    rows = solved(9)
    scores = start_engine(base, trained, head="implicit", dtype="float32").score(*items_of(rows))
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), trained).eval()
    for row, found in zip(rows, scores, strict=True):
        ids = torch.tensor([row.token_ids])
        with torch.no_grad():
            ours = model(ids).logits[0, :-1].log_softmax(-1)
            with model.disable_adapter():
                theirs = model(ids).logits[0, :-1].log_softmax(-1)
        ratio = (ours - theirs).gather(-1, ids[0, 1:, None])[:, 0]
        begin = len(row.prompt.split())
        wanted = [0.05 * float(ratio[begin - 1 : end - 1].sum()) for end in row.step_ends]
        np.testing.assert_allclose(found, wanted, atol=1e-6)
        assert abs(wanted[-1]) > 1e-4  # something was learned, or the comparison says nothing


def test_scores_telescope(base: Path, trained: Path) -> None:
    """The whole is the sum of its steps, however the completion is cut, and a longer text never changes a step before
    it."""
    from pipeline.engine.start import start_engine

    engine = start_engine(base, trained, head="implicit", dtype="float32")
    draw = np.random.default_rng(3)
    for _ in range(20):
        ids = draw.integers(3, 29, size=int(draw.integers(6, 24))).tolist()
        begin = int(draw.integers(1, 4))
        at = sorted(draw.choice(range(begin, len(ids)), size=2, replace=False).tolist())
        [every] = engine.score([(ids, range(begin, len(ids)))], [(None, begin)])
        [some] = engine.score([(ids, at)], [(None, begin)])
        np.testing.assert_allclose(some, [every[place - begin] for place in at], atol=1e-6)
        [short] = engine.score([(ids[: at[0] + 1], at[:1])], [(None, begin)])
        [rest] = engine.score([(ids, at[1:])], [(None, at[0] + 1)])  # the first step taken for prompt
        assert short[0] + rest[0] == pytest.approx(some[1], abs=1e-6)


def test_an_implicit_model_says_what_does_not_fit(base: Path, tmp_path: Path, trained: Path) -> None:
    from pipeline.engine.start import start_engine
    from pipeline.models.registry import merge

    with pytest.raises(RecipeError, match="lora: none trains all weights, and an implicit reward model"):
        implicit.train(
            job_of(base, tmp_path, solved(4), lora=None, head="implicit"), implicit.Settings(**FAST)
        )
    job = job_of(base, tmp_path, solved(4), lora={"r": 4, "bias": "all"}, head="implicit")
    with pytest.raises(RecipeError, match="bias: all: trained biases stay"):
        implicit.train(job, implicit.Settings(**FAST))
    with pytest.raises(RecipeError, match="no prm.json beside its weights says beta"):
        start_engine(base, None, head="implicit", dtype="float32")
    with pytest.raises(RecipeError, match="read against its base, so what was trained is not merged"):
        merge(base, trained, "implicit", tmp_path / "merged", {})
    assert not (tmp_path / "merged").exists()


def test_it_goes_on_from_an_adapter_against_the_same_start(base: Path, tmp_path: Path, trained: Path) -> None:
    """restart_from: previous: the reference stays the base."""
    from pipeline.engine.start import start_engine

    still = implicit.Settings(**FAST | {"steps": 1, "learning_rate": 1e-12})
    implicit.train(job_of(base, tmp_path, solved(8), adapter=trained, head="implicit"), still)
    items = items_of(solved(5))
    one, two = (
        start_engine(base, folder, head="implicit", dtype="float32").score(*items)
        for folder in (trained, tmp_path / "out")
    )
    np.testing.assert_allclose(one, two, atol=1e-6)
