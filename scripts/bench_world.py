"""What the benchmarks share: the task, the rates met, and how two rates are measured fairly."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pipeline.engine.local import Engine
from pipeline.rows import Question


@dataclass
class Bench:
    """What is measured, and the rates met on the way."""

    folder: Path  #: the policy's
    device: str
    task: Any
    scratch: Path
    rounds: int
    notes: dict[str, float] = field(default_factory=dict)

    def note(self, name: str, value: float) -> float:
        """Keep and show a figure."""
        self.notes[name] = round(value, 4)
        print(f"  {name:44s}{value:14.2f}", flush=True)
        return value

    def engine(self, folder: Path, **more: Any) -> Engine:
        return Engine(folder, device=self.device, **more)

    def questions(self, number: int) -> list[Question]:
        """Training questions of the task."""
        found = []
        for problem in self.task.problems():
            prompt = self.task.prompt(problem.question)
            found.append(
                Question(id=problem.id, question=problem.question, prompt=prompt, prompt_used=prompt)
            )
            if len(found) == number:
                break
        return found


def in_turns(rounds: int, *measures: Callable[[], float]) -> list[float]:
    """The best rate of each, measured in turns so that a noisy neighbour troubles all alike."""
    best = [0.0] * len(measures)
    for _ in range(rounds):
        best = [max(old, measure()) for old, measure in zip(best, measures, strict=True)]
    return best


def seconds(device: str) -> float:
    """The clock, after all that was asked of the device is done."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
