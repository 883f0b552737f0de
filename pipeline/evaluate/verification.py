"""Who should verify? The same policy under its own critic, and under a sound one, at equal tokens (Stechly
et al., arXiv:2402.08115; Valmeekam et al., arXiv:2310.08118).

    arms: {evaluate: verification, of: policy, split: dev, problems: 200}

| arm | what happens until the budget is spent | who accepts |
|---|---|---|
| once | the first answer, nothing more | nobody |
| self | its own critique, then another attempt by it | its own critic |
| self_resample | fresh answers, each with its own critique | its own critic |
| binary, first_error, all_errors | a sound critique (verdict, first fault, all), another attempt | gold |
| resample | fresh answers | gold |

**The last four see gold** (`answers_with_gold`): they are upper bounds, and their metrics say so. An arm
ends when an answer is accepted, after `attempts` of them, or where it has written `tokens`; the answer in
force is its last. All arms share the first answer, and those that sample afresh one pool of `attempts`. A
later turn sees the last attempt and what was said of it.

The own critic's `tpr` and `fpr` are measured on the pool. Endless re-sampling against it would be right in p
tpr / (p tpr + (1 - p) fpr) of the cases (`predicted`; `predicted/each`: by each problem's own p, the mean),
which `accuracy/self_resample` is to be held against.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator

from pipeline.asks import All, Asks, Continue, Prefix, Said, Turn, start, to_trace
from pipeline.evaluate import GOLD, EvaluateSettings, Health, Metric, Panel, Search
from pipeline.evaluate.accuracy import grade as grade  # the task's word on each attempt
from pipeline.evaluate.intervals import Made
from pipeline.evaluate.outcomes import ratio
from pipeline.evaluate.paired import Measured, over_problems
from pipeline.rows import Dropped, Group, Label, Problem, Question, Trace
from pipeline.settings import Cost, Length
from pipeline.tasks import BaseTask

Arm = Literal["once", "self", "self_resample", "binary", "first_error", "all_errors", "resample"]
#: how much a sound critique says, by arm
SOUND: dict[str, Literal["verdict", "first", "all"]] = {
    "binary": "verdict",
    "first_error": "first",
    "all_errors": "all",
}
ARMS: tuple[Arm, ...] = ("once", "self", "self_resample", "binary", "first_error", "all_errors", "resample")
SEES_GOLD = ("binary", "first_error", "all_errors", "resample")
POOL = "pool"
SECTION = "Who should verify?"


class Settings(EvaluateSettings):
    """The arms, and what each may spend."""

    answers_with_gold: ClassVar[bool] = True
    acts: ClassVar[tuple[str, ...]] = ("critique", "revise")

    arms: tuple[Arm, ...] = Field(ARMS, description="which are compared; `once` is always among them")
    attempts: int = Field(8, ge=2, description="attempts an arm may make; 15 in the paper")
    tokens: int = Field(
        400, ge=1, description="tokens that an arm may write on a problem, critiques included"
    )
    temperature: float = Field(1.0, gt=0, le=10)
    resamples: int = Field(2000, ge=100, description="of the paired bootstrap")

    @field_validator("arms")
    @classmethod
    def _once_first(cls, arms: tuple[Arm, ...]) -> tuple[Arm, ...]:
        return tuple(arm for arm in ARMS if arm == "once" or arm in arms)

    @property
    def talking(self) -> tuple[Arm, ...]:
        """The arms that make another attempt after a critique."""
        return tuple(arm for arm in self.arms if arm == "self" or arm in SOUND)

    def answering(self, model: str, task: Length) -> Cost:
        """The pool and its critiques, and what each talking arm may spend."""
        pool = 2 * self.attempts * task.typical_tokens
        turns = self.attempts * task.typical_tokens
        spent = sum(min(self.tokens, turns * (2 if arm == "self" else 1)) for arm in self.talking)
        return Cost({model: pool + spent}, {}, 2 * self.attempts)


@dataclass(frozen=True, slots=True)
class Turned:
    """One attempt of an arm: is it right, does its arm accept it, what was spent with it."""

    right: bool
    accepted: bool
    tokens: int


@dataclass(frozen=True, slots=True)
class ArmOutcome:
    """Where an arm ended."""

    right: bool
    accepted: bool
    attempts: int
    tokens: int


@dataclass(frozen=True, slots=True)
class VerificationOutcome:
    """All arms on one problem, and what the own critic said of the pool: (right, says right)."""

    problem_id: str
    arms: Mapping[str, ArmOutcome]
    pool: tuple[tuple[bool, bool | None], ...]


def answer(
    question: Question,
    settings: Settings,
    model: str,
    search: Search | None = None,
    given: Group | None = None,
    *,
    problem: Problem,
    task: BaseTask,
) -> Asks[list[Any]]:
    """The pool with its critiques, and the turns of each talking arm, as Traces whose ids name the arm."""
    if problem.answer is None:
        return [Dropped(problem_id=question.id, what=question.id, reason="no_gold")]
    pool = yield Continue(start(question), by=model, n=settings.attempts, temperature=settings.temperature)
    turns = yield All(*(Turn(question, "critique", [Said(one.text)], by=model) for one in pool))
    critiques = yield Continue([start(turn) for turn in turns], by=model, temperature=settings.temperature)
    rows: list[Trace] = []
    for number, (one, turn, said) in enumerate(zip(pool, turns, critiques, strict=True)):
        rows.append(_row(question, one, POOL, number, model, settings))
        rows.append(_row(turn, said, POOL, number, model, settings, rows[-1].id))
    talking = [_Talk(arm, pool[0], critiques[0], rows[0].id) for arm in settings.talking]
    for talk in talking:
        talk.spent = pool[0].num_tokens
    for number in range(1, settings.attempts):
        running = [talk for talk in talking if talk.goes_on(problem, task, settings)]
        if not running:
            break
        revisions = yield All(*(Turn(question, "revise", talk.history, by=model) for talk in running))
        tries = yield Continue(
            [start(turn) for turn in revisions], by=model, temperature=settings.temperature
        )
        for talk, turn, one in zip(running, revisions, tries, strict=True):
            rows.append(_row(turn, one, talk.arm, number, model, settings, talk.last_id))
            talk.took(one, rows[-1].id)
        own = [talk for talk in running if talk.arm == "self"]
        for talk in own:
            turn = yield Turn(question, "critique", [Said(talk.attempt.text)], by=model)
            [said] = yield Continue(start(turn), by=model, temperature=settings.temperature)
            rows.append(_row(turn, said, talk.arm, number, model, settings, talk.last_id))
            talk.critique = said
    return rows


@dataclass(slots=True)
class _Talk:
    """A talking arm under way."""

    arm: Arm
    attempt: Prefix
    critique: Prefix  #: its own, where the arm is `self`
    last_id: str
    spent: int = 0
    feedback: str = ""

    def goes_on(self, problem: Problem, task: BaseTask, settings: Settings) -> bool:
        """Is its answer refused, and is there a token left? What a sound checker says costs none."""
        if self.arm == "self":
            self.spent += self.critique.num_tokens
            accepted, self.feedback = self.critique.answer == "right", self.critique.text
        else:
            accepted = sound(self.attempt, problem, task)
            self.feedback = "" if accepted else task.feedback(problem, self.attempt.text, SOUND[self.arm])
        return not accepted and self.spent < settings.tokens

    @property
    def history(self) -> list[Said]:
        return [Said(self.attempt.text), Said(self.feedback, "critique")]

    def took(self, attempt: Prefix, name: str) -> None:
        """Another attempt was made."""
        self.attempt, self.last_id = attempt, name
        self.spent += attempt.num_tokens


def sound(attempt: Prefix, problem: Problem, task: BaseTask) -> bool:
    """What the checker that knows the truth says of an attempt."""
    return attempt.finish in ("eos", "stop") and task.correct(attempt.answer, problem)


def _row(
    question: Question,
    prefix: Prefix,
    arm: str,
    number: int,
    model: str,
    settings: Settings,
    parent: str = "",
) -> Trace:
    trace = to_trace(
        question, prefix, number, temperature=settings.temperature, tokens_charged=prefix.num_tokens
    )
    name = trace.id.removeprefix(f"{question.id}/")
    return replace(trace, id=f"{question.id}/{model}/{arm}/{name}", parent=parent or None, model=model)


def outcomes(
    problem: Problem,
    traces: Sequence[Trace],
    labels: Sequence[Label],
    settings: Settings,
    model: str,
    task: BaseTask,
) -> VerificationOutcome:
    """Where each arm ended, from the rows alone."""
    gold = {row.trace_id: bool(row.correct) for row in labels if row.labeller == GOLD}
    mine = [trace for trace in traces if trace.model == model]
    by_arm: dict[str, list[Trace]] = {}
    for trace in mine:
        by_arm.setdefault(trace.id.split("/")[-2], []).append(trace)
    critiques = {trace.parent: trace for trace in mine if trace.act == "critique"}
    pool = [trace for trace in by_arm.get(POOL, []) if trace.is_attempt]

    def turned(trace: Trace, arm: str) -> Turned:
        right = gold.get(trace.id, False) and trace.finish in ("eos", "stop")
        said = critiques.get(trace.id)
        own = arm in ("self", "self_resample")
        accepted = right if arm in SEES_GOLD else said is not None and said.answer == "right"
        spent = len(trace.token_ids) + (len(said.token_ids) if own and said is not None else 0)
        return Turned(gold.get(trace.id, False), accepted, spent)

    arms: dict[str, ArmOutcome] = {}
    for arm in settings.arms:
        attempts = pool[:1] if arm == "once" else pool if arm.endswith("resample") else (
            pool[:1] + [trace for trace in by_arm.get(arm, []) if trace.is_attempt])  # fmt: skip
        arms[arm] = ended([turned(trace, arm) for trace in attempts], settings.tokens)
    told = [(gold.get(t.id, False), critiques.get(t.id)) for t in pool]
    said = tuple(
        (right, None if one is None or one.answer is None else one.answer == "right") for right, one in told
    )
    return VerificationOutcome(problem.id, arms, said)


def ended(attempts: Sequence[Turned], tokens: int) -> ArmOutcome:
    """The first accepted attempt, or the last one that was begun with tokens left."""
    spent, number = 0, 0
    for number, attempt in enumerate(attempts, 1):
        spent += attempt.tokens
        if attempt.accepted or spent >= tokens or number == len(attempts):
            return ArmOutcome(attempt.right, attempt.accepted, number, spent)
    return ArmOutcome(False, False, number, spent)


def predicted(p: Any, tpr: Any, fpr: Any) -> Any:
    """How often the answer is right that endless re-sampling against a critic ends with (p .2, tpr .9, fpr
    .1 -> .18 / .26 = .6923)."""
    passed = p * tpr + (1 - p) * fpr
    return np.where(passed > 0, p * tpr / np.where(passed > 0, passed, 1.0), np.nan)


def measure(found: Mapping[str, Sequence[VerificationOutcome]], settings: Settings) -> dict[str, float]:
    """Metrics without the stage's name, over the problems that all models were measured on."""
    return over_problems(found, lambda rows: columns(rows, settings), settings.resamples)


