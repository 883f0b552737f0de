"""The engine on a GPU against transformers' own forward and `generate`, on ten families; a policy's log-probabilities,
its adapter, a reward model's scores."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from gpu_world import gpu_engine, parted, written
from model_world import make_model, word_tokenizer

from pipeline.engine.batch import Batch
from pipeline.engine.cuda_batch import DeviceBatch, rows_of
from pipeline.engine.endings import EOS, LENGTH, STEP
from pipeline.engine.growth import Request
from pipeline.engine.local import Engine

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
#: family: what its configuration needs beside the tiny shape; whether it goes through few launches
FAMILIES = {
    "Llama": ({}, True),
    "Mistral": ({"sliding_window": None}, True),
    "Qwen2": ({}, True),
    "Qwen3": ({"head_dim": 16}, True),
    "Gemma": ({"head_dim": 16}, False),
    "Phi3": ({}, False),
    "Olmo2": ({}, False),
    "StableLm": ({}, False),
    "GPTNeoX": ({}, False),
    "Granite": ({}, False),
    "Gemma2": ({"head_dim": 16, "sliding_window": 8}, False),
}
CLOSE = {"float32": 1e-3, "bfloat16": 0.3}


def prompts(number: int, size: int = 40) -> list[list[int]]:
    draw = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 30, (number,), generator=draw).tolist()
    return [torch.randint(2, size, (length,), generator=draw).tolist() for length in lengths]


def mixed(engine: Engine, number: int) -> list[Request]:
    """Rows that differ in all that a row may."""
    rule = engine.rule("\n", ())
    return [
        Request(
            ids, 3 + i, seed=i, temperature=(1.0, 0.0, 0.7)[i % 3], top_k=(0, 0, 5, 0)[i % 4],
            top_p=(1.0, 1.0, 1.0, 0.8, 1.0)[i % 5], ends_on=EOS | (STEP if i % 2 else 0), state=rule.start,
        )
        for i, ids in enumerate(prompts(number))
    ]  # fmt: skip


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_are_those_of_generate(family: str, dtype: str, device: str, tmp_path: Path):
    more, few = FAMILIES[family]
    folder = make_model(tmp_path / family, word_tokenizer(), kind=f"{family}ForCausalLM", **more)
    engine = gpu_engine(folder, device, dtype=dtype, max_rows=8, name=family)
    assert (engine.fast is not None) == few
    equal, near = parted(engine, prompts(20), 24, CLOSE[dtype])
    assert equal > 100
    assert near <= (1 if dtype == "float32" else 12)
    if device == "cuda":
        assert all(batch.records and batch.graphs for batch in engine._batches.values()), (
            "no graph was recorded"
        )


@pytest.mark.gpu
def test_a_few_tokens_at_a_time_are_those_of_one_at_a_time(device: str, policy_folder: Path):
    engine = gpu_engine(policy_folder, device, dtype="float32", max_rows=16, name="policy")
    found = {}
    for name, few, at_once in (("few", True, 8), ("graph", False, 5), ("each", False, 1)):
        fast, engine.fast = engine.fast, engine.fast if few else None
        engine.batch_kind = Batch if name == "each" else DeviceBatch
        engine._batches.clear()
        found[name] = [(row.new_ids, row.flags) for row in written(engine, mixed(engine, 48), at_once)]
        engine.fast = fast
    for name in ("few", "graph"):
        assert sum(a == b for a, b in zip(found[name], found["each"], strict=True)) >= 46  # of 48: rounding
    assert {flags for _, flags in found["few"]} >= {EOS, STEP, LENGTH}


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_log_probabilities_and_scores_are_the_models_own(
    dtype: str, device: str, policy_folder: Path, prm_folder: Path
):
    near = 1e-4 if dtype == "float32" else 0.1
    policy = gpu_engine(policy_folder, device, dtype=dtype, name="policy")
    prm = gpu_engine(prm_folder, device, dtype=dtype, head="value", name="prm")
    several = [ids for ids in prompts(12) if len(ids) > 2]
    for ids, found in zip(several, policy.logprobs([(ids, 1) for ids in several]), strict=True):
        logits = policy.model(torch.tensor([ids], device=device)).logits[0].float().log_softmax(-1)
        wanted = logits[:-1].gather(-1, torch.tensor(ids[1:], device=device)[:, None])[:, 0]
        assert torch.allclose(torch.tensor(found), wanted.cpu(), atol=near)
    for row in written(policy, [Request(ids, 9, seed=i) for i, ids in enumerate(several)]):
        again = policy.logprobs([([*row.ids, *row.new_ids], len(row.ids))])[0]
        assert torch.allclose(torch.tensor(row.logprobs), torch.tensor(again), atol=near)
    for ids, found in zip(several, prm.score([(ids, range(len(ids))) for ids in several]), strict=True):
        wanted = prm.model(torch.tensor([ids], device=device)).logits[0, :, 0].float()
        assert torch.allclose(torch.tensor(found), wanted.cpu(), atol=near)


@pytest.mark.gpu
def test_an_adapter_merged_writes_what_the_adapter_writes(device: str, policy_folder: Path, tmp_path: Path):
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(3)
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(policy_folder), config).save_pretrained(tmp_path)
    engine = gpu_engine(policy_folder, device, adapter=tmp_path, dtype="float32", name="policy")
    plain = AutoModelForCausalLM.from_pretrained(policy_folder).to(device)
    engine.model = PeftModel.from_pretrained(plain, tmp_path).to(device).eval()  # what `parted` compares with
    equal, near = parted(engine, prompts(12), 16, CLOSE["float32"])
    assert equal > 60
    assert near <= 1


def test_rows_of_graphs():
    assert [rows_of(n) for n in (1, 2, 3, 9, 16, 17, 24, 25, 64, 65, 96, 97)] == [
        1, 2, 4, 12, 16, 24, 24, 32, 64, 96, 96, 128,
    ]  # fmt: skip


def test_the_gpu_batch_writes_the_bits_of_the_cpu_batch(policy_folder: Path):
    """In plain torch, with the model's own forward: whatever is asked for at once."""
    plain = Engine(policy_folder, max_rows=16, name="policy")
    wanted = [(row.new_ids, row.logprobs, row.flags) for row in written(plain, mixed(plain, 40), 4)]
    engine = gpu_engine(policy_folder, "cpu", max_rows=16, name="policy")
    fast, engine.fast = engine.fast, None
    for at_once in (1, 7, 40):
        found = [
            (row.new_ids, row.logprobs, row.flags) for row in written(engine, mixed(engine, 40), at_once)
        ]
        assert found == wanted
    engine.fast = fast
    found = [(row.new_ids, row.flags) for row in written(engine, mixed(engine, 40))]
    assert sum(a == (ids, flags) for a, (ids, _, flags) in zip(found, wanted, strict=True)) >= 39


def test_a_rule_made_on_the_way_is_followed(policy_folder: Path):
    engine = gpu_engine(policy_folder, "cpu", max_rows=8, name="policy")
    first = written(engine, [Request([5, 6], 20, seed=1, state=engine.rule("", ()).start)])[0]
    rules = [engine.rule("", (f"{i}",)) for i in range(12)]  # more than the tables had room for
    stop = next(i for i in range(12) if i in [token - 9 for token in first.new_ids]) if any(
        9 <= token < 21 for token in first.new_ids
    ) else None  # fmt: skip
    assert engine.tables.next.shape[1] < engine.endings.next.shape[1]
    again = written(engine, [Request([5, 6], 20, seed=1, ends_on=2, state=rules[stop or 0].start)])[0]
    assert again.new_ids == first.new_ids[: len(again.new_ids)]
    assert engine.tables.next.shape[1] >= engine.endings.next.shape[1]
    if stop is not None:
        assert again.flags == 2
