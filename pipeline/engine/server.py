"""An engine over OpenAI-compatible servers (`engine: {server: [urls]}`), for models too big for this process.

The servers hold the base model; an adapter is loaded by name, a new name for each version, so a server's
prefix cache never serves an older one. What a server can do is found out when it is connected to
(`capabilities.py`); that it holds our base, and after each load that the adapter changes its answers as it
changes ours, is seen by the log-probabilities of one row (`agreement.py`). docs/servers.md says what was
tried.

Bits are the server's own affair: a run that uses one is reproducible in distribution only. It does not serve
value heads: no server reads a scalar at each step's end of an ordinary folder; `head: token` needs none.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.engine.agreement import Agreement, load_adapter, try_adapters
from pipeline.engine.capabilities import Capabilities, find_out
from pipeline.engine.connection import SECONDS, Connection, Refused, shown
from pipeline.engine.endings import EOS, LENGTH, STEP, STOP, sign_tokens
from pipeline.engine.growth import Request
from pipeline.engine.ratio import beta_of, finite, partial_sums
from pipeline.engine.replies import Completion
from pipeline.engine.text import Text
from pipeline.errors import Diverged, RecipeError
from pipeline.models.heads import head_of, score_kind
from pipeline.models.reference import TEXT, fixed_row

SEEDS = 2**31  #: llama.cpp takes 32 bits, its largest for "any"
_known: dict[tuple[Any, ...], Capabilities] = {}  #: what a process has found out


class ServerEngine(Text):
    """The driver's view of a served model. `max_rows` requests are under way at a time, over all servers
    in turn.
    """

    exact = False

    def __init__(
        self,
        folder: Path,
        adapter: Path | None = None,
        *,
        servers: Sequence[str],
        head: str | None = None,
        max_rows: int = 512,
        weights_hash: str = "",
        name: str = "",
        model: str = "",
        api_key_env: str = "",
        timeout: float = SECONDS,
        pause: float = 1.0,
        lora: dict[str, Any] | None = None,
        scratch: Path | None = None,
        verify: bool = True,
    ) -> None:
        """Connect, find out, and load the adapter under a name made of `name` and `weights_hash`.

        model: the base's name on the servers. timeout: seconds for one answer. lora: the recipe trains this
        model so: an adapter of zeros, below `scratch`, says whether they will load it. verify: one process
        of a run holds base and adapter against its own forward.

        Raises:
            RecipeError: no server, a value head, something that the recipe needs and a server cannot do,
                another base, or an adapter that it does not load or that does not act as it does here.
            ServerLost: a server gives no good answer.
        """
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(folder)
        super().__init__(Path(folder), config, None, name or Path(folder).name, adapter)
        self._require_servable(head, adapter)
        self.head, self.weights_hash = head, weights_hash
        self.score_kind = score_kind(head, adapter, Path(folder))
        self._signs = sign_tokens(self.tokenizer, self.name) if head == "token" else None
        self._ratio = (adapter, Path(folder)) if head_of(head).reads == "ratio" else None
        limits: dict[str, Any] = {"max_rows": max_rows, "seconds": timeout, "pause": pause}
        self._link = Connection(self.name, servers, api_key_env=api_key_env, **limits)
        self._turn = itertools.cycle(self._link.urls)
        row = fixed_row(self.encode, self.num_tokens)
        self.can = self._find_out(model, Path(folder), row)
        self.context = min(self.context, self.can.context or self.context)
        self._model = self.can.model
        self._running: dict[Future[Completion], Request] = {}
        self._require(head)
        #: what a person should know of this server, a sentence each
        self.notes = [f"served by {self.can.sentence()}"]
        agreement = Agreement(self, Path(folder), row) if verify else None
        if agreement:
            self.notes += agreement.check_base(self._model)
            if lora is not None:
                try_adapters(self, self._link, Path(folder), lora, scratch, agreement)
        if adapter is not None:
            self._model = f"{self.name}-{weights_hash[:12] or Path(adapter).name}"
            load_adapter(self._link, self._model, Path(adapter))
            if agreement:
                self.notes += agreement.check_adapter(self.can.model, self._model, Path(adapter))

    # -- what it can

    def _require_servable(self, head: str | None, adapter: Path | None) -> None:
        """What no server holds."""
        if head_of(head).reads in ("scalar", "hidden", "state"):
            raise RecipeError(
                f"model {self.name}: head: {head} cannot be served; use the local engine, or head: token"
            )
        if self.pause is not None and self.pause.id >= self.num_embedded:
            raise RecipeError(
                f"model {self.name}: {adapter} brings a token of its own (pause.json), which no server adds "
                "to its base: `ratchet export` it and serve that folder, or use the local engine"
            )
        if adapter is not None and not (Path(adapter) / "adapter_config.json").is_file():
            raise RecipeError(
                f"model {self.name}: {adapter} holds whole weights, which a server does not take while it "
                "runs: train an adapter (lora), or serve that folder as the base of a run of its own"
            )

    def _find_out(self, model: str, folder: Path, row: list[int]) -> Capabilities:
        """What all servers can, which must be the same."""
        found = []
        for url in self._link.urls:
            key = (url, model, str(folder), self._link.seconds)
            if key not in _known:
                _known[key] = find_out(self._link, url, model, str(folder), row, TEXT)
            found.append(_known[key])
        for url, other in zip(self._link.urls, found, strict=True):
            if other.sentence() != found[0].sentence():
                first = shown(self._link.urls[0])
                raise RecipeError(
                    f"model {self.name}: the servers differ: {first}: {found[0].sentence()}; "
                    f"{shown(url)}: {other.sentence()}"
                )
        return found[0]

    @property
    def _who(self) -> str:
        return f"{self.can.kind} at {shown(self._link.urls[0])}"

    def _require(self, head: str | None) -> None:
        """Scoring needs what only some can."""
        if head is not None and not self.can.reads:
            raise RecipeError(
                f"model {self.name}: {self._who} gives no prompt_logprobs of token ids, which head: {head} "
                "reads its scores from; use vLLM (docs/servers.md), or the local engine"
            )

    # -- writing

    def submit(self, rows: Iterable[Request]) -> None:
        """Send rows; they come back from `step` as they finish.

        Raises:
            RecipeError: a row wants a cut that the server cannot do.
        """
        for row in rows:
            wrong = partial(self._wrong, row.limit)
            body = self._written_as(row)
            future = self._link.start(next(self._turn), "/v1/completions", Completion, body, wrong)
            self._running[future] = row

    @property
    def busy(self) -> bool:
        return bool(self._running)

    def step(self, num_tokens: int = 1) -> list[Request]:
        """Wait for a row to end. Returns all that did.

        Raises:
            RecipeError: the server refuses it. ServerLost: no good answer.
        """
        if not self._running:
            return []
        done, _ = wait(self._running, timeout=self._link.seconds, return_when=FIRST_COMPLETED)
        return [self._ended(self._running.pop(future), future) for future in done]

    def clear(self) -> None:
        """Forget what is under way."""
        for future in self._running:
            future.cancel()
        self._running.clear()

    def _written_as(self, row: Request) -> dict[str, Any]:
        """The request for a row, of the fields that this server takes."""
        if row.decoding is not None:
            raise RecipeError(
                f"model {self.name}: {self._who} does not draw by {row.decoding.said} as it is done here: "
                "leave it out of the recipe's stages, or use the local engine"
            )
        if row.top_k and "top_k" not in self.can.fields and not self.can.whole_config:
            raise RecipeError(
                f"model {self.name}: {self._who} takes no top_k; set top_k: 0 in the recipe's stages, "
                "or use another server (docs/servers.md)"
            )
        body: dict[str, Any] = {
            "model": self._model,
            "prompt": list(row.ids) if self.can.takes_ids else self._text(row.ids),
            "max_tokens": row.limit,
            "temperature": row.temperature,
            "top_p": row.top_p,
            "seed": row.seed % SEEDS,
        }
        optional = {
            "top_k": row.top_k or -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "return_token_ids": True,
            "logprobs": 1,
        }
        body |= {key: value for key, value in optional.items() if key in self.can.fields}
        if self.can.whole_config:
            body["generation_config"] = self._whole_config(row)
        stop = self.endings.stops(row.state, row.ends_on) if self.can.stops else []
        if stop:
            body["stop"] = stop
            if "include_stop_str_in_output" in self.can.fields:
                body["include_stop_str_in_output"] = True
        return body

    def _whole_config(self, row: Request) -> str:
        """transformers' `GenerationConfig` of a row: without it the model's own says whether to sample."""
        config: dict[str, Any] = {
            "max_new_tokens": row.limit,
            "do_sample": row.temperature > 0,
            "repetition_penalty": 1.0,
            "eos_token_id": list(self.eos_ids),
            "pad_token_id": self.pad_id,
        }
        if row.temperature > 0:
            config |= {"temperature": row.temperature, "top_p": row.top_p, "top_k": row.top_k}
        return json.dumps(config)

    def _text(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(ids), skip_special_tokens=False)

    def _ended(self, row: Request, future: Future[Completion]) -> Request:
        try:
            answer = future.result()
        except Refused as problem:
            raise self._no(problem) from None
        choice, told = answer.choices[0], self.can.gives_ids and not answer.lossy
        ids = (choice.ids if told else self.encode_more(choice.text)) or []
        by_text = isinstance(
            choice.stop_reason, str
        )  # also where a broken character hides it from our tables
        ended = choice.finish_reason == "stop" and not by_text and not self._ends(row, ids)
        if ended and self.eos_ids:
            ids = ids if ids and ids[-1] in self.eos_ids else [*ids, self.eos_ids[0]]
        self._end(row, ids[: row.limit], (choice.values or []) if told else [])
        return row

    def _wrong(self, limit: int, answer: Completion) -> str:
        """What is wrong with an answer, held against what the server could when it was asked."""
        choice = answer.choices[0]
        if choice.finish_reason not in ("stop", "length"):
            return f"finish_reason: {choice.finish_reason}"
        if not self.can.gives_ids or answer.lossy:
            return "" if choice.text or choice.finish_reason == "stop" else "it wrote nothing"
        ids, values = choice.ids, choice.values
        if ids is None or len(ids) > limit or any(i >= self.num_tokens for i in ids):
            return "token ids that are missing, too many or not of this model's vocabulary"
        if self.can.logprobs and ids and (values is None or len(values) != len(ids)):
            return "log-probabilities that are missing or not one a token"
        return "" if ids or choice.finish_reason == "stop" else "it wrote nothing"

    def _ends(self, row: Request, ids: Sequence[int]) -> bool:
        """Does a text of ours end this row within the ids?"""
        state = row.state
        for token in ids:
            if int(self.endings.hits[token, state]) & row.ends_on & (STEP | STOP):
                return True
            state = int(self.endings.next[token, state])
        return False

    def _end(self, row: Request, ids: list[int], logprobs: list[float]) -> None:
        """Cut where our own tables say that the row ends: a server matches text, and may run on to the
        end of a token.
        """
        state = row.state
        for place, token in enumerate(ids):
            flags = int(self.endings.hits[token, state]) & row.ends_on
            state = int(self.endings.next[token, state])
            if flags:
                row.flags, ids = flags, ids[: place + 1]
                break
        else:
            row.flags = LENGTH
        if row.flags & (STEP | STOP | EOS) and len(ids) == row.limit:
            row.flags |= LENGTH
        unknown = [math.nan] * (len(ids) - len(logprobs))
        row.new_ids, row.logprobs = ids, [*logprobs[: len(ids)], *unknown]

    # -- reading

    def logprobs(self, items: Sequence[tuple[Sequence[int], int]]) -> list[list[float]]:
        """For each (ids, start): the log-probability of ids[start:], each given all before it.

        Raises:
            RecipeError: this server reads no prompts. ServerLost: no good answer.
        """
        if not self.can.reads:
            raise RecipeError(
                f"model {self.name}: {self._who} gives no prompt_logprobs, which scoring needs; use vLLM "
                "(docs/servers.md), or the local engine"
            )
        return self.read(self._model, items)

    def certainties(self, items: Sequence[tuple[Sequence[int], int]]) -> list[list[float]]:
        """Not to be had: a server tells the likeliest tokens, not the whole distribution.

        Raises:
            RecipeError: always.
        """
        raise RecipeError(
            f"model {self.name}: {self._who} does not tell whole distributions, which certainty is of; leave "
            "engine.server out, so that the local engine reads them"
        )

    def read(self, model: str, items: Sequence[tuple[Sequence[int], int]]) -> list[list[float]]:
        """The same under a model's name on the servers."""
        body = {"model": model, "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
        futures = [self._reading({**body, "prompt": list(ids)}, begin) for ids, begin in items]
        try:
            return [
                future.result().choices[0].read(list(ids), begin) or [] if future else []
                for future, (ids, begin) in zip(futures, items, strict=True)
            ]
        except Refused as problem:
            raise self._no(problem) from None

    def _reading(self, body: dict[str, Any], begin: int) -> Future[Completion] | None:
        """One prompt under way; None where nothing of it is asked for."""
        ids = body["prompt"]
        if begin >= len(ids):
            return None

        def wrong(answer: Completion) -> str:
            whole = answer.choices[0].read(ids, begin) is not None
            return "" if whole else "prompt_logprobs that are missing or not one a token"

        return self._link.start(next(self._turn), "/v1/completions", Completion, body, wrong)

    def _no(self, problem: Refused) -> RecipeError:
        return RecipeError(f"model {self.name}: {self.can.kind} refuses a request: {problem}")

    def score(
        self, items: Sequence[tuple[Sequence[int], Sequence[int]]], memories: Any = ()
    ) -> list[list[float]]:
        """For each (ids, positions): the share of '+' against '-' right after each position, or the sum of
        log-ratios to the base up to it.

        Raises:
            Diverged: a score is not finite.
        """
        if self._ratio is not None:
            beta = beta_of(self.name, *self._ratio)
            begins = [num_prompt for _, num_prompt in memories] or [1] * len(items)
            start = partial(self.read, self.can.model)
            return finite(partial_sums(items, begins, beta, self.logprobs, start), self.name)
        if self._signs is None:
            raise RecipeError(f"model {self.name}: has no head: it writes and cannot score")
        asked = [(list(ids[: at + 1]), at) for ids, places in items for at in places]
        marked = [([*ids, sign], len(ids)) for ids, _ in asked for sign in self._signs]
        read = iter(self.logprobs(marked))
        replies = []
        for _, places in items:
            pairs = [(next(read)[0], next(read)[0]) for _ in places]
            replies.append([1 / (1 + math.exp(min(700.0, minus - plus))) for plus, minus in pairs])
        if not all(math.isfinite(score) for reply in replies for score in reply):
            raise Diverged(f"model {self.name}: a score is not finite; the reward model diverged")
        return replies
