"""The forward of a Llama-like model on a GPU in few launches: ten a layer for a new token, four of them
products of torch.

transformers' own layers make about forty-five small launches beside their products, which cost more than a
step's reading of the weights. Queries, keys and values are one product here, so are gate and up; what stands
between the products is `cuda_kernels` (or `cuda_plain`, without Triton). Prefixes are read by torch's flash
attention, which needs no mask where padding stands on the right. Of Llama, Mistral, Qwen2 and Qwen3 models
without sliding windows, and only where it gives what the model itself gives; every other model runs as
transformers runs it.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from pipeline.engine import cuda_plain
from pipeline.engine.cache import Stash
from pipeline.engine.cpu_forward import _joined, _Product

#: =1 takes `cuda_products` where it can. Unproven, so off: on an H100 at 1.5B shapes 29.0 k against 26.9 k
#: tokens/s, but their logits have not been compared there since a fault was mended (docs/gpu.md)
PRODUCTS = "RATCHET_CUDA_PRODUCTS"
KINDS = ("LlamaModel", "MistralModel", "Qwen2Model", "Qwen3Model")
SIZES = (16, 32, 64, 128, 256)  #: of a head
MOST_TURNS = 1 << 18  #: positions whose rotations are kept
ROUND = {torch.float32: 1e-4, torch.bfloat16: 6e-2, torch.float16: 1e-2}  #: how far logits may part


def kernels_of(device: torch.device) -> Any:
    """What stands between the products: Triton's launches on a GPU that has it, else torch's."""
    if device.type != "cuda":
        return cuda_plain
    try:
        from pipeline.engine import cuda_kernels
    except ImportError:
        return cuda_plain
    return cuda_kernels


@dataclass(slots=True)
class _Layer:
    before: torch.Tensor
    asks: _Product  #: queries, keys and values
    norms: tuple[torch.Tensor, torch.Tensor] | None  #: of a head's queries and keys (Qwen3)
    out: _Product
    after: torch.Tensor
    gates: _Product  #: gate and up
    down: _Product


class Fast:
    """The body of a model: ids to hidden states after the last norm."""

    def __init__(self, body: Any, kernels: Any) -> None:
        config = body.config
        self.kernels = kernels
        self.heads: int = config.num_attention_heads
        self.shared: int = config.num_key_value_heads
        self.size: int = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.eps: float = config.rms_norm_eps
        self.words, self.last = body.embed_tokens, body.norm.weight
        places = torch.arange(config.max_position_embeddings + 512, device=self.last.device)
        self.turns = tuple(part[0].contiguous() for part in body.rotary_emb(self.last, places[None]))
        self.layers = [_layer(layer) for layer in body.layers]
        self.products: Any = None  #: with what stands between them, for few rows

    def read(
        self, ids: torch.Tensor, held: Sequence[Stash] | None, at: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Hidden states [R, N, width] of sequences that begin at position 0, padded on the right, or those
        of the columns `at` [R, A]. held: one for each layer, gets the keys and values.
        """
        num, new = ids.shape
        positions = torch.arange(new, device=ids.device).repeat(num)
        few = self.words.weight.dtype == torch.float32  # no kernel of torch shares keys there
        room: tuple[torch.Tensor, torch.Tensor] | None = None

        def attention(place: int, found: torch.Tensor, norms: Any) -> torch.Tensor:
            nonlocal room
            if room is None or held is not None:
                shape = (num, self.shared, new, self.size)
                room = found.new_empty(shape), found.new_empty(shape)
            keys, values = room
            queries = self.kernels.turn(
                found, positions, self.turns, norms, keys, values, new, self.heads, self.eps
            )
            if held is not None:
                held[place].keys, held[place].values = keys, values
            if few and self.heads > self.shared:
                keys, values = (
                    part.repeat_interleave(self.heads // self.shared, 1) for part in (keys, values)
                )
            seen = scaled_dot_product_attention(
                queries.view(num, new, self.heads, self.size).transpose(1, 2), keys, values,
                is_causal=True, enable_gqa=not few and self.heads > self.shared,
            )  # fmt: skip
            return seen.transpose(1, 2).reshape(num * new, -1)

        hidden = self._layers(ids.reshape(-1), attention).view(num, new, -1)
        return hidden if at is None else hidden[torch.arange(num, device=at.device)[:, None], at]

    def write(self, last: torch.Tensor, positions: torch.Tensor, slots: Sequence[Any]) -> torch.Tensor:
        """Hidden states [R, width] of one new token a row, `last` [R] at `positions` [R]; slots: for each
        layer keys and values, of which row i has the i-th slot.
        """
        if self.products is not None and len(last) <= self.products.most:
            return self._write_few(last, positions, slots)

        def attention(place: int, found: torch.Tensor, norms: Any) -> torch.Tensor:
            keys, values = slots[place].keys, slots[place].values
            queries = self.kernels.turn(
                found, positions, self.turns, norms, keys, values, 1, self.heads, self.eps
            )
            return self.kernels.attend(queries, keys, values, positions, self.size**-0.5)

        return self._layers(last, attention)

    def _write_few(self, last: torch.Tensor, positions: torch.Tensor, slots: Sequence[Any]) -> torch.Tensor:
        """The same in five launches a layer."""
        products = self.products
        stream, given = products.begin(last, self.words.weight, self.layers[0].before)
        followers = [*(layer.before for layer in self.layers[1:]), self.last]
        for layer, slot, following in zip(self.layers, slots, followers, strict=True):
            keys, values = slot.keys, slot.values
            queries = products.turned(
                given, layer.asks, positions, self.turns, keys, values, self.heads, self.eps
            )
            seen = self.kernels.attend(
                queries, keys, values, positions, self.size**-0.5, products.pdl, layer.gates.weight
            )
            given = products.added(seen, layer.out, stream, layer.after)
            opened = products.gated(given, layer.gates, self.eps)
            given = products.added(opened, layer.down, stream, following)
        return self.kernels.add_norm(stream, None, self.last, self.eps)

    def _layers(self, ids: torch.Tensor, attention: Callable[[int, torch.Tensor, Any], Any]) -> torch.Tensor:
        """All layers over tokens [T]; `attention` sees each one's queries, keys and values."""
        kernels, rows = self.kernels, self.words(ids)
        normed = kernels.add_norm(rows, None, self.layers[0].before, self.eps)
        followers = [*(layer.before for layer in self.layers[1:]), self.last]
        for place, (layer, following) in enumerate(zip(self.layers, followers, strict=True)):
            seen = attention(place, layer.asks(normed), layer.norms)
            normed = kernels.add_norm(rows, layer.out(seen), layer.after, self.eps)
            opened = kernels.gate(layer.gates(normed))
            normed = kernels.add_norm(rows, layer.down(opened), following, self.eps)
        return normed


def _layer(layer: Any) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    norms = None
    if hasattr(attention, "q_norm"):
        norms = attention.q_norm.weight, attention.k_norm.weight
    return _Layer(
        layer.input_layernorm.weight,
        _joined(attention.q_proj, attention.k_proj, attention.v_proj),
        norms,
        _joined(attention.o_proj),
        layer.post_attention_layernorm.weight,
        _joined(mlp.gate_proj, mlp.up_proj),
        _joined(mlp.down_proj),
    )


@torch.inference_mode()
def fast_of(model: Any, head: Callable[[torch.Tensor], torch.Tensor], kernels: Any = None) -> Fast | None:
    """A body in few launches, or None where the model is of another kind or it would not give the model's
    own logits. head: hidden states to logits. kernels: others than the device's.
    """
    body, config = model.base_model, model.base_model.config
    if type(body).__name__ not in KINDS or getattr(config, "hidden_act", "") != "silu":
        return None
    projections = [one for name, one in body.layers.named_modules() if name.endswith("_proj")]
    plain = all(type(one) is torch.nn.Linear and type(one.weight.data) is torch.Tensor for one in projections)
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if not plain or size not in SIZES or config.max_position_embeddings > MOST_TURNS:
        return None
    device = body.embed_tokens.weight.device
    fast = Fast(body, kernels or kernels_of(device))
    fast.products = _products(fast, device)
    if fast.products is not None and not _agree(model, fast, head):
        fast.products = None
    far = gaps(model, fast, head)
    if not all(gap < ROUND.get(fast.last.dtype, 0.0) for gap in far):  # NaN is no answer either
        warnings.warn(
            f"{type(model).__name__} runs as transformers runs it: in few launches its logits are "
            f"{max(far):.2g} of their norm off",
            stacklevel=2,
        )
        return None
    return fast


def _products(fast: Fast, device: torch.device) -> Any:
    """Products with what stands between them, where PRODUCTS asks for them: in half precision, on a GPU whose
    Triton has them, of shapes that can be cut. Else None.
    """
    if os.environ.get(PRODUCTS) != "1":
        return None
    if device.type != "cuda" or fast.kernels is cuda_plain or fast.last.dtype == torch.float32:
        return None
    from pipeline.engine import cuda_products

    if not all(cuda_products.fits(layer, fast.size) for layer in fast.layers):
        warnings.warn(
            f"{PRODUCTS}=1 changes nothing here: a product of this model's shapes cannot be cut so; "
            "torch's own run instead",
            stacklevel=2,
        )
        return None
    return cuda_products.Products(device, pdl=torch.cuda.get_device_capability(device) >= (9, 0))


def _agree(model: Any, fast: Fast, head: Callable[[torch.Tensor], torch.Tensor]) -> bool:
    """Whether a token's products can be launched here, and give the model's logits."""
    try:
        far = gaps(model, fast, head)[1]
    except torch.OutOfMemoryError:
        raise
    except Exception as problem:  # noqa: BLE001  a compiler or a chip that cannot; the plain launches can
        warnings.warn(f"products alone, without what stands between them: {problem}"[:300], stacklevel=2)
        return False
    if far < ROUND[fast.last.dtype]:
        return True
    warnings.warn(
        f"{PRODUCTS}=1 changes nothing here: with these products a row's logits are {far:.2g} of their norm "
        "off; torch's own run instead",
        stacklevel=2,
    )
    return False


@torch.inference_mode()
def gaps(model: Any, fast: Fast, head: Callable[[torch.Tensor], torch.Tensor]) -> tuple[float, float]:
    """How far its logits part from the model's own, as a share of their norm: two sequences read, and their
    last token written, of which the row that is farthest off.
    """
    config, device = model.base_model.config, fast.last.device
    number = min(24, config.max_position_embeddings)
    ids = torch.arange(2 * number, device=device).view(2, -1) % config.vocab_size
    theirs = model(input_ids=ids, use_cache=False).logits.float()
    held = [Stash() for _ in fast.layers]
    read = head(fast.read(ids, held)).float()
    last = torch.full((2,), number - 1, device=device)
    for layer in held:  # the last column is written anew
        layer.keys[:, :, -1] = 0
        layer.values[:, :, -1] = 0
    written = head(fast.write(ids[:, -1], last, held)).float()
    read_gap = (read - theirs).norm() / theirs.norm()
    rows = (written - theirs[:, -1]).norm(dim=-1) / theirs[:, -1].norm(dim=-1)
    return float(read_gap), float(rows.max())
