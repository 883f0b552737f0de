"""Training rows for a process reward model: a value for each step.

From a tree, a row is the path to a leaf. A node shared by several paths is trained in the first of them only
(the others carry null there), or with `shared: all` in each, which costs nothing more and weighs a node by
its leaves: where most rows are last steps, the early ones are else soon drowned. Plain traces are treated
alike: equal token prefixes are one node. What trains:

- step_scores (default): the labeller's values, of nodes or of steps. Where no label has any, a prefix is
  worth `values`: share: the share of the problem's traces through it that end right (Math-Shepherd's soft
  label without new roll-outs); distance: ReST-MCTS*'s k / K on a right route, and the value of a wrong step
  just off it (by hand).
- advantage: the labeller's advantages, one a step or one for the last step; may be negative, so train with
  `target: advantage`.
- correct: every step has the trace's outcome (Cobbe et al., Uesato et al.). Every trace then trains all its
  steps.

`ends: outcome` is for labels of steps alone, as DiVeRSe's: a wrong trace may end in a step that has no
label, or that is right as a step. Its last step is then trained as the whole trace is, which `train: prm`
with `step_weight` takes for the solution's label. (Trees have their outcomes at their ends.)

Hinted traces are dropped: their steps follow from the hint.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar, Literal

from pydantic import Field

from pipeline.rows import Dropped, Example, Group, Label, Node, Pair, StepExample, Trace
from pipeline.select import SelectSettings
from pipeline.settings import added
from pipeline.tasks import BaseTask

Place = tuple[str, tuple[int, ...]]


class Settings(SelectSettings):
    """Which labels become targets."""

    needs: ClassVar[tuple[str, ...]] = ("Trace", "Label")
    makes: ClassVar[tuple[str, ...]] = ("StepExample", "Dropped")

    use: Literal["step_scores", "advantage", "correct"] = "step_scores"
    values: Literal["share", "distance"] = Field(
        "share", description="a prefix's value where no label has one"
    )
    shared: Literal["first", "all"] = Field(
        "first", description="a step on several paths trains in the first of them, or in all"
    )
    ends: Literal["label", "outcome"] = added(
        "label",
        description="what a trace's last step is worth: its label, or whether the whole trace is right",
    )
    max_per_problem: int | None = Field(
        None, ge=1, description="rows a problem, taken evenly from all; none: all"
    )


@dataclass(slots=True)
class Path:
    """A way from the prompt to a leaf: token ids, step ends and targets of the completion, and the row's
    name.
    """

    name: str  #: of the trace, or of the last node where no trace ends there
    prompt: str
    steps: list[str]
    token_ids: list[int]
    step_ends: list[int]
    labels: list[float | None]
    keys: Sequence[Hashable]  #: what each label stands for; a key is trained once. Empty: train all


def select(
    group: Group, settings: Settings, task: BaseTask, encode: Callable[[str], list[int]]
) -> list[Example | StepExample | Pair | Dropped]:
    """A StepExample for each path that trains something, a Dropped for each trace that does not and each
    unlabelled node.
    """
    from_tree = settings.use == "step_scores" and any(node.id in group.labels for node in group.nodes)
    paths, dropped = tree_paths(group) if from_tree else trace_paths(group, settings)
    paths = list(fresh(paths, dropped))
    places = evenly(len(paths), settings.max_per_problem)
    dropped += [(path.name, "over_limit") for place, path in enumerate(paths) if place not in places]
    kept = [path for place, path in enumerate(paths) if place in places]
    return [
        *(
            step_example(group.problem_id, path, encode)
            for path in (once(kept) if settings.shared == "first" else kept)
        ),
        *(Dropped(problem_id=group.problem_id, what=what, reason=reason) for what, reason in dropped),
    ]


def fresh(paths: Iterable[Path], dropped: list[tuple[str, str]]) -> Iterator[Path]:
    """The paths that train something, and something that none before them does; the others are dropped."""
    seen: set[Hashable] = set()
    for path in paths:
        trains = {key for key, label in zip(path.keys, path.labels, strict=False) if label is not None}
        if all(label is None for label in path.labels):
            dropped.append((path.name, "unlabelled"))
        elif path.keys and trains <= seen:
            dropped.append((path.name, "duplicate"))
        else:
            seen |= trains
            yield path


def once(paths: Iterable[Path]) -> Iterator[Path]:
    """The paths without the labels that an earlier one carries."""
    seen: set[Hashable] = set()
    for path in paths:
        if path.keys:
            pairs = list(zip(path.keys, path.labels, strict=True))
            path.labels = [None if key in seen else label for key, label in pairs]
            seen.update(key for key, label in pairs if label is not None)
        yield path


def step_example(problem_id: str, path: Path, encode: Callable[[str], list[int]]) -> StepExample:
    """A path with its prompt in front: positions count from the first prompt token."""
    prompt_ids = encode(path.prompt)
    return StepExample(
        problem_id=problem_id,
        prompt=path.prompt,
        completions=path.steps,
        labels=path.labels,
        token_ids=prompt_ids + path.token_ids,
        step_ends=[len(prompt_ids) + end for end in path.step_ends],
        trace_id=path.name,
    )


def evenly(count: int, limit: int | None) -> set[int]:
    """`limit` places of `count`, spread evenly."""
    if limit is None or count <= limit:
        return set(range(count))
    return {i * count // limit for i in range(limit)}


def tree_paths(group: Group) -> tuple[list[Path], list[tuple[str, str]]]:
    """The paths to the deepest labelled nodes, and what is dropped: (id, reason)."""
    by_id = {node.id: node for node in group.nodes}
    prompt = next((trace.prompt for trace in group.traces), "")
    above = {node.parent for node in group.nodes if known(node, group) is not None}
    dropped: list[tuple[str, str]] = []
    paths: list[Path] = []
    for node in group.nodes:
        if node.parent is None:
            dropped.append((node.id, "root"))
        elif known(node, group) is None:
            dropped.append((node.id, "unlabelled"))
        elif node.id not in above:
            paths.append(path_to(node, by_id, group, prompt))
    ended = {path.name for path in paths}
    dropped += [(trace.id, "unlabelled") for trace in group.traces if trace.id not in ended]
    return paths, dropped


def known(node: Node, group: Group) -> float | None:
    """The labelled value of a node."""
    label = group.labels.get(node.id)
    return None if label is None else label.value


def path_to(leaf: Node, by_id: dict[str, Node], group: Group, prompt: str) -> Path:
    """The path from just below the root to a node."""
    nodes = [leaf]
    while (parent := nodes[0].parent) is not None and by_id[parent].parent is not None:
        nodes.insert(0, by_id[parent])
    # a node that only ended the answer, by a stop text, adds no token: it stands for its parent's position
    ends = list(accumulate(len(node.token_ids) for node in nodes))
    last = {end: place for place, end in enumerate(ends)}
    return Path(
        name=leaf.trace_id or leaf.id,
        prompt=prompt,
        steps=["".join(nodes[i].step for i in range(len(nodes)) if ends[i] == end) for end in last],
        token_ids=[token for node in nodes for token in node.token_ids],
        step_ends=list(last),
        labels=[known(nodes[place], group) for place in last.values()],
        keys=[nodes[place].id for place in last.values()],
    )


def trace_paths(group: Group, settings: Settings) -> tuple[list[Path], list[tuple[str, str]]]:
    """The traces with their targets, and what is dropped: (id, reason)."""
    dropped = [(node.id, "unlabelled") for node in group.nodes]
    dropped += [(trace.id, "hinted") for trace in group.traces if trace.hinted]
    usable = [trace for trace in group.traces if not trace.hinted]
    targets = targets_of(usable, group, settings)
    paths = [
        Path(
            name=trace.id,
            prompt=trace.prompt,
            steps=trace.steps,
            token_ids=trace.token_ids,
            step_ends=trace.step_ends,
            labels=targets.get(trace.id, []),
            keys=[] if settings.use == "correct" else [place_of(trace, end) for end in trace.step_ends],
        )
        for trace in usable
    ]
    return paths, dropped


def targets_of(traces: list[Trace], group: Group, settings: Settings) -> dict[str, list[float | None]]:
    """One target a step, for each trace that has any."""
    labelled = [(trace, label) for trace in traces if (label := group.label(trace)) is not None]
    if settings.use == "correct":
        return {
            t.id: [float(label.correct)] * len(t.step_ends)
            for t, label in labelled
            if label.correct is not None
        }
    if settings.use == "advantage":
        return {t.id: a_step(label.advantage, t) for t, label in labelled if label.advantage}
    if any(label.step_scores is not None for _, label in labelled):
        found = {t.id: a_step(label.step_scores, t) for t, label in labelled if label.step_scores}
        return found if settings.ends == "label" else with_outcomes(found, labelled)
    judged = [
        (t, bool(label.correct))
        for t, label in labelled
        if label.correct is not None and t.finish != "budget"  # an abandoned path was never wrong
    ]
    return shares(judged) if settings.values == "share" else distances(judged)


def with_outcomes(
    found: dict[str, list[float | None]], labelled: Iterable[tuple[Trace, Label]]
) -> dict[str, list[float | None]]:
    """The same, but that the last step of a trace says whether the whole is right; an abandoned one keeps its
    label.
    """
    for trace, label in labelled:
        if trace.id in found and label.correct is not None and trace.finish != "budget":
            found[trace.id][-1] = float(label.correct)
    return found


def a_step(values: list[float | None], trace: Trace) -> list[float | None]:
    """One value a step; a single one is the whole trace's and stands at its last step."""
    num_steps = len(trace.step_ends)
    if len(values) == 1:
        return [None] * (num_steps - 1) + values
    if len(values) != num_steps:
        raise ValueError(f"trace {trace.id}: {len(values)} labels for {num_steps} steps")
    return list(values)


