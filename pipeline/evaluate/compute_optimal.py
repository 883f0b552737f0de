"""How should samples be spent on one question? Strategies at budgets by difficulty, the best chosen by
cross-validation (Snell et al. 2024, arXiv:2408.03314).

    spend:
      evaluate: compute_optimal
      of: policy
      value: prm
      budgets: [1, 4, 16, 64]          # samples a problem
      strategies:
        majority: majority             # a rule of vote/ over N samples
        best: best
        beam: {generate: beam, n: N, width: 4, budgets: [4, 16, 64]}
        deep: {generate: beam, n: N, width: 2, budgets: [4, 16, 64]}

Difficulty is measured on `difficulty` samples of their own: by gold (the share that is right), and predicted
without it (the reward model's mean score of whole samples; without one, how many agree). Problems are put
into `bins` equal parts; within each the strategy for a budget is chosen on one half and read on the other.
`optimal@N` chooses by true difficulty, `optimal/predicted@N` by the predicted one, `single@N` one strategy
for all, chosen on the other half too. The samples that difficulty takes are counted apart
(`tokens/difficulty`), which the paper does not count; `tokens/optimal@N/counted` includes them.

Votes share one pool a problem: at small budgets they are means over sub-samples; searches run once. Tokens
are those that the policy writes; what the reward model reads is `read/...`.
`ratchet solve --budget N` spends by the predicted table of a run that has measured it.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import Field, model_validator

from pipeline.asks import All, Asks, Continue, Prefix, Score, start, to_trace
from pipeline.errors import RecipeError
from pipeline.evaluate import GOLD, EvaluateSettings, Health, Metric, Panel, Search
from pipeline.evaluate._judged import judged
from pipeline.evaluate.outcomes import gold_label
from pipeline.evaluate.paired import over_problems
from pipeline.evaluate.pool import Pool
from pipeline.evaluate.strategies import Spent, Strategy, Tried, bin_of, columns, metered, picked, strategies
from pipeline.rows import Group, Label, Problem, Question, Trace
from pipeline.settings import Cost, Length, PolicyName, RewardModelName
from pipeline.tasks import BaseTask
from pipeline.vote import Candidate, keys
from pipeline.vote.aggregate import Aggregate, kind_of, weight

SPENT = "spent"  #: the labeller whose `step_scores` are the tokens that a search wrote and had read
SPENDING = "How should samples be spent?"  #: the report's question
HARD = "difficulty"  #: what stands in the ids of the samples that difficulty is measured on


class Settings(EvaluateSettings):
    """Which strategies, at which budgets."""

    of: PolicyName = Field("policy", description="the model measured")
    value: RewardModelName | None = Field(
        None, description="a PRM, for votes by scores, searches, difficulty"
    )
    aggregate: Aggregate = Field("last", description="step scores -> one score a trace")
    budgets: tuple[int, ...] = Field((1, 4, 16), min_length=1, description="samples a problem, as N")
    strategies: dict[str, Any] = Field(
        default_factory=lambda: {"majority": "majority"},
        min_length=1,
        description="name -> a rule of vote/, or {generate: METHOD, ...} whose settings may say N or N/4",
    )
    difficulty: int = Field(16, ge=1, description="samples a problem that its difficulty is measured on")
    bins: int = Field(5, ge=1, le=20, description="parts of equal size, the easiest first")
    orders: int = Field(32, ge=1, description="random sub-samples behind a vote")
    temperature: float = Field(1.0, gt=0, le=10)
    max_tokens: int = Field(0, ge=0, description="tokens a trace may have; 0: as the task says")
    resamples: int = Field(2000, ge=100, description="of the bootstrap over problems")

    @model_validator(mode="after")
    def _fits(self) -> Settings:
        if self.search is not None or self.from_:
            raise ValueError("compute_optimal searches by its strategies: leave out search and from")
        if any(each < 1 for each in self.budgets) or list(self.budgets) != sorted(set(self.budgets)):
            raise ValueError(f"budgets: {list(self.budgets)}: whole numbers from 1 on, rising")
        if self.problems is not None and self.problems < 2 * self.bins:
            raise ValueError(f"problems: {self.problems} are too few for {self.bins} bins of two halves each")
        for each in self.ways:
            if each.scored and not self.value:
                raise ValueError(f"strategies.{each.name} needs a reward model: set value")
            for budget in each.budgets if each.rule is None else ():
                each.settings(budget, str(self.of), self.value)
        if missing := [n for n in self.budgets if not any(n in each.budgets for each in self.ways)]:
            raise ValueError(f"budgets: no strategy spends {missing[0]}")
        return self

    @functools.cached_property
    def ways(self) -> list[Strategy]:
        """The strategies, ready to be asked."""
        return strategies(self.strategies, self.budgets)

    @property
    def cells(self) -> list[tuple[str, int]]:
        """(strategy, budget), in the order of the recipe."""
        return [(each.name, budget) for each in self.ways for budget in each.budgets]

    @property
    def pool(self) -> int:
        """Samples that the votes share."""
        return max((max(each.budgets) for each in self.ways if each.rule is not None), default=0)

    @property
    def completion_limit(self) -> int:
        return self.max_tokens

    def answering(self, model: str, task: Length) -> Cost:
        drawn = self.difficulty + self.pool
        tokens = drawn * min(task.typical_tokens, self.max_tokens or task.typical_tokens)
        found = Cost({model: tokens}, {self.value: tokens} if self.value else {}, drawn)
        for each in self.ways:
            for budget in each.budgets if each.rule is None else ():
                found += each.settings(budget, model, self.value).cost(task)
        return found


def _drawn(question: Question, settings: Settings, model: str, n: int) -> Continue:
    return Continue(
        start(question), by=model, n=n, temperature=settings.temperature, max_tokens=settings.max_tokens
    )


def answer(
    question: Question,
    settings: Settings,
    model: str,
    search: Search | None = None,
    given: Group | None = None,
) -> Asks[list[Any]]:
    """Traces: the samples of the difficulty and of the pool, scored, and the answer of each search; a Label
    with the tokens of each search.
    """
    rows: list[Any] = []
    parts = {HARD: settings.difficulty} | ({"pool": settings.pool} if settings.pool else {})
    replies = yield All(*(_drawn(question, settings, model, n) for n in parts.values()))
    for name, prefixes in zip(parts, replies, strict=True):
        rows += yield from _scored(question, settings, f"{question.id}/{model}/{name}", prefixes, model)
    for each in settings.ways:
        for budget in each.budgets if each.rule is None else ():
            spent: Counter[str] = Counter()
            acting = each.settings(budget, model, settings.value)
            found = yield from metered(each.module.generate(question, acting, None), spent)
            name = f"{question.id}/{model}/{each.name}@{budget}"
            if (chosen := picked(found)) is not None:
                rows.append(replace(chosen, id=f"{name}/0", parent=None, model=model))
            told: list[float | None] = [float(spent["written"]), float(spent["read"])]
            rows.append(Label(problem_id=question.id, trace_id=f"{name}/0", step_scores=told, labeller=SPENT))
    return rows


def _scored(
    question: Question, settings: Settings, front: str, prefixes: Sequence[Prefix], model: str
) -> Asks[list[Any]]:
    traces = [
        replace(to_trace(question, p, n, temperature=settings.temperature), id=f"{front}/{n}", model=model)
        for n, p in enumerate(prefixes)
    ]
    if settings.value is None:
        return list(traces)
    scores = yield Score(prefixes, by=settings.value)
    marked, labels = judged(traces, scores, settings.value, settings.aggregate)
    return [*marked, *labels]


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
) -> Tried:
    """What each strategy gave on one problem."""
    front = f"{problem.id}/{model}/"
    gold = {label.trace_id: bool(label.correct) for label in labels if label.labeller == GOLD}
    told = {label.trace_id: label.step_scores or [] for label in labels if label.labeller == SPENT}
    steps = {label.trace_id: label.step_scores or [] for label in labels if label.labeller == settings.value}
    hard = [trace for trace in traces if trace.id.startswith(f"{front}{HARD}/")]
    pool = [trace for trace in traces if trace.id.startswith(f"{front}pool/")]
    table: dict[tuple[str, int], Spent] = {}
    if pool:
        shared = Pool(pool, [gold[t.id] for t in pool], [steps.get(t.id, []) for t in pool], task.same)
        table |= _votes(problem.id, shared, settings)
    for each in settings.ways:
        for budget in each.budgets if each.rule is None else ():
            name = f"{front}{each.name}@{budget}/0"
            written, read = (number or 0.0 for number in told.get(name, [0.0, 0.0]))
            table[each.name, budget] = Spent(float(gold.get(name, False)), written, read)
    return Tried(
        problem_id=problem.id,
        right=sum(gold[t.id] for t in hard) / max(len(hard), 1),
        predicted=predicted(hard, task.same, settings),
        tokens=float(sum(len(t.token_ids) for t in hard)),
        table={cell: table[cell] for cell in settings.cells if cell in table},
    )


def _votes(problem_id: str, pool: Pool, settings: Settings) -> dict[tuple[str, int], Spent]:
    """Votes over the pool at each budget."""
    seed = int.from_bytes(hashlib.sha256(problem_id.encode()).digest()[:8], "big")
    table = {}
    for each in settings.ways:
        if each.rule is None:
            continue
        sizes = [n for n in each.budgets if n <= len(pool.traces)]
        how = each.rule.settings.step_rule or settings.aggregate
        found = pool.votes([each.rule], sizes, settings.orders, seed, how)
        for n in sizes:
            tokens = n * pool.tokens
            table[each.name, n] = Spent(found[each.rule.label, n], tokens, tokens * each.scored)
    return table


def predicted(traces: Sequence[Trace], same: Any, settings: Settings) -> float:
    """How easy a problem looks without gold: the mean score of whole samples, a cut one counting as 0;
    without a reward model the share of the most frequent answer.
    """
    if not traces:
        return 0.0
    if settings.value is not None:
        scores = [
            weight(t.score, kind_of(settings.aggregate)) if t.score is not None else 0.0 for t in traces
        ]
        return math.fsum(score for score in scores if math.isfinite(score)) / len(traces)
    counts = Counter(key for key in keys([trace.answer for trace in traces], same) if key is not None)
    return max(counts.values(), default=0) / len(traces)


def measure(found: Mapping[str, Sequence[Tried]], settings: Settings) -> dict[str, float]:
    """Metrics without the stage's name, with intervals over problems; the choices are held fixed in them."""
    s = settings
    return over_problems(found, lambda rows: columns(rows, s.cells, s.budgets, s.bins), s.resamples)


