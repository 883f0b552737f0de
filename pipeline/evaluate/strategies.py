"""Ways to spend samples on one question: a vote over N samples, or a search as wide as N; and which of them
pays at which difficulty, chosen on one half of the problems and read on the other (Snell et al. 2024,
arXiv:2408.03314, sections 3.2 and 4).

Not here: what is drawn and scored (`compute_optimal.py`).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import ValidationError

from pipeline.asks import All, Ask, Asks, Continue, Logprob, Score
from pipeline.evaluate.intervals import Statistic
from pipeline.evaluate.outcomes import ratio
from pipeline.evaluate.paired import Measured
from pipeline.rows import Trace
from pipeline.settings import NotBuilt, asked_of, models_named, module_of
from pipeline.vote import Rule, rule

WIDE = re.compile(r"N(?:/([1-9]\d*))?")  #: in a strategy's settings: N, or N/4


@dataclass(frozen=True)
class Strategy:
    """One way: a vote over the samples (`rule`), or a generate method (`module`, its keys in `given`)."""

    name: str
    budgets: tuple[int, ...]
    rule: Rule | None = None
    module: Any = None
    given: Mapping[str, Any] | None = None

    @property
    def scored(self) -> bool:
        """Does it need the reward model?"""
        if self.rule is not None:
            return bool(self.rule.settings.scored)
        return any(does == "scores" for does in asked_of(self.module.Settings).values())

    def settings(self, budget: int, by: str, value: str | None) -> Any:
        """The generate method's settings at a budget.

        Raises:
            ValueError: they do not fit (a beam of 2 that is 4 wide), or spend another budget.
        """
        assert self.given is not None
        kind = self.module.Settings
        filled = {key: _wide(each, budget) for key, each in self.given.items()} | {"by": by}
        for key, does in asked_of(kind).items():
            if does == "scores" and value and kind.model_fields[key].get_default() is not None:
                filled.setdefault(key, value)
        try:
            settings = kind.model_validate(filled)
        except ValidationError as found:
            first = found.errors()[0]
            key = ".".join(map(str, first["loc"]))
            said = f"{key}: {first['msg']}" if key else first["msg"].removeprefix("Value error, ")
            raise ValueError(f"strategies.{self.name}: at budget {budget}: {said}") from None
        if others := sorted({name for _, name in models_named(settings)} - {by, value}):
            raise ValueError(
                f"strategies.{self.name}: acts by {', '.join(others)}: a strategy acts by the measured model "
                "and by `value` alone"
            )
        return settings


def picked(rows: Sequence[Any]) -> Trace | None:
    """The trace that stands for a search's answer: the chosen one, else the best scored, else the first."""
    traces = [row for row in rows if isinstance(row, Trace)]
    chosen = next((trace for trace in traces if trace.chosen), None)
    scored = [trace for trace in traces if trace.score is not None]
    return chosen or max(scored, key=lambda t: t.score or 0.0, default=None) or next(iter(traces), None)


def _parts(given: Any) -> int:
    """By how much a setting divides the budget: 1 for N, 4 for N/4; 0: it does not read it."""
    found = WIDE.fullmatch(given) if isinstance(given, str) else None
    return int(found[1] or 1) if found else 0


def _wide(given: Any, budget: int) -> Any:
    return budget // parts if (parts := _parts(given)) else given


def _spends(name: str, given: Mapping[str, Any], budgets: Sequence[int]) -> None:
    """A strategy stands at a budget by spending it.

    Raises:
        ValueError: it spends the same at each, or a budget is no multiple of what divides it.
    """
    parts = {key: by for key, each in given.items() if (by := _parts(each))}
    if not parts and len(budgets) > 1:
        raise ValueError(
            f"strategies.{name}: no setting says N, so it spends the same at budgets {list(budgets)}: say N "
            "where its samples are counted, or give it one budget (budgets: [4])"
        )
    for key, by in parts.items():
        if uneven := [n for n in budgets if n % by]:
            raise ValueError(
                f"strategies.{name}.{key}: N/{by} does not divide the budget {uneven[0]}: leave it out of "
                "the strategy's budgets"
            )


