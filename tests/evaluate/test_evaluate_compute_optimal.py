"""Which strategy pays at which difficulty: goldens by hand, the folds, what is refused, and a whole answer."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import settings as within
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.asks import All, Continue, Prefix, Score
from pipeline.engine.driver import drive_with_replies
from pipeline.errors import RecipeError
from pipeline.evaluate import compute_optimal as optimal
from pipeline.evaluate.strategies import Spent, Tried, best_of, bin_of, choose, edges_of, folds_of
from pipeline.rows import Label, Problem, Question, Trace
from pipeline.settings import Cost
from pipeline.tasks import BaseTask, TaskSettings

QUESTION = Question(id="p", question="?", prompt="?", prompt_used="?", task="t")
TWO = optimal.Settings(
    value="prm",
    budgets=(2,),
    bins=2,
    strategies={"majority": "majority", "best": "best"},
    resamples=100,
)


def tried(name, right, majority, best):
    cells = {("majority", 2): Spent(majority, 20, 0), ("best", 2): Spent(best, 20, 20)}
    return Tried(name, right, right, 40.0, cells)


#: easy problems are right by majority, hard ones by the best score
WORLD = [
    *(tried(f"easy{i}", 0.9 + i / 100, 1.0, 0.0) for i in range(4)),
    *(tried(f"hard{i}", 0.1 + i / 100, 0.0, 1.0) for i in range(4)),
]


def test_golden_choice_by_difficulty():
    """Each strategy alone is right half of the time; by difficulty the right one is always chosen."""
    found = optimal.measure({"policy": WORLD}, TWO)
    assert found["accuracy/majority@2"] == found["accuracy/best@2"] == 0.5
    assert found["optimal@2"] == found["optimal/predicted@2"] == 1.0
    assert found["single@2"] == 0.5
    assert (found["bin/1/majority@2"], found["bin/2/majority@2"]) == (1.0, 0.0)
    assert found["bin/1/problems"] == 4
    assert found["edge/1"] == pytest.approx(0.515)  # the middle of .13 and .90
    assert found["tokens/optimal@2"] == 20
    assert found["tokens/optimal@2/counted"] == 60  # with the 40 of the difficulty
    assert found["tokens/difficulty"] == 40
    assert found["borrowed/optimal@2"] == 0
    said = optimal.remarks(found, TWO)[optimal.SPENDING]
    assert (
        "Chosen by predicted difficulty, 2 samples reach that: 20 tokens a problem against 20, and 60" in said
    )


def test_a_choice_never_sees_the_problem_it_is_read_on():
    """Two strategies, each right on one problem: what the other half knows is wrong here."""
    rows = [tried("a", 0.5, 1.0, 0.0).table, tried("b", 0.5, 0.0, 1.0).table]
    chosen = choose(rows, [1, 1], folds_of(["a", "b"], [1, 1]), 2)
    assert chosen.names == ["best", "majority"]
    found = optimal.measure({"policy": [tried("a", 0.5, 1.0, 0.0), tried("b", 0.5, 0.0, 1.0)]}, TWO)
    assert found["single@2"] == 0.0


def test_an_empty_fold_borrows_and_a_single_problem_says_so():
    """A bin of one takes what the other half of all problems says; one problem has no other half."""
    alone = choose([row.table for row in WORLD[:5]], [1, 1, 1, 1, 2], [0, 1, 0, 1, 0], 2)
    assert alone.names == ["majority"] * 5
    assert alone.borrowed == 1
    one = optimal.measure({"policy": WORLD[:1]}, TWO)
    assert "single@2" not in one
    assert "too few problems" in optimal.health(one, TWO).warnings[0]
    assert optimal.remarks(one, TWO) == {}
    few = optimal.measure({"policy": [WORLD[0], WORLD[1], WORLD[4]]}, TWO)
    assert few["borrowed/optimal@2"] == pytest.approx(1 / 3)
    assert "stand alone in their bin" in optimal.health(few, TWO).warnings[0]
    assert optimal.health(optimal.measure({"policy": WORLD}, TWO), TWO).warnings == []


def test_bins_that_samples_do_not_tell_apart_are_said():
    """All problems equally hard by gold: one bin, called the easiest; the reward model tells two apart."""
    alike = [replace(each, right=0.0) for each in WORLD]
    found = optimal.measure({"policy": alike}, TWO)
    assert (found["bin/1/problems"], "bin/2/problems" in found) == (8, False)
    said = optimal.health(found, TWO).warnings
    assert len(said) == 1
    assert said[0].startswith("bins: 16 samples tell 1 of 2 parts apart")


def test_equal_strategies_are_settled_by_what_they_write():
    dear = {("a", 2): Spent(0.5, 90, 0), ("b", 2): Spent(0.5, 30, 0)}
    assert best_of([dear, dear], 2) == "b"
    assert best_of([], 2) is None


@within(deadline=None)
@given(st.lists(st.floats(0, 1, allow_nan=False), min_size=2, max_size=40), st.integers(1, 6))
def test_bins_and_folds(values, num):
    edges = edges_of(values, num)
    assert len(edges) == num - 1
    assert edges == sorted(edges, reverse=True)
    bins = [bin_of(value, edges) for value in values]
    assert set(bins) <= set(range(1, num + 1))
    order = sorted(range(len(values)), key=lambda i: -values[i])
    assert [bins[i] for i in order] == sorted(bins)  # easier is never in a harder bin
    ids = [f"p{i:02}" for i in range(len(values))]
    folds = folds_of(ids, bins)
    for each in set(bins):
        inside = [fold for fold, its in zip(folds, bins, strict=True) if its == each]
        assert abs(inside.count(0) - inside.count(1)) <= 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"strategies": {"best": "best"}}, "strategies.best needs a reward model: set value"),
        ({"strategies": {"x": "mojority"}}, "no vote 'mojority'"),
        ({"strategies": {"x": {"generate": "bem"}}}, "strategies.x: no generate method 'bem'"),
        ({"strategies": {"X y": "majority"}}, "small letters"),
        ({"strategies": {}}, "at least 1 item"),
        ({"budgets": [4, 2]}, "rising"),
        ({"budgets": [0, 2]}, "rising"),
        ({"problems": 5}, "too few for 5 bins of two halves each"),
        (
            {"value": "prm", "strategies": {"x": {"generate": "beam", "n": "N", "width": 4}}},
            "strategies.x: at budget 1: n: 1 is not a multiple of width 4",
        ),
        (
            {"value": "prm", "strategies": {"x": {"generate": "beam", "n": "N", "budgets": [5]}}},
            r"strategies.x.budgets: \[5\]: some of \[1, 4, 16\] are wanted",
        ),
        (
            {"value": "prm", "strategies": {"x": {"generate": "best_of_n", "n": "N", "value": "other"}}},
            "acts by other",
        ),
        (
            {"value": "prm", "strategies": {"x": {"generate": "beam", "n": "N", "width": 1, "budgets": [4]}}},
            "no strategy spends 1",
        ),
        (
            {"value": "prm", "strategies": {"x": {"generate": "beam", "n": 4, "width": 4}}},
            r"strategies.x: no setting says N, so it spends the same at budgets \[1, 4, 16\]",
        ),
        (
            {"value": "prm", "strategies": {"x": {"generate": "revise", "chains": "N/4", "length": 4}}},
            "strategies.x.chains: N/4 does not divide the budget 1",
        ),
        ({"search": {"generate": "beam"}}, "searches by its strategies"),
    ],
)
def test_what_cannot_be_measured_is_said(given, said):
    with pytest.raises(ValidationError, match=said):
        optimal.Settings(**given)


class Echo(BaseTask):
    """The answer is the text."""

    def __init__(self):
        self.step_separator = "\n"

    def extract(self, text):
        return text or None

    def correct(self, answer, problem):
        return answer == problem.answer


def written(text, n=2):
    return Prefix("?", tuple(range(n)), (n,), (text,), text, (-1.0,) * n, "eos", text)


WIDE = optimal.Settings(
    value="prm",
    budgets=(1, 2),
    difficulty=2,
    bins=1,
    strategies={
        "majority": "majority",
        "best": "best",
        "bon": {"generate": "best_of_n", "n": "N", "budgets": [2]},
    },
    resamples=100,
)


def test_a_whole_answer_counts_what_each_strategy_wrote():
    """The pool of two: 7 scored .2, 8 scored .9; gold 7. Best of 2 picks 8; one of two at random is half right."""
    hard, pool = [written("7"), written("8")], [written("7"), written("8")]
    replies = [
        [hard, pool],
        [[0.4], [0.6]],
        [[0.2], [0.9]],
        [written("7", 3), written("9", 3)],
        [[0.8], [0.1]],
    ]
    seen = []
    rows = drive_with_replies(optimal.answer(QUESTION, WIDE, "policy"), replies, seen)
    assert [type(ask) for ask in seen] == [All, Score, Score, Continue, Score]
    problem = Problem(id="p", question="?", answer="7")
    traces = [row for row in rows if isinstance(row, Trace)]
    labels = [*(row for row in rows if isinstance(row, Label)), *optimal.grade(problem, rows, Echo())]
    found = optimal.outcomes(problem, traces, labels, WIDE, "policy", Echo())
    assert found.right == 0.5
    assert found.predicted == pytest.approx(0.5)
    assert found.tokens == 4
    assert found.table["best", 2] == Spent(0.0, 4.0, 4.0)
    assert found.table["majority", 1].right == pytest.approx(0.5, abs=0.3)
    assert found.table["majority", 1].written == 2.0
    assert found.table["bon", 2] == Spent(1.0, 6.0, 6.0)
    assert (
        optimal.predicted(traces[:2], str.__eq__, optimal.Settings()) == 0.5
    )  # without a PRM: how many agree
    cost = WIDE.answering("policy", TaskSettings(use="t", max_tokens=20))
    assert isinstance(cost, Cost)
    assert cost.written["policy"] == 60  # 2 + 2 samples and a best of 2, 10 tokens each


def test_spending_takes_the_strategy_of_the_predicted_bin():
    """Seems easy (.9): the table says majority there; hard (.1): the search."""
    settings = optimal.Settings(**{**WIDE.model_dump(), "bins": 2})
    known = {"edge/predicted/1": 0.5, "predicted/1/majority@2": 0.9, "predicted/1/best@2": 0.5}
    known |= {"predicted/1/bon@2": 0.6, "predicted/2/majority@2": 0.1, "predicted/2/best@2": 0.2}
    known |= {"predicted/2/bon@2": 0.4}
    hard = [written("7"), written("8")]
    easy = drive_with_replies(
        optimal.spend(QUESTION, settings, "policy", known, 3),
        [hard, [[0.9], [0.9]], [written("8"), written("8")], [[0.1], [0.1]]],
        [],
    )
    assert easy[0].reason == "difficulty 1 of 2 (1 is the easiest): majority, 2 samples"
    assert [trace.answer for trace in easy[1:] if trace.chosen] == ["8"]
    searched = drive_with_replies(
        optimal.spend(QUESTION, settings, "policy", known, 2),
        [hard, [[0.1], [0.1]], [written("5"), written("6")], [[0.2], [0.7]]],
        [],
    )
    assert "difficulty 2 of 2" in searched[0].reason
    assert "bon, 2 samples" in searched[0].reason
    assert [trace.answer for trace in searched[1:] if trace.chosen] == ["6"]
    with pytest.raises(RecipeError, match="--budget 0: the smallest budget that was measured is 1"):
        drive_with_replies(optimal.spend(QUESTION, settings, "policy", known, 0), [], [])


def test_panels_name_what_is_measured():
    found = optimal.measure({"policy": WORLD}, TWO)
    declared = {each.name for each in optimal.metrics(TWO)}
    assert declared <= set(found)
    for panel in optimal.panels(TWO):
        assert set(panel.metrics) & set(found), panel.title
        if panel.kind == "lines":
            assert all(name.rpartition("@")[2].isdigit() for name in panel.metrics)


def test_in_one_bin_nothing_is_chosen_by_difficulty():
    one = TWO.model_copy(update={"bins": 1})
    found = optimal.measure({"policy": WORLD}, one)
    heads = {each.name for each in optimal.metrics(one) if each.headline}
    assert heads == {f"accuracy/{name}@{n}" for name, n in one.cells if n == one.budgets[-1]}
    assert [panel.title for panel in optimal.panels(one)] == [
        "Accuracy by samples, each strategy",
        "Tokens a problem",
    ]
    [said] = optimal.remarks(found, one).values()
    assert "difficulty" not in said
    assert "tokens a problem" in said
