"""Traces -> credit. A method is one file with the hooks of `LabelMethod`.

It gets the problem's whole group: traces, nodes, the labels and roll-outs of the stages that `from` names.
Traces that it returns (roll-outs) are committed in `rollouts/`, where a labeller that lists this stage under
`from` finds them in `group.rollouts`. What its MonteCarlo asks draw is committed there by the stage, and read
by a later labeller in place of drawing (`label/rollouts.py`). A labeller with `survey` and `reduce` hears of
the whole set before it labels the first problem (`WholeLabelMethod`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar, Protocol

from pipeline.asks import Asks
from pipeline.rows import Group, Problem
from pipeline.settings import StageSettings
from pipeline.tasks import BaseTask


@dataclass(frozen=True)
class Draw:
    """How a labeller draws Monte-Carlo roll-outs: equal ones of a stage and a later one are shared."""

    by: str
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    limit: int = 0  #: tokens that a completion may have; 0: as the task says


class LabelSettings(StageSettings):
    """What every labeller takes."""

    #: a labeller that sets it to False gets problems without their answer, and may not ask MonteCarlo
    sees_gold: ClassVar[bool] = True
    #: a labeller that sees gold on purpose, to show what that leaks: an evaluation may answer by its labels,
    #: and every metric of it is named gold/...
    leaks: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ("Trace",)
    makes: ClassVar[tuple[str, ...]] = ("Label", "Dropped")

    @property
    def draws_by(self) -> tuple[Draw, ...]:
        """How its MonteCarlo asks draw; none: it asks none, or does not say."""
        return ()

    @property
    def keeps_rollouts(self) -> bool:
        """Does the stage commit what its MonteCarlo asks drew?"""
        return False

    @property
    def texts(self) -> tuple[str, ...]:
        """Files of text that it looks things up in: part of the fingerprint, and no dev or test problem may
        stand in them.
        """
        return ()

    @property
    def reused(self) -> tuple[str, ...]:
        """Earlier stages whose roll-outs it reads in place of drawing them."""
        return ()


class LabelMethod(Protocol):
    """What a file in label/ has."""

    Settings: type[LabelSettings]

    def label(self, problem: Problem, group: Group, settings: Any, task: BaseTask) -> Asks[list[Any]]:
        """A problem's Label rows (of traces, and of nodes where it labels a tree), the Traces that it had
        written, and a Dropped for each trace that it has nothing to say of.
        """
        ...


class WholeLabelMethod(Protocol):
    """What a file in label/ has that looks at the whole set first, as selectors may."""

    Settings: type[LabelSettings]

    def survey(self, group: Group, settings: Any) -> Any:
        """What of one problem the whole set's numbers need: a few plain values."""
        ...

    def reduce(self, surveys: Iterable[Any], settings: Any) -> Any:
        """The numbers, from the surveys of all problems in the order of the plan."""
        ...

    def label(
        self, problem: Problem, group: Group, settings: Any, task: BaseTask, *, whole: Any
    ) -> Asks[list[Any]]:
        """The same as ever; `whole` is what `reduce` said."""
        ...


def contract(module: ModuleType) -> type:
    """Which of the two a module has to keep."""
    whole = any(hasattr(module, name) for name in ("survey", "reduce"))
    return WholeLabelMethod if whole else LabelMethod
