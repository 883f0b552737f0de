"""The running batch on a GPU: a few tokens for every row without a word to the host.

`Batch` asks the device for its tokens after each one; here the state of the rows (last token, position, state
of the endings, tokens left) goes to the device, a few steps follow one another there, drawing included, and
what was written comes back in one copy. A step has fixed shapes, so it is recorded once as a CUDA graph for
each number of rows (a power of two, or half way between two) and played again; where a model cannot be
recorded, its steps are launched one by one, and it says so once. A row that ends within the few stands still
until they are over. Prefixes are read without their last token's logits: a row's first token is a step's.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pipeline.engine import cuda_forward, draws
from pipeline.engine.batch import (
    BASE,
    COUNT,
    CUT,
    GREEDY,
    LAST,
    LIMIT,
    MASK,
    POSITION,
    STATE,
    TOP_K,
    WINDOW,
    Batch,
)
from pipeline.engine.cache import Stash, cache_of
from pipeline.engine.endings import LENGTH
from pipeline.engine.growth import Request
from pipeline.engine.prefix_cache import Reading
from pipeline.errors import Diverged

if TYPE_CHECKING:
    from pipeline.engine.local import Engine

MOST = 16  #: tokens between two looks of the host, at most; WINDOW - 4 uniforms are always ahead
NUM_KEPT = GREEDY + 1  #: the first lines of the state are the first columns of `Batch.numbers`
FLAGS, STEPS, TOKENS = NUM_KEPT, NUM_KEPT + 1, NUM_KEPT + 2  #: and these follow
LINES = LAST, POSITION, STATE, COUNT, LIMIT, MASK, FLAGS, STEPS, TOKENS
STRIDE = 64  #: columns by which a model that knows no lengths looks further


class Tables:
    """The endings on the device: `next` and `hits` [tokens, states], with room for rules to come."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.num_states = device, 0
        self.next = torch.zeros(0, 0, dtype=torch.int32, device=device)
        self.hits = torch.zeros(0, 0, dtype=torch.uint8, device=device)

    def follow(self, endings: Any) -> bool:
        """Take over rules that were made since. Returns whether the tables moved."""
        size, states = endings.next.shape
        moved = states > self.next.shape[1]
        if moved:
            room = max(8, 2 * states)
            self.next = torch.zeros(size, room, dtype=torch.int32, device=self.device)
            self.hits = torch.zeros(size, room, dtype=torch.uint8, device=self.device)
        if states != self.num_states:
            self.next[:, :states] = torch.from_numpy(endings.next).to(self.device)
            self.hits[:, :states] = torch.from_numpy(endings.hits).to(self.device)
            self.num_states = states
        return moved


