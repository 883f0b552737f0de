"""A large model's weights laid out for the processor: the same function, a row's bits its own."""

from __future__ import annotations

import random

import pytest
import torch
from model_world import WORDS, make_model, word_tokenizer

from pipeline.engine import cpu_packed
from pipeline.engine.growth import Request
from pipeline.engine.local import Engine
from pipeline.engine.rungs import LARGE, large_rung_of
from pipeline.engine.selftest import self_test

SHAPE = {"num_key_value_heads": 2, "hidden_size": 64, "intermediate_size": 96}
pytestmark = pytest.mark.skipif(not cpu_packed.can_pack(torch.float32), reason="this torch has no oneDNN")


def engines(folder, monkeypatch, dtype: str, kind: str = "LlamaForCausalLM", **more) -> tuple[Engine, Engine]:
    """A model as a small one, and as a large one."""
    make_model(folder, word_tokenizer(), kind=kind, **SHAPE, **more)
    head = "value" if "Token" in kind else None
    plain = Engine(folder, head=head, dtype=dtype)
    monkeypatch.setattr(cpu_packed, "LARGE_WEIGHTS", 1)
    return plain, Engine(folder, head=head, dtype=dtype)


def written(engine: Engine, rows: list[list[int]], limit: int = 70) -> list[tuple[list[int], list[float]]]:
    asked = [Request(list(ids), limit, seed=i, temperature=1.0, ends_on=0) for i, ids in enumerate(rows)]
    engine.submit(asked)
    while engine.busy:
        engine.step(4)
    return [(row.new_ids, row.logprobs) for row in asked]


def drawn_rows(number: int, longest: int = 40) -> list[list[int]]:
    draw = random.Random(3)
    return [[draw.randrange(2, len(WORDS)) for _ in range(draw.randrange(1, longest))] for _ in range(number)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["LlamaForCausalLM", "Qwen2ForCausalLM"])
def test_it_gives_what_the_plain_products_give(tmp_path, monkeypatch, dtype: str, kind: str):
    if not cpu_packed.can_pack(getattr(torch, dtype)):
        pytest.skip("this processor multiplies no bfloat16")
    plain, packed = engines(tmp_path, monkeypatch, dtype, kind)
    assert isinstance(packed.model.get_output_embeddings().product, cpu_packed.Packed)
    near = 1e-4 if dtype == "float32" else 0.1
    rows = [(ids, 1) for ids in drawn_rows(9) if len(ids) > 1]
    for ours, theirs in zip(packed.logprobs(rows), plain.logprobs(rows), strict=True):
        assert torch.allclose(torch.tensor(ours), torch.tensor(theirs), atol=near)
    ids = torch.tensor([drawn_rows(1)[0] or [3]])
    with torch.inference_mode():  # transformers' own forward still works: its layers use the same products
        own = packed.model(input_ids=ids, use_cache=False).logits.float()
        assert torch.allclose(own, plain.model(input_ids=ids, use_cache=False).logits.float(), atol=near)


def test_a_row_is_written_alone_as_among_others(tmp_path, monkeypatch):
    """Rows of several of a small model's rungs share a batch, and each has the bits it has alone."""
    _, packed = engines(tmp_path, monkeypatch, "float32")
    rows = drawn_rows(11, longest=100)
    assert len({large_rung_of(len(ids) + 70) for ids in rows}) == 1
    together = written(packed, rows)
    assert together == [written_as(packed, ids, i) for i, ids in enumerate(rows)]
    assert self_test(packed, (64,))
    assert (packed.exact, packed.trim, packed.remembers) == (True, True, True)


def written_as(engine: Engine, ids: list[int], seed: int) -> tuple[list[int], list[float]]:
    row = Request(list(ids), 70, seed=seed, temperature=1.0, ends_on=0)
    engine.submit([row])
    while engine.busy:
        engine.step(4)
    return row.new_ids, row.logprobs


def test_scores_are_those_of_the_small_engine(tmp_path, monkeypatch):
    plain, packed = engines(tmp_path, monkeypatch, "float32", "LlamaForTokenClassification", num_labels=1)
    items = [(ids, range(len(ids))) for ids in drawn_rows(9)]
    for ours, theirs in zip(packed.score(items), plain.score(items), strict=True):
        assert torch.allclose(torch.tensor(ours), torch.tensor(theirs), atol=1e-4)
    assert packed.score(items[2:3]) == packed.score(items)[2:3]


def test_no_weight_is_held_twice(tmp_path, monkeypatch):
    _, packed = engines(tmp_path, monkeypatch, "float32")
    for layer in packed.model.base_model.layers:
        weight = layer.self_attn.q_proj.weight
        assert weight.untyped_storage().nbytes() == weight.itemsize
        assert weight.isnan().all()  # whoever reads it nevertheless finds no numbers
    assert packed.model.get_input_embeddings().weight.isfinite().all()


def test_another_familys_weights_stay_where_its_code_reads_them(tmp_path, monkeypatch):
    _, other = engines(tmp_path, monkeypatch, "float32", "Qwen3ForCausalLM", head_dim=16)
    assert other._lean is None
    assert all(weight.isfinite().all() for weight in other.model.parameters())
    assert len(written(other, drawn_rows(3), 4)) == 3


def test_a_large_models_rungs_are_few():
    assert [large_rung_of(length) for length in (1, 256, 257, 1024, 1025)] == [256, 256, 512, 1024, 2048]
    assert LARGE[0] == 256
