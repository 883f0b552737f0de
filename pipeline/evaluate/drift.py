"""Does a loop go astray? Figures of one round that a gate may name, on the model's own samples.

    drift: {evaluate: drift, of: policy, split: dev, samples: 8, value: prm}
    gate:  [{metric: drift/kl, at_most: 0.5}, {metric: drift/gap/top, at_most: 0.3}]

kl (nats a token from the base), entropy (nats a token: the mean of -log p of what was drawn), length/mean,
truncated; distinct (different texts a problem), distinct/right (different right ones), entropy/answers (of a
problem's answers, nats), agreement (share of the most frequent answer: where it rises and accuracy falls,
votes teach the model its own mistakes); score (the verifier's mean word, from 0 to 1: where it rises and
accuracy falls, the reward is over-optimised, arXiv:2307.04964, section 4); gap (how much more often the
verifier says right than gold does) and gap/top (the same among the tenth of the samples that it scores best:
a policy that games its judge shows there first, Gao et al. 2022, arXiv:2210.10760); false_positive (right
answers, so kept by answer equality, whose trace holds a wrong step by the task's oracle); legal (samples
whose every step the task's rules allow, right or not: where a judge that looks at ends alone is gamed, it
falls); preference (the
verifier's choice between two right traces, the model's own and another version's: 0.5 is fair; with two
versions in `of`); unsolved, and never_solved (by none of the measured versions, in any sample).

Samples are drawn at temperature 1, whole, because only there kl and entropy mean what they say. Limits are
the gate's; `warn` says a sentence without refusing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import Field, model_validator

from pipeline.asks import All, Asks, Continue, Logprob, Score, start, to_trace
from pipeline.evaluate import GOLD, EvaluateSettings, Health, Metric, Panel, Search
from pipeline.evaluate.accuracy import grade as grade  # the task's word on each sample
from pipeline.evaluate.intervals import Statistic, tidy
from pipeline.evaluate.outcomes import ratio
from pipeline.evaluate.paired import INCUMBENT, Measured, over_problems
from pipeline.rows import Group, Label, Problem, Question, Trace
from pipeline.settings import Cost, Length, PolicyName, RewardModelName
from pipeline.tasks import BaseTask
from pipeline.vote import keys
from pipeline.vote.aggregate import Aggregate, aggregate, kind_of, weight

BASE = "base"  #: the labeller whose `value` is a trace's log-probability under the base, in nats
ASTRAY = "Does it go astray?"  #: the report's question
TOP = 0.1  #: the share of samples with the best scores


class Settings(EvaluateSettings):
    """What is drawn, and what is said of it."""

    base: PolicyName = Field("policy@0", description="the model to measure the distance to; none: the seed")
    samples: int = Field(8, ge=2, description="samples a problem, at temperature 1")
    max_tokens: int = Field(0, ge=0, description="tokens a trace may have; 0: as the task says")
    value: RewardModelName | None = Field(None, description="the verifier that is held against gold")
    aggregate: Aggregate = Field("last", description="step scores -> one score a trace")
    threshold: float = Field(0.5, gt=0, lt=1, description="from this score on the verifier says: right")
    warn: dict[str, float] = Field(
        default_factory=dict, description="metric -> a value that is too much: said, and never refused"
    )
    resamples: int = Field(2000, ge=100, description="of the paired bootstrap")

    @model_validator(mode="before")
    @classmethod
    def _own_seed(cls, given: Any) -> Any:
        """Without a base: the first model's seed."""
        if isinstance(given, dict) and given.get("base") is None:
            of = given.get("of", "policy")
            first = (of[0] if isinstance(of, (list, tuple)) and of else of) or "policy"
            return {**given, "base": f"{str(first).partition('@')[0]}@0"}
        return given

    @model_validator(mode="after")
    def _known(self) -> Settings:
        if self.search is not None or self.from_:
            raise ValueError("drift draws samples of its own: leave out search and from")
        known = [metric.name for metric in metrics(self)]
        if unknown := sorted(self.warn.keys() - set(known)):
            raise ValueError(f"warn: no metric {', '.join(unknown)}: one of {', '.join(known)}")
        return self

    @property
    def completion_limit(self) -> int:
        return self.max_tokens

    def answering(self, model: str, task: Length) -> Cost:
        tokens = self.samples * min(task.typical_tokens, self.max_tokens or task.typical_tokens)
        readers = [name for name in (self.base, self.value) if name and name != model]
        return Cost({model: tokens}, dict.fromkeys(readers, tokens), self.samples)