class DeviceBatch(Batch):
    """All rows of one rung, in one engine, a few tokens at a time."""

    def __init__(self, engine: Engine, columns: int, cap: int) -> None:
        super().__init__(engine, columns, cap)
        self.place.num_columns = columns
        self.kernels = cuda_forward.kernels_of(engine.device)
        self.graphs: dict[tuple[int, int, bool], Any] = {}
        self.records = engine.records  #: as graphs; off where one failed
        self.pool: Any = None  #: where the graphs' memory is

    def _renew(self) -> None:
        """The state of as many rows as there are slots; graphs of the old one are gone."""
        num, device = len(self.numbers), self.engine.device
        pinned = device.type == "cuda"
        self.graphs.clear()
        self.state = torch.zeros(TOKENS + MOST + 1, num, dtype=torch.int64, device=device)
        self.written_logprobs = torch.zeros(MOST + 1, num, device=device)
        self.given = torch.zeros(MOST + 2, num, device=device)  # uniforms, temperature, top_p
        self.uniforms = torch.zeros(num, MOST, device=device)
        self._state = torch.zeros(TOKENS + MOST + 1, num, dtype=torch.int64, pin_memory=pinned)
        self._given = torch.zeros(MOST + 2, num, pin_memory=pinned)
        self._logprobs = torch.zeros(MOST + 1, num, pin_memory=pinned)

    def _reserve(self, num_slots: int) -> None:
        before = len(self.numbers)
        super()._reserve(num_slots)
        if len(self.numbers) != before:
            self._renew()

    def clear(self) -> None:
        """Forget every row; the room and the graphs stay."""
        self.waiting.clear()
        self.rows.clear()
        self.numbers[:, POSITION] = 0

    # -- joining

    def _prefill(self, readings: list[Reading], rows: list[list[Request]], width: int) -> list[Request]:
        self._settle(readings, rows, read_prefixes(self.engine, [one.ids for one in readings], width))
        return []

    # -- a few tokens

    def steps(self, num_tokens: int) -> list[Request]:
        """So many tokens for each row that decodes, after new ones joined. Returns the rows that ended."""
        ended: list[Request] = []
        while num_tokens > 0 and self.busy:
            if self.waiting and self.size < self.cap:
                ended += self._join()
            now = min(num_tokens, MOST)
            num_tokens -= now
            ended += self._few(now)
        return ended

    def _few(self, num_tokens: int) -> list[Request]:
        num = min(self.size, self.cap)
        numbers = self.numbers[:num]
        num_tokens = min(num_tokens, int((numbers[:, LIMIT] - numbers[:, COUNT]).max()))
        if self.engine.tables.follow(self.engine.endings):
            self.graphs.clear()
        rows = min(rows_of(num), len(self.numbers))
        cut = bool(numbers[:, CUT].any())
        self._give(num, num_tokens)
        play = self._play(rows, self._columns_for(num, num_tokens), cut)
        for _ in range(num_tokens):
            play()
        self._take()
        return self._note(num)

    def _columns_for(self, num: int, num_tokens: int) -> int:
        """The columns that a step looks at, where the model does not know its rows' lengths."""
        if self.engine.fast is not None:
            return self.columns
        last = int(self.numbers[:num, POSITION].max()) + num_tokens
        return min(self.columns, -(-last // STRIDE) * STRIDE)

    def _give(self, num: int, num_tokens: int) -> None:
        """The rows' state to the device. Those behind the first `num` stand still."""
        lines, given = self._state.numpy(), self._given.numpy()
        lines[:NUM_KEPT] = self.numbers[:, :NUM_KEPT].T
        lines[FLAGS] = 1
        lines[FLAGS, :num] = 0
        lines[STEPS] = 0
        which = np.arange(num)
        offset = self.numbers[:num, COUNT] - self.numbers[:num, BASE]
        if offset.max() + num_tokens > WINDOW:  # all rows at once: the next refill is then many steps away
            self.numbers[:num, BASE] = self.numbers[:num, COUNT] // 4 * 4
            self.uniform[:num] = draws.uniforms(self.seeds[:num], self.numbers[:num, BASE], WINDOW)
            offset = self.numbers[:num, COUNT] - self.numbers[:num, BASE]
        ahead = np.arange(num_tokens)
        given[:num_tokens, :num] = self.uniform[which, offset + ahead[:, None]]
        given[MOST], given[MOST + 1] = self.temperature, self.top_p
        self.state.copy_(self._state, non_blocking=True)
        self.given.copy_(self._given, non_blocking=True)
        self.uniforms.copy_(self.given[:MOST].T)

    def _play(self, rows: int, columns: int, cut: bool) -> Any:
        """One step of the first `rows` slots: its graph, or the step itself."""

        def step() -> None:
            self._token(rows, columns, cut)

        key = rows, columns, cut
        if not self.records or key in self.graphs:
            return self.graphs[key].replay if self.records else step
        standing = self.state[FLAGS].clone()
        self.state[FLAGS] = 1  # tried while all rows stand still: it writes what the next step writes
        try:
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                step()
                step()
            torch.cuda.current_stream().wait_stream(aside)
            if not self.graphs:  # memory whose last graph is gone may not be asked for again
                self.pool = torch.cuda.graph_pool_handle()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self.pool):
                step()
            self.graphs[key] = graph
        except RuntimeError as problem:
            if isinstance(problem, torch.OutOfMemoryError):
                raise
            self.records = self.engine.records = False
            self.graphs.clear()
            _release(self.engine.device)
            reason = " after ".join(_reasons(problem))
            warnings.warn(
                f"model {self.engine.name}: its steps are launched one by one, since they cannot be recorded "
                f"as a CUDA graph: {reason}",
                stacklevel=2,
            )
        self.state[FLAGS] = standing
        return self.graphs[key].replay if self.records else step

    def _token(self, num: int, columns: int, cut: bool) -> None:
        """One token for each row whose flags are 0. Everything stays on the device."""
        state = self.state[:, :num]
        last, position = state[LAST], state[POSITION]
        tokens, logprobs = self._choose_on_device(self._logits(last, position, columns), num, cut)
        tables = self.engine.tables
        self.kernels.follow(
            state, tokens, logprobs, self.written_logprobs[:, :num], tables.next, tables.hits, LINES, LENGTH
        )

    def _logits(self, last: torch.Tensor, position: torch.Tensor, columns: int) -> torch.Tensor:
        """[R, V] of each row's next token."""
        if self.engine.fast is not None:
            return self.engine.top(self.engine.fast.write(last, position, self.layers))
        num = len(last)
        self.mask[:num, 0, 0].scatter_(1, position[:, None], 0.0)
        self.place.write_to(position, columns)
        mask = self.mask[:num, ..., :columns]
        return self.engine.forward(last[:, None], position[:, None], mask, self.cache)

    def _choose_on_device(
        self, logits: torch.Tensor, num: int, cut: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        state, temperature = self.state[:, :num], self.given[MOST, :num]
        given = self.uniforms[:num], state[STEPS].clamp(max=MOST - 1), state[GREEDY]
        if not cut:
            return self.kernels.choose(logits, temperature, *given)
        logits = logits.float()
        narrow = draws.cut(logits / temperature[:, None], state[TOP_K], self.given[MOST + 1, :num])
        drawn, _ = self.kernels.choose(narrow, torch.ones_like(temperature), *given)
        tokens = torch.where(state[GREEDY] != 0, logits.argmax(-1), drawn)
        return tokens, logits.gather(-1, tokens[:, None]).squeeze(-1) - logits.logsumexp(-1)

    def _take(self) -> None:
        """The state back to the host, which waits for it."""
        self._state.copy_(self.state, non_blocking=True)
        self._logprobs.copy_(self.written_logprobs, non_blocking=True)
        if self.engine.device.type == "cuda":
            torch.cuda.current_stream().synchronize()

    def _note(self, num: int) -> list[Request]:
        """Write down what the rows have more. Returns those that ended."""
        lines = self._state.numpy()[:, :num]
        taken, flags, count = lines[STEPS], lines[FLAGS], self.numbers[:num, COUNT].copy()
        step, slot = np.nonzero(np.arange(MOST)[:, None] < taken)
        logprobs = self._logprobs.numpy()[step, slot]
        if not np.isfinite(logprobs).all():
            raise Diverged(
                f"model {self.engine.name}: a token's log-probability is not finite; the weights diverged"
            )
        self.ids[slot, count[slot] + step] = lines[TOKENS + step, slot]
        self.logprobs[slot, count[slot] + step] = logprobs
        for column in (LAST, POSITION, COUNT, STATE):
            self.numbers[:num, column] = lines[column]
        ended = np.flatnonzero(flags)
        return self._leave(ended, flags[ended]) if len(ended) else []


def read_prefixes(engine: Engine, prefixes: Sequence[Sequence[int]], width: int) -> list[Stash]:
    """The cache of prefixes alone: what follows them a step will say."""
    ids, positions, mask, held = engine._begun(prefixes, width)
    if engine.top is not None:
        engine._hidden(ids, positions, mask, cache_of(held))
    else:
        engine._logits(ids, positions, mask, cache_of(held), logits_to_keep=1)
    return held


def _reasons(problem: BaseException | None) -> Iterator[str]:
    """Why a step could not be recorded: the error, and what came before it."""
    while problem is not None:
        yield f"{type(problem).__name__}: {(str(problem).splitlines() or [''])[0]}"
        problem = problem.__cause__ or problem.__context__


def _release(device: torch.device) -> None:
    """A recording that failed keeps the device's random numbers: take them back."""
    index = torch.cuda.current_device() if device.index is None else device.index
    with contextlib.suppress(RuntimeError):  # what failed is reported by the caller
        torch.cuda.synchronize(device)
        generator = torch.cuda.default_generators[index]
        generator.graphsafe_set_state(generator.clone_state())


def rows_of(number: int) -> int:
    """The rows of the smallest graph that holds so many: a power of two, or half way between two."""
    whole = 1 << max(0, number - 1).bit_length()
    return whole * 3 // 4 if whole >= 16 and number <= whole * 3 // 4 else whole
