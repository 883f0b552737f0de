"""Traces -> credit. A method is one file with the hooks of `LabelMethod`.

It gets the problem's whole group: traces, nodes, the labels and roll-outs of the stages that `from` names.
Traces that it returns (roll-outs) are committed in `rollouts/`, where a labeller that lists this stage under
`from` finds them in `group.rollouts`.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, ClassVar, Protocol

from pipeline.asks import Asks
from pipeline.rows import Group, Problem
from pipeline.settings import StageSettings
from pipeline.tasks import BaseTask


class LabelSettings(StageSettings):
    """What every labeller takes."""

    #: a labeller that sets it to False gets problems without their answer, and may not ask MonteCarlo
    sees_gold: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("Trace",)
    makes: ClassVar[tuple[str, ...]] = ("Label", "Dropped")


class LabelMethod(Protocol):
    """What a file in label/ has."""

    Settings: type[LabelSettings]

    def label(self, problem: Problem, group: Group, settings: Any, task: BaseTask) -> Asks[list[Any]]:
        """A problem's Label rows (of traces, and of nodes where it labels a tree), the Traces that it had
        written, and a Dropped for each trace that it has nothing to say of.
        """
        ...


def contract(module: ModuleType) -> type:
    """The Protocol that a module has to keep."""
    return LabelMethod
