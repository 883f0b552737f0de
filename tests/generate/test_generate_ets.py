"""ETS: which steps stay by hand and against all sets, REBASE where nodes cost nothing, and what it does to a tree."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from test_generate_guided import World

from pipeline.asks import Continue
from pipeline.generate import ets, rebase
from pipeline.rows import Question, Trace

#: root 0; a1 and a2 under a = 1, b1 under b = 2: six nodes, 1/6 each
PATHS = [[0, 1, 11], [0, 1, 12], [0, 2, 13]]


@pytest.mark.parametrize(
    ("shares", "groups", "node_cost", "coverage", "wanted"),
    [
        # b1 says what another says: 1/8 does not pay for b and b1, 2/6
        ([4 / 8, 3 / 8, 1 / 8], [0, 1, 0], 1.0, 1.5, [True, True, False]),
        # it says something else: 1/8 + 1.5 / 2 does
        ([4 / 8, 3 / 8, 1 / 8], [0, 0, 1], 1.0, 1.5, [True, True, True]),
        # 1/8 + .4 / 2 = .325 does not
        ([4 / 8, 3 / 8, 1 / 8], [0, 0, 1], 1.0, 0.4, [True, True, False]),
        # half the price, 1/6, is still more than 1/8; at .3 it is 1/10
        ([4 / 8, 3 / 8, 1 / 8], [0, 0, 0], 0.5, 0.0, [True, True, False]),
        ([4 / 8, 3 / 8, 1 / 8], [0, 0, 0], 0.3, 0.0, [True, True, True]),
        # nothing is worth its price: one stays all the same, the best
        ([0.4, 0.3, 0.3], [0, 0, 0], 60.0, 0.0, [True, False, False]),
        # b1's share, .5, is above the others', .3 and .2, but not above both under one roof: 5/6 against 4/6 and 3/6
        ([0.3, 0.2, 0.5], [0, 0, 0], 2.0, 0.0, [False, False, True]),
        # without a width and of one cluster, both at the same price: the better step
        ([1.0, 0.0, 0.0], [0, 1, 1], 1.0, 1.5, [True, True, False]),
    ],
)
def test_golden_sets(shares, groups, node_cost, coverage, wanted):
    assert ets.choose(shares, PATHS, groups, node_cost, coverage) == wanted


def worth(stays, shares, paths, groups, node_cost, coverage):
    """The rule, as the docstring has it."""
    retained = {node for keep, path in zip(stays, paths, strict=True) if keep for node in path}
    met = {group for keep, group in zip(stays, groups, strict=True) if keep}
    every = {node for path in paths for node in path}
    share = sum(share for keep, share in zip(stays, shares, strict=True) if keep)
    return share - node_cost * len(retained) / len(every) + coverage * len(met) / len(set(groups))


@st.composite
def leaves(draw):
    """Up to seven leaves of a tree of depth three, their rewards falling, their clusters numbered as they come."""
    parents = draw(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=7))
    paths = [[0, 1 + a, 10 + 3 * a + b, 100 + leaf] for leaf, (a, b) in enumerate(parents)]
    rewards = sorted(draw(st.lists(st.floats(0, 1), min_size=len(paths), max_size=len(paths))), reverse=True)
    budget = draw(st.integers(1, 16))
    shares = [width / budget for width in rebase.widths(rewards, budget, 0.2)]
    groups = ets.alike(draw(st.lists(st.sampled_from("xyz"), min_size=len(paths), max_size=len(paths))))
    return shares, paths, groups


@settings(max_examples=60, deadline=None)
@given(
    tree=leaves(), node_cost=st.sampled_from([0.1, 0.5, 1.0, 3.0]), coverage=st.sampled_from([0, 0.5, 1.5])
)
def test_no_other_set_is_worth_more(tree, node_cost, coverage):
    shares, paths, groups = tree
    found = ets.choose(shares, paths, groups, node_cost, coverage)
    sets = [stays for stays in product([False, True], repeat=len(paths)) if any(stays)]
    assert tuple(found) in sets
    best = max(worth(stays, *tree, node_cost, coverage) for stays in sets)
    nodes = len({node for path in paths for node in path})
    # up to what a tie may weigh, a hundredth of a node
    assert worth(found, *tree, node_cost, coverage) >= best - ets.TIE * node_cost / nodes - 1e-6


def test_clusters():
    assert ets.alike(["a", "b", "a", "c"]) == [0, 1, 0, 2]
    found = ets.near(["3 + 4 = 7", "4 + 3 = 7", "3 * 4 = 12", "", "…"], 0.05)
    assert found[0] == found[1]  # the same words and signs
    assert len(set(found)) == 4
    # 3 + 4 = 7 against 3 * 4 = 12: three of five in common, a distance of .4
    assert len(set(ets.near(["3 + 4 = 7", "3 * 4 = 12"], 0.39))) == 2
    assert len(set(ets.near(["3 + 4 = 7", "3 * 4 = 12"], 0.41))) == 1
    assert ets.near(["a"], 0.05) == [0]


def forest(table):
    """Two first steps; the docstring's three second ones, all of which go on to an end."""
    return table(
        steps={"": ["a\n", "b\n"], "a\n": ["1\n", "2\n", "1\n"], "b\n": ["1\n"], "a\n1\n": ["x."], "a\n2\n": ["y."], "b\n1\n": ["z."]},
        values={"a\n": 0.8, "b\n": 0.7, "a\n1\n": 0.9, "a\n2\n": 0.8, "b\n1\n": 0.75,
                "a\n1\nx.": 0.5, "a\n2\ny.": 0.6, "b\n1\nz.": 0.9},
    )  # fmt: skip


