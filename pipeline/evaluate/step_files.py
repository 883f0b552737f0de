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
            solution = FORMS[form](path, number, _object(row, "the row"))
        except ValueError as problem:
            reason = f"not a {NAMES[form]} row: {problem}"
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
    listed, label = _list(_field(row, "steps"), "steps"), _field(row, "label")
    steps = tuple(_text(step, f"step {k} (from 0)") for k, step in enumerate(listed))
    if not steps:
        raise ValueError("no step")
    if type(label) is not int or not -1 <= label < len(steps):
        raise ValueError(
            f"label {label!r:.20} of {len(steps)} steps: the first wrong one is wanted, from 0, or -1"
        )
    known = len(steps) if label < 0 else label
    verdicts = [True] * known + [False] * (label >= 0) + [None] * (len(steps) - known - 1)
    right = row.get("final_answer_correct")
    if right is not None and not isinstance(right, bool):
        raise ValueError(f"final_answer_correct is {right!r:.20}, neither true nor false")
    return StepSolution(
        id=str(row.get("id", number)),
        problem=_text(_field(row, "problem"), "problem"),
        steps=steps,
        verdicts=tuple(verdicts[: len(steps)]),
        first_error=label,
        source=str(row.get("generator", "")),
        right=right,
    )


def _prm800k(path: Path, number: int, row: dict[str, Any]) -> StepSolution | None:
    label, question = (_object(_field(row, name), name) for name in ("label", "question"))
    steps, verdicts = _chosen(_list(_field(label, "steps"), "label.steps"))
    problem = _text(_field(question, "problem"), "question.problem")
    if all(verdict is None for verdict in verdicts):
        return None
    first = next((k for k, ok in enumerate(verdicts) if ok is False), -1)
    answer = question.get("ground_truth_answer")
    return StepSolution(
        id=f"{path.stem}-{number}",
        problem=problem,
        steps=tuple(steps),
        verdicts=tuple(verdicts),
        first_error=first,
        source=str(label.get("finish_reason", "")),
        answer=None if answer is None else str(answer),
    )


def _field(row: dict[str, Any], name: str) -> Any:
    if name not in row:
        raise ValueError(f"no field {name!r}")
    return row[name]


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{name} is {_kind(value)}, where an object is wanted")
    return value


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{name} is {_kind(value)}, where a list is wanted")
    return value


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} is no text: {value!r:.40}")
    if any("\ud800" <= each <= "\udfff" for each in value):
        raise ValueError(f"{name} holds half a character (a lone surrogate)")
    return value


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")


def _chosen(labelled: Sequence[Any]) -> tuple[list[str], list[bool | None]]:
    """The steps on the chosen path, and what is said of each."""
    steps: list[str] = []
    verdicts: list[bool | None] = []
    for number, each in enumerate(labelled, 1):
        here = f"step {number}"
        step = _object(each, here)
        chosen, human = step.get("chosen_completion"), step.get("human_completion")
        if chosen is None and human:  # the labeller wrote this step
            written = _object(human, f"human_completion of {here}")
            steps.append(_text(_field(written, "text"), f"the text of {here}"))
            verdicts.append(True)
            continue
        offered = _list(_field(step, "completions") or [], f"completions of {here}")
        if not offered:
            break
        if chosen is not None and (type(chosen) is not int or not 0 <= chosen < len(offered)):
            raise ValueError(f"chosen_completion of {here} is {chosen!r:.20}, of {len(offered)} completions")
        one = _object(offered[chosen or 0], f"a completion of {here}")
        rating = one.get("rating")
        if isinstance(rating, bool) or rating not in (-1, 0, 1, None):
            raise ValueError(f"rating {rating!r:.20} is none of -1, 0, 1")
        steps.append(_text(_field(one, "text"), f"the text of {here}"))
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
        with path.open(encoding="utf-8-sig") as lines:
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
                    except (ValueError, RecursionError) as problem:
                        row = ValueError(_why(problem))
                    yield number, row
    except UnicodeDecodeError as problem:
        raise DamagedData(f"{path}: cannot be read: not UTF-8 ({problem}): save it as UTF-8") from problem
    except (ValueError, RecursionError) as problem:
        raise DamagedData(
            f"{path}: cannot be read as a JSON list: {_why(problem)}: give JSON lines the ending .jsonl"
        ) from problem
    except OSError as problem:
        raise DamagedData(f"{path}: cannot be read: {problem}") from problem


def _why(problem: Exception) -> str:
    return "nested too deep" if isinstance(problem, RecursionError) else str(problem)


NAMES = {"prm800k": "PRM800K", "processbench": "ProcessBench"}
FORMS: dict[str, Callable[[Path, int, dict[str, Any]], StepSolution | None]] = {
    "prm800k": _prm800k,
    "processbench": _processbench,
}