def columns(found: Sequence[VerificationOutcome], settings: Settings) -> Measured:
    """The statistics of one model's arms over problems."""
    measured = Measured()
    stats = measured.compared
    for arm in settings.arms:
        ends = [outcome.arms[arm] for outcome in found]
        stats[f"accuracy/{arm}"] = ratio(((end.right, 1) for end in ends), share=True)
        stats[f"tokens/{arm}"] = ratio((end.tokens, 1) for end in ends)
        if arm != "once":
            stats[f"accepted/{arm}"] = ratio(((end.accepted, 1) for end in ends), share=True)
            once = [outcome.arms["once"].right for outcome in found]
            stats[f"over_once/{arm}"] = ratio(
                (e.right - first, 1) for e, first in zip(ends, once, strict=True)
            )
    p = stats["p"] = ratio((sum(right for right, _ in o.pool), len(o.pool)) for o in found)
    tpr = stats["tpr"] = ratio(_passed(o.pool, True) for o in found)
    fpr = stats["fpr"] = ratio(_passed(o.pool, False) for o in found)
    stats["predicted"] = Made((p, tpr, fpr), predicted)
    if math.isfinite(tpr.value) and math.isfinite(fpr.value):
        shares = [sum(right for right, _ in o.pool) / max(len(o.pool), 1) for o in found]
        each = predicted(np.array(shares), tpr.value, fpr.value)
        stats["predicted/each"] = ratio((float(one), 1) if math.isfinite(one) else (0, 0) for one in each)
    return measured


