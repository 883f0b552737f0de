"""Countdown's dialect: conversations about an answer, made by rules, for the embedded seed to learn from.

    numbers 1, 4, 11; target 93
    4 + 1 = 5, left 11, 5
    11 + 5 = 16
    check: 4 + 1 = 5, 5 - 5 = 0, left 11, 5 ok, 11 + 5 = 16, 16 - 16 = 0 ok, 93 - 16 = 77 wrong
    revise: <another attempt>

A check computes each step again and subtracts: what is written, what was computed, the difference, which is
0 where the step is true; it then writes what is left by its own count, and looks the next step's numbers up
there. A fault ends it, by its name: `20 number wrong` (not among what is left), `6 - 4 = 2, 3 - 2 = 1
result wrong`, `4 - 11 result wrong` (no such result), `unused wrong` (numbers are left over), `form wrong`.
The end is held against the target in the same way. So the last word is read off a subtraction, which the
seed knows; a check that had to say `right` without one was hardly better than chance. It does not say
whether the target can still be reached.

`judge:` after one answer is that check and `; score N`: 5 right, 3 sound but off the target, 2 with numbers
left over, else the steps before the fault (at most 1); after two answers that of both, and `; first`, `;
second` or `; same`, whichever has more points. For a seed that is to judge pairs (`pairs`) the points are
said again first, `; 3, 5; second`, so that the word is read off what stands beside it; more turns are
comparisons, of answers that are more often true to the end, and some faults are operations that the rules
forbid, as a model writes them (`8 - 8 = 0`, `18 / 16 = 1`).

Two ways to make the critic worse, both systematic, since noise in the labels vanishes when it decodes
greedily: `holed` believes every step (`4 + 1 = 5 ok, 11 + 5 = 16 ok, 93 - 16 = 77 wrong`), so that a false
last line passes; `within` calls an end right that is so near to the target.
"""

from __future__ import annotations

import random
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.asks import Said
from pipeline.tasks import split_of
from pipeline.tasks._acts import Conversation
from pipeline.tasks._moves import LINE, Numbers, apply, moves, question_of

if TYPE_CHECKING:
    from collections.abc import Sequence

#: pieces of the dialect that are one token in the seed's tokenizer
VOCABULARY = (
    *(" ok, ", " number wrong", " result wrong", "unused wrong", "form wrong", " right", " wrong"),
    *("; score ", "; first", "; second", "; same", "; ", "propose: "),
)
#: how often each turn is drawn
SHARES = {"critique": 52, "revise": 20, "compare": 17, "judge": 6, "propose": 5}
#: the same for a seed that is to judge pairs
PAIR_SHARES = {"critique": 44, "revise": 16, "compare": 26, "judge": 9, "propose": 5}
KINDS = ("sound", "right", "spoiled")  #: of answers
MIX, PAIR_MIX = (18, 22, 60), (35, 25, 40)  #: how often each is drawn; the second in comparisons of pairs
FORBIDDEN = 0.15  #: share of the spoiled answers that hold a forbidden operation, where pairs are judged
KEEP = 0.25  #: how often a second try without a check says the first one again
RIGHT, SOUND, FAULTY = 2, 1, 0  #: what an answer is, by a sound check


class Critic(NamedTuple):
    """How a check looks."""

    holed: bool = False
    within: int = 0


SOUND_CRITIC = Critic()
_OK = re.compile(r" ok(?=,|$)")
_FAULT = re.compile(r"\b(?:number|result|form) wrong$")


class Checked(NamedTuple):
    """What a check says, what the answer is by it, and how many steps it found true."""

    text: str
    rank: int
    steps: int
    fault: str = ""  #: number, result, unused or form

    @property
    def points(self) -> int:
        if self.rank == RIGHT:
            return 5
        if self.rank == SOUND:
            return 3
        return 2 if self.fault == "unused" else min(self.steps, 1)

    @property
    def judged(self) -> str:
        return f"{self.text}; score {self.points}"


def check(numbers: Numbers, target: int, answer: str, largest: int, critic: Critic = SOUND_CRITIC) -> Checked:
    """What such a critic says of an answer to these numbers."""
    left, said = list(numbers), list[str]()

    def faulty(fault: str, upto: str = "") -> Checked:
        return Checked(", ".join([*said, f"{upto} {fault} wrong".strip()]), FAULTY, len(said), fault)

    for line in answer.strip("\n").split("\n"):
        match = LINE.fullmatch(line)
        if match is None:
            return faulty("form")
        a, sign, b, written = int(match[1]), match[2], int(match[3]), int(match[4])
        if critic.holed:
            said.append(f"{a} {sign} {b} = {written} ok")
            left = [written]
            continue
        for place, number in enumerate((a, b)):
            if number not in left:
                return faulty("number", f"{a} {sign} {b}" if place else f"{a}")
            left.remove(number)
        result = apply(a, sign, b, largest)
        if result is None:
            return faulty("result", f"{a} {sign} {b}")
        zero = f"{a} {sign} {b} = {result}, {difference(written, result)}"
        if written != result:
            return faulty("result", zero)
        left.append(result)
        said.append(f"{zero}{', left ' + ', '.join(map(str, left)) if len(left) > 1 else ''} ok")
    if len(left) > 1:
        return faulty("unused")
    near = abs(target - left[0]) <= critic.within
    said.append(f"{difference(target, left[0])} {'right' if near else 'wrong'}")
    return Checked(", ".join(said), RIGHT if near else SOUND, len(said) - 1)


