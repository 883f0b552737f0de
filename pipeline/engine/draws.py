"""Randomness from names: the seed of every draw, one uniform a token from Philox, and the token that the
uniform picks.

A torch.Generator a row costs 7.6 ms a step at 512 rows; a counter-based generator over all rows at once costs
0.2 (docs/design.md). Philox4x32-10 as in Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC11);
its known answers are in the tests.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)
_MULTIPLY = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))


def _seed(*names: Any) -> int:
    # JSON keeps types and borders apart: ("a", "bc") and ("ab", "c") give different seeds.
    text = f"[{','.join(map(_text, names))}]"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _text(name: Any) -> str:
    """A name as JSON."""
    if type(name) is int:
        return str(name)
    return _quoted(name) if isinstance(name, str) else json.dumps(name, separators=(",", ":"))


_quoted = functools.lru_cache(maxsize=4096)(json.dumps)  #: stages and problems come again and again


def seed_of(run_seed: int, round: int, stage: str, problem_id: str, ask: int, sample: int) -> int:
    """The seed of one row: 64 bits of the SHA-256 of its names (docs/design.md, 4)."""
    return _seed("draw", int(run_seed), int(round), stage, problem_id, int(ask), int(sample))


def monte_carlo_seed(
    run_seed: int, model_hash: str, prefix_ids: Sequence[int], sampling: str, sample: int
) -> int:
    """The seed of a Monte-Carlo row: it names the prefix and not who asked, so labellers can share
    roll-outs.
    """
    return monte_carlo_seeds(run_seed, model_hash, prefix_ids, sampling)(sample)


def monte_carlo_seeds(
    run_seed: int, model_hash: str, prefix_ids: Sequence[int], sampling: str
) -> Callable[[int], int]:
    """The seeds of a prefix's Monte-Carlo rows, by sample: what they share is hashed once."""
    prefix = [int(token) for token in prefix_ids]
    names = ("monte-carlo", int(run_seed), model_hash, prefix, sampling)
    shared = hashlib.sha256(f"[{','.join(map(_text, names))},".encode())

    def seed(sample: int) -> int:
        whole = shared.copy()
        whole.update(f"{int(sample)}]".encode())
        return int.from_bytes(whole.digest()[:8], "big")

    return seed


def philox(counter: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Philox4x32-10. counter: [..., 4] and key: [..., 2], 32-bit words in uint64; returns [..., 4]
    likewise.
    """
    c0, c1, c2, c3 = (counter[..., i].astype(np.uint64) for i in range(4))
    k0, k1 = (key[..., i].astype(np.uint64) for i in range(2))
    for _ in range(10):
        first, second = c0 * _MULTIPLY[0], c2 * _MULTIPLY[1]
        c0, c1, c2, c3 = (
            (second >> _SHIFT) ^ c1 ^ k0,
            second & _LOW,
            (first >> _SHIFT) ^ c3 ^ k1,
            first & _LOW,
        )
        k0, k1 = (k0 + _WEYL[0]) & _LOW, (k1 + _WEYL[1]) & _LOW
    return np.stack(np.broadcast_arrays(c0, c1, c2, c3), axis=-1)


def uniforms(seeds: np.ndarray, start: np.ndarray, num: int) -> np.ndarray:
    """float32 in [0, 1), one a token: [rows, num], for tokens start .. start + num - 1 of each row.

    seeds: uint64 [rows]. start: [rows], multiples of 4; so is num. Token t of a row depends on its seed and t
    alone.
    """
    blocks: np.ndarray = (start.astype(np.uint64) // np.uint64(4))[:, None] + np.arange(
        num // 4, dtype=np.uint64
    )
    counter = np.zeros((*blocks.shape, 4), np.uint64)
    counter[..., 0], counter[..., 1] = blocks & _LOW, blocks >> _SHIFT
    key = np.stack([seeds & _LOW, seeds >> _SHIFT], axis=-1)[:, None, :]
    words = philox(counter, key).reshape(len(seeds), num)
    return ((words >> np.uint64(8)).astype(np.float32)) * np.float32(2.0**-24)


def weights(logits_RV: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Each token's weight [R, V], of which the largest of a row is 1, and the row's logsumexp [R]."""
    most = logits_RV.amax(-1, keepdim=True)
    weight = (logits_RV - most).exp_()
    return weight, weight.sum(-1).log_().add_(most.squeeze(-1))


def pick(weight_RV: torch.Tensor, uniform_R: torch.Tensor) -> torch.Tensor:
    """The token that each row's uniform picks, by inverse CDF in vocabulary order. Weights float32, 0 =
    never. Returns [R].
    """
    import torch

    cdf = weight_RV.cumsum(-1)
    total = cdf[:, -1:]
    # Strictly below the total, so that the token found always has weight: u * total may round up to it.
    target = torch.minimum(uniform_R[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    found = torch.searchsorted(cdf, target, right=True).squeeze(-1)
    return found.clamp_(max=weight_RV.shape[-1] - 1)  # only NaN finds nothing; the engine says so


def cut(logits_RV: torch.Tensor, top_k_R: torch.Tensor, top_p_R: torch.Tensor) -> torch.Tensor:
    """Logits with everything outside top-k and then top-p at -inf. k 0 and p 1 cut nothing; of equal logits
    the lowest index stays.

    The smallest set whose probability reaches p stays, so at least one token does (Holtzman et al. 2019).
    """
    import torch

    ordered, index = logits_RV.sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(ordered.shape[-1], device=ordered.device)
    limit = torch.where(top_k_R > 0, top_k_R, ordered.shape[-1])[:, None]
    ordered = ordered.masked_fill(rank >= limit, -torch.inf)
    probability = ordered.softmax(-1)
    before = probability.cumsum(-1) - probability
    drop = (before >= top_p_R[:, None]) & (top_p_R[:, None] < 1) & (rank > 0)
    ordered = ordered.masked_fill(drop, -torch.inf)
    return torch.empty_like(logits_RV).scatter_(-1, index, ordered)
