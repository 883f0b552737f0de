"""Problem -> traces. A method is one file: `Settings(GenerateSettings)` and
`generate(question, settings, given) -> Asks[list[Trace | Node | Dropped]]`.

`question` is a Question (no gold); `given` the problem's Group from `from`, None at a first stage. A method
that declares `sees_gold` (rationalize) is called with `problem=` and `task=` as keywords too.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from pipeline.settings import ModelName, StageSettings


class GenerateSettings(StageSettings):
    """What every generator takes."""

    makes: ClassVar[tuple[str, ...]] = ("Trace", "Dropped")

    by: ModelName = Field("policy", description="the model that writes")
    where: Literal["all", "unsolved"] = Field(
        "all", description="unsolved: problems with no right trace in `from`"
    )
    split: Literal["train", "dev", "test"] = Field(
        "train", description="which problems; test only in `finally`"
    )
    max_tokens: int = Field(0, ge=0, description="tokens a trace may have; 0: as the task says")
    temperature: float = Field(1.0, ge=0, le=10)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0, description="0: off")
