"""The tree that every guided search grows: nodes, budgets, merged duplicates, PRM scores, and the rows that
come out.

A search is a generator over this: `children = yield from tree.grow(nodes, n)`, `yield from
tree.score(children)`. Nodes whose step says the same under one parent are merged. A reply that adds no
token, ends no step, or gets a score that is not a finite number makes no node: it is counted as a Dropped
row (`no_growth`, `no_step_end`, `bad_score`), so no search waits for a policy that never ends a step.

Budgets: `max_depth` and `max_nodes` bind everything but the writing out of an answer (`finish`);
`budget_tokens` is looked at before each ask, so the last ask may pass it. There is no gold here and no
model: a node is done when the policy ended its answer, or its length limit did.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from pydantic import Field

from pipeline.asks import All, Asks, Continue, Prefix, Score, abandoned, closed, start, to_trace
from pipeline.generate import GenerateSettings
from pipeline.rows import Dropped, Node, Question, Trace
from pipeline.settings import Cost, Length, RewardModelName
from pipeline.vote import Kind, weight
from pipeline.vote.aggregate import Aggregate, aggregate, kind_of


class SearchSettings(GenerateSettings):
    """What every guided search takes."""

    makes: ClassVar[tuple[str, ...]] = ("Trace", "Node", "Dropped")
    chooses_steps: ClassVar[bool] = True

    value: RewardModelName = Field("prm", description="the model that scores steps")
    aggregate: Aggregate = Field("last", description="step scores -> the value of a node; value models: last")
    max_depth: int = Field(40, ge=1, description="steps a path may have")
    max_nodes: int | None = Field(
        None, ge=2, description="nodes a problem may have, the root included; none: no limit"
    )
    budget_tokens: int | None = Field(
        None, ge=1, description="tokens the policy may write for a problem; none: no limit"
    )

    @property
    def score_kind(self) -> Kind:
        return kind_of(self.aggregate)

    @property
    def merges(self) -> bool:
        """Are replies that say the same under one parent one node?"""
        return True

    def searching(self, task: Length, steps: float, ends: float) -> Cost:
        """The cost of a search that has so many steps written and read, and leaves so many ends; within its
        budget of tokens.
        """
        tokens = steps * self.tokens(task) / max(task.typical_steps, 1.0)
        tokens = min(tokens, self.budget_tokens or tokens)
        return Cost({self.by: tokens}, {self.value: tokens}, ends)


def places(task: Length, branch: int) -> float:
    """Nodes of a typical tree that can be expanded, where each has `branch` children that go on."""
    return float(sum(branch**depth for depth in range(max(1, min(round(task.typical_steps), 12)))))


@dataclass(slots=True, eq=False)
class TreeNode:
    """A partial solution. `score` is the PRM's word on it, aggregated; `value` what the search makes of that,
    a number from 0 to 1 whatever the aggregation gives (`weight`), so that gates, means and UCB hold.
    """

    prefix: Prefix
    parent: TreeNode | None = None
    number: int = -1  #: place in the tree; -1: looked at, not in the tree
    depth: int = 0
    score: float | None = None
    value: float = 0.0
    visits: int = 0
    prior: float | None = None
    children: list[TreeNode] = field(default_factory=list)
    expanded: bool = False  #: asked for its next steps
    copies: int = 1  #: replies that said the same

    @property
    def rank(self) -> tuple[float, float]:
        """By value; among those that are equal to rounding (log-odds far out), by score."""
        return self.value, number(self.score)

    @property
    def done(self) -> bool:
        """The policy ended its answer here, or a limit did."""
        return self.prefix.done

    @property
    def step(self) -> str:
        """The text that this node added."""
        return self.prefix.text[len(self.parent.prefix.text) :] if self.parent else ""

    @property
    def path(self) -> list[TreeNode]:
        """From the root to here."""
        found: list[TreeNode] = [self]
        while found[-1].parent is not None:
            found.append(found[-1].parent)
        return found[::-1]


class Tree:
    """One problem's tree (a search that starts afresh makes another, numbered on from `first`)."""

    def __init__(self, question: Question, settings: SearchSettings, before: Tree | None = None) -> None:
        self.question, self.settings = question, settings
        self.spent: int = before.spent if before else 0  #: tokens written by the policy
        self.lost: list[str] = before.lost if before else []  #: reasons of replies that made no node
        self.nodes: list[TreeNode] = before.nodes if before else []
        self.root = TreeNode(start(question))
        self._enter(self.root)

    @property
    def over(self) -> bool:
        """Is a budget used up?"""
        return self.out_of_tokens or self.room() == 0

    @property
    def out_of_tokens(self) -> bool:
        """Is the token budget used up?"""
        most = self.settings.budget_tokens
        return most is not None and self.spent >= most

    def room(self) -> int:
        """Nodes that may still be added."""
        most = self.settings.max_nodes
        return 1_000_000_000 if most is None else max(0, most - len(self.nodes))

    def can_grow(self, node: TreeNode) -> bool:
        """May this node have children?"""
        return not node.done and node.depth < self.settings.max_depth

    def grow(
        self,
        nodes: Sequence[TreeNode],
        n: int,
        *,
        keep: bool = True,
        temperature: float | None = None,
    ) -> Asks[list[list[TreeNode]]]:
        """n next steps of each node: for each node the distinct children among its replies. keep=False
        leaves the tree as it is.
        """
        if not nodes or (keep and self.over):
            return [[] for _ in nodes]
        if keep:
            n = max(1, min(n, self.room() // len(nodes)))
        written = yield self._continue(nodes, n, "step", temperature)
        grown: list[list[TreeNode]] = []
        for place, node in enumerate(nodes):
            found = [self._add(node, reply, keep) for reply in written[place * n : (place + 1) * n]]
            grown.append(list(dict.fromkeys(child for child in found if child is not None)))
        return grown

    def finish(self, nodes: Sequence[TreeNode], temperature: float = 0.0) -> Asks[list[TreeNode]]:
        """Write each node on to its answer; the new steps join the tree, scored. The last node of each,
        where there is one.
        """
        open_nodes = [node for node in nodes if not node.done]
        if not open_nodes or self.out_of_tokens:
            return [node for node in nodes if node.done]
        written = yield self._continue(open_nodes, 1, "answer", temperature)
        chains = [self._chain(node, reply) for node, reply in zip(open_nodes, written, strict=True)]
        chains = [chain for chain in chains if chain]
        replies = (
            (yield Score([chain[-1].prefix for chain in chains], by=self.settings.value)) if chains else []
        )
        for chain, scores in zip(chains, replies, strict=True):
            for node in chain:
                self._judge(node, node.prefix, list(scores[: len(node.prefix.step_ends)]), 0.0)
        whole = [chain[-1] for chain in chains if all(node.score is not None for node in chain)]
        return [node for node in nodes if node.done] + whole

    def _continue(
        self,
        nodes: Sequence[TreeNode],
        n: int,
        until: Literal["step", "answer"],
        temperature: float | None,
    ) -> Continue:
        settings = self.settings
        return Continue(
            [node.prefix for node in nodes],
            by=settings.by,
            n=n,
            until=until,
            temperature=settings.temperature if temperature is None else temperature,
            top_p=settings.top_p,
            top_k=settings.top_k,
        )

    def _add(self, parent: TreeNode, reply: Prefix, keep: bool = True) -> TreeNode | None:
        """The child that a reply makes, the one it repeats, or None with the reason counted."""
        self.spent += max(0, reply.num_tokens - parent.prefix.num_tokens)
        if reply.num_tokens <= parent.prefix.num_tokens and reply.finish not in ("eos", "stop"):
            self.lost.append("no_growth")
            return None
        if not reply.done and (not reply.step_ends or reply.step_ends[-1] != reply.num_tokens):
            self.lost.append("no_step_end")
            return None
        return self._child(parent, closed(reply), keep)

    def join(self, child: TreeNode) -> None:
        """Take into the tree what `grow(keep=False)` looked at."""
        assert child.parent is not None
        self._enter(child)
        child.parent.children.append(child)

    def seen(self, before: Prefix, reply: Prefix) -> Prefix:
        """What a look ahead found, its tokens counted; a reply that ends no step shows nothing new."""
        self.spent += max(0, reply.num_tokens - before.num_tokens)
        whole = closed(reply)
        return whole if reply.done or whole.step_ends == reply.step_ends else before

    def _child(
        self, parent: TreeNode, prefix: Prefix, keep: bool = True, limited: bool = True
    ) -> TreeNode | None:
        child = TreeNode(prefix, parent, depth=parent.depth + 1)
        like = (old for old in parent.children if same(old, child))
        twin = next(like, None) if keep and self.settings.merges else None
        if twin is not None:
            twin.copies += 1
            return twin
        if keep:
            if limited and self.room() == 0:
                self.lost.append("max_nodes")
                return None
            self._enter(child)
            parent.children.append(child)
        return child

    def _chain(self, node: TreeNode, reply: Prefix) -> list[TreeNode]:
        """A node for each step that a reply adds below `node`."""
        self.spent += max(0, reply.num_tokens - node.prefix.num_tokens)
        if reply.num_tokens <= node.prefix.num_tokens and reply.finish not in ("eos", "stop"):
            self.lost.append("no_growth")
            return []
        whole, known, chain = closed(reply), len(node.prefix.steps), []
        pieces = [cut_after(whole, count) for count in range(known + 1, len(whole.steps))]
        for piece in [*pieces, whole]:
            child = self._child(node, piece, limited=False)
            assert child is not None
            chain.append(child)
            node = child
        return chain

    def _enter(self, node: TreeNode) -> None:
        node.number = len(self.nodes)
        self.nodes.append(node)

    def score(
        self,
        nodes: Sequence[TreeNode],
        views: Sequence[Prefix] | None = None,
        plus: str | None = None,
        alpha: float = 0.0,
    ) -> Asks[list[TreeNode]]:
        """Ask the PRM for each node that has no score yet; those that may go on, in order. A bad score
        takes its node out again.

        views: prefixes to score in place of the nodes' own (lookahead). plus, alpha: value += alpha * the
        last step score of a second model (PAV's effective reward, arXiv:2410.08146); `score` stays the
        first model's.
        """
        seen = list(zip(nodes, views or [node.prefix for node in nodes], strict=True))
        fresh = [(node, view) for node, view in seen if node.score is None]
        if fresh:
            shown = [view for _, view in fresh]
            ask = Score(shown, by=self.settings.value)
            if plus is None:
                replies, extra = (yield ask), [[0.0]] * len(fresh)
            else:
                replies, extra = yield All(ask, Score(shown, by=plus))
            for (node, view), scores, more in zip(fresh, replies, extra, strict=True):
                self._judge(node, view, list(scores), alpha * more[-1] if more else math.nan)
        return [node for node in nodes if node.score is not None]

    def _judge(self, node: TreeNode, view: Prefix, scores: list[float], more: float) -> None:
        if len(scores) != len(view.step_ends):
            raise ValueError(f"{self.settings.value}: {len(scores)} scores for {len(view.step_ends)} steps")
        score = aggregate(scores, self.settings.aggregate) if scores else math.nan
        if math.isfinite(score + more):
            node.score, node.value = score, weight(score, self.settings.score_kind) + more
            return
        self.lost.append("bad_score")
        if node.parent is not None and node in node.parent.children:
            node.parent.children.remove(node)

    def live(self) -> list[TreeNode]:
        """The nodes that stand in the tree, in order of entry; what hangs below a node that was taken out
        is gone too.
        """
        gone: set[int] = set()
        found = []
        for node in self.nodes:
            if node.parent is not None and (id(node.parent) in gone or node not in node.parent.children):
                gone.add(id(node))
            else:
                found.append(node)
        return found

    def best_end(self) -> TreeNode | None:
        """The end node with the highest score; one with an answer before one without or cut short; the
        first of equals.
        """
        ends = [node for node in self.live() if node.done]
        return max(ends, key=lambda node: (answered(node.prefix), number(node.score)), default=None)

    def best_path(self) -> TreeNode:
        """From the root down to the leaf by highest value: what to finish where nothing ended."""
        node = self.root
        while node.children:
            node = max(node.children, key=lambda child: child.rank)
        return node

    def rows(self, chosen: TreeNode | None) -> list[Trace | Node | Dropped]:
        """Node rows in order of entry, a Trace for each end node (and for `chosen`), and a Dropped for each
        lost reply.
        """
        question, settings = self.question, self.settings
        nodes: list[Node] = []
        traces: list[Trace] = []
        for node in self.live():
            trace = None
            if node.done or (node is chosen and node is not self.root):
                trace = to_trace(
                    question,
                    abandoned(node.prefix),
                    len(traces),
                    temperature=settings.temperature,
                    cut=settings.cuts,
                    score=node.score,
                    chosen=node is chosen,
                )
                traces.append(trace)
            nodes.append(self._row(node, trace.id if trace else None))
        lost = [
            Dropped(problem_id=question.id, what=f"{question.id}/x{place}", reason=reason)
            for place, reason in enumerate(self.lost)
        ]
        if not traces:
            lost.append(Dropped(problem_id=question.id, what=question.id, reason="no_trace"))
        return [*nodes, *traces, *lost]

    def _row(self, node: TreeNode, trace_id: str | None) -> Node:
        above = node.parent
        return Node(
            problem_id=self.question.id,
            id=f"{self.question.id}/n{node.number}",
            parent=None if above is None else f"{self.question.id}/n{above.number}",
            step=node.step,
            depth=node.depth,
            value=node.value if node.score is not None or node.visits else None,
            visits=node.visits,
            prior=node.prior,
            terminal=node.done,
            trace_id=trace_id,
            token_ids=list(node.prefix.token_ids[above.prefix.num_tokens if above else 0 :]),
        )


def answered(prefix: Prefix) -> bool:
    """Ended by the policy itself, with an answer in it."""
    return prefix.said is not None


def number(score: float | None) -> float:
    """A score for comparing; none loses."""
    return -math.inf if score is None else score


def same(one: TreeNode, other: TreeNode) -> bool:
    """Do two children of one parent say the same and end the same way?"""
    return one.step.strip() == other.step.strip() and one.prefix.finish == other.prefix.finish


def cut_after(prefix: Prefix, num_steps: int) -> Prefix:
    """The first steps of a closed prefix, still open."""
    end = prefix.step_ends[num_steps - 1]
    return replace(
        prefix,
        token_ids=prefix.token_ids[:end],
        step_ends=prefix.step_ends[:num_steps],
        steps=prefix.steps[:num_steps],
        text="".join(prefix.steps[:num_steps]),
        logprobs=prefix.logprobs[:end],
        finish="",
        answer=None,
    )
