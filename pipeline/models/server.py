"""An engine over OpenAI-compatible servers (`engine: {server: [urls]}`), for models too big for this process.

The servers hold the base model; an adapter is loaded by name, a new name for each version, so a server's
prefix cache never serves an older one (STACK 3). Prompts go as token ids where the server takes them. Written
for vLLM's `/v1/completions` (`return_token_ids`, `prompt_logprobs`); a plainer server works for writing, its
text being tokenised here.

Bits are the server's own affair: a run that uses one is reproducible in distribution only. It does not serve
value heads: no server reads a scalar at each step's end of an ordinary folder; `head: token` needs none.
"""

from __future__ import annotations

import itertools
import json
import math
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from pipeline.errors import Diverged, RecipeError, WorkerLost
from pipeline.models.endings import EOS, LENGTH, STEP, STOP, sign_tokens
from pipeline.models.growth import Row
from pipeline.models.text import Text

TRIES = 4
SECONDS = 600.0  #: one answer


def changes_something(adapter: Path) -> bool:
    """Is there a weight in an adapter that is not at its start, where it changes nothing?"""
    path = Path(adapter) / "adapter_model.safetensors"
    if not path.is_file():
        return False
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        for name, about in json.loads(file.read(size)).items():
            if "lora_B" in name:
                first, end = about["data_offsets"]
                file.seek(8 + size + first)
                if any(file.read(end - first)):
                    return True
    return False


