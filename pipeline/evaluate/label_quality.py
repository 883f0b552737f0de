"""Are a labeller's labels true? Every labelled step against the task's exact step oracle, and what it cost.

    truth: {evaluate: label_quality, from: tree, split: train}

A point is a prefix that the stages in `from` labelled: a step of a trace (`step_scores`, else `advantage`) or
a node of a tree, each prefix once. A label above `above` calls it sound; it is sound where the oracle says
that all so far is right and a right end is still reachable. Several label stages in `from` are read as one,
the later winning; one labeller a stage keeps them apart.

Metrics: accuracy, false_accept (lost prefixes called sound), false_reject (sound ones called lost), the same
by depth (accuracy/step/1, ...; the steps up to the prefix), auc (the label as a score, no threshold),
auc/same_step, sound (the share that is), prefixes (labelled ones), prefixes_a_problem, unknown (the share
that the oracle says nothing of: no oracle, or a prefix that ends inside a step), and tokens_a_label: what the
label stages in `from` were charged, over their labels. A charge is known by chunk, so a problem bears an even
share of its chunk's.

Hard labels, soft ones and advantages are read alike: MC > 0 is OmegaPRM's and Math-Shepherd's own reading.
Not here: whether a reward model learns from them (`prm_quality`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from pipeline.asks import Asks
from pipeline.evaluate import EvaluateSettings, Health, Metric, Panel, Search
from pipeline.evaluate.intervals import Statistic
from pipeline.evaluate.outcomes import ratio
from pipeline.evaluate.paired import Measured, over_problems
from pipeline.evaluate.ranking import Points, Ranking
from pipeline.rows import Dropped, Group, Label, Node, Problem, Question, Trace
from pipeline.settings import STANDING, Cost, Length, PolicyName, added
from pipeline.tasks import BaseTask

GOLD, GIVEN, CHARGED = "gold", "given", "charged"  #: labellers of the rows that this evaluation writes
DEEPEST = 12  #: deeper steps are counted together with this one


class Settings(EvaluateSettings):
    """What counts as a label that says sound."""

    needs: ClassVar[tuple[str, ...]] = ("Label",)

    of: Annotated[PolicyName, STANDING] = Field("policy", description="who wrote the labelled traces")
    split: Literal["train", "dev", "test"] = "train"
    above: float = Field(0.0, description="a label above it calls a prefix sound")
    outcomes: bool = added(
        False, description="a trace whose steps have no label: its outcome, right or wrong, is that of each"
    )
    resamples: int = Field(2000, ge=100, description="of the bootstrap over problems")

    def answering(self, model: str, task: Length) -> Cost:
        return Cost()


@dataclass(frozen=True, slots=True)
class LabelOutcome:
    """The labels of one problem."""

    problem_id: str
    points: tuple[tuple[int, float, bool], ...]  #: (steps up to there, label, sound)
    unknown: int
    charged: float


@dataclass(slots=True)
class Path:
    """A completion, or the way to a node, with what is said of some of its prefixes."""

    trace: Trace
    labels: list[float | None]


def answer(
    question: Question,
    settings: Settings,
    model: str,
    search: Search | None = None,
    given: Group | None = None,
) -> Asks[list[Any]]:
    """The labelled paths as Traces, their labels as Labels, and one Label with the charge."""
    yield from ()  # asks nothing
    if given is None:
        raise ValueError("label_quality measures what `from` brings")
    rows: list[Any] = []
    seen: set[tuple[int, ...]] = set()
    for path in [*trace_paths(given, settings.outcomes), *node_paths(given)]:
        keys = [tuple(path.trace.token_ids[:end]) for end in path.trace.step_ends]
        labels = [None if key in seen else label for key, label in zip(keys, path.labels, strict=True)]
        if all(label is None for label in labels):
            continue
        seen.update(key for key, label in zip(keys, labels, strict=True) if label is not None)
        rows.append(_named(path.trace, question.id, model, len(rows) // 2))
        rows.append(_label(question.id, rows[-1].id, GIVEN, step_scores=labels))
    if charge := math.fsum(given.charged.values()):
        rows.append(_label(question.id, f"{question.id}/{model}/charged", CHARGED, value=charge))
    return rows or [Dropped(problem_id=question.id, what=question.id, reason="unlabelled")]


def trace_paths(group: Group, outcomes: bool = False) -> Iterator[Path]:
    """The traces with a label for their steps; outcomes: or with one for the whole."""
    for trace in group.traces:
        label = group.label(trace)
        values = list((label.step_scores or label.advantage or []) if label else [])
        if outcomes and not values and label is not None and label.correct is not None:
            values = [float(label.correct)] * len(trace.step_ends)
        if len(values) == 1 < len(trace.step_ends):  # one for the whole trace: it stands at its last step
            values = [*[None] * (len(trace.step_ends) - 1), *values]
        if len(values) == len(trace.step_ends):
            yield Path(trace, values)


def node_paths(group: Group) -> Iterator[Path]:
    """The ways to the deepest labelled nodes."""
    by_id = {node.id: node for node in group.nodes}
    known = {
        node.id: label.value
        for node in group.nodes
        if (label := group.labels.get(node.id)) is not None and label.value is not None
    }
    above = {by_id[name].parent for name in known}
    prompt = next((trace.prompt for trace in group.traces), "")
    for name in known:
        if name not in above and by_id[name].parent is not None:
            yield _path(by_id[name], by_id, known, prompt)


def _path(leaf: Node, by_id: Mapping[str, Node], known: Mapping[str, float], prompt: str) -> Path:
    nodes = [leaf]
    while (parent := nodes[0].parent) is not None and by_id[parent].parent is not None:
        nodes.insert(0, by_id[parent])
    ends = list(accumulate(len(node.token_ids) for node in nodes))
    last = {
        end: place for place, end in enumerate(ends)
    }  # a node that added no token stands for the one before
    trace = Trace(
        problem_id=leaf.problem_id,
        id=leaf.id,
        prompt=prompt,
        text="".join(node.step for node in nodes),
        token_ids=[token for node in nodes for token in node.token_ids],
        step_ends=list(last),
        steps=["".join(node.step for node, at in zip(nodes, ends, strict=True) if at == end) for end in last],
        finish="eos" if leaf.terminal else "budget",
    )
    return Path(trace, [known.get(nodes[place].id) for place in last.values()])


def _named(trace: Trace, problem_id: str, model: str, number: int) -> Trace:
    return Trace(
        problem_id=problem_id,
        id=f"{problem_id}/{model}/{number}",
        prompt=trace.prompt,
        text=trace.text,
        token_ids=trace.token_ids,
        step_ends=trace.step_ends,
        steps=trace.steps,
        finish=trace.finish,
        tokens_charged=0,
        model=model,
    )


def _label(problem_id: str, name: str, labeller: str, **said: Any) -> Label:
    return Label(problem_id=problem_id, trace_id=name, labeller=labeller, **said)


def grade(problem: Problem, rows: Sequence[Any], task: BaseTask) -> list[Label]:
    """The oracle's verdict on each prefix that a path names (1 or 0); null where it has none."""
    found = []
    for trace in (row for row in rows if isinstance(row, Trace)):
        steps = whole_steps(trace, task)
        verdicts = task.step_oracle(problem, task.steps(trace.text)) or []
        truth = [float(verdicts[num - 1]) if num and num <= len(verdicts) else None for num in steps]
        found.append(_label(problem.id, trace.id, GOLD, step_scores=truth))
    return found