def asked(one):
    return [[prefix.text for prefix in ask.listed] for ask in one.asked if isinstance(ask, Continue)]


@pytest.mark.parametrize(
    ("method", "more", "last"),
    [
        (rebase, {}, ["a\n1\n"] * 4 + ["a\n2\n"] * 3 + ["b\n1\n"]),
        # b's 1 says what a's says
        (ets, {}, ["a\n1\n"] * 5 + ["a\n2\n"] * 3),
        (ets, {"node_cost": 0.2}, ["a\n1\n"] * 4 + ["a\n2\n"] * 3 + ["b\n1\n"]),
        # b's 3/8 does not pay for 2.5/3, nor a 2's for 2.5/4
        (ets, {"node_cost": 2.5, "coverage": 0.0}, ["a\n1\n"] * 8),
        (ets, {"clusters": "words", "near": 2.0}, ["a\n1\n"] * 5 + ["a\n2\n"] * 3),  # all of one cluster
    ],
)
def test_golden_trees(table, question, method, more, last):
    one = forest(table)
    rows = one.drive(method.generate(question, method.Settings(n=8, merge=True, **more), None))
    # 8 at the root, all for a and b: at .8 and .7 ceil(8 * .622) = 5 and 3; then the three of the docstring
    second = ["a\n"] * 8 if more.get("node_cost", 0) > 1 else ["a\n"] * 5 + ["b\n"] * 3
    assert asked(one) == [[""] * 8, second, last]
    chosen = [row.text for row in rows if isinstance(row, Trace) and row.chosen]
    assert chosen == (
        ["b\n1\nz."] if "b\n1\n" in last else ["a\n2\ny."] if "a\n2\n" in last else ["a\n1\nx."]
    )


def driven(search, seed):
    """What a search gives in a world of hashes, and the prefixes of each of its asks."""
    world, reply, seen = World(seed), None, []
    while True:
        try:
            ask = search.send(reply)
        except StopIteration as stop:
            return stop.value, seen
        if isinstance(ask, Continue):
            seen.append([prefix.text for prefix in ask.listed])
        reply = world.reply(ask)


SHOWN = Question(id="p", question="?", prompt="Q:", prompt_used="Q:")


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000), merge=st.booleans(), n=st.integers(1, 9), coverage=st.sampled_from([0, 1.5])
)
def test_where_nodes_cost_nothing_it_is_rebase_row_for_row(seed, merge, n, coverage):
    shared = {"n": n, "merge": merge, "max_depth": 5}
    free = ets.Settings(node_cost=0, coverage=coverage, **shared)
    one, other = rebase.generate(SHOWN, rebase.Settings(**shared), None), ets.generate(SHOWN, free, None)
    assert driven(one, seed) == driven(other, seed)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), merge=st.booleans(), clusters=st.sampled_from(["same", "words"]))
def test_as_many_samples_as_rebase_from_no_more_steps(seed, merge, clusters):
    """At the second depth, to which both come alike; further down their trees differ."""
    shared = {"n": 8, "merge": merge, "max_depth": 3}
    _, one = driven(rebase.generate(SHOWN, rebase.Settings(**shared), None), seed)
    _, other = driven(ets.generate(SHOWN, ets.Settings(clusters=clusters, **shared), None), seed)
    assert [len(asked) for asked in one[:2]] == [len(asked) for asked in other[:2]]
    assert all(set(kept) <= set(every) for every, kept in zip(one[:2], other[:2], strict=True))


@pytest.mark.parametrize(
    ("key", "value"), [("node_cost", -1), ("coverage", -0.1), ("clusters", "bert"), ("near", 0)]
)
def test_what_means_nothing_is_refused(key, value):
    with pytest.raises(ValidationError, match=key):
        ets.Settings(**{key: value})
