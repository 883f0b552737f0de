"""What one model did on one problem, compact; and the columns over problems that metrics are made of."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.evaluate import GOLD
from pipeline.evaluate._judged import best_pairs
from pipeline.evaluate.intervals import Ratio, Statistic, majority_at, pass_at
from pipeline.evaluate.paired import Measured
from pipeline.rows import Label, Problem, Trace
from pipeline.tasks import BaseTask
from pipeline.vote import Candidate, Kind, Rule, keys
from pipeline.vote.aggregate import aggregate, kind_of

MOST_BINS = 30  #: more difficulty values than this are no bins, and are not reported
RESERVED = ("low", "high", "change")  #: a bin of such a name would hide an interval


def gold_label(problem: Problem, trace: Trace, task: BaseTask, chain: bool = True) -> Label:
    """What the task says of a trace: right or wrong (None where nobody knows), and with `chain` the oracle's
    verdict on each step, 1 or 0."""
    verdicts = task.step_oracle(problem, trace.steps) if chain else None
    return Label(
        problem_id=problem.id,
        trace_id=trace.id,
        correct=None if problem.answer is None else task.correct(trace.answer, problem),
        step_scores=None if verdicts is None else [float(ok) for ok in verdicts],
        labeller=GOLD,
    )


@dataclass(frozen=True, slots=True)
class Outcome:
    """One model on one problem. `main` is the greedy answer, or the search's; None where nobody knows what is
    right.
    """

    problem_id: str
    difficulty: str
    source: str
    searched: bool
    main: bool | None
    right: tuple[bool, ...]  #: of the samples (a search: of all its traces)
    answers: tuple[str | None, ...]  #: of the samples; those that mean the same stand under one spelling
    scores: tuple[float | None, ...]
    votes: tuple[tuple[str, bool], ...]
    lengths: tuple[int, ...]  #: tokens of every trace, the greedy one first
    truncated: int = 0  #: traces that the limit cut before an answer
    missing_eos: int = 0  #: traces that had their answer and ran into the limit
    no_answer: int = 0
    oracle: bool = False  #: the task has a step oracle
    verified: int = 0  #: right traces with the step oracle's verdict
    trace_error: int = 0  #: of these, with a wrong step
    valid: bool | None = None  #: is `main` right by right steps? None where no oracle says
    valid_samples: tuple[bool, ...] = ()  #: the same of the samples
    #: a mark for each trace: equal for equal texts, "" for an empty one, unique for a right one
    marks: tuple[str, ...] = ()
    sample_texts: int = 0  #: different texts among the samples
    log_ratio: float | None = None  #: nats a token, mean over traces
    held: tuple[tuple[str, float], ...] = ()  #: what its search kept in memory, by metric


@dataclass(frozen=True)
class Ballots:
    """The votes of an evaluation. kind: what the traces' own scores are. steps: the reward model's step
    scores by trace, for a vote that makes its own score of them."""

    rules: Sequence[Rule] = ()
    kind: Kind = "probability"
    steps: Mapping[str, Sequence[float | None]] = field(default_factory=dict)

    def candidate(self, rule: Rule, trace: Trace, key: str | None) -> Candidate:
        """A trace as one rule sees it."""
        score, kind = trace.score, self.kind
        if how := rule.settings.step_rule:
            known = [each for each in self.steps.get(trace.id, ()) if each is not None]
            score, kind = aggregate(known, how) if known else None, kind_of(how)
        logprob = math.fsum(trace.logprobs) if trace.logprobs else None
        return Candidate(trace.answer, score, logprob, key or "", kind, len(trace.logprobs))


def one_outcome(
    problem: Problem,
    traces: Sequence[Trace],
    gold: Mapping[str, Label],
    ratios: Mapping[str, float | None],
    votes: Ballots,
    searched: bool,
    task: BaseTask,
) -> Outcome:
    """An outcome from one model's traces. A problem without traces counts as not solved."""
    right = {trace.id: bool(gold[trace.id].correct) for trace in traces if trace.id in gold}
    known = problem.answer is not None
    samples = [t for t in traces if searched or t.temperature > 0]
    spelled = keys([t.answer for t in samples], task.same) if known else []
    head = _main(traces, searched)
    limit = [t for t in traces if t.finish in ("length", "budget")]
    oracle = [gold[t.id].step_scores for t in traces if right.get(t.id) and gold[t.id].step_scores]
    sound = {t.id for t in traces if right.get(t.id) and all(gold[t.id].step_scores or [0.0])}
    judged = known and task.step_oracle(problem, []) is not None
    shares = _log_ratios(samples or traces, ratios)
    marks = tuple(t.id if right.get(t.id) else _mark(t.text) for t in traces)
    return Outcome(
        problem_id=problem.id,
        difficulty=problem.difficulty,
        source=problem.source,
        searched=searched,
        main=None if not known else head is not None and right.get(head.id, False),
        right=tuple(right.get(t.id, False) for t in samples) if known else (),
        answers=tuple(spelled),
        scores=tuple(t.score for t in samples) if known else (),
        votes=tuple((rule.label, _voted(votes, rule, samples, spelled, right)) for rule in votes.rules)
        if known
        else (),
        lengths=tuple(len(t.token_ids) for t in traces),
        truncated=sum(t.answer is None for t in limit),
        missing_eos=sum(t.answer is not None for t in limit),
        no_answer=sum(t.answer is None for t in traces),
        oracle=any(gold[t.id].step_scores for t in traces if t.id in gold),
        verified=len(oracle),
        trace_error=sum(any(score == 0 for score in steps or []) for steps in oracle),
        valid=(head is not None and head.id in sound) if judged else None,
        valid_samples=tuple(t.id in sound for t in samples) if judged else (),
        marks=marks,
        sample_texts=len({_mark(t.text) for t in samples}),
        log_ratio=sum(shares) / len(shares) if shares else None,
    )


