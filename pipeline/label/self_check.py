"""Self-check (Luo et al., Critique Ability of Large Language Models, arXiv:2310.04815): answers are grouped
as in a vote, and a critic is asked only where the vote is uncertain.

From the group with the most votes: where it has at least `certainty` times the votes of the next one it is
believed; else the critic reads one of its traces (`reads`: several, the majority of verdicts counts). What it
rejects is passed over, and the next group stands on top. The paper's certainty is not given as a formula; the
ratio of votes is ours, with the paper's C of 2 as the default; at 1 nobody is ever asked.

The critic is one of three: `by` writes a critique that ends in a verdict (a turn of the task's), `judge`
chooses between `options` after `prompt`, `value` is a verifier whose aggregated score has to reach `accept`.
A critic that says neither right nor wrong has rejected nothing.

    checked: {label: self_check, from: samples, by: policy}
    answers: {evaluate: accuracy, of: policy, from: checked, choose: label}

A trace's value is 1 where its answer was believed, 0 where the critic rejected it, else its answer's share
of the votes; where everything was rejected, all have their share, so the vote decides. No gold is seen.
Critiques are committed in `rollouts/`.
"""

from __future__ import annotations

from collections import Counter
from typing import ClassVar, Self

from pydantic import Field, model_validator

from pipeline.asks import All, Asks, Choose, Continue, Prefix, Said, Score, Turn, prefix_of, start, to_trace
from pipeline.label import LabelSettings
from pipeline.rows import Dropped, Group, Label, Problem, Question, Trace
from pipeline.settings import Cost, JudgeName, Length, PolicyName, RewardModelName
from pipeline.tasks import BaseTask
from pipeline.vote import keys
from pipeline.vote.aggregate import Aggregate, aggregate

PROMPT = "{question}{answer}\nIs the answer above right? Answer yes or no:"


class Settings(LabelSettings):
    """When the critic is asked, and who it is."""

    sees_gold: ClassVar[bool] = False
    makes: ClassVar[tuple[str, ...]] = ("Label", "Trace", "Dropped")
    acts: ClassVar[tuple[str, ...]] = ("critique",)

    by: PolicyName | None = Field(None, description="a critic in words")
    judge: JudgeName | None = Field(None, description="a critic that chooses an answer")
    value: RewardModelName | None = Field(None, description="a verifier as the critic")
    certainty: float = Field(
        2.0, ge=1, description="a group with so many times the next one's votes is believed (the paper: 2, 1)"
    )
    reads: int = Field(1, ge=1, description="traces of a group that the critic reads, the first ones")
    accept: float = Field(0.5, ge=0, le=1, description="judge and value: the least that is not rejected")
    aggregate: Aggregate = Field("min", description="value: step scores -> one score a trace")
    temperature: float = Field(0.0, ge=0, le=10, description="of the critiques")
    max_tokens: int = Field(0, ge=0, description="tokens a critique may have; 0: as the task says")
    prompt: str = Field(PROMPT, description="judge: what it reads, with {question} and {answer}")
    options: tuple[str, str] = Field((" yes", " no"), description="judge: right, wrong")

    @model_validator(mode="after")
    def _one_critic(self) -> Self:
        if sum(one is not None for one in (self.by, self.judge, self.value)) != 1:
            raise ValueError("give one critic: by (writes), judge (chooses) or value (scores)")
        if missing := next((one for one in ("{question}", "{answer}") if one not in self.prompt), ""):
            raise ValueError(f"prompt: has no {missing}")
        return self

    @property
    def talks(self) -> bool:
        return self.by is not None

    def cost(self, task: Length, given: float = 0.0) -> Cost:
        """One group of two is asked about: that is a guess."""
        asked = min(given, self.reads) * task.typical_tokens
        written = {self.by: asked} if self.by else {}
        read = {name: asked for name in (self.judge, self.value) if name}
        return Cost(written, read, given)


