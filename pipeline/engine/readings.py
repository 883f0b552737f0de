"""What is read from a model's logits: a token's log-probability, how certain the model was, a score."""

from __future__ import annotations

import math

import torch


def logprob_of(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """The log-probability at temperature 1 of tokens [...] under logits [..., V]."""
    return logits.gather(-1, tokens[..., None]).squeeze(-1) - logits.logsumexp(-1)


def certainty_of(logits: torch.Tensor) -> torch.Tensor:
    """KL(uniform || p) in nats, p the softmax of logits [..., V] (Intuitor,
    arXiv:2505.19590, eq. 4)."""
    return logits.logsumexp(-1) - logits.mean(-1) - math.log(logits.shape[-1])


def scores_of(logits: torch.Tensor, signs: tuple[int, int] | None, kind: str) -> torch.Tensor:
    """What logits [..., labels or vocabulary] say: the share of '+' of the two signs, the second of two
    labels ("right"), or the one output, through a logistic where it stands for a probability.
    """
    if signs:
        return logits[..., list(signs)].softmax(-1)[..., 0]
    if logits.shape[-1] > 1:
        return logits.softmax(-1)[..., 1]
    return logits[..., 0].sigmoid() if kind == "probability" else logits[..., 0]