def _passed(pool: Sequence[tuple[bool, bool | None]], truth: bool) -> tuple[float, float]:
    """How many attempts of one kind the own critic passes; one without a verdict does not pass."""
    said = [says is True for right, says in pool if right == truth]
    return sum(said), len(said)


SAYS = {
    "once": "one answer",
    "self": "its own critic, another attempt",
    "self_resample": "its own critic, fresh answers",
    "binary": "a sound verdict, another attempt (sees gold)",
    "first_error": "the first fault by a sound critic (sees gold)",
    "all_errors": "all faults by a sound critic (sees gold)",
    "resample": "fresh answers until a sound verdict (sees gold)",
}


def metrics(settings: Settings) -> list[Metric]:
    """What may be named before anything has run."""
    found = [
        Metric(f"accuracy/{arm}", SAYS[arm], headline=True, short=arm, gain=f"gain/{arm}")
        for arm in settings.arms
    ]
    later = [arm for arm in settings.arms if arm != "once"]
    found += [Metric(f"over_once/{arm}", f"over one answer: {SAYS[arm]}") for arm in later]
    found += [Metric(f"accepted/{arm}", f"ends accepted: {SAYS[arm]}") for arm in later]
    found += [
        Metric(f"tokens/{arm}", f"tokens: {SAYS[arm]}", less=True, share=False) for arm in settings.arms
    ]
    return [
        *found,
        Metric("tpr", "right ones that its critic passes", headline=True, short="tpr"),
        Metric("fpr", "wrong ones that its critic passes", less=True, headline=True, short="fpr"),
        Metric("p", "answers of the pool that are right"),
        Metric("predicted", "endless re-sampling against its critic, by p, tpr, fpr"),
        Metric("predicted/each", "the same by each problem's own p"),
    ]


