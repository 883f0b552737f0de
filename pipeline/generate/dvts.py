"""Diverse verifier tree search (search-and-learn): n / width separate beams of one, so that the best never
crowd out the rest.

Each lane samples `width` next steps and goes on with the best of its own. Two lanes that say the same share
a node of the tree and still sample apart.
"""

from __future__ import annotations

from pipeline.asks import Asks
from pipeline.generate.beam import BeamSettings
from pipeline.generate.tree import Tree, TreeNode
from pipeline.rows import Dropped, Group, Node, Question, Trace


class Settings(BeamSettings):
    """Beam search's settings; n / width lanes."""


def generate(
    question: Question, settings: Settings, given: Group | None
) -> Asks[list[Trace | Node | Dropped]]:
    """The tree of all lanes, its ended traces, and the one chosen."""
    tree = Tree(question, settings)
    lanes = [tree.root] * (settings.n // settings.width)
    while lanes and not tree.over:
        grown = yield from tree.grow(lanes, settings.width)
        children = list(dict.fromkeys(child for siblings in grown for child in siblings))
        kept = set(map(id, (yield from tree.score(children))))
        heads = [best([child for child in siblings if id(child) in kept]) for siblings in grown]
        lanes = [head for head in heads if head is not None and not head.done]
        if lanes and lanes[0].depth >= settings.max_depth:
            yield from tree.finish(lanes, settings.temperature)
            break
    return tree.rows(tree.best_end() or best(lanes))


def best(nodes: list[TreeNode]) -> TreeNode | None:
    """The node of highest value, the first of equals."""
    return max(nodes, key=lambda node: node.rank, default=None)
