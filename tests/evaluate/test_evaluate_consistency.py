"""Pairs that differ in what must not matter: goldens by hand, pairs in one split, and what is refused."""

import json

import pytest
from pydantic import ValidationError

from pipeline.errors import RecipeError
from pipeline.evaluate import consistency
from pipeline.evaluate._rules import GateRule
from pipeline.evaluate.gate import decide
from pipeline.rows import Label, Problem, Trace
from pipeline.tasks import BaseTask, jsonl
from pipeline.tasks.prepare import gather

SETTINGS = consistency.Settings(resamples=200)


def member(pair, group, greedy, right=None, samples=()):
    known = greedy == consistency.RIGHT if right is None else right
    return consistency.Member(f"{pair}-{group}", pair, group, greedy, known, samples)


R = consistency.RIGHT
#: a: both right; b: only x right; c: both wrong alike; d: no answer and a wrong one
ROWS = [
    *(member("a", "x", R), member("a", "y", R)),
    *(member("b", "x", R), member("b", "y", "7")),
    *(member("c", "x", "8"), member("c", "y", "8")),
    *(member("d", "x", None), member("d", "y", "9")),
]


def test_golden_pairs():
    found = consistency.measure({"policy": ROWS}, SETTINGS)
    assert found["consistency"] == 0.5  # a and c
    assert found["accuracy"] == 0.375
    assert (found["accuracy/x"], found["accuracy/y"]) == (0.5, 0.25)
    assert found["gap"] == 0.25
    assert found["consistency/x"] == 0.5
    assert (found["pairs"], found["unpaired"]) == (4, 0)
    said = consistency.remarks(found, SETTINGS)[consistency.FAIR]
    assert said == "50.0 % of 4 pairs get one answer. The groups' accuracies lie 25.0 points apart."


def test_samples_of_two_members():
    """x says 1 1, y says 1 2: half of the four pairs agree."""
    rows = [member("a", "x", "1", samples=("1", "1")), member("a", "y", "1", samples=("1", "2"))]
    assert consistency.measure({"policy": rows}, SETTINGS)["consistency/sampled"] == 0.5


def test_a_loop_that_drifts_is_refused():
    """20 pairs, alike before and apart after: the gate's interval is below its margin."""
    before = [member(str(n), group, R) for n in range(20) for group in ("x", "y")]
    after = [
        member(str(n), group, R if group == "x" or n < 4 else "7") for n in range(20) for group in ("x", "y")
    ]
    found = consistency.measure({"policy": after, "policy@incumbent": before}, SETTINGS)
    assert found["consistency/change"] == pytest.approx(-0.8)
    assert found["gap/change"] == pytest.approx(0.8)
    known = {f"fair/{name}": value for name, value in found.items()}
    assert not decide(GateRule(metric="fair/consistency", margin=0.02), known, first=False).promote
    assert not decide(GateRule(metric="fair/gap", at_most=0.1), known, first=False).promote
    assert (
        "Surely less alike than before: -80.0 points"
        in consistency.remarks(found, SETTINGS)[consistency.FAIR]
    )


def test_a_question_without_a_partner_is_counted():
    found = consistency.measure({"policy": [*ROWS, member("e", "x", R)]}, SETTINGS)
    assert found["pairs"] == 4
    assert found["unpaired"] == pytest.approx(1 / 9)
    assert "11 % of the questions have no partner" in consistency.health(found, SETTINGS).warnings[0]
    with pytest.raises(RecipeError, match="none of 1 questions of policy has a partner"):
        consistency.measure({"policy": [member("e", "x", R)]}, SETTINGS)


class Echo(BaseTask):
    def __init__(self):
        pass

    def correct(self, answer, problem):
        return answer == problem.answer


def trace(name, answer, temperature):
    return Trace(
        problem_id="p", id=name, prompt="?", text="", token_ids=[1], step_ends=[1], steps=[""], answer=answer,
        temperature=temperature, model="policy",
    )  # fmt: skip


def test_what_an_answer_counts_as():
    problem = Problem(
        id="p", question="?", answer="7", meta=json.dumps({"pair": 3, "group": "x"}), source="fair"
    )
    traces = [trace("0", "It is  7", 0.0), trace("1", "7", 1.0), trace("2", None, 1.0)]
    labels = consistency.grade(problem, traces, Echo())
    assert [label.correct for label in labels] == [False, True, False]
    found = consistency.outcomes(problem, traces, labels, SETTINGS, "policy", Echo())
    assert (found.pair, found.group, found.greedy, found.right) == ("3", "x", "it is 7", False)
    assert found.samples == (R, None)
    plain = Problem(id="p", question="?", answer="7", source="sums")
    with pytest.raises(RecipeError, match=r"task sums: problem p names no pair.*pair: FIELD"):
        consistency.outcomes(plain, traces, [], SETTINGS, "policy", Echo())
    assert isinstance(labels[0], Label)


def test_pairs_stand_in_one_split(tmp_path):
    names = [("Ann", "f"), ("Ben", "m")]
    rows = [
        {"question": f"{name} has {n} and 2. How many?", "answer": n + 2, "pair": n, "sex": sex}
        for n in range(60)
        for name, sex in names
    ]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = jsonl.Task(jsonl.Settings(use="jsonl", path=str(file), pair="pair", group="sex"))
    problems = gather([task]).problems
    assert len(problems) == 120
    splits = {}
    for problem in problems:
        splits.setdefault(json.loads(problem.meta)["pair"], set()).add(problem.split)
    assert all(len(those) == 1 for those in splits.values())
    assert {split for those in splits.values() for split in those} == {"train", "dev", "test"}
    assert {json.loads(problem.meta)["group"] for problem in problems} == {"f", "m"}
    wrong = jsonl.Task(jsonl.Settings(use="jsonl", path=str(file), pair="par"))
    assert "no field 'par'" in wrong.look()[0]
    with pytest.raises(ValidationError, match="means something with `pair` only"):
        jsonl.Settings(use="jsonl", path=str(file), group="sex")


def test_panels_name_declared_metrics():
    settings = consistency.Settings(samples=2)
    known = {each.name for each in consistency.metrics(settings)}
    for panel in consistency.panels(settings):
        assert all(name in known or name.endswith("/") for name in panel.metrics)
