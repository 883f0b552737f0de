"""rStar's discriminator: scores by hand, what the partner is asked, and that gold changes nothing."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from label_world import CHARACTERS, PROBLEM, Lines, stamped, trace, written
from pydantic import ValidationError

from pipeline.asks import All, Continue, Cut, Prefix
from pipeline.engine.growth import cut
from pipeline.label import mutual_oracle
from pipeline.label.mutual import Settings, label, places, shares, values, weight_of
from pipeline.rows import Dropped, Group, Label, without_gold


def drive(asks, completion):
    """What the labeller returns, and its asks, where completion(prefix, number) is the partner's."""
    seen, reply = [], None
    while True:
        try:
            ask = asks.send(reply)
        except StopIteration as stop:
            return stamped(stop.value, "mutual"), seen
        seen.append(ask)
        if isinstance(ask, All):
            reply = [[cut(one.prefix, at, CHARACTERS) for at in one.at] for one in ask.asks]
        else:
            assert isinstance(ask, Continue)
            reply = [completion(prefix, k) for k, prefix in enumerate(ask.listed)]


def group(*traces):
    return Group("p", traces=list(traces))


def test_scores_by_hand():
    """A: one of two survives, .5 of the survivors' 1.1: .4545 + 1/2. B: .6 of 1.1 and all: 1.5455. Halved."""
    said, weights, alive = ["A", "A", "B"], [0.5, 0.3, 0.6], [True, False, True]
    assert values(said, weights, alive) == [
        pytest.approx(0.477273, abs=1e-6),
        0.0,
        pytest.approx(0.772727, abs=1e-6),
    ]
    # nobody survives: half of the generator's own shares, .8 / 1.4 and .6 / 1.4
    assert values(said, weights, [False] * 3) == [pytest.approx(x) for x in (0.4 / 1.4, 0.4 / 1.4, 0.3 / 1.4)]


def test_scores_that_are_all_zero_count_heads():
    assert shares(["A", "B", "A"], [0.0, 0.0, 0.0], [True] * 3) == {
        "A": pytest.approx(2 / 3),
        "B": pytest.approx(1 / 3),
    }
    assert values(["A", "B"], [0.0, 0.0], [True, True]) == [0.75, 0.75]


@given(
    st.lists(st.tuples(st.sampled_from("ABC"), st.floats(0, 1), st.booleans()), min_size=1, max_size=12),
    st.randoms(use_true_random=False),
)
def test_values_are_shares_and_do_not_depend_on_the_order(rows, random):
    def of(some):
        return [values(*map(list, zip(*some, strict=True)))[k] for k in range(len(some))]

    found = of(rows)
    assert all(0 <= value <= 1 + 1e-9 for value in found)
    order = random.sample(range(len(rows)), len(rows))
    assert of([rows[k] for k in order]) == [pytest.approx(found[k]) for k in order]
    best = max(found)
    assert any(alive for (_, _, alive), value in zip(rows, found, strict=True) if value == best) or not any(
        alive for *_, alive in rows
    )


def test_places_by_hand():
    settings = Settings()
    assert places(20, settings) == [4, 6, 8, 10]
    assert places(7, settings) == [2, 3, 3, 4]  # ceilings of 1.4, 2.1, 2.8, 3.5
    assert places(1, settings) == [0, 0, 0, 0]  # never the whole
    assert places(10, Settings(masks=1)) == [2]


def test_a_trace_survives_where_half_of_its_beginnings_lead_to_its_answer():
    one, two = trace(0, "step a", "right", score=0.5), trace(1, "step b", "left", score=0.5)

    def completion(prefix, number):
        """The partner says right whatever begins: in 4 of 4 and (by one slip) 1 of 4."""
        return written(Prefix(prompt=prefix.prompt), "left" if number == 5 else "right")

    rows, asks = drive(label(PROBLEM, group(one, two), Settings(), Lines()), completion)
    assert [(row.trace_id, row.value, row.reason, row.correct) for row in rows] == [
        ("p/0", 1.0, "", None), ("p/1", 0.0, "inconsistent", None),
    ]  # fmt: skip
    cuts, asked = asks
    assert all(isinstance(ask, Cut) and ask.by == "policy" for ask in cuts.asks)
    assert (asked.by, asked.n, asked.until, asked.temperature) == ("partner", 1, "answer", 1.0)
    assert [prefix.text for prefix in asked.listed[:4]] == [
        one.text[:k] for k in places(len(one.text), Settings())
    ]
    assert not any(prefix.done for prefix in asked.listed)
    rows, _ = drive(label(PROBLEM, group(one, two), Settings(agree=0.25), Lines()), completion)
    assert [row.value for row in rows] == [0.75, 0.75]


