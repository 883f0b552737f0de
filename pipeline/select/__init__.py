"""Credit -> rows. A method is one file: `Settings(SelectSettings)` and `select(group, settings, task,
encode) -> list[Example | StepExample | Pair | Dropped]`, called once a problem.

`encode` gives a prompt's token ids under the learning model's tokenizer. Every input trace is named by an
output row's `trace_id` or by exactly one Dropped; a StepExample made from a tree names the trace (or node)
that its path ends in. A method that must see the whole set also has `reduce(counts, settings)`, called at
commit; none here needs it.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from pipeline.settings import StageSettings


class SelectSettings(StageSettings):
    """What every selector takes."""

    needs: ClassVar[tuple[str, ...]] = ("Trace", "Label")
    makes: ClassVar[tuple[str, ...]] = ("Example", "Dropped")

    mix: Literal["this_round", "all_rounds"] = Field(
        "this_round", description="all_rounds pools every round so far"
    )
