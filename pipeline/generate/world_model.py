"""A language model as the world that a search plans in, and as the policy that guides it (LLM-MCTS,
arXiv:2305.14078; details from the authors' llm-mcts).

A step is an action and the state that it leads to: `12 - 7 = 5, left 3, 5` is the action `12 - 7`, and from
`state` on what the model believes to be so then. At an expansion the model writes `n` steps. Equal actions
are one, with the prior lambda share + (1 - lambda) / |A|; the different states that were written for it are
the belief, and the k-th visit of an action goes on from the k-th one drawn. PUCT picks, Q + c P sqrt(N) /
(n + 1); a leaf is written to its end once; what the end is worth comes from the world and is backed up,
discounted by step; Q is the mean of an action's returns weighted by their exponentials. After `simulations`
the action of the highest Q is taken, its most frequent state believed, and the search goes on from there in
what it has grown.

**Here the world is the model's own**: any step may be taken, and a `critique` turn says whether an end is
right. One that says neither is counted (`no_verdict`), and its simulation backs up nothing. No gold is
seen. `true_world` is the same search in the task's world: the difference is what the model's beliefs cost.
`budget_tokens` makes both comparable, and with `sample`, the policy alone.

Not as in the paper: a roll-out is the model's, where random legal actions need a simulator, and the tree
below the action that is taken is kept. There are no observations, since these tasks hide nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

from pydantic import Field

from pipeline.asks import Asks, Continue, Prefix, Said, Turn, abandoned, closed, start, to_trace
from pipeline.generate import GenerateSettings
from pipeline.rows import Dropped, Group, Node, Question, Trace
from pipeline.settings import Cost, Length

Rows = list[Trace | Node | Dropped]


class Settings(GenerateSettings):
    """The paper's: 5 samples of a plan at temperature 0.6 and top-p 0.9, 100 simulations a move, c 24."""

    draws: ClassVar[tuple[str, ...]] = ("n",)
    makes: ClassVar[tuple[str, ...]] = ("Trace", "Node", "Dropped")
    acts: ClassVar[tuple[str, ...]] = ("critique",)

    simulations: int = Field(100, ge=1, description="a move")
    n: int = Field(5, ge=1, description="steps written at an expansion")
    exploration: float = Field(24.0, ge=0, description="c of the PUCT; fits a goal of 10")
    goal: float = Field(10.0, gt=0, description="what a right end returns")
    mix: float = Field(0.5, ge=0, le=1, description="lambda: share of the model in the prior")
    gamma: float = Field(0.95, gt=0, le=1, description="discount of a step")
    mean: Literal["softmax", "plain"] = Field("softmax", description="Q of an action's returns")
    max_depth: int = Field(20, ge=1, description="steps a path may have")
    state: str = Field(" = ", min_length=1, description="where the state begins in a step")
    critique_temperature: float = Field(0.0, ge=0, le=10)
    budget_tokens: int | None = Field(None, ge=1, description="tokens a problem; none: no limit")
    temperature: float = Field(0.6, ge=0, le=10)
    top_p: float = Field(0.9, gt=0, le=1)

    def cost(self, task: Length, given: float = 0.0) -> Cost:
        """Each simulation expands, writes an answer to its end and asks about it, until the tree is known."""
        moves = min(task.typical_steps, self.max_depth)
        step = self.tokens(task) / max(task.typical_steps, 1.0)
        most = sum(self.n**depth for depth in range(max(1, min(round(moves), 8))))
        grown = min(self.simulations * moves, most)
        tokens = grown * (self.n * step + 2 * self.tokens(task))
        return Cost({self.by: min(tokens, self.budget_tokens or tokens)}, {}, max(1.0, grown))


@dataclass(slots=True, eq=False)
class State:
    """What was written so far. `value` and `visits` are of the action that led here."""

    prefix: Prefix
    number: int
    above: State | None = None
    via: Action | None = None
    actions: list[Action] = field(default_factory=list)
    expanded: bool = False
    visits: int = 0

    @property
    def depth(self) -> int:
        return 0 if self.above is None else self.above.depth + 1

    @property
    def done(self) -> bool:
        return self.prefix.done


