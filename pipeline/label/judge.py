"""A model judges each answer by itself: points that add up, or how likely it calls the answer right.

`how: points` is the judge of Self-Rewarding Language Models (arXiv:2401.10020, section 2.2): up to five
points, one for each thing that holds, mean of 3 judgements drawn at temperature 1; `Label.value` is the mean
over the range, 0 to 1. A judgement without a number, or with one outside of the range, is not in the mean
(`reason` says how many were); an answer that got none is dropped (`no_number`), never scored 0.

`how: chance` asks for a critique and takes the probability of its verdict among `options` instead of drawing
one. `after: check` has the critique written first, greedily, and reads the probability where its verdict
stands: a model that can only tell after it has calculated is at chance before.

The task words both acts (`judge`, `critique`; a recipe replaces them by `task.acts`). It sees no gold. What
is no attempt at the question is dropped. `select: pairs` with `score: value` pairs the best with the worst.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from pipeline.asks import All, Asks, Choose, Continue, Cut, Prefix, Said, Turn, about, start, to_trace
from pipeline.label import LabelSettings
from pipeline.label._rewards import dropped
from pipeline.rows import Dropped, Group, Label, Problem, Question, Trace
from pipeline.settings import Cost, Length, PolicyName
from pipeline.tasks import BaseTask
from pipeline.tasks._acts import POINTS

Rows = list[Label | Trace | Dropped]


class Settings(LabelSettings):
    """Who judges, and how often."""

    sees_gold: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ("Trace",)
    makes: ClassVar[tuple[str, ...]] = ("Label", "Trace", "Dropped")
    acts: ClassVar[tuple[str, ...]] = ("judge", "critique")
    draws: ClassVar[tuple[str, ...]] = ("samples",)

    by: PolicyName = Field("policy", description="the model that judges")
    how: Literal["points", "chance"] = Field(
        "points", description="points that add up, or the probability of the verdict"
    )
    samples: int = Field(3, ge=1, description="with points: judgements an answer, averaged")
    temperature: float = Field(1.0, ge=0, le=10, description="of the judgements")
    top_p: float = Field(1.0, gt=0, le=1)
    max_tokens: int = Field(0, ge=0, description="tokens a judgement may have; 0: as the task says")
    after: Literal["nothing", "check"] = Field(
        "nothing", description="with chance: what is written before the verdict is read"
    )
    options: tuple[str, str] = Field(("right", "wrong"), description="with chance: the verdict for, against")
    keep: bool = Field(True, description="commit the judgements, for reading and for evaluations")

    @model_validator(mode="after")
    def _words_differ(self) -> Settings:
        if self.options[0] == self.options[1] or not all(self.options):
            raise ValueError(f"options: {list(self.options)}: two different words")
        return self

    @property
    def draws_alike(self) -> bool:
        return self.how == "points" and self.temperature == 0

    @property
    def completion_limit(self) -> int:
        return self.max_tokens

    def cost(self, task: Length, given: float = 0.0) -> Cost:
        """A judgement is as long as an answer, as far as anybody knows beforehand."""
        one = min(task.typical_tokens, self.max_tokens or task.typical_tokens)
        written = self.samples * one if self.how == "points" else one if self.after == "check" else 0.0
        return Cost({self.by: given * written} if written else {}, {}, given)


def label(problem: Problem, group: Group, settings: Settings, task: BaseTask) -> Asks[Rows]:
    """A Label with the judge's word as `value` for each attempt, the judgements as Traces, and a Dropped for
    each trace that it has no word on."""
    attempts = [trace for trace in group.traces if trace.is_attempt]
    rows: Rows = [dropped(trace, "no_attempt") for trace in group.traces if not trace.is_attempt]
    if not attempts:
        return rows
    act = "judge" if settings.how == "points" else "critique"
    question = about(problem.id, problem.question)
    turns = yield All(*(Turn(question, act, [Said(trace.text)], by=settings.by) for trace in attempts))
    judge = _points if settings.how == "points" else _chances
    return rows + (yield from judge(attempts, turns, settings))


def _points(attempts: Sequence[Trace], turns: Sequence[Question], settings: Settings) -> Asks[Rows]:
    """Judgements with a number each, and their mean."""
    written = yield Continue(
        [start(turn) for turn in turns],
        by=settings.by,
        n=settings.samples,
        max_tokens=settings.max_tokens,
        temperature=settings.temperature,
        top_p=settings.top_p,
    )
    low, high = POINTS
    rows: Rows = []
    for place, (trace, turn) in enumerate(zip(attempts, turns, strict=True)):
        said = written[place * settings.samples : (place + 1) * settings.samples]
        found = [float(one.answer) for one in said if one.answer is not None]
        if found:
            missing = len(said) - len(found)
            reason = f"no number in {missing} of {len(said)}" if missing else ""
            value = (fmean(found) - low) / (high - low)
            rows.append(_label(trace, value, reason))
        else:
            rows.append(dropped(trace, "no_number"))
        rows += _kept(trace, turn, said, place * settings.samples, settings)
    return rows


def _chances(attempts: Sequence[Trace], turns: Sequence[Question], settings: Settings) -> Asks[Rows]:
    """The probability of the verdict, at once or where a written critique comes to it."""
    rows: Rows = []
    asked: list[tuple[Trace, Choose]] = []
    prefixes: list[Prefix] = [start(turn) for turn in turns]
    if settings.after == "check":
        prefixes = yield Continue(prefixes, by=settings.by, max_tokens=settings.max_tokens, temperature=0.0)
    for place, (trace, turn, prefix) in enumerate(zip(attempts, turns, prefixes, strict=True)):
        before, gap = prefix, ""
        if settings.after == "check":
            rows += _kept(trace, turn, [prefix], place, settings)
            at = max(prefix.text.rfind(option) for option in settings.options)
            if at < 0:
                rows.append(dropped(trace, "no_verdict"))
                continue
            cuts = yield Cut(prefix, range(prefix.num_tokens), by=settings.by)
            before = max((cut for cut in cuts if len(cut.text) <= at), key=lambda cut: cut.num_tokens)
            gap = prefix.text[len(before.text) : at]
        options = (gap + settings.options[0], gap + settings.options[1])
        asked.append((trace, Choose(before, options=options, by=settings.by)))
    if asked:
        replies = yield All(*(ask for _, ask in asked))
        rows += [_label(trace, right) for (trace, _), [[right, _]] in zip(asked, replies, strict=True)]
    return rows


def _label(trace: Trace, value: float, reason: str = "") -> Label:
    return Label(problem_id=trace.problem_id, trace_id=trace.id, value=value, reason=reason, labeller="judge")


def _kept(
    trace: Trace, turn: Question, said: Sequence[Prefix], first: int, settings: Settings
) -> list[Trace]:
    """What was said of a trace, as rows."""
    if not settings.keep:
        return []
    warm = settings.temperature if settings.how == "points" else 0.0
    return [
        to_trace(
            turn, prefix, first + number, temperature=warm, cut=settings.top_p < 1, parent=trace.id,
            tokens_charged=prefix.num_tokens,
        )
        for number, prefix in enumerate(said)
    ]  # fmt: skip