def test_an_answer_that_all_give_is_not_asked_about():
    rows, asks = drive(
        label(PROBLEM, group(trace(0, "a", "left"), trace(1, "b", "left")), Settings(), Lines()), None
    )
    assert asks == []
    assert [row.value for row in rows] == [1.0, 1.0]


def test_traces_without_an_answer_are_dropped_and_none_is_lost():
    given = [trace(0, "a", "right"), trace(1, "b", finish="length"), trace(2, "c", answer=None), trace(3)]
    rows, _ = drive(label(PROBLEM, group(*given), Settings(), Lines()), None)
    assert {row.trace_id for row in rows if isinstance(row, Label)} == {"p/0"}
    assert {(row.what, row.reason) for row in rows if isinstance(row, Dropped)} == {
        (f"p/{k}", "no_answer") for k in (1, 2, 3)
    }
    assert drive(label(PROBLEM, group(), Settings(), Lines()), None) == ([], [])


@pytest.mark.parametrize("gold", ["right", "left", "poison"])
def test_gold_makes_no_difference(gold):
    """The stage shows it none; and were it shown, no value would follow it."""
    assert not Settings.sees_gold
    problem = dataclasses.replace(PROBLEM, answer=gold)
    given = group(trace(0, "a", "right"), trace(1, "b", "left"), trace(2, "c", "left"))

    def completion(prefix, number):
        return written(Prefix(prompt=prefix.prompt), "right" if number % 2 else "left")

    rows = drive(label(problem, given, Settings(), Lines()), completion)[0]
    assert rows == drive(label(without_gold(problem), given, Settings(), Lines()), completion)[0]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"masks": 0}, "masks"),
        ({"n": 0}, "n"),
        ({"keep": (0.5, 0.2)}, "the shortest comes first"),
        ({"keep": (0.5, 1.0)}, "keep"),
        ({"agree": 0}, "agree"),
    ],
)
def test_what_means_nothing_is_refused(given, said):
    with pytest.raises(ValidationError, match=said):
        Settings(**given)


def test_what_a_trace_counts_for_its_answer():
    def weighed(score, confidence="score"):
        return weight_of(dataclasses.replace(trace(0, "right"), score=score), Settings(confidence=confidence))

    assert [weighed(score) for score in (0.25, -1.0, 0.0, None, float("inf"))] == [0.25, 0.0, 0.0, 1.0, 1.0]
    assert weighed(0.25, "count") == 1.0


def leaky(gold, *labels):
    """What the control says of traces a, b and b, labelled so by the discriminator: (value, reason)."""
    given = group(trace(0, "x", "a", score=0.6), trace(1, "y", "b", score=0.3), trace(2, "z", "b", score=0.2))
    for one, (value, reason) in zip(given.traces, labels, strict=True):
        given.labels[one.id] = Label(
            problem_id="p", trace_id=one.id, value=value, reason=reason, labeller="mutual"
        )
    asks = mutual_oracle.label(
        dataclasses.replace(PROBLEM, answer=gold), given, mutual_oracle.Settings(), Lines()
    )
    with pytest.raises(StopIteration) as stop:  # it asks nothing
        next(asks)
    return stamped(stop.value.value, "mutual_oracle")


def said(rows):
    return [(row.value, row.reason) for row in rows]


SURVIVED, NOT = (0.7, ""), (0.0, "inconsistent")


def test_the_released_code_falls_back_on_its_generator_where_gold_says_that_no_survivor_is_right():
    """a: .6 of 1.1 of the generator's scores, b: .5 of 1.1; b alone survived."""
    own = [(pytest.approx(0.3 / 1.1), "gold_fallback"), *[(pytest.approx(0.25 / 1.1), "gold_fallback")] * 2]
    assert said(leaky("a", NOT, SURVIVED, SURVIVED)) == own
    assert said(leaky("b", NOT, SURVIVED, SURVIVED)) == [NOT, SURVIVED, SURVIVED]


@pytest.mark.parametrize(
    "labels", [(NOT, SURVIVED, NOT), (NOT, NOT, NOT), (SURVIVED, SURVIVED, NOT)], ids=str
)
def test_gold_is_asked_of_two_survivors_or_more_alone(labels):
    assert said(leaky("a", *labels)) == list(labels)


def test_the_control_says_what_it_is():
    assert mutual_oracle.Settings.sees_gold
    assert mutual_oracle.Settings.leaks
    assert not Settings.leaks
    assert {row.reason for row in leaky(None, NOT, NOT, NOT)} == {"no_gold"}
