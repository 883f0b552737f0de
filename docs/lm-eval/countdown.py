"""What lm-evaluation-harness needs to know of countdown: which problems, and when an answer solves one.

Stands alone: the harness's environment need not hold this project. Any legal way to the target counts.
"""

import re

LINE = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)(?:, left .*)?")


def unseen(docs):
    """The test problems of a run's prepared shards."""
    return docs.filter(lambda row: row["split"] == "test")


def solves(question, text):
    """Does this completion use every number once and end at the target?"""
    *numbers, target = map(int, re.findall(r"\d+", question))
    for line in text.strip().split("\n"):
        match = LINE.fullmatch(line.strip())
        if match is None:
            return False
        a, sign, b, result = int(match[1]), match[2], int(match[3]), int(match[4])
        for operand in (a, b):
            if operand not in numbers:
                return False
            numbers.remove(operand)
        right = {"+": a + b, "-": a - b, "*": a * b, "/": a // b if b and a % b == 0 else -1}[sign]
        if result != right or result < 1:
            return False
        numbers.append(result)
    return numbers == [target]


def score(doc, results):
    """The harness's own form: metric -> value of one problem."""
    return {"solved": float(solves(doc["question"], results[0]))}
