"""eta-MCTS: AlphaLLM's search (arXiv:2404.12253, section 4.3). A node is an option, here a step; how many
children it may have grows with its importance; alike children are one; and three critics judge a state.

The state score is the weighted mean of the value model, the process model and the outcome model, the last
one over `rollouts` fast completions of the state (`rollout_by`; thrown away). Each simulation follows the
UCB from the root through nodes that have all their children, adds a child to the first one that has not,
and backs its score up as a mean. What the paper and the released code (YeTianJHU/AlphaLLM, search/mcts.py)
do differently, `variant: paper` | `released`:

- importance I: the largest change of score from a node to a child | the largest distance of a child's mean
  value from that of all siblings, never falling
- children: floor(factor I) + 1 within `width` | max(least, min(int(factor I), most)), and `root` at the
  root
- UCB: w + c sqrt(2 ln N / n) | w + c sqrt(ln N / n)
- a child like another: joins it, up to `distance` edits | is drawn anew up to `tries` times, the farthest
  stays
- critics: all weigh 1 | the process model weighs 0
- the first child: drawn | greedy

A draw counts as a child whether it joined another or made no step, or a policy that always says one thing
would never be let go. factor is not in the paper, nor are the bounds of the width; `width: [4, 4]` is a
fixed width at the same code. No gold is seen.
"""

from __future__ import annotations

import math
from collections import Counter
from statistics import fmean
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from pipeline.asks import Asks, Continue, Prefix, Score, closed
from pipeline.generate.tree import SearchSettings, Tree, TreeNode, places
from pipeline.rows import Dropped, Group, Node, Question, Trace
from pipeline.settings import Cost, Length, PolicyName, RewardModelName


class Settings(SearchSettings):
    """Whose rules, and the critics."""

    makes: ClassVar[tuple[str, ...]] = ("Trace", "Node", "Dropped")

    variant: Literal["paper", "released"] = "paper"
    simulations: int = Field(40, ge=1)
    ends: int | None = Field(
        None,
        ge=0,
        description="go on until so many answers ended, at most as long again; none: 0, released 40",
    )
    prm: RewardModelName | None = Field(None, description="the process model; none: `value` and `orm` judge")
    orm: RewardModelName | None = Field(None, description="the outcome model, of roll-outs; none: none")
    weights: tuple[float, float, float] | None = Field(
        None, description="of value, prm and orm; none: 1, 1, 1, of the released code 1, 0, 1"
    )
    rollouts: int = Field(4, ge=1, description="fast completions of a state that the outcome model judges")
    rollout_by: PolicyName | None = Field(None, description="who writes them; none: `by`")
    factor: float = Field(2.0, ge=0, description="children for each unit of importance")
    width: tuple[int, int] | None = Field(
        None, description="[least, most] children of a node; none: [2, 10], of the released code [3, 10]"
    )
    root: int | None = Field(None, ge=1, description="children of the root; none: as others; released 40")
    exploration: float = Field(1.0, ge=0, description="c of the UCB")
    distance: int = Field(50, ge=0, description="characters of edits: up to here two steps are alike")
    tries: int = Field(5, ge=1, description="draws until a step is like no sibling (released)")
    max_depth: int = Field(10, ge=1, description="steps a path may have")
    temperature: float = Field(1.0, ge=0, le=10)

    @model_validator(mode="after")
    def _fits(self) -> Settings:
        least, most = self.bounds
        if not 1 <= least <= most:
            raise ValueError(f"width: [{least}, {most}]: two whole numbers from 1 on, the lower one first")
        if any(weight < 0 for weight in self.betas) or not any(weight for _, weight in self.critics):
            betas = list(self.betas)
            raise ValueError(f"weights: {betas}: 0 or more, and that of a critic which is named above 0")
        return self

    @property
    def bounds(self) -> tuple[int, int]:
        return self.width or ((2, 10) if self.variant == "paper" else (3, 10))

    @property
    def betas(self) -> tuple[float, float, float]:
        return self.weights or ((1, 1, 1) if self.variant == "paper" else (1, 0, 1))

    @property
    def critics(self) -> list[tuple[str, float]]:
        """Who judges, with weights: value, prm, orm; a model that is not named weighs nothing."""
        named = (self.value, self.prm, self.orm)
        return [(name or "", b if name else 0.0) for name, b in zip(named, self.betas, strict=True)]

    def cost(self, task: Length, given: float = 0.0) -> Cost:
        """A step a simulation, and the roll-outs of it, half of an answer each, read by their critics."""
        grown = min(float(self.simulations), places(task, self.bounds[1]))
        found = self.searching(task, grown, max(1.0, grown / max(task.typical_steps, 1.0)))
        (_, _), (prm, beta_prm), (orm, beta_orm) = self.critics
        read = sum(found.written.values())
        more = Cost(read={prm: read}) if beta_prm else Cost()
        if beta_orm:
            tokens = grown * self.rollouts * self.tokens(task) / 2
            more += Cost({self.rollout_by or self.by: tokens}, {orm: 2 * tokens})
        return found + more


