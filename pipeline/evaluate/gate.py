"""The gate: may this round's weights take over?

It refuses only what is surely worse: the paired 95 % upper bound of the change lies below -margin
(docs/design.md, 1). It reads metrics, never rows. A model that had no working weights before skips the
comparison; limits (`at_most`, `at_least`) and a reward model's health check always count.

For a metric of which less is better (trace_error, brier, ...) a margin works the other way round: refused
when the lower bound of the change is above +margin.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.errors import RecipeError
from pipeline.evaluate import Health
from pipeline.evaluate._rules import GateRule

#: of a model that a training left as it was
SAME = "the training left the weights as they were: nothing to compare"


@dataclass(frozen=True)
class Decision:
    """Promoted or not, and one sentence a rule."""

    promote: bool
    reasons: list[str]
    first: bool = False

    def as_dict(self) -> dict[str, Any]:
        """For gate.json."""
        return asdict(self)


def decide(
    rules: GateRule | Sequence[GateRule],
    metrics: Mapping[str, float],
    first: bool,
    health: Health | None = None,
    less: Collection[str] = (),
    absent: Mapping[str, float | None] | None = None,
) -> Decision:
    """Promote or refuse one model.

    rules: none promote whatever passes its health check. metrics: the round's, with the stage in front.
    first: the model had no working weights before. less: the rules' metrics of which less is better, as their
    evaluations declare. absent: what a bound takes where a declared metric had nothing to be measured by;
    None refuses.

    Raises:
        RecipeError: a rule names a metric that no stage wrote. Not where the health check failed: the model
            is refused anyway, and the failure may be why (there is no AUC of steps that are all true).
    """
    rules = [rules] if isinstance(rules, GateRule) else list(rules)
    without = {
        rule.metric: (absent or {})[rule.metric]
        for rule in rules
        if rule.limit is not None and rule.metric not in metrics and rule.metric in (absent or {})
    }
    failures = list(health.failures) if health else []
    missing = {
        name: _missing(name, metrics)
        for rule in rules
        for name in _read(rule, first)
        if name not in metrics and name not in without
    }
    if missing and not failures:
        raise RecipeError(list(missing.values()))
    verdicts = [
        _without(rule, without[rule.metric])
        if rule.metric in without
        else _verdict(rule, metrics, first, rule.metric in less)
        for rule in rules
        if not missing.keys() & {*_read(rule, first)}
    ]
    reasons = [sentence for _, sentence in verdicts] + [f"health check: {text}" for text in failures]
    if first:
        reasons.insert(0, "first weights of this model: nothing to compare with")
    promote = all(ok for ok, _ in verdicts) and not failures
    return Decision(promote, reasons or ["no gate: promoted as it is"], first)


def _read(rule: GateRule, first: bool) -> list[str]:
    """The metrics that a rule reads."""
    if rule.limit is not None:
        return [rule.metric]
    return [] if first else [rule.metric, *(f"{rule.metric}/change{part}" for part in ("", "/low", "/high"))]


def _missing(name: str, metrics: Mapping[str, float]) -> str:
    near = difflib.get_close_matches(name, metrics, n=1, cutoff=0.0)
    there = f"; the nearest is {near[0]}" if near else "; no evaluate stage has written any"
    return f"gate: no metric {name}{there}"


def _without(rule: GateRule, taken: float | None) -> tuple[bool, str]:
    """A bound on what a round had nothing to measure by."""
    bound = f"{'at least' if rule.at_most is None else 'at most'} {rule.limit:g}"
    if taken is None:
        return False, f"{rule.metric}: there was nothing to measure it by, {bound}: refused"
    ok = rule.within(taken)
    return ok, f"{rule.metric}: none, taken as {taken:g}, {bound}: {'kept' if ok else 'refused'}"


def _verdict(rule: GateRule, metrics: Mapping[str, float], first: bool, less: bool) -> tuple[bool, str]:
    if rule.limit is not None:
        value = metrics[rule.metric]
        ok, bound = rule.within(value), "at least" if rule.at_most is None else "at most"
        return ok, f"{rule.metric}: {value:.4g}, {bound} {rule.limit:g}: {'kept' if ok else 'refused'}"
    if first:
        return True, f"{rule.metric}: not compared"
    assert rule.margin is not None
    value, change, low, high = (metrics[name] for name in _read(rule, first))
    worse = low > rule.margin if less else high < -rule.margin
    if math.isnan(low) or math.isnan(high):
        worse = False  # no interval, no proof
    verdict = "refused, surely worse" if worse else "kept"
    return not worse, (
        f"{rule.metric}: {value - change:.4g} -> {value:.4g}, change {change:+.4g} "
        f"[{low:+.4g}, {high:+.4g}], margin {rule.margin:g}: {verdict}"
    )
