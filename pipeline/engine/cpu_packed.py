"""Large models on the CPU: weights laid out once for the processor's products.

A product of a few rows with a large matrix spends a third to a half of its time on laying the matrix out;
oneDNN can be given it laid out (measured on SmolLM2-135M, 16 rows: 1.5 times as fast in float32, 1.3 in
bfloat16, the vocabulary's 2.3 and 1.6; 1,024 rows: 1.15 and 1.05). In bfloat16 the bits are those of the
plain product, in float32 they are others, so small models, whose goldens are in float32 and whose products
fit the cache, are left as they are. A row has the same bits among 16 to 1,024 rows; `selftest` looks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import MethodType
from typing import Any

import torch
from torch.nn.functional import pad

from pipeline.engine.cpu_forward import CpuForward
from pipeline.engine.cpu_linear import least_rows
from pipeline.engine.rungs import LARGE_WEIGHTS

ROWS = 64  #: that a layout is made for


def large(model: Any) -> bool:
    """Are a step's products most of its time?"""
    return sum(weight.numel() for weight in model.parameters()) >= LARGE_WEIGHTS


class Packed:
    """One product, of a weight [out, in] that is laid out for it."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.bias = bias
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), ROWS)

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.ops.mkldnn._linear_pointwise(rows, self.weight, self.bias, "none", [], "")


def can_pack(dtype: torch.dtype) -> bool:
    """Has this torch oneDNN's products of such numbers, on this processor?"""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32


@torch.inference_mode()
def pack(model: Any, lean: CpuForward) -> None:
    """Lay out the joined products of a model's lean forward, and its head. The plain weights are let go, but
    where an embedding uses them: a lean model's own layers are plain too, so nothing else reads them.
    """
    if not can_pack(model.dtype):
        return
    kept = {module.weight.data_ptr() for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    for own, layer in zip(model.base_model.layers, lean.layers, strict=True):
        attention, mlp = own.self_attn, own.mlp
        layer.asks = _packed(layer.asks, (attention.q_proj, attention.k_proj, attention.v_proj))
        layer.out = _packed(layer.out, (attention.o_proj,))
        layer.gates = _packed(layer.gates, (mlp.gate_proj, mlp.up_proj))
        layer.down = _packed(layer.down, (mlp.down_proj,))
    head = model.get_output_embeddings()
    if type(head) is torch.nn.Linear and type(head.weight.data) is torch.Tensor:
        _use(head, Packed(head.weight, head.bias), 0, head.weight.data_ptr() not in kept)


def _packed(product: Any, modules: Sequence[torch.nn.Linear]) -> Callable[[torch.Tensor], torch.Tensor]:
    """A joined product laid out; the modules whose weights it joins compute by it."""
    made, first = Packed(product.weight, product.bias), 0
    for module in modules:
        _use(module, made, first, True)
        first += module.weight.shape[0]
    return made


def _use(module: Any, product: Packed, first: int, free: bool) -> None:
    """Let a layer compute by a product, of which its columns begin at `first`; free: it forgets its weight,
    and what reads it nevertheless finds no numbers.
    """
    size = module.weight.shape[0]
    module.product, module.columns = product, slice(first, first + size)
    module.forward = MethodType(_forward, module)
    if free:
        module.weight.data = module.weight.data.new_full((1, 1), torch.nan).expand(module.weight.shape)


def _forward(self: Any, given: torch.Tensor) -> torch.Tensor:
    """Rows [..., in] to [..., out]; few are padded, as `cpu_linear` does."""
    rows = given.reshape(-1, given.shape[-1])
    short = max(0, least_rows() - len(rows))
    found = self.product(pad(rows, (0, 0, 0, short)) if short else rows)
    return found[: len(rows), self.columns].reshape(*given.shape[:-1], -1)
