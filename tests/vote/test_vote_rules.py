"""Votes and aggregations: golden values worked out by hand and what must always hold."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.vote import Candidate, best, borda, keys, likeliest, majority, rule, weighted
from pipeline.vote.aggregate import RULES, aggregate, kind_of, weight

STEPS = [0.9, 0.2, 0.8]


@pytest.mark.parametrize(
    ("how", "value"),
    [
        ("last", 0.8),
        ("min", 0.2),  # Math-Shepherd's solution score
        ("prod", 0.144),  # OmegaPRM's and PRM800K's
        ("mean", 1.9 / 3),
        ("max", 0.9),
        ("sum_logit", math.log(9) + math.log(0.25) + math.log(4)),
        ("mean_logit", 2.1972245773 / 3),
        ("mean_odds", (9 + 0.25 + 4) / 3),
    ],
)
def test_aggregations(how, value):
    assert aggregate(STEPS, how) == pytest.approx(value)


def test_every_aggregation_is_covered_and_unknown_ones_are_refused():
    assert len(RULES) == 8
    with pytest.raises(ValueError, match="no aggregation 'median'"):
        aggregate(STEPS, "median")
    with pytest.raises(ValueError, match="no step scores"):
        aggregate([], "last")


@pytest.mark.parametrize("how", RULES)
def test_a_score_that_is_not_a_number_is_never_hidden(how):
    assert math.isnan(aggregate([0.5, math.nan], how))
    assert math.isfinite(aggregate([0.0, 1.0], how))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_product_min_mean(scores):
    prod, least, mean, most = (aggregate(scores, how) for how in ("prod", "min", "mean", "max"))
    assert prod <= least + 1e-12
    assert least <= mean + 1e-12
    assert mean <= most + 1e-12


def candidates(*rows):
    return [Candidate(answer, score, logprob) for answer, score, logprob in rows]


def test_majority_breaks_ties_by_log_probability_then_by_order():
    assert majority.vote(candidates(("1", None, -5.0), ("2", None, -1.0))) == "2"
    assert majority.vote(candidates(("1", None, None), ("2", None, None))) == "1"
    assert majority.vote(candidates(("2", None, -1.0), ("1", None, -9.0), ("1", None, -9.0))) == "1"


def test_the_rules_differ_where_they_should():
    field = candidates(
        ("1", 0.3, -1.0),
        ("1", 0.3, -1.0),
        ("1", 0.1, -1.0),
        ("2", 0.6, -1.0),
        ("2", 0.5, -1.0),
        ("3", 0.9, -1.0),
    )
    assert majority.vote(field) == "1"  # 3 votes
    assert best.vote(field) == "3"  # 0.9
    assert weighted.vote(field) == "2"  # 1.1 against 0.7 and 0.9
    # points 2 and a half of .3: 1.5 each; .1: 0; .6: 4; .5: 3; .9: 5
    assert borda.vote(field) == "2"


def test_one_key_joins_spellings_and_the_first_spelling_answers():
    field = [Candidate("1/2", key="0.5"), Candidate("3", key="3"), Candidate("0.5", key="0.5")]
    assert majority.vote(field) == "1/2"


def test_keys_follow_the_task_s_equality():
    def same(one, other):
        return Fraction(one) == Fraction(other)

    answers = ["1/2", None, "0.5", "3", "1/2", "3.0"]
    assert keys(answers, same) == ["1/2", None, "1/2", "3", "1/2", "3"]
    assert keys(answers, lambda one, other: one == other) == answers
    assert keys([], same) == []


RULE = [majority.vote, best.vote, weighted.vote, borda.vote]


@pytest.mark.parametrize("vote", RULE)
def test_nobody_answers(vote):
    assert vote([]) is None
    assert vote(candidates((None, 0.9, -1.0))) is None
    assert vote(candidates((None, 0.9, -1.0), ("7", None, None))) == "7"


@pytest.mark.parametrize("vote", [best.vote, weighted.vote, borda.vote])
def test_scores_that_are_not_numbers_count_for_nothing(vote):
    assert vote(candidates(("1", math.nan, -1.0), ("2", 0.1, -1.0))) == "2"
    assert vote(candidates(("1", math.inf, -1.0), ("2", 0.1, -1.0))) == "2"


def of_kind(kind, *rows):
    return [Candidate(answer, score, -1.0, "", kind) for answer, score in rows]


def test_weighted_with_sums_of_log_odds_does_not_punish_frequency():
    # an answer given three times at -1 beats one given once at -1.1: 3 * .2689 against .2497
    assert weighted.vote(of_kind("log_odds", ("1", -1.0), ("1", -1.0), ("1", -1.0), ("2", -1.1))) == "1"


def test_a_dead_answer_below_zero_turns_no_vote():
    """The plain sum of clamped values: 0.9 beats twice 0.4, whatever a third answer's score is."""
    field = [("1", 0.4), ("1", 0.4), ("2", 0.9)]
    assert weighted.vote(of_kind("value", *field)) == "2"
    assert weighted.vote(of_kind("value", *field, ("3", -0.01))) == "2"
    # through the logistic, as one negative score once sent all: 2 * .5987 = 1.197 against .711
    assert weighted.vote(of_kind("log_odds", *field)) == "1"


