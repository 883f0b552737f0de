"""Are preference labels true? The pairs of a selection against the task's own word.

    before: {evaluate: pair_quality, from: pairs}
    after:  {evaluate: pair_quality, from: sure}

Of a pair of whole completions a side is good where its answer is right; of a pair of steps where the task's
exact oracle says that all up to that step is right and a right end is still reachable. A pair is *decided*
where one side is good and the other is not: only there can a label be true or false. Secrets of RLHF II
(Wang et al. 2024, arXiv:2401.06080, section 2.1) asks how often labels are true by the strength of the
preference, against GPT-4; here the oracle is exact.

Metrics: accuracy (of the decided pairs those whose chosen side is the good one), accuracy/sure (the same with
each pair at its confidence: of one that is smoothed to 0.7, 0.7 is true where its label is, and 0.3 where it
is not), decided (pairs that are), chosen (chosen sides that are good), auc (does a larger margin say that the
label is true? over decided pairs), pairs and pairs_a_problem.

Hold two stages of one run against each other for what flipping, smoothing or dropping did. Not here: labels
of single traces and steps (`label_quality`), and whether a model learns from the pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from pipeline.asks import Asks
from pipeline.evaluate import EvaluateSettings, Health, Metric, Panel, Search
from pipeline.evaluate.intervals import Statistic
from pipeline.evaluate.outcomes import ratio
from pipeline.evaluate.paired import Measured, over_problems
from pipeline.evaluate.ranking import Points, Ranking
from pipeline.rows import Dropped, Group, Label, Pair, Problem, Question, Trace
from pipeline.settings import STANDING, Cost, Length, PolicyName
from pipeline.tasks import BaseTask

GOLD, GIVEN = "gold", "given"  #: labellers of the rows that this evaluation writes


class Settings(EvaluateSettings):
    """Whose pairs."""

    needs: ClassVar[tuple[str, ...]] = ("Pair",)

    of: Annotated[PolicyName, STANDING] = Field("policy", description="who wrote what is paired")
    split: Literal["train", "dev", "test"] = "train"
    resamples: int = Field(2000, ge=100, description="of the bootstrap over problems")

    def answering(self, model: str, task: Length) -> Cost:
        return Cost()


@dataclass(frozen=True, slots=True)
class Judged:
    """One pair: is each side good (None: nobody knows), and what its label says of itself."""

    chosen: bool | None
    rejected: bool | None
    margin: float
    confidence: float

    @property
    def decided(self) -> bool:
        """Is one side good, and the other not?"""
        return None not in (self.chosen, self.rejected) and self.chosen != self.rejected


@dataclass(frozen=True, slots=True)
class PairOutcome:
    """The pairs of one problem."""

    problem_id: str
    pairs: tuple[Judged, ...]


def answer(
    question: Question,
    settings: Settings,
    model: str,
    search: Search | None = None,
    given: Group | None = None,
) -> Asks[list[Any]]:
    """Both sides of each pair as Traces, the chosen one first, and a Label with its margin and confidence."""
    yield from ()  # asks nothing
    if given is None:
        raise ValueError("pair_quality measures what `from` brings")
    rows: list[Any] = []
    pairs = [row for row in given.examples if isinstance(row, Pair)]
    for number, pair in enumerate(pairs):
        before = pair.prompt.removeprefix(question.prompt) if not pair.whole else ""
        for side, text in ((0, pair.chosen), (1, pair.rejected)):
            ids = list(pair.rejected_ids if side else pair.chosen_ids)
            rows.append(
                Trace(
                    problem_id=question.id,
                    id=f"{question.id}/{model}/{2 * number + side}",
                    prompt=question.prompt,
                    text=before + text,
                    token_ids=ids,  # of a step those of the step alone
                    step_ends=[len(ids)] if ids else [],
                    steps=[before + text] if ids else [],
                    finish="eos" if pair.whole else "budget",
                    tokens_charged=0,
                    model=model,
                )
            )
        rows.append(
            Label(
                problem_id=question.id,
                trace_id=f"{question.id}/{model}/{2 * number}",
                value=pair.margin,
                advantage=[pair.confidence],
                labeller=GIVEN,
            )
        )
    return rows or [Dropped(problem_id=question.id, what=question.id, reason="no_pair")]


def grade(problem: Problem, rows: Sequence[Any], task: BaseTask) -> list[Label]:
    """Is each side good? Nothing is said where nobody knows."""
    return [
        Label(
            problem_id=problem.id,
            trace_id=trace.id,
            correct=whole_is_right(problem, trace, task)
            if trace.finish == "eos"
            else step_is_sound(problem, trace, task),
            labeller=GOLD,
        )
        for trace in rows
        if isinstance(trace, Trace)
    ]


def whole_is_right(problem: Problem, trace: Trace, task: BaseTask) -> bool | None:
    """Of a whole completion: is its answer right?"""
    return None if problem.answer is None else task.correct(task.extract(trace.text), problem)


def step_is_sound(problem: Problem, trace: Trace, task: BaseTask) -> bool | None:
    """Of a step and all before it: is a right end still within reach?"""
    verdicts = task.step_oracle(problem, task.steps(trace.text))
    return bool(verdicts[-1]) if verdicts else None


def outcomes(
    problem: Problem,
    traces: Sequence[Trace],
    labels: Sequence[Label],
    settings: Settings,
    model: str,
    task: BaseTask,
) -> PairOutcome:
    """The pairs of one problem beside the truth."""
    good = {label.trace_id: label.correct for label in labels if label.labeller == GOLD}
    found = []
    for label in labels:
        head, _, number = label.trace_id.rpartition("/")
        if label.labeller != GIVEN or head != f"{problem.id}/{model}":
            continue
        [confidence] = label.advantage or [1.0]
        other = f"{head}/{int(number) + 1}"
        margin = 0.0 if label.value is None else label.value
        sure = 1.0 if confidence is None else confidence
        found.append(Judged(good[label.trace_id], good[other], margin, sure))
    return PairOutcome(problem.id, tuple(found))


def measure(found: Mapping[str, Sequence[PairOutcome]], settings: Settings) -> dict[str, float]:
    """Metrics without the stage's name, with intervals over problems."""
    return over_problems(found, columns, settings.resamples)