@dataclass(slots=True, eq=False)
class Action:
    """An action, the states that the model wrote for it in the order drawn, and what came of it."""

    text: str
    states: list[State] = field(default_factory=list)
    prior: float = 0.0
    returns: list[float] = field(default_factory=list)

    @property
    def visits(self) -> int:
        return len(self.returns)

    @property
    def believed(self) -> State:
        """The state that was written most often, the first of equals."""
        return Counter(self.states).most_common(1)[0][0]


class World(Protocol):
    """Where a search plans."""

    def admits(self, prefix: Prefix) -> bool:
        """May this step be taken?"""
        ...

    def worth(self, prefix: Prefix) -> Asks[float | None]:
        """What an end is worth, from 0 to 1; None: nobody can say."""
        ...


class Believed:
    """The model's own world: it says itself whether an end is right. Asked once for each end."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.known: dict[str, float | None] = {}

    def admits(self, prefix: Prefix) -> bool:
        return True

    def worth(self, prefix: Prefix) -> Asks[float | None]:
        if prefix.text not in self.known:
            settings = self.plan.settings
            turn = yield Turn(self.plan.question, "critique", [Said(prefix.text)], by=settings.by)
            ask = Continue(start(turn), by=settings.by, temperature=settings.critique_temperature)
            [said] = yield ask
            self.plan.spent += said.num_tokens
            if said.answer is None:
                self.plan.lost.append("no_verdict")
            self.known[prefix.text] = {"right": 1.0, "wrong": 0.0}.get(said.answer or "")
        return self.known[prefix.text]


def generate(question: Question, settings: Settings, given: Group | None) -> Asks[Rows]:
    """The tree, a trace for each end in it, and the one that the moves led to chosen."""
    plan = Plan(question, settings)
    return (yield from plan.search(Believed(plan)))


class Plan:
    """One problem's search."""

    def __init__(self, question: Question, settings: Settings) -> None:
        self.question, self.settings = question, settings
        self.states: list[State] = []
        self.spent = 0  #: tokens written
        self.lost: list[str] = []  #: reasons of replies that made no state
        self.root = self._state(start(question))

    @property
    def over(self) -> bool:
        most = self.settings.budget_tokens
        return most is not None and self.spent >= most

    def search(self, world: World) -> Asks[Rows]:
        """Move by move to an end."""
        here = self.root
        while not here.done and here.depth < self.settings.max_depth:
            for _ in range(self.settings.simulations):
                if self.over:
                    break
                yield from self.simulate(here, world)
            tried = [action for action in here.actions if action.visits]
            if not tried:
                break
            here = max(tried, key=lambda one: (self.q(one), one.prior)).believed
        if not here.done:
            [end] = yield from self._write(here, 1, "answer", 0.0)
            here = self._state(end, here)
        return self.rows(here)

    def simulate(self, root: State, world: World) -> Asks[None]:
        """Down by PUCT, an expansion and a roll-out, and what its end is worth backed up."""
        node, path = root, list[Action]()
        while node.expanded and node.actions and not node.done:
            node.visits += 1
            action = self.best(node)
            path.append(action)
            node = action.states[action.visits % len(action.states)]
        node.visits += 1
        if not node.done and not node.expanded and node.depth < self.settings.max_depth:
            yield from self.expand(node, world)
        end = node.prefix
        if not node.done and (node.actions or not node.expanded):
            [end] = yield from self._write(node, 1, "answer", None)
        stuck = not node.done and not node.actions and node.expanded
        worth = 0.0 if stuck or not world.admits(end) else (yield from world.worth(end))
        if worth is None:
            return
        found = self.settings.goal * worth * self.settings.gamma ** (len(end.steps) - node.depth)
        for action in reversed(path):
            action.returns.append(found)
            found *= self.settings.gamma

    def expand(self, node: State, world: World) -> Asks[None]:
        """The actions of a state, with their priors, and the states that the model believes in after each."""
        node.expanded = True
        written = yield from self._write(node, self.settings.n, "step", None)
        actions: dict[str, Action] = {}
        seen: dict[tuple[str, str], State] = {}
        for reply in written:
            if reason := unfit(node.prefix, reply):
                self.lost.append(reason)
                continue
            prefix = closed(reply)
            if not world.admits(prefix):
                self.lost.append("illegal")
                continue
            step = prefix.text[len(node.prefix.text) :].strip()
            action = actions.setdefault(text := step.partition(self.settings.state)[0], Action(text))
            key = (step, prefix.finish)
            if key not in seen:
                seen[key] = self._state(prefix, node, action)
            action.states.append(seen[key])
        node.actions = list(actions.values())
        drawn = sum(len(action.states) for action in node.actions)
        for action in node.actions:
            share = len(action.states) / drawn
            action.prior = prior(share, len(node.actions), self.settings.mix)

    def best(self, node: State) -> Action:
        """The action of the highest PUCT; ties by prior, then the first."""
        total = sum(action.visits for action in node.actions)
        c = self.settings.exploration

        def key(one: Action) -> tuple[float, float]:
            return puct(self.q(one), one.prior, total, one.visits, c), one.prior

        return max(node.actions, key=key)

    def q(self, action: Action) -> float:
        """What an action is worth, in units of the goal's return."""
        if not action.returns:
            return 0.0
        return optimistic(action.returns) if self.settings.mean == "softmax" else plain(action.returns)

    def rows(self, chosen: State) -> Rows:
        """Node rows, a Trace for each end, and a Dropped for each reply that made no state."""
        problem, settings = self.question.id, self.settings
        nodes, traces = list[Node](), list[Trace]()
        for state in self.states:
            if state.done or state is chosen:
                number = len(traces)
                cut = settings.cuts
                more = {"temperature": settings.temperature, "cut": cut, "chosen": state is chosen}
                traces.append(to_trace(self.question, abandoned(state.prefix), number, **more))
            via, above = state.via, state.above
            nodes.append(
                Node(
                    problem_id=problem,
                    id=f"{problem}/n{state.number}",
                    parent=None if above is None else f"{problem}/n{above.number}",
                    step=state.prefix.text[len(above.prefix.text) if above else 0 :],
                    depth=state.depth,
                    value=self.q(via) / settings.goal if via and via.visits else None,
                    visits=state.visits,
                    prior=via.prior if via else None,
                    terminal=state.done,
                    trace_id=traces[-1].id if state.done or state is chosen else None,
                    token_ids=list(state.prefix.token_ids[above.prefix.num_tokens if above else 0 :]),
                )
            )
        lost = [
            Dropped(problem_id=problem, what=f"{problem}/x{place}", reason=reason)
            for place, reason in enumerate(self.lost)
        ]
        return [*nodes, *traces, *lost]

    def _state(self, prefix: Prefix, above: State | None = None, via: Action | None = None) -> State:
        state = State(prefix, len(self.states), above, via)
        self.states.append(state)
        return state

    def _write(
        self, node: State, n: int, until: Literal["step", "answer"], temperature: float | None
    ) -> Asks[list[Prefix]]:
        settings = self.settings
        written: list[Prefix] = yield Continue(
            node.prefix,
            by=settings.by,
            n=n,
            until=until,
            temperature=settings.temperature if temperature is None else temperature,
            top_p=settings.top_p,
            top_k=settings.top_k,
        )
        self.spent += sum(one.num_tokens - node.prefix.num_tokens for one in written)
        return [closed(one) if until == "answer" else one for one in written]


