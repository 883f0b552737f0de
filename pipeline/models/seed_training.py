"""How a seed model is made and trained: examples of the rules in batches, embeddings of numbers that start as
their waves, Muon for matrices. What is learned stands in `seeds.py`, whose recipes decide every draw.
"""

from __future__ import annotations

import itertools
import math
import random
import re
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from pipeline.models import seed_talk
from pipeline.models.pause import added_to, paused

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    from pipeline.models.seeds import SeedRecipe

#: of numbers
PERIODS = (2, 3, 4, 5, 7, 9, 10, 13, 16, 20, 25, 32, 40, 50, 64, 80, 100, 128, 160, 200, 256, 400)
RATES = (0.5, 1, 2, 3, 4, 6, 8, 11, 15, 20)  #: turns of the logarithm up to 1000, for products
POOL = 16  #: batches drawn at once and cut by length, so that little is padded

Progress = Callable[[int, int, float], None]
Example = tuple[list[int], list[int]]  #: ids of prompt and completion; labels, -1 where nothing is learned


def examples(recipe: SeedRecipe, task: Any, tokenizer: PreTrainedTokenizerFast) -> Iterator[list[Example]]:
    """Endless batches of rule examples, each of nearly equal lengths."""
    draw = random.Random(recipe.hash)
    pause = added_to(tokenizer, recipe.pause)
    for pool in itertools.count():
        rows: list[Example] = []
        if talks := recipe.talk and pool * POOL >= seed_talk.FIRST * recipe.steps:
            rows = [seed_talk.row(recipe, task, tokenizer, draw) for _ in range(POOL * recipe.batch)]
        plain = 0 if talks else POOL * recipe.batch
        for question, pieces in (task.rule_example(draw) for _ in range(plain)):
            texts = tokenizer([task.prompt(question), *(text for text, _ in pieces)])["input_ids"]
            ids, labels = list(texts[0]), [-1] * len(texts[0])
            for piece, (_, learned) in zip(texts[1:], pieces, strict=True):
                ids += piece
                labels += piece if learned else [-1] * len(piece)
            row = [*ids, tokenizer.eos_token_id], [*labels, tokenizer.eos_token_id]
            rows.append(paused(row, len(texts[0]), pause, draw) if pause else row)
        rows.sort(key=lambda row: len(row[0]))
        batches = [rows[start : start + recipe.batch] for start in range(0, len(rows), recipe.batch)]
        draw.shuffle(batches)
        yield from batches


def new_model(recipe: SeedRecipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Untrained; number tokens start from Fourier features of their value and its logarithm."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from pipeline.models.seed_walks import start_looking_up

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        intermediate_size=recipe.inner,
        max_position_embeddings=recipe.context,
        rope_parameters={"rope_type": "default", "rope_theta": recipe.theta},
        attention_bias=recipe.back > 0,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        dtype="float32",
    )
    model = LlamaForCausalLM(config)
    if recipe.back:
        start_looking_up(model, recipe.back)
    embedding: torch.Tensor = model.lm_head.weight  # tied to the input embeddings
    with torch.no_grad():
        for word, number in tokenizer.get_vocab().items():
            if re.fullmatch(r" ?\d+", word):
                value = int(word)
                turns = [2 * math.pi * value / period for period in PERIODS]
                turns += [2 * math.pi * rate * math.log(max(value, 0.5)) / math.log(1000) for rate in RATES]
                waves = torch.tensor([wave(turn) for turn in turns for wave in (math.cos, math.sin)])
                waves = waves[: recipe.hidden * 5 // 8]  # the rest stays free to say other things
                embedding[number, : len(waves)] = 0.05 * waves
    return model


def train(
    recipe: SeedRecipe, task: Any, tokenizer: PreTrainedTokenizerFast, progress: Progress | None = None
) -> LlamaForCausalLM:
    """A model trained on the rules: cross-entropy of completions, cosine schedule down to 5 %."""
    import torch
    from torch.nn.functional import cross_entropy

    model = new_model(recipe, tokenizer)
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    momenta = [torch.zeros_like(p) for p in matrices]
    adam = torch.optim.AdamW(others, betas=(0.9, 0.99), weight_decay=0.0)
    began = time.monotonic()
    for step, (ids, labels, more) in zip(
        range(recipe.steps), _batches(recipe, task, tokenizer), strict=False
    ):
        schedule = min(1.0, (step + 1) / 20) * (0.525 + 0.475 * math.cos(math.pi * step / recipe.steps))
        hidden = model.model(ids, use_cache=False, **more).last_hidden_state[:, :-1]
        learned = labels[:, 1:] >= 0
        loss = cross_entropy(model.lm_head(hidden[learned]), labels[:, 1:][learned])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        muon_step(matrices, momenta, recipe.matrix_rate * schedule)
        for group in adam.param_groups:
            group["lr"] = recipe.rate * schedule
        adam.step()
        model.zero_grad()
        if progress is not None:
            done = step + 1
            progress(done, recipe.steps, (time.monotonic() - began) / done * (recipe.steps - done))
    return model.eval()


def _batches(
    recipe: SeedRecipe, task: Any, tokenizer: PreTrainedTokenizerFast
) -> Iterator[tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]]:
    """Ids, labels and what else the model is given: nothing, as padding stands on the right and all is
    causal; with several walks a question, their places and mask."""
    if recipe.walks > 1 or recipe.looks:
        from pipeline.models.seed_walks import batches

        yield from batches(recipe, task, tokenizer)
        return
    for rows in examples(recipe, task, tokenizer):
        yield (*_tensors(rows, tokenizer.pad_token_id), {})


def _tensors(rows: list[Example], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and labels [rows, longest]; a label is -1 at padding too."""
    import torch

    longest = max(len(ids) for ids, _ in rows)
    all_ids, all_labels = torch.full((len(rows), longest), pad), torch.full((len(rows), longest), -1)
    for row, (ids, labels) in enumerate(rows):
        all_ids[row, : len(ids)] = torch.tensor(ids)
        all_labels[row, : len(ids)] = torch.tensor(labels)
    return all_ids, all_labels


def muon_step(matrices: list[torch.nn.Parameter], momenta: list[torch.Tensor], rate: float) -> None:
    """One step of Muon, in fp32 (torch.optim.Muon works in bf16, which older processors emulate slowly).

    Matrices of one shape are orthogonalised together, by its Newton-Schulz iteration and coefficients.
    """
    import torch

    shapes, slopes = {p.shape for p in matrices}, {p: p.grad for p in matrices if p.grad is not None}
    with torch.no_grad():
        for shape in sorted(shapes):
            chosen = [(p, m) for p, m in zip(matrices, momenta, strict=True) if p.shape == shape]
            for parameter, momentum in chosen:
                momentum.lerp_(slopes[parameter], 0.05)
            update = torch.stack([slopes[p].lerp(m, 0.95) for p, m in chosen])
            tall = shape[0] > shape[1]
            x = update.mT if tall else update
            x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
            for _ in range(5):
                gram = x @ x.mT
                x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
            update = x.mT if tall else x
            for (parameter, _), change in zip(chosen, update, strict=True):
                parameter.add_(change, alpha=-rate * max(1.0, shape[0] / shape[1]) ** 0.5)
