"""How good must a critic be? One policy's answers, checked and given again, under several critics (Wang et
al., arXiv:2405.18634).

There the gain of a check in context grows with the critic's accuracy, about along a line; this measures it.

    curve: {evaluate: critics, of: policy, critics: [own, near, far], split: test}

All critics see the same first answer. One that is not called right is given again, its last attempt and the
check of it in sight (`generate: check_context` with `until_right` and `window: 1`), `checks` times at most;
the last attempt stands. So for each critic C and each number of checks K:

- `accuracy/C/K`, and `accuracy/C` after all checks; `accuracy/once` is that of the first answers;
- `tpr/C`, `fpr/C`: right and wrong attempts that it calls right, `balanced/C`: (tpr + 1 - fpr) / 2;
- `predicted/C`: where each attempt is right with probability p, whatever was said before, the share o that is
  still open falls by 1 - p tpr - (1 - p) fpr with each check, and the answer is right in the sum of
  o_k p tpr over the checks, plus o p at the end. p is `p`, the share of all attempts that are right;
- `line/C`: what it would be were the gain a straight line in the balanced accuracy, from none at 0.5 to that
  of the truest of these critics.

A check without a verdict is not `right`. No gold is seen before the rows are graded. Not here: votes of
several checks, critiques that are scored by themselves (`evaluate: critique`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, field_validator, model_validator

from pipeline.asks import All, Asks, Continue, Prefix, Said, Turn, start, to_trace
from pipeline.evaluate import GOLD, EvaluateSettings, Health, Metric, Panel, Search
from pipeline.evaluate.accuracy import grade as grade  # the task's word on each attempt
from pipeline.evaluate.intervals import Made, Statistic
from pipeline.evaluate.outcomes import ratio
from pipeline.evaluate.paired import Measured, over_problems
from pipeline.rows import Group, Label, Problem, Question, Trace, critiques_of
from pipeline.settings import Cost, Length, PolicyName
from pipeline.tasks import BaseTask

SECTION = "How good must a critic be?"
FIRST = "0"  #: stands in the ids of first answers, where a critic's name stands in others
CHANCE = 0.5  #: the balanced accuracy of a critic that knows nothing


class Settings(EvaluateSettings):
    """Which critics, and how often an answer is checked."""

    acts: ClassVar[tuple[str, ...]] = ("critique", "revise")

    critics: tuple[PolicyName, ...] = Field(
        ("policy",), min_length=1, description="the models that check, each by itself"
    )
    checks: int = Field(4, ge=1, le=20, description="how often an answer is checked and given again at most")
    temperature: float = Field(1.0, gt=0, le=10, description="of the answers")
    check_temperature: float = Field(0.0, ge=0, le=10, description="of the checks; 0: greedy")
    resamples: int = Field(2000, ge=100, description="of the paired bootstrap")

    @field_validator("critics")
    @classmethod
    def _once_each(cls, critics: tuple[str, ...]) -> tuple[str, ...]:
        if twice := sorted({name for name in critics if critics.count(name) > 1}):
            raise ValueError(f"{', '.join(twice)} stands twice")
        return critics

    @model_validator(mode="after")
    def _writes_itself(self) -> Settings:
        if self.search is not None or self.from_:
            raise ValueError("it writes answers and checks itself: leave search and from out")
        return self

    def answering(self, model: str, task: Length) -> Cost:
        """Where no check says right; a check is taken to be as long as an answer."""
        each = self.checks * task.typical_tokens
        wrote = Cost({model: task.typical_tokens + each * len(self.critics)})
        for critic in self.critics:
            wrote += Cost({critic: each})
        return wrote + Cost(traces=1 + 2 * self.checks * len(self.critics))


@dataclass(frozen=True, slots=True)
class Checked:
    """One attempt under a critic: is it right, does the critic call it so, was it checked at all?"""

    right: bool
    passes: bool = False
    checked: bool = True


@dataclass(frozen=True, slots=True)
class CriticsOutcome:
    """The attempts on one problem in their order, by critic; the first answer is everybody's."""

    problem_id: str
    once: bool
    attempts: Mapping[str, tuple[Checked, ...]]


