"""What a model can solve at all: pass@k for large k, against its base (Yue et al. 2025, arXiv:2504.13837).

    ceiling: {evaluate: ceiling, of: policy, split: dev, samples: 256, problems: 100}

A loop that only sharpens is ahead at k = 1 and behind at large k: the base had the answers already. For each
measured model the unbiased pass@k = 1 - C(n - c, k) / C(n, k) (Chen et al., arXiv:2107.03374, eq. 1) stands
beside the base's; `crossing` is the k from which on the base solves more, with a bootstrap interval over
problems; `lost` and `gained` count the problems that one of the two solves in n samples and the other does
not. `perplexity` is of the model's own samples under the base: near the base's own, they were within its
reach. Where the task has a step oracle, `valid@k` counts right answers by right steps: a guess is no chain.

Base and model get the same prompt and the same draws; the base's rows are made once and read again in later
rounds. Defaults are the paper's: temperature 0.6, top-p 0.95. Perplexities are at temperature 1.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pydantic import Field, field_validator, model_validator

from pipeline.asks import Asks, Continue, Logprob, start, to_trace
from pipeline.evaluate import GOLD, EvaluateSettings, Metric, Panel, Search
from pipeline.evaluate.intervals import Floats, Ratio, Statistic, pass_at, percentile95, resample, tidy
from pipeline.evaluate.outcomes import ratio
from pipeline.evaluate.paired import INCUMBENT, Measured, aligned, over_problems, suffix
from pipeline.rows import Group, Label, Problem, Question, Trace
from pipeline.settings import Cost, Length, PolicyName
from pipeline.tasks import BaseTask

BASE = "base"  #: the labeller whose `value` is a trace's log-probability under the base, in nats
BROADER = "Better, or only sharper?"  #: the report's question
AN_OCTAVE = 4  #: points of the curves between k and 2 k, where the crossing is looked for


class Settings(EvaluateSettings):
    """How many samples, and which base."""

    base: PolicyName = Field("policy@0", description="the model that all are held against; none: the seed")
    samples: int = Field(256, ge=1, description="samples a problem, of each model")
    k: tuple[int, ...] = Field((), description="the k of pass@k; none: 1, 2, 4, ... up to samples")
    temperature: float = Field(0.6, gt=0, le=10)
    top_p: float = Field(0.95, gt=0, le=1)
    top_k: int = Field(0, ge=0, description="0: off")
    max_tokens: int = Field(0, ge=0, description="tokens a trace may have; 0: as the task says")
    read: int = Field(8, ge=0, description="samples a problem that the base reads, for the perplexity")
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

    @field_validator("k")
    @classmethod
    def _each_positive(cls, k: tuple[int, ...]) -> tuple[int, ...]:
        if any(each < 1 for each in k):
            raise ValueError("each k is 1 or more")
        return tuple(sorted(set(k)))

    @model_validator(mode="after")
    def _samples_suffice(self) -> Settings:
        if self.k and self.k[-1] > self.samples:
            raise ValueError(
                f"k={self.k[-1]} is more than samples={self.samples}: draw more, or leave it out"
            )
        if self.search is not None or self.from_:
            raise ValueError("ceiling draws samples of its own: leave out search and from")
        return self

    @property
    def measured(self) -> list[str]:
        named = super().measured
        if named[0] == self.base:
            return named
        return [named[0], self.base, *(name for name in named[1:] if name != self.base)]

    @property
    def completion_limit(self) -> int:
        return self.max_tokens

    @functools.cached_property
    def ks(self) -> tuple[int, ...]:
        """The k in use."""
        return self.k or tuple(2**power for power in range(self.samples.bit_length()))

    @functools.cached_property
    def grid(self) -> tuple[int, ...]:
        """The k at which the curves are compared."""
        octaves = math.log2(self.samples)
        points = range(int(octaves * AN_OCTAVE) + 1)
        found = {round(2 ** (point / AN_OCTAVE)) for point in points}
        return tuple(sorted(found | {self.samples}))

    def answering(self, model: str, task: Length) -> Cost:
        tokens = min(task.typical_tokens, self.max_tokens or task.typical_tokens)
        read = {self.base: min(self.read, self.samples) * tokens} if model != self.base else {}
        return Cost({model: self.samples * tokens}, read, self.samples)


@dataclass(frozen=True, slots=True)
class Counts:
    """One model on one problem."""

    problem_id: str
    num: int
    right: int
    valid: int | None = None  #: right by right steps; None where no oracle says
    nats: float = 0.0  #: -log-probability under the base of what it read
    own_nats: float = 0.0  #: the same under the model that wrote it
    tokens: int = 0  #: of what it read
    base: int | None = None  #: how many samples of the base are right; None: this is the base


def answer(
    question: Question,
    settings: Settings,
    model: str,
    search: Search | None = None,
    given: Group | None = None,
) -> Asks[list[Any]]:
    """The samples as Traces, and for those that the base reads a Label with their log-probability."""
    drawn = yield Continue(
        start(question),
        by=model,
        n=settings.samples,
        temperature=settings.temperature,
        top_p=settings.top_p,
        top_k=settings.top_k,
        max_tokens=settings.max_tokens,
    )
    cut = settings.top_p < 1 or settings.top_k > 0
    rows: list[Any] = []
    for number, prefix in enumerate(drawn):
        trace = to_trace(question, prefix, number, temperature=settings.temperature, cut=cut)
        rows.append(replace(trace, id=f"{question.id}/{model}/{number}", model=model))
    shown = [(row, p) for row, p in zip(rows, drawn, strict=True) if p.logprobs][: settings.read]
    if shown:
        replies: list[Any] = [prefix.logprobs for _, prefix in shown]
        if model != settings.base:  # its own it knows
            replies = yield Logprob([prefix for _, prefix in shown], by=settings.base)
        rows += [
            Label(problem_id=question.id, trace_id=row.id, value=math.fsum(reply), labeller=BASE)
            for (row, _), reply in zip(shown, replies, strict=True)
        ]
    return rows


def grade(problem: Problem, rows: Sequence[Any], task: BaseTask) -> list[Label]:
    """Right or wrong, and the oracle's verdict on the steps of what is right."""
    labels = []
    for trace in (row for row in rows if isinstance(row, Trace)):
        right = problem.answer is not None and task.correct(trace.answer, problem)
        verdicts = task.step_oracle(problem, trace.steps) if right else None
        labels.append(
            Label(
                problem_id=problem.id,
                trace_id=trace.id,
                correct=right,
                step_scores=None if verdicts is None else [float(ok) for ok in verdicts],
                labeller=GOLD,
            )
        )
    return labels


