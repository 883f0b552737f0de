"""The heads that a recipe's model may have: what each can be asked, and what its scores are. Free of torch.

A model without a head is a policy. Whatever answers `Score` is a verifier: votes, best of n, searches and
`prm_quality` take any of them and do not know which. What a score *is* is known from the head and, where the
weights were trained here, from `prm.json` beside them; it is never guessed from the numbers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.vote.aggregate import Kind


@dataclass(frozen=True)
class Head:
    """One kind of model."""

    name: str
    does: tuple[str, ...]  #: what it can be asked (`settings.Act`): writes, scores, chooses
    kind: Kind = "probability"  #: what its scores are, where its weights do not say
    #: what a score is read of: a number of its own at a step's end (scalar), marks among its next tokens
    #: (marks), its text's log-probability against that of the base (ratio), the base's hidden states there
    #: (hidden), or its own, by a second head (state). Empty: it gives none
    reads: Literal["", "scalar", "marks", "ratio", "hidden", "state"] = ""
    policy: bool = False  #: is it a policy, which writes what the run learns from and answers with?
    mergeable: bool = True  #: is it one ordinary folder once its adapter is merged? Else it needs its base


#: by name; "policy" is a model without a head
HEADS = {
    head.name: head
    for head in (
        Head("policy", ("writes", "chooses"), policy=True),
        Head("value", ("scores",), "value", "scalar"),  # a number at the end of each step
        Head("token", ("scores", "writes", "chooses"), reads="marks"),  # '+' against '-' as its next token
        # beta * log-ratio to its base, up to each step
        Head("implicit", ("scores", "writes", "chooses"), "log_odds", "ratio", mergeable=False),
        Head("probe", ("scores",), reads="hidden", mergeable=False),  # a logistic regression on hidden states
        Head("pair", ("chooses",)),  # which of two: an answer among its next tokens
        # a policy and a value model at once
        Head("shared", ("writes", "chooses", "scores"), reads="state", policy=True),
    )
}
DOES = {
    "writes": "writes nothing",
    "scores": "scores nothing",
    "chooses": "chooses between nothing",
    "any": "",
}


def head_of(name: str | None) -> Head:
    """The head of a model's settings; None is a policy."""
    return HEADS[name or "policy"]


def can(name: str | None, does: str) -> bool:
    """May a model with this head be asked that?"""
    return does == "any" or does in head_of(name).does


def fitting(does: str) -> str:
    """What can do it, as a recipe writes it: `head: value or token`, `no head, or head: token`."""
    plain = head_of(None)
    named = " or ".join(head.name for head in HEADS.values() if head is not plain and does in head.does)
    return ("no head, or " if does in plain.does else "") + f"head: {named}"


def score_kind(head: str | None, *folders: Path | None, num_labels: int = 1) -> Kind:
    """What a model's scores are: by `prm.json` beside its weights, else by its head.

    A ready-made model that classifies tokens by two labels gives the probability of the second."""
    for folder in folders:
        if folder is not None and (folder / "prm.json").exists():
            said = json.loads((folder / "prm.json").read_text())
            if said.get("activation") == "sigmoid":
                return "probability"
            return "advantage" if said.get("target") == "advantage" else head_of(head).kind
    return "probability" if num_labels > 1 else head_of(head).kind