def strategies(given: Mapping[str, Any], budgets: Sequence[int]) -> list[Strategy]:
    """The strategies of a recipe: name -> a rule of vote/, or {generate: beam, n: N, budgets: [4, 16]}.

    Raises:
        ValueError: no such vote or method, or budgets that the evaluation does not have.
    """
    found = []
    for name, spec in given.items():
        if not re.fullmatch(r"[a-z][a-z0-9_-]*", name):
            raise ValueError(f"strategies: {name!r}: a name is small letters, digits, _ and -")
        if not isinstance(spec, Mapping) or "generate" not in spec:
            found.append(Strategy(name, tuple(budgets), rule=rule(spec)))
            continue
        keys = {key: value for key, value in spec.items() if key not in ("generate", "budgets")}
        own = spec.get("budgets", budgets)
        whole = isinstance(own, (list, tuple)) and all(type(n) is int for n in own)
        if not whole or not own or set(own) - set(budgets):
            raise ValueError(f"strategies.{name}.budgets: {own!r}: some of {list(budgets)} are wanted")
        try:
            module = module_of("generate", str(spec["generate"]))
        except NotBuilt:
            raise ValueError(f"strategies.{name}: no generate method {spec['generate']!r}") from None
        _spends(name, keys, own)
        found.append(Strategy(name, tuple(sorted(own)), module=module, given=keys))
    return found


def metered(asks: Asks[Any], spent: Counter[str]) -> Asks[Any]:
    """The same asks; `spent` counts the tokens that were `written`, and `read` by whatever scores."""
    try:
        ask = next(asks)
        while True:
            reply = yield ask
            _count(ask, reply, spent)
            ask = asks.send(reply)
    except StopIteration as end:
        return end.value


def _count(ask: Ask, reply: Any, spent: Counter[str]) -> None:
    if isinstance(ask, All):
        for one, its in zip(ask.asks, reply, strict=True):
            _count(one, its, spent)
    elif isinstance(ask, Continue):
        begun = [prefix for prefix in ask.listed for _ in range(ask.n)]
        spent["written"] += sum(b.num_tokens - a.num_tokens for a, b in zip(begun, reply, strict=True))
    elif isinstance(ask, (Score, Logprob)):
        spent["read"] += sum(prefix.num_tokens for prefix in ask.listed)


# --- which one pays


@dataclass(frozen=True, slots=True)
class Spent:
    """What a strategy gave at a budget, on one problem: the chance that it is right, tokens written, read."""

    right: float
    written: float
    read: float


Cell = tuple[str, int]  #: a strategy at a budget
Table = Mapping[Cell, Spent]  #: what each gave, for one problem


@dataclass(frozen=True, slots=True)
class Tried:
    """Every strategy at every budget on one problem, and how hard the problem is."""

    problem_id: str
    right: float  #: share of the difficulty's samples that is right
    predicted: float  #: what they look like without gold
    tokens: float  #: that they took
    table: Table


def edges_of(values: Sequence[float], bins: int) -> list[float]:
    """The values between bins, high to low: quantiles. Equal ones leave a bin empty."""
    at = [1 - number / bins for number in range(1, bins)]
    return [float(edge) for edge in np.quantile(np.array(values, dtype=np.float64), at)] if values else []


def bin_of(value: float, edges: Sequence[float]) -> int:
    """1 (easiest: the highest values) to len(edges) + 1."""
    return 1 + sum(edge > value for edge in edges)


def folds_of(ids: Sequence[str], bins: Sequence[int]) -> list[int]:
    """0 or 1 for each problem: every other one of its bin, in the order of their names."""
    seen: Counter[int] = Counter()
    folds = {}
    for place in sorted(range(len(ids)), key=lambda i: ids[i]):
        folds[place] = seen[bins[place]] % 2
        seen[bins[place]] += 1
    return [folds[i] for i in range(len(ids))]


def best_of(rows: Sequence[Table], budget: int) -> str | None:
    """The strategy that is right most often at a budget; of equal ones the one that writes less; None without
    rows."""
    names = [name for name, at in rows[0] if at == budget] if rows else []

    def merit(name: str) -> tuple[float, float]:
        right = math.fsum(row[name, budget].right for row in rows) / len(rows)
        return round(right, 12), -math.fsum(row[name, budget].written for row in rows)

    return max(names, key=merit, default=None)


@dataclass(frozen=True)
class Chosen:
    """For each problem the strategy that the other fold chose; `borrowed`: its bin had nobody there, so the
    choice is that of the whole other fold. None: the other fold is empty."""

    names: list[str | None]
    borrowed: int