@dataclass(frozen=True, slots=True)
class Drawn:
    """One sample."""

    right: bool
    tokens: int
    nats: float  #: -log p of its tokens under the model that drew it
    ratio: float | None  #: log p - log p of the base
    truncated: bool
    text: str
    answer: str | None  #: answers that mean the same under one spelling
    score: float | None  #: the verifier's, from 0 to 1
    wrong_step: bool | None  #: of a right one; None where no oracle says
    legal: bool | None = None  #: does every step keep to the task's rules? None where it has none


@dataclass(frozen=True, slots=True)
class Astray:
    """One model on one problem."""

    problem_id: str
    known: bool  #: does anybody know what is right?
    drawn: tuple[Drawn, ...]
    least: float = math.inf  #: from this score on a sample is among the best of all
    others: tuple[float, ...] = ()  #: scores of right samples of the version that it is compared with
    ever: bool | None = None  #: did any version solve it?


def answer(
    question: Question,
    settings: Settings,
    model: str,
    search: Search | None = None,
    given: Group | None = None,
) -> Asks[list[Any]]:
    """Samples as Traces; Labels with the verifier's step scores and with the log-probability of the base."""
    written = yield Continue(start(question), by=model, n=settings.samples, max_tokens=settings.max_tokens)
    traces = [
        replace(to_trace(question, prefix, n), id=f"{question.id}/{model}/{n}", model=model)
        for n, prefix in enumerate(written)
    ]
    whole = [(trace, prefix) for trace, prefix in zip(traces, written, strict=True) if prefix.logprobs]
    asks: list[Any] = []
    if settings.base != model and whole:
        asks.append(Logprob([prefix for _, prefix in whole], by=settings.base))
    if settings.value:
        asks.append(Score(written, by=settings.value))
    replies = list((yield All(*asks))) if asks else []
    labels: list[Label] = []
    if settings.base != model and whole:
        labels += [
            Label(problem_id=question.id, trace_id=trace.id, value=math.fsum(reply), labeller=BASE)
            for (trace, _), reply in zip(whole, replies.pop(0), strict=True)
        ]
    if settings.value:
        for n, (trace, steps) in enumerate(zip(traces, replies.pop(0), strict=True)):
            known = list(steps)
            traces[n] = replace(trace, score=aggregate(known, settings.aggregate) if known else None)
            padded = [*known, *[None] * (len(trace.steps) - len(known))]
            labels.append(
                Label(problem_id=question.id, trace_id=trace.id, step_scores=padded, labeller=settings.value)
            )
    return [*traces, *labels]


def outcomes(
    problem: Problem,
    traces: Sequence[Trace],
    labels: Sequence[Label],
    settings: Settings,
    model: str,
    task: BaseTask,
) -> Astray:
    """One model's samples of one problem."""
    mine = [trace for trace in traces if trace.model == model]
    gold = {label.trace_id: label for label in labels if label.labeller == GOLD}
    base = {label.trace_id: label.value for label in labels if label.labeller == BASE}
    spelled = keys([trace.answer for trace in mine], task.same)
    found = []
    for trace, key in zip(mine, spelled, strict=True):
        right = bool(gold[trace.id].correct) if trace.id in gold else False
        verdicts = gold[trace.id].step_scores if trace.id in gold else None
        nats, theirs = -math.fsum(trace.logprobs), base.get(trace.id)
        legal = task.legal(problem.question, trace.steps)
        score = None if trace.score is None else weight(trace.score, kind_of(settings.aggregate))
        found.append(
            Drawn(
                right=right,
                tokens=len(trace.token_ids),
                nats=nats,
                ratio=(0.0 if model == settings.base else None) if theirs is None else -nats - theirs,
                truncated=trace.finish in ("length", "budget"),
                text=trace.text,
                answer=key,
                score=score if score is not None and math.isfinite(score) else None,
                wrong_step=not all(verdicts) if right and verdicts else None,
                legal=None if legal is None else bool(legal) and all(legal),
            )
        )
    return Astray(problem.id, problem.answer is not None, tuple(found))


def measure(found: Mapping[str, Sequence[Astray]], settings: Settings) -> dict[str, float]:
    """Metrics without the stage's name, with intervals and paired changes over problems."""
    names = [name for name in found if not name.endswith(INCUMBENT)]
    other = names[1] if len(names) > 1 else None
    ready = {
        name: list(_ready(rows, found, other if name != other else None)) for name, rows in found.items()
    }
    return over_problems(ready, lambda rows: columns(rows, settings), settings.resamples)


