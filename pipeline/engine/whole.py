"""An engine for families that the running batch does not know: every row is read whole, by transformers' own
forward, at each token.

Rows are padded on the right and given without mask, positions or cache, so whatever a causal family does with
its positions (ALiBi, local layers, a recurrence) is its own affair; a token never sees what stands behind it.
That takes a forward over the row where the other engine takes one over a token: right, and slow. Its rows are
the same in distribution only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from pipeline.engine.batch import COUNT, POSITION, Batch
from pipeline.engine.cache import Stash
from pipeline.engine.cpu_attention import NAMES
from pipeline.engine.local import Engine
from pipeline.engine.prefix_cache import Held


class WholeBatch(Batch):
    """Rows whose next token is read from all of them."""

    def _forward(self, num: int) -> torch.Tensor:
        last = self.numbers[:num, POSITION]
        counts = self.numbers[:num, COUNT].tolist()
        ids = np.full((num, int(last.max()) + 1), self.engine.pad_id)
        for line, row, written, count in zip(ids, self.rows, self.ids, counts, strict=False):
            line[: len(row.ids)] = row.ids
            line[len(row.ids) : len(row.ids) + count] = written[:count]
        given = torch.from_numpy(ids).to(self.engine.device)
        logits = self.engine._logits(given, given, None, None)  # positions are the model's own affair
        return logits[
            torch.arange(num, device=logits.device), torch.from_numpy(last.copy()).to(logits.device)
        ].float()


class WholeEngine(Engine):
    """The engine's interface over transformers' own forward."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        if self.model.config._attn_implementation in NAMES:
            self.model.set_attn_implementation("sdpa")
        self.batch_kind, self.tables, self.fast, self._lean = WholeBatch, None, None, None
        self.num_layers = 1  # of stand-ins for a cache
        self.trim, self.remembers, self.exact = True, False, False
        self.reads_whole = True
        self.own_masks = False

    def _plain_head(self) -> None:
        """None: the model is called as a whole."""

    @property
    def _token_bytes(self) -> int:  # type: ignore[override]
        """What a token of a forward takes, roughly."""
        config = self.model.config.get_text_config()
        return 8 * config.num_hidden_layers * config.hidden_size * self.dtype.itemsize

    def _logits(
        self, ids: torch.Tensor, positions: Any, mask: Any, held: Any, logits_to_keep: Any = None, **_: Any
    ) -> torch.Tensor:
        logits = self.model(input_ids=ids, use_cache=False).logits
        return logits if logits_to_keep is None else logits[:, logits_to_keep]

    def prefill(
        self, prefixes: Sequence[Sequence[int]], width: int, known: Sequence[Held] = ()
    ) -> tuple[list[Stash], torch.Tensor]:
        """As the engine's, with a stand-in for the cache."""
        _, logits = super().prefill(prefixes, width)
        nothing = torch.zeros(len(prefixes), 1, width, 1, device=self.device)
        return [Stash.of(nothing, nothing)], logits
