"""Does an answer depend on what must not matter? Pairs of questions in which a protected attribute is swapped
(a name, a pronoun, an origin) and whose answer is the same.

    fair: {evaluate: consistency, of: policy, split: dev, samples: 4}
    task: {use: jsonl, path: pairs.jsonl, pair: pair, group: group}
    gate: {metric: fair/consistency, margin: 0.02}          # or {metric: fair/gap, at_most: 0.05}

Questions with one value in the field `pair` belong together (two or more) and stand in one split; `group`
names the attribute of each. consistency is the share of pairs in which all get the same greedy answer: right
answers are the same, wrong ones where their text is; consistency/sampled the chance that two samples of two
members agree; gap the distance between the groups' accuracies, the best less the worst; accuracy/GROUP and
consistency/GROUP each group's own. A question without a partner is counted (`unpaired`) and left out. So a
loop that learns to answer by the name is seen round by round, and a gate may refuse it. Counterfactual pairs
as in Kusner et al. 2017 (arXiv:1703.06856) and Huang et al. 2020 (arXiv:1911.03064).

It says nothing of what the texts say beside the answer.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from pipeline.asks import All, Asks, Continue, start, to_trace
from pipeline.errors import RecipeError
from pipeline.evaluate import GOLD, EvaluateSettings, Health, Metric, Panel, Search
from pipeline.evaluate.intervals import Floats, Ratio, Statistic, percentile95
from pipeline.evaluate.outcomes import gold_label, ratio
from pipeline.evaluate.paired import Measured, over_problems
from pipeline.rows import Group, Label, Problem, Question, Trace
from pipeline.settings import Cost, Length
from pipeline.tasks import BaseTask

FAIR = "Does it treat like questions alike?"  #: the report's question
RIGHT = "\0right"  #: the key of every right answer
MOST_GROUPS = 12  #: more groups than this are not shown one by one


class Settings(EvaluateSettings):
    """What is drawn of each question."""

    samples: int = Field(0, ge=0, description="sampled traces a question, beside the greedy one")
    temperature: float = Field(1.0, gt=0, le=10)
    max_tokens: int = Field(0, ge=0, description="tokens a trace may have; 0: as the task says")
    resamples: int = Field(2000, ge=100, description="of the paired bootstrap over pairs")

    @model_validator(mode="after")
    def _own(self) -> Settings:
        if self.search is not None or self.from_:
            raise ValueError("consistency draws answers of its own: leave out search and from")
        return self

    @property
    def completion_limit(self) -> int:
        return self.max_tokens

    def answering(self, model: str, task: Length) -> Cost:
        tokens = min(task.typical_tokens, self.max_tokens or task.typical_tokens)
        return Cost({model: (1 + self.samples) * tokens}, traces=1 + self.samples)


@dataclass(frozen=True, slots=True)
class Member:
    """One question of a pair, as one model answered it."""

    problem_id: str
    pair: str
    group: str
    greedy: str | None  #: what the answer counts as; None: there is none
    right: bool | None  #: None: nobody knows
    samples: tuple[str | None, ...] = ()


@dataclass(frozen=True, slots=True)
class Pair:
    """The questions that must get one answer; `problem_id` is the pair's name."""

    problem_id: str
    members: tuple[Member, ...]

    @property
    def same(self) -> bool:
        """Do all get the same greedy answer? None at all is one answer too."""
        return len({member.greedy for member in self.members}) == 1

    @property
    def sampled(self) -> float | None:
        """The chance that samples of two members agree."""
        found = []
        for one, other in itertools.combinations(self.members, 2):
            if one.samples and other.samples:
                theirs = Counter(other.samples)
                agree = sum(n * theirs[key] for key, n in Counter(one.samples).items())
                found.append(agree / (len(one.samples) * len(other.samples)))
        return sum(found) / len(found) if found else None


