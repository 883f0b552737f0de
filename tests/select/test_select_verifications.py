"""Written checks as a verifier's training rows: only those that say what is true of every step, balanced."""

from __future__ import annotations

import random

import pytest

from pipeline.recipe.methods import method
from pipeline.rows import Dropped, Example, Group, Label, Trace
from pipeline.select import ReadingSelectMethod, WholeSelectMethod, bands, contract, verifications
from pipeline.tasks import BaseTask, TaskSettings


class Task(BaseTask):
    def extract(self, text):
        return text


TASK = Task(TaskSettings(use="none"))


def answer(name, *steps):
    steps = steps or ("a", "b")
    return Trace(
        problem_id=name, id=f"{name}/0", prompt="<q>", text="".join(steps), token_ids=[1] * len(steps),
        step_ends=list(range(1, len(steps) + 1)), steps=list(steps), answer=steps[-1],
    )  # fmt: skip


def check(name, number, text, finish="eos", of="0"):
    return Trace(
        problem_id=name, id=f"{name}/critique.{number}", prompt=f"<{name} check>", text=text, token_ids=[7, 8],
        step_ends=[2], steps=[text], answer=TASK.extract_turn("critique", text), parent=f"{name}/{of}", finish=finish,
    )  # fmt: skip


def group(name, truth, *texts, **more):
    """truth: of each step of its one answer; texts: what was said of it."""
    one = answer(name)
    checks = [check(name, number, text) for number, text in enumerate(texts)]
    label = Label(problem_id=name, trace_id=one.id, **({"step_scores": truth, "labeller": "oracle"} | more))
    return Group(name, traces=[one], labels={one.id: label}, rollouts=checks)


def selected(*groups, **settings):
    """What is kept, and why the rest is not; each row is named once."""
    given = verifications.Settings(**settings)
    whole = verifications.reduce((verifications.survey(g, given, task=TASK) for g in groups), given)
    rows = [r for g in groups for r in verifications.select(g, given, TASK, lambda text: [5], whole=whole)]
    kept = [row.trace_id for row in rows if isinstance(row, Example)]
    out = {row.what: row.reason for row in rows if isinstance(row, Dropped)}
    assert sorted([*kept, *out]) == sorted(t.id for g in groups for t in (*g.traces, *g.rollouts))
    assert len(rows) == len(kept) + len(out)
    return kept, out


RIGHT = "Step 1: right. Step 2: right.\nVerdict: right"
SECOND = "Step 1: right. Step 2: wrong.\nVerdict: wrong"
FIRST = "Step 1: wrong.\nVerdict: wrong"


@pytest.mark.parametrize(
    ("truth", "text", "reason"),
    [
        ([1.0, 1.0], RIGHT, ""),
        ([1.0, 0.0], SECOND, ""),
        (
            [1.0, 0.0],
            "Step 1: right. Step 2: right, but it ends there.\nVerdict: wrong",
            "",
        ),  # the end's fault
        ([0.0, 0.0], FIRST, ""),
        ([0.0, 1.0], FIRST, ""),  # after a false step none is sound
        ([0.25, 0.125], RIGHT, ""),  # some roll-out ended right
        ([1.0, 1.0], SECOND, "false_verdict"),
        ([0.0, 0.0], SECOND, "false_step"),  # wrong, as it is, by the wrong step
        ([1.0, 0.0], FIRST, "false_step"),
        ([1.0, 0.0], RIGHT, "false_verdict"),
        ([None, 0.0], FIRST, ""),  # nobody knows of the first
        ([1.0, 1.0], "Verdict: right", "unsaid_step"),
        ([1.0, 0.0], "Verdict: wrong", "unsaid_step"),
        ([1.0, 1.0], "no idea", "no_verdict"),
        ([1.0, 1.0], "Step 1: wrong.\nVerdict: right", "no_verdict"),
        (None, RIGHT, "no_truth"),
        ([1.0], RIGHT, "no_truth"),
    ],
)
def test_a_check_is_kept_if_all_that_it_says_is_true(truth, text, reason):
    kept, out = selected(group("p", truth, text), balance=False)
    assert kept == ([] if reason else ["p/critique.0"])
    assert out == {"p/0": "answer"} | ({"p/critique.0": reason} if reason else {})


def test_the_control_looks_at_the_verdict_alone():
    luck = group("p", [0.0, 0.0], SECOND)
    assert selected(luck, balance=False)[0] == []
    assert selected(luck, balance=False, match="verdict")[0] == ["p/critique.0"]
    outcome = group("p", None, "Verdict: right", SECOND, correct=True)
    kept, out = selected(outcome, balance=False, match="verdict")
    assert kept == ["p/critique.0"]
    assert out["p/critique.1"] == "false_verdict"


def test_labels_made_of_the_checks_themselves_are_no_truth():
    own = group("p", [1.0, 1.0], RIGHT, labeller="verify_steps")
    assert selected(own, balance=False)[1]["p/critique.0"] == "no_truth"


def test_of_an_answer_so_many_in_other_words():
    other = RIGHT.replace("2: right", "2: right as well")
    told = group("p", [1.0, 1.0], RIGHT, RIGHT.upper(), other)
    assert selected(told, balance=False)[0] == ["p/critique.0"]
    kept, out = selected(told, balance=False, per_answer=None)
    assert kept == ["p/critique.0", "p/critique.2"]
    assert out["p/critique.1"] == "duplicate"
    told.rollouts[0] = check("p", 0, RIGHT, finish="length")
    assert selected(told, balance=False)[1]["p/critique.0"] == "truncated"


def test_right_and_wrong_are_balanced_over_the_whole_set():
    """Whatever the set is: as many of the one as of the other, of the fewer all, and the same ones again."""
    draw = random.Random(2)
    for _ in range(20):
        kinds = [draw.choice((RIGHT, SECOND, "no idea")) for _ in range(12)]
        truth = {RIGHT: [1.0, 1.0], SECOND: [1.0, 0.0], "no idea": [1.0, 1.0]}
        groups = [group(f"p{n}", truth[kind], kind) for n, kind in enumerate(kinds)]
        kept, out = selected(*groups)
        fewer = min(kinds.count(RIGHT), kinds.count(SECOND))
        said = [kinds[int(name.partition("/")[0][1:])] for name in kept]
        assert said.count(RIGHT) == said.count(SECOND) == fewer
        assert list(out.values()).count("balance") == abs(kinds.count(RIGHT) - kinds.count(SECOND))
        assert selected(*reversed(groups))[0] == kept[::-1]


def test_other_traces_are_named_too():
    told = group("p", [1.0, 1.0], RIGHT)
    told.traces.append(answer("q"))
    told.rollouts.append(check("p", 5, RIGHT, of="9"))
    kept, out = selected(told, balance=False)
    assert kept == ["p/critique.0"]
    assert out == {"p/0": "answer", "q/0": "no_check", "p/critique.5": "no_attempt"}


def test_a_survey_that_reads_texts_is_given_the_task():
    assert contract(verifications) is ReadingSelectMethod
    assert contract(bands) is WholeSelectMethod
    assert method("select", "verifications") is verifications
