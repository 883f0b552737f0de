"""How text becomes token ids: one rule for engines, selectors and trainers.

A prompt gets the tokenizer's own special tokens (a BOS, say) unless its text begins with them already; what a
chat template wrote is taken as it stands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from pipeline.errors import RecipeError
from pipeline.models.chat import chat_of


def encode_prompt(tokenizer: Any, text: str) -> list[int]:
    """The token ids of a prompt: start marks stand once."""
    bos = tokenizer.bos_token
    if (bos and text.startswith(bos)) or chat_of(tokenizer).asks(text):
        return list(tokenizer(text, add_special_tokens=False).input_ids)
    ids = list(tokenizer(text).input_ids)
    front = _front(tokenizer)
    for place in range(len(front)):
        if ids[len(front) :][: len(front) - place] == front[place:]:  # the text wrote these itself
            return front[:place] + ids[len(front) :]
    return ids


def _front(tokenizer: Any) -> list[int]:
    """The ids that a tokenizer puts in front of every text."""
    plain, whole = (list(tokenizer("a", add_special_tokens=add).input_ids) for add in (False, True))
    starts = (i for i in range(len(whole) - len(plain) + 1) if whole[i : i + len(plain)] == plain)
    return whole[: next(starts, 0)]


def pad_of(tokenizer: Any, size: int, others: Iterable[int] = ()) -> int:
    """A token to pad with that the embedding of `size` rows has: no row ever sees it."""
    for token in (tokenizer.pad_token_id, *others, tokenizer.eos_token_id):
        if token is not None and 0 <= token < size:
            return int(token)
    return 0


def require_embedded(ids: Iterable[int], size: int, tokenizer: Any, name: str) -> None:
    """Every id has a row in the embedding.

    Raises:
        RecipeError: a token that was added to the tokenizer and not to the model.
    """
    if (largest := max(ids, default=0)) >= size:
        token = tokenizer.convert_ids_to_tokens(int(largest))
        raise RecipeError(
            f"{name}: the tokenizer's token {token!r} is number {largest} and the model has {size}: it was "
            "added without model.resize_token_embeddings; use the tokenizer that belongs to these weights"
        )


@lru_cache(maxsize=8)
def encoder(folder: Path) -> Callable[[str], list[int]]:
    """`encode_prompt` with the tokenizer of a model folder."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    known = lru_cache(maxsize=1024)(lambda text: tuple(encode_prompt(tokenizer, text)))
    return lambda text: list(known(text))  # traces of a problem ask for one prompt