def _main(traces: Sequence[Trace], searched: bool) -> Trace | None:
    """The greedy trace; of a search the trace it chose, else its best scored one, else its first."""
    if not searched:
        return next((t for t in traces if t.temperature == 0), None)
    chosen = next((t for t in traces if t.chosen), None)
    scored = [t for t in traces if t.score is not None]
    best = max(scored, key=lambda t: t.score or 0.0, default=None)
    return chosen or best or next(iter(traces), None)


def _mark(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).hexdigest() if text.strip() else ""


def _log_ratios(traces: Iterable[Trace], ratios: Mapping[str, float | None]) -> list[float]:
    found = ((t, ratios.get(t.id)) for t in traces)
    return [ratio / len(t.token_ids) for t, ratio in found if ratio is not None and t.token_ids]


def _voted(
    votes: Ballots,
    rule: Rule,
    samples: Sequence[Trace],
    spelled: Sequence[str | None],
    right: Mapping[str, bool],
) -> bool:
    """Is the answer that a rule of vote/ chooses among the samples right?"""
    pairs = zip(samples, spelled, strict=True)
    winner = rule([votes.candidate(rule, trace, key) for trace, key in pairs])
    verdicts = {t.answer: right.get(t.id, False) for t in samples}
    return winner is not None and verdicts.get(winner, False)


