"""The local engine: one model in this process, its running batches by rung, its scores.

A row's bits depend on its own prefix, limits and seed, never on its neighbours (docs/design.md): a row's rung
is the smallest that holds its prefix and its token limit, only rows of one rung (or, where padding is found
to change no bit, of what is left to read of them) share a forward, padding is on the right and the 4-D mask
is always passed. `self_test` says whether that holds on this machine. Does not hold: models split over
devices, encoder-decoders, recurrent layers, positions that turn by the longest row.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.cache_utils import Cache

from pipeline.engine import cpu_attention, cpu_linear, cpu_packed, cuda_engine, readings
from pipeline.engine.batch import Batch
from pipeline.engine.cache import Stash, cache_of, resumed
from pipeline.engine.contrast import batch_of
from pipeline.engine.cpu_forward import cpu_forward_of
from pipeline.engine.endings import sign_tokens
from pipeline.engine.growth import Request
from pipeline.engine.masks import Masks
from pipeline.engine.prefix_cache import (
    CacheBudget,
    Held,
    PrefixCache,
    Reading,
    Stems,
    gathered,
    prompts,
    reading,
    remember,
    sizes,
)
from pipeline.engine.rungs import ON_CPU, ON_GPU, RUNGS, Limits, groups, large_rung_of, rung_of, wide_rung_of
from pipeline.engine.text import Text
from pipeline.errors import Diverged
from pipeline.models.heads import head_of, score_kind
from pipeline.models.load import device_of, dtype_of, hash_weights, load, plain_head


class Engine(Text):
    """One model and its tokenizer. `head`: None a policy, "value" a scalar at each step's end, "token"
    the share of '+' there.
    """

    def __init__(
        self,
        folder: Path,
        adapter: Path | None = None,
        *,
        head: str | None = None,
        dtype: str = "auto",
        device: str = "auto",
        max_rows: int = 512,
        weights_hash: str = "",
        name: str = "",
    ) -> None:
        self.device = device_of(device)
        small = self.device.type == "cpu"
        self.dtype = dtype_of(dtype, self.device, folder)
        self.head, self.max_rows = head, max_rows
        self.folder, self.adapter = Path(folder), Path(adapter) if adapter else None
        #: a smaller batch is padded to this; raised by the self-test where rows feel their number
        self.min_rows = 1
        self.exact = small  #: False: only the distribution is promised, not the bits
        self.own_masks = True  #: False: transformers' forward makes mask and positions
        torch.use_deterministic_algorithms(small)  # a GPU's rows are promised in distribution only
        memory: Any = torch.utils.deterministic  # its setting is a property that type checkers do not see
        memory.fill_uninitialized_memory = False  # a tenth of a step's time, and every operator fills its own
        self.model = load(self.folder, self.adapter, head, self.dtype, self.device)
        #: skip columns that no row has come to; off where the self-test finds that they change bits
        large = small and cpu_packed.large(self.model)
        alone = head_of(head).policy and not large  # see cpu_attention
        self.trim = cpu_attention.use(self.model, alone) if small else True
        #: go on from what a search remembers; off where a prefix read in two parts has other bits
        fixed = not cpu_attention.feels_length(self.model.config.get_text_config())
        self.remembers = self.trim and small and fixed
        if small:
            cpu_linear.use(self.model)
        generation = getattr(self.model, "generation_config", None)
        super().__init__(self.folder, self.model.config, generation, name or self.folder.name, self.adapter)
        labels = self.model.config.num_labels if head == "value" else 1
        self.score_kind = score_kind(head, self.adapter, self.folder, num_labels=labels)
        config = self.model.config.get_text_config()
        self.num_layers: int = config.num_hidden_layers
        self._masks = Masks(config)
        self._top = self._plain_head()
        plain = self.remembers and self._top is not None and not self._masks.mixed
        self._lean = cpu_forward_of(self.model, self._top, one_by_one=alone) if plain else None
        if large and self._lean is not None:
            cpu_packed.pack(self.model, self._lean)
        self._signs = sign_tokens(self.tokenizer, self.name) if head == "token" else None
        self._hash = weights_hash
        self._batches: dict[tuple[int, str], Batch] = {}  #: by columns and how tokens are drawn
        self.rung_of = (large_rung_of if large else rung_of) if small else wide_rung_of
        self.fast: Any = None  #: on a GPU, the body in few launches
        self.tables: Any = None  #: and the endings there
        self.batch_kind: type[Batch] = Batch
        self.records = not small  #: a GPU's steps as graphs
        self._stems = Stems(self)
        if not small:
            cuda_engine.prepare(self)
        room = ON_CPU if small else ON_GPU
        self.forward_tokens, self.forward_cost, self.cache_bytes = room.tokens, room.cost, room.cache
        self.room = CacheBudget(room.memory, self._token_bytes)

    def _plain_head(self) -> Any:
        return plain_head(self.model, self.head, self.num_tokens)

    @property
    def top(self) -> Any:
        """Makes logits of hidden states; None where the head is more than a product."""
        return self._top

    @functools.cached_property
    def weights_hash(self) -> str:
        """Names base and adapter."""
        return self._hash or hash_weights(self.folder, self.adapter)

    def new_memory(self, stem: str = "") -> PrefixCache | None:
        """For one search; None where nothing may be remembered."""
        return PrefixCache(self.room, self._stems.of(stem)) if self.remembers else None

    def stem_memory(self, stem: str) -> PrefixCache | None:
        """For rows that share a stem alone: nothing else is kept."""
        found = self._stems.of(stem) if self.remembers else None
        return PrefixCache(CacheBudget(0, self._token_bytes), found) if found else None

    # -- the running batches

    def submit(self, rows: Iterable[Request]) -> None:
        """Queue rows; each joins the batch of its rung when there is room."""
        for row in rows:
            columns = self.rung_of(len(row.ids) + row.limit - 1)  # the last token written is never read
            key = columns, repr(row.decoding or "")
            if key not in self._batches:
                given = self, columns, self._cap(columns)
                how = row.decoding
                self._batches[key] = batch_of(*given, how) if how else self.batch_kind(*given)
            self._batches[key].waiting.append(row)

    @property
    def busy(self) -> bool:
        return any(batch.busy for batch in self._batches.values())

    @property
    def num_rows(self) -> int:
        """Rows that decode or wait."""
        return sum(batch.size + len(batch.waiting) for batch in self._batches.values())

    @torch.inference_mode()
    def step(self, num_tokens: int = 1) -> list[Request]:
        """Write `num_tokens` tokens in every running batch. Returns the rows that ended."""
        ended: list[Request] = []
        for key in sorted(self._batches):
            batch = self._batches[key]
            ended += batch.steps(num_tokens)
            if not batch.busy and key[0] > RUNGS[0] and self.tables is None:
                del self._batches[key]  # frees its cache
        return ended

    def written(self) -> list[tuple[Request, list[int], list[float]]]:
        """What the rows that decode have so far: ids and log-probabilities."""
        return [entry for batch in self._batches.values() for entry in batch.written()]

    def clear(self) -> None:
        """Forget every row: a driver that ends early leaves none to the next."""
        for batch in self._batches.values():
            batch.clear()
        if self.tables is None:
            self._batches.clear()
        self._stems.clear()

    @functools.cached_property
    def _token_bytes(self) -> int:
        """What a token takes in a cache."""
        config = self.model.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return 2 * self.num_layers * heads * size * self.dtype.itemsize

    def _cap(self, columns: int) -> int:
        return max(1, min(self.max_rows, int(self.cache_bytes / 1.5 // (columns * self._token_bytes))))

    # -- forwards

    def groups(self, lengths: Sequence[int], known: Sequence[int] = ()) -> Iterator[tuple[list[int], int]]:
        """Forwards over sequences of these lengths: which, and their columns (see `rungs.groups`)."""
        most = self.cache_bytes // 4 // self._token_bytes
        limits = Limits(self.forward_tokens, most, self.forward_cost, self.trim)
        return groups(lengths, known, self.rung_of, limits)

    def forward(
        self, ids: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor, held: Any
    ) -> torch.Tensor:
        """One new column of a running batch: float32 logits [R, V]."""
        given = (ids, positions, self._masks(mask, positions), held)
        if self._top is not None:
            return self._top(self._hidden(*given)[:, -1]).float()
        return self._logits(*given)[:, -1].float()

    def _hidden(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        mask: Any,
        held: Cache | None,
        at: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The last hidden states [R, N, width], or those of the columns `at` [R, A]."""
        if self.fast is not None:  # nothing is remembered on a GPU: sequences are whole, padded on the right
            return self.fast.read(ids, held.layers if held else None, at)
        if self._lean is not None:
            return self._lean(ids, positions, mask, held.layers if held else None, at)
        given = {"input_ids": ids, "position_ids": positions, "attention_mask": mask}
        found = self.model.base_model(**given, past_key_values=held, use_cache=bool(held)).last_hidden_state
        return found if at is None else found[torch.arange(len(at), device=at.device)[:, None], at]

    def _logits(
        self, ids: torch.Tensor, positions: torch.Tensor, mask: Any, held: Cache | None, **more: Any
    ) -> torch.Tensor:
        """What the whole model gives, where its head is more than a product."""
        given = {"input_ids": ids, "position_ids": positions, "attention_mask": mask}
        return self.model(**given, past_key_values=held, use_cache=bool(held), **more).logits

    def prefill(
        self, prefixes: Sequence[Sequence[int]], width: int, known: Sequence[Held] = ()
    ) -> tuple[list[Stash], torch.Tensor]:
        """The cache of prefixes, and the float32 logits [P, V] of what follows each.

        known: what is remembered of each; `width` columns hold the rest of them.
        """
        ids, positions, mask, held = self._begun(prefixes, width, known)
        starts = [one.num_tokens for one in known] or [0] * len(prefixes)
        ends = [len(prefix) - 1 - start for prefix, start in zip(prefixes, starts, strict=True)]
        ends += [0] * (len(ids) - len(ends))  # rows that pad the batch go through the head too
        last = torch.tensor(ends, device=self.device)
        if self._top is not None:
            logits = self._top(self._hidden(ids, positions, mask, cache_of(held), last[:, None])[:, 0])
        else:
            columns, place = last.unique(return_inverse=True)
            found = self._logits(ids, positions, mask, cache_of(held), logits_to_keep=columns)
            logits = found[torch.arange(len(ids), device=self.device), place]
        return held, logits[: len(prefixes)].float()

    def _begun(
        self, sequences: Sequence[Sequence[int]], width: int, known: Sequence[Held] = ()
    ) -> tuple[torch.Tensor, torch.Tensor, Any, list[Stash]]:
        """Ids and positions [rows, width], the mask and the cache of a forward over sequences, padded, of
        which the first columns may be known.
        """
        num = max(len(sequences), self.min_rows)
        lengths = [one.num_tokens for one in known] + [0] * (num - len(known))
        starts, most = torch.tensor(lengths), max(lengths)
        padded = np.full((num, width), self.pad_id)
        for line, sequence, start in zip(padded, sequences, lengths, strict=False):
            line[: len(sequence) - start] = sequence[start:]
        ids = torch.from_numpy(padded)
        like = next((piece for one in known for piece in one.pieces), None)
        wide = width if like is None else cpu_attention.columns_of(width + most, like.shape[-1])
        columns = torch.arange(wide, device=self.device)
        positions = starts[:, None].to(self.device) + columns[:width]
        places = positions.clamp(max=self.context - 1)  # of padding, past it
        if like is None:
            mask = torch.where(columns[:, None] >= columns, 0.0, -torch.inf).to(self.dtype)
            held: list[Stash] = [Stash() for _ in range(self.num_layers)]
            return ids.to(self.device), places, self._masks(mask.expand(num, 1, -1, -1), positions), held
        mask = torch.where(positions[:, :, None] >= columns, 0.0, -torch.inf).to(self.dtype)[:, None]
        held = resumed(gathered(known, num, len(columns), like), positions)
        return ids.to(self.device), places, self._masks(mask, positions), held

    # -- scores

    @torch.inference_mode()
    def score(
        self,
        items: Sequence[tuple[Sequence[int], Sequence[int]]],
        memories: Sequence[tuple[PrefixCache | None, int]] = (),
    ) -> list[list[float]]:
        """For each (ids, positions): the score read at each position.

        memories: for each item what its search remembers, and the tokens of its prompt; without them a
        sequence is read whole.

        Raises:
            Diverged: a score is not finite.
        """
        replies = self._read(items, self._score_part, memories)
        if not all(map(math.isfinite, itertools.chain.from_iterable(replies))):
            raise Diverged(f"model {self.name}: a score is not finite; the reward model diverged")
        return replies

    def _logits_at(
        self, ids: torch.Tensor, positions: torch.Tensor, mask: Any, at: torch.Tensor, held: Any
    ) -> torch.Tensor:
        """float32 logits [rows, asked positions, V]. A language model computes those of the asked columns
        alone.
        """
        rows = torch.arange(len(ids), device=at.device)[:, None]
        cache = cache_of(held) if held else None
        if self._top is not None:
            return self._top(self._hidden(ids, positions, mask, cache, at)).float()
        if self.head == "value":
            return self._logits(ids, positions, mask, cache)[rows, at].float()
        columns, place = at.unique(return_inverse=True)
        return self._logits(ids, positions, mask, cache, logits_to_keep=columns)[rows, place].float()

    def _score_part(self, *given: Any) -> torch.Tensor:
        if self._signs:
            return self._by_parts(*given, self.scores_of)  # type: ignore[arg-type]
        return self.scores_of(self._logits_at(*given))

    def scores_of(self, logits: torch.Tensor) -> torch.Tensor:
        """The scores that logits [..., labels or vocabulary] stand for."""
        return readings.scores_of(logits, self._signs, self.score_kind)

    @torch.inference_mode()
    def logprobs(self, items: Sequence[tuple[Sequence[int], int]]) -> list[list[float]]:
        """For each (ids, start): the log-probability at temperature 1 of ids[start:], each given all
        before it. start >= 1.
        """
        spans = [(ids, range(start - 1, len(ids) - 1)) for ids, start in items]
        return self._read(spans, self._logprob_part)

    def _logprob_part(
        self, ids: torch.Tensor, positions: torch.Tensor, mask: Any, at: torch.Tensor, held: Any
    ) -> torch.Tensor:
        rows = torch.arange(len(at), device=at.device)[:, None]
        following = ids[rows, (at + 1).clamp(max=ids.shape[1] - 1)]
        return self._by_parts(ids, positions, mask, at, held, readings.logprob_of, following)

    @torch.inference_mode()
    def certainties(self, items: Sequence[tuple[Sequence[int], int]]) -> list[list[float]]:
        """For each (ids, start): KL(uniform || p) of what each of ids[start:] was drawn from. start >= 1."""
        spans = [(ids, range(start - 1, len(ids) - 1)) for ids, start in items]
        return self._read(spans, self._certainty_part)

    def _certainty_part(self, *given: Any) -> torch.Tensor:
        return self._by_parts(*given, readings.certainty_of)  # type: ignore[arg-type]

    def _by_parts(
        self, ids: torch.Tensor, positions: torch.Tensor, mask: Any, at: torch.Tensor, held: Any, reduce: Any,
        *more: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        """`reduce` of the logits at the asked positions; on a GPU of some at a time, for those of a large
        vocabulary take more room than the weights. more: of each position, given to `reduce` too.
        """
        if self.exact or self._top is None:
            return reduce(self._logits_at(ids, positions, mask, at, held), *more)
        hidden = self._hidden(ids, positions, mask, cache_of(held) if held else None, at)
        return cuda_engine.by_parts(hidden, self._top, self.num_tokens, reduce, *more)

    def _read(
        self,
        items: Sequence[tuple[Sequence[int], Sequence[int]]],
        part: Any,
        memories: Sequence[tuple[PrefixCache | None, int]] = (),
    ) -> list[list[float]]:
        """Forwards by length; `part` gives a value for each row and asked position."""
        replies: list[list[float]] = [[] for _ in items]
        asked = [number for number, (_, at) in enumerate(items) if len(at)]
        if memories:
            self._forwards(prompts([items[n][0] for n in asked], [memories[n] for n in asked]), part)
        wanted = []
        for n in asked:
            ids, at = items[n]
            memory, num_prompt = memories[n] if memories else (None, 0)
            wanted.append(reading(tuple(ids), at, memory, (num_prompt, *(place + 1 for place in at))))
        for n, found in zip(asked, self._forwards(wanted, part), strict=True):
            replies[n] = found
        return replies

    def _forwards(self, wanted: Sequence[Reading], part: Any) -> list[list[float]]:
        """The values at the asked positions of each."""
        replies: list[list[float]] = [[] for _ in wanted]
        for group, width in self.groups(*sizes(wanted)):
            ones = [wanted[i] for i in group]
            known = [one.held for one in ones]
            ids, positions, mask, held = self._begun([one.ids for one in ones], width, known)
            at = np.zeros((len(ids), max(1, *(len(one.at) for one in ones))), np.int64)
            for line, one in zip(at, ones, strict=False):
                line[: len(one.at)] = [place - one.held.num_tokens for place in one.at]
            kept = held if any(one.memory for one in ones) else None
            values = part(ids, positions, mask, torch.from_numpy(at).to(self.device), kept).tolist()
            remember(ones, held)
            for place, (i, one) in enumerate(zip(group, ones, strict=True)):
                replies[i] = one.values(values[place])
        return replies
