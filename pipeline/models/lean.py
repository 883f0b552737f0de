"""The forward of a Llama-like model in few operations, for the CPU.

transformers' own forward of a small model spends more time on the way to its products than in them: seven a
layer, each through a module, norms and rotations in a dozen steps. Here queries, keys and values are one
product, so are gate and up, and rows that are too few for a product (`products`) are padded once. Of Llama,
Mistral and Qwen2 models, and only where it gives what the model itself gives; every other model runs as
transformers runs it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import linear, pad, rms_norm, silu

from pipeline.models.attention import attend
from pipeline.models.products import least_rows

KINDS = ("LlamaModel", "MistralModel", "Qwen2Model")


@dataclass(slots=True)
class _Product:
    """One product in place of several linear layers of the same input."""

    weight: torch.Tensor
    bias: torch.Tensor | None

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        return linear(rows, self.weight, self.bias)


def _joined(*modules: torch.nn.Linear) -> _Product:
    """The modules' weights, one below the other; they keep views of them, so no weight is held twice."""
    weight = torch.cat([module.weight.data for module in modules])
    biases = [module.bias for module in modules]
    bias = torch.cat([one.data for one in biases]) if biases[0] is not None else None
    for module, part in zip(modules, weight.split([len(m.weight) for m in modules]), strict=True):
        module.weight.data = part
    return _Product(weight, bias)


@dataclass(slots=True)
class _Layer:
    before: torch.Tensor
    asks: _Product  #: queries, keys and values
    out: _Product
    after: torch.Tensor
    gates: _Product  #: gate and up
    down: _Product


class Lean:
    """The body of a model: ids to hidden states."""

    def __init__(self, body: Any) -> None:
        config = body.config
        self.heads: int = config.num_attention_heads
        self.shared: int = config.num_key_value_heads
        self.size: int = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.eps: float = config.rms_norm_eps
        self.words, self.last, self.rotary = body.embed_tokens, body.norm.weight, body.rotary_emb
        self.layers = [
            _Layer(
                layer.input_layernorm.weight,
                _joined(layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj),
                _joined(layer.self_attn.o_proj),
                layer.post_attention_layernorm.weight,
                _joined(layer.mlp.gate_proj, layer.mlp.up_proj),
                _joined(layer.mlp.down_proj),
            )
            for layer in body.layers
        ]

    def __call__(
        self, ids: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor, held: Sequence[Any] | None
    ) -> torch.Tensor:
        """Hidden states [R, N, width] after the last norm. ids, positions [R, N], an additive mask
        [R, 1, N, C]; held: the layers of a cache.
        """
        num_rows, new = ids.shape
        num = num_rows * new
        short = max(0, least_rows() - num)
        rows = self.words(ids)
        cos, sin = (part.unsqueeze(2) for part in self.rotary(rows, positions))
        rows = pad(rows.reshape(num, -1), (0, 0, 0, short))
        asking, width = self.heads + self.shared, (rows.shape[-1],)
        for place, layer in enumerate(self.layers):
            found = layer.asks(rms_norm(rows, width, layer.before, self.eps))[:num]
            found = found.view(num_rows, new, asking + self.shared, self.size)
            turned = found[:, :, :asking]
            first, second = turned.chunk(2, dim=-1)
            turned = torch.cat((-second, first), dim=-1).mul_(sin).add_(turned * cos).transpose(1, 2)
            query, key = turned[:, : self.heads], turned[:, self.heads :]
            value = found[:, :, asking:].transpose(1, 2)
            if held is not None:
                key, value = held[place].update(key, value)
            seen = attend(None, query, key, value, mask, self.size**-0.5)[0].reshape(num, -1)
            rows = rows + layer.out(pad(seen, (0, 0, 0, short)) if short else seen)
            gate, up = layer.gates(rms_norm(rows, width, layer.after, self.eps)).chunk(2, dim=-1)
            rows = rows + layer.down(silu(gate).mul_(up))
        return rms_norm(rows[:num], width, self.last, self.eps).view(num_rows, new, -1)


@torch.inference_mode()
def lean_of(model: Any, head: Callable[[torch.Tensor], torch.Tensor]) -> Lean | None:
    """A lean body for a model, or None where it would not give the model's own logits. head: hidden states
    to logits.
    """
    body = model.base_model
    if type(body).__name__ not in KINDS or getattr(body.config, "hidden_act", "") != "silu":
        return None
    projections = [one for name, one in body.layers.named_modules() if name.endswith("_proj")]
    weights = [one.weight.data for one in projections if type(one) is torch.nn.Linear]
    if len(weights) < len(projections) or any(type(one) is not torch.Tensor for one in weights):
        return None  # quantised, say
    lean = Lean(body)
    ids = torch.arange(min(12, body.config.vocab_size))[None]
    places = torch.arange(ids.shape[1])
    mask = torch.where(places[:, None] >= places, 0.0, -torch.inf).to(body.embed_tokens.weight.dtype)[
        None, None
    ]
    found = head(lean(ids, places[None], mask, None))
    given = {"input_ids": ids, "position_ids": places[None], "attention_mask": mask, "use_cache": False}
    return (
        lean if torch.allclose(found.float(), model(**given).logits.float(), rtol=1e-3, atol=1e-4) else None
    )
