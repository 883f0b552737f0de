"""How often is a model right? Greedy, sampled, pass@k, maj@k, votes, or the answers of a search; with 95 %
intervals.

    measure: {evaluate: accuracy, of: policy, split: dev, samples: 8, value: prm, votes: [majority, weighted]}

Beside accuracy it says what users of such loops lost weeks without: length, answers cut by the limit, missing
ends, missing answers, the share of right answers whose trace holds a wrong step (trace error,
arXiv:2211.14275), distinct traces, and the distance to the base in nats a token. Metric names: `paired.py`.

Not here: whether the model may take over (`gate.py`), drawing (the driver), what is right (the task).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.asks import All, Asks, Continue, Logprob, Prefix, Score, start, to_trace
from pipeline.evaluate import GOLD, LEARNING, TROUBLE, EvaluateSettings, Health, Metric, Panel, Search
from pipeline.evaluate._held import METRICS, from_labels, labels_of
from pipeline.evaluate._judged import best_metrics, judged
from pipeline.evaluate.outcomes import Ballots, Outcome, columns, gold_label, one_outcome
from pipeline.evaluate.paired import over_problems
from pipeline.rows import Group, Label, Node, Problem, Question, Trace
from pipeline.settings import Cost, Length, ModelName, RewardModelName, added
from pipeline.tasks import BaseTask
from pipeline.vote import Kind, Rule, rule
from pipeline.vote.aggregate import Aggregate, kind_of

KL = "kl"  #: the labeller whose `value` is the log-ratio to the base in nats, summed over a trace's tokens


class Settings(EvaluateSettings):
    """What is asked of each model."""

    samples: int = Field(0, ge=0, description="sampled traces a problem, beside the greedy one")
    temperature: float = Field(1.0, gt=0, le=10)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0, description="0: off")
    max_tokens: int = Field(0, ge=0, description="tokens a trace may have; 0: as the task says")
    value: RewardModelName | None = Field(None, description="a PRM that scores the samples")
    aggregate: Aggregate = Field("last", description="step scores -> one score a trace")
    votes: tuple[str | dict[str, Any], ...] = Field(
        (), description="rules of vote/: majority, best, weighted, {use: weighted, aggregate: min}, ..."
    )
    k: tuple[int, ...] = Field((), description="the k of pass@k and maj@k; none: 2, 4, 8, ... up to samples")
    kl: ModelName | None = Field(
        None,
        description="the base to measure the distance to; true: the seed",
        json_schema_extra={"anyOf": [{"type": "string"}, {"type": "boolean"}, {"type": "null"}]},
    )
    resamples: int = Field(2000, ge=100, description="of the paired bootstrap")
    chains: bool = added(
        False,
        description="where the task has a step oracle: `valid`, right answers by right steps, which a gate "
        "may name; a headline, as trace_error then is",
    )
    choose: Literal["trace", "label"] = added(
        "trace",
        description="with `from`: who says which trace is the answer and what each is worth, the search that "
        "wrote them or the values of the label stages",
    )
    best: bool = added(
        False,
        description="best@k and score@k, for 1 and each k: what gold and what the reward model itself say of "
        "the best of k by score (Gao et al., arXiv:2210.10760)",
    )
    held: bool = added(False, description="with a `search` over steps: what it keeps in memory at each depth")

    @model_validator(mode="before")
    @classmethod
    def _base_by_name(cls, given: Any) -> Any:
        """`kl: true` means the first model's own seed."""
        if isinstance(given, dict) and isinstance(given.get("kl"), bool):
            of = given.get("of", "policy")
            first = (of[0] if isinstance(of, (list, tuple)) else of).partition("@")[0]
            return {**given, "kl": f"{first}@0" if given["kl"] else None}
        return given

    @field_validator("k")
    @classmethod
    def _each_positive(cls, k: tuple[int, ...]) -> tuple[int, ...]:
        if any(each < 1 for each in k):
            raise ValueError("each k is 1 or more")
        return tuple(sorted(set(k)))

    @field_validator("votes")
    @classmethod
    def _votes_known(cls, votes: tuple[Any, ...]) -> tuple[Any, ...]:
        labels = [rule(each).label for each in votes]
        if twice := sorted({label for label in labels if labels.count(label) > 1}):
            raise ValueError(f"{', '.join(twice)} stands twice")
        return votes

    @model_validator(mode="after")
    def _samples_suffice(self) -> Settings:
        own = [each.label for each in self.rules if each.settings.step_rule]
        if own and (self.search is not None or not self.value):
            raise ValueError(
                f"votes: {', '.join(own)}: an aggregate of its own needs samples whose steps are scored: set "
                "value, and no search"
            )
        if self.choose == "label" and not self.from_:
            raise ValueError("choose: label needs the label stage that says it: set from")
        acting = self._acting
        if self.held and (self.search is None or (acting is not None and "Node" not in acting.makes)):
            raise ValueError(
                "held measures what a search over steps keeps: set search to one that grows a tree"
            )
        if self.search is not None or self.from_:
            return self
        if self.votes and not self.samples:
            raise ValueError("votes need samples: set samples to 1 or more")
        if self.k and max(self.k) > self.samples:
            raise ValueError(f"k={max(self.k)} is more than samples={self.samples}")
        if self.best and not (self.value and self.samples):
            raise ValueError("best needs samples and a reward model that chooses among them: set both")
        if not self.value and (scored := [each.label for each in self.rules if each.settings.scored]):
            raise ValueError(f"votes by {', '.join(scored)} need a reward model: set value")
        return self

    @functools.cached_property
    def rules(self) -> tuple[Rule, ...]:
        """The votes, ready to be asked."""
        return tuple(map(rule, self.votes))

    @functools.cached_property
    def score_kind(self) -> Kind:
        """What the traces' own scores are: as the search says that wrote them, or as they are aggregated."""
        acting = self.acting()
        return kind_of(self.aggregate) if acting is None else acting.score_kind

    @property
    def takes_scores_as(self) -> Kind | None:
        scored = any(each.settings.scored for each in self.rules)
        return self.score_kind if self.from_ and scored and self.choose == "trace" else None

    @property
    def answers_by_labels(self) -> bool:
        return self.choose == "label"

    @property
    def chosen(self) -> bool:
        """Is there one answer that a search, or the stage in `from`, stands for, and no greedy one?"""
        return self.search is not None or bool(self.from_)

    @property
    def completion_limit(self) -> int:
        return self.max_tokens

    def answering(self, model: str, task: Length) -> Cost:
        if self.chosen:
            return super().answering(model, task) if self.search is not None else Cost()
        tokens = min(task.typical_tokens, self.max_tokens or task.typical_tokens)
        read = {self.value: self.samples * tokens} if self.value else {}
        far = Cost(read={self.kl: (1 + self.samples) * tokens}) if self.kl and self.kl != model else Cost()
        return Cost({model: (1 + self.samples) * tokens}, read, 1 + self.samples) + far

    @property
    def ks(self) -> tuple[int, ...]:
        """The k in use."""
        return self.k or tuple(2**power for power in range(1, self.samples.bit_length()))

    @property
    def best_ks(self) -> tuple[int, ...]:
        """The k of best@k."""
        return tuple(sorted({1, *self.ks})) if self.best else ()


