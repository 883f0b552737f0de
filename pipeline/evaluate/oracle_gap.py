"""How much of what an oracle's labels give do a model's own verdicts give? ("Oracle gap", arXiv:2606.01075.)

    gap: {evaluate: oracle_gap, of: policy, oracle: taught, base: policy@0, split: dev}

`policy` was trained on labels of its own (`label: self_verify`), `taught` in the same way on the task's
(`label: outcome`), `base` is what both began as; all three answer the same problems. Beside what `accuracy`
says of each (`accuracy/greedy@taught`, `gain/greedy`):

- `gap`: the oracle's accuracy less the own one's, paired
- `closed`: (own - base) / (oracle - base); left out where the oracle gained nothing, for then there is no
  gap to close
- `gap/pass@k`, with samples: the same of pass@k

Every other key is that of `evaluate: accuracy`, without a search.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from pipeline.evaluate import Health, Metric, Panel, accuracy
from pipeline.evaluate.intervals import Made, Statistic, change, resample, tidy
from pipeline.evaluate.outcomes import Outcome, columns
from pipeline.evaluate.paired import aligned, suffix
from pipeline.settings import ModelName

answer, grade, outcomes = accuracy.answer, accuracy.grade, accuracy.outcomes
SECTION = "How far from an oracle?"


class Settings(accuracy.Settings):
    """Who was taught by the oracle, and what both began as."""

    oracle: ModelName = Field("oracle", description="the model that was trained on the task's own labels")
    base: ModelName = Field("policy@0", description="what both were trained from")

    @model_validator(mode="after")
    def _three(self) -> Settings:
        if self.search is not None or self.from_:
            raise ValueError("it compares models by their own answers: leave search and from out")
        if len({self.own, self.oracle, self.base}) < 3:
            raise ValueError("of, oracle and base are three models")
        return self

    @property
    def own(self) -> str:
        """The model whose gap it is."""
        return self.of if isinstance(self.of, str) else self.of[0]

    @property
    def measured(self) -> list[str]:
        of = [self.of] if isinstance(self.of, str) else list(self.of)
        return list(dict.fromkeys([*of, self.oracle, self.base]))


def measure(found: Mapping[str, Sequence[Outcome]], settings: Settings) -> dict[str, float]:
    """What `accuracy` measures, and the gap."""
    return {**accuracy.measure(found, settings), **gaps(found, settings)}


def gaps(found: Mapping[str, Sequence[Outcome]], settings: Settings) -> dict[str, float]:
    """gap, closed and their intervals, over the problems that all were measured on."""
    by_id = {name: {outcome.problem_id: outcome for outcome in rows} for name, rows in found.items()}
    ids = aligned({name: list(rows) for name, rows in by_id.items()})
    weights = resample(len(ids), settings.resamples)

    def stats(name: str) -> Mapping[str, Statistic]:
        return columns([by_id[name][i] for i in ids], settings.ks, [], settings.chains).compared

    own, oracle, base = (stats(name) for name in (settings.own, settings.oracle, settings.base))
    table: dict[str, float] = {}
    head = "accuracy/greedy"
    for name in (head, *(f"pass@{k}" for k in settings.ks)):
        if name in own and name in oracle:
            key = "gap" if name == head else f"gap/{name}"
            values = change(oracle[name], own[name], weights)
            table |= zip((key, f"{key}/low", f"{key}/high"), values, strict=True)
    share = Made((own[head], oracle[head], base[head]), closed)
    table |= zip(
        ("closed", "closed/low", "closed/high"), (share.value, *share.interval(weights)), strict=True
    )
    return {name: tidy(value) for name, value in table.items() if np.isfinite(value)}


def closed(own: Any, oracle: Any, base: Any) -> Any:
    """The share of the oracle's gain that was had without one (.44 and .53 from .31 -> .13 / .22 = .5909);
    NaN where the oracle gained nothing."""
    gain = np.asarray(oracle - base)
    return np.where(gain > 0, (own - base) / np.where(gain > 0, gain, 1.0), np.nan)


def metrics(settings: Settings) -> list[Metric]:
    """Those of `accuracy`, and the gap's."""
    found = [
        Metric("gap", "points behind the oracle", less=True, headline=True, short="gap", column="oracle gap"),
        Metric("closed", "of the oracle's gain, had without one", headline=True, short="closed"),
    ]
    found += [Metric(f"gap/pass@{k}", f"behind the oracle at pass@{k}", less=True) for k in settings.ks]
    return [*accuracy.metrics(settings), *found]


def panels(settings: Settings) -> list[Panel]:
    """The three models, and the gap between them."""
    head = "accuracy/greedy"
    three = {
        head: settings.own,
        f"{head}@{settings.oracle}": f"{settings.oracle}, by the oracle",
        f"{head}{suffix(settings.base, settings.own)}": settings.base,
    }
    return [
        *accuracy.panels(settings),
        Panel(SECTION, "Own labels, the oracle's, none", "curve", three, axis="accuracy", picture="oracle"),
        Panel(SECTION, "The gap", "curve", {"gap": "points behind the oracle"}, zero=False),
        Panel(SECTION, "Share of the oracle's gain", "curve", {"closed": "had without one"}, small=True),
    ]


def remarks(metrics: Mapping[str, float], settings: Settings) -> dict[str, str]:
    """The gap, in words."""
    if "gap" not in metrics:
        return {}
    gap, low, high = (metrics.get(name, metrics["gap"]) for name in ("gap", "gap/low", "gap/high"))
    said = f"It is {100 * gap:.1f} points behind the oracle's ({100 * low:+.1f} to {100 * high:+.1f})"
    share = metrics.get("closed")
    more = "" if share is None else f", having {100 * share:.0f} % of what the oracle's labels gained"
    return {SECTION: f"{said}{more}."}


def health(metrics: Mapping[str, float], settings: Settings) -> Health:
    """Collapse, as `accuracy` sees it; and is there a gap to speak of?"""
    found = accuracy.health(metrics, settings)
    if "closed" not in metrics:
        more = "the oracle's labels gained nothing over the base: there is no gap to close"
        return Health(warnings=[*found.warnings, more], failures=list(found.failures))
    return found