LINES = {
    "optimal": "chosen by true difficulty",
    "optimal/predicted": "chosen by predicted difficulty",
    "single": "one strategy for all",
}
BINS = {"bin": "bin", "predicted": "predicted bin"}  #: by true difficulty, and by predicted


def metrics(settings: Settings) -> list[Metric]:
    """The metrics that a gate or a claim may name before anything has run."""
    last, chooses = settings.budgets[-1], settings.bins > 1  # in one bin there is nothing to choose by
    found = [
        Metric(f"accuracy/{cell}", f"{name}, {n} samples", headline=n == last and not chooses, short=cell)
        for cell, name, n in ((f"{name}@{n}", name, n) for name, n in settings.cells)
    ]
    for name, says in LINES.items():
        found += [
            Metric(f"{name}@{n}", f"{says}, {n} samples", headline=n == last and chooses, short=f"{name}@{n}")
            for n in settings.budgets
        ]
    found += [
        Metric(f"{front}/{each}/{name}@{n}", f"{name}, {n} samples, {says} {each} (1 is the easiest)")
        for front, says in BINS.items()
        for each in range(1, settings.bins + 1)
        for name, n in settings.cells
    ]
    tokens = [f"{name}@{n}" for name, n in settings.cells]
    tokens += [f"{name}@{n}" for name in LINES for n in settings.budgets]
    found += [Metric(f"tokens/{name}", f"tokens of {name}", share=False, less=True) for name in tokens]
    return [*found, Metric("tokens/difficulty", "tokens that difficulty takes", share=False, less=True)]