def answer(
    question: Question,
    settings: Settings,
    model: str,
    search: Search | None = None,
    given: Group | None = None,
) -> Asks[list[Any]]:
    """One model on one problem: trace 0 is greedy, 1.. are samples; or what the search gives, or `from`.

    Returns Traces (`model` = its name in `of`; ids hold it too), Labels with the PRM's step scores
    (`labeller` = the PRM), Labels with the log-ratio to the base (`labeller` = "kl"), and a search's Nodes
    and Dropped rows.
    """
    if given is not None:
        traces = by_label(given) if settings.choose == "label" else given.traces
        return [named(trace, question.id, model) for trace in traces]
    if search is not None:
        found = yield from search(question)
        nodes = [row for row in found if settings.held and isinstance(row, Node)]
        return [*(named(row, question.id, model) for row in found), *labels_of(question.id, model, nodes)]
    asks = [Continue(start(question), by=model, temperature=0.0, max_tokens=settings.max_tokens)]
    if settings.samples:
        asks.append(
            Continue(
                start(question),
                by=model,
                n=settings.samples,
                temperature=settings.temperature,
                top_p=settings.top_p,
                top_k=settings.top_k,
                max_tokens=settings.max_tokens,
            )
        )
    (greedy, *_), *drawn = yield All(*asks)
    samples: list[Prefix] = drawn[0] if drawn else []
    cut = settings.top_p < 1 or settings.top_k > 0
    traces = [to_trace(question, greedy, 0, temperature=0.0)]
    for number, prefix in enumerate(samples, 1):
        traces.append(to_trace(question, prefix, number, temperature=settings.temperature, cut=cut))
    traces = [named(trace, question.id, model) for trace in traces]
    labels: list[Label] = []
    if settings.value and samples:
        scores = yield Score(samples, by=settings.value)
        scored, labels = judged(traces[1:], scores, settings.value, settings.aggregate)
        traces = [traces[0], *scored]
    if settings.kl and settings.kl != model:
        labels += yield from _distance(traces, [greedy, *samples], settings.kl)
    return [*traces, *labels]


