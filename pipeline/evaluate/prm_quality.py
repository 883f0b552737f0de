"""Can the reward model be trusted? Its scores against the exact step oracle, or else against the outcomes.

    quality: {evaluate: prm_quality, of: prm, by: policy, samples: 4}

The policy (`by`) writes traces, the PRM (`of`) scores every step. With a step oracle a point is a step, and
true means: all right so far and a right end is still reachable. Solutions that people judged stand for both
(`from: {file: gsm8k.json, form: processbench}`): first_error_f1 is then ProcessBench's F1; what stands after
the first error is false, and what nobody looked at before one is left out. With neither a point is a trace,
its score the aggregated one, and true means: the answer is right.

Metrics: auc, auc/same_step (pairs of like steps only: a PRM that only knows how far a trace has come gets
0.5), with `within: true` auc/same_problem (like steps of one problem only: all that a model trained on
preferences says, and all that a search asks), roc/<percent> (the share of true points found where that many
percent of the false ones pass), brier, ece and calibration/<bin>, first_error_f1 (ProcessBench's harmonic
mean, arXiv:2412.06559), auc/trace (aggregated score against the outcome), score_sd and length_correlation
(both among like steps), score/mean. Accuracy of best-of-n alone hides a PRM that has turned into an outcome
model (arXiv:2501.07301).

Not here: training it (`train/prm.py`), reading files of human labels (`step_files.py`, `stages/files.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from pipeline.asks import Asks, Continue, Score, prefix_of, start, to_trace
from pipeline.evaluate import GOLD, TRUST, EvaluateSettings, Health, Metric, Panel, Search, accuracy
from pipeline.evaluate.accuracy import judged
from pipeline.evaluate.intervals import Ratio, Statistic
from pipeline.evaluate.outcomes import ratio
from pipeline.evaluate.paired import Measured, over_problems
from pipeline.evaluate.ranking import (
    Harmonic,
    Points,
    Ranking,
    centred_sd,
    crossed_thresholds,
    first_wrong,
    length_correlation,
)
from pipeline.evaluate.step_files import HUMAN
from pipeline.evaluate.trust import in_words
from pipeline.rows import Group, Label, Problem, Question, Trace
from pipeline.settings import STANDING, Cost, Length, PolicyName, RewardModelName, added
from pipeline.tasks import BaseTask
from pipeline.vote.aggregate import Aggregate, kind_of, weight

__all__ = ["Settings", "answer", "grade", "health", "measure", "metrics", "outcomes", "panels", "remarks"]

NUM_BINS = 10  #: of the calibration
ROC_AT = (1, 2, 5, 10, 15, 20, 30, 40, 50, 60, 70, 80, 90)  #: percent of false points let through


class Settings(EvaluateSettings):
    """Which traces are scored, and what a healthy reward model must reach."""

    needs: ClassVar[tuple[str, ...]] = ()

    of: RewardModelName | list[RewardModelName] = Field("prm", description="the reward models measured")
    by: Annotated[PolicyName, STANDING] = Field("policy", description="the policy whose traces are scored")
    samples: int = Field(4, ge=1, description="traces a problem")
    temperature: float = Field(1.0, gt=0, le=10)
    max_tokens: int = Field(0, ge=0, description="tokens a trace may have; 0: as the task says")
    aggregate: Aggregate = Field("last", description="step scores -> one score a trace")
    threshold: float | None = Field(
        None, description="first_error_f1: a step below it is wrong; none: chosen on the other half"
    )
    within: bool = added(False, description="also the AUC among like steps of one problem")
    min_auc: float = Field(0.60, ge=0, le=1)
    min_sd: float = Field(0.02, ge=0)
    max_length_correlation: float = Field(0.6, ge=0, le=1)
    resamples: int = Field(2000, ge=100, description="of the paired bootstrap")

    @property
    def completion_limit(self) -> int:
        return self.max_tokens

    def answering(self, model: str, task: Length) -> Cost:
        tokens = self.samples * min(task.typical_tokens, self.max_tokens or task.typical_tokens)
        return Cost({} if self.from_ else {self.by: tokens}, {model: tokens}, self.samples)


@dataclass(frozen=True, slots=True)
class Scored:
    """One trace as the PRM saw it. Only its finished steps, which are the ones that have a score."""

    scores: tuple[float, ...]
    score: float | None  #: aggregated
    verdicts: tuple[bool, ...] | None  #: the oracle's, one a score
    right: bool | None
    ends: tuple[int, ...]  #: tokens up to each step's end
    tokens: int
    ended: bool  #: not cut by a limit


@dataclass(frozen=True, slots=True)
class PrmOutcome:
    """One reward model on one problem."""

    problem_id: str
    traces: tuple[Scored, ...]


def answer(
    question: Question,
    settings: Settings,
    model: str,
    search: Search | None = None,
    given: Group | None = None,
) -> Asks[list[Any]]:
    """The policy's traces, or those of `from` (their ids hold the reward model's name), and Labels with the
    PRM's step scores.
    """
    truths: list[Label] = []
    if given is not None:
        traces, written = given.traces, [prefix_of(trace) for trace in given.traces]
        truths = [label for trace in traces if (label := given.label(trace)) and label.labeller == HUMAN]
    else:
        written = yield Continue(
            start(question),
            by=settings.by,
            n=settings.samples,
            temperature=settings.temperature,
            max_tokens=settings.max_tokens,
        )
        traces = [
            replace(to_trace(question, prefix, number, temperature=settings.temperature), model=settings.by)
            for number, prefix in enumerate(written)
        ]
    named = {t.id: f"{question.id}/{model}/{number}" for number, t in enumerate(traces)}
    traces = [replace(t, id=named[t.id]) for t in traces]
    scores = yield Score(written, by=model)
    marked, labels = judged(traces, scores, model, settings.aggregate)
    told = [replace(label, trace_id=named[label.trace_id], labeller=GOLD) for label in truths]
    return [*marked, *labels, *told]


def grade(problem: Problem, rows: Sequence[Any], task: BaseTask) -> list[Label]:
    """What the task says of each trace that no person judged."""
    told = {row.trace_id for row in rows if isinstance(row, Label) and row.labeller == GOLD}
    return accuracy.grade(problem, [row for row in rows if getattr(row, "id", None) not in told], task)


def outcomes(
    problem: Problem,
    traces: Sequence[Trace],
    labels: Sequence[Label],
    settings: Settings,
    model: str,
    task: BaseTask,
) -> PrmOutcome:
    """One reward model's outcome on one problem; rows of other models are passed over."""
    gold = {label.trace_id: label for label in labels if label.labeller == GOLD}
    mine = {label.trace_id: label for label in labels if label.labeller == model}
    scored = []
    for trace in traces:
        if trace.id not in mine:
            continue
        given = [score for score in mine[trace.id].step_scores or [] if score is not None]
        truth = gold.get(trace.id)
        verdicts = None if truth is None or truth.step_scores is None else known_verdicts(truth.step_scores)
        num = len(given) if verdicts is None else min(len(given), len(verdicts))
        scored.append(
            Scored(
                scores=tuple(given[:num]),
                score=trace.score,
                verdicts=None if verdicts is None else tuple(verdicts[:num]),
                right=truth.correct if truth else None,
                ends=tuple(trace.step_ends[:num]),
                tokens=len(trace.token_ids),
                ended=trace.finish in ("eos", "stop"),
            )
        )
    return PrmOutcome(problem.id, tuple(scored))


