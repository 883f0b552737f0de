"""More numbers of one run for the HTML report: the filter, the reward model, costs, the end, settings.

Long-form rows like those of `data.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from pipeline.recipe.measures import declared, main_of
from pipeline.recipe.shape import Stage
from pipeline.report.html.data import RunData, each_metric
from pipeline.run.record import NOT_GIVEN

KINDS = ("example", "stepexample", "pair")  #: what a filter keeps


# --- the filter


def flow(found: RunData) -> list[dict[str, Any]]:
    """How many traces each round wrote, how many were right, how many rows were kept."""
    rows: list[dict[str, Any]] = []
    for number, values in found.metrics.items():
        for stage in found.run.stages_in(number):
            count = {key: values.get(f"{stage.name}/{key}") for key in ("traces", "labels", "given", "right")}
            if stage.room == "generate" and count["traces"] is not None:
                rows.append(_step(number, stage.name, "generated", count["traces"]))
            if stage.room == "label" and count["labels"] is not None:  # nodes of a tree are labelled too
                given = count["labels"] if count["given"] is None else count["given"]
                rows.append(_step(number, stage.name, "labelled", min(count["labels"], given)))
                if count["right"] is not None:  # advantages and values judge no whole trace
                    rows.append(_step(number, stage.name, "right", count["right"]))
            if stage.room == "select":
                kept = sum(values.get(f"{stage.name}/{kind}s", 0) for kind in KINDS)
                rows += (
                    [_step(number, stage.name, f"kept by {stage.name}", kept)]
                    if _ran(found, stage, number)
                    else []
                )
    return rows


def _step(number: int, stage: str, step: str, count: float) -> dict[str, Any]:
    return {"round": number, "stage": stage, "step": step, "count": int(count)}


def _ran(found: RunData, stage: Stage, number: int) -> bool:
    return any(row["round"] == number and row["stage"] == stage.name for row in found.rows)


def reasons(found: RunData) -> list[dict[str, Any]]:
    """What became of the rows each filter read: kept, or dropped and why."""
    rows: list[dict[str, Any]] = []
    rooms = {stage.name: stage.room for stage in found.run.recipe.stages}
    for number, values in found.metrics.items():
        for name, value in values.items():
            stage, _, rest = name.partition("/")
            if rest.startswith("dropped/"):
                reason = rest.removeprefix("dropped/")
                value -= values.get(f"{stage}/{NOT_GIVEN}/{reason}", 0)
                rows.append(_reason(number, stage, rooms, reason, value))
    for row in flow(found):
        if row["step"].startswith("kept by "):
            number, stage = row["round"], row["stage"]
            lost = sum(one["count"] for one in rows if (one["round"], one["stage"]) == (number, stage))
            read = found.metrics[number].get(f"{stage}/given")  # a pair is made of two of them
            rows.append(_reason(number, stage, rooms, "kept", row["count"] if read is None else read - lost))
    return [row for row in rows if row["count"]]


def _reason(number: int, stage: str, rooms: Mapping[str, str], reason: str, value: float) -> dict[str, Any]:
    return {
        "round": number,
        "stage": stage,
        "room": rooms.get(stage, ""),
        "reason": reason.replace("_", " "),
        "count": int(value),
    }


# --- what evaluations declare


def calibration(found: RunData, stage: str, front: str) -> list[dict[str, Any]]:
    """For each tenth of the scores: the mean score, the share that was true, the share of points. front: how
    the names begin: calibration/."""
    rows = []
    for number, name, value, values in each_metric(found.metrics):
        match = re.fullmatch(rf"{re.escape(f'{stage}/{front}')}(\d+)/score", name)
        if match:
            each = name.removesuffix("score")
            rows.append(
                {"round": number, "stage": stage, "bin": int(match[1]), "score": value}
                | {key: values.get(f"{each}{key}", 0.0) for key in ("true", "share")}
            )
    return rows


def roc(found: RunData, stage: str, front: str) -> list[dict[str, Any]]:
    """The ROC curve of each round: true points found over false ones let through, as shares. front: how the
    names begin: roc/."""
    rows = []
    for number, values in found.metrics.items():
        begin = f"{stage}/{front}"
        known = {n.removeprefix(begin): v for n, v in values.items() if n.startswith(begin)}
        points = {int(at): share for at, share in known.items() if at.isdigit()}
        if points:
            ends = {0: 0.0} | dict(sorted(points.items())) | {100: 1.0}
            rows += [
                {"round": number, "stage": stage, "false": at / 100, "true": share}
                for at, share in ends.items()
            ]
    return rows


# --- cost


def times(found: RunData) -> list[dict[str, Any]]:
    """Wall seconds by round and stage, in the recipe's order."""
    order = {stage.name: place for place, stage in enumerate(found.run.recipe.stages)}
    rows = [
        {"round": number, "stage": stage, "seconds": round(seconds, 3)}
        for (number, stage), seconds in found.seconds.items()
        if stage in order
    ]
    return sorted(rows, key=lambda row: (row["round"], order[row["stage"]]))


def tokens(found: RunData) -> list[dict[str, Any]]:
    """Tokens charged by round, stage and model."""
    rows = []
    for row in found.rows:
        for name, value in row["metrics"].items():
            stage, _, rest = name.partition("/")
            if rest.startswith("charged/"):
                model = rest.removeprefix("charged/")
                rows.append({"round": row["round"], "stage": stage, "model": model, "tokens": int(value)})
    return rows


# --- the end


def final_table(found: RunData) -> list[dict[str, Any]]:
    """Each metric of `finally` that has a gain over another version, by the stages that judge by a main
    metric, beside the seed's, with the paired gain."""
    rows: list[dict[str, Any]] = []
    for row in found.finals():
        values, stage = row["metrics"], found.run.recipe.stage(row["stage"])
        known = {f"{stage.name}/{one.name}": one for one in declared(stage)} if main_of(stage) else {}
        for name, value in values.items():
            if not (metric := known.get(name)) or not metric.gain:
                continue
            gain = f"{stage.name}/{metric.gain}"
            rows.append(
                {"stage": stage.name, "what": metric.brief, "metric": metric, "after": value}
                | {f"after_{part}": values.get(f"{name}/{part}") for part in ("low", "high")}
                | {"before": values.get(f"{name}@0"), "gain": values.get(gain)}
                | {f"gain_{part}": values.get(f"{gain}/{part}") for part in ("low", "high")}
            )
    return rows


def versions(found: RunData) -> dict[str, str]:
    """Package versions and threads that the newest plan recorded."""
    newest: dict[str, str] = {}
    for number in sorted(found.metrics):
        for stage in found.run.stages_in(number):
            plan = found.run.stage_folder(stage, number).plan()
            if plan is not None and plan.recorded:
                newest = dict(plan.recorded.get("versions", {})) | {
                    "OMP_NUM_THREADS": str(plan.recorded.get("threads", ""))
                }
    return {key: value for key, value in newest.items() if value}


def recipe_differences(found: list[RunData]) -> list[dict[str, Any]]:
    """The settings in which runs differ, one row a key."""
    leaves = [{path: value for path, (value, _) in one.run.recipe.leaves().items()} for one in found]
    keys = dict.fromkeys(key for each in leaves for key in each if key not in ("name", "about"))
    return [
        {
            "key": key,
            "values": [
                yaml.safe_dump(each.get(key), default_flow_style=True).split("\n")[0] for each in leaves
            ],
        }
        for key in keys
        if len({repr(each.get(key)) for each in leaves}) > 1
    ]
