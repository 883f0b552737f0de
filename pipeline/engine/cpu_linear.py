"""Linear layers whose bits do not depend on how many rows share a product.

MKL takes another kernel for a product of few rows (fewer than 4 to a thread on AMD's Zen 4; none was seen on
Intel's) and another for a single column out (a reward model's scalar head), and each adds up in an order of
its own. So few rows are padded with zeros, and a single column is computed among eight. Measured bitwise
equal for 1 to 600 rows, one and two threads; `selftest` checks it on each machine.
"""

from __future__ import annotations

from types import MethodType

import torch
from torch.nn.functional import linear, pad

LEAST = 16  #: rows of a product
PER_THREAD = 8  #: and at least so many to each thread
COLUMNS = 8  #: of a product whose layer has one


def least_rows() -> int:
    """The fewest rows that a product may have here."""
    return max(LEAST, PER_THREAD * torch.get_num_threads())


def _forward(self: torch.nn.Linear, given: torch.Tensor) -> torch.Tensor:
    """Rows [..., in] to [..., out], as Linear's own."""
    weight: torch.Tensor = self.weight
    bias: torch.Tensor | None = self.bias
    num, width = given.numel() // given.shape[-1], weight.shape[0]
    short = least_rows() - num
    if short <= 0 and width > 1:
        return linear(given, weight, bias)
    rows = given.reshape(num, -1)
    if short > 0:
        rows = pad(rows, (0, 0, 0, short))
    if width == 1:
        weight = pad(weight, (0, 0, 0, COLUMNS - 1))
        bias = None if bias is None else pad(bias, (0, COLUMNS - 1))
    out = linear(rows, weight, bias)[:num, :width]
    return out.reshape(*given.shape[:-1], width)


def use(model: torch.nn.Module) -> None:
    """Let every linear layer of a model on the CPU compute so."""
    for module in model.modules():
        if type(module) is torch.nn.Linear:
            module.forward = MethodType(_forward, module)  # type: ignore[method-assign]