def label(
    problem: Problem, group: Group, settings: Settings, task: BaseTask
) -> Asks[list[Label | Trace | Dropped]]:
    """A Label for each trace with an answer, a Dropped for each other, and the critiques."""
    running = [trace for trace in group.traces if trace.is_attempt and prefix_of(trace).said is not None]
    held = {trace.id for trace in running}
    rows: list[Label | Trace | Dropped] = [
        Dropped(
            problem_id=problem.id,
            what=trace.id,
            reason="no_answer" if trace.is_attempt else "no_attempt",
        )
        for trace in group.traces
        if trace.id not in held
    ]
    if not running:
        return rows
    said = [str(key) for key in keys([trace.answer for trace in running], task.same)]
    votes = Counter(said)
    order = sorted(votes, key=lambda key: -votes[key])  # of equals the one that came first
    reasons: dict[str, str] = {}
    for place, key in enumerate(order):
        last = votes[key] if place else 0  # the last of several is asked about, the only one is not
        following = votes[order[place + 1]] if place + 1 < len(order) else last
        if votes[key] >= settings.certainty * following:
            reasons[key] = "certain"
            break
        mine = [trace for trace, one in zip(running, said, strict=True) if one == key][: settings.reads]
        verdicts, critiques = yield from asked_about(problem, mine, settings, task, sum(map(_is_trace, rows)))
        rows += critiques
        reasons[key] = judged(verdicts)
        if reasons[key] != "rejected":
            break
    values = values_of(votes, reasons)
    rows += [
        Label(
            problem_id=problem.id,
            trace_id=trace.id,
            value=values[key],
            reason=reasons.get(key, "not_asked"),
            labeller="self_check",
        )
        for trace, key in zip(running, said, strict=True)
    ]
    return rows


def _is_trace(row: Label | Trace | Dropped) -> bool:
    return isinstance(row, Trace)


def judged(verdicts: list[bool | None]) -> str:
    """What a group's verdicts come to; a draw rejects nothing."""
    right, wrong = verdicts.count(True), verdicts.count(False)
    if not right and not wrong:
        return "critic_silent"
    return "rejected" if wrong > right else "accepted"


def values_of(votes: Counter[str], reasons: dict[str, str]) -> dict[str, float]:
    """Each answer's value. By hand: votes 3, 2, 1, the first rejected, the second accepted: 0, 1, 1/6."""
    shares = {key: count / votes.total() for key, count in votes.items()}
    if all(reasons.get(key) == "rejected" for key in votes):
        return shares
    return {
        key: (0.0 if reasons[key] == "rejected" else 1.0) if key in reasons else share
        for key, share in shares.items()
    }


def asked_about(
    problem: Problem, traces: list[Trace], settings: Settings, task: BaseTask, number: int
) -> Asks[tuple[list[bool | None], list[Trace]]]:
    """The critic's verdicts on traces: right, wrong or nothing, and what it wrote."""
    if settings.value is not None:
        scored = yield Score([prefix_of(trace) for trace in traces], by=settings.value)
        whole = [aggregate(scores, settings.aggregate) if scores else None for scores in scored]
        return [None if one is None else one >= settings.accept for one in whole], []
    if settings.judge is not None:
        shown = [
            Prefix(prompt=settings.prompt.replace("{question}", one.prompt).replace("{answer}", one.text))
            for one in traces
        ]
        chosen = yield Choose(shown, options=settings.options, by=settings.judge)
        return [yes >= settings.accept for yes, _ in chosen], []
    by = str(settings.by)
    questions = [
        Question(
            id=problem.id,
            question=problem.question,
            prompt=trace.prompt,
            prompt_used=trace.prompt,
            task=task.name,
        )
        for trace in traces
    ]
    turns = yield All(
        *(
            Turn(question, "critique", [Said(trace.text)], by=by)
            for question, trace in zip(questions, traces, strict=True)
        )
    )
    written = yield Continue(
        [start(turn) for turn in turns],
        by=by,
        temperature=settings.temperature,
        max_tokens=settings.max_tokens,
    )
    read: dict[str | None, bool] = {"right": True, "wrong": False}
    critiques = [
        to_trace(turn, prefix, number + place, parent=trace.id, temperature=settings.temperature)
        for place, (turn, prefix, trace) in enumerate(zip(turns, written, traces, strict=True))
    ]
    return [read.get(prefix.said if prefix.done else None) for prefix in written], critiques
