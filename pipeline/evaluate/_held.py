"""What a search keeps in memory, from its Node rows: at each depth the open steps and what stands above them.

A token that several paths share is counted once, as a server that shares prefixes keeps it; the prompt, which
all share, is not counted. ETS (arXiv:2502.13575) measures what it lowers so, as a mean over depths. A search
that grows depth by depth holds just that; of one that comes back to earlier steps it is what the whole tree
would hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pipeline.evaluate import Metric
from pipeline.rows import Label, Node

METRICS = (
    Metric("held/nodes", "steps held at a depth", less=True, share=False, short="steps held"),
    Metric("held/tokens", "tokens held at a depth", less=True, share=False, short="tokens held"),
    Metric("held/shared", "tokens of its paths that are held once for several", short="shared"),
)
NAMES = tuple(metric.name for metric in METRICS)


def held(nodes: Sequence[Node]) -> dict[str, float]:
    """The metrics of one problem's tree by name; nothing where no step was open."""
    by_id = {node.id: node for node in nodes}
    depths: dict[int, list[Node]] = {}
    for node in nodes:
        if node.depth and not node.terminal:
            depths.setdefault(node.depth, []).append(node)
    if not depths:
        return {}
    paths = {depth: [_path(leaf, by_id) for leaf in leaves] for depth, leaves in depths.items()}
    alive = [{node.id: node for path in some for node in path} for some in paths.values()]
    tokens = sum(_tokens(one.values()) for one in alive)
    apart = sum(_tokens(path) for some in paths.values() for path in some)
    values = (sum(map(len, alive)) / len(alive), tokens / len(alive), 1 - tokens / apart if apart else 0.0)
    return dict(zip(NAMES, values, strict=True))


def labels_of(problem_id: str, model: str, nodes: Sequence[Node]) -> list[Label]:
    """The same as rows: `labeller` is the metric."""
    return [
        Label(problem_id=problem_id, trace_id=f"{problem_id}/{model}/{name}", value=value, labeller=name)
        for name, value in held(nodes).items()
    ]


def from_labels(labels: Iterable[Label], model: str) -> tuple[tuple[str, float], ...]:
    """One model's metrics, read back."""
    return tuple(
        (label.labeller, label.value)
        for label in labels
        if label.labeller in NAMES
        and label.value is not None
        and label.trace_id == f"{label.problem_id}/{model}/{label.labeller}"
    )


def _path(leaf: Node, by_id: Mapping[str, Node]) -> list[Node]:
    """From the first step to the leaf; the root holds nothing."""
    found = [leaf]
    while (above := by_id.get(found[-1].parent or "")) is not None and above.depth:
        found.append(above)
    return found


def _tokens(nodes: Iterable[Node]) -> int:
    return sum(len(node.token_ids) for node in nodes)
