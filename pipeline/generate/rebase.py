"""REBASE, reward balanced search (Wu et al., arXiv:2408.00724): at each depth the budget of samples is shared
among the open steps by the softmax of their rewards.

n first steps. Then, depth by depth: every sample that has ended takes one from the budget for good, and what
is left goes to the open steps, the best first, ceil(left * w_i / (w_i + w_i+1 + ...)) with w = exp(reward /
balance), until nothing is left; a step that gets none is given up. It is beam search with another rule for
widths: a small `balance` puts all on the best step, a large one spreads evenly. The rule is that of the
released code (SqueezeAILab/ETS), whose widths sum to the budget; the paper rounds each share. By hand:
rewards .9, .5, .1 and 8 samples at 0.2 give 7, 1, 0.

At the last depth the open samples are written to their ends. Steps that say the same stand apart, as in the
paper, so that what is said often gets more; `merge: true` makes one of them, which then counts once in the
softmax and as often as it was said where it has ended. The paper's answer is a vote weighted by the reward:
`votes: [weighted]` over these traces. `ets` is its relative that counts what kept branches cost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import ClassVar

from pydantic import Field

from pipeline.asks import Asks
from pipeline.generate.tree import SearchSettings, Tree, TreeNode
from pipeline.rows import ROUNDING, Dropped, Group, Node, Question, Trace
from pipeline.settings import Cost, Length

#: of the open steps, the best first, and the budget for them: which may go on, in the same order
Keep = Callable[[Sequence[TreeNode], int], Sequence[TreeNode]]


class Settings(SearchSettings):
    """The paper's: temperature 1, softmax temperature 0.2, the last step's reward."""

    draws: ClassVar[tuple[str, ...]] = ("n",)

    n: int = Field(16, ge=1, description="samples a depth, and ended ones in all; budget of best-of-n")
    balance: float = Field(
        0.2, gt=0, description="temperature of the softmax over rewards; small: all on the best step"
    )
    merge: bool = Field(False, description="steps that say the same are one")

    @property
    def merges(self) -> bool:
        return self.merge

    def cost(self, task: Length, given: float = 0.0) -> Cost:
        """n samples, a step at a time."""
        return self.searching(task, self.n * task.typical_steps, self.n)


def generate(
    question: Question, settings: Settings, given: Group | None
) -> Asks[list[Trace | Node | Dropped]]:
    """The tree, its ended traces, and the one of highest reward chosen."""
    return (yield from search(question, settings, lambda live, left: live))


def search(question: Question, settings: Settings, keep: Keep) -> Asks[list[Trace | Node | Dropped]]:
    """REBASE among the steps that `keep` lets go on."""
    tree = Tree(question, settings)
    places, left = [tree.root] * settings.n, settings.n
    while places and not tree.over:
        grown = yield from tree.grow(places, 1)
        children = list(dict.fromkeys(child for siblings in grown for child in siblings))
        children = yield from tree.score(children)
        left -= sum(node.copies for node in children if node.done)
        live = sorted((node for node in children if not node.done), key=lambda node: node.rank, reverse=True)
        going = keep(live, left) if left > 0 else []
        shares = widths([node.value for node in going], left, settings.balance)
        places = [node for node, share in zip(going, shares, strict=True) for _ in range(share)]
        if places and places[0].depth >= settings.max_depth:
            yield from tree.finish(places, settings.temperature)
            break
    return tree.rows(tree.best_end() or best_open(places))


def widths(rewards: Sequence[float], budget: int, balance: float) -> list[int]:
    """How many samples each step gets, for rewards in falling order; they sum to the budget, or to 0 where
    nothing is open.
    """
    if not rewards or budget <= 0:
        return [0] * len(rewards)
    weights = [math.exp((reward - rewards[0]) / balance) for reward in rewards]
    found: list[int] = []
    for place, weight in enumerate(weights):
        rest = math.fsum(weights[place:])  # 0 only where all is spent: the first weight is 1
        last = place == len(weights) - 1
        share = budget if last else math.ceil(budget * weight / rest - ROUNDING) if budget else 0
        found.append(share)
        budget -= share
    return found


def best_open(nodes: Sequence[TreeNode]) -> TreeNode | None:
    """The best step that is still open, the first of equals."""
    return max(nodes, key=lambda node: node.rank, default=None)
