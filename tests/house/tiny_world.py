"""The tiny world: a policy trained on the spot to know a few countdown problems by heart, and a recipe for it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

SETTINGS = {"use": "countdown", "train": 40, "dev": 12, "test": 12, "max_tokens": 60}


def recipe_data(base: Path | str, **more: Any) -> dict[str, Any]:
    """Two rounds of ReST-EM on the tiny policy, a few seconds in all."""
    return {
        "name": "tiny",
        "wandb": {
            "mode": "disabled"
        },  # tests/report has the mirror; here its child would write into copied folders
        "task": dict(SETTINGS),
        "models": {
            "policy": {
                "base": str(base),
                "lora": {"r": 4},
                "gate": {"metric": "measure/accuracy/greedy", "margin": 0.02},
            }
        },
        "rounds": 2,
        "stages": {
            "sample": {"generate": "sample", "by": "policy", "n": 3, "chunk": 16},
            "check": {"label": "outcome", "from": "sample"},
            "rows": {"select": "correct", "from": "check", "max_per_problem": 2, "mix": "all_rounds"},
            "learn": {"train": "sft", "model": "policy", "from": "rows", "steps": 4, "batch_size": 8},
            "measure": {"evaluate": "accuracy", "of": "policy", "split": "dev", "samples": 2},
        },
        "finally": {
            "final": {"evaluate": "accuracy", "of": ["policy", "policy@0"], "split": "test", "samples": 2},
        },
        **more,
    }


def make_policy(folder: Path) -> Path:
    """A 2-layer Llama that solves most of the 40 training problems and few others, trained on the spot in seconds."""
    import torch
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from pipeline.recipe.methods import method

    module = method("tasks", "countdown")
    task = module.Task(module.Settings(**SETTINGS))
    words = ["<pad>", "<eos>", "\n", *map(str, range(10)), *"+-*/=,; ", "numbers", "target", "hint", "left"]
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"numbers|target|hint|left|\d|\s|[^\s\w]"), "isolated")
    core.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", pad_token="<pad>")
    from pipeline.tasks.prepare import gather

    problems = [p for p in gather([task]).problems if p.split == "train"]
    rows = [
        tokenizer(task.prompt(p.question) + (task.gold_completion(p) or "")).input_ids + [1] for p in problems
    ]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=256, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    optimizer, rng = torch.optim.AdamW(model.parameters(), 3e-3), random.Random(0)
    for _ in range(350):
        batch = rng.sample(rows, 16)
        width = max(map(len, batch))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in batch])
        loss = model(
            input_ids=ids, attention_mask=(ids != 0).long(), labels=ids.masked_fill(ids == 0, -100)
        ).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
