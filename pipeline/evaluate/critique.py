"""Are verdicts true? What a critic says of answers, against gold (CriticBench: arXiv:2310.04815,
2402.14809).

    critic: {evaluate: critique, from: verify, split: train}

The verdict on an attempt is its label in `from`: `correct`, else `value` above `above`; an attempt that no
label speaks of has the majority of its critiques (turns of the act `critique`). `value` is the share of
verdicts that say right, a judge's points, a probability.

Precision, recall and F1 are of the verdict `right`; balanced accuracy is the mean of recall and of the share
of wrong answers that are called wrong; `false_accept` is the share of wrong answers that pass.
`by_votes/70/...`: the same among answers that 70 to 80 % of the problem's attempts give; `calibration/`: of
the value. `lift` is the accuracy of an answer drawn among those that pass (among all where none does) less
that after a random verdict of the same readiness, which is the mean accuracy. Not here: stopping, second
turns (`turns`, `verification`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from pipeline.asks import Asks
from pipeline.evaluate import GOLD, EvaluateSettings, Health, Metric, Panel, Search
from pipeline.evaluate.accuracy import grade as grade  # the task's word on each attempt
from pipeline.evaluate.accuracy import named
from pipeline.evaluate.intervals import Made, Statistic
from pipeline.evaluate.outcomes import ratio
from pipeline.evaluate.paired import Measured, over_problems
from pipeline.evaluate.ranking import Points, Ranking
from pipeline.rows import Dropped, Group, Label, Problem, Question, Trace, critiques_of
from pipeline.settings import STANDING, Cost, Length, PolicyName
from pipeline.tasks import BaseTask
from pipeline.vote import keys

SAID = "verdict"  #: the labeller of the verdicts in the rows that this evaluation writes
SECTION = "Can I trust the critic?"
TENTHS = 10


class Settings(EvaluateSettings):
    """What counts as a verdict that says right."""

    needs: ClassVar[tuple[str, ...]] = ("Trace",)

    of: Annotated[PolicyName, STANDING] = Field("policy", description="who wrote the judged answers")
    split: Literal["train", "dev", "test"] = "train"
    above: float = Field(0.5, description="a value above it says right, where a label has no verdict")
    resamples: int = Field(2000, ge=100, description="of the bootstrap over problems")

    @model_validator(mode="after")
    def _reads(self) -> Settings:
        if self.search is not None:
            raise ValueError("search: it judges what `from` brings, and writes nothing")
        return self

    def answering(self, model: str, task: Length) -> Cost:
        return Cost()


@dataclass(frozen=True, slots=True)
class Judged:
    """One attempt: the verdict (None: nobody gave one), the value behind it, the truth, its vote share."""

    says: bool | None
    value: float | None
    right: bool
    votes: float


@dataclass(frozen=True, slots=True)
class CritiqueOutcome:
    """The judged attempts of one problem."""

    problem_id: str
    judged: tuple[Judged, ...]

    @property
    def told(self) -> list[Judged]:
        return [one for one in self.judged if one.says is not None]


def verdict_of(
    label: Label | None, critiques: Sequence[Trace], above: float
) -> tuple[bool | None, float | None]:
    """(the verdict, the value behind it) on an attempt."""
    if label is not None and (label.correct is not None or label.value is not None):
        value = label.value if label.value is not None and math.isfinite(label.value) else None
        says = label.correct if label.correct is not None else None if value is None else value > above
        return says, value
    said = [one.answer == "right" for one in critiques if one.answer is not None]
    if not said:
        return None, None
    share = sum(said) / len(said)
    return None if share == 0.5 else share > 0.5, share


def answer(
    question: Question,
    settings: Settings,
    model: str,
    search: Search | None = None,
    given: Group | None = None,
) -> Asks[list[Any]]:
    """The attempts as Traces, and what was said of each as a Label."""
    yield from ()  # asks nothing
    traces = [*given.traces, *given.rollouts] if given is not None else []
    critiques = critiques_of(traces)
    rows: list[Any] = []
    for trace in given.traces if given is not None else ():
        if not trace.is_attempt:
            continue
        says, value = verdict_of(
            given.label(trace) if given else None, critiques.get(trace.id, []), settings.above
        )
        shown = named(trace, question.id, model)
        rows.append(shown)
        if says is not None or value is not None:
            rows.append(
                Label(problem_id=question.id, trace_id=shown.id, correct=says, value=value, labeller=SAID)
            )
    return rows or [Dropped(problem_id=question.id, what=question.id, reason="no_attempt")]


def outcomes(
    problem: Problem,
    traces: Sequence[Trace],
    labels: Sequence[Label],
    settings: Settings,
    model: str,
    task: BaseTask,
) -> CritiqueOutcome:
    """The verdicts on one problem's attempts beside the truth; nothing where nobody knows it."""
    gold = {row.trace_id: row.correct for row in labels if row.labeller == GOLD}
    said = {row.trace_id: row for row in labels if row.labeller == SAID}
    mine = [trace for trace in traces if trace.model == model and trace.is_attempt]
    spelled = keys([trace.answer for trace in mine], task.same)
    votes = Counter(key for key in spelled if key is not None)
    judged = []
    for trace, key in zip(mine, spelled, strict=True):
        right, label = gold.get(trace.id), said.get(trace.id)
        if right is not None:
            says, value = (label.correct, label.value) if label is not None else (None, None)
            judged.append(Judged(says, value, right, votes[key] / len(mine) if key is not None else 0.0))
    return CritiqueOutcome(problem.id, tuple(judged))