def answer(
    question: Question,
    settings: Settings,
    model: str,
    search: Search | None = None,
    given: Group | None = None,
) -> Asks[list[Any]]:
    """The first answer, and each critic's checks and what was answered after them, as Traces whose ids name
    the critic. A critique's `model` is the critic."""
    [first] = yield Continue(start(question), by=model, temperature=settings.temperature)
    rows = [_row(question, first, model, FIRST, 0, settings.temperature)]
    talks = [_Talk(critic, first, rows[0].id) for critic in settings.critics]
    for number in range(settings.checks):
        turns = yield All(*(Turn(question, "critique", [Said(t.attempt.text)], by=t.critic) for t in talks))
        heat = settings.check_temperature
        said = yield All(
            *(Continue(start(turn), t.critic, temperature=heat) for t, turn in zip(talks, turns, strict=True))
        )
        for talk, turn, [check] in zip(talks, turns, said, strict=True):
            row = _row(turn, check, model, talk.critic, number, settings.check_temperature, talk.last_id)
            rows.append(replace(row, model=talk.critic))
            talk.check, talk.last_id = check, row.id
        talks = [talk for talk in talks if talk.check is not None and talk.check.answer != "right"]
        if not talks:
            break
        turns = yield All(*(Turn(question, "revise", talk.history, by=model) for talk in talks))
        tries = yield Continue([start(turn) for turn in turns], by=model, temperature=settings.temperature)
        for talk, turn, one in zip(talks, turns, tries, strict=True):
            rows.append(_row(turn, one, model, talk.critic, number, settings.temperature, talk.last_id))
            talk.attempt, talk.last_id = one, rows[-1].id
    return rows


@dataclass(slots=True)
class _Talk:
    """A critic's conversation under way."""

    critic: str
    attempt: Prefix
    last_id: str
    check: Prefix | None = None

    @property
    def history(self) -> list[Said]:
        assert self.check is not None
        return [Said(self.attempt.text), Said(self.check.text, "critique")]


def _row(
    question: Question,
    prefix: Prefix,
    model: str,
    critic: str,
    number: int,
    temperature: float,
    parent: str | None = None,
) -> Trace:
    trace = to_trace(question, prefix, number, temperature=temperature, tokens_charged=prefix.num_tokens)
    name = trace.id.removeprefix(f"{question.id}/")
    return replace(trace, id=f"{question.id}/{model}/{critic}/{name}", parent=parent, model=model)


def outcomes(
    problem: Problem,
    traces: Sequence[Trace],
    labels: Sequence[Label],
    settings: Settings,
    model: str,
    task: BaseTask,
) -> CriticsOutcome:
    """The attempts of one problem and what each critic said of them, from the rows alone."""
    gold = {row.trace_id: bool(row.correct) for row in labels if row.labeller == GOLD}
    mine = [trace for trace in traces if trace.id.startswith(f"{problem.id}/{model}/")]
    firsts = [trace for trace in mine if trace.id.split("/")[-2] == FIRST]
    attempts: dict[str, tuple[Checked, ...]] = {}
    for critic in settings.critics:
        own = [trace for trace in mine if trace.id.split("/")[-2] == critic]
        said = critiques_of([*firsts, *own])
        found = []
        for trace in [*firsts, *(trace for trace in own if trace.is_attempt)]:
            checks = said.get(trace.id, [])
            passes = any(one.answer == "right" for one in checks)
            found.append(Checked(gold.get(trace.id, False), passes, bool(checks)))
        attempts[critic] = tuple(found)
    return CriticsOutcome(problem.id, any(gold.get(trace.id, False) for trace in firsts), attempts)


def predicted(p: Any, tpr: Any, fpr: Any, checks: int) -> Any:
    """How often the answer is right after so many checks (p .2, tpr .9, fpr .1, one check: .18 + .74 * .2 =
    .328; two: .42272)."""
    ends, still = p * tpr + (1 - p) * fpr, 1.0
    right = np.zeros_like(np.asarray(p, dtype=np.float64))
    for _ in range(checks):
        right = right + still * p * tpr
        still = still * (1 - ends)
    return right + still * p


def line(balanced: Any, once: Any, best: Any, of_best: Any) -> Any:
    """A straight line's accuracy, from `once` at chance to `of_best` at the truest critic's balanced accuracy
    (.7, from .1 to .4 at .9 -> .25); NaN where that one knows nothing."""
    known = np.asarray(best - CHANCE)
    share = (balanced - CHANCE) / np.where(known > 0, known, 1.0)
    return np.where(known > 0, once + share * (of_best - once), np.nan)


def measure(found: Mapping[str, Sequence[CriticsOutcome]], settings: Settings) -> dict[str, float]:
    """Metrics without the stage's name, over the problems that all models were measured on."""
    return over_problems(found, lambda rows: columns(rows, settings), settings.resamples)


