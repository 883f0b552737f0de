"""A tree whose nodes are whole answers: what searches share that critique an answer and write a better one
below it (MCTSr, arXiv:2406.07394; LLaMA-Berry's SR-MCTS, arXiv:2410.02884).

Each turn is a Trace of its own (`PROBLEM/0`, `PROBLEM/critique.0`, `PROBLEM/rewrite.0`, ...) that names the
turn before it as its `parent`; the answers are Nodes too, below a root that is the question. A node is no
continuation of the one above it, so nothing here has step labels or sibling steps. A rewrite sees the
answer that it mends and the critique of it, nothing older.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from pydantic import Field

from pipeline.asks import Asks, Continue, Prefix, Said, Turn, start, to_trace
from pipeline.generate import GenerateSettings
from pipeline.generate.tree import answered
from pipeline.rows import Dropped, Node, Question, Trace
from pipeline.settings import Length

Rows = list[Trace | Node | Dropped]
SEEN_ONCE = ("critique", "compare")  #: acts that may be asked at a temperature of their own


class AnswerSettings(GenerateSettings):
    """What a search over answers takes."""

    makes: ClassVar[tuple[str, ...]] = ("Trace", "Node", "Dropped")
    acts: ClassVar[tuple[str, ...]] = ("critique", "rewrite")

    rollouts: int = Field(8, ge=1, description="answers that are critiqued and written again")
    max_depth: int = Field(0, ge=0, description="rewrites of rewrites on one path; 0: no limit")
    temperature: float = Field(0.95, ge=0, le=10)
    critique_temperature: float | None = Field(
        None, ge=0, le=10, description="of critiques and comparisons; none: `temperature`"
    )

    def written(self, task: Length) -> float:
        """Tokens of the first answer, each critique and each rewrite; a critique counts as an answer."""
        return (1 + 2 * self.rollouts) * self.tokens(task)


@dataclass(slots=True, eq=False)
class Answer:
    """A whole answer. `value` is what the search makes of it, from 0 to 1; None: nobody could judge it."""

    text: str
    number: int
    prefix: Prefix | None = None  #: None: given, nobody wrote it
    trace_id: str | None = None
    parent: Answer | None = None
    children: list[Answer] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)  #: what its judges gave, on their own scale
    value: float | None = None
    visits: int = 0
    copies: int = 1  #: answers below the same one that said the same

    @property
    def depth(self) -> int:
        return 1 if self.parent is None else self.parent.depth + 1

    @property
    def rank(self) -> tuple[bool, float]:
        """One that ended with an answer before one that did not; then by value."""
        whole = self.prefix is not None and answered(self.prefix)
        return whole, -math.inf if self.value is None else self.value


class Answers:
    """One problem's tree of answers and the conversation about them."""

    def __init__(self, question: Question, settings: AnswerSettings) -> None:
        self.question, self.settings = question, settings
        self.nodes: list[Answer] = []
        self.traces: list[Trace] = []
        self.lost: list[tuple[str, str]] = []  #: (id, reason) of replies that became no row
        self._said: Counter[str] = Counter()

    def first(self) -> Asks[Answer]:
        """The plain answer to the question."""
        [prefix] = yield self._continue(self.question, 1, self.settings.temperature)
        return self._enter(prefix, self._trace(self.question, prefix, None), None)

    def given(self, text: str) -> Answer:
        """An answer that no model wrote."""
        node = Answer(text, len(self.nodes))
        self.nodes.append(node)
        return node

    def say(
        self, act: str, history: Sequence[Said], parent: str | None, n: int = 1, only: bool = False
    ) -> Asks[list[tuple[Prefix, Trace | None]]]:
        """n replies to an act, each with its Trace. only: a reply that has not what the act asks for is no
        trace, but counted (`no_ACT`)."""
        turn = yield Turn(self.question, act, history, by=self.settings.by)
        written = yield self._continue(turn, n, self._temperature(act))
        found: list[tuple[Prefix, Trace | None]] = []
        for prefix in written:
            if only and prefix.answer is None:
                name = f"{self.question.id}/{act}.x{len(self.lost)}"
                self.lost.append((name, f"no_{act}"))
                found.append((prefix, None))
            else:
                found.append((prefix, self._trace(turn, prefix, parent)))
        return found

    def refine(self, node: Answer) -> Asks[tuple[Answer, bool]]:
        """A critique of an answer and a rewrite by it: the node below, and whether it is a new one."""
        [(critique, said)] = yield from self.say("critique", [Said(node.text)], node.trace_id)
        assert said is not None
        history = [Said(node.text), Said(critique.text, "critique")]
        [(prefix, trace)] = yield from self.say("rewrite", history, said.id)
        assert trace is not None
        twin = next((one for one in self.nodes if one.text.strip() == prefix.text.strip()), None)
        if twin is not None:
            twin.copies += 1
            return twin, False
        return self._enter(prefix, trace, node), True

    def may_grow(self, node: Answer) -> bool:
        """Is there room for a rewrite below it?"""
        return not self.settings.max_depth or node.depth <= self.settings.max_depth

    def best(self) -> Answer | None:
        """The answer of the highest value that a model wrote; the first of equals."""
        return max((node for node in self.nodes if node.trace_id), key=lambda node: node.rank, default=None)

    def rows(self, chosen: Answer | None) -> Rows:
        """The tree as Nodes, every turn as a Trace, and a Dropped for each reply that became none."""
        problem = self.question.id
        scores = {node.trace_id: node.value for node in self.nodes if node.trace_id}
        picked = chosen.trace_id if chosen is not None else None
        traces = [
            replace(trace, score=scores.get(trace.id), chosen=trace.id == picked) for trace in self.traces
        ]
        root = Node(problem_id=problem, id=f"{problem}/n", parent=None, step="", depth=0)
        lost = [Dropped(problem_id=problem, what=what, reason=reason) for what, reason in self.lost]
        return [root, *map(self._row, self.nodes), *traces, *lost]

    def _row(self, node: Answer) -> Node:
        above = "" if node.parent is None else str(node.parent.number)
        return Node(
            problem_id=self.question.id,
            id=f"{self.question.id}/n{node.number}",
            parent=f"{self.question.id}/n{above}",
            step=node.text,
            depth=node.depth,
            value=node.value,
            visits=node.visits,
            terminal=True,
            trace_id=node.trace_id,
        )

    def _temperature(self, act: str) -> float:
        own = self.settings.critique_temperature
        return self.settings.temperature if own is None or act not in SEEN_ONCE else own

    def _continue(self, question: Question, n: int, temperature: float) -> Continue:
        settings = self.settings
        how = settings.sampling_at(temperature)
        return Continue(start(question), by=settings.by, n=n, max_tokens=settings.max_tokens, **how)

    def _trace(self, question: Question, prefix: Prefix, parent: str | None) -> Trace:
        settings, temperature = self.settings, self._temperature(question.act)
        trace = to_trace(
            question,
            prefix,
            self._said[question.act],
            temperature=temperature,
            cut=bool(temperature) and settings.cuts,
            tokens_charged=prefix.num_tokens,
            parent=parent,
        )
        self._said[question.act] += 1
        self.traces.append(trace)
        return trace

    def _enter(self, prefix: Prefix, trace: Trace, parent: Answer | None) -> Answer:
        node = Answer(prefix.text, len(self.nodes), prefix, trace.id, parent)
        self.nodes.append(node)
        if parent is not None:
            parent.children.append(node)
        return node
