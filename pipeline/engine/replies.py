"""What a server may answer, as pydantic shapes: every reply is held against one before anything reads it.

Unknown keys are ignored, since servers add their own; a key that is read has its type, its range and no value
that is not finite.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

#: a log-probability; a trace above zero is rounding
Logprob = Annotated[float, Field(le=0.01, allow_inf_nan=False)]
TokenId = Annotated[int, Field(ge=0, lt=1 << 31)]


class Reply(BaseModel):
    """The base of every shape."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")


class Served(Reply):
    """A model that a server lists. vLLM lists loaded adapters too, with their `parent`."""

    id: str = Field(min_length=1, max_length=4096)
    owned_by: str | None = None
    root: str | None = None
    parent: str | None = None
    max_model_len: int | None = Field(None, ge=1)
    meta: Meta | None = None


class Meta(Reply):
    """What llama.cpp says of its model."""

    n_ctx: int | None = Field(None, ge=1)


class Models(Reply):
    """`GET /v1/models`."""

    data: list[Served]


class Version(Reply):
    """`GET /version`, as vLLM has it."""

    version: str = Field(max_length=100)


class Seen(Reply):
    """A written token, as llama.cpp tells it."""

    id: TokenId
    logprob: Logprob


class Read(Reply):
    """One entry of vLLM's `prompt_logprobs`."""

    logprob: Logprob


class Logprobs(Reply):
    """Of the written tokens: the legacy list, or llama.cpp's objects."""

    token_logprobs: list[Logprob | None] | None = None
    content: list[Seen] | None = None


class Choice(Reply):
    """One completion."""

    text: str
    finish_reason: str | None = None
    stop_reason: str | int | None = None  #: vLLM: the text that stopped it
    token_ids: list[TokenId] | None = None
    logprobs: Logprobs | None = None
    prompt_logprobs: list[dict[str, Read] | None] | None = None

    @property
    def ids(self) -> list[int] | None:
        """The written tokens, where the server tells them."""
        if self.token_ids is None and self.logprobs is not None and self.logprobs.content is not None:
            return [one.id for one in self.logprobs.content]
        return self.token_ids

    @property
    def values(self) -> list[float] | None:
        """Their log-probabilities, where the server tells all of them."""
        if self.logprobs is None:
            return None
        if self.logprobs.content is not None:
            return [one.logprob for one in self.logprobs.content]
        found = self.logprobs.token_logprobs
        return [x for x in found if x is not None] if found and None not in found else None

    def read(self, ids: list[int], start: int) -> list[float] | None:
        """The log-probabilities of the prompt's tokens from `start` on, where the server tells them all."""
        found = self.prompt_logprobs
        if found is None or len(found) != len(ids):
            return None
        entries = [(found[i] or {}).get(str(ids[i])) for i in range(start, len(ids))]
        return None if None in entries else [entry.logprob for entry in entries if entry is not None]


class Usage(Reply):
    """What was written, by the server's count."""

    completion_tokens: int | None = None


class Completion(Reply):
    """`POST /v1/completions`."""

    choices: list[Choice] = Field(min_length=1, max_length=64)
    usage: Usage | None = None

    @property
    def lossy(self) -> bool:
        """llama.cpp leaves out tokens that end inside a character: then only the text is whole."""
        told = self.choices[0].logprobs
        if told is None or told.content is None or self.usage is None or self.usage.completion_tokens is None:
            return False
        return len(told.content) != self.usage.completion_tokens


Served.model_rebuild()
