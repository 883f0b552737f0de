"""Files of human step labels: ProcessBench and PRM800K, read into one shape; and ProcessBench's score.

ProcessBench (arXiv:2412.06559): JSON or JSONL of {id, generator, problem, steps, final_answer_correct,
label}, label = index of the first wrong step, -1 for none. PRM800K (arXiv:2305.20050): JSONL of {question:
{problem, ground_truth_answer}, label: {steps: [{completions: [{text, rating}], human_completion,
chosen_completion}], finish_reason}}, ratings -1, 0 and 1; neutral counts as right, as in the paper.

Not here: scoring. `processbench` takes the step scores from whoever has them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import DamagedData
from pipeline.evaluate.ranking import crossed_thresholds, f1_at


@dataclass(frozen=True, slots=True)
class StepSolution:
    """One solution with what people say of its steps."""

    id: str
    problem: str
    steps: tuple[str, ...]
    verdicts: tuple[bool | None, ...]  #: one a step; None where nobody looked (after the first error)
    first_error: int  #: -1: none
    source: str = ""
    right: bool | None = None  #: the final answer


def read_processbench(path: Path) -> Iterator[StepSolution]:
    """The solutions of a ProcessBench split.

    Raises:
        DamagedData: naming file and row.
    """
    for number, row in _rows(path):
        try:
            steps, label = tuple(map(str, row["steps"])), int(row["label"])
            if not -1 <= label < len(steps):
                raise ValueError(f"label {label} of {len(steps)} steps")
            known = len(steps) if label < 0 else label
            verdicts = [True] * known + [False] * (label >= 0) + [None] * (len(steps) - known - 1)
            yield StepSolution(
                id=str(row.get("id", number)),
                problem=str(row["problem"]),
                steps=steps,
                verdicts=tuple(verdicts[: len(steps)]),
                first_error=label,
                source=str(row.get("generator", "")),
                right=row.get("final_answer_correct"),
            )
        except (KeyError, TypeError, ValueError) as problem:
            raise DamagedData(f"{path}:{number}: not a ProcessBench row: {_said(problem)}") from problem


def read_prm800k(path: Path) -> Iterator[StepSolution]:
    """The labelled solutions of a PRM800K file: the chosen path, and where labelling ended at an error that
    step.

    Rows without a rated step (bad problems, given up at once) are left out.

    Raises:
        DamagedData: naming file and row.
    """
    for number, row in _rows(path):
        try:
            steps, verdicts = _chosen(row["label"]["steps"])
            if not steps:
                continue
            yield StepSolution(
                id=f"{path.stem}-{number}",
                problem=str(row["question"]["problem"]),
                steps=tuple(steps),
                verdicts=tuple(verdicts),
                first_error=next((k for k, ok in enumerate(verdicts) if ok is False), -1),
                source=str(row["label"].get("finish_reason", "")),
            )
        except (KeyError, TypeError, ValueError, IndexError) as problem:
            raise DamagedData(f"{path}:{number}: not a PRM800K row: {_said(problem)}") from problem


def _chosen(labelled: Sequence[dict[str, Any]]) -> tuple[list[str], list[bool | None]]:
    steps: list[str] = []
    verdicts: list[bool | None] = []
    for each in labelled:
        chosen, human = each.get("chosen_completion"), each.get("human_completion")
        if chosen is None and human:  # the labeller wrote this step
            steps.append(str(human["text"]))
            verdicts.append(True)
            continue
        if not each["completions"]:
            break
        one = each["completions"][chosen or 0]
        rating = one.get("rating")
        steps.append(str(one["text"]))
        verdicts.append(None if rating is None else rating >= 0)
        if chosen is None:  # nothing was good enough to go on from
            break
    return steps, verdicts


def processbench(
    solutions: Sequence[StepSolution], scores: Sequence[Sequence[float]], threshold: float | None = None
) -> dict[str, float]:
    """{"f1", "error_accuracy", "correct_accuracy"}; threshold None: chosen on the other half."""
    labels = [solution.first_error for solution in solutions]
    if threshold is None:
        limits = crossed_thresholds(scores, labels, [n % 2 for n in range(len(labels))])
    else:
        limits = [threshold] * len(labels)
    f1, wrong, right = f1_at(scores, labels, limits)
    return {"f1": f1, "error_accuracy": wrong, "correct_accuracy": right}


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number, row) of a JSON list or of JSON lines; numbers from 1."""
    try:
        with path.open(encoding="utf-8") as lines:
            if path.suffix == ".json":
                yield from enumerate(json.load(lines), 1)
                return
            for number, text in enumerate(lines, 1):
                if text.strip():
                    try:
                        yield number, json.loads(text)
                    except ValueError as problem:
                        raise DamagedData(f"{path}:{number}: not JSON: {problem}") from problem
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as problem:
        raise DamagedData(f"{path}: cannot be read: {problem}") from problem


def _said(problem: Exception) -> str:
    return f"no field {problem}" if isinstance(problem, KeyError) else str(problem)
