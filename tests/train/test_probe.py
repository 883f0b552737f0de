"""train/probe and head: probe: by hand, by scikit-learn and torch themselves, and as engines read what was fitted."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from base_world import WORDS, make_base
from pydantic import ValidationError
from train_world import job_of

from pipeline.engine.selftest import self_test
from pipeline.engine.start import start_engine
from pipeline.errors import DamagedData, NothingKept, RecipeError
from pipeline.rows import StepExample
from pipeline.train import probe

GOOD, BAD, FILL, MARK = 3, 4, 28, 29


def rows_of(num: int) -> list[StepExample]:
    """Two steps of which the first says nothing; right where the second holds GOOD. Prompts of three lengths."""
    rows = []
    for i in range(num):
        prompt = [10 + i // 2 % 7] * (1 + i // 2 % 3)
        tokens = [*prompt, 5 + i // 2 % 3, FILL, MARK, GOOD if i % 2 else BAD, MARK]
        rows.append(
            StepExample(
                problem_id=f"p{i // 2}", trace_id=f"t{i}", prompt=" ".join(WORDS[t] for t in prompt),
                completions=["", ""], labels=[None, float(i % 2)], token_ids=tokens,
                step_ends=[len(prompt) + 3, len(prompt) + 5],
            )
        )  # fmt: skip
    return rows


def items_of(rows: list[StepExample]) -> list[Any]:
    return [(row.token_ids, [end - 1 for end in row.step_ends]) for row in rows]


def test_a_logistic_regression_by_hand() -> None:
    """One standardised feature, x = -1 and 1, labels 1/4 and 3/4, a vanishing penalty: the optimum has log-odds of
    exactly those labels, so weight log 3 and bias 0. Shifted and stretched features give the same scores."""
    labels = np.array([0.25, 0.75])
    fit = probe.fitted(np.array([[-1.0], [1.0]]), labels, 1e-9)
    assert fit.weight[0] == pytest.approx(np.log(3), abs=1e-4)
    assert fit.bias == pytest.approx(0, abs=1e-4)
    moved = probe.fitted(np.array([[10.0], [14.0]]), labels, 1e-9)
    assert moved.scores(np.array([[10.0], [14.0]])) == pytest.approx([-np.log(3), np.log(3)], abs=1e-3)
    # with a penalty c (w^2) / 2 against the loss of two rows: c w = 2 (3/4 - sigmoid(w))
    held = probe.fitted(np.array([[-1.0], [1.0]]), labels, 1.0)
    assert held.weight[0] == pytest.approx(2 * (0.75 - 1 / (1 + np.exp(-held.weight[0]))), abs=1e-4)


def test_auc_by_hand() -> None:
    assert probe.auc(np.array([1, 0, 1]), np.array([3.0, 2.0, 1.0])) == 0.5
    assert probe.auc(np.array([1, 0, 0]), np.array([2.0, 2.0, 1.0])) == 0.75


def test_held_out_problems_are_chosen_by_name_alone() -> None:
    names = [f"p{i}" for i in range(50)]
    out = probe.held_out(names, 0.2)
    assert len(out) == 10
    assert probe.held_out(names[::-1] + names, 0.2) == out
    assert probe.held_out(["a"], 0.5) == set()
    assert len(probe.held_out(["a", "b"], 0.01)) == 1


def test_it_finds_what_the_state_says_and_length_does_not(base: Path, tmp_path: Path) -> None:
    rows = rows_of(60)
    job = job_of(base, tmp_path, rows, head="probe")
    report = probe.train(job, probe.Settings(max_length=32))
    m = report.metrics
    assert m["auc"] == 1.0
    assert m["auc/length"] == 0.5  # each pair has one length
    assert m["trained_positions"] == 60  # what has no label is in no fit
    said = json.loads((job.out / "prm.json").read_text())
    assert said["layer"] == m["layer"]
    best = {k for k in range(3) if m[f"auc/layer_{k}"] == 1.0}
    assert said["layer"] == min(best)
    assert m["auc/layer_0"] == 0.5  # the mark's own embedding: the same after right and wrong
    engine = start_engine(base, job.out, head="probe", dtype="float32")
    assert engine.score_kind == "probability"
    for row, scores in zip(rows, engine.score(items_of(rows)), strict=True):
        assert len(scores) == 2
        assert (scores[1] > 0.5) == bool(row.labels[1])


def test_scores_are_a_direct_torch_computation_whatever_stands_beside(base: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.numpy import load_file
    from transformers import AutoModelForCausalLM

    rows = rows_of(20)
    job = job_of(base, tmp_path, rows, head="probe")
    probe.train(job, probe.Settings(max_length=32, layer=1))
    engine = start_engine(base, job.out, head="probe", dtype="float32")
    held = load_file(job.out / "probe.safetensors")
    model = AutoModelForCausalLM.from_pretrained(base)
    together = engine.score(items_of(rows))
    for row, item, scores in zip(rows, items_of(rows), together, strict=True):
        with torch.no_grad():
            hidden = model(torch.tensor([row.token_ids]), output_hidden_states=True).hidden_states[1][0]
        logits = hidden[item[1]].double().numpy() @ held["weight"].astype(np.float64) + held["bias"][0]
        np.testing.assert_allclose(scores, 1 / (1 + np.exp(-logits)), atol=1e-5)
        assert engine.score([item]) == [scores]  # to the bit
    assert engine.score([(rows[0].token_ids, [])]) == [[]]


def test_equal_rows_give_equal_bytes(base: Path, tmp_path: Path) -> None:
    found = []
    for name in ("one", "two"):
        job = job_of(base, tmp_path / name, rows_of(24), head="probe")
        probe.train(job, probe.Settings(max_length=32, layer=(1, 2)))
        found.append({path.name: path.read_bytes() for path in sorted(job.out.iterdir())})
    assert found[0] == found[1]
    assert set(found[0]) == {"prm.json", "probe.safetensors"}  # nothing pickled


FAULTS: dict[str, tuple[list[StepExample], dict[str, Any], type[Exception], str]] = {
    "no label": (
        [dataclasses.replace(row, labels=[None, None]) for row in rows_of(6)], {}, NothingKept,
        "no labelled step to fit a probe on: 6 no_label. For no_label name a label stage",
    ),
    "nothing": ([], {}, NothingKept, "no row arrived"),
    "one kind": (
        [dataclasses.replace(row, labels=[None, 0.0]) for row in rows_of(6)], {"layer": 1}, NothingKept,
        "labelled steps to fit on are wrong: a probe tells two kinds apart",
    ),
    "one kind held out": (
        [dataclasses.replace(row, labels=[0.4, 0.3]) for row in rows_of(6)], {}, NothingKept,
        "held-out steps are all wrong (labels above 0.5), so no layer can be chosen",
    ),
    "no such layer": (rows_of(6), {"layer": 3}, RecipeError, "layer 3: base0 has layers 0 (the embeddings) to 2"),
    "no probabilities": (
        [dataclasses.replace(row, labels=[None, -1.0]) for row in rows_of(6)], {}, RecipeError,
        "row t0: labels from -1 to -1 are no probabilities",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", FAULTS)
def test_what_cannot_be_fitted_is_said(base: Path, tmp_path: Path, kind: str) -> None:
    rows, given, error, words = FAULTS[kind]
    job = job_of(base, tmp_path, rows, head="probe")
    with pytest.raises(error) as found:
        probe.train(job, probe.Settings(max_length=32, **given))
    assert words.replace("base0", base.name) in str(found.value)
    assert not list(job.out.iterdir())


def test_one_layer_without_a_verdict_is_fitted_all_the_same(base: Path, tmp_path: Path) -> None:
    """Soft labels of one side: nothing can be measured, and a probe stands."""
    rows = [dataclasses.replace(row, labels=[0.4, 0.2 * (i % 2)]) for i, row in enumerate(rows_of(12))]
    heard: list[str] = []
    job = job_of(base, tmp_path, rows, head="probe", say=heard.append)
    report = probe.train(job, probe.Settings(max_length=32, layer=2))
    assert "auc" not in report.metrics
    assert any("no AUC to tell" in line for line in heard)
    assert (job.out / "probe.safetensors").exists()


@pytest.mark.parametrize(
    ("given", "words"),
    [({"steps": 5}, "steps: a probe is fitted"), ({"learning_rate": 1e-3}, "learning_rate"), ({"layer": -1}, "count from 0"),
     ({"layer": ()}, "count from 0"), ({"holdout": 1.0}, "less than 1")],
)  # fmt: skip
def test_settings_that_say_nothing_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        probe.Settings(**given)


def test_a_probe_of_another_base_is_refused(base: Path, tmp_path: Path) -> None:
    job = job_of(base, tmp_path, rows_of(12), head="probe")
    probe.train(job, probe.Settings(max_length=32, layer=1))
    with pytest.raises(RecipeError, match=r"no probe\.safetensors beside its weights"):
        start_engine(base, None, head="probe", dtype="float32")
    said = json.loads((job.out / "prm.json").read_text())
    (job.out / "prm.json").write_text(json.dumps(said | {"layer": 9}))
    with pytest.raises(DamagedData, match="a probe of layer 9 .* belongs to another base"):
        start_engine(base, job.out, head="probe", dtype="float32")
    (job.out / "prm.json").write_text("{")
    with pytest.raises(DamagedData, match="no probe can be read here"):
        start_engine(base, job.out, head="probe", dtype="float32")


def test_the_engines_look_at_itself_knows_a_probe_of_a_deep_layer(tmp_path: Path) -> None:
    """It keeps the first layers alone, and asks for scores: found with a model of thirty layers."""
    base = make_base(tmp_path / "deep", layers=4)
    rows = rows_of(12)
    job = job_of(base, tmp_path, rows, head="probe")
    probe.train(job, probe.Settings(max_length=32, layer=4))
    plain = start_engine(base, job.out, head="probe", dtype="float32").score(items_of(rows))
    engine = start_engine(base, job.out, head="probe", dtype="float32")
    assert self_test(engine, (16,))
    assert engine.score(items_of(rows)) == plain
