"""What the evaluations of a recipe say that they measure: the one place where shared code learns a metric's
name. Not here: what a method declares (`evaluate/__init__.py`), how numbers are worded (`report/`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pipeline.evaluate import TROUBLE, Metric, Panel
from pipeline.recipe.methods import hook, method
from pipeline.recipe.shape import Recipe, Stage, first_part


@dataclass(frozen=True, slots=True)
class Measure:
    """A metric that a stage of a recipe declares."""

    stage: str
    metric: Metric

    @property
    def name(self) -> str:
        """As metrics.jsonl has it: measure/accuracy/greedy."""
        return f"{self.stage}/{self.metric.name}"


#: in front of every metric of answers whose generator saw gold: gold/accuracy/search
SAW_GOLD = "gold/"


def mark_of(stage: Stage) -> str:
    """What stands in front of the names of a stage's metrics: nothing, unless its answers saw gold."""
    return SAW_GOLD if stage.saw_gold else ""


def declared(stage: Stage) -> list[Metric]:
    """The metrics that an evaluate stage declares; none of another room."""
    if stage.room != "evaluate" or not stage.built:
        return []
    found = list(hook("evaluate", method("evaluate", stage.method), "metrics")(stage.settings))
    return [_marked(one) for one in found] if stage.saw_gold else found


def gains_of(stage: Stage) -> list[str]:
    """The gains that it measures over another version of its first model; none where there is no other."""
    found = declared(stage)
    first, *others = [first_part(name) for name in stage.settings.measured] if found else [""]
    return [one.gain for one in found if one.gain and first in others]


def _marked(one: Metric) -> Metric:
    """A metric that says of itself that its answers saw gold."""
    said: dict[str, Any] = {
        key: f"{text} (sees gold)" for key in ("says", "short", "column") if (text := getattr(one, key))
    }
    gain = f"{SAW_GOLD}{one.gain}" if one.gain else ""
    return replace(one, name=f"{SAW_GOLD}{one.name}", gain=gain, **said)


def panels_of(stage: Stage) -> list[Panel]:
    """The figures that an evaluate stage offers, and of a training what it watches; none of another room."""
    if watches := watched(stage):
        return [
            Panel(TROUBLE, says, "curve", {name: says}, share=False, small=True)
            for name, says in watches.items()
        ]
    if stage.room != "evaluate" or not stage.built:
        return []
    found = list(hook("evaluate", method("evaluate", stage.method), "panels")(stage.settings))
    if not stage.saw_gold:
        return found
    return [
        replace(one, metrics={f"{SAW_GOLD}{k}": f"{says} (sees gold)" for k, says in one.metrics.items()})
        for one in found
    ]


def watched(stage: Stage) -> Mapping[str, str]:
    """What a training says of itself that a gate may bound, and what a reader calls it."""
    if stage.room != "train" or not stage.built:
        return {}
    return dict(hook("train", method("train", stage.method), "monitors")(stage.settings))


def main_of(stage: Stage) -> Metric | None:
    """The metric that a stage judges its models by, where it is one that judges those who answer."""
    return next((one for one in declared(stage) if one.main), None)


def measures(recipe: Recipe) -> tuple[Measure, ...]:
    """Every declared metric of a recipe, stage by stage."""
    return measures_of(recipe.stages)


def measures_of(stages: Iterable[Stage]) -> tuple[Measure, ...]:
    """Every declared metric of these stages."""
    return tuple(Measure(stage.name, metric) for stage in stages for metric in declared(stage))


def main_measure(metrics: Mapping[str, float], known: Iterable[Measure]) -> Measure | None:
    """The first main measure that these metrics hold."""
    return next((one for one in known if one.metric.main and one.name in metrics), None)


def metric_of(recipe: Recipe, name: str) -> Metric | None:
    """What is declared of a metric, its stage in front and its model behind: measure/accuracy/greedy@0."""
    read, _, metric = name.partition("/")
    stage = next((one for one in recipe.stages if one.name == read), None)
    plain = metric.removesuffix("@incumbent")
    known = {one.name: one for one in (declared(stage) if stage else ())}
    return known.get(plain) or known.get(plain.rpartition("@")[0])
