"""train/shared: one model with two heads; its loss by hand and by torch, and what writes and scores by it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_verifiers import BAD, FAST, GOOD, items_of, solved
from train_world import job_of, weights

from pipeline.errors import NothingKept, RecipeError
from pipeline.train import shared

VALUE = "value_head.weight"


def start(base: Path, folder: Path, rows: list[Any], lora: dict[str, Any] | None = None, **more: Any) -> Any:
    settings = shared.Settings(**FAST | more)
    return shared.train(job_of(base, folder, rows, head="shared", lora=lora), settings)


def engine_of(base: Path, adapter: Path | None, check: bool = False) -> Any:
    from pipeline.engine.start import start_engine

    return start_engine(base, adapter, head="shared", dtype="float32", check=check)


def direct(base: Path, out: Path, ids: list[int]) -> tuple[Any, Any]:
    """(log-probabilities of next tokens, raw values) of a row under an adapter, by peft and torch alone."""
    import torch
    from peft import PeftModel

    from pipeline.models.shared import open_shared

    model = PeftModel.from_pretrained(open_shared(base)[0], out).eval()
    with torch.no_grad():
        found = model(torch.tensor([ids]), output_hidden_states=True)
        values = model.get_base_model().value_head(found.hidden_states[-1])[0, :, 0]
    return found.logits[0].log_softmax(-1), values


def test_a_value_is_a_tanh_by_hand() -> None:
    import torch

    from pipeline.train._joint import squared_errors

    # a score of .75 has log-odds 1.0986, a value of .5; .25 from 1, 2.25 from -1, and .25 from the middle
    for label, error in ((1.0, 0.25), (0.0, 2.25), (0.5, 0.25)):
        assert float(squared_errors(torch.tensor([1.0986123]), torch.tensor([label]))) == pytest.approx(error)


def test_the_loss_is_a_direct_torch_computation(base: Path, tmp_path: Path) -> None:
    """Of a step so small that the weights are still those it began with; however its rows are cut."""
    rows, norms = solved(8), []
    for micro in (None, 2):
        folder = tmp_path / str(micro)
        job = job_of(
            base, folder, rows, head="shared", report=lambda values: norms.append(values.get("grad_norm"))
        )
        own = {"steps": 1, "learning_rate": 1e-12, "beta": 0.3, "micro_batch": micro}
        metrics = shared.train(job, shared.Settings(**FAST | own)).metrics
        policy: list[float] = []
        value: list[float] = []
        for row in rows:
            logprobs, raw = direct(base, folder / "out", row.token_ids)
            begin, ids = len(row.prompt.split()), row.token_ids
            if row.labels[-1] == 1:
                policy += [-float(logprobs[at - 1, ids[at]]) for at in range(begin, len(ids))]
            value += [
                (np.tanh(float(raw[end - 1]) / 2) - (2 * row.labels[-1] - 1)) ** 2 for end in row.step_ends
            ]
        assert metrics["right"] == 4
        assert metrics["accumulation"] == (1 if micro is None else 4)
        assert metrics["loss/policy"] == pytest.approx(np.mean(policy), rel=1e-5)
        assert metrics["loss/value"] == pytest.approx(np.mean(value), rel=1e-5)
        assert metrics["loss"] == pytest.approx(np.mean(policy) + 0.3 * np.mean(value), rel=1e-5)
    one, other = (norm for norm in norms if norm is not None)
    assert one == pytest.approx(other, rel=1e-4)  # the same update


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has seen GOOD end right and BAD end wrong."""
    folder = tmp_path_factory.mktemp("shared")
    start(base, folder, solved(24), {"r": 8}, steps=80, batch_size=24, beta=1.0)
    return folder / "out"


def test_it_learns_to_write_what_is_right_and_to_value_both(base: Path, trained: Path) -> None:
    rows = solved(24)
    engine = engine_of(base, trained, check=True)
    assert engine.score_kind == "probability"
    scores = engine.score(*items_of(rows))
    for row, (first, last) in zip(rows, scores, strict=True):
        assert (last > 0.5) == bool(row.labels[-1])
        assert abs(first - 0.5) < 0.25  # each start ends right once and wrong once
        at = row.token_ids.index(28) + 2  # the token that decides
        [[said]] = engine.logprobs([(row.token_ids[: at + 1], at)])
        assert row.token_ids[at] in (GOOD, BAD)
        assert (said > np.log(0.5)) == bool(row.labels[-1])  # wrong rows taught no writing