def panels(settings: Settings) -> list[Panel]:
    """The arms side by side and by round, what they spent, measured against predicted."""
    right = {f"accuracy/{arm}": SAYS[arm] for arm in settings.arms}
    against = {"predicted": "predicted", "predicted/each": "by problem", "accuracy/self_resample": "measured"}
    note = "those that see gold are upper bounds"
    found = [
        Panel(SECTION, "Arms at equal tokens", "bars", right, note, axis="accuracy", picture="verifiers"),
        Panel(SECTION, "Arms by round", "curve", right, note, axis="accuracy"),
        Panel(SECTION, "Its own critic", "curve", {"tpr": "right ones pass", "fpr": "wrong ones pass"}),
        Panel(SECTION, "Tokens an arm wrote", "bars", {f"tokens/{arm}": SAYS[arm] for arm in settings.arms},
              share=False, small=True),
    ]  # fmt: skip
    if "self_resample" in settings.arms:
        found.append(Panel(SECTION, "Re-sampling against its own critic", "bars", against))
    return found


def remarks(metrics: Mapping[str, float], settings: Settings) -> dict[str, str]:
    """Which of the two helps, in words."""
    said = []
    for arm, words in (("self", "its own critique"), ("resample", "re-sampling against a sound verifier")):
        gain = metrics.get(f"over_once/{arm}")
        if gain is not None:
            low, high = (metrics.get(f"over_once/{arm}/{end}", gain) for end in ("low", "high"))
            word = (
                "helps"
                if low > 0
                else "hurts"
                if high < 0
                else "changes nothing that can be told from chance"
            )
            said.append(f"{words} {word} ({100 * gain:+.1f} points over one answer)")
    return {SECTION: f"{'; '.join(said).capitalize()}."} if said else {}


def health(metrics: Mapping[str, float], settings: Settings) -> Health:
    """Does the critic tell anything?"""
    tpr, fpr = metrics.get("tpr"), metrics.get("fpr")
    if tpr is not None and fpr is not None and tpr == fpr:
        return Health(
            warnings=[f"its critic passes right and wrong answers alike ({tpr:.0%}): it tells nothing"]
        )
    return Health()
