"""Policy-gradient losses over the tokens of an optimizer step, as plain functions of tensors [B, T].

    objective       ratio        what of it                         summed over the step, divided by
    reinforce       none         -A log p                           rows
    grpo            a token      -min(rho A, clip(rho) A)           each row's tokens, then rows
    dr_grpo         a token      the same                           rows x the longest completion allowed
    bnpo, ppo       a token      the same                           the step's tokens
    dapo            a token      the same, clip .2 / .28            the rollout's tokens a step
    gspo            a sequence   the same, clip 3e-4 / 4e-4         each row's tokens, then rows
    cispo           a token      -sg(min(rho, 1 + high)) A log p    the rollout's tokens a step

DeepSeekMath (arXiv:2402.03300), Dr. GRPO (2503.20783), DAPO (2503.14476), GSPO (2507.18071), MiniMax-M1
(CISPO, 2506.13585), PPO (1707.06347). Equal to trl's GRPOTrainer where it has the loss, but for CISPO's cap:
trl takes `epsilon_high` for the cap itself, so that its default .2 would let no ratio pass .2; here as in the
paper it is 1 + `high`. B rows, T places of next tokens; what the mask leaves out counts nowhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

Reduction = Literal["sum", "row", "constant", "step", "rollout"]


@dataclass(frozen=True)
class Objective:
    """A row of the table above."""

    form: Literal["plain", "clip", "cap"]
    reduction: Reduction
    clip: tuple[float, float] = (0.2, 0.2)
    sequence: bool = False


OBJECTIVES: dict[str, Objective] = {
    "reinforce": Objective("plain", "sum"),
    "grpo": Objective("clip", "row"),
    "dr_grpo": Objective("clip", "constant"),
    "bnpo": Objective("clip", "step"),
    "ppo": Objective("clip", "step"),
    "dapo": Objective("clip", "rollout", (0.2, 0.28)),
    "gspo": Objective("clip", "row", (3e-4, 4e-4), sequence=True),
    "cispo": Objective("cap", "rollout", (1.0, 4.0)),
}


@dataclass(frozen=True)
class Weighing:
    """What the loss of an optimizer step is divided by: counted over all its rows, on every process."""

    rows: float
    tokens: float  #: of this step
    rollout: float  #: tokens of the whole rollout, shared by the steps of a pass
    longest: float  #: tokens that a completion may have


@dataclass(frozen=True)
class Batch:
    """Places of next tokens, each [B, T] or [B, 1]; `weights` truncates what another engine drew."""

    logprobs: torch.Tensor
    old: torch.Tensor
    advantages: torch.Tensor
    mask: torch.Tensor
    reference: torch.Tensor | None = None
    weights: torch.Tensor | None = None
    kept: torch.Tensor | None = None  #: tokens that the policy's term is of; none: all
    kl: torch.Tensor | float = 0.0  #: the coefficient of each row's k3
    corrected: bool = True  #: is k3 multiplied by the ratio?


def per_token(
    batch: Batch, objective: Objective, low: float, high: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(loss [B, T], ratio [B, T or 1]) before anything is summed."""
    log_ratio = batch.logprobs - batch.old
    if objective.sequence:
        lengths = batch.mask.sum(-1, keepdim=True).clamp(min=1)
        log_ratio = (log_ratio * batch.mask).sum(-1, keepdim=True) / lengths
    ratio = log_ratio.exp()
    if objective.form == "plain":
        loss = -batch.advantages * batch.logprobs
    elif objective.form == "cap":
        loss = -ratio.clamp(max=1 + high).detach() * batch.advantages * batch.logprobs
    else:
        inside = ratio.clamp(1 - low, 1 + high)
        loss = -torch.min(ratio * batch.advantages, inside * batch.advantages)
    if batch.kept is not None:
        loss = loss * batch.kept
    if batch.weights is not None:
        loss = loss * batch.weights
    if batch.reference is not None:
        away = k3(batch.logprobs, batch.reference)
        loss = loss + batch.kl * (away * ratio if batch.corrected else away)
    return loss.expand_as(batch.mask), ratio


def k3(logprobs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """exp(d) - d - 1 with d = log p_ref - log p: never negative, unbiased for KL(p || p_ref)
    (d = -.5 -> .10653).
    """
    gap = reference - logprobs
    return gap.exp() - gap - 1


def reduced(loss: torch.Tensor, mask: torch.Tensor, how: Reduction, by: Weighing) -> torch.Tensor:
    """A micro-batch's part of the step's loss: the parts of all micro-batches add up to the whole."""
    if how == "row":
        lengths = mask.sum(-1).clamp(min=1)
        return ((loss * mask).sum(-1) / lengths).sum() / by.rows
    whole = {"sum": by.rows, "constant": by.rows * by.longest, "step": by.tokens, "rollout": by.rollout}
    return (loss * mask).sum() / whole[how]


def clipped(
    ratio: torch.Tensor, advantages: torch.Tensor, low: float, high: float, form: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the ratio is out of reach: (below, above), 1.0 or 0.0."""
    if form == "plain":
        none = torch.zeros_like(ratio)
        return none, none
    above = ratio > 1 + high
    if form == "clip":
        return ((ratio < 1 - low) & (advantages < 0)).float(), (above & (advantages > 0)).float()
    return torch.zeros_like(ratio), above.float()