def whole_steps(trace: Trace, task: BaseTask) -> list[int]:
    """How many of the task's own steps each prefix of a path holds; 0 where it ends inside of one."""
    ends = list(accumulate(len(step) for step in task.steps(trace.text)))
    last = ends[-1] if ends else 0
    if ends and trace.finish not in ("eos", "stop") and not trace.text.endswith(task.step_separator):
        last = ends[-2] if len(ends) > 1 else 0  # the last step was never finished
    number = {end: place for place, end in enumerate(ends, 1) if end <= last}
    return [number.get(at, 0) for at in accumulate(len(step) for step in trace.steps)]


def outcomes(
    problem: Problem,
    traces: Sequence[Trace],
    labels: Sequence[Label],
    settings: Settings,
    model: str,
    task: BaseTask,
) -> LabelOutcome:
    """The labels of one problem beside the truth."""
    said = {label.trace_id: label.step_scores or [] for label in labels if label.labeller == GIVEN}
    gold = {label.trace_id: label.step_scores or [] for label in labels if label.labeller == GOLD}
    points: list[tuple[int, float, bool]] = []
    unknown = 0
    for trace in (trace for trace in traces if trace.model == model):
        columns = zip(whole_steps(trace, task), said[trace.id], gold[trace.id], strict=True)
        for depth, label, truth in columns:
            if label is None or not math.isfinite(label):
                continue
            if truth is None:
                unknown += 1
            else:
                points.append((depth, label, truth == 1))
    charged = math.fsum(label.value or 0.0 for label in labels if label.labeller == CHARGED)
    return LabelOutcome(problem.id, tuple(points), unknown, charged)


