"""Which versions of the models stand after a round: derived from manifests, never from rows."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.errors import Diverged, RatchetError
from pipeline.evaluate import Health
from pipeline.evaluate import gate as gates
from pipeline.recipe.measures import metric_of
from pipeline.recipe.shape import measured
from pipeline.run.record import round_metrics
from pipeline.run.run import Run


def gate_bytes(decision: dict[str, Any]) -> bytes:
    """gate.json of a decision."""
    return (json.dumps(decision, indent=1) + "\n").encode()


def decide(run: Run, number: int) -> dict[str, Any]:
    """Which versions of the models stand after a round. Reads manifests only, never rows.

    Raises:
        Diverged: a first reward model fails its health check, so nothing good could follow.
    """
    metrics = dict(round_metrics(run, number))
    earlier = run.gate(number - 1) if number else None
    assert earlier or not number, "a round is closed after the one before it"
    decisions: dict[str, Any] = {}
    standing: dict[str, Any] = {}
    for name in run.recipe.models:
        old = earlier["standing"][name] if earlier else run.versions.record(run.versions.base_weights(name))
        found = _after(run, name, number, old, metrics)
        standing[name] = found.standing
        if found.decision is not None:
            decisions[name] = found.said
            if not found.decision.promote:
                run.console.gate(number, name, found.decision)
    return {"round": number, "decisions": decisions, "standing": standing}


def foresee(run: Run, number: int) -> dict[str, Any]:
    """The models whose version after a round is sure before the round is done, and that version: every stage
    that trains or measures such a model, or that its gate names, is committed."""
    metrics, found = dict(round_metrics(run, number)), dict[str, Any]()
    for name, spec in run.recipe.models.items():
        named = {rule.metric.split("/")[0] for rule in spec.gate}
        missing = [
            stage.name
            for stage in run.stages_in(number)
            if run.stage_folder(stage, number).manifest() is None
            and (
                stage.name in named
                or (stage.room == "train" and stage.settings.model == name)
                or (stage.room == "evaluate" and name in measured(stage))
            )
        ]
        with contextlib.suppress(RatchetError):  # what this one would stop at, the run says when it is there
            if not missing:
                old = run.versions.record_after(name, number - 1)
                found[name] = _after(run, name, number, old, metrics).standing
    return found


@dataclass(frozen=True)
class _After:
    """What becomes of one model after a round. decision: None where the round trained no version of it."""

    standing: dict[str, Any]
    decision: gates.Decision | None = None
    said: dict[str, Any] = field(default_factory=dict)


def _after(run: Run, name: str, number: int, old: dict[str, Any], metrics: Mapping[str, float]) -> _After:
    """Does a model's candidate take over from the version before it?

    Raises:
        Diverged: a first reward model that fails its health check, or a collapsed policy.
    """
    spec, candidate = run.recipe.models[name], run.versions.trained(name, number)
    if candidate is None:
        return _After(old)
    first = number == 0 or run.versions.weights_from(old).fresh_head
    stages = {rule.metric.split("/")[0] for rule in spec.gate}
    ran = {stage.name for stage in run.stages_in(number)}
    unmeasured = bool(stages - ran) and not first
    rules = [rule for rule in spec.gate if rule.metric.split("/")[0] in ran]
    declared = {rule.metric: one for rule in rules if (one := metric_of(run.recipe, rule.metric))}
    less = {name for name, one in declared.items() if one.less}
    absent = {name: one.absent for name, one in declared.items()}
    health = health_of(run, name, number)
    unchanged = not first and run.versions.weights_from(old).hash == candidate.hash
    if unmeasured or unchanged:  # nothing to compare, but a bound on what was measured holds
        rules = [rule for rule in rules if rule.bound]
    decision = gates.decide(rules, metrics, first, health, less, absent)
    if unchanged:  # a first step of a warm-up, advantages that are all 0, the same rows from the base again
        more = decision.reasons if rules or health.failures else []
        decision = replace(decision, reasons=[gates.SAME, *more])
    if first and not decision.promote:
        raise Diverged(f"round {number}: the first {name} is not usable: {'; '.join(decision.reasons)}")
    record = run.versions.record(candidate)
    said = decision.as_dict() | {"trial": unmeasured and decision.promote, "candidate": record}
    back = old.get("measured") or {key: value for key, value in old.items() if key != "trial"}
    if not decision.promote:
        return _After(back, decision, said)  # the last version that was measured and promoted
    return _After(record | ({"trial": True, "measured": back} if unmeasured else {}), decision, said)


def health_of(run: Run, name: str, number: int) -> Health:
    """What the round's evaluations found wrong with a model.

    Raises:
        Diverged: a policy has collapsed; nothing that it writes could teach.
    """
    failures = []
    for stage in run.stages_in(number):
        if stage.room == "evaluate" and name in measured(stage):
            failures += run.stage_folder(stage, number).require().extra["failures"]
    if failures and name in run.recipe.policies:
        raise Diverged(f"round {number}: {'; '.join(failures)}")
    return Health(failures=failures)
