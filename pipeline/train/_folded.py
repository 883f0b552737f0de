"""LoRA layers computed as one product on CPU: x (W + s B A)^T in place of x W^T + s (x A^T) B^T.

The same function and the same gradients, in another order of rounding. Small models on CPU are bound by
memory: two more thin products and a sum over all tokens in every layer cost 20 % of a step (hidden 128, rank
16: 1.67 against 2.00 steps/s, one thread). In wide layers the whole-weight gradient would cost more than
that, so they keep peft's own forward; so do dropout, DoRA and other variants, GPUs and DeepSpeed.
"""

from __future__ import annotations

import types
from typing import Any

import torch
from peft.tuners.lora import Linear
from torch.nn import functional


def _forward(self: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    if self.disable_adapters or self.merged:  # a reference model, perhaps
        return Linear.forward(self, x, *args, **kwargs)
    name = self.active_adapters[0]
    update = self.lora_B[name].weight @ self.lora_A[name].weight
    return functional.linear(x, self.base_layer.weight + self.scaling[name] * update, self.base_layer.bias)


def fold(model: torch.nn.Module) -> int:
    """Give every LoRA layer where it pays the folded forward; returns how many."""
    layers = [layer for layer in model.modules() if type(layer) is Linear and _pays(layer)]
    for layer in layers:
        layer.forward = types.MethodType(_forward, layer)  # type: ignore[method-assign]
    return len(layers)


def _pays(layer: Any) -> bool:
    plain = (
        type(layer.base_layer) is torch.nn.Linear
        and len(layer.active_adapters) == 1
        and not layer.merged
        and not layer.lora_variant
        and not layer.fan_in_fan_out
        and not any(layer.lora_bias.values())
    )
    if not plain or layer.active_adapters[0] not in layer.lora_A:
        return False
    name = layer.active_adapters[0]
    columns, rows = layer.in_features, layer.out_features
    still = isinstance(layer.lora_dropout[name], torch.nn.Identity)
    same = layer.base_layer.weight.dtype == layer.lora_A[name].weight.dtype == torch.float32
    # twice the tokens' thin products against the weight's gradient: measured to pay up to about 8 ranks
    return still and same and rows * columns <= 8 * layer.r[name] * (rows + columns)
