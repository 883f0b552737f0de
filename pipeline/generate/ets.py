"""ETS, efficient tree search (Hooper et al., arXiv:2502.13575): REBASE that counts what kept branches cost.

A step that goes on keeps the keys and values of its whole path in memory; paths that part late share most of
them. So at each depth, before the samples are shared out, the set S of open steps that may go on is chosen:
the one of the highest

    sum of REBASE's widths in S / all widths - node_cost * retained nodes / all nodes
                                             + coverage * clusters met by S / all clusters

where nodes are the open steps and all that stand above them, and S holds at least one. It is a small integer
program, solved exactly (HiGHS, by scipy); of sets equal to a hundredth of a node's cost the one with the
better steps wins. Then the widths are computed again over S. By hand, 8 samples: steps at .9 and .8 under one
parent and at .75 under another have widths 4, 3, 1, and there are six nodes with the root. The third step
costs two of them, 2/6, and its width is worth 1/8: where it says what another says it is given up, and the
two get 5 and 3; where it says something else, that cluster is worth 1.5 / 2, and it stays. The rule and its
defaults are those of the released code (SqueezeAILab/ETS). `node_cost: 0` is REBASE, row for row.

Clusters are the paper's by a sentence encoder, which is not at hand here: steps are of one cluster where they
say the same, as `merge` has it (`clusters: same`), or where the counts of their words and signs are near by
the same linkage and cut that the paper uses over embeddings (`clusters: words`; 3 + 4 = 7 and 4 + 3 = 7 are
one). What a search holds is measured by `evaluate: accuracy` with `held: true`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

from pydantic import Field

from pipeline.asks import Asks
from pipeline.generate import rebase
from pipeline.generate.tree import TreeNode
from pipeline.rows import Dropped, Group, Node, Question, Trace

TIE = 0.01  #: of a node's cost, that all better steps together may weigh between sets that are equal
SCALE = 1000.0  #: a node's cost in the program, far above its solver's absolute gap of 1e-6


class Settings(rebase.Settings):
    """The paper's: lambda_b 1, lambda_d 1.5 (in its code lambdac, lambdas; 1.45 at 256 samples)."""

    node_cost: float = Field(1.0, ge=0, description="lambda_b: cost of keeping all nodes; 0: REBASE")
    coverage: float = Field(1.5, ge=0, description="lambda_d: what it is worth to keep all clusters")
    clusters: Literal["same", "words"] = Field(
        "same", description="steps of one cluster say the same, or are near by the words they use"
    )
    near: float = Field(
        0.05, gt=0, le=2, description="words: cosine distance at which average linkage is cut"
    )


def generate(
    question: Question, settings: Settings, given: Group | None
) -> Asks[list[Trace | Node | Dropped]]:
    """REBASE's tree, grown from the kept steps alone."""
    return (yield from rebase.search(question, settings, partial(kept, settings)))


def kept(settings: Settings, live: Sequence[TreeNode], budget: int) -> list[TreeNode]:
    """The open steps that go on; `live` stands by falling reward."""
    if not settings.node_cost or len(live) < 2:
        return list(live)
    weights = rebase.widths([node.value for node in live], budget, settings.balance)
    steps = [node.step.strip() for node in live]
    groups = alike(steps) if settings.clusters == "same" else near(steps, settings.near)
    paths = [[id(node) for node in leaf.path] for leaf in live]
    chosen = choose(
        [weight / budget for weight in weights], paths, groups, settings.node_cost, settings.coverage
    )
    return [node for node, stays in zip(live, chosen, strict=True) if stays]


def choose(
    shares: Sequence[float],
    paths: Sequence[Sequence[int]],
    groups: Sequence[int],
    node_cost: float,
    coverage: float,
) -> list[bool]:
    """Which leaves stay: the set of highest worth (above), of equals the one whose leaves stand first.

    shares: of the widths, by leaf. paths: the nodes from the root to each leaf, itself included, under any
    numbers. groups: the cluster of each leaf, 0, 1, ...
    """
    import numpy as np
    from scipy.optimize import Bounds, LinearConstraint, milp

    number, num_groups = len(shares), max(groups) + 1
    above = dict.fromkeys(node for path in paths for node in path[:-1])
    total = number + len(above)
    worth = np.full(total + num_groups, -node_cost)  # leaves, what stands above them, clusters; times `total`
    worth[:number] += np.array(shares) * total
    worth[:number] += node_cost * TIE * np.arange(number, 0, -1) / number**2
    worth[total:] = coverage * total / num_groups
    rules = _rules(paths, {node: number + at for at, node in enumerate(above)}, groups, total)
    found = milp(
        -SCALE * worth,
        integrality=np.arange(total + num_groups) < number,  # the rest is whole where the leaves are
        bounds=Bounds(0, 1),
        constraints=LinearConstraint(rules, [0] * (rules.shape[0] - 1) + [1], np.inf),
        options={"mip_rel_gap": 0.0},
    )
    assert found.success, f"ets: {number} leaves under {len(above)} nodes: {found.message}"
    return [value > 0.5 for value in found.x[:number]]


def _rules(
    paths: Sequence[Sequence[int]], above: Mapping[int, int], groups: Sequence[int], total: int
) -> Any:
    """Sums that may not fall below 0: what stands above less what stands below; the leaves of a cluster less
    the cluster; and, in the last row, all leaves.
    """
    from scipy.sparse import coo_array

    links = sorted(
        {
            (above[up], above.get(down, leaf))
            for leaf, path in enumerate(paths)
            for up, down in zip(path, path[1:], strict=False)
        }
    )
    cells = [(row, up, 1) for row, (up, _) in enumerate(links)]
    cells += [(row, down, -1) for row, (_, down) in enumerate(links)]
    cells += [(len(links) + group, leaf, 1) for leaf, group in enumerate(groups)]
    cells += [(len(links) + group, total + group, -1) for group in sorted(set(groups))]
    last = len(links) + len(set(groups))
    cells += [(last, leaf, 1) for leaf in range(len(groups))]
    rows, columns, signs = zip(*cells, strict=True)
    return coo_array((signs, (rows, columns)), shape=(last + 1, total + len(set(groups)))).tocsr()


def alike(steps: Sequence[str]) -> list[int]:
    """Clusters of steps that say the same, numbered as they come."""
    known: dict[str, int] = {}
    return [known.setdefault(step, len(known)) for step in steps]


def near(steps: Sequence[str], cut: float) -> list[int]:
    """Clusters of steps by the words and signs in them: average linkage of cosine distances, cut at `cut`."""
    import re
    from collections import Counter

    import numpy as np
    from scipy.cluster.hierarchy import fcluster, linkage

    found = [Counter(re.findall(r"\w+|[^\w\s]", step)) for step in steps]
    words = sorted(set().union(*found))
    # the last column is of no account, but for steps without a word: those are near one another alone
    table = np.array([[*(each[word] for word in words), 1e-9] for each in found])
    if len(table) < 2:
        return [0] * len(table)
    return [int(group) - 1 for group in fcluster(linkage(table, "average", "cosine"), cut, "distance")]
