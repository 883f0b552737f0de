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

from pipeline.engine.cpu_attention import attend
from pipeline.engine.cpu_linear import least_rows

TURNS = 8192  #: positions whose rotations are kept
#: of the logits' spread, what half precision may differ by on average: norms and rotations are rounded once
#: here and several times there (SmolLM2-135M: 0.029; float32 is 0.025 away from this forward, 0.029 from
#: transformers')
HALF = 0.1
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
    asks: Callable[[torch.Tensor], torch.Tensor]  #: queries, keys and values
    out: Callable[[torch.Tensor], torch.Tensor]
    after: torch.Tensor
    gates: Callable[[torch.Tensor], torch.Tensor]  #: gate and up
    down: Callable[[torch.Tensor], torch.Tensor]


class CpuForward:
    """The body of a model: ids to hidden states."""

    def __init__(self, body: Any, one_by_one: bool) -> None:
        config = body.config
        self.one_by_one = one_by_one  #: see `attention`
        self.heads: int = config.num_attention_heads
        self.shared: int = config.num_key_value_heads
        self.size: int = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.eps: float = config.rms_norm_eps
        self.words, self.last, self.rotary = body.embed_tokens, body.norm.weight, body.rotary_emb
        context = config.max_position_embeddings
        self.turns = self._turns(torch.arange(context)[None]) if context <= TURNS else None
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

    def _turns(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The rotation of each position: cosines, and sines with the sign of the half they go to; [..., size]
        each.
        """
        cos, sin = self.rotary(self.last, positions)
        half = self.size // 2
        return cos, torch.cat((-sin[..., :half], sin[..., half:]), dim=-1)

    def __call__(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        mask: torch.Tensor,
        held: Sequence[Any] | None,
        at: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Hidden states [R, N, width] after the last norm. ids, positions [R, N], an additive mask
        [R, 1, N, C]; held: the layers of a cache. at [R, A]: the columns to give, [R, A, width]; what only
        others would need of the last layer is then left out.
        """
        num_rows, new = ids.shape
        num = num_rows * new
        short = max(0, least_rows() - num)
        rows = self.words(ids)
        if self.turns is None:
            cos, sin = self._turns(positions)
        else:
            cos, sin = (part[0].index_select(0, positions.reshape(-1)) for part in self.turns)
        turns = cos.view(num_rows, new, 1, -1), sin.view(num_rows, new, 1, -1)
        rows = pad(rows.reshape(num, -1), (0, 0, 0, short))
        width = (rows.shape[-1],)
        for place, layer in enumerate(self.layers):
            found = layer.asks(rms_norm(rows, width, layer.before, self.eps))[:num]
            query, key, value = self._heads(found.view(num_rows, new, -1, self.size), *turns)
            if held is not None:
                key, value = held[place].update(key, value)
            if at is not None and layer is self.layers[-1]:
                line = torch.arange(num_rows)[:, None]
                query, mask = (
                    query.transpose(1, 2)[line, at].transpose(1, 2),
                    mask[line, :, at].transpose(1, 2),
                )
                new, num = at.shape[1], at.numel()
                short = max(0, least_rows() - num)
                rows = pad(rows[(line * ids.shape[1] + at).reshape(-1)], (0, 0, 0, short))
            seen = attend(None, query, key, value, mask, self.size**-0.5, self.one_by_one)[0]
            seen = seen.reshape(num, -1)
            rows = rows + layer.out(pad(seen, (0, 0, 0, short)) if short else seen)
            gate, up = layer.gates(rms_norm(rows, width, layer.after, self.eps)).chunk(2, dim=-1)
            rows = rows + layer.down(silu(gate).mul_(up))
        return rms_norm(rows[:num], width, self.last, self.eps).view(num_rows, new, -1)

    def _heads(
        self, found: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries and keys, turned, and values, [R, heads, N, size] each, of [R, N, all heads, size]."""
        asking = self.heads + self.shared
        turned = found[:, :, :asking]
        first, second = turned.chunk(2, dim=-1)
        turned = torch.cat((second, first), dim=-1).mul_(sin).add_(turned * cos).transpose(1, 2)
        return turned[:, : self.heads], turned[:, self.heads :], found[:, :, asking:].transpose(1, 2)


@torch.inference_mode()
def cpu_forward_of(
    model: Any, head: Callable[[torch.Tensor], torch.Tensor], one_by_one: bool
) -> CpuForward | None:
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
    lean = CpuForward(body, one_by_one)
    ids = torch.arange(1, 13)[None] * body.config.vocab_size // 13  # special tokens stand at the ends
    places = torch.arange(ids.shape[1])
    mask = torch.where(places[:, None] >= places, 0.0, -torch.inf).to(body.embed_tokens.weight.dtype)[
        None, None
    ]
    found = head(lean(ids, places[None], mask, None)).float()
    given = {"input_ids": ids, "position_ids": places[None], "attention_mask": mask, "use_cache": False}
    own = model(**given).logits.float()
    if mask.dtype == torch.float32:
        return lean if torch.allclose(found, own, rtol=1e-3, atol=1e-4) else None
    off = (found - own).abs().mean() / own.std(unbiased=False).clamp(min=1e-3)
    return lean if off <= HALF else None
