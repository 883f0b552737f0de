"""TS-LLM's MCTS-alpha (arXiv:2309.17179): AlphaZero's search over steps.

From the state reached so far, `simulations` times: follow PUCT, V + P (ln((N + base + 1) / base) + init)
sqrt(N) / (1 + n), to a leaf; the PRM's value of it is backed up as a mean. Then the most visited child is
moved to, and there is no way back. The prior P is the softmax of the mean log-probabilities of sibling
steps under the policy. Expansion is deferred: a leaf is expanded on its second visit, and that visit goes
on to the new child that PUCT takes. An unvisited child is worth its PRM value. No roll-outs.

Of two children with equally many visits the move goes to the one of higher value; the authors' code takes the
first (`ties: order`, with which a comparison of 1,220 nodes is equal to theirs, node for node).

`searches` grows that many trees, each from the root with its own draws; the paper's sampled moves are not
here, since a search draws nothing itself.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from pydantic import Field

from pipeline.asks import Asks
from pipeline.generate.tree import SearchSettings, Tree, TreeNode, answered, number, places
from pipeline.rows import Dropped, Group, Node, Question, Trace
from pipeline.settings import Cost, Length, added
from pipeline.vote import weight


class Settings(SearchSettings):
    """The authors' GSM8K settings (tsllm README); for data they search 12 times a question."""

    draws: ClassVar[tuple[str, ...]] = ("branch",)

    simulations: int = Field(5, ge=1, description="a move")
    branch: int = Field(10, ge=1, description="next steps asked for at an expansion (max_action)")
    max_depth: int = Field(8, ge=1, description="steps a path may have")
    base: float = Field(19652.0, gt=0, description="pb_c_base")
    init: float = Field(3.0, ge=0, description="pb_c_init; AlphaZero 1.25")
    deferred: bool = Field(True, description="expand a leaf on its second visit")
    searches: int = Field(1, ge=1, description="trees a problem")
    temperature: float = Field(1.0, ge=0, le=10)
    ties: Literal["value", "order"] = added(
        "value", description="between moves of equal visits: the higher value, or the first as in tsllm"
    )

    def cost(self, task: Length, given: float = 0.0) -> Cost:
        """An expansion for each move of each search. Deferred, others come with second visits, of which there
        are few until every child has had its first (measured: 408 tokens said, 406 written a problem).
        """
        more = self.simulations - (self.branch if self.deferred else 1)
        moves = min(task.typical_steps, self.max_depth) * (1 + max(0, more))
        expansions = self.searches * min(moves, places(task, self.branch))
        return self.searching(task, expansions * self.branch, max(1.0, expansions * (self.branch - 1)))


def generate(
    question: Question, settings: Settings, given: Group | None
) -> Asks[list[Trace | Node | Dropped]]:
    """The trees, a trace for each answer in them; the best final state of a search is chosen."""
    tree: Tree | None = None
    finals: list[TreeNode] = []
    for _ in range(settings.searches):
        if tree is not None and tree.over:
            break
        tree = Tree(question, settings, before=tree)
        finals.append((yield from play(tree, settings)))
    assert tree is not None
    moved = [final for final in finals if final.parent is not None]
    chosen = max(moved, key=lambda node: (answered(node.prefix), number(node.score)), default=None)
    return tree.rows(chosen)


def play(tree: Tree, settings: Settings) -> Asks[TreeNode]:
    """Move from the root to an end; the last state."""
    state = tree.root
    while tree.can_grow(state):
        for _ in range(settings.simulations):
            yield from simulate(tree, state, settings)
        if not state.children:
            break
        by_value = settings.ties == "value"
        state = max(state.children, key=lambda child: (child.visits, child.value if by_value else 0.0))
    if not state.done and state.parent is not None:
        state = next(iter((yield from tree.finish([state]))), state)
    return state


def simulate(tree: Tree, state: TreeNode, settings: Settings) -> Asks[None]:
    """One walk down, an expansion where it is due, and the leaf's value backed up."""
    node = state
    while node.children:
        node = best_child(node, settings)
    due = node is state or node.visits > 0 or not settings.deferred
    if tree.can_grow(node) and not node.expanded and due and not tree.over:
        [children] = yield from tree.grow([node], settings.branch)
        children = yield from tree.score(children)
        node.expanded = True
        set_priors(children)
        if children:
            node = best_child(node, settings)
    if node.score is not None:
        back_up(node, weight(node.score, settings.score_kind))


def set_priors(children: list[TreeNode]) -> None:
    """Softmax over siblings of the mean log-probability of each one's step."""
    means = []
    for child in children:
        assert child.parent is not None
        step = child.prefix.logprobs[child.parent.prefix.num_tokens :]
        means.append(math.fsum(step) / len(step) if step else 0.0)
    shares = [math.exp(mean - max(means)) for mean in means]
    for child, share in zip(children, shares, strict=True):
        child.prior = share / math.fsum(shares)


def puct(value: float, prior: float, visits_above: int, visits: int, settings: Settings) -> float:
    """V + P (ln((N + base + 1) / base) + init) sqrt(N) / (1 + n)  (by hand: N=10, init 1.25 -> factor
    1.25056).
    """
    factor = math.log((visits_above + settings.base + 1) / settings.base) + settings.init
    return value + prior * factor * math.sqrt(visits_above) / (1 + visits)


def best_child(node: TreeNode, settings: Settings) -> TreeNode:
    """The child of the highest PUCT, the first of equals."""
    return max(
        node.children,
        key=lambda child: puct(child.value, child.prior or 0.0, node.visits, child.visits, settings),
    )


def back_up(node: TreeNode, found: float) -> None:
    """The mean of what was found below, for each node up to the root."""
    for above in reversed(node.path):
        above.visits += 1
        above.value = found if above.visits == 1 else above.value + (found - above.value) / above.visits
