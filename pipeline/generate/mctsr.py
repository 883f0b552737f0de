"""MCTSr: Monte-Carlo tree self-refine (arXiv:2406.07394, section 3; details from the authors'
run_with_earlystopping.py). Nodes are whole answers; the model judges them, criticises them and writes them
again.

Each roll-out takes the open answer of the highest UCT, samples its self-reward once more, asks for a
critique and a rewrite, and samples the rewrite's self-reward. An answer's Q is (min + mean) / 2 of its
rewards; the UCT of one with children takes the mean of that and the best child's. An answer stays open
while it has fewer than `branch` children or none as good as it is: the authors' code joins what the paper's
text lists as two rules.

**This one does not see gold**: it runs its roll-outs and answers with the highest Q. The authors' code
stops at the first node that equals the gold answer, which is closer to pass@k; that is `mctsr_oracle`,
whose metrics say so.

A judge that writes no number is asked again `retries` times and then counted (`no_judge`, `no_grade`),
never scored 0; an answer that nobody could judge is open only where no answer is judged, the newest first,
as in Self-Refine. Not here: the paper's importance sampling among open answers (a search draws nothing
itself), and its stop by the model's own likelihoods.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import fmean
from typing import ClassVar, Literal

from pydantic import Field

from pipeline.asks import Asks, Prefix, Said
from pipeline.generate._answers import Answer, Answers, AnswerSettings, Rows
from pipeline.rows import Group, Question
from pipeline.settings import Cost, Length

SCALES = {"five": (0.0, 5.0, "judge"), "hundred": (-100.0, 100.0, "grade")}
FULL, CUT = 95.0, 50.0  #: of the scale to 100: a reward from here on counts as this, for no answer is perfect
TINY = 1e-5  #: keeps the UCT of an answer without rewards finite, as in the authors' code


class Settings(AnswerSettings):
    """The authors' settings: 8 roll-outs in the paper's table, 16 in the code by default."""

    acts: ClassVar[tuple[str, ...]] = ("critique", "rewrite", "judge", "grade")

    branch: int = Field(3, ge=1, description="children that an answer may have while one is as good as it")
    exploration: float = Field(1.4, ge=0, description="c of the UCT")
    scale: Literal["five", "hundred"] = Field(
        "hundred",
        description="hundred: -100 to 100 by the act `grade`, from 95 on counted as 50, as the authors do; "
        "five: 0 to 5 by the act `judge`",
    )
    compound: bool = Field(
        False, description="children's Q already mixed with their own children's (the paper; the code: raw)"
    )
    dummy: str = Field(
        "I don't know", description="a second answer to begin from that no model wrote; empty: none"
    )
    retries: int = Field(2, ge=0, description="more tries of a judge that wrote no number")
    patience: int = Field(0, ge=0, description="stop after so many repeated answers in a row; 0: never")

    def cost(self, task: Length, given: float = 0.0) -> Cost:
        """Two self-rewards a roll-out and one or two at the start; the length of a verdict is an answer's."""
        judged = 2 * self.rollouts + (2 if self.dummy else 1)
        tokens = self.written(task) + judged * self.tokens(task)
        return Cost({self.by: tokens}, {}, 1 + 2 * self.rollouts + judged)


def generate(question: Question, settings: Settings, given: Group | None) -> Asks[Rows]:
    """The tree, every turn, and the answer of the highest Q chosen."""
    return (yield from search(question, settings))


def search(
    question: Question, settings: Settings, is_right: Callable[[Prefix], bool] | None = None
) -> Asks[Rows]:
    """The search. is_right: stop at the first answer of which it is true: it sees gold, so only
    `mctsr_oracle` gives it.
    """
    tree = Answers(question, settings)

    def hit(node: Answer) -> bool:
        return is_right is not None and node.prefix is not None and is_right(node.prefix)

    first = yield from tree.first()
    if hit(first):
        return tree.rows(first)
    yield from reward(tree, first)
    if settings.dummy:
        yield from reward(tree, tree.given(settings.dummy))
    repeats = 0
    for _ in range(settings.rollouts):
        node = pick(tree)
        if node is None:
            break
        yield from reward(tree, node)
        child, is_new = yield from tree.refine(node)
        if is_new and hit(child):
            return tree.rows(child)
        yield from reward(tree, child)
        repeats = 0 if is_new else repeats + 1
        if settings.patience and repeats >= settings.patience:
            break
    return tree.rows(tree.best())


def reward(tree: Answers, node: Answer) -> Asks[None]:
    """One more sample of an answer's self-reward, where the judge gives a number."""
    settings: Settings = tree.settings  # type: ignore[assignment]
    low, high, act = SCALES[settings.scale]
    for _ in range(1 + settings.retries):
        [(reply, _)] = yield from tree.say(act, [Said(node.text)], node.trace_id, only=True)
        if reply.answer is not None:
            node.rewards.append(kept(float(reply.answer), settings.scale))
            break
    node.visits = len(node.rewards)
    known = quality(node.rewards)
    node.value = None if known is None else (known - low) / (high - low)


def kept(score: float, scale: str) -> float:
    """A reward as it counts: on the scale to 100, 95 and more count as 50."""
    return CUT if scale == "hundred" and score >= FULL else score


def quality(rewards: list[float]) -> float | None:
    """Q = (min + mean) / 2 (by hand: 80, 60, 40 -> 50); None where there is no reward."""
    return (min(rewards) + fmean(rewards)) / 2 if rewards else None


def mixed(node: Answer, compound: bool) -> float | None:
    """Q' = (Q + the best child's Q) / 2 (by hand: 50 with children 20 and 70 -> 60); Q without children."""
    own = quality(node.rewards)
    below = [mixed(c, True) if compound else quality(c.rewards) for c in node.children]
    known = [value for value in below if value is not None]
    return own if own is None or not known else (own + max(known)) / 2


def uct(value: float, rewards_above: int, rewards: int, settings: Settings) -> float:
    """Q + c sqrt(ln(N + 1) / (n + 1e-5)), N and n rewards (by hand: 50, N 3, n 2, c 1.4 -> 51.1656)."""
    return value + settings.exploration * math.sqrt(math.log(rewards_above + 1) / (rewards + TINY))


def is_open(node: Answer, settings: Settings) -> bool:
    """Fewer than `branch` children, or none as good as the answer itself."""
    own = quality(node.rewards)
    below = [value for child in node.children if (value := quality(child.rewards)) is not None]
    return len(node.children) < settings.branch or own is None or max(below, default=-math.inf) < own


def pick(tree: Answers) -> Answer | None:
    """The open answer of the highest UCT, the first of equals; the newest one where none is judged."""
    settings: Settings = tree.settings  # type: ignore[assignment]
    there = [node for node in tree.nodes if tree.may_grow(node)]
    judged = [node for node in there if node.rewards and is_open(node, settings)]
    if not judged:
        unknown = [node for node in there if not node.rewards and node.trace_id and is_open(node, settings)]
        return unknown[-1] if unknown else None

    def worth(node: Answer) -> float:
        value = mixed(node, settings.compound)
        assert value is not None
        above = len(node.parent.rewards) if node.parent else 0
        return uct(value, above, len(node.rewards), settings)

    return max(judged, key=worth)
