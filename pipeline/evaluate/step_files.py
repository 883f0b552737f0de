"""Files of human step labels: ProcessBench and PRM800K, read into one shape; and ProcessBench's score.

ProcessBench (arXiv:2412.06559): JSON or JSONL of {id, generator, problem, steps, final_answer_correct,
label}, label = index of the first wrong step, -1 for none. PRM800K (arXiv:2305.20050): JSONL of {question:
{problem, ground_truth_answer}, label: {steps: [{completions: [{text, rating}], human_completion,
chosen_completion}], finish_reason}}, ratings -1, 0 and 1; neutral counts as right, as in the paper.

A stage reads such a file by `from: {file: PATH, form: prm800k}` (`stages/files.py`). Not here: scoring.
`processbench` takes the step scores from whoever has them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import DamagedData
from pipeline.evaluate.ranking import crossed_thresholds, f1_at

HUMAN = "human"  #: the labeller of what people say
MOST = 0.01  #: share of a file's rows that may be malformed, as of a task's


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
    answer: str | None = None  #: the gold one, where the file has it


def read_processbench(path: Path) -> Iterator[StepSolution]:
    """The solutions of a ProcessBench split.

    Raises:
        DamagedData: naming file and row.
    """
    yield from (solution for _, solution in read_form(path, "processbench"))


def read_prm800k(path: Path) -> Iterator[StepSolution]:
    """The labelled solutions of a PRM800K file: the chosen path, and where labelling ended at an error that
    step.

    Rows without a rated step (bad problems, given up at once) are left out.

    Raises:
        DamagedData: naming file and row.
    """
    yield from (solution for _, solution in read_form(path, "prm800k"))


def read_form(
    path: Path, form: str, rejected: list[dict[str, Any]] | None = None
) -> Iterator[tuple[int, StepSolution]]:
    """(line, solution) of a file in one of the published forms (`FORMS`).

    rejected: takes the rows that are malformed, {"file", "line", "reason"}; without it the first is an error.

    Raises:
        DamagedData: the file cannot be read; or a bad row, with its number.
    """
    for number, row in _rows(path):
        try:
            if isinstance(row, ValueError):
                raise ValueError(f"not JSON: {row}")
            if not isinstance(row, dict):
                raise ValueError(f"{type(row).__name__} where an object is wanted")
            solution = FORMS[form](path, number, row)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as problem:
            reason = f"not a {NAMES[form]} row: {_said(problem)}"
            if rejected is None:
                raise DamagedData(f"{path}:{number}: {reason}") from problem
            rejected.append({"file": str(path), "line": number, "reason": reason})
            continue
        if solution is not None:
            yield number, solution


def read_whole(path: Path, form: str) -> tuple[list[tuple[int, StepSolution]], list[dict[str, Any]]]:
    """A file's solutions with their lines, and its malformed rows: {"file", "line", "reason"}.

    Raises:
        DamagedData: it cannot be read, holds no usable row, or more than MOST of its rows are malformed.
    """
    rejected: list[dict[str, Any]] = []
    solutions = list(read_form(path, form, rejected))
    shown = "; ".join(f"{row['file']}:{row['line']}: {row['reason']}" for row in rejected[:5])
    if not solutions:
        why = shown or "it is empty, or no step in it is rated"
        raise DamagedData(f"{path}: no usable row: {why}: is it of the form {form}?")
    if len(rejected) > MOST * (len(solutions) + len(rejected)):
        raise DamagedData(
            f"{path}: {len(rejected)} of {len(solutions) + len(rejected)} rows are malformed, more than "
            f"{MOST:.0%}: {shown}{'; ...' if len(rejected) > 5 else ''}: repair or remove them"
        )
    return solutions, rejected


def _processbench(path: Path, number: int, row: dict[str, Any]) -> StepSolution:
    if not isinstance(row["steps"], list) or not all(isinstance(step, str) for step in row["steps"]):
        raise ValueError("steps is no list of texts")
    steps, label = tuple(row["steps"]), row["label"]
    if not isinstance(label, int) or not -1 <= label < len(steps):
        raise ValueError(f"label {label} of {len(steps)} steps")
    if not steps:
        raise ValueError("no step")
    known = len(steps) if label < 0 else label
    verdicts = [True] * known + [False] * (label >= 0) + [None] * (len(steps) - known - 1)
    right = row.get("final_answer_correct")
    return StepSolution(
        id=str(row.get("id", number)),
        problem=_text(row["problem"], "problem"),
        steps=steps,
        verdicts=tuple(verdicts[: len(steps)]),
        first_error=label,
        source=str(row.get("generator", "")),
        right=right if isinstance(right, bool) else None,
    )


def _prm800k(path: Path, number: int, row: dict[str, Any]) -> StepSolution | None:
    steps, verdicts = _chosen(row["label"]["steps"])
    problem = _text(row["question"]["problem"], "question.problem")
    if not steps:
        return None
    first = next((k for k, ok in enumerate(verdicts) if ok is False), -1)
    answer = row["question"].get("ground_truth_answer")
    return StepSolution(
        id=f"{path.stem}-{number}",
        problem=problem,
        steps=tuple(steps),
        verdicts=tuple(verdicts),
        first_error=first,
        source=str(row["label"].get("finish_reason", "")),
        answer=None if answer is None else str(answer),
    )


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} is no text: {value!r:.40}")
    return value


def _chosen(labelled: Sequence[dict[str, Any]]) -> tuple[list[str], list[bool | None]]:
    steps: list[str] = []
    verdicts: list[bool | None] = []
    for each in labelled:
        chosen, human = each.get("chosen_completion"), each.get("human_completion")
        if chosen is None and human:  # the labeller wrote this step
            steps.append(_text(human["text"], f"the text of step {len(steps) + 1}"))
            verdicts.append(True)
            continue
        if not each["completions"]:
            break
        one = each["completions"][chosen or 0]
        rating = one.get("rating")
        if rating not in (-1, 0, 1, None):
            raise ValueError(f"rating {rating!r} is none of -1, 0, 1")
        steps.append(_text(one["text"], f"the text of step {len(steps) + 1}"))
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


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    """(number, row, or why it is none) of a JSON list or of JSON lines; numbers from 1."""
    try:
        with path.open(encoding="utf-8") as lines:
            if path.suffix == ".json":
                listed = json.load(lines)
                if not isinstance(listed, list):
                    raise DamagedData(f"{path}: holds no list of rows; give JSON lines the ending .jsonl")
                yield from enumerate(listed, 1)
                return
            for number, text in enumerate(lines, 1):
                if text.strip():
                    try:
                        row = json.loads(text)
                    except ValueError as problem:
                        row = problem
                    yield number, row
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as problem:
        raise DamagedData(f"{path}: cannot be read: {problem}") from problem


def _said(problem: Exception) -> str:
    return f"no field {problem}" if isinstance(problem, KeyError) else str(problem)


NAMES = {"prm800k": "PRM800K", "processbench": "ProcessBench"}
FORMS: dict[str, Callable[[Path, int, dict[str, Any]], StepSolution | None]] = {
    "prm800k": _prm800k,
    "processbench": _processbench,
}
