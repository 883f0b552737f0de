"""The lean forward gives what the model itself gives, and stands aside where it would not."""

from __future__ import annotations

import random

import pytest
import torch
from model_world import WORDS, make_model, word_tokenizer

from pipeline.engine.cpu_forward import cpu_forward_of
from pipeline.engine.endings import EOS
from pipeline.engine.growth import Request
from pipeline.engine.local import Engine
from pipeline.engine.selftest import self_test

LIKE_LLAMA = {
    "LlamaForCausalLM": {},
    # its queries, keys and values have a bias; more positions than have their rotations kept
    "Qwen2ForCausalLM": {"max_position_embeddings": 10_000},
    "MistralForCausalLM": {"sliding_window": 9},  # the mask tells
    "LlamaForTokenClassification": {"num_labels": 1},
    "Qwen2ForTokenClassification": {"num_labels": 2},
}
OTHERS = {
    "Qwen3ForCausalLM": {"head_dim": 16},
    "GemmaForCausalLM": {"head_dim": 16},
}


def engine_of(folder, kind: str, **shape) -> Engine:
    make_model(folder, word_tokenizer(), kind=kind, **shape)
    return Engine(folder, head="value" if "Token" in kind else None)


@pytest.mark.parametrize("kind", sorted(LIKE_LLAMA))
def test_its_logits_are_the_models(tmp_path, kind: str):
    engine = engine_of(tmp_path, kind, **LIKE_LLAMA[kind])
    for parameter in engine.model.parameters():  # biases and norms begin at 0 and 1
        parameter.data += 0.1 * torch.randn_like(parameter)
    lean = type(engine._lean)(engine.model.base_model, engine._lean.one_by_one)
    ids = torch.randint(0, len(WORDS), (5, 23))
    places = torch.arange(23)
    mask = torch.where(places[:, None] >= places, 0.0, -torch.inf).expand(5, 1, -1, -1)
    mask = engine._masks(mask, places.expand(5, -1))
    with torch.inference_mode():
        found = engine._top(lean(ids, places.expand(5, -1), mask, None))
        assert torch.allclose(found, engine.model(ids).logits, atol=2e-5)
        alone = lean(ids[2:3], places[None], mask[:1], None)
        some = torch.randint(0, 23, (5, 3))
        asked = engine._top(lean(ids, places.expand(5, -1), mask, None, some))
    assert torch.equal(engine._top(alone)[0], found[2])
    assert torch.equal(asked, found[torch.arange(5)[:, None], some])
    assert self_test(engine, (64,))
    assert engine.remembers


def test_the_models_own_modules_keep_the_weights(tmp_path):
    """One copy in memory: the model's layers look into the joined products."""
    engine = engine_of(tmp_path, "LlamaForCausalLM")
    attention = engine.model.model.layers[0].self_attn
    joined = engine._lean.layers[0].asks.weight
    assert joined.untyped_storage().data_ptr() == attention.v_proj.weight.untyped_storage().data_ptr()
    assert torch.equal(
        torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]), joined
    )


@pytest.mark.parametrize("kind", sorted(OTHERS))
def test_other_models_run_as_transformers_runs_them(tmp_path, kind: str):
    engine = engine_of(tmp_path, kind, **OTHERS[kind])
    assert engine._lean is None
    draw = random.Random(0)
    rows = [
        Request(
            [draw.randrange(2, len(WORDS)) for _ in range(draw.randrange(1, 40))],
            20,
            ends_on=EOS,
            temperature=0.0,
        )
        for _ in range(9)
    ]
    engine.submit(rows)
    while engine.busy:
        engine.step(4)
    for row in rows:
        ids = torch.tensor([row.ids + row.new_ids])
        with torch.inference_mode():
            logits = engine.model(ids).logits[0, len(row.ids) - 1 : -1]
        best = logits.max(-1).values
        chosen = logits[torch.arange(len(row.new_ids)), row.new_ids]
        assert torch.all(best - chosen < 1e-4)  # the greedy token, or one as good


def test_a_model_that_does_something_more_is_left_alone(tmp_path):
    """Llama by name, with a norm of its own: the comparison tells."""
    engine = engine_of(tmp_path, "LlamaForCausalLM")
    assert cpu_forward_of(engine.model, engine._top, True) is not None
    norm = engine.model.model.layers[1].input_layernorm
    norm.register_forward_hook(lambda _, given, out: out + 0.5)
    assert cpu_forward_of(engine.model, engine._top, True) is None
