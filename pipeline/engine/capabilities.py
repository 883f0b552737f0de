"""What a server can do, found out once when it is connected to, by asking it: nothing is decided by the text
of a later error.

Asked for: its models, prompts as token ids, token ids and log-probabilities of what it wrote, those of a
prompt, whether a text that stops it is shown, and each optional field by itself where all together are
refused (`transformers serve` answers 422 to any field that it does not know). What it cannot do is left out,
or paid for here, or told in one sentence by `ServerEngine`, which knows what the recipe needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.engine.connection import Connection, Refused, ServerLost, shown
from pipeline.engine.replies import Choice, Completion, Models, Served, Version
from pipeline.errors import RecipeError, nearest, printable

#: fields beyond OpenAI's own, with values under which they change nothing
OPTIONAL: dict[str, Any] = {
    "top_k": -1,
    "min_p": 0.0,  # llama.cpp's default is 0.05
    "repetition_penalty": 1.0,  # vLLM takes the model's own generation_config where nothing is said
    "return_token_ids": True,
    "include_stop_str_in_output": True,
    "prompt_logprobs": 0,
    "logprobs": 1,
    "generation_config": "{}",
}
PROBE_TOKENS = 12


@dataclass(frozen=True)
class Capabilities:
    """Of one server, or of several that agree."""

    kind: str  #: vLLM 0.32.0, llama.cpp, transformers serve, ...
    model: str  #: as the server calls the base
    fields: frozenset[str]  #: of OPTIONAL, those that it takes
    takes_ids: bool  #: prompts as token ids
    gives_ids: bool  #: the ids of what it wrote; else its text is tokenised here
    logprobs: bool  #: of what it wrote
    reads: bool  #: of a prompt: scoring
    stops: bool  #: it shows the text that stopped it; else rows are cut here, and pay their whole limit
    whole_config: bool  #: samples only as a `generation_config` says (transformers serve)
    context: int | None  #: tokens, where it says
    wrote: tuple[tuple[int, float], ...] = ()  #: token ids and log-probabilities that follow the fixed row

    def sentence(self) -> str:
        """What a person should know."""
        lacks = [
            text
            for has, text in (
                (self.takes_ids, "prompts go as text"),
                (self.gives_ids, "what it writes is tokenised here"),
                (self.logprobs, "log-probabilities are unknown"),
                (self.reads, "it cannot score"),
                (self.stops, "steps are cut here and pay their whole limit"),
            )
            if not has
        ]
        return f"{self.kind}, {printable(self.model)}: " + (
            "; ".join(lacks) or "token ids, log-probabilities and scoring"
        )


def find_out(
    link: Connection, url: str, wanted: str, folder: str, ids: Sequence[int], text: str
) -> Capabilities:
    """Ask one server. wanted: the model's name there, "" for the only one. ids and text: one fixed row.

    Raises:
        RecipeError: it has no such model, or completes nothing. ServerLost: it gives no good answer.
    """
    served = _model(link, url, wanted, folder)
    plain_body = {"model": served.id, "max_tokens": PROBE_TOKENS, "temperature": 0, "top_p": 1.0, "seed": 1}
    try:
        _first(link, url, {**plain_body, "prompt": text})
    except Refused as problem:
        raise RecipeError(
            f"model {link.name}: server {shown(url)} completes nothing for model {printable(served.id)}: "
            f"{problem}. Say its name there with models.{link.name}.engine.model, and a key with "
            "engine.api_key_env"
        ) from None
    fields = _fields(link, url, {**plain_body, "prompt": text})
    extra = {key: OPTIONAL[key] for key in fields if key != "generation_config"}
    try:
        told = _first(link, url, {**plain_body, **extra, "prompt": list(ids)})
        takes_ids = told.prompt_logprobs is None or len(told.prompt_logprobs) == len(ids)
    except Refused:
        takes_ids = False
    prompt: Any = list(ids) if takes_ids else text
    whole = {**plain_body, **extra, "prompt": prompt}
    for num in (PROBE_TOKENS, 3, 2, 1):  # as many as are told whole
        answer: Completion = link.ask(url, "/v1/completions", Completion, {**whole, "max_tokens": num})
        told = answer.choices[0]
        if not answer.lossy:
            break
    gives = told.ids is not None and len(told.ids) <= PROBE_TOKENS
    values = told.values
    return Capabilities(
        kind=_kind(link, url, served, fields),
        model=served.id,
        fields=fields,
        takes_ids=takes_ids,
        gives_ids=gives,
        logprobs=gives and values is not None and len(values) == len(told.ids or []),
        reads=takes_ids and told.read(list(ids), 1) is not None,
        stops=_stops(link, url, {**plain_body, **extra}, prompt),
        whole_config="generation_config" in fields and "return_token_ids" not in fields,
        context=served.max_model_len or (served.meta.n_ctx if served.meta else None),
        wrote=() if answer.lossy else tuple(zip(told.ids or (), values or (), strict=False)),
    )


def _first(link: Connection, url: str, body: dict[str, Any]) -> Choice:
    answer: Completion = link.ask(url, "/v1/completions", Completion, body)
    return answer.choices[0]


def _model(link: Connection, url: str, wanted: str, folder: str) -> Served:
    """Which of a server's models is the base: `wanted`, the only one, or the one of its folder."""
    try:
        found: Models = link.ask(url, "/v1/models", Models)
        bases = [one for one in found.data if not one.parent]
    except (Refused, ServerLost) as problem:
        if isinstance(problem, ServerLost) and problem.code < 400:
            raise
        if not wanted:
            raise RecipeError(
                f"model {link.name}: server {shown(url)} lists no models: {problem}. Say the name there with "
                f"models.{link.name}.engine.model"
            ) from None
        return _unlisted(wanted)
    named = {one.id: one for one in bases}
    if wanted:
        if wanted not in named and named:
            raise RecipeError(
                f"model {link.name}: server {shown(url)} has no model {wanted!r}{nearest(wanted, named)}"
            )
        return named.get(wanted) or _unlisted(wanted)
    ours = [one for one in bases if folder in (one.id, one.root)]
    if len(bases) == 1 or len(ours) == 1:
        return (ours or bases)[0]
    names = ", ".join(printable(one.id, 60) for one in bases[:8]) or "none"
    raise RecipeError(
        f"model {link.name}: server {shown(url)} lists {len(bases)} models ({names}); say which is the base "
        f"with models.{link.name}.engine.model"
    )