def test_scores_and_words_are_a_direct_torch_computation(base: Path, trained: Path) -> None:
    rows = solved(9)
    engine = engine_of(base, trained)
    scores = engine.score(*items_of(rows))
    words = engine.logprobs([(row.token_ids, 1) for row in rows])
    for row, found, said in zip(rows, scores, words, strict=True):
        logprobs, raw = direct(base, trained, row.token_ids)
        wanted = [1 / (1 + np.exp(-float(raw[end - 1]))) for end in row.step_ends]
        np.testing.assert_allclose(found, wanted, atol=1e-6)
        own = [float(logprobs[at - 1, row.token_ids[at]]) for at in range(1, len(row.token_ids))]
        np.testing.assert_allclose(said, own, atol=1e-5)


def test_what_was_written_is_scored_without_being_read_again(base: Path, trained: Path) -> None:
    from pipeline.engine.growth import Request

    engine = engine_of(base, trained, check=True)
    if not engine.remembers:
        pytest.skip("this machine remembers nothing between reading and writing")
    ids = solved(1)[0].token_ids
    memory = engine.new_memory()
    row = Request(ids, 4, seed=1, ends_on=0, memory=memory, borders=(1, len(ids)))
    engine.submit([row])
    while engine.busy:
        engine.step()
    whole = (*row.ids, *row.new_ids)
    at = [len(ids) - 1, len(whole) - 1]
    assert engine.score([(whole, at)], [(memory, 1)]) == engine.score(
        [(whole, at)], [(engine.new_memory(), 1)]
    )


@pytest.mark.parametrize("lora", [{"r": 4}, None])
def test_it_goes_on_and_leaves_as_one_folder(base: Path, tmp_path: Path, lora: dict[str, Any] | None) -> None:
    """Adapters and whole weights: a second training begins where the first ended, and an export writes and scores
    alike."""
    from transformers import AutoModelForCausalLM

    from pipeline.models.registry import brings_head, merge

    rows = solved(12)
    start(base, tmp_path / "one", rows, lora, steps=3)
    first = tmp_path / "one" / "out"
    job = job_of(base, tmp_path / "two", rows, head="shared", lora=lora, adapter=first)
    shared.train(job, shared.Settings(**FAST | {"steps": 1, "learning_rate": 1e-12}))
    old, new = weights(first), weights(tmp_path / "two" / "out")
    heads = [name for name in old if name.endswith(VALUE)]
    assert len(heads) == 1
    np.testing.assert_allclose(new[heads[0]], old[heads[0]], atol=1e-9)
    assert json.loads((first / "prm.json").read_text())["head"] == "shared"
    if lora is None:
        return
    merge(base, first, "shared", tmp_path / "merged", {})
    assert brings_head(tmp_path / "merged")
    alone, whole = engine_of(base, first), engine_of(tmp_path / "merged", None)
    np.testing.assert_allclose(alone.score(*items_of(rows)), whole.score(*items_of(rows)), atol=1e-6)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert (
        type(plain).__name__
        == json.loads((tmp_path / "merged" / "config.json").read_text())["architectures"][0]
    )
    assert not hasattr(plain, "value_head")


def test_a_base_writes_and_values_nothing(base: Path, tmp_path: Path) -> None:
    engine = engine_of(base, None)
    rows = solved(2)
    assert len(engine.logprobs([(rows[0].token_ids, 1)])[0]) == len(rows[0].token_ids) - 1
    with pytest.raises(RecipeError, match="its value head was never trained"):
        engine.score(*items_of(rows))


def test_rows_that_teach_nothing_are_told(base: Path, tmp_path: Path) -> None:
    wrong = [row for row in solved(8) if row.labels[-1] == 0]
    with pytest.raises(NothingKept, match="none of 4 rows ends right"):
        start(base, tmp_path, wrong, {"r": 4})
    far = solved(2)
    far[1].labels[0] = 1.5
    with pytest.raises(RecipeError, match="row t1: labels from 1 to 1.5 are no shares of right ends"):
        start(base, tmp_path, far, {"r": 4})
