"""What a gate may ask of a new version. Not here: the verdict (`gate.py`)."""

from __future__ import annotations

from pydantic import Field, model_validator

from pipeline.settings import Settings, added


class GateRule(Settings):
    """One condition of a model's gate: no significant loss of `metric`, or a bound on it.

    With `margin`: refused only when the paired 95 % upper bound of the change is below -margin. With
    `at_most`: refused above it; with `at_least`: refused below it."""

    metric: str = Field(
        description="an evaluate stage's metric: measure/accuracy/greedy; with a bound also what the model's "
        "training says of itself: learn/kl/old"
    )
    margin: float | None = Field(None, ge=0)
    at_most: float | None = None
    at_least: float | None = added(None)

    @property
    def limit(self) -> float | None:
        """The bound, where it is one."""
        return self.at_least if self.at_most is None else self.at_most

    @property
    def bound(self) -> bool:
        """Is it a bound, which counts without anything to compare with?"""
        return self.margin is None

    def within(self, value: float) -> bool:
        """Does a value keep the bound? A NaN does not: a limit must be seen to hold."""
        if self.at_most is not None:
            return value <= self.at_most
        return self.at_least is not None and value >= self.at_least

    @model_validator(mode="after")
    def _one_of_three(self) -> GateRule:
        if sum(each is not None for each in (self.margin, self.at_most, self.at_least)) != 1:
            raise ValueError("a gate rule has either margin or at_most or at_least")
        return self