class Search:
    """One problem's search: its tree, the draws at each node, and what importance each has shown."""

    def __init__(self, question: Question, settings: Settings) -> None:
        self.tree, self.settings = Tree(question, settings), settings
        self.draws: Counter[TreeNode] = Counter()
        self.shown: dict[TreeNode, float] = {}  #: highest importance so far (released)

    def most(self, node: TreeNode) -> int:
        """Children that a node may have now."""
        settings = self.settings
        if node is self.tree.root and (settings.root or settings.variant == "released"):
            return settings.root or 40
        return width(importance(node, settings, self.shown.get(node, 0.0)), settings)

    def simulate(self) -> Asks[None]:
        """One walk down, a child where one is missing, its score backed up."""
        node = self.tree.root
        while self.tree.can_grow(node):
            if self.draws[node] < self.most(node):
                if child := (yield from self.expand(node)):
                    node = child
                break
            if not node.children:
                break
            node = best_child(node, self.settings)
        if node.score is not None:
            back_up(node, node.score)
        for above in node.path:
            self.shown[above] = importance(above, self.settings, self.shown.get(above, 0.0))

    def expand(self, node: TreeNode) -> Asks[TreeNode | None]:
        """A child more, or the one that the new step is like; None where no step came of it."""
        settings, tree = self.settings, self.tree
        if tree.over:
            return None
        released = settings.variant == "released"
        temperature = 0.0 if released and not self.draws[node] else None
        self.draws[node] += 1
        tried: list[tuple[int, TreeNode]] = []
        for _ in range(settings.tries if released else 1):
            [found] = yield from tree.grow([node], 1, keep=False, temperature=temperature)
            tried += [(nearest(one, node.children), one) for one in found]
            if tried and tried[-1][0] >= settings.distance:
                break
            temperature = None
        if not tried:
            return None
        far, child = max(tried, key=lambda pair: pair[0])
        if node.children and (far == 0 if released else far <= settings.distance):
            like = min(node.children, key=lambda other: apart(child, other))
            like.copies += 1
            return like
        tree.join(child)
        yield from self.judge(child)
        return child if child.score is not None else None

    def judge(self, node: TreeNode) -> Asks[None]:
        """The state score of a node; one that a critic cannot read leaves the tree (`bad_score`)."""
        found: list[tuple[float, float]] = []
        for place, (name, beta) in enumerate(self.settings.critics):
            if not beta:
                continue
            seen = [node.prefix]
            if place == 2 and not node.done:
                seen = yield from self.roll_out(node)
            replies = yield Score(seen, by=name)
            scores = [steps[-1] for steps in replies if steps]
            found.append((fmean(scores) if scores else math.nan, beta))
        score = math.fsum(s * beta for s, beta in found) / math.fsum(beta for _, beta in found)
        if math.isfinite(score):
            node.score = score
            return
        assert node.parent is not None
        self.tree.lost.append("bad_score")
        node.parent.children.remove(node)

    def roll_out(self, node: TreeNode) -> Asks[list[Prefix]]:
        """Fast completions of a state."""
        settings = self.settings
        written = yield Continue(
            node.prefix,
            by=settings.rollout_by or settings.by,
            n=settings.rollouts,
            **settings.sampling,
        )
        self.tree.spent += sum(one.num_tokens - node.prefix.num_tokens for one in written)
        return [closed(one) for one in written]


def generate(
    question: Question, settings: Settings, given: Group | None
) -> Asks[list[Trace | Node | Dropped]]:
    """The tree, a trace for each answer in it, and the one of the highest state score chosen."""
    search = Search(question, settings)
    tree = search.tree
    wanted = settings.ends
    if wanted is None:
        wanted = 40 if settings.variant == "released" else 0
    for number in range(2 * settings.simulations):
        ended = sum(node.done for node in tree.live())
        if tree.over or (number >= settings.simulations and ended >= wanted):
            break
        yield from search.simulate()
    end = tree.best_end()
    if end is None and (path := tree.best_path()) is not tree.root:
        ends = yield from tree.finish([path])
        end = tree.best_end() or (ends[0] if ends else path)
    return tree.rows(end)


def importance(node: TreeNode, settings: Settings, before: float = 0.0) -> float:
    """How much it matters which child is taken (by hand: .5 with children .2 and .6 -> .3)."""
    if settings.variant == "paper":
        own = node.value if node.score is None else node.score  # the root is no state that a critic reads
        return max((abs((child.score or 0.0) - own) for child in node.children), default=0.0)
    values = [child.value for child in node.children]
    mean = fmean(values) if values else 0.0
    return max([before, *(abs(value - mean) for value in values)])


def width(importance: float, settings: Settings) -> int:
    """Children by importance (by hand: factor 10, I .35: paper floor(3.5) + 1 = 4, released int(3.5) = 3)."""
    least, most = settings.bounds
    grown = settings.factor * importance
    if settings.variant == "paper":
        return max(least, min(math.floor(grown) + 1, most))
    return max(least, min(int(grown), most))


def ucb(value: float, visits_above: int, visits: int, settings: Settings) -> float:
    """w + c sqrt(k ln N / n), k 2 in the paper, 1 in the code; one without visits first
    (by hand: .5, N 4, n 1, c 1 -> 2.1651, 1.6774)."""
    if not visits:
        return math.inf
    inner = 2 if settings.variant == "paper" else 1
    return value + settings.exploration * math.sqrt(inner * math.log(visits_above) / visits)


def best_child(node: TreeNode, settings: Settings) -> TreeNode:
    """The child of the highest UCB, the first of equals."""
    return max(node.children, key=lambda child: ucb(child.value, node.visits, child.visits, settings))


def back_up(node: TreeNode, found: float) -> None:
    """The mean of what was found at and below each node up to the root."""
    for above in reversed(node.path):
        above.visits += 1
        above.value += (found - above.value) / above.visits


def nearest(one: TreeNode, others: list[TreeNode]) -> int:
    """The least edit distance to any of the others; very far where there is none."""
    return min((apart(one, other) for other in others), default=10**9)


def apart(one: TreeNode, other: TreeNode) -> int:
    """The edit distance of two steps in characters (Levenshtein's)."""
    a, b = one.step.strip(), other.step.strip()
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, right in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (left != right))
    return row[-1]