def _ready(
    rows: Sequence[Astray], found: Mapping[str, Sequence[Astray]], other: str | None
) -> Iterator[Astray]:
    """Outcomes with what has to be known of all problems and all models."""
    scores = sorted((d.score for row in rows for d in row.drawn if d.score is not None), reverse=True)
    least = scores[max(0, math.ceil(TOP * len(scores)) - 1)] if scores else math.inf
    ever = {row.problem_id for each in found.values() for row in each if any(d.right for d in row.drawn)}
    theirs = {
        row.problem_id: tuple(d.score for d in row.drawn if d.right and d.score is not None)
        for row in (found[other] if other else ())
    }
    for row in rows:
        solved = row.problem_id in ever if row.known else None
        yield replace(row, least=least, others=theirs.get(row.problem_id, ()), ever=solved)


def columns(found: Sequence[Astray], settings: Settings) -> Measured:
    """The statistics of one model over problems."""
    stats: dict[str, Statistic] = {}
    drawn = [(row, d) for row in found for d in row.drawn]
    stats["entropy"] = ratio((sum(d.nats for d in r.drawn), sum(d.tokens for d in r.drawn)) for r in found)
    if any(d.ratio is not None for _, d in drawn):
        stats["kl"] = ratio(
            (
                sum(d.ratio for d in r.drawn if d.ratio is not None),
                sum(d.tokens for d in r.drawn if d.ratio is not None),
            )
            for r in found
        )
    stats["length/mean"] = ratio((sum(d.tokens for d in r.drawn), len(r.drawn)) for r in found)
    stats["truncated"] = ratio((sum(d.truncated for d in r.drawn), len(r.drawn)) for r in found)
    stats["distinct"] = ratio((len({d.text for d in r.drawn}), len(r.drawn)) for r in found)
    stats["entropy/answers"] = ratio((answer_entropy(r.drawn), bool(r.drawn)) for r in found)
    stats["agreement"] = ratio((_agreement(r.drawn), bool(r.drawn)) for r in found)
    if any(d.legal is not None for _, d in drawn):
        stats["legal"] = ratio(
            (sum(bool(d.legal) for d in r.drawn), sum(d.legal is not None for d in r.drawn)) for r in found
        )
    if any(row.known for row in found):
        stats |= _against_gold(found, settings)
    return Measured(stats)


def _against_gold(found: Sequence[Astray], settings: Settings) -> dict[str, Statistic]:
    """What needs to know which answers are right."""
    stats: dict[str, Statistic] = {
        "accuracy": ratio((sum(d.right for d in r.drawn), r.known * len(r.drawn)) for r in found),
        "distinct/right": ratio(
            (len({d.text for d in r.drawn if d.right}), sum(d.right for d in r.drawn)) for r in found
        ),
        "unsolved": ratio(((r.known and not any(d.right for d in r.drawn)), r.known) for r in found),
        "never_solved": ratio(((r.ever is False), r.ever is not None) for r in found),
    }
    if any(d.wrong_step is not None for r in found for d in r.drawn):
        stats["false_positive"] = ratio(
            (sum(bool(d.wrong_step) for d in r.drawn), sum(d.wrong_step is not None for d in r.drawn))
            for r in found
        )
    if any(d.score is not None for r in found for d in r.drawn):
        stats["score"] = ratio(_scores(r) for r in found)
        for name, top in (("gap", False), ("gap/top", True)):
            stats[name] = ratio(_gap(r, settings.threshold, top) for r in found)
    if any(r.others for r in found):
        stats["preference"] = ratio(_preference(r) for r in found)
    return stats


def answer_entropy(drawn: Sequence[Drawn]) -> float:
    """Of the answers of one problem, in nats; no answer is one answer more."""
    counts = Counter(d.answer for d in drawn)
    return -math.fsum(n / len(drawn) * math.log(n / len(drawn)) for n in counts.values()) + 0.0


def _agreement(drawn: Sequence[Drawn]) -> float:
    counts = Counter(d.answer for d in drawn if d.answer is not None)
    return max(counts.values(), default=0) / max(len(drawn), 1)


def _scores(row: Astray) -> tuple[float, float]:
    scores = [d.score for d in row.drawn if d.score is not None]
    return math.fsum(scores), len(scores)


def _gap(row: Astray, threshold: float, top: bool) -> tuple[float, float]:
    """(verifier says right, less is right; how many) of a problem's samples, or of those among the best."""
    scored = [(d.score, d.right) for d in row.drawn if d.score is not None]
    kept = [(score, right) for score, right in scored if not top or score >= row.least] if row.known else []
    return sum((score >= threshold) - right for score, right in kept), len(kept)


def _preference(row: Astray) -> tuple[float, float]:
    """(the share of pairs of right samples in which its own scores higher, ties half; is there a pair?)."""
    own = [d.score for d in row.drawn if d.right and d.score is not None]
    pairs = [(mine > theirs) + 0.5 * (mine == theirs) for mine in own for theirs in row.others]
    return (sum(pairs) / len(pairs), 1) if pairs else (0, 0)