def outcomes(
    problem: Problem,
    traces: Sequence[Trace],
    labels: Sequence[Label],
    settings: Settings,
    model: str,
    task: BaseTask,
) -> Counts:
    """The counts of one model on one problem."""
    mine = {trace.id: trace for trace in traces if trace.model == model}
    gold = [label for label in labels if label.labeller == GOLD and label.trace_id in mine]
    read = [label for label in labels if label.labeller == BASE and label.trace_id in mine]
    right = [label for label in gold if label.correct]
    oracle = task.step_oracle(problem, []) is not None
    return Counts(
        problem_id=problem.id,
        num=len(mine),
        right=len(right),
        valid=sum(all(label.step_scores or [0.0]) for label in right) if oracle else None,
        nats=-math.fsum(label.value or 0.0 for label in read),
        own_nats=-math.fsum(math.fsum(mine[label.trace_id].logprobs) for label in read),
        tokens=sum(len(mine[label.trace_id].token_ids) for label in read),
    )


def measure(found: Mapping[str, Sequence[Counts]], settings: Settings) -> dict[str, float]:
    """pass@k of every model with intervals and gains over the base, where the curves cross, what was lost."""
    base = {outcome.problem_id: outcome for outcome in found[settings.base]}
    beside = {
        name: rows if name == settings.base else [_beside(row, base) for row in rows]
        for name, rows in found.items()
    }
    table = over_problems(beside, lambda rows: columns(rows, settings), settings.resamples)
    ids = aligned({name: [row.problem_id for row in rows] for name, rows in found.items()})
    weights = resample(len(ids), settings.resamples)
    curves = {name: _curve(rows, ids, settings.grid) for name, rows in found.items()}
    main = next(iter(found))
    for name in found:
        if name != settings.base and not name.endswith(INCUMBENT):
            where = crossed(settings.grid, curves[name], curves[settings.base], weights)
            end = suffix(name, main)
            table |= {
                f"crossing{end}/{tail}" if tail else f"crossing{end}": tidy(value)
                for tail, value in where.items()
                if math.isfinite(value)
            }
    return table


