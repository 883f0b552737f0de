"""SR-MCTS with a pairwise preference model: LLaMA-Berry (arXiv:2410.02884, sections 2.1 to 2.3).

Nodes are whole answers. Each roll-out follows the UCT from the first answer through fully explored ones
(`branch` children, and one worth more than itself), then critiques the answer it comes to and writes it
again. The new answer is held against every other one, and the Enhanced Borda Count (`vote/_preferences.py`)
makes one order of all preferences. An answer's own worth is alpha Q_g + (1 - alpha) Q_l: Q_g is its place
in that order, Q_l the share of its neighbours in the tree (the one above, those below) that it beats. From
the newest to the first each is then backed up: Q above <- (1 - gamma) Q above + gamma Q below.

`judge` names a pairwise preference model (`head: pair`), asked as `label/duel` asks; without one the policy
itself is asked by `compare` turns, whose verdicts of `first`, `second`, `same` count 1, 0, 0.5, and one
without a verdict is counted (`no_compare`) and counts 0.5. Every two are shown in both orders. No gold is
seen.

A place in an order changes with every new answer, so own worths are taken anew and backed up anew after
each roll-out; the paper does not say what it does with old ones. V answers cost V (V - 1) comparisons.
"""

from __future__ import annotations

import json
import math
from typing import ClassVar

from pydantic import Field

from pipeline.asks import Asks, Choose, Said
from pipeline.generate._answers import Answer, Answers, AnswerSettings, Rows
from pipeline.rows import Group, Question
from pipeline.settings import Cost, JudgeName, Length
from pipeline.vote._preferences import PairQuestion, global_values, put, shown

TINY = 1e-5
WORTH = {"first": 1.0, "second": 0.0, "same": 0.5}


class Settings(PairQuestion, AnswerSettings):
    """The paper's settings: 8 or 16 roll-outs, alpha 0.9, gamma 0.1, c 1.4."""

    acts: ClassVar[tuple[str, ...]] = ("critique", "rewrite", "compare")

    rollouts: int = Field(16, ge=1, le=63, description="answers that are critiqued and written again")
    branch: int = Field(2, ge=1, description="children of a fully explored answer")
    exploration: float = Field(1.4, ge=0, description="c of the UCT")
    alpha: float = Field(0.9, ge=0, le=1, description="weight of the global order beside the neighbours")
    gamma: float = Field(0.1, ge=0, le=1, description="share of a child's Q in that of the answer above")
    judge: JudgeName | None = Field(
        None, description="a pairwise preference model (head: pair); none: `by` is asked by compare turns"
    )

    def cost(self, task: Length, given: float = 0.0) -> Cost:
        """Every two answers in both orders, read by the judge with the question, or written about."""
        asked = (self.rollouts + 1) * self.rollouts * self.tokens(task)
        written, read = self.written(task), {} if self.judge is None else {self.judge: 3 * asked}
        traces = 1 + 2 * self.rollouts
        if self.judge is None:
            written, traces = written + asked, traces + (self.rollouts + 1) * self.rollouts
        return Cost({self.by: written}, read, traces)


def generate(question: Question, settings: Settings, given: Group | None) -> Asks[Rows]:
    """The tree, every turn, and the answer of the highest Q chosen."""
    tree = Answers(question, settings)
    first = yield from tree.first()
    first.visits = 1
    better: list[list[float]] = [[0.5]]  # [V, V]: how likely row beats column
    value_all(tree, better, settings)
    for _ in range(settings.rollouts):
        node = descend(first, settings)
        if not tree.may_grow(node):
            break
        child, is_new = yield from tree.refine(node)
        if is_new:
            wins = yield from against_all(tree, child, settings)
            for row, win in zip(better, wins, strict=True):
                row.append(1 - win)
            better.append([*wins, 0.5])
            value_all(tree, better, settings)
        for above in path(child):
            above.visits += 1
    return tree.rows(tree.best())


def path(node: Answer) -> list[Answer]:
    """From an answer up to the first one."""
    found = [node]
    while found[-1].parent is not None:
        found.append(found[-1].parent)
    return found


def against_all(tree: Answers, node: Answer, settings: Settings) -> Asks[list[float]]:
    """How likely a new answer beats each older one, both orders averaged."""
    others = tree.nodes[: node.number]
    if settings.judge is None:
        return (yield from compared(tree, node, others))
    orders = [pair for other in others for pair in ((node, other), (other, node))]
    chat = json.loads(tree.question.messages or "[]")
    asked = chat[-1]["content"] if chat else tree.question.prompt
    texts = [shown(settings.prompt, asked, one.text, other.text) for one, other in orders]
    prefixes = yield from put(tree.question, texts, settings.judge, bool(chat))
    replies = yield Choose(prefixes, options=settings.options, by=settings.judge)
    said = [yes / (yes + no) for yes, no in replies]
    return [(one + 1 - other) / 2 for one, other in zip(said[::2], said[1::2], strict=True)]


def compared(tree: Answers, node: Answer, others: list[Answer]) -> Asks[list[float]]:
    """The same by the policy's own words."""
    wins = []
    for other in others:
        history = [Said(node.text), Said(other.text)]
        [(one, _)] = yield from tree.say("compare", history, node.trace_id, only=True)
        [(two, _)] = yield from tree.say("compare", history[::-1], node.trace_id, only=True)
        wins.append((WORTH.get(one.answer or "", 0.5) + 1 - WORTH.get(two.answer or "", 0.5)) / 2)
    return wins


def own_values(tree: Answers, better: list[list[float]], alpha: float) -> list[float]:
    """alpha Q_g + (1 - alpha) Q_l of each answer; one without neighbours is worth its place alone."""
    found = []
    for node, place in zip(tree.nodes, global_values(better), strict=True):
        beside = [*node.children, *([node.parent] if node.parent else [])]
        beaten = [better[node.number][other.number] >= 0.5 for other in beside]
        local = sum(beaten) / len(beaten) if beaten else place
        found.append(alpha * place + (1 - alpha) * local)
    return found


def value_all(tree: Answers, better: list[list[float]], settings: Settings) -> None:
    """Every answer's Q: its own worth, backed up from the newest to the first."""
    for node, value in zip(tree.nodes, own_values(tree, better, settings.alpha), strict=True):
        node.value = value
    for node in reversed(tree.nodes):
        if node.parent is not None:
            assert node.value is not None
            assert node.parent.value is not None
            node.parent.value = (1 - settings.gamma) * node.parent.value + settings.gamma * node.value


def uct(value: float, visits_above: int, visits: int, c: float) -> float:
    """Q + c sqrt(ln(N + 1) / (n + 1e-5)) (by hand: Q .5, N 3, n 1, c 1.4 -> 2.1484)."""
    return value + c * math.sqrt(math.log(visits_above + 1) / (visits + TINY))


def explored(node: Answer, settings: Settings) -> bool:
    """`branch` children, and one that is worth more than the answer itself."""
    best = max((child.value or 0.0 for child in node.children), default=0.0)
    return len(node.children) >= settings.branch and best > (node.value or 0.0)


def descend(node: Answer, settings: Settings) -> Answer:
    """From an answer through fully explored ones by UCT."""
    while explored(node, settings):
        above = node.visits
        node = max(
            node.children, key=lambda one: uct(one.value or 0.0, above, one.visits, settings.exploration)
        )
    return node
