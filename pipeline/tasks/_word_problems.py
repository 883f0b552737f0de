"""What the tasks of short word problems share (`words`, `svamp`): how a solution is written, read and judged.

A solution is one calculation a line, and the last result is the answer. An answer is looked for generously (a
box, `####`, else the last number), so that a model that reasons in its own words is measured by what it says.
"""

from __future__ import annotations

from pipeline.answers import extract
from pipeline.answers.compare import same as equal
from pipeline.rows import Problem

INSTRUCTION = (
    "Solve this step by step. Write one calculation a line and nothing else; the last result is the answer."
)

#: (question, completion, answer), written for this project
EXAMPLES = (
    (
        "Lena had 14 ribbons. She gave 5 of them to her sister. How many ribbons does Lena have left?",
        "14 - 5 = 9",
        "9",
    ),
    (
        "A baker puts 6 rolls into each bag. There are 20 loaves on the shelf. How many rolls are in 8 bags?",
        "6 * 8 = 48",
        "48",
    ),
    (
        "Otto has 17 model cars and his cousin has 26. They sell 9 of them. How many are left together?",
        "17 + 26 = 43\n43 - 9 = 34",
        "34",
    ),
    (
        "63 plates are put into piles of 7. How many piles are there?",
        "63 / 7 = 9",
        "9",
    ),
    (
        "Pia paid 45 euros for a lamp and 28 euros for a rug. How many euros did she pay in all?",
        "45 + 28 = 73",
        "73",
    ),
    (
        "A tank held 90 liters. 12 liters were used in the morning and 35 in the evening. What is left?",
        "90 - 12 = 78\n78 - 35 = 43",
        "43",
    ),
)


def answer_of(text: str) -> str | None:
    """The final answer, spelt in one way."""
    found = extract.final(text, "any")
    if found is None:
        return None
    number = extract.number(found, units=True)
    return extract.spell(number) if number is not None else extract.last_number(found)


def is_right(answer: str | None, problem: Problem) -> bool:
    """Is it the number that the problem asks for?"""
    return equal(answer, problem.answer, kind="numeric")


def num_steps(count: int) -> str:
    """A bin of difficulty."""
    return f"{count} step{'s' if count != 1 else ''}"
