"""The two folders that hold all that runs make: rows below one, weights below the other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Workspace:
    """`data/<run>/` holds a run's rows, plans and metrics, `checkpoints/<run>/` the weights that it trained.

    `data/tasks/` and `checkpoints/seed/` are shared by all runs.
    """

    data: Path = Path("data")
    checkpoints: Path = Path("checkpoints")

    def rows_of(self, run: str) -> Path:
        """The folder of a run's rows."""
        return self.data / run

    def weights_of(self, run: str) -> Path:
        """The folder of a run's weights."""
        return self.checkpoints / run


HERE = Workspace()  #: data/ and checkpoints/ of the folder where the command was started