def known_verdicts(said: Sequence[float | None]) -> list[bool]:
    """A verdict a step. Of what people judged: false after the first error, where they stopped looking; none
    from a step on that they passed over before it.
    """
    found: list[bool] = []
    for each in said:
        if each is None and all(found):
            break
        found.append(each == 1)
    return found


def measure(found: Mapping[str, Sequence[PrmOutcome]], settings: Settings) -> dict[str, float]:
    """Metrics without the stage's name. Keys of `found`: the names of `of` in order, and `NAME@incumbent`."""
    return over_problems(found, lambda rows: columns(rows, settings), settings.resamples)


def columns(found: Sequence[PrmOutcome], settings: Settings) -> Measured:
    """The statistics of one reward model over problems."""
    steps, wholes = _points(found, whole=False), _points(found, whole=True)
    points = steps if any(t.verdicts is not None for o in found for t in o.traces) else wholes
    shown = points if points is steps else _weighed(points, settings.aggregate)
    stats: dict[str, Statistic] = {
        "auc": Ranking(points, np.zeros(len(points), dtype=np.int64)),
        "auc/same_step": Ranking(points, points.step),
        "auc/trace": Ranking(wholes, wholes.step),
        "brier": _brier(shown, len(found)),
    }
    if settings.within:
        stats["auc/same_problem"] = Ranking(points, len(found) * points.step + points.problem)
    if points is steps:
        stats["first_error_f1"] = _first_error(found, settings.threshold)
    scores = [score for o in found for t in o.traces for score in t.scores]
    plain = {
        "score/mean": float(points.score.mean()) if len(points) else math.nan,
        "score_sd": centred_sd(points),
        "length_correlation": length_correlation(points),
        "unusable_scores": sum(not math.isfinite(score) for score in scores) / max(len(scores), 1),
        "points": float(len(points)),
        "true_share": float(points.truth.mean()) if len(points) else math.nan,
        **_calibration(shown),
        **_roc(points),
    }
    return Measured(compared=stats, plain=plain)


