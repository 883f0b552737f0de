"""What a small round costs beside sampling and training: 64 problems x 8 on the countdown seed, really run.

    python scripts/bench_rounds.py                  # as `make bench` has it
    python scripts/bench_rounds.py RECIPE 60        # another recipe's rounds, from a folder of its own

CPU seconds of this process. Sampling is the driver's writing and reading, training the trainer's loop; all
else is overhead: plans, shards, manifests, loading and merging, building a trainer, the gate and the record.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from pipeline.models import environment

environment.prepare(int(os.environ.get("OMP_NUM_THREADS", "1")))

import pipeline.loop as loop  # noqa: E402  the environment comes first
from pipeline.processes.group import Processes  # noqa: E402
from pipeline.recipe.read import load  # noqa: E402
from pipeline.report.console import Console  # noqa: E402
from pipeline.run.session import session  # noqa: E402
from pipeline.store.workspace import Workspace  # noqa: E402

ROUNDS = 6  #: of which the first, which meets everything, does not count
RECIPE = {
    "name": "rounds",
    "monitor": "none",
    "task": {"use": "countdown", "largest": 100, "train": 2000, "dev": 100, "test": 100, "max_tokens": 48},
    "models": {
        "policy": {
            "base": "seed://countdown",
            "restart_from": "previous",
            "lora": {"r": 32, "lora_alpha": 64},
        }
    },
    "rounds": ROUNDS,
    "problems_per_round": 64,
    "stages": {
        "sample": {"generate": "sample", "by": "policy", "n": 8},
        "check": {"label": "outcome", "from": "sample"},
        "gain": {"label": "group_advantage", "from": "check"},
        "episodes": {"select": "episodes", "from": "gain"},
        "learn": {
            "train": "policy_gradient", "model": "policy", "from": "episodes", "learning_rate": 1e-3,
            "carry_optimizer": True, "schedule": "linear", "schedule_rounds": ROUNDS,
        },
    },
}  # fmt: skip


class Clock:
    """CPU seconds by what they went into, nested parts taken out of what holds them."""

    def __init__(self) -> None:
        self.spent: Counter[str] = Counter()
        self.rounds: list[Counter[str]] = []
        self._inner = [0.0]

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add a block's own seconds."""
        start = time.process_time()
        self._inner.append(0.0)
        try:
            yield
        finally:
            took = time.process_time() - start
            self.spent[name] += took - self._inner.pop()
            self._inner[-1] += took

    def next_round(self) -> None:
        """What was spent since the last one is a round."""
        self.rounds.append(self.spent)
        self.spent = Counter()


@contextlib.contextmanager
def watched(clock: Clock) -> Iterator[None]:
    """Let the clock see each stage, the driver's work, the trainer's loop and each round's end."""
    from transformers import Trainer

    from pipeline.engine.driver import Driver

    stage, one_round, work, train = loop.run_stage, loop.one_round, Driver._work, Trainer.train

    def timed_stage(run: Any, found: Any, number: int) -> Any:
        with clock.part(found.name):
            return stage(run, found, number)

    def timed_round(*given: Any) -> bool:
        with clock.part("gate and record"):
            went_on = one_round(*given)
        clock.next_round()
        return went_on

    def timed_work(driver: Any) -> None:
        with clock.part("(sampling)"):
            work(driver)

    def timed_train(trainer: Any, *given: Any, **more: Any) -> Any:
        with clock.part("(training)"):
            return train(trainer, *given, **more)

    loop.run_stage, loop.one_round, Driver._work, Trainer.train = (  # type: ignore[method-assign]
        timed_stage, timed_round, timed_work, timed_train,
    )  # fmt: skip
    try:
        yield
    finally:
        loop.run_stage, loop.one_round, Driver._work, Trainer.train = (  # type: ignore[method-assign]
            stage, one_round, work, train,
        )  # fmt: skip


def rounds(recipe: Path, workspace: Workspace) -> list[Counter[str]]:
    """CPU seconds of each round by part, round 0 first."""
    clock = Clock()
    console = Console(quiet=True)
    with watched(clock), session(load(recipe), console, Processes(), workspace) as run:
        loop.run_loop(run)
    return clock.rounds


def overhead(one: Counter[str]) -> float:
    """A round's seconds beside sampling and training."""
    return sum(seconds for name, seconds in one.items() if not name.startswith("("))


def shown(found: list[Counter[str]]) -> str:
    """The median of each part over the rounds."""
    names = list(dict.fromkeys(name for one in found for name in one))
    return "\n".join(f"  {name:24s}{median(one[name] for one in found):8.3f} s" for name in names)


def round_figures(scratch: Path, checkpoints: Path) -> dict[str, float]:
    """`round_overhead_s`: the median of all rounds but the first."""
    place = Workspace(scratch / "data", checkpoints)
    path = scratch / "rounds.yaml"
    path.write_text(json.dumps(RECIPE))
    try:
        found = rounds(path, place)[2:]
    finally:
        shutil.rmtree(checkpoints / "rounds", ignore_errors=True)
    print(shown(found))
    return {"round_overhead_s": median(map(overhead, found))}


def main(words: list[str]) -> None:
    """A recipe's rounds in the current folder, or the figure."""
    if not words:
        import tempfile

        with tempfile.TemporaryDirectory() as scratch:
            print(round_figures(Path(scratch), Path(__file__).parents[1] / "checkpoints"))
        return
    found = rounds(Path(words[0]), Workspace())[2:]
    print(shown(found))
    print(f"overhead: median {median(map(overhead, found)):.3f} s of {len(found)} rounds")


if __name__ == "__main__":
    main(sys.argv[1:])
