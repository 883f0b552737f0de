"""What a monitor is told of a round's shards and weights: where they lie, what they were made from.
Nothing is copied.

    for each in artifacts(found, 2): ...  # "quickstart-sample", "quickstart-policy", alias "round-002"

Lineage is that of the plans: an artifact names those that its stage read and the models that acted, by name,
round and hash. Not here: how a monitor takes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.recipe.shape import Stage
from pipeline.report.html.data import RunData
from pipeline.report.monitor import Reference

LINEAGE = ("artifact", "what", "made by", "from", "models", "rows", "hash", "where")


def artifacts(found: RunData, number: int, final: bool = False) -> Iterator[Reference]:
    """The committed stages of a round and the weights that it trained."""
    run = found.run
    if number == 0 and not final:
        yield from _shards(found, None, 0)
    for stage in run.recipe.section("finally") if final else run.stages_in(number):
        yield from _shards(found, stage, number)
        if stage.room == "train":
            yield from _weights(found, stage, number)


def _shards(found: RunData, stage: Stage | None, number: int) -> Iterator[Reference]:
    """A stage's rows (None: the prepared problems)."""
    run = found.run
    folder = run.stage_folder(stage, number) if stage else run.prepare_folder
    plan, manifest = folder.plan(), folder.manifest()
    if plan is None or manifest is None or not manifest.counts.rows:
        return
    yield Reference(
        name=f"{run.name}-{stage.name if stage else 'prepare'}",
        kind="shards",
        alias=folder.path.parent.name if stage else "start",
        folder=folder.path,
        made_by=f"{plan.room}: {plan.method}",
        made_from=[_named(run.name, path) for path in plan.inputs],
        models=[_acting(found, name, digest) for name, digest in plan.models.items()],
        digest=manifest.hash,
        rows=dict(manifest.counts.rows),
        more={"fingerprint": plan.fingerprint, "seed": plan.seed, "round": plan.round},
    )


def _named(run: str, path: str) -> str:
    """`quickstart/round-002/check` -> `quickstart-check:round-002`."""
    parts = path.split("/")
    return f"{run}-{parts[-1]}:{parts[1] if len(parts) == 3 else 'start'}"


def _acting(found: RunData, name: str, digest: str) -> str:
    """`policy:round-002`, where that round's gate named these weights; else `policy:start`, the base."""
    base = name.partition("@")[0]
    for number, gate in found.gates.items():
        decision = gate["decisions"].get(base)
        if decision and decision["candidate"]["hash"] == digest:
            return f"{found.name}-{base}:round-{number:03d}"
    return f"{found.name}-{base}:start ({digest[:12]})"


def _weights(found: RunData, stage: Stage, number: int) -> Iterator[Reference]:
    """What a train stage left: its adapter, or whole weights, and what the gate said."""
    run, folder = found.run, found.run.stage_folder(stage, number)
    plan, manifest = folder.plan(), folder.manifest()
    record: Mapping[str, Any] | None = manifest.extra.get("weights") if manifest else None
    if plan is None or record is None:
        return
    name = record["model"]
    decision = found.gates.get(number, {}).get("decisions", {}).get(name)
    verdict = {} if decision is None else {"promoted": bool(decision["promote"]), "gate": decision["reasons"]}
    yield Reference(
        name=f"{run.name}-{name}",
        kind="model",
        alias=f"round-{number:03d}",
        folder=run.weights / (record["adapter"] or record["base"]),
        made_by=f"train: {plan.method}",
        made_from=[_named(run.name, path) for path in plan.inputs],
        models=[_acting(found, each, digest) for each, digest in plan.models.items()],
        digest=record["hash"],
        more={"base": run.recipe.models[name].base, "head": record["head"], "round": number, **verdict},
    )
