"""Seed training with several completions of a question side by side, which read its prompt once.

A walk by random rules says little of the rules that it did not take. Several walks through one question do,
and since they share the prompt, six cost hardly twice the tokens of one. Each row is the prompt without its
last token, then for each walk that last token and the walk; a walk's places go on from the prompt's, and it
sees the prompt and itself alone. So every logit is that of prompt and walk by themselves
(`tests/models/test_seed_walks.py`). Beside the walks stand looks: a kind that is read and one rule of it that
is learned, so that each rule of a question is asked for and not only those near its fact.

To look a rule up is what an induction head does (Olsson et al. 2022, arXiv:2209.11895): a head of one layer
writes to each token what stood before it, a head of the next finds the token behind the one in hand. Neither
helps without the other, and within what a seed may cost they did not form, so some heads start out as such
pairs (`start_looking_up`; to let attention start from structure instead of noise: Trockman and Kolter 2023,
arXiv:2305.09828). No word of the task is in them: what is copied from where they look is learned, as are the
chain and its end.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.errors import RecipeError

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

REACH = 6  #: pairs of a head's numbers, the fastest to turn, that find the token before
PULL = 6.5  #: their size: the token before weighs some 100 times its neighbours
CARRIED = 0.05  #: what stood before is written about as large as a token's own embedding
SHARP = 1.2  #: of the heads that compare: one that matches among a hundred tokens gets nearly all the weight
POOL = 16  #: batches drawn at once and cut by length, so that little is padded


@dataclass(frozen=True)
class PackedRow:
    """One question with its walks. labels: -1 where nothing is learned. walk: 0 in the prompt, then 1, 2."""

    ids: list[int]
    labels: list[int]
    places: list[int]
    walk: list[int]


def row_of(
    prompt: list[int], walks: list[list[int]], looks: Sequence[tuple[list[int], list[int]]] = ()
) -> PackedRow:
    """The prompt's ids, each walk's with its end token, and of each look what is read and what is learned."""
    shared, last = prompt[:-1], prompt[-1]
    ids, labels, places, number = (
        list(shared),
        [-1] * len(shared),
        list(range(len(shared))),
        [0] * len(shared),
    )
    beside: list[tuple[list[int], list[int]]] = [([], walk) for walk in walks] + list(looks)
    for count, (read, learned) in enumerate(beside, 1):
        ids += [last, *read, *learned]
        labels += [-1] * (1 + len(read)) + learned
        places += range(len(shared), len(prompt) + len(read) + len(learned))
        number += [count] * (1 + len(read) + len(learned))
    return PackedRow(ids, labels, places, number)


def batches(
    recipe: Any, task: Any, tokenizer: PreTrainedTokenizerFast
) -> Iterator[tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]]:
    """Endless batches of rule walks, the first `easy` of small worlds: ids, labels, places and mask."""
    draw = random.Random(recipe.hash)
    for drawn in itertools.count(0, POOL):
        rows: list[PackedRow] = []
        for _ in range(POOL * recipe.batch):
            question, walks = task.rule_walks(draw, recipe.walks, small=drawn < recipe.easy)
            looks = task.rule_looks(draw, question)[: recipe.looks] if recipe.looks else []
            texts = [task.prompt(question), *walks, *(text for look in looks for text in look)]
            prompt, *ids = tokenizer(texts)["input_ids"]
            ends = [[*walk, tokenizer.eos_token_id] for walk in ids[: len(walks)]]
            parts = iter(ids[len(walks) :])
            rows.append(row_of(prompt, ends, list(zip(parts, parts, strict=True))))
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


def start_looking_up(model: LlamaForCausalLM, heads: int) -> None:
    """Let so many heads of the first two layers start out as induction heads.

    In the first layer queries and keys have a bias each, which turn with their places: their product depends
    on how far apart they are, and as the key's is turned by one place more, it is greatest one token back.
    What is read there is written beside what the token itself says, and compared by the second layer's heads
    with the token in hand, by numbers that hardly turn with the distance.

    Raises:
        RecipeError: there are fewer heads or layers, or they are too small.
    """
    import torch

    config = model.config
    wide = config.hidden_size
    size = wide // config.num_attention_heads
    half = size // 2
    if heads > config.num_attention_heads or half <= REACH or config.num_hidden_layers < 2:
        raise RecipeError(
            f"base: back={heads} with heads={config.num_attention_heads}, hidden={wide}, "
            f"layers={config.num_hidden_layers}: lookups need two layers, so many heads or more in each, and "
            f"more than {2 * REACH} numbers a head, which has hidden / heads"
        )
    turns = model.model.rotary_emb.inv_freq[:REACH]
    slow = [*range(REACH, half), *range(half + REACH, size)]  #: numbers that hardly turn
    first, second = (layer.self_attn for layer in model.model.layers[:2])
    with torch.no_grad():
        for start in range(0, heads * size, size):
            first.q_proj.bias[start : start + REACH] = PULL
            first.k_proj.bias[start : start + REACH] = PULL * turns.cos()
            first.k_proj.bias[start + half : start + half + REACH] = PULL * turns.sin()
            at = [start + one for one in slow]
            read, write = torch.nn.init.orthogonal_(torch.empty(2 * len(slow), wide)).split(len(slow))
            first.v_proj.weight[at], first.o_proj.weight[:, at] = read, CARRIED * write.T
            second.q_proj.weight[at], second.k_proj.weight[at] = SHARP * read, SHARP * write
