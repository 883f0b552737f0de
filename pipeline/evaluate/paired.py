"""From the statistics of several models to named metrics: values, intervals, changes, gains.

The names (docs/design.md, 4), for the first model of `of` and a metric M: `M`, `M/low`, `M/high`; its
incumbent `M@incumbent` and the paired `M/change`, `M/change/low`, `M/change/high`, which the gate reads.
Another version of the same model, `policy@0`: `M@0`, and for what counts right answers the paired `gain/M`
with `/low`, `/high` (`gain/greedy` for `accuracy/greedy`). Another model, `partner`: `M@partner`,
`M@partner@incumbent`, `M@partner/change`, ...
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from pipeline.evaluate.intervals import Floats, Ratio, Statistic, change, percentile95, resample, tidy

INCUMBENT = "@incumbent"
#: metrics that also get a gain over another version
GAINS = ("accuracy/", "valid", "pass@", "maj@", "best@", "auc")


class OfProblem(Protocol):
    """What an evaluation found on one problem."""

    @property
    def problem_id(self) -> str: ...


Found = TypeVar("Found", bound=OfProblem)


@dataclass
class Measured:
    """What is known of one model: statistics to compare, statistics only to show, and bare numbers."""

    compared: dict[str, Statistic] = field(default_factory=dict)
    shown: dict[str, Statistic] = field(default_factory=dict)
    plain: dict[str, float] = field(default_factory=dict)


@dataclass
class Seen:
    """What `over_problems` made its table of: the problems, and each model's statistics over them."""

    ids: list[str] = field(default_factory=list)
    models: dict[str, Measured] = field(default_factory=dict)


_seen: ContextVar[Seen | None] = ContextVar("seen", default=None)


def statistics_of(measure: Callable[[Any, Any], Any], found: Mapping[str, Any], settings: Any) -> Seen:
    """The statistics behind an evaluation's metrics, for who holds several runs against one another: its
    `measure` is asked as ever, and what `over_problems` came by on the way is kept."""
    seen = Seen()
    token = _seen.set(seen)
    try:
        measure(found, settings)
    finally:
        _seen.reset(token)
    return seen


def suffix(name: str, main: str) -> str:
    """What stands behind a metric's name for a model: "" for the first one, `@0` for its seed, `@partner`."""
    base = main.partition("@")[0]
    if name == main:
        return ""
    return name.removeprefix(base) if name.partition("@")[0] == base else f"@{name}"


def aligned(ids: Mapping[str, Sequence[str]]) -> list[str]:
    """The problems that every model was measured on, sorted.

    Raises:
        ValueError: there is none.
    """
    shared = set.intersection(*(set(known) for known in ids.values()))
    if not shared:
        raise ValueError(f"no problem was measured for all of {', '.join(ids)}")
    return sorted(shared)


def over_problems(
    found: Mapping[str, Sequence[Found]], columns: Callable[[list[Found]], Measured], resamples: int
) -> dict[str, float]:
    """The metrics of outcomes by model (keys as `measure` has them), over the problems that all were measured
    on: `columns` makes the statistics of one model's outcomes, in the order of the problems.
    """
    by_id = {name: {outcome.problem_id: outcome for outcome in rows} for name, rows in found.items()}
    ids = aligned({name: list(rows) for name, rows in by_id.items()})
    measured = {name: columns([rows[i] for i in ids]) for name, rows in by_id.items()}
    if (seen := _seen.get()) is not None:
        seen.ids, seen.models = ids, measured
    return {"problems": float(len(ids)), **tabulate(measured, resample(len(ids), resamples))}


class _Once:
    """A statistic whose resampled values are computed once, however many intervals want them."""

    def __init__(self, statistic: Statistic) -> None:
        self.statistic, self.value = statistic, statistic.value
        self.known: Floats | None = None

    def spread(self, weights: Floats) -> Floats:
        if self.known is None:
            self.known = self.statistic.spread(weights)
        return self.known

    def interval(self, weights: Floats) -> tuple[float, float]:
        if isinstance(self.statistic, Ratio):
            return self.statistic.interval(weights)
        return percentile95(self.spread(weights))


def tabulate(models: Mapping[str, Measured], weights: Floats) -> dict[str, float]:
    """Every metric by name, the first model being the one that bare names are of; what is undefined is left
    out.
    """
    main = next(iter(models))
    models = {
        name: Measured({n: _Once(s) for n, s in m.compared.items()}, m.shown, m.plain)
        for name, m in models.items()
    }
    table: dict[str, float] = {}
    for name, measured in models.items():
        end = suffix(name, main)
        _values(table, measured, end, weights, intervals=not name.endswith(INCUMBENT))
        if (before := models.get(name + INCUMBENT)) is not None:
            _changes(table, measured, before, end, weights)
    others = [n for n in models if n != main and not n.endswith(INCUMBENT)]
    versions = [n for n in others if n.partition("@")[0] == main.partition("@")[0]]
    for number, name in enumerate(versions):
        _gains(table, models[main], models[name], suffix(name, main) if number else "", weights)
    return {name: tidy(value) for name, value in table.items() if math.isfinite(value)}


def _values(
    table: dict[str, float], measured: Measured, end: str, weights: Floats, *, intervals: bool
) -> None:
    for metric, statistic in {**measured.compared, **measured.shown}.items():
        table[metric + end] = statistic.value
        if intervals:
            table[f"{metric}{end}/low"], table[f"{metric}{end}/high"] = statistic.interval(weights)
    table.update({metric + end: value for metric, value in measured.plain.items()})


def _changes(table: dict[str, float], after: Measured, before: Measured, end: str, weights: Floats) -> None:
    for metric, statistic in after.compared.items():
        if metric in before.compared:
            names = [f"{metric}{end}/change{part}" for part in ("", "/low", "/high")]
            table.update(zip(names, change(statistic, before.compared[metric], weights), strict=True))


def _gains(table: dict[str, float], after: Measured, before: Measured, end: str, weights: Floats) -> None:
    for metric, statistic in after.compared.items():
        if metric in before.compared and metric.startswith(GAINS):
            gain = f"gain/{metric.removeprefix('accuracy/')}{end}"
            names = [gain, f"{gain}/low", f"{gain}/high"]
            table.update(zip(names, change(statistic, before.compared[metric], weights), strict=True))