def _beside(row: Counts, base: Mapping[str, Counts]) -> Counts:
    return replace(row, base=base[row.problem_id].right) if row.problem_id in base else row


def _curve(rows: Sequence[Counts], ids: Sequence[str], ks: Sequence[int]) -> Floats:
    """(problems, ks): pass@k of each problem; NaN where it has fewer samples."""
    by_id = {row.problem_id: row for row in rows}
    known: dict[tuple[int, int], list[float]] = {}
    for row in by_id.values():
        if (row.num, row.right) not in known:
            known[row.num, row.right] = [
                pass_at(row.num, row.right, k) if k <= row.num else math.nan for k in ks
            ]
    return np.array([known[by_id[i].num, by_id[i].right] for i in ids], dtype=np.float64)


def crossed(ks: Sequence[int], model: Floats, base: Floats, weights: Floats) -> dict[str, float]:
    """Where the curves cross, its interval, and the `share` of the resamples in which they do.

    model, base: (problems, ks). The crossing is the k from which on the base is ahead, between two k by
    the logarithm; a resample in which it stays behind up to the last k counts as beyond it, so an upper end
    may be open (it is then left out). Nothing where the two curves are one.
    """
    gap = model - base
    if not np.any(np.abs(gap) > 1e-12) or np.isnan(gap).any():
        return {}
    point = first_crossing(ks, gap.mean(axis=0)[None])[0]
    spread = first_crossing(ks, np.einsum("rp,pk->rk", weights, gap) / gap.shape[0])
    low, high = np.quantile(spread, [0.025, 0.975], method="nearest")
    return {
        "": float(point),
        "low": float(low),
        "high": float(high),
        "share": float(np.isfinite(spread).mean()),
    }


def first_crossing(ks: Sequence[int], gap: Floats) -> Floats:
    """For each row of gaps (model less base at each k) the k where it first falls below 0; infinity: nowhere.
    Where both curves end at the same height the base is not ahead."""
    logs = np.log2(np.array(ks, dtype=np.float64))
    found = np.full(len(gap), np.inf)
    for row, values in enumerate(gap):
        below = np.flatnonzero(values < -1e-12)
        if not len(below):
            continue
        at = int(below[0])
        if at == 0:
            found[row] = ks[0]
            continue
        ahead, behind = max(values[at - 1], 0.0), values[at]
        part = ahead / (ahead - behind)
        found[row] = 2 ** (logs[at - 1] + part * (logs[at] - logs[at - 1]))
    return found


@dataclass(frozen=True, slots=True)
class Exponential:
    """e to a ratio: a perplexity from nats over tokens."""

    of: Ratio

    @property
    def value(self) -> float:
        return math.exp(self.of.value) if math.isfinite(self.of.value) else math.nan

    def spread(self, weights: Floats) -> Floats:
        return np.exp(self.of.spread(weights))

    def interval(self, weights: Floats) -> tuple[float, float]:
        return percentile95(self.spread(weights))


def columns(found: Sequence[Counts], settings: Settings) -> Measured:
    """The statistics of one model over problems."""
    stats: dict[str, Statistic] = {}
    for k in settings.ks:
        stats[f"pass@{k}"] = ratio((pass_at(o.num, o.right, k), 1) if o.num >= k else (0, 0) for o in found)
    if any(o.valid is not None for o in found):
        for k in settings.ks:
            stats[f"valid@{k}"] = ratio(
                (pass_at(o.num, o.valid or 0, k), 1) if o.num >= k else (0, 0) for o in found
            )
    stats["solved"] = ratio(((o.right > 0, 1) for o in found), share=True)
    against = [o for o in found if o.base is not None]
    if against:
        rows = [(o.right > 0, (o.base or 0) > 0, o.base is not None) for o in found]
        stats["lost"] = ratio(((base and not own, known) for own, base, known in rows), share=True)
        stats["gained"] = ratio(((own and not base, known) for own, base, known in rows), share=True)
    if any(o.tokens for o in found):
        stats["perplexity"] = Exponential(ratio((o.nats, o.tokens) for o in found))
        stats["perplexity/own"] = Exponential(ratio((o.own_nats, o.tokens) for o in found))
    return Measured(stats)