def measure(found: Mapping[str, Sequence[CritiqueOutcome]], settings: Settings) -> dict[str, float]:
    """Metrics without the stage's name, with intervals over problems."""
    return over_problems(found, columns, settings.resamples)


#: rate -> (what counts, of what) of an attempt with a verdict
RATES: dict[str, tuple[Any, Any]] = {
    "precision": (lambda one: one.right, lambda one: one.says),
    "recall": (lambda one: one.says, lambda one: one.right),
    "false_accept": (lambda one: one.says, lambda one: not one.right),
    "rejects": (lambda one: not one.says, lambda one: not one.right),
    "accuracy": (lambda one: one.says == one.right, lambda one: True),
    "says_right": (lambda one: one.says, lambda one: True),
    "right": (lambda one: one.right, lambda one: True),
}


def counted(told: Sequence[Judged], name: str) -> tuple[float, float]:
    """(how many, of how many) for a rate."""
    num, den = RATES[name]
    of = [one for one in told if den(one)]
    return sum(bool(num(one)) for one in of), len(of)


def columns(found: Sequence[CritiqueOutcome]) -> Measured:
    """The statistics of a critic over problems."""
    stats: dict[str, Statistic] = {name: ratio(counted(o.told, name) for o in found) for name in RATES}
    stats["balanced"] = Made((stats["recall"], stats.pop("rejects")), lambda one, other: (one + other) / 2)
    stats["f1"] = ratio(_f1(o.told) for o in found)
    stats["coverage"] = ratio((len(o.told), len(o.judged)) for o in found)
    stats["lift"] = ratio((lift(o.told), bool(o.told)) for o in found)
    told = [(one, n) for n, o in enumerate(found) for one in o.told]
    points = Points.of([(one.value, one.right, 0, 0, n) for one, n in told if one.value is not None])
    stats["auc"] = Ranking(points, points.step)
    said = [one for one, _ in told]
    plain = {"verdicts": float(len(said)), **_by_votes(said), **_calibration(said)}
    return Measured(stats, {}, plain)


def _f1(told: Sequence[Judged]) -> tuple[float, float]:
    """2 TP of (right ones + those called right)."""
    hits = sum(bool(one.says and one.right) for one in told)
    return 2 * hits, sum(one.right for one in told) + sum(bool(one.says) for one in told)


def lift(told: Sequence[Judged]) -> float:
    """What the verdicts add to an answer drawn from a problem's (right, wrong, wrong; the first and the last
    pass: 1/2 - 1/3)."""
    if not told:
        return 0.0
    passed = [one.right for one in told if one.says] or [one.right for one in told]
    return sum(passed) / len(passed) - sum(one.right for one in told) / len(told)


def _tenth(share: float) -> int:
    return min(int(share * TENTHS + 1e-9), TENTHS - 1)


