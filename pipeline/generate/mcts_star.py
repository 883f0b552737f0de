"""MCTS*: the search of ReST-MCTS* (arXiv:2406.03816, section 3.2 and algorithm 2; details from the authors'
MCTS/mcts.py).

Each iteration: follow the best UCB from the root through expanded nodes; expand the leaf into `branch`
scored steps; take its best child and blend in the best value met on a greedy roll-out, v <- (1 - alpha) v +
alpha v_max; then every node from the leaf up gets a visit, and an expanded one the visit-weighted mean of
its children's values.

The self-critic is the paper's `simple` one: a node has ended when the policy ended its answer (the end
token or the task's stop). A node whose value reaches `end_gate` is not expanded either; the policy writes
it to its end greedily, which stands in for the paper's summariser. Roll-outs are looked at and thrown away,
as in the paper, unless `keep_rollouts`.

mode: `answer` stops at the first selected node that reached `end_gate`; `full` runs all iterations, to
label the tree (data generation).
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from pydantic import Field

from pipeline.asks import Asks
from pipeline.generate.tree import SearchSettings, Tree, TreeNode, places
from pipeline.rows import Dropped, Group, Node, Question, Trace
from pipeline.settings import Cost, Length


class Settings(SearchSettings):
    """The authors' settings for generating data on MATH (arXiv:2406.03816, appendix; MCTS/task.py);
    GSM8K has 40 iterations.
    """

    draws: ClassVar[tuple[str, ...]] = ("branch",)

    iterations: int = Field(50, ge=1)
    branch: int = Field(3, ge=1, description="next steps asked for at an expansion")
    exploration: float = Field(0.5, ge=0, description="c of the UCB")
    inner: float = Field(
        2.0, gt=0, description="factor in sqrt(inner ln N / n): 2 in the code, 1 in the paper"
    )
    unvisited: float = Field(0.9, ge=0, description="added to the value of a child without visits (INF)")
    end_gate: float = Field(0.8, description="a node of this value has ended; evaluation uses 0.9")
    alpha: float = Field(0.5, ge=0, le=1, description="share of the roll-out in a child's value")
    roll_forward: int = Field(1, ge=0, description="steps of a roll-out")
    roll_branch: int = Field(1, ge=1, description="proposals at each step of a roll-out")
    keep_rollouts: bool = Field(False, description="roll-out steps join the tree (not in the paper)")
    mode: Literal["answer", "full"] = "full"
    temperature: float = Field(0.7, ge=0, le=10)

    def cost(self, task: Length, given: float = 0.0) -> Cost:
        """An expansion and a roll-out an iteration, until the tree has no open node left."""
        expansions = min(self.iterations, places(task, self.branch))
        steps = expansions * (self.branch + self.roll_forward * self.roll_branch)
        return self.searching(task, steps, max(1.0, expansions * (self.branch - 1)))


def generate(
    question: Question, settings: Settings, given: Group | None
) -> Asks[list[Trace | Node | Dropped]]:
    """The tree, a trace for each answer in it, and the best of them chosen."""
    tree = Tree(question, settings)
    for _ in range(settings.iterations):
        leaf = descend(tree.root, settings)
        if leaf.value >= settings.end_gate and leaf is not tree.root:
            if not leaf.done and not leaf.children:
                yield from tree.finish([leaf])
            if settings.mode == "answer":
                break
        elif tree.can_grow(leaf) and not leaf.expanded:
            if tree.over:
                break
            [children] = yield from tree.grow([leaf], settings.branch)
            children = yield from tree.score(children)
            leaf.expanded = True
            if leaf.children:
                yield from roll_out(tree, best_child(leaf, settings))
        back_up(leaf)
        if settled(tree.root, settings):
            break  # every leaf has ended: more iterations would only count visits
    end = tree.best_end()
    if end is None and (path := tree.best_path()) is not tree.root:
        ends = yield from tree.finish([path])
        end = tree.best_end() or (ends[0] if ends else path)
    return tree.rows(end)


def ucb(value: float, visits_above: int, visits: int, settings: Settings) -> float:
    """V + c sqrt(inner ln N / n); a child without visits gets V + INF (by hand: .5, N=4, n=1, c=.5 ->
    1.3326).
    """
    if visits == 0:
        return value + settings.unvisited
    return value + settings.exploration * math.sqrt(settings.inner * math.log(visits_above) / visits)


def best_child(node: TreeNode, settings: Settings) -> TreeNode:
    """The child of the highest UCB, the first of equals."""
    return max(node.children, key=lambda child: ucb(child.value, node.visits, child.visits, settings))


def descend(node: TreeNode, settings: Settings) -> TreeNode:
    """From a node through expanded ones by UCB, down to one that is not expanded, has ended or has no
    children.
    """
    while node.expanded and node.children and not node.done:
        node = best_child(node, settings)
    return node


def roll_out(tree: Tree, child: TreeNode) -> Asks[None]:
    """Greedily by value for a few steps; the best value met is blended into the child's, which counts a
    visit.
    """
    settings: Settings = tree.settings  # type: ignore[assignment]
    met: list[float] = []
    here = child
    for _ in range(settings.roll_forward):
        if not tree.can_grow(here) or tree.out_of_tokens:
            break
        [steps] = yield from tree.grow([here], settings.roll_branch, keep=settings.keep_rollouts)
        steps = yield from tree.score(steps)
        if not steps:
            break
        here = max(steps, key=lambda step: step.value)
        met.append(here.value)
        if here.value >= settings.end_gate:
            break
    if met:
        child.value = (1 - settings.alpha) * child.value + settings.alpha * max(met)
    child.visits += 1


def back_up(node: TreeNode) -> None:
    """A visit for each node up to the root; an expanded one gets the visit-weighted mean of its children's
    values.
    """
    for above in reversed(node.path):
        above.visits += 1
        visits = sum(child.visits for child in above.children)
        if above.expanded and visits:
            above.value = math.fsum(child.value * child.visits for child in above.children) / visits


def settled(node: TreeNode, settings: Settings) -> bool:
    """Is there nothing left below a node to expand?"""
    if node.done or (node.parent is not None and node.value >= settings.end_gate and not node.expanded):
        return True
    if not node.expanded:
        return node.depth >= settings.max_depth
    return all(settled(child, settings) for child in node.children)
