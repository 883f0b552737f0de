"""How tokens are drawn otherwise than from the model's own distribution: settings of any generator. Free of
torch; `contrast.py` computes it.

DoLa (Chuang et al., arXiv:2309.03883, section 2) sets the last layer's words against those of an earlier one:
what only the late layers add is taken for knowledge. The authors' generation runs also have a repetition
penalty of 1.2 (CTRL, arXiv:1909.05858, section 4.1) that their baselines lack: give both arms the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, field_validator

from pipeline.settings import Settings


class Dola(Settings):
    """Which layers may be set against the last, and how one of them is chosen at each token."""

    layers: Literal["low", "high"] | tuple[int, ...] = Field(
        "low",
        description="numbers of layers, 0 the embeddings; low and high: every second one of that half (the "
        "paper: low for reasoning, high for short facts)",
    )
    divergence: Literal["js", "released"] = Field(
        "js",
        description="the farthest layer by the paper's Jensen-Shannon divergence, or what the authors' code "
        "computes: both KL with their arguments changed over",
    )
    relative_top: float = Field(
        0.1, gt=0, le=1, description="a token less likely than this share of the likeliest is never drawn"
    )
    norm: bool = Field(
        True, description="early states go through the final norm; the authors' code leaves it out"
    )

    @field_validator("layers")
    @classmethod
    def _some(cls, layers: Any) -> Any:
        if not layers:
            raise ValueError("names no layer: write low, high or a list")
        return layers


@dataclass(frozen=True)
class Decoding:
    """What a search's rows are drawn by beside temperature and cuts."""

    repetition_penalty: float = 1.0
    dola: Dola | None = None

    @property
    def said(self) -> str:
        """`dola, repetition_penalty 1.2`."""
        found = ["dola"] if self.dola else []
        if self.repetition_penalty != 1:
            found.append(f"repetition_penalty {self.repetition_penalty:g}")
        return ", ".join(found)


def decoding_of(repetition_penalty: float, dola: Dola | None) -> Decoding | None:
    """None where tokens are drawn from the model's own distribution."""
    return Decoding(repetition_penalty, dola) if dola or repetition_penalty != 1 else None


def candidates(layers: Literal["low", "high"] | tuple[int, ...], num_layers: int, tied: bool) -> list[int]:
    """The layers that may be set against the last. Where input and output embeddings are one, layer 0 says
    the token itself, so `low` begins at 2 there; of more than 40 layers it is the lowest or highest 20, as in
    the authors' runs.

    Raises:
        ValueError: no such layers.
    """
    if layers == "low":
        found = list(range(2 if tied else 0, num_layers // 2 if num_layers <= 40 else 20, 2))
    elif layers == "high":
        found = list(range(num_layers // 2 if num_layers <= 40 else num_layers - 20, num_layers, 2))
    else:
        found = sorted(set(layers))
    if not found:
        raise ValueError(
            f"{layers} leaves none of {num_layers} layers: name some, from 0 to {num_layers - 1}"
        )
    if found[0] < 0 or found[-1] >= num_layers:
        raise ValueError(f"layer {found[-1] if found[0] >= 0 else found[0]}: there are 0 to {num_layers - 1}")
    return found
