"""Is what is served what stands on our disk? The log-probabilities of one fixed row, there and by PEFT's own
forward here: of the base when it is connected to (where a server reads no prompts, of what it wrote after
the row), and after each load of how an adapter changes them.

A server may compute in bfloat16, so numbers are held against each other's size. Another model differs by
whole nats; an adapter that is loaded and not applied changes nothing there, which is half of its change too
little.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from pipeline.engine.connection import Connection, Refused, ServerLost, shown
from pipeline.engine.replies import Models
from pipeline.errors import RecipeError, printable
from pipeline.models.reference import fits, local_logprobs, zero_adapter
from pipeline.store.disk import temporary_beside

SAME_BASE = 0.25  #: nats, the mean over the row; bfloat16 gives 0.01 to 0.05, another model 1 and more
SEEN = 1e-5  #: nats; a smaller change of an adapter cannot be told from rounding in float32
_local: dict[tuple[str, str], list[float]] = {}  #: base's log-probabilities, by folder and row


class Reads(Protocol):
    """What is needed of the engine."""

    name: str
    can: Any
    num_tokens: int

    def read(self, model: str, items: Sequence[tuple[Sequence[int], int]]) -> list[list[float]]: ...


def _apart(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(abs(a - b) for a, b in zip(one, other, strict=True)) / max(1, len(one))


class Agreement:
    """One row of one base: there and here."""

    def __init__(self, engine: Reads, base: Path, row: list[int]) -> None:
        self.engine, self.base, self.row = engine, base, row
        self.why_not = ""
        if not engine.can.reads:
            self.why_not = f"{engine.can.kind} gives no log-probabilities of a prompt of token ids"
        elif not fits(base):
            self.why_not = "the weights do not fit beside this process"

    def there(self, model: str) -> list[float]:
        """Under a name on the servers."""
        [found] = self.engine.read(model, [(self.row, 1)])
        return found

    def here(self, row: list[int] | None = None) -> list[float]:
        """Of the base: of the row, or of another."""
        row = row or self.row
        key = (str(self.base), str(row))
        if key not in _local:
            _local[key] = local_logprobs(self.base, None, row)
        return _local[key]

    def _base_apart(self, model: str) -> float | None:
        """Nats a token between the base there and here, None where it cannot be known."""
        can = self.engine.can
        if not fits(self.base):
            return None
        if can.reads:
            return _apart(self.there(model), self.here())
        if not (can.takes_ids and can.logprobs and can.wrote):
            return None
        if any(i >= self.engine.num_tokens for i, _ in can.wrote):
            return float("inf")  # it writes what our tokenizer does not know
        whole = [*self.row, *(i for i, _ in can.wrote)]
        return _apart([value for _, value in can.wrote], self.here(whole)[-len(can.wrote) :])

    def check_base(self, model: str) -> list[str]:
        """Is the base ours? Returns what a person should know.

        Raises:
            RecipeError: it is another model.
        """
        apart = self._base_apart(model)
        if apart is None:
            return [f"whether the server holds the weights of {self.base} was not checked: {self.why_not}"]
        if apart > SAME_BASE:
            raise RecipeError(
                f"model {self.engine.name}: the server's {printable(model)} is not the model in {self.base}: "
                f"its log-probabilities of one row differ by {apart:.2f} nats a token. Serve that folder, or "
                f"name what is served with models.{self.engine.name}.base"
            )
        return []

    def check_adapter(self, base: str, model: str, adapter: Path) -> list[str]:
        """Does it change the answers as it does here? Returns what a person should know.

        Raises:
            RecipeError: it does not.
        """
        if self.why_not:
            return [f"whether {adapter} acts on the server as here was not checked: {self.why_not}"]
        before, after = self.there(base), self.there(model)
        ours = local_logprobs(self.base, adapter, self.row)
        wanted = [b - a for a, b in zip(self.here(), ours, strict=True)]
        changed = [b - a for a, b in zip(before, after, strict=True)]
        size, missed = _apart(wanted, [0.0] * len(wanted)), _apart(wanted, changed)
        noise = _apart(before, self.here())
        if size < max(SEEN, 3 * noise):
            return [
                f"{adapter} changes one row by {size:.1g} nats a token, too little to see whether the server "
                "applies it"
            ]
        if missed > size / 2:
            raise RecipeError(
                f"model {self.engine.name}: the server lists {printable(model)} and does not answer as "
                f"{adapter} does here: it should change the log-probabilities of one row by {size:.3g} nats "
                f"a token, and misses that by {missed:.3g}. Restart the server; vLLM must be started with "
                "--enable-lora and without quantization"
            )
        return []


def load_adapter(link: Connection, model: str, adapter: Path) -> None:
    """Have every server know an adapter by a name; one that knows it already is left alone.

    Raises:
        RecipeError: a server will not load it; the sentence names the flags to start it with.
        ServerLost: it gives no good answer.
    """
    body = {"lora_name": model, "lora_path": str(adapter.resolve())}
    for url in link.urls:
        if _lists(link, url, model):
            continue
        try:
            link.ask(url, "/v1/load_lora_adapter", None, body)
        except (Refused, ServerLost) as problem:
            if isinstance(problem, ServerLost) and problem.code < 500:
                raise
            if _lists(link, url, model):  # another process of this run was quicker
                continue
            raise RecipeError(
                f"model {link.name}: server {shown(url)} does not load {adapter}: {problem}. vLLM does when "
                "it is started with --enable-lora --max-lora-rank R (the recipe's lora.r or more) and "
                "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 and can read that folder; servers without that route can "
                "only serve a model that is not trained (docs/servers.md)"
            ) from None


def _lists(link: Connection, url: str, model: str) -> bool:
    try:
        found: Models = link.ask(url, "/v1/models", Models)
    except Refused:
        return False
    return any(one.id == model for one in found.data)


def try_adapters(
    engine: Reads,
    link: Connection,
    base: Path,
    lora: dict[str, Any],
    scratch: Path | None,
    agreement: Agreement,
) -> None:
    """Load an adapter of zeros, see that it changes nothing, and take it out again.

    Raises:
        RecipeError: a server will not load adapters of this recipe, or answers otherwise under it.
    """
    fresh = scratch is not None and not scratch.exists()
    place = temporary_beside((scratch or Path(tempfile.gettempdir())) / "zeros")
    place.mkdir(parents=True)
    model = f"{link.name}-zeros-{os.getpid()}"
    try:
        load_adapter(link, model, zero_adapter(base, lora, place))
        if not agreement.why_not:
            apart = _apart(agreement.there(engine.can.model), agreement.there(model))
            if apart > SAME_BASE:
                raise RecipeError(
                    f"model {link.name}: an adapter of zeros changes the server's log-probabilities of one "
                    f"row by {apart:.2f} nats a token, so none can be trusted there; update the server"
                )
        for url in link.urls:
            try:
                link.ask(url, "/v1/unload_lora_adapter", None, {"lora_name": model})
            except (Refused, ServerLost):  # it stays, and harms no one
                continue
    finally:
        shutil.rmtree(place, ignore_errors=True)
        if fresh:
            place.parent.rmdir()