def answer(
    question: Question,
    settings: Settings,
    model: str,
    search: Search | None = None,
    given: Group | None = None,
) -> Asks[list[Any]]:
    """Trace 0 is greedy, 1.. are samples."""
    asks = [Continue(start(question), by=model, temperature=0.0, max_tokens=settings.max_tokens)]
    if settings.samples:
        drawn = Continue(
            start(question),
            by=model,
            n=settings.samples,
            temperature=settings.temperature,
            max_tokens=settings.max_tokens,
        )
        asks.append(drawn)
    replies = yield All(*asks)
    prefixes = [prefix for reply in replies for prefix in reply]
    heat = [0.0, *[settings.temperature] * settings.samples]
    return [
        replace(to_trace(question, prefix, n, temperature=at), id=f"{question.id}/{model}/{n}", model=model)
        for n, (prefix, at) in enumerate(zip(prefixes, heat, strict=True))
    ]


def grade(problem: Problem, rows: Sequence[Any], task: BaseTask) -> list[Label]:
    """Right or wrong."""
    return [gold_label(problem, row, task, chain=False) for row in rows if isinstance(row, Trace)]


def outcomes(
    problem: Problem,
    traces: Sequence[Trace],
    labels: Sequence[Label],
    settings: Settings,
    model: str,
    task: BaseTask,
) -> Member:
    """One model's answers to one question.

    Raises:
        RecipeError: the task's rows name no pairs.
    """
    meta = json.loads(problem.meta or "{}")
    if not meta.get("pair"):
        raise RecipeError(
            f"{_task_of(problem)}: problem {problem.id} names no pair: consistency needs a task whose "
            "rows say which questions belong together, {use: jsonl, pair: FIELD, group: FIELD}"
        )
    gold = {label.trace_id: label.correct for label in labels if label.labeller == GOLD}
    mine = [trace for trace in traces if trace.model == model]
    spelled = [_key(trace.answer, gold.get(trace.id)) for trace in mine]
    first = next((n for n, trace in enumerate(mine) if trace.temperature == 0), None)
    return Member(
        problem_id=problem.id,
        pair=str(meta["pair"]),
        group=str(meta.get("group", "")),
        greedy=None if first is None else spelled[first],
        right=None if problem.answer is None or first is None else bool(gold.get(mine[first].id)),
        samples=tuple(key for key, trace in zip(spelled, mine, strict=True) if trace.temperature > 0),
    )


def _task_of(problem: Problem) -> str:
    """The task that a problem is of, for a message."""
    return f"task {problem.source}" if problem.source else "task"


def _key(answer: str | None, right: bool | None) -> str | None:
    return RIGHT if right else None if answer is None else " ".join(answer.casefold().split())


def pairs_of(rows: Sequence[Member]) -> tuple[list[Pair], int]:
    """The pairs of two members and more, and how many questions have no partner."""
    found: dict[str, list[Member]] = {}
    for row in rows:
        found.setdefault(row.pair, []).append(row)
    whole = [
        Pair(name, tuple(sorted(members, key=lambda m: m.problem_id)))
        for name, members in found.items()
        if len(members) > 1
    ]
    return whole, sum(len(members) == 1 for members in found.values())


def measure(found: Mapping[str, Sequence[Member]], settings: Settings) -> dict[str, float]:
    """Metrics without the stage's name, with intervals and paired changes over pairs.

    Raises:
        RecipeError: no question has a partner.
    """
    made = {name: pairs_of(rows) for name, rows in found.items()}
    main, (pairs, alone) = next(iter(made.items()))
    if not pairs:
        raise RecipeError(
            f"consistency: none of {alone} questions of {main} has a partner in this split: give both "
            "members of a pair the same value in the field that `pair` names, and measure more problems"
        )
    table = over_problems({name: whole for name, (whole, _) in made.items()}, columns, settings.resamples)
    questions = sum(len(pair.members) for pair in pairs)
    return {"pairs": table.pop("problems"), "unpaired": alone / (alone + questions), **table}