def columns(
    found: Sequence[Outcome],
    ks: Sequence[int],
    votes: Sequence[str],
    chains: bool = False,
    best: Sequence[int] = (),
) -> Measured:
    """The statistics of one model over problems; all models' problems stand in the same order. chains: those
    of right answers by right steps too. best: the k of the best of k by the samples' scores."""
    head = "accuracy/search" if any(o.searched for o in found) else "accuracy/greedy"
    measured = Measured(shown=_bins(found, head))
    stats, plain = measured.compared, measured.plain
    stats[head] = ratio((_main_right(o) for o in found), share=True)
    if chains and any(o.valid is not None for o in found):
        stats["valid"] = ratio(((o.valid or False, o.valid is not None) for o in found), share=True)
        if any(o.valid_samples for o in found):
            stats["valid/sampled"] = ratio(_mean(o.valid_samples) for o in found)
    if any(o.right for o in found):
        stats["accuracy/sampled"] = ratio(_mean(o.right) for o in found)
        for k in ks:
            stats[f"pass@{k}"] = ratio(_pass(o, k) for o in found)
            stats[f"maj@{k}"] = ratio(_majority(o, k) for o in found)
        stats |= {name: ratio(pairs) for name, pairs in best_pairs(found, best)}
        for rule in votes:
            stats[f"accuracy/{rule}"] = ratio(
                ((dict(o.votes).get(rule, False), bool(o.votes)) for o in found), share=True
            )
        shares = ratio((o.sample_texts / max(len(o.right), 1), bool(o.right)) for o in found)
        plain["distinct/samples"] = shares.value
    stats["length/mean"] = ratio((sum(o.lengths), len(o.lengths)) for o in found)
    for name in ("truncated", "missing_eos", "no_answer"):
        stats[name] = ratio((getattr(o, name), len(o.lengths)) for o in found)
    if any(o.verified for o in found):
        stats["trace_error"] = ratio((o.trace_error, o.verified) for o in found)
    elif any(o.oracle for o in found):  # no right trace: no error among them, and a gate can read that
        plain["trace_error"] = 0.0
    if any(o.log_ratio is not None for o in found):
        stats["kl"] = ratio((o.log_ratio or 0.0, o.log_ratio is not None) for o in found)
    for name in sorted({name for o in found for name, _ in o.held}):
        stats[name] = ratio((dict(o.held).get(name, 0.0), bool(o.held)) for o in found)
    marks = [mark for outcome in found for mark in outcome.marks]
    plain["traces"] = float(len(marks))
    if marks:
        plain["distinct"] = len(set(marks) - {""}) / len(marks)
    return measured


def ratio(pairs: Iterable[tuple[float, float]], share: bool = False) -> Ratio:
    """A Ratio from (num, den) of each problem."""
    table = np.array(list(pairs), dtype=np.float64).reshape(-1, 2)
    return Ratio(table[:, 0].copy(), table[:, 1].copy(), share)


def _main_right(outcome: Outcome) -> tuple[float, float]:
    return (outcome.main or False), outcome.main is not None


def _mean(right: Sequence[bool]) -> tuple[float, float]:
    return (sum(right) / len(right), 1) if right else (0, 0)


def _pass(outcome: Outcome, k: int) -> tuple[float, float]:
    num = len(outcome.right)
    return (pass_at(num, sum(outcome.right), k), 1) if num >= k else (0, 0)


def _majority(outcome: Outcome, k: int) -> tuple[float, float]:
    if len(outcome.right) < k:
        return 0, 0
    seed = int.from_bytes(hashlib.sha256(outcome.problem_id.encode()).digest()[:8], "big")
    return majority_at(outcome.answers, outcome.right, k, seed), 1


def _bins(found: Sequence[Outcome], head: str) -> dict[str, Statistic]:
    """The head metric by source (where there are several) and by difficulty."""
    names: dict[str, tuple[str, str | None]] = {}
    sources = sorted({o.source for o in found})
    for source in sources:
        several = len(sources) > 1
        if several:
            names[_safe(source)] = (source, None)
        bins = sorted({o.difficulty for o in found if o.source == source} - {""})
        for each in bins if len(bins) <= MOST_BINS else []:
            names[f"{_safe(source)}/{_safe(each)}" if several else _safe(each)] = (source, each)
    return {
        f"{head}/{name}": ratio(
            (
                _main_right(o) if o.source == source and each in (None, o.difficulty) else (0, 0)
                for o in found
            ),
            share=True,
        )
        for name, (source, each) in names.items()
    }


def _safe(name: str) -> str:
    return f"{name}_" if name in RESERVED else name
