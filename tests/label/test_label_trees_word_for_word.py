"""Labellers that search, compare or look up: each ask and each row to its last field, and the rules at their bounds."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from label_world import CHARACTERS, PROBLEM, Lines, World, trace, written
from test_label_word_for_word import asked, dropped, label, opened

from pipeline.asks import All, Continue, Counted, Cut, Logprob, MonteCarlo, Prefix, prefix_of
from pipeline.engine.growth import cut
from pipeline.label import omega, pivotal, prefix_values
from pipeline.label._prefixes import ValuedPrefix, ValuedPrefixes, usable
from pipeline.rows import Group, Label, Node, Problem, Trace

ROOT = Prefix(prompt="Q:")
DRAWN: dict[str, Any] = {"temperature": 0.5, "top_p": 0.75, "top_k": 7}


def rolled(*ends: tuple[str, ...]) -> Any:
    """Roll-outs that end so, whatever the prefix."""
    return lambda prefix, n: [written(prefix, *ends[k % len(ends)]) for k in range(n)]


def node(number: int, parent: int | None, step: str, depth: int, value: float, **more: Any) -> Node:
    return Node(
        problem_id="p", id=f"p/n{number}", parent=None if parent is None else f"p/n{parent}", step=step, depth=depth,
        value=value, token_ids=[ord(c) for c in step], **more,
    )  # fmt: skip


def told(number: int, labeller: str, value: float) -> Label:
    return Label(problem_id="p", trace_id=f"p/n{number}", value=value, labeller=labeller)


# --- the search for the first error


def test_a_search_word_for_word() -> None:
    half = rolled(("right",), ("bad", "end"))
    world = World(lambda prefix, n: half(prefix, n) if not prefix.text else rolled(("no",))(prefix, n))
    one = trace(0, "a", "no")
    given = {"by": "m", "n": 2, "filter": 4, **DRAWN}
    rows = world.drive(
        omega.label(PROBLEM, Group("p", traces=[one, trace(1)]), omega.Settings(**given), Lines())
    )
    other = written(ROOT, "bad", "end")

    def ask(prefix: Prefix, n: int) -> MonteCarlo:
        return MonteCarlo([prefix], by="m", n=n, keep=True, **DRAWN)

    assert world.seen == [
        ask(ROOT, 4),
        Cut(prefix_of(one), at=(2,), by="m"),
        ask(cut(prefix_of(one), 2, CHARACTERS), 2),
        Cut(other, at=(4,), by="m"),
        ask(cut(other, 4, CHARACTERS), 2),
    ]
    places = [
        node(0, None, "", 0, 0.5, visits=2),
        node(1, 0, "a\n", 1, 0.0),
        node(2, 1, "no\n", 2, 0.0, terminal=True, trace_id="p/0"),
        node(3, 0, "bad\n", 1, 0.0),
        node(4, 3, "end\n", 2, 0.0, terminal=True),
        node(5, 0, "right\n", 1, 1.0, terminal=True),
    ]
    assert rows == [
        dropped(1, "no_steps"),
        label(0, "omega", correct=False, step_scores=[0.0, 0.0], value=0.0, reason="wrong_answer"),
        *(row for k, place in enumerate(places) for row in (place, told(k, "omega", place.value or 0.0))),
    ]


def test_which_roll_outs_are_searched() -> None:
    made = omega.Settings(alpha=0.25, beta=0.5, length=10, exploration=2.0)
    pool = omega.RolloutPool(made)
    place = ValuedPrefix(ROOT, 0.5)
    short, long = written(ROOT, "x" * 4), written(ROOT, "y" * 9)
    stopped = dataclasses.replace(written(ROOT, "z"), finish="stop")
    limited = [dataclasses.replace(written(ROOT, how), finish=how) for how in ("length", "budget", "")]
    pool.add(place, [long, short, long, *limited, stopped])
    assert [one.rollout for one in pool.candidates] == [long, short, stopped]
    assert [one.length for one in pool.candidates] == [10, 5, 2]
    later = ValuedPrefix(dataclasses.replace(written(ROOT, "x"), finish=""), 0.5)
    assert omega.RolloutCandidate(later, short).length == 3
    for value in (0.0, 1.0):
        pool.add(ValuedPrefix(ROOT, value), [written(ROOT, "other")])
    assert len(pool.candidates) == 3
    first = pool.candidates[0]
    assert pool.worth(first) == pytest.approx(0.25**0.5 * 0.5**1)  # nobody was searched yet: U is 0
    assert omega.exploration(9, 2, made) == 2.0 * 3 / 3
    assert omega.quality(1.0, 20, made) == 0.25
    assert pool.take().rollout == stopped
    assert (pool.searches, place.visits, [one.rollout for one in pool.candidates]) == (1, 1, [long, short])
    assert pool.worth(pool.candidates[0]) == pytest.approx(0.25**0.5 * 0.5 + 2.0 * 1 / 2)
    pool.add(place, [stopped])
    assert len(pool.candidates) == 2  # it was here


def test_pieces_of_a_completion_at_their_bounds() -> None:
    whole = written(ROOT, "ab", "cd", "ef")
    assert omega.borders(whole, 3, omega.Settings(pieces=2)) == (6,)
    assert omega.borders(whole, 2, omega.Settings(pieces=2)) == (6,)
    assert omega.borders(whole, 0, omega.Settings(pieces=3)) == (3, 6)
    assert omega.borders(whole, 6, omega.Settings()) == omega.borders(whole, 9, omega.Settings()) == ()
    assert omega.borders(whole, 6, omega.Settings(split="tokens")) == (7, 8)


def test_a_problem_of_the_filter_is_left_out_whole() -> None:
    traces = [trace(0, "no"), trace(1, "a", hinted=True)]
    for ends, reason in ((("right",), "all_right"), (("no",), "all_wrong")):
        world = World(rolled(ends))
        rows = world.drive(
            omega.label(PROBLEM, Group("p", traces=traces), omega.Settings(filter=3, n=5), Lines())
        )
        assert rows == [dropped(1, "hinted"), dropped(0, reason)]
        assert [ask.n for ask in world.seen] == [5]


# --- a tree of places


def test_places_are_entered_once_and_named_in_the_order_of_their_tokens() -> None:
    places, one = ValuedPrefixes(), written(ROOT, "b")
    root = places.counted(ROOT, Counted(4, 1))
    assert places.counted(ROOT, Counted(4, 4)) is root
    end = places.ended(one, True)
    assert (end.value, end.trace_id, end.counted, end.visits, end.num_tokens) == (1.0, None, None, 0, 2)
    assert places.ended(one, False, "p/3") is end
    assert places.ended(one, False, "p/4").trace_id == "p/3"
    assert end.value == 1.0
    opened_place = places.counted(dataclasses.replace(written(ROOT, "a"), finish=""), Counted(2, 1))
    assert places.ended(written(ROOT, "a"), True, "p/5") is opened_place
    assert (opened_place.value, opened_place.trace_id) == (0.5, "p/5")
    places.ended(written(ROOT, "a", "c"), False)
    assert places.get((97,)) is None
    assert [place.value for place in places] == [0.25, 1.0, 0.5, 0.0]
    nodes = [row for row in places.rows("p", "x") if isinstance(row, Node)]
    assert nodes == [
        node(0, None, "", 0, 0.25),
        node(1, 0, "a\n", 1, 0.5, trace_id="p/5"),
        node(2, 1, "c\n", 2, 0.0, terminal=True),
        node(3, 0, "b\n", 1, 1.0, terminal=True, trace_id="p/3"),
    ]
    assert places.trace_label(trace(7, "a", "z"), True, "why", "x") == label(
        7, "x", correct=True, step_scores=[0.5, None], value=1.0, reason="why"
    )


def test_why_a_trace_is_not_looked_into() -> None:
    traces = [
        trace(0, "right"), trace(1, "no"), trace(2, "a", hinted=True, finish="length"), trace(3, finish="length"),
        trace(4, "right", finish="length"), trace(5, "right", finish="budget"), trace(6, "a", answer=None),
    ]  # fmt: skip
    kept, left = usable(PROBLEM, traces, Lines())
    assert [(one.id, right, why) for one, right, why in kept] == [
        ("p/0", True, ""), ("p/1", False, "wrong_answer"), ("p/6", False, "no_answer"),
    ]  # fmt: skip
    assert left == [
        dropped(k, why) for k, why in ((2, "hinted"), (3, "no_steps"), (4, "truncated"), (5, "truncated"))
    ]
    nobody = Problem(id="p", question="?", answer=None)
    assert usable(nobody, traces[:1], Lines()) == ([], [dropped(0, "no_gold")])


# --- pivotal tokens


def test_a_pivot_word_for_word() -> None:
    """`x` keeps p at .5, the line end loses it; of what else began after `x`, `s` ended right most often."""
    ends = rolled(("sure", "right"), ("so", "right"), ("ra", "right"), ("r", "no"))
    world = World(
        lambda prefix, n: ends(prefix, n) if prefix.text == "x" else rolled(("right",), ("no",))(prefix, n)
    )
    one, bare = trace(0, "x", answer="no"), trace(1, "y", answer="no", logprobs=[-1.0])
    given = {"by": "m", "n": 4, "gap": 0.5, "traces": 1, "others": 1, **DRAWN}
    rows = world.drive(
        pivotal.label(PROBLEM, Group("p", traces=[one, bare]), pivotal.Settings(**given), Lines())
    )

    def ask(prefix: Prefix) -> MonteCarlo:
        return MonteCarlo([prefix], by="m", n=4, keep=True, **DRAWN)

    at_x = cut(prefix_of(one), 1, CHARACTERS)
    sure = cut(written(at_x, "sure", "right"), 2, CHARACTERS)
    assert [ask for ask in world.seen if not isinstance(ask, All)] == [ask(ROOT), ask(at_x), ask(sure)]
    assert [ask for ask in world.seen if isinstance(ask, All)] == [
        All(Cut(prefix_of(one), at=(1,), by="m")),
        All(Cut(written(at_x, "sure", "right"), at=(2,), by="m")),
    ]
    places = [
        node(0, None, "", 0, 0.5),
        node(1, 0, "x", 1, 0.75),
        node(2, 1, "\n", 2, 0.0, terminal=True, trace_id="p/0"),
        node(3, 1, "s", 2, 0.0),
    ]
    assert rows == [
        dropped(1, "over_limit"),
        label(0, "pivotal", correct=False, value=0.0, reason="wrong_answer"),
        *(row for k, place in enumerate(places) for row in (place, told(k, "pivotal", place.value or 0.0))),
    ]
    right = trace(0, "x", answer="right")
    for gap, reason in ((0.5, "pivotal"), (0.51, "no_pivot")):
        found = World(rolled(("right",), ("no",))).drive(
            pivotal.label(
                PROBLEM, Group("p", traces=[right]), pivotal.Settings(n=2, gap=gap, others=0), Lines()
            )
        )
        assert found[0] == label(0, "pivotal", correct=True, value=1.0, reason=reason)


def test_which_alternatives_are_valued_and_how_many() -> None:
    at = dataclasses.replace(written(ROOT, "x"), finish="")
    texts = [("r", True), ("r", True), ("s", True), ("s", False), ("t", False), ("u", True)]
    found = tuple(written(at, first, "right" if ok else "no") for first, ok in texts)
    short = dataclasses.replace(at, finish="eos")
    place = ValuedPrefix(at, 0.5, Counted(7, 4, (*found, short), (*(ok for _, ok in texts), True)))

    def order(rises: bool, token: str = "?") -> str:
        return "".join(one.text[2] for one in pivotal.others(place, ord(token), rises))

    assert (order(True), order(False)) == ("rust", "tsru")
    assert (order(True, "r"), order(False, "t")) == ("ust", "sru")
    assert pivotal.others(place, ord("r"), True)[-1] == found[4]
    assert pivotal.others(ValuedPrefix(at, 0.5), ord("r"), True) == []

    def valued(moved: float, others: int) -> list[str]:
        places = ValuedPrefixes({at.token_ids: place})
        whole = written(at, "q")
        world = World(rolled(("right",)))
        part = pivotal.Part(0, 2, 3, 0.5, 0.5 + moved)
        world.drive(pivotal.alternatives([part], [whole], places, pivotal.Settings(n=1, others=others)))
        return [text[2:] for text in world.asked]

    assert (valued(0.5, 1), valued(-0.5, 1), valued(0.5, 2), valued(0.5, 0)) == (["t"], ["r"], ["t", "s"], [])


def test_parts_and_halves_at_their_bounds() -> None:
    made = pivotal.Settings(gap=0.25)
    parts = [
        pivotal.Part(0, 1, 3, 0.5, 0.75),
        pivotal.Part(0, 1, 3, 0.75, 0.5),
        pivotal.Part(0, 1, 3, 0.5, 0.74),
    ]
    assert [pivotal.divisible(part, made) for part in parts] == [True, True, False]
    assert not pivotal.divisible(pivotal.Part(0, 1, 2, 0.0, 1.0), made)
    assert [part.moved for part in parts[:2]] == [0.25, -0.25]
    assert [pivotal.half(one) for one in ([1, 2, 3], [3, 1, 1], [1, 1, 1], [1, 0, 1], [2, 1, 3, 0])] == [
        2,
        1,
        1,
        1,
        2,
    ]
    for low, high, kept in ((0.5, 0.6, True), (0.4, 0.5, True), (0.51, 0.6, False), (0.4, 0.49, False)):
        world = World(rolled(("right",), ("no",)))
        asks = pivotal.label(PROBLEM, Group("p", traces=[trace(0, "no")]), pivotal.Settings(n=2, within=(low, high)), Lines())  # fmt: skip
        assert isinstance(world.drive(asks)[0], Label) is kept
    for wrong in ((0.5, 0.5), (0.5, 1.1), (-0.1, 0.5)):
        with pytest.raises(ValueError, match="must be two shares, low before high"):
            pivotal.Settings(within=wrong)
    assert pivotal.Settings(within=(0.0, 1.0)).within == (0.0, 1.0)


def test_unknown_log_probabilities_are_asked_for_of_those_alone() -> None:
    known, few, odd = (prefix_of(trace(k, "ab", logprobs=given)) for k, given in enumerate(([-3.0] * 3, [-1.0], [-1.0, -math.inf, 0.0])))  # fmt: skip
    world = World(rolled(("right",)))
    found = world.drive(pivotal.surprises([known, few, odd], pivotal.Settings(by="m")))
    assert world.seen == [Logprob([few, odd], by="m")]
    assert found == [[3.0] * 3, [1.0] * 3, [1.0] * 3]
    assert world.drive(pivotal.surprises([known], pivotal.Settings())) == [[3.0] * 3]
    assert world.seen == []


# --- prefix values


def test_wrong_steps_word_for_word() -> None:
    one, other = trace(0, "a", "right"), trace(1, "no")

    def step(prefix: Prefix, text: str, **more: Any) -> Prefix:
        ids = (*prefix.token_ids, *map(ord, text))
        return dataclasses.replace(
            prefix, token_ids=ids, text=prefix.text + text, steps=(*prefix.steps, text), step_ends=(*prefix.step_ends, len(ids)),
            logprobs=(-0.25,) * len(ids), prompt_hash="h", model="w", **more,
        )  # fmt: skip

    begun = [opened(one, 0), opened(one, 1)]
    replies = [
        step(begun[0], "a \n"),
        step(begun[0], "x\n"),
        step(begun[1], "y\n", finish="length"),
        step(begun[1], " y\n"),
    ]
    given = {"by": "m", "wrong": 2, "traces": 1, "temperature": 0.5}
    rows, seen = asked(prefix_values, [one, other], [replies], **given)
    assert seen == [Continue(begun, by="m", n=2, until="step", temperature=0.5)]

    def row(number: int, prefix: Prefix, charged: int, finish: str) -> Trace:
        return Trace(
            problem_id="p", id=f"p/{number}", prompt="Q:", text=prefix.text, token_ids=list(prefix.token_ids),
            step_ends=list(prefix.step_ends), steps=list(prefix.steps), logprobs=list(prefix.logprobs), finish=finish,
            parent="p/0", prompt_hash="h", model="w", tokens_charged=charged,
        )  # fmt: skip

    wrong = {"correct": False, "reason": "wrong_step"}
    # Lines' oracle holds all of this sound, so nothing is called wrong; where it is off, what no right trace took is
    assert rows == [
        label(0, "prefix_values", correct=True, step_scores=[0.5, 1.0], value=1.0),
        label(1, "prefix_values", correct=False, step_scores=[None], reason="wrong_answer"),
    ]
    blind = prefix_values.label(PROBLEM, Group("p", traces=[one, other]), prefix_values.Settings(**given), Lines(oracle=False))  # fmt: skip
    next(blind)
    with pytest.raises(StopIteration) as stopped:
        blind.send(replies)
    assert stopped.value.value == [
        *rows,
        row(2, replies[1], 2, "budget"),
        label(2, "prefix_values", step_scores=[0.0], value=0.0, **wrong),
        row(3, replies[2], 2, "length"),
        label(3, "prefix_values", step_scores=[None, 0.25], value=0.25, **wrong),
    ]
    values = [prefix_values.wrong_value(k, 3) for k in range(3)]
    assert values == pytest.approx([0.0, 1 / 9, 2 / 3 - 1 / 6])
    hinted = dataclasses.replace(one, hinted=True)
    assert asked(prefix_values, [hinted], [])[0][0].step_scores == [None, None]


def test_the_shortest_right_traces_are_cut() -> None:
    traces = [trace(0, "a", "b", "right"), trace(1, "a", "right"), trace(2, "c", "right")]
    for number, lengths in ((1, [0, 2]), (2, [0, 2, 0, 2]), (9, [0, 2, 0, 2, 0, 2, 4])):
        made = prefix_values.Settings(traces=number)
        ask = next(prefix_values.label(PROBLEM, Group("p", traces=traces), made, Lines()))
        assert [prefix.num_tokens for prefix in ask.listed] == lengths
        assert (ask.by, ask.n, ask.temperature) == ("policy", 1, 1.0)
    nobody = Problem(id="p", question="?", answer=None)
    with pytest.raises(StopIteration) as stopped:
        next(prefix_values.label(nobody, Group("p", traces=traces[:1]), prefix_values.Settings(), Lines()))
    assert stopped.value.value == [dropped(0, "no_gold")]
