"""train/_folded: the same function and the same gradients as peft's own forward."""

from __future__ import annotations

from pathlib import Path

import pytest


def model_of(base: Path, **lora: object) -> object:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(3)
    config = LoraConfig(
        **{"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM", "init_lora_weights": False}
        | lora
    )
    return get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)


def test_outputs_and_gradients_agree(base: Path) -> None:
    import torch

    from pipeline.train._folded import fold

    ids = torch.arange(3, 23).view(2, 10)
    found = []
    for folded in (False, True):
        model = model_of(base)
        if folded:
            assert fold(model) == 14
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        with model.disable_adapter(), torch.no_grad():
            plain = model(input_ids=ids).logits
        grads = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
        found.append((loss.detach(), plain, grads))
    (loss, plain, grads), (folded_loss, folded_plain, folded_grads) = found
    torch.testing.assert_close(folded_loss, loss)
    torch.testing.assert_close(folded_plain, plain, rtol=0, atol=0)
    assert grads.keys() == folded_grads.keys()
    assert all(grad is not None for grad in grads.values())
    for name, grad in grads.items():
        torch.testing.assert_close(folded_grads[name], grad, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize(
    "lora", [{"lora_dropout": 0.1}, {"use_dora": True}, {"r": 1, "target_modules": ["gate_proj"]}]
)
def test_what_it_cannot_do_is_left_to_peft(base: Path, lora: dict) -> None:
    from pipeline.train._folded import fold

    assert fold(model_of(base, **lora)) == 0