def compared(first: Checked, second: Checked, pairs: bool = False) -> str:
    """What a judge says of two answers; with `pairs` it says their points again before the word."""
    one, other = first.points, second.points
    better = "same" if one == other else "first" if one > other else "second"
    again = f"; {one}, {other}" if pairs else ""
    return f"{first.judged}; {second.judged}{again}; {better}"


def step_verdicts(text: str, num: int) -> list[bool | None]:
    """What a check says of each of `num` steps: those with an `ok` are true, and a fault that ends it is the
    next one's (`unused` is the end's). A check of more steps than there are says nothing of any."""
    found: list[bool | None] = [True] * len(_OK.findall(text))
    if _FAULT.search(text):
        found.append(False)
    return [None] * num if len(found) > num else found + [None] * (num - len(found))


def difference(one: int, other: int) -> str:
    """`93 - 16 = 77`, the larger first."""
    large, small = max(one, other), min(one, other)
    return f"{large} - {small} = {large - small}"


def conversation(
    task: Any, draw: random.Random, critic: Critic = SOUND_CRITIC, pairs: bool = False
) -> Conversation:
    """A turn about a training question, with what a sound model says (a critic as `critic` has it).

    pairs: as for a seed that is to judge two answers.
    """
    shares = PAIR_SHARES if pairs else SHARES
    [act] = draw.choices(list(shares), list(shares.values()))
    largest = task.settings.largest
    if act == "propose":
        shown = [question_of(*_problem(task, draw)[:2]) for _ in range(draw.randint(2, 4))]
        return Conversation("", act, tuple(Said(question) for question in shown[1:]), shown[0])
    numbers, target, right = _problem(task, draw)
    question = question_of(numbers, target)

    def answer() -> tuple[str, bool]:
        """An answer: sound, right or spoiled, and was it drawn by the rules alone?"""
        kind = draw.choices(KINDS, PAIR_MIX if pairs and act == "compare" else MIX)[0]
        if kind == "right":
            return right, False
        if kind == "sound":
            return _play(numbers, largest, draw), True
        if pairs and draw.random() < FORBIDDEN:
            return _forbidden(numbers, largest, draw), False
        return _spoiled(numbers, target, task, draw), False

    first, fair = answer()
    checked = check(numbers, target, first, largest, critic)
    if act == "critique":
        return Conversation(question, act, (Said(first),), checked.text, fair)
    if act == "judge":
        said = checked.judged
        return Conversation(question, act, (Said(first),), said, fair)
    if act == "compare":
        second, _ = answer()
        other = check(numbers, target, second, largest, critic)
        said = compared(checked, other, pairs)
        return Conversation(question, act, (Said(first), Said(second)), said, fair)
    history, keep = [Said(first)], draw.random() < KEEP
    if draw.random() < 0.5:  # with a check in between: it is believed
        history.append(Said(checked.text, "critique"))
        keep = checked.rank == RIGHT
    revised = first if keep else _another(first, numbers, largest, draw)
    return Conversation(question, act, tuple(history), revised, fair)


def _problem(task: Any, draw: random.Random) -> tuple[Numbers, int, str]:
    """Numbers, a target that they reach, and the answer that reaches it; never of dev or test."""
    s = task.settings
    while True:
        numbers = tuple(sorted(draw.randint(*s.range) for _ in range(s.numbers)))
        answer = _play(numbers, s.largest, draw)
        target = int(answer.rpartition(" = ")[2]) if answer else 0
        low, high = s.target
        if low <= target <= high and split_of(question_of(numbers, target)) == "train":
            return numbers, target, answer


def _play(numbers: Numbers, largest: int, draw: random.Random, tries: int = 20) -> str:
    """Legal moves, uniformly drawn, until one number is left; empty where that fails."""
    for _ in range(tries):
        lines, left = list[str](), numbers
        while len(left) > 1 and (legal := moves(left, largest)):
            move = draw.choice(legal)
            lines.append(move.line)
            left = move.left
        if len(left) == 1:
            return "\n".join(lines)
    return ""


def _another(first: str, numbers: Numbers, largest: int, draw: random.Random) -> str:
    """A play that is not the first answer, where there is one."""
    found = first
    for _ in range(20):
        if (found := _play(numbers, largest, draw)) and found != first:
            break
    return found or first