def by_label(group: Group) -> list[Trace]:
    """The traces with their labels' values for scores, the highest chosen, the better one by its own score of
    equals; as they were where no label has a value.
    """
    valued = {name: one.value for name, one in group.labels.items() if one.value is not None}
    known = [trace for trace in group.traces if trace.id in valued]
    if not known:
        return group.traces
    own = {trace.id: -math.inf if trace.score is None else trace.score for trace in known}
    best = max(known, key=lambda trace: (valued[trace.id], own[trace.id]))
    return [replace(one, score=valued.get(one.id), chosen=one is best) for one in group.traces]


def _distance(traces: Sequence[Trace], written: Sequence[Prefix], base: str) -> Asks[list[Label]]:
    """log policy - log base over each trace; on samples at temperature 1 its mean is the KL divergence's
    estimate.
    """
    rows = [(trace, prefix) for trace, prefix in zip(traces, written, strict=True) if prefix.logprobs]
    if not rows:
        return []
    theirs = yield Logprob([prefix for _, prefix in rows], by=base)
    return [
        Label(
            problem_id=trace.problem_id,
            trace_id=trace.id,
            value=sum(prefix.logprobs) - sum(other),
            reason=base,
            labeller=KL,
        )
        for (trace, prefix), other in zip(rows, theirs, strict=True)
    ]


def named(row: Any, problem_id: str, model: str) -> Any:
    """A row whose ids hold the model's name, so that two models' rows can stand in one stage."""
    old, new = f"{problem_id}/", f"{problem_id}/{model}/"
    held = {f.name for f in fields(row)} & {"id", "parent", "trace_id", "what"}
    texts = {name: getattr(row, name) for name in held}
    renamed = {n: new + t[len(old) :] for n, t in texts.items() if isinstance(t, str) and t.startswith(old)}
    return replace(row, **renamed, **({"model": model} if isinstance(row, Trace) else {}))


def grade(problem: Problem, rows: Sequence[Any], task: BaseTask) -> list[Label]:
    """What the task says of each trace: right or wrong, and for each step the oracle's verdict (1 or 0)."""
    return [gold_label(problem, row, task) for row in rows if isinstance(row, Trace) and row.is_attempt]


def outcomes(
    problem: Problem,
    traces: Sequence[Trace],
    labels: Sequence[Label],
    settings: Settings,
    model: str,
    task: BaseTask,
) -> Outcome:
    """One model's outcome on one problem; rows of other models are passed over."""
    mine = [trace for trace in traces if trace.model == model and trace.is_attempt]
    gold = {label.trace_id: label for label in labels if label.labeller == GOLD}
    ratios = {label.trace_id: label.value for label in labels if label.labeller == KL}
    steps = {label.trace_id: label.step_scores or [] for label in labels if label.labeller == settings.value}
    ballot = Ballots(settings.rules, settings.score_kind, steps)
    outcome = one_outcome(problem, mine, gold, ratios, ballot, settings.chosen, task)
    return replace(outcome, held=from_labels(labels, model)) if settings.held else outcome


def measure(found: Mapping[str, Sequence[Outcome]], settings: Settings) -> dict[str, float]:
    """Metrics without the stage's name. Keys of `found`: the names of `of` in order, and `NAME@incumbent`.

    Every metric is over the problems that all models in `found` were measured on.
    """
    votes = [each.label for each in settings.rules]
    return over_problems(
        found,
        lambda rows: columns(rows, settings.ks, votes, settings.chains, settings.best_ks),
        settings.resamples,
    )


def _right(name: str, says: str, short: str, **more: Any) -> Metric:
    """A share of right answers: its gain over another version is written beside it."""
    return Metric(f"accuracy/{name}", says, headline=True, short=short, gain=f"gain/{name}", **more)