def metrics(settings: Settings) -> list[Metric]:
    """The metrics that a gate may name before anything has run."""
    last = settings.ks[-1]
    found = [
        Metric(
            f"pass@{k}",
            f"any of {k} is right",
            short=f"pass@{k}",
            gain=f"gain/pass@{k}",
            headline=k in (1, last),
        )
        for k in settings.ks
    ]
    found += [Metric(f"valid@{k}", f"any of {k} is right by right steps") for k in settings.ks]
    found += [
        Metric("crossing", "k at which the base solves more", share=False, headline=True, absent=math.inf),
        Metric("solved", f"solved by any of {settings.samples}"),
        Metric("lost", "solved by the base and no more", less=True, headline=True, short="lost"),
        Metric("gained", "not solved by the base", headline=True, short="gained"),
    ]
    if settings.read:
        found.append(Metric("perplexity", "perplexity under the base", share=False, less=True))
        found.append(Metric("perplexity/own", "perplexity under itself", share=False))
    return found


def panels(settings: Settings) -> list[Panel]:
    """pass@k by round, the base being round 0; where the curves cross; lost and gained; perplexity."""
    over = {f"pass@{k}": str(k) for k in settings.ks}
    note = "the base is the line of round 0, where the policy is its seed"
    found = [
        Panel(BROADER, "One of k samples is right, far out", "over", over, note, axis="share of problems"),
        Panel(
            BROADER, "From how many samples on the base solves more", "curve", {"crossing": "k"}, share=False
        ),
        Panel(
            BROADER,
            "Problems lost and gained against the base",
            "curve",
            {"lost": "solved by the base alone", "gained": "solved by the policy alone"},
            f"in {settings.samples} samples each",
            axis="share of problems",
        ),
    ]
    if settings.read:
        says = {"perplexity": "under the base", "perplexity/own": "under itself"}
        found.append(
            Panel(BROADER, "Perplexity of its own samples", "curve", says, share=False, zero=False, axis="")
        )
    return found


def remarks(metrics: Mapping[str, float], settings: Settings) -> dict[str, str]:
    """Is it better, or only sharper?"""
    lost, gained, at = (metrics.get(name) for name in ("lost", "gained", "crossing"))
    end = suffix(settings.base, settings.measured[0])
    moved = {
        k: metrics[f"pass@{k}"] - metrics[f"pass@{k}{end}"]
        for k in settings.ks
        if f"pass@{k}" in metrics and f"pass@{k}{end}" in metrics
    }
    if lost is None or gained is None or not moved:
        return {}
    first, last = min(moved), max(moved)
    said = f"Against {settings.base}, pass@{first} is {100 * moved[first]:+.1f} points, "
    said += f"pass@{last} {100 * moved[last]:+.1f} points."
    if at is not None and moved[last] >= 0:
        said += f" The base is ahead for a while, from k = {at:.0f} on, and no more at {last}."
    elif at is not None and at > 1:
        low, high = metrics.get("crossing/low"), metrics.get("crossing/high")
        ends = f"{low:.0f} to {high:.0f}" if low and high else f"{low:.0f} or more" if low else "open"
        said += f" From {at:.0f} samples on (95 %: {ends}) the base solves more: sharper there, not broader."
    elif at is not None:
        said += " The base is ahead even at one sample."
    elif any(moved.values()):
        said += f" Up to {last} samples the base does not catch up."
    said += f" {100 * lost:.1f} % of the problems were solved by the base alone, "
    said += f"{100 * gained:.1f} % by the policy alone."
    return {BROADER: said}
