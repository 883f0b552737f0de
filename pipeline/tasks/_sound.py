"""What a checker that knows the truth says of an answer, in a critique's words: for evaluations alone."""

from __future__ import annotations

from typing import Any

from pipeline.rows import Problem


def feedback(task: Any, problem: Problem, text: str, detail: str) -> str:
    """A sound checker's critique, by the task's equality and its step oracle: `Step 2 is wrong.`, verdict.

    Where the task has no oracle, or every step may stand, what is wrong is the answer."""
    if task.correct(task.extract(text), problem):
        return "Verdict: right"
    faults = [
        place for place, ok in enumerate(task.step_oracle(problem, task.steps(text)) or (), 1) if not ok
    ]
    said = [f"Step {place} is wrong." for place in faults] or ["The answer is wrong."]
    shown = {"verdict": [], "first": said[:1], "all": said}[detail]
    return " ".join([*shown, "Verdict: wrong"])
