"""Small real worlds: a handful of rows of the real data sets, and a little Llama with its own BPE tokenizer that knows
some of them by heart. Trained in seconds on the spot; good for nothing else."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.rows import Problem
from pipeline.tasks import split_of
from pipeline.tasks.prepare import gather, render

DATA = Path(__file__).parents[2].parent / "shared" / "data"
GOES_ON = "\n\nQ:"  #: what a base model writes after few-shot examples instead of an end token
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def rows_of(task: Any, name: str, longest: int, counts: dict[str, int]) -> list[dict[str, Any]]:
    """The first short rows of a file of the shared data that fall into each split; skips where the data is not there."""
    path = DATA / name
    if not path.is_file():
        pytest.skip(f"shared/data/{name} is not beside this checkout")
    found: list[dict[str, Any]] = []
    left = dict(counts)
    with path.open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            split = split_of(task.read(row).question) if len(line) <= longest else ""
            if left.get(split):
                left[split] -= 1
                found.append(row)
            if not any(left.values()):
                return found
    raise AssertionError(f"{path}: too few rows of {longest} characters")


def chat(messages: Sequence[dict[str, str]]) -> str:
    """What TEMPLATE makes of chat turns that an answer follows."""
    return "".join(f"<|{turn['role']}|>{turn['content']}<eos>" for turn in messages) + "<|assistant|>"


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Rows as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def tokenizer_for(texts: Sequence[str], size: int = 1200) -> Any:
    """A byte-level BPE tokenizer of these texts, with an end token, a padding token and a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<pad>", "<eos>", "<|system|>", "<|user|>", "<|assistant|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", pad_token="<pad>")
    made.chat_template = TEMPLATE
    return made


def by_heart(folder: Path, pairs: Sequence[tuple[str, str]], steps: int, width: int = 64) -> Path:
    """A model folder whose policy gives each prompt its completion; an end token closes those without a stop text.

    One that ends with GOES_ON goes on like a base model does, and never ends by itself."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = tokenizer_for([p + c for p, c in pairs])
    rows = []
    for prompt, completion in pairs:
        prompt_ids, ids = tokenizer(prompt).input_ids, tokenizer(completion).input_ids
        rows.append((prompt_ids, ids if completion.endswith(GOES_ON) else [*ids, tokenizer.eos_token_id]))
    longest = max(len(p) + len(c) for p, c in rows)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=longest + 96,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    optimizer, rng = torch.optim.AdamW(model.parameters(), 4e-3, weight_decay=0.0), random.Random(0)
    for step in range(steps):
        batch = rng.sample(rows, min(8, len(rows)))
        most = max(len(p) + len(c) for p, c in batch)
        ids = torch.tensor([[*p, *c, *[0] * (most - len(p) - len(c))] for p, c in batch])
        labels = torch.tensor([[-100] * len(p) + c + [-100] * (most - len(p) - len(c)) for p, c in batch])
        for group in optimizer.param_groups:
            group["lr"] = 4e-3 * min(1.0, (step + 1) / 20) * (1 - 0.9 * step / steps)
        optimizer.zero_grad()
        model(input_ids=ids, attention_mask=(ids != 0).long(), labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def lessons(
    task: Any, told: Callable[[int, Problem, bool], str], hints: bool = True
) -> list[tuple[str, str]]:
    """(prompt that is used, completion) of every problem, plain and, with `hints`, hinted.

    told: what the model shall say, by the problem's place, the problem, and whether it is hinted."""
    pairs = []
    template = chat if task.settings.chat else None
    for place, problem in enumerate(gather([task]).problems):
        pairs.append((render(task, problem, template=template).prompt_used, told(place, problem, False)))
        if hints:
            hinted = render(task, problem, hint=True, template=template).prompt_used
            pairs.append((hinted, told(place, problem, True)))
    return pairs