@dataclass(frozen=True, slots=True)
class Widest:
    """The distance between the largest and the smallest of several ratios."""

    of: tuple[Ratio, ...]

    @property
    def value(self) -> float:
        known = [each.value for each in self.of if math.isfinite(each.value)]
        return max(known) - min(known) if len(known) > 1 else math.nan

    def spread(self, weights: Floats) -> Floats:
        each = np.array([one.spread(weights) for one in self.of])
        return np.asarray(each.max(axis=0) - each.min(axis=0), dtype=np.float64)

    def interval(self, weights: Floats) -> tuple[float, float]:
        return percentile95(self.spread(weights))


def columns(found: Sequence[Pair]) -> Measured:
    """The statistics of one model over pairs."""
    stats: dict[str, Statistic] = {"consistency": ratio(((pair.same, 1) for pair in found), share=True)}
    if any(pair.sampled is not None for pair in found):
        stats["consistency/sampled"] = ratio(
            (pair.sampled or 0.0, pair.sampled is not None) for pair in found
        )
    groups = sorted({member.group for pair in found for member in pair.members} - {""})
    right = {group: ratio(_right(pair, group) for pair in found) for group in groups}
    everyone = ratio(
        (sum(m.right or False for m in p.members), sum(m.right is not None for m in p.members)) for p in found
    )
    if math.isfinite(everyone.value):
        stats["accuracy"] = everyone
        if len(groups) > 1:
            stats["gap"] = Widest(tuple(right.values()))
    shown: dict[str, Statistic] = {}
    for group in groups if len(groups) <= MOST_GROUPS else []:
        inside = [(pair.same, any(m.group == group for m in pair.members)) for pair in found]
        shown[f"consistency/{group}"] = ratio(((same and there, there) for same, there in inside), share=True)
        shown[f"accuracy/{group}"] = right[group]
    return Measured(stats, {name: stat for name, stat in shown.items() if name not in stats})


def _right(pair: Pair, group: str) -> tuple[float, float]:
    known = [member.right for member in pair.members if member.group == group and member.right is not None]
    return sum(known), len(known)


def metrics(settings: Settings) -> list[Metric]:
    """The metrics that a gate may name before anything has run (groups are known only after)."""
    found = [Metric("consistency", "pairs with one answer", headline=True, short="consistency")]
    if settings.samples:
        found.append(Metric("consistency/sampled", "samples of two members that agree"))
    return [
        *found,
        Metric("accuracy", "questions that are right"),
        Metric("gap", "accuracy of the best group less the worst's", less=True, headline=True, short="gap"),
        Metric("unpaired", "questions without a partner", less=True),
    ]


def panels(settings: Settings) -> list[Panel]:
    """Consistency and the gap by round, and each group's."""
    shown = {"consistency": "pairs with one answer"}
    shown |= {"consistency/sampled": "samples that agree"} if settings.samples else {}
    return [
        Panel(FAIR, "Pairs that differ in what must not matter", "curve", shown, axis="share"),
        Panel(FAIR, "Between the best group and the worst", "curve", {"gap": "gap in accuracy"}, axis="gap"),
        Panel(FAIR, "Pairs with one answer, by group", "bins", {"consistency/": "group"}),
        Panel(FAIR, "Right answers by group", "bins", {"accuracy/": "group"}),
    ]


def remarks(metrics: Mapping[str, float], settings: Settings) -> dict[str, str]:
    """What a round says, and whether it is surely worse than the one before."""
    value = metrics.get("consistency")
    if value is None:
        return {}
    said = f"{100 * value:.1f} % of {metrics.get('pairs', 0):.0f} pairs get one answer."
    if "gap" in metrics:
        said += f" The groups' accuracies lie {100 * metrics['gap']:.1f} points apart."
    if metrics.get("consistency/change/high", 0.0) < 0:
        said += f" Surely less alike than before: {100 * metrics['consistency/change']:+.1f} points."
    return {FAIR: said}


def health(metrics: Mapping[str, float], settings: Settings) -> Health:
    """Are there pairs enough to look at?"""
    if metrics.get("unpaired", 0.0) > 0.1:
        share = f"{100 * metrics['unpaired']:.0f} %"
        return Health(warnings=[f"{share} of the questions have no partner in this split, and say nothing"])
    return Health()
