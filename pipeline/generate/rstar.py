"""rStar's generator (Qi et al., arXiv:2408.06195, section 3): tree search over human-like actions, rewarded
by votes alone, without a reward model and without gold.

`step` (A1) writes one more step, `steps` times. `rest` (A2) writes the answer in one go, `votes` times: what
most of them say becomes one end, and its share of the votes is its reward. A step that ends the answer is an
end too, and votes with them. Three more need a model of language, which is why they are not on by default,
and act in turns that the task words (`_acts.py`, `task.acts`): `ask` (A3) poses `subquestions` and takes of
`answers` to each the one most agree on, `again` (A4) answers the last one anew, `rephrase` (A5) says the
question as a list of conditions. What follows them is written as a `solve` turn, which sees them.

A roll-out follows UCT, Q / N + c sqrt(ln N_parent / N), to a child that was never visited, goes on to an end
and adds the end's reward to every node on its way; what is `max_depth` deep and no answer gets nothing. The
search's answer is the one whose ends have the highest sum of rewards. Two things differ from the authors'
code: a child is taken in turn, by the roll-out's number, where they take one at random, for a search draws
nothing itself; and a sub-question is never an end, only a step or the rest after it.

Steps of one node that say the same are one. `label: mutual` is rStar's discriminator.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from pipeline.asks import All, Asks, Continue, Prefix, Said, Same, Turn, closed, start, to_trace
from pipeline.generate import GenerateSettings
from pipeline.rows import Dropped, Group, Node, Question, Trace
from pipeline.settings import Cost, Length

Action = Literal["step", "rest", "ask", "again", "rephrase"]
#: what may follow what: a step is followed by steps and the rest alone
AFTER: dict[str, tuple[Action, ...]] = {
    "": ("step", "rest", "ask", "rephrase"),
    "step": ("step", "rest"),
    "rest": (),
    "ask": ("step", "rest", "ask", "again"),
    "again": ("step", "rest", "ask"),
    "rephrase": ("step", "rest", "ask"),
}
#: the turns that an action asks for
TURNS = {
    "ask": ("subquestion", "subanswer", "solve"),
    "again": ("subanswer", "solve"),
    "rephrase": ("rephrase", "solve"),
}


class Settings(GenerateSettings):
    """The authors' script (run_src/do_generate.py); the paper makes 32 roll-outs."""

    makes: ClassVar[tuple[str, ...]] = ("Trace", "Node", "Dropped")
    draws: ClassVar[tuple[str, ...]] = ("steps", "votes")

    actions: tuple[Action, ...] = Field(
        ("step", "rest"),
        min_length=1,
        description="what may follow: A1, A2; A3 to A5 need a model of language",
    )
    rollouts: int = Field(16, ge=1, description="roll-outs a problem; the paper 32")
    max_depth: int = Field(5, ge=1, description="actions a path may have")
    steps: int = Field(3, ge=1, description="next steps asked for at a node (A1)")
    votes: int = Field(32, ge=1, description="whole answers asked for at a node (A2)")
    subquestions: int = Field(3, ge=1, description="sub-questions asked for at a node (A3)")
    answers: int = Field(10, ge=1, description="answers to each of them (A3, A4)")
    exploration: float = Field(2.0, ge=0, description="c of the UCT")
    temperature: float = Field(0.8, ge=0, le=10)
    top_p: float = Field(0.95, gt=0, le=1)
    top_k: int = Field(40, ge=0, description="0: off")

    @field_validator("actions")
    @classmethod
    def _once_each(cls, actions: tuple[Action, ...]) -> tuple[Action, ...]:
        if len(set(actions)) < len(actions):
            raise ValueError(f"{', '.join(actions)}: name each action once")
        if not {"step", "rest"} & set(actions):
            raise ValueError(f"{', '.join(actions)}: nothing writes an answer: add step or rest")
        if "again" in actions and "ask" not in actions:
            raise ValueError("again answers a sub-question anew: add ask")
        return actions

    @property
    def asked_acts(self) -> tuple[str, ...]:
        turns = (turn for action in self.actions for turn in TURNS.get(action, ()))
        return tuple(dict.fromkeys(turns))

    def cost(self, task: Length, given: float = 0.0) -> Cost:
        """As many expansions at each depth as there are nodes, or roll-outs, each with steps and the rest."""
        length = max(task.typical_steps, 1.0)
        written, ends, open_nodes = 0.0, 0.0, 1.0
        for depth in range(min(math.ceil(length), self.max_depth)):
            share, expansions = (length - depth) / length, min(open_nodes, float(self.rollouts))
            if "rest" in self.actions:
                written, ends = written + expansions * self.votes * share, ends + expansions
            if "step" in self.actions:
                written += expansions * self.steps / length
                ends += expansions * self.steps if length - depth <= 1 else 0
            branches = self.steps if "step" in self.actions else 0
            if "ask" in self.actions:  # a sub-question and an answer are about as long as a step
                written += expansions * self.subquestions * (1 + self.answers) / length
                branches += self.subquestions
            written += expansions * self.answers / length if "again" in self.actions and depth else 0
            written += 1 if "rephrase" in self.actions and not depth else 0
            open_nodes = expansions * branches
        return Cost({self.by: written * self.tokens(task)}, {}, max(ends, 1.0))