#: metric -> what a reader calls it; less is better; a share; its short name among headlines
NAMES = {
    "kl": ("nats a token from the base", True, False, "kl"),
    "entropy": ("entropy a token, nats", False, False, ""),
    "length/mean": ("tokens a sample", True, False, ""),
    "truncated": ("cut by the limit", True, True, ""),
    "distinct": ("different texts among the samples", False, True, "distinct"),
    "distinct/right": ("different texts among the right ones", False, True, ""),
    "entropy/answers": ("entropy of a problem's answers, nats", False, False, ""),
    "agreement": ("samples that agree with the most frequent answer", False, True, ""),
    "accuracy": ("samples that are right", False, True, ""),
    "false_positive": ("right by a wrong step", True, True, "false positive"),
    "legal": ("samples that keep to the task's rules", False, True, ""),
    "score": ("what the verifier says of a sample", False, True, ""),
    "gap": ("verifier says right less gold does", True, True, ""),
    "gap/top": ("the same among its best tenth", True, True, "gap at the top"),
    "preference": ("the verifier prefers its own right traces", True, True, ""),
    "unsolved": ("problems that no sample solves", True, True, ""),
    "never_solved": ("problems that no measured version solves", True, True, ""),
}


ABSENT = {"false_positive": 0.0}  #: where nothing is right, nothing is right by a wrong step


def metrics(settings: Settings) -> list[Metric]:
    """The metrics that a gate may name before anything has run."""
    unasked = () if settings.value else ("score", "gap", "gap/top", "preference")
    several = isinstance(settings.of, list) and len(settings.of) > 1
    unasked = unasked if several else (*unasked, "preference")
    return [
        Metric(name, says, less, share, bool(short), short=short, absent=ABSENT.get(name))
        for name, (says, less, share, short) in NAMES.items()
        if name not in unasked
    ]


#: the figures: title -> metrics
FIGURES = {
    "Distance from the base, and entropy, nats a token": ("kl", "entropy"),
    "Do its samples differ?": ("distinct", "distinct/right", "agreement", "accuracy"),
    "Is its judge right about it?": ("score", "gap", "gap/top", "preference"),
    "Right for the wrong reason, and out of reach": ("false_positive", "legal", "unsolved", "never_solved"),
}
SMALL = ("length/mean", "truncated", "entropy/answers")


def panels(settings: Settings) -> list[Panel]:
    """What is watched, by round."""
    known = {each.name: each for each in metrics(settings)}
    found = []
    for title, names in FIGURES.items():
        shown = {name: known[name].says for name in names if name in known}
        if shown:
            share = all(known[name].share for name in shown)
            found.append(Panel(ASTRAY, title, "curve", shown, share=share))
    return found + [
        Panel(
            ASTRAY, known[name].says, "curve", {name: known[name].says}, share=known[name].share, small=True
        )
        for name in SMALL
    ]


def said(name: str, value: float) -> str:
    """A metric and its value as a reader sees them."""
    says, _, share, _ = NAMES[name]
    return f"{says}: {100 * value:.1f} %" if share else f"{says}: {value:.3g}"


def tripped(metrics: Mapping[str, float], settings: Settings) -> list[str]:
    """A sentence for each value above its `warn`."""
    return [
        f"{said(name, metrics[name])}, above {tidy(limit):g}"
        for name, limit in settings.warn.items()
        if name in metrics and metrics[name] > limit
    ]


def remarks(metrics: Mapping[str, float], settings: Settings) -> dict[str, str]:
    """What is above its limit, what rose surely, and what fell."""
    told = tripped(metrics, settings)
    moved = [
        f"{NAMES[name][0]} {'rose' if change > 0 else 'fell'} by {abs(change):.3g}"
        for name in NAMES
        if (change := metrics.get(f"{name}/change")) is not None
        and (metrics.get(f"{name}/change/low", 0.0) > 0 or metrics.get(f"{name}/change/high", 0.0) < 0)
    ]
    votes, right = (metrics.get(f"{name}/change", 0.0) for name in ("agreement", "accuracy"))
    if votes > 0 > right and metrics.get("accuracy/change/high", 0.0) < 0:
        told.append("samples agree more and are right less often: it learns its own mistakes")
    text = f"Beware: {'; '.join(told)}. " if told else ""
    text += f"Against the model before, surely: {'; '.join(moved)}." if moved else "Nothing moved surely."
    return {ASTRAY: text}


def health(metrics: Mapping[str, float], settings: Settings) -> Health:
    """What is above its `warn`; nothing is refused here, that is the gate's."""
    return Health(warnings=tripped(metrics, settings))
