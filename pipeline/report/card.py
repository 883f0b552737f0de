"""README.md of a run's folder: what it is, from which model and data, what is in it. Ready for the Hub as a
data set, and for `datasets.load_dataset("data/quickstart", "round-001-rows")`.

Derived from the recipe, manifests and metrics, without times, so equal runs have equal cards; written where
metrics.jsonl is. Not here: the card of one stage's folder (`store/card.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import yaml

from pipeline.recipe.measures import Measure, measures
from pipeline.report import summary
from pipeline.store.parts import FOLDERS

if TYPE_CHECKING:
    from pipeline.run.run import Run
    from pipeline.store.folder import StageFolder

Rows = Sequence[Mapping[str, Any]]
LOADS = ("Example", "Pair")  #: row kinds that a policy's trainer takes as they are


def run_card(run: Run, rows: Rows) -> str:
    """The card, from what is committed. rows: as metrics.jsonl has them."""
    kinds = list(_kinds(run))
    default = next((k for k in reversed(kinds) if k["kind"] in LOADS), kinds[0] if kinds else None)
    head = {
        "pretty_name": run.name,
        "license": run.recipe.header.license or "unknown",
        "tags": ["ratchet", "reasoning", "self-improvement", "synthetic"],
        "configs": [
            {"config_name": each["config"]}
            | ({"default": True} if each is default else {})
            | {"data_files": [{"split": "train", "path": each["path"]}]}
            for each in kinds
        ],
    }
    front = yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=1000)
    parts = [
        _what(run, rows),
        _sources(run),
        _rounds(rows, measures(run.recipe)),
        _contents(kinds, default),
        _terms(run),
    ]
    return f"---\n{front}---\n# {run.name}\n\n" + "\n".join(parts)


def _folders(run: Run) -> Iterator[tuple[str, str, StageFolder]]:
    """(config name, what made it, folder) of every stage that may be there."""
    yield "problems", "prepare", run.prepare_folder
    number = 0
    while (run.folder / f"round-{number:03d}").is_dir():
        for stage in run.stages_in(number):
            folder = run.stage_folder(stage, number)
            yield f"round-{number:03d}-{stage.name}", f"{stage.room}: {stage.method}", folder
        number += 1
    for path in sorted(run.folder.glob("final-*")):
        for stage in run.recipe.section("finally"):
            folder = run.stage_folder(stage, int(path.name.split("-")[1]))
            yield f"{path.name}-{stage.name}", f"{stage.room}: {stage.method}", folder


def _kinds(run: Run) -> Iterator[dict[str, Any]]:
    """Every kind of row of every committed stage, as a config of the data set."""
    known = run.kept.card  # of folders that are committed, which do not change
    for name, made_by, folder in _folders(run):
        if name not in known:
            plan, manifest = folder.plan(), folder.manifest()
            if plan is None or manifest is None:
                continue
            place = folder.path.relative_to(run.folder).as_posix()
            known[name] = list(_configs(name, made_by, place, plan.main, manifest.counts.rows))
        yield from known[name]


def _configs(
    name: str, made_by: str, place: str, main: str, rows: Mapping[str, int]
) -> Iterator[dict[str, Any]]:
    for kind, count in rows.items():
        if count:
            inside = "" if kind == main else f"{FOLDERS[kind]}/"
            yield {
                "config": name if kind == main else f"{name}-{FOLDERS[kind]}",
                "path": f"{place}/{inside}train-*.parquet",
                "kind": kind,
                "rows": count,
                "made_by": made_by,
            }


def _what(run: Run, rows: Rows) -> str:
    header = run.recipe.header
    about = [header.about.strip()] if header.about.strip() else []
    ended = [row for row in rows if row.get("final")]
    newest = max((row["round"] for row in ended), default=None)
    metrics: dict[str, float] = {}
    for row in ended or rows:
        if row["round"] == newest or not ended:
            metrics.update(row["metrics"])
    said = summary.result(metrics, measures(run.recipe))
    where = f"Measured at the end, after round {newest}" if ended else "Measured so far"
    told = [f"{where}: {'; '.join(said)}."] if said else ["Nothing has been measured yet."]
    lines = [
        "Rows that language models wrote and learned from in rounds of self-improvement, made by Ratchet: "
        "every trace, its labels, what was kept and what was dropped and why.",
        *about,
        *told,
    ]
    return "\n\n".join(lines) + "\n"


def _sources(run: Run) -> str:
    """Models and data that it began with."""
    lines = ["## From", ""]
    for name, model in run.recipe.models.items():
        kind = "policy" if name in run.recipe.policies else "process reward model"
        kind += f" ({model.head} head)" if model.head else ""
        tuned = "all weights" if model.lora == "none" else f"LoRA {_settings(model.lora)}"
        lines.append(f"- model `{name}`: {kind}, base `{model.base}`, {tuned}")
    manifest = run.prepare_folder.manifest()
    splits = manifest.extra.get("splits", {}) if manifest else {}
    counts = ", ".join(f"{count:,} {split}" for split, count in splits.items())
    for task in run.recipe.tasks:
        lines.append(f"- task `{task.use}`" + (f": {counts} problems" if counts else ""))
    lines.append(f"- seed {run.recipe.seed}; `recipe.yaml` holds every setting, `metrics.jsonl` every number")
    return "\n".join(lines) + "\n"


def _settings(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())


def _rounds(rows: Rows, known: Sequence[Measure]) -> str:
    merged: dict[int, dict[str, float]] = {}
    for row in rows:
        if not row.get("final"):
            merged.setdefault(row["round"], {}).update(row["metrics"])
    told = [summary.round_line({"round": n, "metrics": values}, known) for n, values in merged.items()]
    if not told:
        return "## Rounds\n\nNone is finished.\n"
    columns = summary.used_columns(told)
    table = [columns, ["---"] * len(columns), *([line[column] for column in columns] for line in told)]
    caption = summary.caption([{"metrics": values} for values in merged.values()], known)
    lines = ["## Rounds", "", *([f"Accuracy: {caption}.", ""] if caption else [])]
    return "\n".join([*lines, *(f"| {' | '.join(cells)} |" for cells in table), ""])


def _contents(kinds: list[dict[str, Any]], default: dict[str, Any] | None) -> str:
    lines = ["## Rows", "", "`load_dataset(FOLDER, CONFIG)`; Example and Pair rows load in TRL as they are."]
    if default:
        lines[-1] += f" Without a config: `{default['config']}`."
    lines += ["", "| config | row | rows | made by |", "|---|---|---|---|"]
    lines += [
        f"| {each['config']} | {each['kind']} | {each['rows']:,} | {each['made_by']} |" for each in kinds
    ]
    return "\n".join([*lines, ""])


def _terms(run: Run) -> str:
    named = run.recipe.header.license
    terms = (
        f"`license: {named}`, as the recipe says."
        if named
        else "Nobody has said yet (`license:` in the recipe)."
    )
    return (
        "## Terms\n\n"
        f"{terms} Questions and answers come from the task's data, traces from the models above; the terms "
        "of both apply.\n"
    )