@dataclass(slots=True, eq=False)
class Thought:
    """A node: what was written so far, of the question as the turns before show it. `reward` is an end's
    share of the votes, None where it is no end.
    """

    question: Question
    prefix: Prefix
    parent: Thought | None = None
    reward: float | None = None
    action: str = "step"  #: what made it; "" for the question itself
    said: tuple[Said, ...] = ()  #: the turns that stand before the prefix
    total: float = 0.0  #: of the rewards that came through it (Q)
    visits: int = 0
    children: list[Thought] = field(default_factory=list)
    expanded: bool = False
    depth: int = field(init=False)

    def __post_init__(self) -> None:
        self.depth = self.parent.depth + 1 if self.parent else 0

    @property
    def text(self) -> str:
        """What this node added: the turns that it took, or what it wrote."""
        if self.parent is None:
            return ""
        if self.said != self.parent.said:
            fresh = self.said[len(self.parent.said) :] or self.said[-1:]
            return "\n".join(turn.text for turn in fresh)
        return self.prefix.text[len(self.parent.prefix.text) :]


class Thoughts:
    """One problem's tree."""

    def __init__(self, question: Question, settings: Settings) -> None:
        self.question, self.settings = question, settings
        self.nodes = [Thought(question, start(question), action="")]
        self.lost: list[str] = []  #: reasons of replies that made no node

    @property
    def root(self) -> Thought:
        return self.nodes[0]

    def over(self, node: Thought) -> bool:
        """Can nothing follow?"""
        barren = node.expanded and not node.children
        return node.prefix.done or node.depth >= self.settings.max_depth or barren

    def write(self, prefixes: Prefix | list[Prefix], until: Literal["step", "answer"], n: int) -> Continue:
        s = self.settings
        return Continue(prefixes, by=s.by, n=n, until=until, **s.sampling)

    def expand(self, node: Thought) -> Asks[None]:
        """Every action that may follow."""
        node.expanded = True
        actions = [action for action in self.settings.actions if action in AFTER[node.action]]
        yield from self.solve(node, [action for action in actions if action not in TURNS])
        for action in actions:
            if action in TURNS:
                yield from self.talk(node, action)

    def solve(self, node: Thought, actions: list[Action]) -> Asks[None]:
        """Steps and whole answers at once, and the votes on what ended."""
        if not actions:
            return
        asked = {
            "step": self.write(node.prefix, "step", self.settings.steps),
            "rest": self.write(node.prefix, "answer", self.settings.votes),
        }
        replies = yield All(*(asked[action] for action in actions))
        written = dict(zip(actions, replies, strict=True))
        steps = [one for reply in written.get("step", ()) if (one := self.whole(node, reply)) is not None]
        rest = [closed(reply) for reply in written.get("rest", ())]
        voters = [one for one in steps if one.done] + rest
        votes = (yield Same([one.said for one in voters])) if voters else []
        counts = Counter(vote for vote in votes if vote is not None)
        shares = {vote: count / len(voters) for vote, count in counts.items()}
        keys = dict(zip(map(id, voters), votes, strict=True))
        for one in steps:
            self.add(node, one, shares.get(keys[id(one)], 0.0) if one.done else None)
        if rest and (winner := most_said([keys[id(one)] for one in rest])) is not None:
            first = next(one for one in rest if keys[id(one)] == winner)
            self.add(node, first, shares[winner])
        elif rest:
            self.lost.append("no_answer")

    def talk(self, node: Thought, action: Action) -> Asks[None]:
        """A child for each new conversation before the answer."""
        by, question = self.settings.by, self.question
        if action == "again":
            grown = yield from self.answered(node.said[:-2], [node.said[-2].text])
        else:
            act, n = ("rephrase", 1) if action == "rephrase" else ("subquestion", self.settings.subquestions)
            turn = yield Turn(question, act, node.said, by=by)
            replies = yield self.write(start(turn), "answer", n)
            texts = list(dict.fromkeys(text for reply in replies if (text := reply.text.strip())))
            self.lost += ["empty"] * (not texts)
            if action == "rephrase":
                grown = [(*node.said, Said(text, act)) for text in texts]
            else:
                grown = yield from self.answered(node.said, texts)
        turns = yield All(*(Turn(question, "solve", said, by=by) for said in grown))
        for said, turn in zip(grown, turns, strict=True):
            if all(said != other.said for other in (node, *node.children)):
                child = Thought(turn, start(turn), node, action=action, said=said)
                node.children.append(child)
                self.nodes.append(child)

    def answered(self, before: tuple[Said, ...], questions: list[str]) -> Asks[list[tuple[Said, ...]]]:
        """What was said, with each sub-question and the answer that most of `answers` replies give it."""
        asked = [(*before, Said(text, "subquestion")) for text in questions]
        turns = yield All(*(Turn(self.question, "subanswer", said, by=self.settings.by) for said in asked))
        n = self.settings.answers
        replies = yield self.write([start(turn) for turn in turns], "answer", n)
        keys = yield Same([reply.said for reply in replies])
        found = []
        for place, said in enumerate(asked):
            mine = slice(place * n, (place + 1) * n)
            winner = most_said(keys[mine])
            if winner is None:
                self.lost.append("no_answer")
                continue
            first = next(one for one, key in zip(replies[mine], keys[mine], strict=True) if key == winner)
            found.append((*said, Said(first.text.strip(), "subanswer")))
        return found

    def whole(self, node: Thought, reply: Prefix) -> Prefix | None:
        """A reply that is a step; None, with the reason counted, where it is none."""
        if reply.num_tokens <= node.prefix.num_tokens and reply.finish not in ("eos", "stop"):
            self.lost.append("no_growth")
            return None
        if not reply.done and (not reply.step_ends or reply.step_ends[-1] != reply.num_tokens):
            self.lost.append("no_step_end")
            return None
        return closed(reply)

    def add(self, node: Thought, prefix: Prefix, reward: float | None) -> None:
        """A child, unless there is one that says the same."""
        child = Thought(node.question, prefix, node, reward, "rest" if prefix.done else "step", node.said)
        known = {(other.text.strip(), other.prefix.finish) for other in node.children}
        if (child.text.strip(), prefix.finish) not in known:
            node.children.append(child)
            self.nodes.append(child)

    def roll_out(self, number: int) -> Asks[None]:
        """One walk from the root to an end, and its reward on the way back."""
        path = descend(self.root, self.settings.exploration)
        while not self.over(path[-1]):
            if not path[-1].expanded:
                yield from self.expand(path[-1])
            if children := path[-1].children:
                path.append(children[number % len(children)])
        for node in path:
            node.visits += 1
            node.total += path[-1].reward or 0.0

    def rows(self, chosen: Thought | None) -> list[Trace | Node | Dropped]:
        """A Node each in order of entry, a Trace for each end, a Dropped for each lost reply."""
        name, settings = self.question.id, self.settings
        places = {id(node): f"{name}/n{place}" for place, node in enumerate(self.nodes)}
        traces: list[Trace] = []
        nodes: list[Node] = []
        for node in self.nodes:
            above = node.parent
            if node.prefix.done:
                traces.append(
                    to_trace(
                        node.question,
                        node.prefix,
                        len(traces),
                        temperature=settings.temperature,
                        cut=settings.cuts,
                        score=node.reward or 0.0,
                        chosen=node is chosen,
                    )
                )
            nodes.append(
                Node(
                    problem_id=name,
                    id=places[id(node)],
                    parent=places[id(above)] if above else None,
                    step=node.text,
                    depth=node.depth,
                    value=node.total / node.visits if node.visits else None,
                    visits=node.visits,
                    terminal=node.prefix.done,
                    trace_id=traces[-1].id if node.prefix.done else None,
                    token_ids=list(node.prefix.token_ids[above.prefix.num_tokens if above else 0 :]),
                )
            )
        lost = [
            Dropped(problem_id=name, what=f"{name}/x{place}", reason=reason)
            for place, reason in enumerate(self.lost)
        ]
        return [*nodes, *traces, *lost]


