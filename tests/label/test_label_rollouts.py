"""Labels by roll-outs: values worked out by hand, what is asked, what is dropped, and sums that must hold."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from label_world import stamped
from pydantic import ValidationError

from pipeline.asks import Counted, MonteCarlo
from pipeline.engine.driver import drive_with_replies
from pipeline.label import advantage, relative, shepherd
from pipeline.rows import Dropped, Group, Label, Problem, Trace
from pipeline.tasks import BaseTask, TaskSettings


class Exact(BaseTask):
    def correct(self, answer, problem):
        return answer == problem.answer


TASK = Exact(TaskSettings(use="exact"))
PROBLEM = Problem(id="p", question="2 + 2", answer="4")


def trace(number, steps, answer="4", finish="eos"):
    """A trace whose k-th step is one token, named by the step."""
    ids = [ord(step) for step in steps]
    return Trace(
        problem_id="p", id=f"p/{number}", prompt="q", text=steps, token_ids=ids, answer=answer, finish=finish,
        step_ends=list(range(1, len(ids) + 1)), steps=list(steps),
    )  # fmt: skip


def run(module, traces, right, problem=PROBLEM, **settings):
    """The rows of a labeller whose completers are right in `right[(model, text)]` of n; and the asks."""
    asks: list[MonteCarlo] = []

    def reply(ask):
        assert isinstance(ask, MonteCarlo)
        assert len({(p.token_ids, p.done) for p in ask.listed}) == len(ask.listed), "asked twice"
        found = []
        for prefix in ask.listed:
            share = float(prefix.answer == "4") if prefix.done else right[ask.by, prefix.text]
            found.append(Counted(ask.n, round(share * ask.n)))
        return found

    made = module.Settings(**settings)
    search = module.label(problem, Group("p", traces=traces), made, TASK)
    rows = drive_with_replies(search, [reply] * calls(module, made, problem, traces), asks)
    return stamped(rows, module.__name__.rpartition(".")[2]), asks


def calls(module, settings, problem, traces):
    if problem.answer is None or not any(t.step_ends for t in traces):
        return 0
    if module is not advantage:
        return 1
    return len(set(settings.completers)) + (settings.scout > 0)


def test_shepherd_soft_and_hard():
    right = {("policy", "a"): 3 / 8, ("policy", "ab"): 0.0, ("policy", "x"): 1 / 8}
    traces = [trace(0, "abc", "5"), trace(1, "xy"), trace(2, "abd"), trace(3, "x", finish="budget")]
    rows, [ask] = run(shepherd, traces, right)
    assert [row.step_scores for row in rows] == [[0.375, 0.0, 0.0], [0.125, 1.0], [0.375, 0.0, 1.0], [0.125]]
    assert [row.correct for row in rows] == [False, True, True, False]
    assert [row.value for row in rows] == [0.0, 1.0, 1.0, 0.125]
    assert ask.n == 8
    assert [prefix.text for prefix in ask.listed] == ["a", "ab", "abc", "x", "xy", "abd"]
    rows, _ = run(shepherd, traces, right, estimate="hard")
    assert [row.step_scores for row in rows] == [[1.0, 0.0, 0.0], [1.0, 1.0], [1.0, 0.0, 1.0], [1.0]]


@given(st.integers(1, 64).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))))
def test_hard_is_soft_rounded_up(counts):
    count = Counted(*counts)
    soft, hard = (shepherd.value(count, shepherd.Settings(estimate=e)) for e in ("soft", "hard"))
    assert hard == math.ceil(soft)


def test_relative_by_hand():
    assert relative.good_steps(0.5, [0.45, 0.3, 0.3], 0.8) == [1, 0, 1]
    assert relative.good_steps(0.5, [0.5, 0.0, 0.25], 0.8) == [1, 0, 0]
    assert relative.good_steps(0.25, [0.75, 0.5], 0.8) == [1, 0]
    assert relative.good_steps(0.25, [0.75, 0.5], 0.8, denoise=True) == [1, 1]
    right = {("policy", ""): 0.5, ("policy", "a"): 0.4, ("policy", "ab"): 0.3}
    rows, [ask] = run(relative, [trace(0, "abc"), trace(1, "ad", "5")], right, n=10)
    assert [row.step_scores for row in rows] == [[1, 0, 1], [1, 0]]
    assert [prefix.text for prefix in ask.listed] == ["", "a", "ab", "abc", "ad"]


@pytest.mark.parametrize(("before", "after", "n"), [(15, 12, 20), (5, 4, 6), (10, 8, 12), (5, 4, 8)])
def test_relative_takes_exactly_so_much_for_enough(before, after, n):
    """.8 * .75 comes to a little more than .6 in floating point."""
    assert relative.good_steps(before / n, [after / n], 0.8) == [1]
    assert relative.good_steps(before / n, [(after - 1) / n], 0.8) == [0]


def test_relative_drops_problems_out_of_the_band():
    right = {("policy", ""): 1.0, ("policy", "a"): 1.0}
    rows, _ = run(relative, [trace(0, "ab")], right, between=[0.1, 0.9])
    assert rows == [Dropped(problem_id="p", what="p/0", reason="completer_out_of_band")]
    with pytest.raises(ValidationError, match="must be two shares"):
        relative.Settings(between=[0.9, 0.1])


@given(st.floats(0, 1), st.lists(st.floats(0, 1), min_size=1, max_size=8), st.booleans())
def test_relative_labels_stay_0_after_a_share_of_0(question, shares, denoise):
    values = relative.good_steps(question, shares, 0.8, denoise)
    first = shares.index(0) if 0 in shares else len(shares)
    assert not any(values[first:])
    rising = sorted(share for share in shares if share) or [1.0]
    assert all(relative.good_steps(min(question, rising[0]), rising, 0.8, denoise))


def test_advantage_by_hand():
    assert advantage.best_of(0.3, 4) == pytest.approx(0.7599)
    assert advantage.best_of(0.3, 1) == pytest.approx(0.3)
    assert advantage.gains([0.4, 0.6, 0.5]) == pytest.approx([0.2, -0.1])
    assert advantage.gains([None, 0.6, 0.5, None]) == [None, pytest.approx(-0.1), None]
    assert advantage.first_pit([0.5, 0.5, 0, 0.25], 0) == 2
    assert advantage.first_pit([0, 0.5, 1], 0) is None
    assert advantage.near(3, 6, 1) == [1, 2, 3, 4]
    assert advantage.near(1, 3, 1) == [0, 1, 2]
    assert advantage.near(None, 3, 0) == [0, 1, 2]


def test_advantage_of_a_prover_and_of_the_best_of_k():
    right = {("policy", ""): 0.5, ("policy", "a"): 0.25, ("prover", ""): 0.4, ("prover", "a"): 0.6}
    rows, asks = run(advantage, [trace(0, "ab")], right, by="prover", best_of=1, scout=0)
    assert [ask.by for ask in asks] == ["policy", "prover"]
    assert {ask.n for ask in asks} == {20}
    assert rows[0].step_scores == [0.25, 1.0]
    assert rows[0].advantage == pytest.approx([0.2, 0.4])
    rows, [ask] = run(advantage, [trace(0, "ab")], right, best_of=2, scout=0)
    assert ask.by == "policy"
    assert rows[0].advantage == pytest.approx([0.4375 - 0.75, 1 - 0.4375])


def test_advantage_draws_near_the_first_pit():
    right = {
        ("policy", text): share
        for text, share in (("", 0.5), ("a", 0.5), ("ab", 0.5), ("abc", 0.0), ("abcd", 0.0))
    }
    long = trace(0, "abcde", "5")
    rows, [scouts, asked] = run(advantage, [long], right, around=0, best_of=1)
    assert (scouts.n, asked.n) == (4, 20)
    assert [prefix.text for prefix in asked.listed] == ["ab", "abc"]
    assert rows[0].advantage == [None, None, pytest.approx(-0.5), None, None]
    assert rows[0].step_scores == [None, 0.5, 0.0, None, None]
    assert rows[0].value is None


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9), st.integers(1, 8))
def test_advantages_telescope(shares, number):
    values = [advantage.best_of(share, number) for share in shares]
    assert sum(advantage.gains(values)) == pytest.approx(values[-1] - values[0], abs=1e-9)
    assert all(-1 <= gain <= 1 for gain in advantage.gains(values))


@pytest.mark.parametrize("module", [shepherd, relative, advantage])
def test_what_cannot_be_valued_is_dropped_with_a_reason(module):
    bare = Trace(problem_id="p", id="p/1", prompt="q", text="", token_ids=[], step_ends=[], steps=[])
    right = {("policy", text): 1.0 for text in ("", "a")}
    rows, _ = run(module, [trace(0, "ab"), bare], right)
    assert [row.reason for row in rows if isinstance(row, Dropped)] == ["no_step_ends"]
    assert [row.trace_id for row in rows if isinstance(row, Label)] == ["p/0"]
    nobody = Problem(id="p", question="?", answer=None)
    rows, _ = run(module, [trace(0, "ab"), bare], right, nobody)
    assert [(row.what, row.reason) for row in rows] == [("p/0", "no_gold"), ("p/1", "no_gold")]
    assert run(module, [bare], right)[0] == [Dropped(problem_id="p", what="p/1", reason="no_step_ends")]
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        module.Settings(n=0)
