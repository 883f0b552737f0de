"""Which versions of the models stand after a round: derived from manifests, never from rows."""

from __future__ import annotations

import json
from typing import Any

from pipeline.errors import Diverged
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
    for name, spec in run.recipe.models.items():
        old = earlier["standing"][name] if earlier else run.versions.record(run.versions.base_weights(name))
        candidate = run.versions.trained(name, number)
        if candidate is None:
            standing[name] = old
            continue
        first = number == 0 or run.versions.weights_from(old).fresh_head
        stages = {rule.metric.split("/")[0] for rule in spec.gate}
        ran = {stage.name for stage in run.stages_in(number)}
        unmeasured = bool(stages - ran) and not first
        rules = [rule for rule in spec.gate if rule.metric.split("/")[0] in ran]
        less = {rule.metric for rule in rules if (one := metric_of(run.recipe, rule.metric)) and one.less}
        health = health_of(run, name, number)
        decision = gates.decide(() if unmeasured else rules, metrics, first, health, less)
        if first and not decision.promote:
            raise Diverged(f"round {number}: the first {name} is not usable: {'; '.join(decision.reasons)}")
        decisions[name] = decision.as_dict() | {
            "trial": unmeasured,
            "candidate": run.versions.record(candidate),
        }
        back = old.get("measured") or {key: value for key, value in old.items() if key != "trial"}
        if decision.promote:
            standing[name] = run.versions.record(candidate) | (
                {"trial": True, "measured": back} if unmeasured else {}
            )
        else:
            standing[name] = back  # the last version that was measured and promoted
            run.console.gate(number, name, decision)
    return {"round": number, "decisions": decisions, "standing": standing}


def health_of(run: Run, name: str, number: int) -> Health:
    """What the round's evaluations found wrong with a model.

    Raises:
        Diverged: a policy has collapsed; nothing that it writes could teach.
    """
    failures = []
    for stage in run.stages_in(number):
        if stage.room == "evaluate" and name in measured(stage):
            failures += run.stage_folder(stage, number).require().extra["failures"]
    if failures and run.recipe.models[name].head is None:
        raise Diverged(f"round {number}: {'; '.join(failures)}")
    return Health(failures=failures)
