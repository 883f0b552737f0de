"""What is sampled from and exported is what was trained: merged models against peft's own forward."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import families
import pytest
import torch

from pipeline.errors import DamagedData, RecipeError

CPU = torch.device("cpu")
WAYS = {
    "embed": {"target_modules": ["q_proj", "embed_tokens"]},
    "saved_embed": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "saved_head": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "saved_both": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    "tokens": {"target_modules": ["q_proj"], "trainable_token_indices": [5, 50, 77]},
    "dora": {"use_dora": True},
    "rslora": {"use_rslora": True},
}


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def base(request, tmp_path_factory) -> Path:
    return families.make(tmp_path_factory.mktemp("base"), "llama", tie_word_embeddings=request.param)


def trained(base: Path, place: Path, lora: dict) -> Path:
    """A few steps of SFT, as a recipe would take them."""
    import family_matrix

    from pipeline.rows import Example
    from pipeline.train import sft

    rows = [
        Example(
            problem_id=str(i), trace_id=str(i), prompt="", completion="x", prompt_ids=[0, 5, 50, 77, 40 + i],
            completion_ids=[60 + 3 * i, 70 + i, 77, 5, 1],
        )
        for i in range(4)
    ]  # fmt: skip
    job = family_matrix._job(base, rows, place, {"r": 4, **lora})
    settings = {"steps": 6, "batch_size": 4, "learning_rate": 2e-2, "max_length": 64}
    sft.train(job, sft.Settings.model_validate(settings))
    return job.out


@pytest.mark.parametrize("way", WAYS)
def test_merged_is_what_peft_runs(base, tmp_path, way):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from pipeline.models.load import load
    from pipeline.models.registry import merge

    adapter = trained(base, tmp_path, WAYS[way])
    ids = torch.tensor([[0, 5, 50, 77, 43, 69, 73, 77, 5, 1, 120, 121, 122]])
    own = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with torch.no_grad():
        before = own(ids).logits
        peft = PeftModel.from_pretrained(own, adapter).eval()(ids).logits
        ours = load(base, adapter, None, torch.float32, CPU)(ids).logits
        merge(base, adapter, None, tmp_path / "merged", {})
        exported = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)(ids).logits
    assert (peft - before).abs().max() > 0.1  # it learned
    torch.testing.assert_close(ours, peft, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(exported, peft, rtol=1e-4, atol=1e-3)


def test_an_adapter_of_another_base_is_refused(base, tmp_path):
    from pipeline.models.load import load

    adapter = trained(base, tmp_path, {})
    other = families.make(tmp_path / "other", "llama", num_hidden_layers=1)
    with pytest.raises(DamagedData, match="no place in the base|cannot put it on"):
        load(other, adapter, None, torch.float32, CPU)


def test_an_adapter_that_peft_reads_otherwise_than_merged_is_refused(base, tmp_path, monkeypatch):
    """peft's own merge is changed: nothing else can make the two differ on purpose."""
    from peft.tuners.lora import Linear

    from pipeline.models.load import load

    adapter = trained(base, tmp_path, {})
    whole = Linear.get_delta_weight
    monkeypatch.setattr(Linear, "get_delta_weight", lambda self, name: 2 * whole(self, name))
    with pytest.raises(DamagedData, match="not the model that peft runs"):
        load(base, adapter, None, torch.float32, CPU)


@pytest.mark.parametrize(
    "lora", [{"target_modules": ["q_proj", "lm_head"]}, {"target_modules": ".*(q_proj|lm_head)"}]
)
def test_an_adapter_on_the_head_is_refused_before_training(base, tmp_path, lora):
    with pytest.raises(RecipeError, match="modules_to_save"):
        trained(base, tmp_path, lora)


def test_a_recipe_that_adapts_the_head_is_refused_by_check(tmp_path, tiny):
    from tiny_world import recipe_data

    from pipeline.recipe.read import build

    data = recipe_data(tiny)
    data["models"]["policy"]["lora"] = {"r": 4, "target_modules": ["q_proj", "lm_head"]}
    with pytest.raises(RecipeError, match=r"models.policy.lora.target_modules: lm_head"):
        build(data)


def test_layers_whose_weights_are_read_directly_take_no_adapter(tmp_path):
    folder = families.make(tmp_path / "mamba", "mamba")
    with pytest.raises(RecipeError, match="reads the weights"):
        trained(folder, tmp_path, {"target_modules": ["in_proj", "dt_proj"]})


def test_what_no_adapter_reaches_is_said(tmp_path):
    import family_matrix

    from pipeline.rows import Example
    from pipeline.train import sft

    folder, said = families.make(tmp_path / "moe", "qwen2_moe"), []
    rows = [
        Example(
            problem_id="0", trace_id="0", prompt="", completion="x", prompt_ids=[0], completion_ids=[60, 1]
        )
    ]
    job = family_matrix._job(folder, rows, tmp_path, {"r": 2, "target_modules": ["q_proj"]}, say=said.append)
    sft.train(job, sft.Settings.model_validate({"steps": 1, "batch_size": 1, "max_length": 64}))
    (share,) = [text for text in said if "LoRA reaches" in text]
    assert "experts 54%" in share  # 36,864 stacked and 14,000 shared of 94,224
    names = json.loads((job.out / "adapter_config.json").read_text())
    assert not names["target_parameters"]
    shutil.rmtree(job.out)


def test_in_bfloat16_too_and_rounding_is_no_fault(base, tmp_path):
    from pipeline.models.load import load

    adapter = trained(base, tmp_path, {"target_modules": "all-linear"})
    ids = torch.tensor([[0, 5, 50, 77, 43]])
    with torch.no_grad():
        before = load(base, None, None, torch.bfloat16, CPU)(ids).logits.float()
        exact = load(base, adapter, None, torch.float32, CPU)(ids).logits
        merged = load(base, adapter, None, torch.bfloat16, CPU)(ids).logits.float()
    assert (merged - exact).pow(2).mean() < 0.1 * (before - exact).pow(
        2
    ).mean()  # it is the adapter that acts


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_an_adapter_that_is_never_used_is_told_in_every_precision(dtype):
    from pipeline.models.merged import is_off

    draw = torch.Generator().manual_seed(0)
    before = torch.randn(1, 13, 500, generator=draw)
    trained = before + 0.2 * torch.randn(1, 13, 500, generator=draw)
    assert is_off(before, trained, before, dtype) > 0.1
    assert is_off(before, trained, trained, dtype) == 0
    rounded = trained + {torch.float32: 1e-5, torch.bfloat16: 0.03, torch.float16: 5e-3}[dtype] * before
    assert is_off(before, trained, rounded, dtype) == 0
