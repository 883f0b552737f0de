"""`head: shared`: an engine whose scores are those of a value head on the policy's own last hidden states.

What a search remembers of a prefix serves both: a step that the model wrote is scored without being read
again. A base whose value head nobody has trained writes as any policy, and scores nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch

from pipeline.engine.cache import cache_of
from pipeline.errors import RecipeError
from pipeline.models.shared import HEAD


@functools.cache
def shared_kind(kind: Any) -> Any:
    """An engine of this kind whose model has a value head."""

    class SharedEngine(kind):
        """Writes and scores by one model."""

        def score(self, items: Sequence[Any], memories: Sequence[Any] = ()) -> list[list[float]]:
            """As the engine's: the value at each position."""
            if getattr(self.model, HEAD) is None:
                raise RecipeError(
                    f"model {self.name}: head: shared: its value head was never trained; train it first "
                    "(train: shared)"
                )
            return super().score(items, memories)

        def _score_part(
            self, ids: torch.Tensor, positions: torch.Tensor, mask: Any, at: torch.Tensor, held: Any
        ) -> torch.Tensor:
            if self.own_masks:
                hidden = self._hidden(ids, positions, mask, cache_of(held) if held else None, at)
            else:
                whole = self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
                hidden = whole[torch.arange(len(at), device=at.device)[:, None], at]
            return self.scores_of(getattr(self.model, HEAD)(hidden).float())

    return SharedEngine