def unfit(before: Prefix, reply: Prefix) -> str:
    """Why a reply is no step; "" where it is one."""
    if reply.num_tokens <= before.num_tokens and reply.finish not in ("eos", "stop"):
        return "no_growth"
    open_end = not reply.step_ends or reply.step_ends[-1] != reply.num_tokens
    return "no_step_end" if open_end and not reply.done else ""


def prior(share: float, actions: int, mix: float) -> float:
    """lambda share + (1 - lambda) / |A| (by hand: 3 of 5, 4 actions, .5 -> .425)."""
    return mix * share + (1 - mix) / actions


def puct(value: float, prior: float, visits_above: int, visits: int, c: float) -> float:
    """Q + c P sqrt(N) / (n + 1) (by hand: 1, c 24, P .5, N 9, n 2 -> 13)."""
    return value + c * prior * math.sqrt(visits_above) / (visits + 1)


def optimistic(returns: list[float]) -> float:
    """The mean of returns weighted by their exponentials (by hand: 0 and 1 -> e / (1 + e) = .7311)."""
    top = max(returns)
    weights = [math.exp(one - top) for one in returns]
    return math.fsum(r * w for r, w in zip(returns, weights, strict=True)) / math.fsum(weights)


def plain(returns: list[float]) -> float:
    """Their mean."""
    return math.fsum(returns) / len(returns)