def columns(found: Sequence[CriticsOutcome], settings: Settings) -> Measured:
    """The statistics of one model under its critics, over problems."""
    stats: dict[str, Statistic] = {"accuracy/once": ratio(((one.once, 1) for one in found), share=True)}
    later = [[one for talk in o.attempts.values() for one in talk[1:]] for o in found]
    stats["p"] = ratio(
        (o.once + sum(one.right for one in more), 1 + len(more)) for o, more in zip(found, later, strict=True)
    )
    for name in settings.critics:
        talks = [outcome.attempts[name] for outcome in found]
        for checks in range(1, settings.checks + 1):
            stats[f"accuracy/{name}/{checks}"] = ratio(
                ((talk[min(checks, len(talk) - 1)].right, 1) for talk in talks), share=True
            )
        stats[f"accuracy/{name}"] = stats[f"accuracy/{name}/{settings.checks}"]
        tpr = stats[f"tpr/{name}"] = ratio(_passed(talk, True) for talk in talks)
        fpr = stats[f"fpr/{name}"] = ratio(_passed(talk, False) for talk in talks)
        stats[f"balanced/{name}"] = Made((tpr, fpr), lambda one, other: (one + 1 - other) / 2)
        parts = (stats["p"], tpr, fpr)
        stats[f"predicted/{name}"] = Made(parts, lambda p, t, f: predicted(p, t, f, settings.checks))
    if known := [n for n in settings.critics if np.isfinite(stats[f"balanced/{n}"].value)]:
        best = max(known, key=lambda name: stats[f"balanced/{name}"].value)
        ends = (stats["accuracy/once"], stats[f"balanced/{best}"], stats[f"accuracy/{best}"])
        stats |= {f"line/{name}": Made((stats[f"balanced/{name}"], *ends), line) for name in known}
    return Measured(stats)


def _passed(talk: Sequence[Checked], truth: bool) -> tuple[float, float]:
    """How many checked attempts of one kind the critic calls right; without a verdict it calls none so."""
    said = [one.passes for one in talk if one.checked and one.right == truth]
    return sum(said), len(said)


#: what is said of each critic: what a reader calls it; whether less of it is better
NAMES = {
    "accuracy": ("right after all checks by {}", False),
    "predicted": ("the same by p and its verdicts alone", False),
    "line": ("the same by a straight line in its accuracy", False),
    "balanced": ("balanced accuracy of {} (0.5 is chance)", False),
    "tpr": ("right ones that {} passes", False),
    "fpr": ("wrong ones that {} passes", True),
}


def metrics(settings: Settings) -> list[Metric]:
    """What may be named before anything has run."""
    found = [
        Metric("accuracy/once", "first answers that are right", headline=True, short="once"),
        Metric("p", "attempts that are right"),
    ]
    for critic in settings.critics:
        for name, (says, less) in NAMES.items():
            head = name in ("accuracy", "balanced")
            short = {"accuracy": critic, "balanced": f"{critic}'s verdicts"}.get(name, "")
            found.append(Metric(f"{name}/{critic}", says.format(critic), less, headline=head, short=short))
        found += [
            Metric(f"accuracy/{critic}/{k}", f"right after {k} checks by {critic}")
            for k in range(1, settings.checks + 1)
        ]
    return found


def panels(settings: Settings) -> list[Panel]:
    """Measured, predicted and the line, critic by critic; what more checks add; the critics themselves."""
    critics = settings.critics
    right = {"accuracy/once": "no check"} | {f"accuracy/{name}": name for name in critics}
    found = [Panel(SECTION, "Right after all checks", "bars", right, axis="accuracy")]
    for name in critics:
        by_check = {f"accuracy/{name}/{k}": str(k) for k in range(1, settings.checks + 1)}
        against = {"accuracy": "measured", "predicted": "predicted", "line": "straight line"}
        named = {f"{kind}/{name}": says for kind, says in against.items()}
        found.append(Panel(SECTION, f"{name}: measured, by the formula, by a line", "bars", named))
        found.append(Panel(SECTION, f"{name}: by the number of checks", "bars", by_check, small=True))
    truth = {f"balanced/{name}": name for name in critics}
    return [*found, Panel(SECTION, "How true are their verdicts?", "bars", truth, zero=False)]


def remarks(metrics: Mapping[str, float], settings: Settings) -> dict[str, str]:
    """What each critic is worth, in words."""
    once = metrics.get("accuracy/once")
    told = [
        f"{name} ({metrics[f'balanced/{name}']:.2f}) {100 * (metrics[f'accuracy/{name}'] - once):+.1f}"
        for name in settings.critics
        if once is not None and f"balanced/{name}" in metrics and f"accuracy/{name}" in metrics
    ]
    if not told:
        return {}
    return {SECTION: f"Points over a first answer, by critic (its balanced accuracy): {', '.join(told)}."}


def health(metrics: Mapping[str, float], settings: Settings) -> Health:
    """Is there a right and a wrong attempt to tell apart?"""
    silent = [name for name in settings.critics if f"balanced/{name}" not in metrics]
    if silent:
        return Health(
            warnings=[f"{', '.join(silent)}: no right or no wrong attempt, so nobody knows how true they are"]
        )
    return Health()