def _points(found: Sequence[PrmOutcome], whole: bool) -> Points:
    """Every scored step with a verdict, or every ended trace with an outcome; no NaN scores."""
    rows: list[tuple[float, bool, int, int, int]] = []
    for problem, outcome in enumerate(found):
        for trace in outcome.traces:
            if not whole and trace.verdicts is not None:
                columns = zip(trace.scores, trace.verdicts, trace.ends, strict=True)
                rows += [(s, ok, k, end, problem) for k, (s, ok, end) in enumerate(columns)]
            elif whole and trace.right is not None and trace.score is not None and trace.ended:
                rows.append((trace.score, trace.right, 0, trace.tokens, problem))
    return Points.of([row for row in rows if math.isfinite(row[0])])


def _weighed(points: Points, how: Aggregate) -> Points:
    """Points with their scores as numbers from 0 to 1, by what the aggregation makes of step scores."""
    kind = kind_of(how)
    return replace(points, score=np.array([weight(score, kind) for score in points.score.tolist()]))


def _brier(points: Points, num_problems: int) -> Ratio:
    """Mean squared distance of the score, taken as a probability, from the truth."""
    errors = (np.clip(points.score, 0, 1) - points.truth) ** 2
    return Ratio(
        np.bincount(points.problem, errors, minlength=num_problems).astype(np.float64),
        np.bincount(points.problem, minlength=num_problems).astype(np.float64),
    )


def _calibration(points: Points) -> dict[str, float]:
    """ECE, and for each tenth of the scores their mean, the share true and the share of points."""
    clipped = np.clip(points.score, 0, 1)
    bins = np.minimum((clipped * NUM_BINS).astype(int), NUM_BINS - 1)
    table: dict[str, float] = {}
    error = 0.0
    for each in np.unique(bins):
        inside = bins == each
        share, score, true = (
            float(column.mean()) for column in (inside, clipped[inside], points.truth[inside])
        )
        error += share * abs(score - true)
        table |= {
            f"calibration/{each}/{n}": v for n, v in (("score", score), ("true", true), ("share", share))
        }
    return {"ece": error, **table} if len(points) else {}


def _roc(points: Points) -> dict[str, float]:
    """The ROC curve, read off at fixed shares of false points; none where all points are alike."""
    if len(np.unique(points.truth)) < 2:
        return {}
    from sklearn.metrics import roc_curve

    false, true, _ = roc_curve(points.truth, points.score)
    found = np.interp([at / 100 for at in ROC_AT], false, true)
    return {f"roc/{at:02}": float(share) for at, share in zip(ROC_AT, found, strict=True)}


def _first_error(found: Sequence[PrmOutcome], threshold: float | None) -> Harmonic:
    """Does the first step that scores low stand where the first wrong step stands?"""
    traces = [(n, t) for n, o in enumerate(found) for t in o.traces if t.verdicts is not None]
    scores = [t.scores for _, t in traces]
    labels = [next((k for k, ok in enumerate(t.verdicts or ()) if not ok), -1) for _, t in traces]
    if threshold is None:
        thresholds = crossed_thresholds(scores, labels, [n % 2 for n, _ in traces])
    else:
        thresholds = [threshold] * len(traces)
    counts = np.zeros((len(found), 4))
    for (n, _), steps, label, limit in zip(traces, scores, labels, thresholds, strict=True):
        column = 0 if label >= 0 else 2
        counts[n, column] += first_wrong(steps, limit) == label
        counts[n, column + 1] += 1
    return Harmonic(ratio(counts[:, :2].tolist()), ratio(counts[:, 2:].tolist()))