def place_of(trace: Trace, end: int) -> Place:
    """The first `end` tokens, and what they answer: later turns of a conversation have their own."""
    return trace.prompt if trace.turn else "", tuple(trace.token_ids[:end])


def shares(judged: list[tuple[Trace, bool]]) -> dict[str, list[float | None]]:
    """For each step the share of the traces through its prefix that end right."""
    through: dict[Place, list[bool]] = defaultdict(list)
    for trace, right in judged:
        for end in trace.step_ends:
            through[place_of(trace, end)].append(right)
    found: dict[str, list[float | None]] = {}
    for trace, _ in judged:
        votes = [through[place_of(trace, end)] for end in trace.step_ends]
        found[trace.id] = [sum(vote) / len(vote) for vote in votes]
    return found


def distances(judged: list[tuple[Trace, bool]]) -> dict[str, list[float | None]]:
    """k / K by the shortest right trace through a prefix; off it v - (1 - v) / (m + 1), m the distance
    where the route was left.
    """
    length: dict[Place, int] = {}  # steps of the shortest right trace through it
    for trace, right in judged:
        for end in [0, *trace.step_ends] if right else []:
            key = place_of(trace, end)
            length[key] = min(length.get(key, len(trace.step_ends)), len(trace.step_ends))
    found: dict[str, list[float | None]] = {}
    for trace, _ in judged:
        if (left := length.get(place_of(trace, 0), -1)) < 0:
            continue  # nothing right is known of this problem, or of this turn
        value, values = 0.0, []
        for k, end in enumerate(trace.step_ends, 1):
            whole = length.get(place_of(trace, end))
            if whole is not None:
                value, left = k / whole, whole - k
            else:
                value = max(0.0, value - (1 - value) / (left + 1))
            values.append(value)
        found[trace.id] = list(values)
    return found
