"""The stages that a run has still to do, a line each: round and name, in order. For chain.sh.

python scripts/slurm/stages.py RUN [--data data] [--checkpoints checkpoints]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pipeline.store.workspace import Workspace

sys.path.insert(0, str(Path(__file__).parents[2]))

from pipeline.commands.run import done
from pipeline.errors import RatchetError
from pipeline.recipe.shape import Stage
from pipeline.run.session import open_run


def left(name: str, workspace: Workspace) -> list[tuple[int, Stage]]:
    """(round, stage) of everything that is not done. Loads no torch.

    Raises:
        RecipeError: there is no such run.
    """
    run = open_run(name, workspace)
    rounds = [(number, stage) for number in range(run.recipe.rounds + 1) for stage in run.stages_in(number)]
    rounds += [(run.recipe.rounds, stage) for stage in run.recipe.section("finally")]
    return [(number, stage) for number, stage in rounds if not done(run, stage, number)]


def main() -> None:
    """Print them; a user's error is one sentence and its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints"))
    given = parser.parse_args()
    try:
        for number, stage in left(given.run, Workspace(given.data, given.checkpoints)):
            print(number, stage.name)
    except RatchetError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
