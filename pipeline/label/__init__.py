"""Traces -> credit. A method is one file: `Settings(LabelSettings)` and
`label(problem, group, settings, task) -> Asks[list[Label | Trace | Dropped]]`.

It gets the problem's whole group, traces and nodes. Traces that it returns (roll-outs) are committed in
`rollouts/`.
"""

from __future__ import annotations

from typing import ClassVar

from pipeline.settings import StageSettings


class LabelSettings(StageSettings):
    """What every labeller takes."""

    sees_gold: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("Trace",)
    makes: ClassVar[tuple[str, ...]] = ("Label", "Dropped")