def panels(settings: Settings) -> list[Panel]:
    """What each strategy gives and takes; with more than one bin, what a choice by difficulty does."""
    plain = {f"accuracy/{name}@{n}": name for name, n in settings.cells}
    tokens = {f"tokens/{name}@{n}": f"{name}, {n}" for name, n in settings.cells}
    found = [Panel(SPENDING, "Accuracy by samples, each strategy", "lines", plain, axis="right")]
    if settings.bins > 1:
        found = list(_chosen(settings, found[0]))
        tokens |= {f"tokens/{name}@{n}": f"{name}, {n}" for name in LINES for n in settings.budgets}
        tokens["tokens/difficulty"] = "difficulty itself"
    return [*found, Panel(SPENDING, "Tokens a problem", "table", tokens, share=False)]


def _chosen(settings: Settings, plain: Panel) -> Iterator[Panel]:
    """The curve of what is chosen by difficulty, beside the strategies' own, and a table for each budget."""
    chosen = {f"{name}@{n}": says for name, says in LINES.items() for n in settings.budgets}
    note = "a choice is made on one half of the problems and read on the other"
    yield Panel(SPENDING, "Accuracy by samples, chosen by difficulty", "lines", chosen, note, axis="right")
    yield plain
    for n in settings.budgets:
        names = [name for name, at in settings.cells if at == n]
        shown = {
            f"{front}/{each}/{name}@{n}": f"{says} {each}: {name}"
            for front, says in BINS.items()
            for each in range(1, settings.bins + 1)
            for name in names
        }
        yield Panel(SPENDING, f"By difficulty, {n} samples (bin 1 is the easiest)", "bars", shown)


