"""The words of later turns: what a task says when it asks a model to look at an answer again, and what it
reads in the reply. Every task takes these; a recipe replaces an instruction (`task.acts`), a task overrides
the methods of `BaseTask` that call them.

| act | what is asked | what it sees | its answer |
|---|---|---|---|
| critique | is the answer above right? | the turns so far | `right` or `wrong` |
| revise | another attempt | the turns so far | as of the question |
| rewrite | a better answer, by the critique | the turns so far | as of the question |
| judge | points from 0 to 5 | one answer | the number |
| grade | strict points from -100 to 100 | one answer | the number |
| reflect | an answer after tagged thinking | nothing | as of the question, of the output alone |
| compare | which is better? | two answers | `first`, `second` or `same` |
| propose | another question like these | questions | a question |
| subquestion | what to find out next | the turns so far | a question |
| subanswer | its answer | the turns so far | as of the question |
| rephrase | the question as a list of conditions | the question | a text |
| solve | the answer, by what was said | the turns so far | as of the question |

Sources of the wordings: an answer looked at again without a verdict, SCoRe (arXiv:2409.12917); a critique
that takes a fault for granted, Self-Refine (arXiv:2303.17651); points that add up, Self-Rewarding
(arXiv:2401.10020); strict points without full marks, MCTSr (arXiv:2406.07394); smaller questions and
conditions, rStar (arXiv:2408.06195); tags, `_tags.py`. Ours are written anew.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from pipeline.asks import Said
from pipeline.errors import RecipeError

VERDICT = "End with one line, `Verdict: right` or `Verdict: wrong`."
#: what a chat asks for, by act; `critique` as `task.critique` says
INSTRUCTIONS: dict[str, str] = {
    "critique": "Check the answer above step by step: is each step true, and is the question answered? "
    + VERDICT,
    "critique/fault": f"There is a fault in the answer above. Find it and say what is wrong. {VERDICT}",
    "revise": "There may be a fault in the answer above, such as a misread question. Correct it if there is "
    "one, and write the whole answer again in the same form.",
    "rewrite": "Write the whole answer again in the same form, better by what was said.",
    "judge": "Judge the answer. It gets one point for each that holds: it is about the question; it uses "
    "what the question gives; each step is true; it reaches an answer; the answer is right. End with one "
    "line, `Score: N`, with N from 0 to 5.",
    "grade": "Judge the answer as strictly as you can: look for every fault, and never give full marks. End "
    "with one line, `Score: N`, with N from -100 (useless) to 100 (perfect).",
    "reflect": "Think first between <thinking> and </thinking>. Where you catch a mistake, say so in there "
    "between <reflection> and </reflection> and go on. Then write the answer alone, in its usual form, "
    "between <output> and </output>.",
    "compare": "Which of the two answers is better? End with one line, `Better: first`, `Better: second` or "
    "`Better: same`.",
    "propose": "Write one more question like these, with other content. Write the question alone.",
    "subquestion": "What is the next smaller question whose answer helps? Write that question alone.",
    "subanswer": "Answer that smaller question, step by step.",
    "rephrase": "Say the question again as a list of conditions and what is asked. Do not answer it.",
    "solve": "Now answer the first question, with the help of what was said.",
}
#: what stands in front of a turn in a plain text
LABELS: dict[str, str] = {
    "critique": "check: ",
    "revise": "revise: ",
    "rewrite": "revise: ",
    "judge": "judge: ",
    "grade": "judge: ",
    "reflect": "reflect: ",
    "compare": "judge: ",
    "propose": "propose: ",
    "subquestion": "question: ",
    "subanswer": "answer: ",
    "rephrase": "conditions: ",
    "solve": "solution: ",
}
ACTS = tuple(LABELS)
POINTS = (0.0, 5.0)  #: what `judge` may give
GRADES = (-100.0, 100.0)  #: what `grade` may give
JUDGING = ("judge", "grade", "compare")  #: acts that see answers in question, in one message


class Conversation(NamedTuple):
    """A turn made by rules: what was said before it, and what is to be said then
    (`BaseTask.conversation`)."""

    question: str
    act: str
    history: tuple[Said, ...]
    said: str
    fair: bool = False  #: is the first answer one that the rules alone drew, so that it may be learned too?


TRUE = ("right", "correct", "true")  #: words for it, of a verdict
_NOT = r"(?:not|nothing|\w*n['’]t|never|hardly)\s+(?:\w+\s+)?"
_VERDICT = re.compile(rf"\b({_NOT})?(right|correct|true|wrong|incorrect|false)\b", re.IGNORECASE)
_STEP = re.compile(r"\b(?:step|paragraph)\s+(\d+)\b", re.IGNORECASE)
_SAID = re.compile(r"\bverdict\b\W*([^.!?\n]*)", re.IGNORECASE)
_NUMBER = r"([+-]?\d+(?:\.\d+)?)"
_SCORE = re.compile(rf"\b(?:score|rating)\b[^\d\n+-]*{_NUMBER}", re.IGNORECASE)
#: `3 points out of 5` and `3 out of 5 points` are 3
_COUNTED = re.compile(
    rf"(?<![\w./])(?<!of ){_NUMBER}(?:\s*(?:/|(?:out\s+)?of)\s*\d+)?\s+points?\b", re.IGNORECASE
)
_POINTS = re.compile(rf"\bpoints?\b(?!\s*(?:out\s+)?of\b)[^\d\n+-]*{_NUMBER}", re.IGNORECASE)
_BETTER = re.compile(r"\b(first|second|same)\b", re.IGNORECASE)
_NAMED = re.compile(r"\bbetter\b\W*:\W*(first|second|same)\b", re.IGNORECASE)


def instruction(task: Any, act: str) -> str:
    """What a chat asks for.

    Raises:
        RecipeError: nobody has words for this act.
    """
    if own := task.settings.acts.get(act):
        return str(own)
    key = f"{act}/fault" if act == "critique" and task.settings.critique == "fault" else act
    if key not in INSTRUCTIONS:
        raise _unknown(task, act)
    return INSTRUCTIONS[key]


def label(task: Any, act: str) -> str:
    """What stands in front of a turn in a plain text.

    Raises:
        RecipeError: nobody has words for this act.
    """
    if own := task.settings.acts.get(act):
        return str(own)
    if act not in LABELS:
        raise _unknown(task, act)
    return LABELS[act]


def _unknown(task: Any, act: str) -> RecipeError:
    return RecipeError(
        f"task {task.name}: it has no words for the act {act!r} (known: {', '.join(ACTS)}): give them in "
        f"task.acts.{act}"
    )


def messages(task: Any, question: str, act: str, history: Sequence[Said]) -> list[dict[str, str]]:
    """A turn as chat messages. Answers that are judged stand in one message with the question."""
    asked = instruction(task, act)
    if act == "propose":
        shown = "\n\n".join(said.text.strip() for said in history)
        return [*_system(task), {"role": "user", "content": f"{shown}\n\n{asked}"}]
    turns = list(task.messages(question))
    if act in JUDGING:
        names = ["Answer"] if len(history) == 1 else ["First answer", "Second answer", "Third answer"]
        shown = "\n\n".join(f"{n}:\n{said.text.strip()}" for n, said in zip(names, history, strict=False))
        whole = f"{turns[-1]['content']}\n\n{shown}\n\n{asked}"
        return [*turns[:-1], {"role": "user", "content": whole}]
    if not history:  # nothing was answered yet: two user messages in a row are refused by templates
        return [*turns[:-1], {"role": "user", "content": f"{turns[-1]['content']}\n\n{asked}"}]
    for said in history:
        if said.act:
            turns.append({"role": "user", "content": instruction(task, said.act)})
        turns.append({"role": "assistant", "content": said.text.strip()})
    return [*turns, {"role": "user", "content": asked}]


def _system(task: Any) -> list[dict[str, str]]:
    system = task.settings.system
    return [{"role": "system", "content": system}] if system else []


def plain(task: Any, question: str, act: str, history: Sequence[Said]) -> str:
    """A turn as plain text: the question, what was said, each turn on lines of its own."""
    asked = label(task, act)
    if act == "propose":
        return "".join(_line(said.text) for said in history) + asked
    parts = [task.prompt(question)]
    between = asked if act in JUDGING else ""
    for number, said in enumerate(history):
        before = label(task, said.act) if said.act else between if number else ""
        parts.append(before + _line(said.text))
    return "".join(parts) + asked


def _line(text: str) -> str:
    return text if text.endswith("\n") else text + "\n"


def verdict(text: str) -> str | None:
    """`right` or `wrong`, as the last word on it says; None where it says neither. Where there is a
    `Verdict:`, the sentence behind it: what it begins with, or all that it says if that is one thing.
    """
    said = _SAID.findall(text)
    found = list(_VERDICT.finditer(said[-1] if said else text))
    told = ["right" if _holds(one) else "wrong" for one in found]
    if not said or not told:
        return told[-1] if told else None
    return told[0] if found[0].start() == 0 or len(set(told)) == 1 else None


def stated(text: str) -> bool:
    """Does a critique state a verdict as such, and not only say of something that it is right or wrong?"""
    return any(_VERDICT.search(said) for said in _SAID.findall(text))


def _holds(found: re.Match[str]) -> bool:
    denied, word = found.groups()
    return (word.lower() in TRUE) != bool(denied)


def step_verdicts(text: str, num: int) -> list[bool | None]:
    """What a critique says of each of `num` steps, as the last word after `Step N`: `Step 2: ... is wrong`,
    `Step 2: ... \\boxed{correct}`; None of those that it says nothing of."""
    found: list[bool | None] = [None] * num
    before_end = _SAID.split(text, maxsplit=1)[0]
    marks = list(_STEP.finditer(before_end))
    ends = [*(mark.start() for mark in marks), len(before_end)][1:]
    for mark, end in zip(marks, ends, strict=True):
        said = list(_VERDICT.finditer(before_end, mark.end(), end))
        if said and len(mark[1]) < 9 and 1 <= int(mark[1]) <= num:
            found[int(mark[1]) - 1] = _holds(said[-1])
    return found


def held(steps: Sequence[bool | None], said: str | None) -> list[bool | None] | None:
    """For each step whether a critique holds it and all before it sound (None: it does not say); nothing
    where the critique cannot be read: it comes to no verdict, or to `right` over a step that it called wrong.

    `said` is its verdict on the answer. One that finds no step wrong and the answer wrong is about the end,
    which is the last step's."""
    num = len(steps)
    fault = next((place for place, sound in enumerate(steps) if sound is False), None)
    if not num or (said is None and fault is None) or (said == "right" and fault is not None):
        return None
    if said == "right":
        return [True] * num
    fault = num - 1 if fault is None else fault
    silent = next((place for place, sound in enumerate(steps) if sound is None), num)
    return [True if place < min(fault, silent) else None if place < fault else False for place in range(num)]


def points(text: str, low: float = POINTS[0], high: float = POINTS[1]) -> str | None:
    """The last number after `Score`, as text, or the one number of points where there is no score; None
    where there is none, where several points are given and no sum, or where it lies outside."""
    found = _SCORE.findall(text)
    if not found:
        counted = _COUNTED.findall(text)
        if len(counted) > 1:
            return None
        found = counted or _POINTS.findall(text)
    if not found and re.fullmatch(r"\s*[+-]?\d+(\.\d+)?\s*", text):
        found = [text.strip()]
    if not found or not low <= float(found[-1]) <= high:
        return None
    return f"{float(found[-1]):g}"


def better(text: str) -> str | None:
    """`first`, `second` or `same`: after `Better:`, else the last one named; None where none is."""
    found = _NAMED.findall(text) or _BETTER.findall(text)
    return found[-1].lower() if found else None


def read(act: str, text: str) -> str | None:
    """What the completion of a critique, judge, compare or propose turn answers."""
    if act == "critique":
        return verdict(text)
    if act == "judge":
        return points(text)
    if act == "grade":
        return points(text, *GRADES)
    if act == "compare":
        return better(text)
    return text.strip() or None