@pytest.mark.parametrize(
    ("kind", "score", "as_weight"),
    [
        ("value", 1.2, 1.0),
        ("value", -0.01, 0.0),
        ("value", 0.3, 0.3),
        ("probability", 0.3, 0.3),
        ("log_odds", 0.0, 0.5),
        ("log_odds", -800.0, 0.0),
        ("log_odds", math.log(4), 0.8),
        ("odds", 4.0, 0.8),
        ("advantage", -0.2, -0.2),
    ],
)
def test_a_weight_is_told_by_what_the_score_is(kind, score, as_weight):
    assert weight(score, kind) == pytest.approx(as_weight)
    assert math.isnan(weight(math.nan, kind))


def test_an_aggregation_says_what_it_gives():
    assert [kind_of(how, "value") for how in ("last", "min", "prod", "mean", "max")] == ["value"] * 5
    assert {kind_of("sum_logit"), kind_of("mean_logit")} == {"log_odds"}
    assert kind_of("mean_odds") == "odds"


def test_the_other_candidates_never_change_a_weight():
    one = Candidate("1", 0.4, kind="value")
    assert one.weight == 0.4
    assert Candidate("1", math.inf, kind="value").weight is None


@given(
    st.lists(st.tuples(st.sampled_from(["1", "2", "3", None]), st.floats(-20, 0)), max_size=12),
    st.floats(-3, 3),
    st.sampled_from(["value", "log_odds"]),
)
def test_with_constant_weights_weighted_is_the_majority(rows, weight, kind):
    field = [Candidate(answer, weight, logprob, "", kind) for answer, logprob in rows]
    counts = [sum(one.answer == name for one in field) for name in ("1", "2", "3")]
    winner = weighted.vote(field)
    assert winner == majority.vote(field)
    assert winner is None or sum(one.answer == winner for one in field) == max(counts)


def test_a_rule_of_a_recipe_has_a_name_and_settings():
    plain, own = rule("weighted"), rule({"use": "weighted", "aggregate": "min"})
    assert (plain.label, own.label) == ("weighted", "weighted-min")
    assert plain.settings.step_rule is None
    assert own.settings.step_rule == "min"
    assert own(candidates(("1", 0.2, -1.0), ("2", 0.3, -1.0))) == "2"


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("majorty", r"no vote 'majorty' \(did you mean majority\?\)"),
        ({"aggregate": "min"}, "say which vote"),
        ({"use": "weighted", "agregate": "min"}, r"unknown key agregate \(did you mean aggregate\?\)"),
        ({"use": "weighted", "aggregate": "median"}, "vote weighted: aggregate: input should be 'last'"),
        ({"use": "majority", "aggregate": "min"}, "vote majority: unknown key aggregate"),
    ],
)
def test_a_rule_that_is_none_is_said(spec, said):
    with pytest.raises(ValueError, match=said):
        rule(spec)


@pytest.mark.parametrize(
    ("score", "value"),
    [(0.0, 0.5), (0.5, 0.6224593312), (2.0, 0.8807970780), (-0.5, 0.3775406688), (800.0, 1.0), (-800.0, 0.0)],
)
def test_log_odds_weigh_their_logistic_value(score, value):
    assert weight(score, "log_odds") == pytest.approx(value, abs=1e-9)


def scored(**answers):
    return [Candidate(answer, score=score) for answer, found in answers.items() for score in found]


@pytest.mark.parametrize(
    ("candidates", "winner"),
    [
        (scored(a=[10], b=[1, 2, 3]), "b"),  # 3 points each, and more votes
        (scored(a=[1, 2], b=[3]), "b"),  # 1 against 2
        (scored(a=[1, 1], b=[2]), "b"),  # a tie is half a point each
        (scored(b=[1], a=[1, 1]), "a"),  # all equal: the majority
        (scored(b=[1, 2, 3], a=[4]), "b"),
        (scored(a=[float("nan")], b=[-5.0]), "b"),  # unknown comes last
    ],
)
def test_borda_counts_whom_a_candidate_beats(candidates, winner):
    assert borda.vote(candidates) == winner


def test_the_likeliest_a_token_wins_and_length_does_not_count():
    """-0.2 a token over ten tokens beats -0.5 over two, though its sum is lower; an unknown one comes last."""
    long, short = Candidate("7", None, -2.0, num_tokens=10), Candidate("5", None, -1.0, num_tokens=2)
    unknown, silent = Candidate("9", 0.9, None), Candidate(None, 1.0, -0.01, num_tokens=1)
    assert likeliest.vote([short, long, unknown, silent]) == "7"
    assert likeliest.vote([short, short, Candidate("5", None, math.nan, num_tokens=1), long]) == "7"
    assert likeliest.vote([unknown]) == "9"
    assert likeliest.vote([silent]) is None
    assert likeliest.vote([]) is None
    assert not likeliest.Settings.scored


def test_a_product_takes_values_for_what_they_are() -> None:
    """A value head may say a little less than 0 or more than 1: two bad steps make no good solution."""
    assert aggregate([-0.2, -0.3], "prod") == 0 < aggregate([0.1, 0.1], "prod")
    assert aggregate([1.2, 0.5], "prod") == 0.5
    assert aggregate([0.9, -0.1, -0.8], "prod") == 0
