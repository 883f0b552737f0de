"""How text becomes token ids: one rule for engines, selectors and trainers.

A prompt gets the tokenizer's own special tokens (a BOS, say) unless its template wrote them already.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any


def encode_prompt(tokenizer: Any, text: str) -> list[int]:
    """The token ids of a prompt."""
    bos = tokenizer.bos_token
    return list(tokenizer(text, add_special_tokens=not (bos and text.startswith(bos))).input_ids)


@lru_cache(maxsize=8)
def encoder(folder: Path) -> Callable[[str], list[int]]:
    """`encode_prompt` with the tokenizer of a model folder."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    return lambda text: encode_prompt(tokenizer, text)
