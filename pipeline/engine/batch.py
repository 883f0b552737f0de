"""The running batch of one rung: rows join and leave at any step, and none feels the others.

Slots 0 .. size - 1 are rows that were prefilled, or whose columns a search remembers; the first `cap` of them
decode. A finished row's slot is taken over by the last one, so the rows that decode always stand side by
side. What a row needs a step is kept in arrays over slots; no Python runs per row and token. A prefill fills
the cache and gives the first token; a row that goes on from what is remembered takes its first in a step.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import numpy as np
import torch

from pipeline.engine import draws
from pipeline.engine.cache import Slots, Stash, WriteCursor, cache_of, stacked
from pipeline.engine.endings import EOS, LENGTH, STEP, STOP
from pipeline.engine.growth import Request
from pipeline.engine.prefix_cache import Reading, gathered, reading, remember, sizes
from pipeline.errors import Diverged

if TYPE_CHECKING:
    from pipeline.engine.local import Engine

WINDOW = 32  #: uniforms drawn ahead, a multiple of 4
LAST, POSITION, COUNT, LIMIT, STATE, MASK, TOP_K, GREEDY, CUT, BASE = range(10)  #: columns of `Batch.numbers`


class Batch:
    """All rows of one rung, in one engine."""

    def __init__(self, engine: Engine, columns: int, cap: int) -> None:
        self.engine, self.columns, self.cap = engine, columns, cap
        self.waiting: deque[Request] = deque()
        self.rows: list[Request] = []
        self.place = WriteCursor()
        self.layers = [Slots(self.place) for _ in range(engine.num_layers)]
        self.cache = cache_of(self.layers)
        self.mask = torch.zeros(0, 1, 1, columns, dtype=engine.dtype, device=engine.device)
        self.numbers = np.zeros((0, 10), np.int64)
        self.seeds = np.zeros(0, np.uint64)
        self.temperature = np.ones(0, np.float32)
        self.top_p = np.ones(0, np.float32)
        self.uniform = np.zeros((0, WINDOW), np.float32)
        self.ids = np.zeros((0, columns), np.int32)
        self.logprobs = np.zeros((0, columns), np.float32)

    @property
    def size(self) -> int:
        """Prefilled rows."""
        return len(self.rows)

    @property
    def busy(self) -> bool:
        return bool(self.rows or self.waiting)

    def steps(self, num_tokens: int) -> list[Request]:
        """So many tokens for each row that decodes. Returns the rows that ended."""
        ended: list[Request] = []
        for _ in range(num_tokens):
            if self.busy:
                ended += self.step()
        return ended

    def step(self) -> list[Request]:
        """One token for each row that decodes, after new ones joined. Returns the rows that ended."""
        ended = self._join() if self.waiting and self.size < self.cap else []
        num = min(self.size, self.cap)
        return ended + self._record(self._forward(num), slice(0, num)) if num else ended

    def clear(self) -> None:
        """Forget every row."""
        self.waiting.clear()
        self.rows.clear()

    def written(self) -> list[tuple[Request, list[int], list[float]]]:
        """What each row that decodes has so far."""
        rows = self.rows[: self.cap]
        counts = self.numbers[: len(rows), COUNT].tolist()
        return [
            (row, self.ids[i, :count].tolist(), self.logprobs[i, :count].tolist())
            for i, (row, count) in enumerate(zip(rows, counts, strict=True))
        ]

    # -- joining

    def _join(self) -> list[Request]:
        """Prefill what fits, and a share ahead, so that a freed place is taken at once and prefills stay
        large.

        A prefill gives the first token too. Returns the rows that ended with it.
        """
        take = min(len(self.waiting), self.cap - self.size + self.cap // 2)
        joining = [self.waiting.popleft() for _ in range(take)]
        self._reserve(self.size + take)
        shared: dict[tuple[int, ...], list[Request]] = {}
        for row in joining:  # samples of one prefix share its prefill
            shared.setdefault(tuple(row.ids), []).append(row)
        ended: list[Request] = []
        readings = [reading(ids, (), rows[0].memory, rows[0].borders) for ids, rows in shared.items()]
        known: list[Reading] = []
        fresh: list[Reading] = []
        for one in readings:
            (known if 0 < one.held.num_tokens == len(one.ids) - 1 else fresh).append(one)
        if known:
            self._resume(known, [shared[one.ids] for one in known])
        for group, width in self.engine.groups(*sizes(fresh)):
            part = [fresh[i] for i in group]
            ended += self._prefill(part, [shared[one.ids] for one in part], width)
        return ended

    def _resume(self, readings: list[Reading], rows: list[list[Request]]) -> None:
        """Rows of which all but the last token is remembered: the next step reads that one."""
        held = [one.held for one in readings]
        columns = max(one.num_tokens for one in held)
        whole = gathered(held, len(held), columns, held[0].pieces[0])
        self._settle(readings, rows, [Stash.of(*pair) for pair in zip(whole[::2], whole[1::2], strict=True)])

    def _prefill(self, readings: list[Reading], rows: list[list[Request]], width: int) -> list[Request]:
        made, logits = self.engine.prefill(
            [one.ids for one in readings], width, [one.held for one in readings]
        )
        remember(readings, made)
        slots, source = self._settle(readings, rows, made)
        return self._record(logits[source], slots)

    def _settle(
        self, readings: list[Reading], rows: list[list[Request]], made: list[Stash]
    ) -> tuple[slice, torch.Tensor]:
        """Give each row a slot with the columns made for its reading. Returns the slots, and the reading of
        each.
        """
        flat = [row for group in rows for row in group]
        slots = slice(self.size, self.size + len(flat))
        source = torch.tensor([i for i, group in enumerate(rows) for _ in group], device=self.engine.device)
        width = min(made[0].keys.shape[2], self.columns)  # what stands behind is padding
        self.place.num_columns = max(self.place.num_columns, width)
        for layer, stash in zip(self.layers, made, strict=True):
            layer.fill(stash, source, slots)
        self.rows += flat
        numbers = self.numbers[slots]
        numbers[:] = [
            (
                row.ids[-1], len(row.ids) - 1, 0, row.limit, row.state, row.ends_on, row.top_k,
                row.temperature == 0, row.top_p < 1 or row.top_k > 0, 0,
            )
            for row in flat
        ]  # fmt: skip
        self.seeds[slots] = np.array([row.seed for row in flat], np.uint64)
        self.uniform[slots] = draws.uniforms(self.seeds[slots], numbers[:, COUNT], WINDOW)
        self.temperature[slots] = [row.temperature or 1.0 for row in flat]
        self.top_p[slots] = [row.top_p for row in flat]
        position = torch.from_numpy(numbers[:, POSITION].copy()).to(self.engine.device)
        seen = torch.arange(self.columns, device=self.engine.device) <= position[:, None]
        self.mask[slots] = torch.where(seen, 0.0, -torch.inf).to(self.mask.dtype)[:, None, None]
        return slots, source

    def _reserve(self, num_slots: int) -> None:
        held = len(self.numbers)
        if num_slots <= held:
            return
        num_slots = max(num_slots, min(2 * held, self.cap + self.cap // 2), 8)
        more = num_slots - held
        for name in ("numbers", "seeds", "temperature", "top_p", "uniform", "ids", "logprobs"):
            array = getattr(self, name)
            setattr(self, name, np.concatenate([array, np.zeros((more, *array.shape[1:]), array.dtype)]))
        blank = self.mask.new_full((more, 1, 1, self.columns), -torch.inf)
        blank[..., 0] = 0  # a row that pads the batch attends to something
        self.mask = torch.cat([self.mask, blank])
        self.place.num_slots = num_slots

    # -- one token

    def _forward(self, num: int) -> torch.Tensor:
        """The float32 logits [num, V] of each row's next token."""
        device = self.engine.device
        used = max(num, min(self.engine.min_rows, len(self.numbers)))
        numbers = torch.from_numpy(self.numbers[:used, : POSITION + 1].copy()).to(device)
        last, position = numbers[:, LAST], numbers[:, POSITION]
        self.mask[:used, 0, 0].scatter_(1, position[:, None], 0.0)
        self.place.write_to(position, self._columns(used))
        mask = self.mask[:used, ..., : self.place.num_used]
        return self.engine.forward(last[:, None], position[:, None], mask, self.cache)[:num]

    def _columns(self, used: int) -> int:
        """How many columns the step looks at: all, unless those behind the last token are known not to
        matter.
        """
        if not self.engine.trim:
            return self.columns
        return min(self.columns, -(-(int(self.numbers[:used, POSITION].max()) + 1) // 32) * 32)

    def _choose(self, logits: torch.Tensor, slots: slice) -> tuple[np.ndarray, np.ndarray]:
        """The token of each row in `slots`, and its log-probability at temperature 1."""
        greedy = self.numbers[slots, GREEDY] == 1
        weight, total = draws.weights(logits)
        if greedy.all():
            tokens = logits.argmax(-1)
        else:
            tokens = self._draw(logits, weight, np.flatnonzero(~greedy) + slots.start, slots.start)
            if greedy.any():
                tokens = torch.where(torch.from_numpy(greedy).to(logits.device), logits.argmax(-1), tokens)
        chosen = logits.gather(-1, tokens[:, None]).squeeze(-1) - total
        return tokens.cpu().numpy(), chosen.cpu().numpy()

    def _draw(
        self, logits: torch.Tensor, weight: torch.Tensor, which: np.ndarray, start: int
    ) -> torch.Tensor:
        """Tokens drawn for the slots `which`, 0 for others; line i of the logits, and of their weights, is of
        slot start + i.
        """
        offset = self.numbers[which, COUNT] - self.numbers[which, BASE]
        if offset.max() >= WINDOW:  # all rows at once: the next refill is then many steps away
            self.numbers[which, BASE] = self.numbers[which, COUNT] // 4 * 4
            self.uniform[which] = draws.uniforms(self.seeds[which], self.numbers[which, BASE], WINDOW)
            offset = self.numbers[which, COUNT] % 4
        uniform = torch.from_numpy(self.uniform[which, offset]).to(logits.device)
        everyone = len(which) == len(logits)
        index = torch.from_numpy(which - start).to(logits.device)
        temperature = self.temperature[which]
        cut = np.flatnonzero(self.numbers[which, CUT])
        plain = not len(cut) and bool((temperature == 1).all())
        chosen = weight if plain else logits
        chosen = chosen if everyone else chosen[index]
        if not plain:
            chosen = chosen / torch.from_numpy(temperature).to(logits.device)[:, None]
        if len(cut):
            top_k = torch.from_numpy(self.numbers[which[cut], TOP_K]).to(logits.device)
            top_p = torch.from_numpy(self.top_p[which[cut]]).to(logits.device)
            narrow = torch.from_numpy(cut).to(logits.device)
            chosen[narrow] = draws.cut(chosen[narrow], top_k, top_p)
        tokens = draws.pick(chosen if plain else draws.weights(chosen)[0], uniform)
        if everyone:
            return tokens
        return torch.zeros(len(logits), dtype=torch.int64, device=logits.device).index_copy_(0, index, tokens)

    def _record(self, logits: torch.Tensor, slots: slice) -> list[Request]:
        """Write down a token for each row in `slots`. Returns the rows that end with it."""
        tokens, logprobs = self._choose(logits, slots)
        if not np.isfinite(logprobs).all():
            raise Diverged(
                f"model {self.engine.name}: a token's log-probability is not finite; the weights diverged"
            )
        numbers, endings = self.numbers[slots], self.engine.endings
        line, count, state = np.arange(slots.start, slots.stop), numbers[:, COUNT], numbers[:, STATE]
        self.ids[line, count] = tokens
        self.logprobs[line, count] = logprobs
        flags = endings.hits[tokens, state] & numbers[:, MASK]
        numbers[:, STATE] = endings.next[tokens, state]
        numbers[:, LAST] = tokens
        numbers[:, POSITION] += 1
        numbers[:, COUNT] += 1
        flags |= (numbers[:, COUNT] >= numbers[:, LIMIT]) * LENGTH
        ended = np.flatnonzero(flags)
        return self._leave(ended + slots.start, flags[ended]) if len(ended) else []

    # -- leaving

    def _leave(self, ended: np.ndarray, flags: np.ndarray) -> list[Request]:
        finished: list[Request] = []
        for slot, flag, count in zip(
            ended.tolist(), flags.tolist(), self.numbers[ended, COUNT].tolist(), strict=True
        ):
            row = self.rows[slot]
            row.new_ids = self.ids[slot, :count].tolist()
            row.logprobs = self.logprobs[slot, :count].tolist()
            row.flags = flag
            finished.append(row)
        self._remember(finished, ended)
        left = self.size - len(ended)
        target = ended[ended < left]
        tail = np.arange(left, self.size)
        source = np.setdiff1d(tail, ended, assume_unique=True)
        if len(source):
            for array in (
                self.numbers,
                self.seeds,
                self.temperature,
                self.top_p,
                self.uniform,
                self.ids,
                self.logprobs,
            ):
                array[target] = array[source]
            for a, b in zip(target.tolist(), source.tolist(), strict=True):
                self.rows[a] = self.rows[b]
            to = torch.from_numpy(target).to(self.engine.device)
            of = torch.from_numpy(source).to(self.engine.device)
            self.mask[to] = self.mask[of]
            for layer in self.layers:
                layer.move(of, to)
        self.numbers[left : self.size, POSITION] = 0  # a free slot may pad a small batch
        del self.rows[left:]
        return finished

    def _remember(self, rows: list[Request], slots: np.ndarray) -> None:
        """Keep the columns of rows that a search may go on from: of all tokens but the last, which was not
        read.
        """
        at, some = [], []
        for row, slot in zip(rows, slots.tolist(), strict=True):
            memory = row.memory
            goes_on = row.ends_on & STEP and not row.flags & (EOS | STOP)
            if goes_on and memory is not None and memory.fits(1):
                ids = (*row.ids, *row.new_ids[:-1])
                at.append(slot)
                some.append((memory, ids, memory.longest(ids, (len(row.ids) - 1, len(row.ids)))))
        if not some:
            return
        first, end = min(start.num_tokens for _, _, start in some), max(len(ids) for _, ids, _ in some)
        which = torch.tensor(at)
        read = stacked(
            [
                Stash.of(each.keys[which, :, first:end], each.values[which, :, first:end])
                for each in self.layers
            ]
        )
        for i, (memory, ids, start) in enumerate(some if read is not None else ()):
            memory.keep(ids, start, (len(ids),), read[:, i], first)  # type: ignore[index]