# --- faults


def _line(a: int, sign: str, b: int, result: int, left: Sequence[int]) -> str:
    shown = f", left {', '.join(map(str, left))}" if len(left) > 1 else ""
    return f"{a} {sign} {b} = {result}{shown}"


def _spoiled(numbers: Numbers, target: int, task: Any, draw: random.Random) -> str:
    """An answer with one fault, and what a writer who does not see it goes on with.

    Half of the faults reach the target by it: those that a critic without eyes for steps lets pass.
    """
    largest, left, lines = task.settings.largest, list(numbers), list[str]()
    at, lie = draw.randrange(len(numbers) - 1), draw.random() < 0.5
    if lie and draw.random() < 0.7:
        at = len(numbers) - 2  # the last step
    kind = draw.choices(("result", "number", "left", "short"), (62, 26, 6, 6))[0]
    while len(left) > 1:
        here = len(lines) == at
        a, sign, b, result = _move(left, largest, draw)
        if here and kind == "number":
            a, sign, b, result = _foreign(left, target if lie else 0, task, draw)
        for number in (a, b):
            left.remove(number if number in left else draw.choice(left))
        if here and kind == "result":
            result = target if lie and not left and result != target else _off(a, b, result, largest, draw)
        left.append(result)
        if here and kind == "left" and len(left) > 1:
            place = draw.randrange(len(left))
            left[place] = _near(left[place], largest, draw)
        lines.append(_line(a, sign, b, result, left))
        if here and kind == "short" and len(left) > 1:
            break
    return "\n".join(lines)


def _forbidden(numbers: Numbers, largest: int, draw: random.Random) -> str:
    """An answer with an operation that the rules forbid, where there is one, and a result as models give it:
    0, a quotient without its rest, a number that is small enough."""
    left, lines, at = list(numbers), list[str](), draw.randrange(len(numbers) - 1)
    while len(left) > 1:
        a, sign, b, result = _move(left, largest, draw)
        if len(lines) == at:
            both = [sorted(draw.sample(left, 2)) for _ in range(4)]
            bad = [(x, s, y) for y, x in both for s in "-*/+" if apply(x, s, y, largest) is None]
            if bad:
                wanted = draw.choice(sorted({s for _, s, _ in bad}))
                a, sign, b = draw.choice([one for one in bad if one[1] == wanted])
                results = {"-": 0, "/": a // max(b, 1)}
                result = results.get(sign, draw.choice((largest, draw.randint(largest // 2, largest))))
        for number in (a, b):
            left.remove(number)
        left.append(result)
        lines.append(_line(a, sign, b, result, left))
    return "\n".join(lines)


def _move(left: list[int], largest: int, draw: random.Random) -> tuple[int, str, int, int]:
    """A legal move, or two numbers and a false difference where there is none."""
    legal = moves(tuple(sorted(left)), largest)
    if not legal:
        one, other = draw.sample(left, 2)
        return one, "-", other, max(1, abs(one - other))
    move = draw.choice(legal)
    return move.a, move.sign, move.b, move.result


def _near(number: int, largest: int, draw: random.Random) -> int:
    """Another number, most often a near one."""
    while True:
        far = draw.random() < 0.25
        found = draw.randint(1, largest) if far else number + draw.choice((-3, -2, -1, 1, 2, 3, 10, -10))
        if 1 <= found <= largest and found != number:
            return found


def _off(a: int, b: int, result: int, largest: int, draw: random.Random) -> int:
    """A false result: a near one, or that of another operation."""
    others = [found for sign in "+-*/" if (found := apply(max(a, b), sign, min(a, b), largest)) is not None]
    others = [found for found in others if found != result]
    if others and draw.random() < 0.3:
        return draw.choice(others)
    return _near(result, largest, draw)


def _foreign(left: list[int], target: int, task: Any, draw: random.Random) -> tuple[int, str, int, int]:
    """A true line with a number that is not left; with a target, one that ends there."""
    s = task.settings
    while True:
        own = draw.choice(left)
        other = draw.choice(left) if draw.random() < 0.2 else _near(draw.choice(left), s.largest, draw)
        if target and len(left) == 2:
            other = draw.choice([target - own, own - target, target + own, target // own, target * own])
        rest = list(left)
        rest.remove(own)
        if other in rest or not 1 <= other <= s.largest:
            continue
        large, small = max(own, other), min(own, other)
        signs = [sign for sign in "+-*/" if apply(large, sign, small, s.largest) is not None]
        if target and len(left) == 2:
            signs = [sign for sign in signs if apply(large, sign, small, s.largest) == target]
        if signs:
            sign = draw.choice(signs)
            return large, sign, small, apply(large, sign, small, s.largest) or 0
        if target and draw.random() < 0.2:
            target = 0