def choose(rows: Sequence[Table], bins: Sequence[int], folds: Sequence[int], budget: int) -> Chosen:
    """The strategy for each problem by 2-fold cross-validation within the bins."""
    other: dict[tuple[int, int], str | None] = {}
    whole: dict[int, str | None] = {}
    for fold in (0, 1):
        seen = [i for i in range(len(rows)) if folds[i] != fold]
        whole[fold] = best_of([rows[i] for i in seen], budget)
        for each in set(bins):
            other[fold, each] = best_of([rows[i] for i in seen if bins[i] == each], budget)
    names, borrowed = [], 0
    for fold, each in zip(folds, bins, strict=True):
        name = other[fold, each]
        borrowed += name is None
        names.append(whole[fold] if name is None else name)
    return Chosen(names, borrowed)


#: how difficulty is known -> what stands in front of its bins and behind `optimal`
KNOWN = {"right": ("bin", ""), "predicted": ("predicted", "/predicted")}


def columns(found: Sequence[Tried], cells: Sequence[Cell], budgets: Sequence[int], num_bins: int) -> Measured:
    """The statistics of one model over problems."""
    stats: dict[str, Statistic] = {}
    plain: dict[str, float] = {}
    rows = [tried.table for tried in found]
    for name, n in cells:
        whole = [row.get((name, n)) for row in rows]
        stats[f"accuracy/{name}@{n}"] = ratio((s.right, 1) if s else (0, 0) for s in whole)
        stats[f"tokens/{name}@{n}"] = ratio((s.written, 1) if s else (0, 0) for s in whole)
        stats[f"read/{name}@{n}"] = ratio((s.read, 1) if s else (0, 0) for s in whole)
    stats["tokens/difficulty"] = ratio((tried.tokens, 1) for tried in found)
    full = [tried for tried in found if all(cell in tried.table for cell in cells)]
    known = {tried.problem_id for tried in full}
    where = [tried.problem_id in known for tried in found]
    for key, (front, end) in KNOWN.items():
        edges = edges_of([getattr(tried, key) for tried in full], num_bins)
        plain |= {f"edge{end}/{number}": edge for number, edge in enumerate(edges, 1)}
        bins = [bin_of(getattr(tried, key), edges) for tried in full]
        plain |= _by_bin(full, bins, front, cells)
        _optimal(stats, plain, full, where, bins, f"optimal{end}", budgets)
    _optimal(stats, plain, full, where, [1] * len(full), "single", budgets)
    return Measured(stats, {}, plain)


def _by_bin(
    full: Sequence[Tried], bins: Sequence[int], front: str, cells: Sequence[Cell]
) -> dict[str, float]:
    """The accuracy of each strategy in each bin, and how many problems it has."""
    plain = {}
    for each in sorted(set(bins)):
        inside = [tried.table for tried, its in zip(full, bins, strict=True) if its == each]
        plain[f"{front}/{each}/problems"] = float(len(inside))
        for cell in cells:
            plain[f"{front}/{each}/{cell[0]}@{cell[1]}"] = math.fsum(row[cell].right for row in inside) / len(
                inside
            )
    return plain


def _optimal(
    stats: dict[str, Statistic],
    plain: dict[str, float],
    full: Sequence[Tried],
    where: Sequence[bool],
    bins: Sequence[int],
    name: str,
    budgets: Sequence[int],
) -> None:
    """What the chosen strategies give, at each budget."""
    rows = [tried.table for tried in full]
    folds = folds_of([tried.problem_id for tried in full], bins)
    for n in budgets:
        chosen = choose(rows, bins, folds, n)
        taken = iter(
            None if its is None else (row[its, n], tried)
            for its, row, tried in zip(chosen.names, rows, full, strict=True)
        )
        spent = [next(taken) if there else None for there in where]
        stats[f"{name}@{n}"] = ratio((s[0].right, 1) if s else (0, 0) for s in spent)
        stats[f"tokens/{name}@{n}"] = ratio((s[0].written, 1) if s else (0, 0) for s in spent)
        if name != "single":
            stats[f"tokens/{name}@{n}/counted"] = ratio(
                (s[0].written + s[1].tokens, 1) if s else (0, 0) for s in spent
            )
            plain[f"borrowed/{name}@{n}"] = chosen.borrowed / len(full) if full else math.nan