def columns(found: Sequence[PairOutcome]) -> Measured:
    """The statistics of a selection's pairs over problems."""
    decided = [[pair for pair in each.pairs if pair.decided] for each in found]
    known = [[pair for pair in each.pairs if pair.chosen is not None] for each in found]
    points = Points.of(
        [(pair.margin, bool(pair.chosen), 0, 0, n) for n, pairs in enumerate(decided) for pair in pairs]
    )
    stats: dict[str, Statistic] = {
        "accuracy": ratio((sum(bool(p.chosen) for p in pairs), len(pairs)) for pairs in decided),
        "accuracy/sure": ratio(
            (sum(p.confidence if p.chosen else 1 - p.confidence for p in pairs), len(pairs))
            for pairs in decided
        ),
        "decided": ratio((len(told), len(each.pairs)) for told, each in zip(decided, found, strict=True)),
        "chosen": ratio((sum(bool(p.chosen) for p in pairs), len(pairs)) for pairs in known),
        "auc": Ranking(points, np.zeros(len(points), dtype=np.int64)),
    }
    number = sum(len(each.pairs) for each in found)
    return Measured(stats, {}, {"pairs": float(number), "pairs_a_problem": number / len(found)})


#: metric -> what a reader calls it, whether it is a share, and a headline
NAMES = {
    "accuracy": ("pairs whose label is true, of those that one side wins", True, True),
    "accuracy/sure": ("the same, each pair at its confidence", True, False),
    "decided": ("pairs of which one side alone is good", True, True),
    "chosen": ("chosen sides that are good", True, False),
    "auc": ("AUC of the margin over true labels (0.5 is chance)", False, False),
    "pairs": ("pairs", False, False),
    "pairs_a_problem": ("pairs a problem", False, False),
}


def metrics(settings: Settings) -> list[Metric]:
    """The metrics that may be named before anything has run."""
    return [
        Metric(name, says, share=share, headline=headline) for name, (says, share, headline) in NAMES.items()
    ]


def panels(settings: Settings) -> list[Panel]:
    """The rates by round, and a table of the rest."""
    section = "Are the labels true?"
    shares = {name: says for name, (says, share, _) in NAMES.items() if share}
    rest = {name: says for name, (says, share, _) in NAMES.items() if not share}
    return [
        Panel(section, "Preferences against the task's own word", "curve", shares),
        Panel(section, "How many pairs, and what a margin says", "table", rest, share=False),
    ]


def health(metrics: Mapping[str, float], settings: Settings) -> Health:
    """Is there anything to compare?"""
    if not metrics.get("pairs"):
        return Health(warnings=["no pair arrived"])
    if not metrics.get("decided"):
        return Health(
            warnings=["no pair has one good side and one that is not: no label can be held against the task"]
        )
    return Health()