def measure(found: Mapping[str, Sequence[LabelOutcome]], settings: Settings) -> dict[str, float]:
    """Metrics without the stage's name, with intervals over problems."""
    return over_problems(found, lambda rows: columns(rows, settings), settings.resamples)


def columns(found: Sequence[LabelOutcome], settings: Settings) -> Measured:
    """The statistics of a labeller over problems."""
    flat = [(*point, n) for n, outcome in enumerate(found) for point in outcome.points]
    points = Points.of([(label, sound, depth, depth, problem) for depth, label, sound, problem in flat])
    stats: dict[str, Statistic] = {
        name: ratio([counted(o.points, name, settings.above) for o in found]) for name in RATES
    }
    stats["auc"] = Ranking(points, np.zeros(len(points), dtype=np.int64))
    stats["auc/same_step"] = Ranking(points, points.step)
    stats["tokens_a_label"] = ratio([(o.charged, len(o.points) + o.unknown) for o in found])
    known, unknown = len(points), sum(o.unknown for o in found)
    plain = {
        "prefixes": float(known + unknown),
        "prefixes_a_problem": (known + unknown) / len(found),
        "unknown": unknown / (known + unknown) if known + unknown else math.nan,
    }
    for at in sorted({min(point[0], DEEPEST) for point in flat}):
        here = [point[:3] for point in flat if min(point[0], DEEPEST) == at]
        for name in RATES:
            num, den = counted(here, name, settings.above)
            plain[f"{name}/step/{at}"] = num / den if den else math.nan
    return Measured(stats, {}, plain)


RATES = ("accuracy", "false_accept", "false_reject", "sound")


def counted(points: Sequence[tuple[int, float, bool]], name: str, above: float) -> tuple[float, float]:
    """(how many, of how many) for a rate."""
    told = [(label > above, sound) for _, label, sound in points]
    if name == "false_accept":
        return sum(says for says, sound in told if not sound), sum(not sound for _, sound in told)
    if name == "false_reject":
        return sum(not says for says, sound in told if sound), sum(sound for _, sound in told)
    if name == "sound":
        return sum(sound for _, sound in told), len(told)
    return sum(says == sound for says, sound in told), len(told)


#: metric -> what a reader calls it; whether less of it is better, whether it is a share, and a headline
NAMES = {
    "accuracy": ("labels that are true", False, True, True),
    "false_accept": ("lost prefixes called sound", True, True, True),
    "false_reject": ("sound prefixes called lost", True, True, True),
    "auc": ("AUC of the label over prefixes (0.5 is chance)", False, False, True),
    "auc/same_step": ("AUC among prefixes of one depth", False, False, False),
    "tokens_a_label": ("tokens charged a label", True, False, True),
    "prefixes": ("labelled prefixes", False, False, False),
    "prefixes_a_problem": ("labelled prefixes a problem", False, False, False),
    "sound": ("prefixes that are sound", False, True, False),
    "unknown": ("labels that the oracle says nothing of", True, True, False),
}


def metrics(settings: Settings) -> list[Metric]:
    """The metrics that may be named before anything has run."""
    return [
        Metric(name, says, less, share, headline) for name, (says, less, share, headline) in NAMES.items()
    ]


def panels(settings: Settings) -> list[Panel]:
    """The rates by round, by depth of the step, and a table of the rest."""
    section = "Are the labels true?"
    rates = {name: NAMES[name][0] for name in RATES[:3]}
    rest = {name: says for name, (says, *_) in NAMES.items() if name not in rates}
    return [
        Panel(section, "Against the step oracle", "curve", rates),
        *(
            Panel(section, f"By depth of the step: {says}", "bars", {f"{name}/step/": "step"})
            for name, says in rates.items()
        ),
        Panel(section, "What labels cost and cover", "table", rest, share=False),
    ]


def health(metrics: Mapping[str, float], settings: Settings) -> Health:
    """Is there anything to compare?"""
    if not metrics.get("prefixes"):
        return Health(warnings=["no step of what `from` brings has a label"])
    if metrics.get("unknown", 0.0) == 1:
        return Health(
            warnings=[
                "the task has no step oracle, or no labelled prefix ends where a step does: labels were "
                "counted, and not held against the truth"
            ]
        )
    return Health()