def generate(
    question: Question, settings: Settings, given: Group | None
) -> Asks[list[Trace | Node | Dropped]]:
    """The tree, its ends, and the one chosen: the best of the answer with the highest sum of rewards."""
    tree = Thoughts(question, settings)
    for number in range(settings.rollouts):
        yield from tree.roll_out(number)
    ends = [node for node in tree.nodes if node.prefix.done]
    if not any(node.prefix.said for node in ends):  # nothing has an answer yet: the best way, written on
        node = most_visited(tree.root)
        [reply] = yield tree.write(node.prefix, "answer", 1)
        if (whole := tree.whole(node, reply)) is not None:
            tree.add(node, whole, 0.0)
        ends = [node for node in tree.nodes if node.prefix.done]
    keys = (yield Same([node.prefix.said for node in ends])) if ends else []
    return tree.rows(elected(ends, keys))


def elected(ends: Sequence[Thought], keys: Sequence[str | None]) -> Thought | None:
    """The end of highest reward among those of the answer with the highest sum; the first of equals."""
    sums: dict[str, float] = {}
    for end, key in zip(ends, keys, strict=True):
        if key is not None:
            sums[key] = sums.get(key, 0.0) + (end.reward or 0.0)
    if not sums:
        return next(iter(ends), None)
    winner = max(sums, key=lambda key: sums[key])
    members = [end for end, key in zip(ends, keys, strict=True) if key == winner]
    return max(members, key=lambda end: end.reward or 0.0)


def most_said(keys: Sequence[str | None]) -> str | None:
    """The answer that stands there most often, the first of equals; None where there is none."""
    counts = Counter(key for key in keys if key is not None).most_common(1)
    return counts[0][0] if counts else None


def uct(total: float, visits_above: int, visits: int, exploration: float) -> float:
    """Q / N + c sqrt(ln N_parent / N)  (by hand: Q = 1.5, N = 3, N_parent = 4, c = 2 -> 1.8595)."""
    return total / visits + exploration * math.sqrt(math.log(visits_above) / visits)


def descend(node: Thought, exploration: float) -> list[Thought]:
    """The way down: to the first child that was never visited, else by UCT, the first of equals."""
    path = [node]
    while children := path[-1].children:
        above = path[-1].visits
        fresh = next((child for child in children if not child.visits), None)
        if fresh is not None:
            return [*path, fresh]
        path.append(max(children, key=lambda child: uct(child.total, above, child.visits, exploration)))
    return path


def most_visited(node: Thought) -> Thought:
    """From a node down through the most visited children that can still go on."""
    while going := [child for child in node.children if not child.prefix.done]:
        node = max(going, key=lambda child: child.visits)
    return node