def metrics(settings: Settings) -> list[Metric]:
    """The metrics that a gate may name before anything has run (bins and sources are known only after)."""
    head = "search" if settings.chosen else "greedy"
    found = [_right(head, f"{head} accuracy", head, main=True, column="accuracy")]
    found += [_right(each.label, f"vote: {each.label}", each.label) for each in settings.rules]
    if settings.chains:
        found.append(Metric("valid", f"right by right steps, {head}", headline=True, short="valid"))
        if settings.samples or settings.chosen:
            says = "right by right steps, of a sample"
            found.append(Metric("valid/sampled", says, headline=True, short="valid sample"))
    if settings.samples or settings.chosen:
        found += [
            _right("sampled", "accuracy of a sample", "sampled"),
            Metric("distinct/samples", "different samples"),
        ]
        kinds = {"pass": "any of {} is right", "maj": "majority of {}"}
        found += [
            Metric(f"{kind}@{k}", says.format(k), short=f"{kind}@{k}", gain=f"gain/{kind}@{k}")
            for k in settings.ks
            for kind, says in kinds.items()
        ]
        found += best_metrics(settings.best_ks)
    found += [
        Metric("length/mean", "tokens an answer", less=True, share=False, short="length"),
        Metric("truncated", "cut by the limit", less=True, short="truncated"),
        Metric("missing_eos", "answered, never ended", less=True, short="missing eos"),
        Metric("no_answer", "no answer", less=True),
        Metric(
            "trace_error", "right by a wrong step", less=True, headline=settings.chains, short="trace error"
        ),
        Metric("distinct", "right or different traces", short="distinct"),
    ]
    kl = Metric("kl", "nats a token from the base", less=True, share=False, short="kl")
    found += METRICS if settings.held else ()
    return [*found, kl] if settings.kl else found


#: what tells of a policy that goes astray: metric -> what a reader calls it, and its picture's name
SIGNS = {
    "no_answer": ("answers missing", ""),
    "truncated": ("cut by the length limit", ""),
    "missing_eos": ("answer given, but no end", ""),
    "trace_error": ("right by a wrong step", ""),
    "length/mean": ("tokens a trace", "length"),
    "distinct": ("right or distinct traces", ""),
    "kl": ("distance from the base, nats a token", "kl"),
}


def panels(settings: Settings) -> list[Panel]:
    """Accuracy by round, pass@k and maj@k, what each round changed and where, and the signs of a policy that
    goes astray."""
    known = {each.name: each for each in metrics(settings)}
    right = {name: each.brief for name, each in known.items() if name.startswith(("accuracy/", "valid"))}
    head = next(iter(known))
    found = [Panel(LEARNING, "Accuracy by round", "curve", right, axis="accuracy", picture="accuracy")]
    kinds = {"pass": "One of k samples is right (pass@k)", "maj": "The majority of k is right (maj@k)"}
    for kind, title in kinds.items():
        if over := {f"{kind}@{k}": str(k) for k in settings.ks if f"{kind}@{k}" in known}:
            picture = "pass_at_k" if kind == "pass" else ""
            found.append(Panel(LEARNING, title, "over", over, axis="share of problems", picture=picture))
    note = "paired, with 95 % interval"
    found.append(
        Panel(TROUBLE, "Change of each round", "changes", {head: right[head]}, note, picture="change")
    )
    bins = {f"{head}/": "difficulty"}
    found.append(Panel(TROUBLE, "Accuracy by difficulty", "bins", bins, picture="difficulty"))
    found += [
        Panel(TROUBLE, says, "curve", {name: says}, share=known[name].share, small=True, picture=picture)
        for name, (says, picture) in SIGNS.items()
        if name in known
    ]
    return found


#: a policy whose traces are identical or empty
WARN_DISTINCT, STOP_DISTINCT, ENOUGH_TRACES = 0.20, 0.05, 20


def health(metrics: Mapping[str, float], settings: Settings) -> Health:
    """Has the policy collapsed? `metrics` as `measure` gives them; a failure should stop the run (exit 6)."""
    distinct, num = metrics.get("distinct", 1.0), metrics.get("traces", 0.0)
    if distinct >= WARN_DISTINCT or num < ENOUGH_TRACES:
        return Health()
    text = f"only {distinct:.1%} of {num:.0f} traces are right or distinct"
    if distinct < STOP_DISTINCT:
        return Health(
            failures=[f"the policy has collapsed: {text}. Lower the learning rate, or fork earlier"]
        )
    return Health(warnings=[f"the policy may be collapsing: {text}"])
