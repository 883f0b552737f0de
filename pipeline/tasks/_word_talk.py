"""Conversations about word problems, made by rules: what a model with a chat template is warmed up on.

As in the meta-skill stage of SELF (arXiv:2310.00533): a critique of an answer, a better answer after it, and
which of two is better; theirs a strong model wrote, ours rules. A critique computes the answer again and then
compares, so that the verdict is read off what was computed:

    Computed again: 4 * 12 = 48, 48 - 9 = 39. The answer above is 45, not 39.
    Verdict: wrong

Faults are a false result, another operation, two numbers swapped for others of the story, a step too few.
Problems are drawn from the training templates, and their questions' hashes say train.
"""

from __future__ import annotations

import random
import re
from typing import Any

from pipeline.asks import Said
from pipeline.errors import RecipeError
from pipeline.rows import Problem
from pipeline.tasks._acts import Conversation

SHARES = {"critique": 50, "revise": 15, "rewrite": 20, "compare": 15}
STEP = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)")


def conversation(
    task: Any, draw: random.Random, holed: bool, within: int, pairs: bool = False
) -> Conversation:
    """A turn about a training problem.

    Raises:
        RecipeError: another critic is asked for than the one there is.
    """
    if holed or within:
        raise RecipeError(f"task {task.name}: its conversations have a sound critic: leave holed, within out")
    if pairs:
        raise RecipeError(f"task {task.name}: its comparisons have one form: leave pairs out")
    problem = _problem(task, draw)
    [act] = draw.choices(list(SHARES), list(SHARES.values()))
    right, wrong = problem.solution, spoiled(problem, draw)
    first = draw.choice((right, wrong))
    shown = Said(task.completion(first))
    if act == "critique":
        return Conversation(problem.question, act, (shown,), critique(problem, first))
    if act == "compare":
        second = draw.choice((right, wrong))
        kind = "same" if first == second else "first" if first == right else "second"
        said = f"{_again(problem)} {_ends(first, second)}\nBetter: {kind}"
        return Conversation(problem.question, act, (shown, Said(task.completion(second))), said)
    history = (shown, Said(critique(problem, first), "critique")) if act == "rewrite" else (shown,)
    return Conversation(problem.question, act, history, task.completion(right))


def critique(problem: Problem, answer: str) -> str:
    """What a sound critic says."""
    found, gold = _last(answer), str(problem.answer)
    if found == gold:
        return f"{_again(problem)} The answer above is {gold} too.\nVerdict: right"
    return f"{_again(problem)} The answer above is {found}, not {gold}.\nVerdict: wrong"


def spoiled(problem: Problem, draw: random.Random) -> str:
    """The solution with one fault, after which it goes on by itself; its end is never the right one."""
    lines = problem.solution.split("\n")
    numbers = sorted({*re.findall(r"\d+", problem.question)})
    while True:
        at, kind = draw.randrange(len(lines)), draw.choice(("result", "sign", "number", "short"))
        short = kind == "short" and len(lines) > 1
        found = lines[:-1] if short else _faulty(lines, at, kind, numbers, draw)
        if found and _last(found[-1]) != problem.answer:
            return "\n".join(found)


def _faulty(lines: list[str], at: int, kind: str, numbers: list[str], draw: random.Random) -> list[str]:
    """The lines with a fault in one; later ones take its result. None where that cannot be computed."""
    match = STEP.fullmatch(lines[at])
    if match is None:
        return []
    a, sign, b, result = match.groups()
    if kind == "sign":
        sign = draw.choice([other for other in "+-*/" if other != sign])
    if kind == "number":
        b = draw.choice(numbers) if numbers else b
    made = _computed(int(a), sign, int(b))
    if kind == "result":
        made = int(result) + draw.choice((-10, -2, -1, 1, 2, 10))
    if made is None or made < 0:
        return []
    found = [*lines[:at], f"{a} {sign} {b} = {made}"]
    for line in lines[at + 1 :]:
        later = STEP.fullmatch(line)
        if later is None:
            return []
        left, right = (str(made) if part == result else part for part in (later[1], later[3]))
        end = _computed(int(left), later[2], int(right))
        if end is None or end < 0:
            return []
        found.append(f"{left} {later[2]} {right} = {end}")
    return found


def _computed(a: int, sign: str, b: int) -> int | None:
    if sign == "/":
        return a // b if b and a % b == 0 else None
    return {"+": a + b, "-": a - b, "*": a * b}[sign]


def _problem(task: Any, draw: random.Random) -> Problem:
    while True:
        problem = task.problem(draw, "train")
        if problem is not None and problem.split == "train":
            return problem


def _last(text: str) -> str:
    return text.rpartition("= ")[2].strip()


def _again(problem: Problem) -> str:
    return f"Computed again: {', '.join(problem.solution.splitlines())}."


def _ends(first: str, second: str) -> str:
    return f"The first answer is {_last(first)}, the second {_last(second)}."