def _unlisted(name: str) -> Served:
    return Served(id=name, max_model_len=None)


def _fields(link: Connection, url: str, body: dict[str, Any]) -> frozenset[str]:
    """The optional fields that it takes: all together, else one by one."""
    short = {**body, "max_tokens": 1}
    try:
        _first(link, url, {**short, **{k: v for k, v in OPTIONAL.items() if k != "generation_config"}})
        return frozenset(OPTIONAL) - {"generation_config"}
    except Refused:
        pass
    taken = set()
    for key, value in OPTIONAL.items():
        try:
            _first(link, url, {**short, key: value})
            taken.add(key)
        except Refused:
            continue
    return frozenset(taken)


def _stops(link: Connection, url: str, body: dict[str, Any], prompt: Any) -> bool:
    """Does a text that stops it stand in what it gives? Tried with a character of its own greedy text after
    the row, or after less of it where it writes nothing."""
    for size in (len(prompt), *range(2, len(prompt), 3)):
        shorter = {**body, "prompt": prompt[:size]}
        text = _first(link, url, shorter).text
        marks = [
            c for at, c in enumerate(text) if at and c.isascii() and c.isprintable() and c not in text[:at]
        ]
        if marks:
            try:
                return marks[0] in _first(link, url, {**shorter, "stop": [marks[0]]}).text
            except (Refused, ServerLost) as problem:
                if isinstance(problem, ServerLost) and problem.code < 500:
                    raise
                return False  # transformers fails (500) at stops with tokenizers that lack letters
    return False


def _kind(link: Connection, url: str, served: Served, fields: frozenset[str]) -> str:
    """Its name, for people; nothing is decided by it."""
    if "generation_config" in fields and "return_token_ids" not in fields:
        return "transformers serve"
    if served.owned_by == "vllm":
        try:
            version: Version = link.ask(url, "/version", Version)
            return f"vLLM {printable(version.version, 40)}"
        except (Refused, ServerLost):
            return "vLLM"
    known = {"llamacpp": "llama.cpp", "sglang": "SGLang", "": "a server of unknown kind"}
    owner = served.owned_by or ""
    return known.get(owner, printable(owner, 40))