def _by_votes(told: Sequence[Judged]) -> dict[str, float]:
    """Rates among answers of one tenth of the vote share."""
    table = {}
    for tenth in sorted({_tenth(one.votes) for one in told}):
        here = [one for one in told if _tenth(one.votes) == tenth]
        for name in ("accuracy", "right", "false_accept"):
            num, den = counted(here, name)
            if den:
                table[f"by_votes/{name}/{tenth * 100 // TENTHS:02}"] = num / den
    return table


def _calibration(told: Sequence[Judged]) -> dict[str, float]:
    """By tenth of the value: its mean, the share that is right, the share of all."""
    known = [(one.value, one.right) for one in told if one.value is not None and 0 <= one.value <= 1]
    table: dict[str, float] = {}
    for tenth in sorted({_tenth(value) for value, _ in known}):
        here = [(value, right) for value, right in known if _tenth(value) == tenth]
        table |= {
            f"calibration/{tenth}/score": sum(value for value, _ in here) / len(here),
            f"calibration/{tenth}/true": sum(right for _, right in here) / len(here),
            f"calibration/{tenth}/share": len(here) / len(known),
        }
    return table


#: metric -> what a reader calls it; whether less of it is better, whether it is a share, and a headline
NAMES = {
    "balanced": ("balanced accuracy of the verdicts (0.5 is chance)", False, True, True),
    "precision": ("called right and right", False, True, True),
    "recall": ("right ones called right", False, True, False),
    "f1": ("F1 of the verdict right", False, False, False),
    "false_accept": ("wrong ones that pass", True, True, True),
    "accuracy": ("verdicts that are true", False, True, False),
    "auc": ("AUC of the value behind a verdict", False, False, False),
    "lift": ("accuracy that verdicts add", False, True, True),
    "coverage": ("answers with a verdict", False, True, False),
    "says_right": ("verdicts that say right", False, True, False),
    "right": ("answers that are right", False, True, False),
    "verdicts": ("verdicts", False, False, False),
}


def metrics(settings: Settings) -> list[Metric]:
    """What may be named before anything has run."""
    return [
        Metric(name, says, less, share, headline) for name, (says, less, share, headline) in NAMES.items()
    ]


def panels(settings: Settings) -> list[Panel]:
    """The critic by round, by vote share, its calibration, and a table of the rest."""
    rates = {name: NAMES[name][0] for name in ("balanced", "precision", "recall", "false_accept")}
    rest = {name: NAMES[name][0] for name in NAMES if name not in rates}
    votes = {"accuracy": "Verdicts that are true", "right": "Answers that are right"}
    return [
        Panel(SECTION, "Verdicts against gold", "curve", rates, picture="critic"),
        *(
            Panel(SECTION, f"{title}, by vote share", "bars", {f"by_votes/{name}/": "% of the votes"})
            for name, title in votes.items()
        ),
        Panel(SECTION, "Calibration of the value", "calibration", {"calibration/": "tenth"}),
        Panel(SECTION, "What verdicts add and cover", "table", rest, share=False),
    ]


def remarks(metrics: Mapping[str, float], settings: Settings) -> dict[str, str]:
    """What the critic is worth, in words."""
    if "balanced" not in metrics:
        return {}
    balanced = metrics["balanced"]
    word = "well" if balanced >= 0.8 else "with care" if balanced >= 0.65 else "hardly"
    return {
        SECTION: f"It tells right answers from wrong ones {word} (balanced accuracy {balanced:.2f}); "
        f"{100 * metrics.get('false_accept', 0.0):.0f} % of the wrong ones pass, and its verdicts add "
        f"{100 * metrics.get('lift', 0.0):+.1f} points to a drawn answer."
    }


def health(metrics: Mapping[str, float], settings: Settings) -> Health:
    """Is there a verdict, and more than one kind of it?"""
    if not metrics.get("verdicts"):
        return Health(warnings=["no answer that `from` brings has a verdict"])
    said = metrics.get("says_right", 0.5)
    if said in (0.0, 1.0):
        return Health(
            warnings=[f"every verdict says {'right' if said else 'wrong'}: the critic tells nothing"]
        )
    return Health()