#: metric -> what a reader calls it; whether less of it is better, and whether it is a share
NAMES = {
    "auc": ("AUC over steps (0.5 is chance)", False, False),
    "auc/same_step": ("AUC among like steps", False, False),
    "auc/same_problem": ("AUC among like steps of one problem", False, False),
    "auc/trace": ("AUC over whole traces", False, False),
    "brier": ("Brier score", True, False),
    "ece": ("calibration error", True, False),
    "first_error_f1": ("finds the first wrong step (F1)", False, False),
    "score/mean": ("mean score", False, False),
    "score_sd": ("spread of scores among like steps", False, False),
    "length_correlation": ("correlation of score and length", False, False),
    "unusable_scores": ("scores that are no number", True, True),
}


def metrics(settings: Settings) -> list[Metric]:
    """The metrics that a gate may name before anything has run."""
    shown = ("auc", "auc/same_step", "auc/trace", "brier")
    return [
        Metric(
            name,
            says,
            less,
            share,
            headline=name in shown,
            short="AUC" if name == "auc" else "",
            column="PRM AUC" if name == "auc" else "",
            gain=f"gain/{name}" if name.startswith("auc") else "",
        )
        for name, (says, less, share) in NAMES.items()
        if settings.within or name != "auc/same_problem"
    ]


def panels(settings: Settings) -> list[Panel]:
    """Ranking by round, calibration, the ROC curve, and a table of the rest."""
    curves = {"auc": "all steps", "auc/same_step": "steps of one place", "auc/trace": "whole traces"}
    front = ("auc", "auc/same_step", "auc/trace", "ece")
    numbers = {name: NAMES[name][0] for name in (*front, *NAMES)}
    unseen = ("score/mean", "unusable_scores", *(() if settings.within else ("auc/same_problem",)))
    numbers = {name: says for name, says in numbers.items() if name not in unseen}
    bins, curve = {"calibration/": "tenth"}, {"roc/": "sound steps found"}
    return [
        Panel(
            TRUST, "AUC by round", "curve", curves, "0.5 is chance", share=False, zero=False, axis="AUC",
            picture="prm_auc",
        ),
        Panel(
            TRUST, "Calibration", "calibration", bins, "bigger points hold more steps",
            picture="prm_calibration",
        ),
        Panel(TRUST, "ROC", "roc", curve, "by threshold on a step's score", picture="prm_roc"),
        Panel(TRUST, "", "table", numbers, share=False, small=True),
    ]  # fmt: skip


def remarks(metrics: Mapping[str, float], settings: Settings) -> dict[str, str]:
    """May its scores be trusted? Ranking, calibration where it is used, the pull of length."""
    return {TRUST: in_words(metrics)} if "points" in metrics else {}


def health(metrics: Mapping[str, float], settings: Settings) -> Health:
    """Is this a reward model at all? `metrics` as `measure` gives them, for the first model of `of`.

    A limit set to its end (min_auc 0, min_sd 0, max_length_correlation 1) is off.
    """
    failures = []
    if metrics.get("unusable_scores", 0.0) > 0:
        failures.append(f"{metrics['unusable_scores']:.1%} of its scores are NaN or infinite")
    if settings.min_auc > 0:
        if "auc" not in metrics:
            what = "AUC is undefined: the scored steps are all true or all false"
            failures.append(f"{what}. Measure on more traces (samples, problems)")
        for name in ("auc", "auc/same_step"):
            if metrics.get(name, 1.0) < settings.min_auc:
                failures.append(f"{name} {metrics[name]:.3f} is below {settings.min_auc:g}")
    if metrics.get("score_sd", 0.0) < settings.min_sd:
        sd = metrics.get("score_sd", 0.0)
        failures.append(f"its scores are (nearly) constant: sd {sd:.4f} is below {settings.min_sd:g}")
    pull = metrics.get("length_correlation", 0.0)
    if abs(pull) > settings.max_length_correlation:
        failures.append(
            f"it scores length: correlation {pull:+.2f}, at most {settings.max_length_correlation:g}"
        )
    return Health(failures=failures)