def remarks(metrics: Mapping[str, float], settings: Settings) -> dict[str, str]:
    """What the choice by difficulty saves, with the cost of difficulty and without."""
    last = settings.budgets[-1]
    names = [name for name, n in settings.cells if n == last and f"accuracy/{name}@{n}" in metrics]
    if not names or f"optimal/predicted@{last}" not in metrics:
        return {}
    best = max(names, key=lambda name: metrics[f"accuracy/{name}@{last}"])
    goal = metrics[f"accuracy/{best}@{last}"]
    told = f"With {last} samples the best single strategy is {best}: {100 * goal:.1f} %. "
    if settings.bins == 1:
        return {SPENDING: f"{told}It writes {metrics[f'tokens/{best}@{last}']:,.0f} tokens a problem."}
    enough = [n for n in settings.budgets if metrics.get(f"optimal/predicted@{n}", 0.0) >= goal]
    if not enough:
        reached = metrics[f"optimal/predicted@{last}"]
        told += f"Chosen by predicted difficulty it is not reached: {100 * reached:.1f} % at {last}."
        return {SPENDING: told}
    n = enough[0]
    used, all_of_it = (metrics[f"tokens/optimal/predicted@{n}{end}"] for end in ("", "/counted"))
    told += (
        f"Chosen by predicted difficulty, {n} samples reach that: {used:,.0f} tokens a problem against "
        f"{metrics[f'tokens/{best}@{last}']:,.0f}, and {all_of_it:,.0f} with what difficulty takes."
    )
    return {SPENDING: told}


def health(metrics: Mapping[str, float], settings: Settings) -> Health:
    """Were there problems enough to choose by, and did difficulty tell them apart?"""
    if f"single@{settings.budgets[-1]}" not in metrics:
        return Health(warnings=["too few problems to choose a strategy on one half and read it on the other"])
    warnings = []
    if (most := max((metrics[name] for name in metrics if name.startswith("borrowed/")), default=0.0)) > 0.1:
        warnings.append(
            f"{100 * most:.0f} % of the problems stand alone in their bin: the choice for them is that "
            "of all bins. Measure more problems, or set fewer bins"
        )
    for front, says in BINS.items():
        held = sum(f"{front}/{each}/problems" in metrics for each in range(1, settings.bins + 1))
        if held < settings.bins:
            warnings.append(
                f"{says}s: {settings.difficulty} samples tell {held} of {settings.bins} parts apart, too "
                "many problems look equally hard: raise difficulty, or set fewer bins"
            )
    return Health(warnings=warnings)


def spend(
    question: Question, settings: Settings, model: str, metrics: Mapping[str, float], budget: int
) -> Asks[list[Any]]:
    """Answer one question within a budget of samples, by the table of predicted difficulty.

    Raises:
        RecipeError: no strategy was measured at so small a budget.
    """
    fitting = [n for n in settings.budgets if n <= budget]
    if not fitting:
        least = settings.budgets[0]
        raise RecipeError(f"--budget {budget}: the smallest budget that was measured is {least}")
    n = fitting[-1]
    prefixes = yield _drawn(question, settings, model, settings.difficulty)
    hard = yield from _scored(question, settings, f"{question.id}/{HARD}", prefixes, model)
    names = (f"edge/predicted/{k}" for k in range(1, settings.bins))
    edges = [metrics[name] for name in names if name in metrics]
    seems = predicted([row for row in hard if isinstance(row, Trace)], str.__eq__, settings)
    here = bin_of(seems, edges)
    known = {name: metrics.get(f"predicted/{here}/{name}@{n}") for name, at in settings.cells if at == n}
    if all(value is None for value in known.values()):
        known = {name: metrics.get(f"accuracy/{name}@{n}") for name in known}
    best = max(known, key=lambda name: -1.0 if known[name] is None else float(known[name] or 0.0))
    way = next(each for each in settings.ways if each.name == best)
    said = f"difficulty {here} of {settings.bins} (1 is the easiest): {best}, {n} samples"
    note = Label(problem_id=question.id, trace_id=question.id, reason=said, labeller=SPENT)
    if way.rule is None:
        rows = yield from way.module.generate(question, way.settings(n, model, settings.value), None)
        return [note, *rows]
    drawn = yield _drawn(question, settings, model, n)
    rows = yield from _scored(question, settings, question.id, drawn, model)
    traces = [row for row in rows if isinstance(row, Trace)]
    winner = way.rule(_candidates(traces, settings))
    first = next((trace.id for trace in traces if trace.answer == winner is not None), None)
    return [note, *(replace(trace, chosen=trace.id == first) for trace in traces)]


def _candidates(traces: Sequence[Trace], settings: Settings) -> list[Candidate]:
    kind = kind_of(settings.aggregate)
    return [
        Candidate(t.answer, t.score, math.fsum(t.logprobs), t.answer or "", kind, len(t.logprobs))
        for t in traces
    ]
