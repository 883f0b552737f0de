"""The mask of a forward as a model's layers want it: one for all, a window's, or one by kind of layer."""

from __future__ import annotations

from typing import Any

import torch


class Masks:
    """Of one model. `mixed`: some of its layers look at a window and others do not."""

    def __init__(self, config: Any) -> None:
        self._kinds = set(getattr(config, "layer_types", None) or [])
        self._window: int = getattr(config, "sliding_window", None) or 0
        self.mixed = bool(self._window) and "sliding_attention" in self._kinds

    def __call__(self, mask: torch.Tensor, positions: torch.Tensor) -> Any:
        """mask: [rows, 1, queries, columns], 0 where a query may look; positions: [rows, queries]."""
        if not self._window or (self._kinds and not self.mixed):
            return mask
        columns = torch.arange(mask.shape[-1], device=mask.device)
        near = mask.masked_fill(positions[:, None, :, None] - columns >= self._window, -torch.inf)
        return {"full_attention": mask, "sliding_attention": near} if self._kinds else near
