"""Credit -> rows. A method is one file with the hooks of `SelectMethod`: plain code called once a problem, or
a generator of asks where it needs a model's word.

Every input trace is named by an output row's `trace_id` or by exactly one Dropped; a StepExample made from a
tree names the trace (or node) that its path ends in.

What must see the whole set (quantiles, balance, duplicates across problems) has the hooks of
`WholeSelectMethod`: `survey` says a few plain values of each problem, `reduce` makes one plain value of them
all, and `select` is told it as `whole`. The inputs are read twice and nothing else changes: what `reduce`
says follows from them, so a stage that was killed says it again.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any, ClassVar, Literal, Protocol

from pydantic import Field

from pipeline.rows import Group
from pipeline.settings import StageSettings
from pipeline.tasks import BaseTask


class SelectSettings(StageSettings):
    """What every selector takes."""

    needs: ClassVar[tuple[str, ...]] = ("Trace", "Label")
    makes: ClassVar[tuple[str, ...]] = ("Example", "Dropped")
    #: are what labellers had written (`group.rollouts`) input rows too, each to be named as a trace is?
    reads_rollouts: ClassVar[bool] = False

    mix: Literal["this_round", "all_rounds"] = Field(
        "this_round", description="all_rounds pools every round so far"
    )

    @property
    def pools_rounds(self) -> bool:
        return self.mix == "all_rounds"


class SelectMethod(Protocol):
    """What a file in select/ has."""

    Settings: type[SelectSettings]

    def select(self, group: Group, settings: Any, task: BaseTask, encode: Callable[[str], list[int]]) -> Any:
        """A problem's training rows (Example, StepExample or Pair) and Dropped rows, as a list, or as
        `Asks[list]` where it asks models. encode: a prompt's token ids under the learning model's tokenizer.
        """
        ...


class WholeSelectMethod(Protocol):
    """What a file in select/ has that looks at the whole set first."""

    Settings: type[SelectSettings]

    def survey(self, group: Group, settings: Any) -> Any:
        """What of one problem the whole set's decision needs: a few plain values."""
        ...

    def reduce(self, surveys: Iterable[Any], settings: Any) -> Any:
        """The decision, from the surveys of all problems in the order of the plan."""
        ...

    def select(
        self, group: Group, settings: Any, task: BaseTask, encode: Callable[[str], list[int]], *, whole: Any
    ) -> Any:
        """The same as ever; `whole` is what `reduce` said."""
        ...


class ReadingSelectMethod(WholeSelectMethod, Protocol):
    """What a file in select/ has whose survey has to read texts as the task does."""

    def survey(self, group: Group, settings: Any, *, task: BaseTask) -> Any:  # type: ignore[override]
        """The same with the problem's task."""
        ...


def contract(module: ModuleType) -> type:
    """Which of the three a module has to keep."""
    if not any(hasattr(module, name) for name in ("survey", "reduce")):
        return SelectMethod
    survey = getattr(module, "survey", None)
    reads = callable(survey) and "task" in inspect.signature(survey).parameters
    return ReadingSelectMethod if reads else WholeSelectMethod
