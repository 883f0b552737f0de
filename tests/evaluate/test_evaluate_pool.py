"""What N of a pool of samples would have given, against enumeration and against the votes themselves."""

import math
from itertools import combinations

import pytest

from pipeline.evaluate.pool import Pool
from pipeline.rows import Trace
from pipeline.vote import Candidate, majority, weighted

ANSWERS = ["4", "4.0", "5", None, "5", "6"]
RIGHT = [True, True, False, False, False, False]
STEPS = [[0.2, 0.9], [0.1, 0.2], [0.9, 0.4], [0.9, 0.95], [0.3, 0.4], [None]]
LOGPROBS = [-3.0, -2.0, -1.0, -1.0, -1.5, -9.0]


def trace(number):
    return Trace(problem_id="p", id=f"p/{number}", prompt="Q", text="", token_ids=[0] * (number + 1),
                 step_ends=[], steps=[], answer=ANSWERS[number], logprobs=[LOGPROBS[number]], finish="eos")  # fmt: skip


def same(one, other):
    return float(one) == float(other)


POOL = Pool([trace(i) for i in range(6)], RIGHT, STEPS, same)


def test_scores_leave_out_what_cannot_be_chosen():
    assert POOL.scores("last") == [0.9, 0.2, 0.4, -math.inf, 0.4, -math.inf]
    assert POOL.scores("min") == [0.2, 0.1, 0.4, -math.inf, 0.3, -math.inf]
    assert POOL.tokens == 3.5


@pytest.mark.parametrize("rule", ["last", "min", "prod"])
def test_best_of_n_is_the_mean_over_all_subsets(rule):
    scores = POOL.scores(rule)
    for n in range(1, 7):
        shares = []
        for drawn in combinations(range(6), n):
            top = max(scores[i] for i in drawn)
            tied = [RIGHT[i] for i in drawn if scores[i] == top and top != -math.inf]
            shares.append(sum(tied) / len(tied) if tied else 0)
        assert POOL.best_at(n, rule) == pytest.approx(sum(shares) / len(shares))
    assert POOL.best_at(2.25, rule) == pytest.approx(
        0.75 * POOL.best_at(2, rule) + 0.25 * POOL.best_at(3, rule)
    )


def test_votes_are_those_of_the_rules_over_subsets():
    field = [
        Candidate(answer, score, logprob, "4" if answer == "4.0" else answer or "")
        for answer, score, logprob in zip(ANSWERS, POOL.scores("last"), LOGPROBS, strict=True)
    ]
    found = POOL.votes(["majority", "weighted"], [1, 3, 6], draws=3000, seed=1)
    for name, vote in (("majority", majority.vote), ("weighted", weighted.vote)):
        for n in (1, 3, 6):
            subsets = list(combinations(field, n))
            wins = [same(winner, "4") for drawn in subsets if (winner := vote(drawn)) is not None]
            assert found[name, n] == pytest.approx(sum(wins) / len(subsets), abs=0.03), (name, n)
    assert found == POOL.votes(["majority", "weighted"], [1, 3, 6], draws=3000, seed=1)
