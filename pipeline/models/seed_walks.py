"""Seed training with several completions of a question side by side, which read its prompt once.

A walk by random rules says little of the rules that it did not take. Several walks through one question do,
and since they share the prompt, six cost hardly twice the tokens of one. Each row is the prompt without its
last token, then for each walk that last token and the walk; a walk's places go on from the prompt's, and it
sees the prompt and itself alone. So every logit is that of prompt and walk by themselves
(`tests/models/test_seed_walks.py`).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast

POOL = 16  #: batches drawn at once and cut by length, so that little is padded


@dataclass(frozen=True)
class PackedRow:
    """One question with its walks. labels: -1 where nothing is learned. walk: 0 in the prompt, then 1, 2."""

    ids: list[int]
    labels: list[int]
    places: list[int]
    walk: list[int]


def row_of(prompt: list[int], walks: list[list[int]]) -> PackedRow:
    """The prompt's ids and each walk's, with its end token."""
    shared, last = prompt[:-1], prompt[-1]
    ids, labels, places, number = (
        list(shared),
        [-1] * len(shared),
        list(range(len(shared))),
        [0] * len(shared),
    )
    for count, walk in enumerate(walks, 1):
        ids += [last, *walk]
        labels += [-1, *walk]
        places += range(len(shared), len(prompt) + len(walk))
        number += [count] * (1 + len(walk))
    return PackedRow(ids, labels, places, number)


def batches(
    recipe: Any, task: Any, tokenizer: PreTrainedTokenizerFast
) -> Iterator[tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]]:
    """Endless batches of rule walks: ids, labels, places and mask."""
    draw = random.Random(recipe.hash)
    while True:
        rows: list[PackedRow] = []
        for _ in range(POOL * recipe.batch):
            question, walks = task.rule_walks(draw, recipe.walks)
            prompt, *texts = tokenizer([task.prompt(question), *walks])["input_ids"]
            rows.append(row_of(prompt, [[*ids, tokenizer.eos_token_id] for ids in texts]))
        rows.sort(key=lambda row: len(row.ids))
        cut = [rows[start : start + recipe.batch] for start in range(0, len(rows), recipe.batch)]
        draw.shuffle(cut)
        yield from (tensors(each, tokenizer.pad_token_id) for each in cut)


def tensors(rows: list[PackedRow], pad: int) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Ids and labels [rows, longest], and what the model is given beside: places, mask [rows, 1, longest,
    longest] with 0 where a token may look."""
    import torch

    longest = max(len(row.ids) for row in rows)

    def filled(name: str, value: int) -> torch.Tensor:
        return torch.tensor([getattr(r, name) + [value] * (longest - len(r.ids)) for r in rows])

    walk = filled("walk", -1)
    ahead = torch.ones(longest, longest, dtype=torch.bool).tril()
    seen = ahead & ((walk[:, None, :] == 0) | (walk[:, :, None] == walk[:, None, :]))
    mask = torch.zeros(len(rows), 1, longest, longest).masked_fill(~seen[:, None], float("-inf"))
    return (
        filled("ids", pad),
        filled("labels", -1),
        {"position_ids": filled("places", 0), "attention_mask": mask},
    )