class Refused(Exception):
    """The server understood and said no (HTTP 4xx)."""


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
        pause: float = 1.0,
    ) -> None:
        """Connect, and load the adapter under a name made of `name` and `weights_hash`.

        Raises:
            RecipeError: no server, a value head, or an adapter that a server will not load.
            WorkerLost: a server does not answer.
        """
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(folder)
        super().__init__(Path(folder), config, None, name or Path(folder).name)
        if not servers:
            raise RecipeError(f"model {self.name}: engine.server names no server")
        if head == "value":
            raise RecipeError(
                f"model {self.name}: head: value cannot be served; use the local engine, or head: token"
            )
        self.head, self.weights_hash, self._pause = head, weights_hash, pause
        self._signs = sign_tokens(self.tokenizer, self.name) if head == "token" else None
        self._servers = [url.rstrip("/").removesuffix("/v1") for url in servers]
        self._turn = itertools.cycle(self._servers)
        self._ids_taken = True  #: does the server take prompts as token ids?
        self._model = self._served(adapter)
        self._pool = ThreadPoolExecutor(max_rows, thread_name_prefix="server")
        self._running: dict[Future[Row], None] = {}

    # -- talking

    def _send(self, url: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """One request, tried again where the server is busy or gone for a moment."""
        if not url.startswith(("http://", "https://")):
            raise RecipeError(f"model {self.name}: engine.server: {url}: not an http address")
        data = None if body is None else json.dumps(body).encode()
        for attempt in range(TRIES):
            request = urllib.request.Request(url + path, data, {"Content-Type": "application/json"})
            try:
                with urllib.request.urlopen(request, timeout=SECONDS) as answer:
                    text = answer.read().decode()
                    return json.loads(text) if text.startswith(("{", "[")) else text
            except urllib.error.HTTPError as problem:
                if problem.code < 500 and problem.code != 429:
                    raise Refused(
                        f"HTTP {problem.code}: {problem.read(300).decode(errors='replace')}"
                    ) from None
                last: Exception = problem
            except (OSError, json.JSONDecodeError) as problem:
                last = problem
            if attempt + 1 < TRIES:
                time.sleep(self._pause * 2**attempt)
        raise WorkerLost(f"model {self.name}: server {url} does not answer after {TRIES} tries: {last}")

    def _served(self, adapter: Path | None) -> str:
        """The name under which the servers know these weights."""
        names: list[str] = []
        for url in self._servers:
            try:
                names.append(str(self._send(url, "/v1/models")["data"][0]["id"]))
            except (Refused, KeyError, IndexError, TypeError) as problem:
                raise RecipeError(f"model {self.name}: server {url} lists no model: {problem}") from None
        if len(set(names)) > 1:
            raise RecipeError(f"model {self.name}: the servers hold different models: {', '.join(names)}")
        if adapter is None:
            return names[0]
        lora = f"{self.name}-{self.weights_hash[:12] or Path(adapter).name}"
        body = {"lora_name": lora, "lora_path": str(Path(adapter).resolve())}
        for url in self._servers:
            try:
                self._send(url, "/v1/load_lora_adapter", body)
            except Refused as problem:
                if "already" not in str(problem):  # the same weights, loaded by another process of this run
                    raise RecipeError(
                        f"model {self.name}: server {url} refuses {adapter}: {problem}. Start it "
                        "with --enable-lora --max-lora-rank R and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1, and "
                        "let it read that folder"
                    ) from None
            self._require_used(url, names[0], lora, adapter)
        return lora

    def _require_used(self, url: str, base: str, lora: str, adapter: Path) -> None:
        """One row by both names: an adapter that changes no log-probability is not used.

        Raises:
            RecipeError: the server answers as without it.
        """
        if not changes_something(adapter):
            return
        ids = [1 + 37 * i % max(1, self.num_embedded - 1) for i in range(8)]
        asked = {"prompt": ids, "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
        try:
            seen = [
                self._send(url, "/v1/completions", {**asked, "model": name})["choices"][0]
                for name in (base, lora)
            ]
        except Refused:
            return  # it takes no ids or gives no such numbers: nothing to compare
        before, after = (choice.get("prompt_logprobs") for choice in seen)
        if before and before == after:
            raise RecipeError(
                f"model {self.name}: server {url} answers with the adapter {adapter} as without it: it does "
                "not use it. Start it with --enable-lora, and a --max-lora-rank that the adapter fits"
            )

    def _complete(self, ids: Sequence[int], body: dict[str, Any]) -> dict[str, Any]:
        """One completion's first choice."""
        url = next(self._turn)
        given = {"model": self._model, **body}
        if self._ids_taken:
            try:
                return self._send(url, "/v1/completions", {**given, "prompt": list(ids)})["choices"][0]
            except Refused as problem:
                if "prompt" not in str(problem):
                    raise RecipeError(f"model {self.name}: server {url}: {problem}") from None
                self._ids_taken = False
        try:
            text = self.tokenizer.decode(list(ids), skip_special_tokens=False)
            return self._send(url, "/v1/completions", {**given, "prompt": text})["choices"][0]
        except Refused as problem:
            raise RecipeError(f"model {self.name}: server {url}: {problem}") from None

    # -- writing

    def submit(self, rows: Iterable[Row]) -> None:
        """Send rows; they come back from `step` as they finish."""
        for row in rows:
            self._running[self._pool.submit(self._write, row)] = None

    @property
    def busy(self) -> bool:
        return bool(self._running)

    def step(self, num_tokens: int = 1) -> list[Row]:
        """Wait for a row to end. Returns all that did."""
        if not self._running:
            return []
        done, _ = wait(self._running, timeout=SECONDS, return_when=FIRST_COMPLETED)
        for future in done:
            del self._running[future]
        return [future.result() for future in done]

    def clear(self) -> None:
        """Forget what is under way."""
        for future in self._running:
            future.cancel()
        self._running.clear()

    def _write(self, row: Row) -> Row:
        stop = self.endings.stops(row.state, row.ends_on)
        body: dict[str, Any] = {
            "max_tokens": row.limit,
            "temperature": row.temperature,
            "top_p": row.top_p,
            "top_k": row.top_k or -1,
            "seed": row.seed % 2**63,
            "logprobs": 0,
            "return_token_ids": True,
        }
        if stop:
            body |= {"stop": stop, "include_stop_str_in_output": True}
        choice = self._complete(row.ids, body)
        ids = choice.get("token_ids")
        if ids is None:
            ids = self.encode_more(choice["text"])
        logprobs = [float(x) for x in (choice.get("logprobs") or {}).get("token_logprobs") or []]
        if choice.get("finish_reason") == "stop" and stop and "stop_reason" not in choice:
            raise RecipeError(
                f"model {self.name}: the server does not say what stopped it (stop_reason), which steps need"
            )
        if choice.get("finish_reason") == "stop" and not choice.get("stop_reason") and self.eos_ids:
            ids = ids if ids and ids[-1] in self.eos_ids else [*ids, self.eos_ids[0]]
        self._end(row, ids[: row.limit], logprobs)
        return row

    def _end(self, row: Row, ids: list[int], logprobs: list[float]) -> None:
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
        """For each (ids, start): the log-probability of ids[start:], each given all before it."""
        return list(self._pool.map(self._read, items))

    def _read(self, item: tuple[Sequence[int], int]) -> list[float]:
        ids, start = item
        if start >= len(ids):
            return []
        choice = self._complete(ids, {"max_tokens": 1, "temperature": 0, "prompt_logprobs": 0})
        found = choice.get("prompt_logprobs")
        if not found or len(found) != len(ids):
            raise RecipeError(f"model {self.name}: the server gives no prompt_logprobs, which scoring needs")
        return [float(found[i][str(ids[i])]["logprob"]) for i in range(start, len(ids))]

    def score(
        self, items: Sequence[tuple[Sequence[int], Sequence[int]]], memories: Any = ()
    ) -> list[list[float]]:
        """For each (ids, positions): the share of '+' against '-' right after each position.

        Raises:
            Diverged: a score is not finite.
        """
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
