"""Text to token ids and back, for one model: what the local and the server engine share. Free of torch."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.engine.endings import Endings, Rule, token_bytes, tokenizer_hash
from pipeline.engine.tokens import encode_prompt, pad_of, require_embedded
from pipeline.errors import RecipeError
from pipeline.models.chat import chat_of, render
from pipeline.models.pause import pause_of
from pipeline.vote import Kind


class Text:
    """A model's tokenizer, context and end tokens.

    Attributes:
        name: what messages call the model.
        context: tokens that prompt and completion may have together.
        eos_ids: ids that end a completion, the chat template's own end of a turn among them; ids that only
        pad are not.
        score_kind: what the scores are (`models/heads.py`).
        reads_whole: every row is read from its start at each token (`whole.py`).
    """

    reads_whole = False

    def __init__(
        self, folder: Path, config: Any, generation: Any, name: str, adapter: Path | None = None
    ) -> None:
        from transformers import AutoTokenizer

        self.name = name
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        text_config = config.get_text_config()
        self.context: int = int(getattr(text_config, "max_position_embeddings", None) or 1 << 20)
        found: list[int] = []
        for ids in (
            getattr(generation, "eos_token_id", None),
            text_config.eos_token_id,
            self.tokenizer.eos_token_id,
        ):
            found += ids if isinstance(ids, list) else [] if ids is None else [ids]
        turn = chat_of(self.tokenizer).end
        self.eos_ids: tuple[int, ...] = tuple(sorted({*found, *([] if turn is None else [turn])}))
        self.num_embedded = int(text_config.vocab_size)  #: ids that the model knows
        self.pad_id: int = pad_of(self.tokenizer, self.num_embedded, self.eos_ids)
        self.num_tokens = max(len(self.tokenizer), self.num_embedded)
        self.pause = pause_of(adapter, folder)  #: tokens that stand behind every prompt
        self.score_kind: Kind = "probability"
        self._encoded: dict[str, list[int]] = {}
        self._marks: set[str] = set()

    def new_memory(self, stem: str = "") -> Any:
        """What one search remembers of this model's reading, with what stands in front of its prompts; None:
        nothing, or the server does it.
        """
        return None

    def stem_memory(self, stem: str) -> Any:
        """What rows of many searches share: the reading of what stands in front of their prompts, and no
        more.
        """
        return None

    @functools.cached_property
    def texts(self) -> list[bytes]:
        """The bytes of each token id."""
        return token_bytes(self.tokenizer, self.num_tokens)

    @functools.cached_property
    def endings(self) -> Endings:
        """Where steps and answers end."""
        return Endings(self.texts, [i for i in self.eos_ids if i < self.num_tokens])

    @functools.cached_property
    def tokenizer_hash(self) -> str:
        """Names what the ids mean."""
        return tokenizer_hash(self.tokenizer)

    def rule(self, separator: str, stop: Sequence[str]) -> Rule:
        """Where rows of a task end."""
        return self.endings.rule(separator, stop)

    def encode(self, prompt: str) -> list[int]:
        """A prompt's ids, with the tokenizer's own start token unless the text has it, never with an end
        token, and behind them the pauses that the model was trained with.
        """
        ids = self.encode_text(prompt)
        return ids if self.pause is None else self.pause.after(ids)

    def encode_text(self, prompt: str) -> list[int]:
        """The same without pauses: of a text that goes on."""
        if prompt in self._encoded:
            return self._encoded[prompt]
        ids = encode_prompt(self.tokenizer, prompt)
        while ids and ids[-1] == self.tokenizer.eos_token_id and ids[-1] != self.tokenizer.bos_token_id:
            ids = ids[:-1]  # some tokenizers close every text
        require_embedded(ids, self.num_embedded, self.tokenizer, f"model {self.name}")
        if len(self._encoded) >= 4096:
            self._encoded.clear()
        self._encoded[prompt] = ids = ids or [self.pad_id]
        return ids

    def encode_more(self, text: str) -> list[int]:
        """The ids of a text that follows others."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []

    def require_mark(self, separator: str) -> None:
        """A reward model must be able to read the text that ends a step.

        Raises:
            RecipeError: its tokenizer lacks it.
        """
        if separator in self._marks:
            return
        seen = self.decode(self.encode_more(separator))
        if separator not in seen:
            raise RecipeError(
                f"model {self.name}: its tokenizer lacks the step mark {separator!r} (it reads {seen!r}), so "
                "it cannot see where a step ends; use a base whose tokenizer has it, or another separator"
            )
        self._marks.add(separator)

    def decode(self, ids: Sequence[int]) -> str:
        """The text that ids add to what stands before them; special tokens are left out."""
        size, texts = self.num_tokens, self.texts
        return b"".join([texts[i] for i in ids if i < size]).decode("utf-8", errors="replace")

    def render(self, messages: Sequence[dict[str, str]]) -> str | None:
        """Chat turns in the model's own template, ending where its answer begins; None where it has none.

        Raises:
            RecipeError: the template refuses these turns. UnsafeFile: it does not end, or reaches for what is
            not its own.
        """
        return render(self.tokenizer, messages, self.name) if self.tokenizer.chat_template else None
