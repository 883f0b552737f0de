"""MATH on the real rows of MATH-500, and the shapes in which its train split comes."""

import json
from pathlib import Path

import pytest

from pipeline.tasks import math
from pipeline.tasks.prepare import gather, render
from pipeline.vote import keys

FILE = Path(__file__).parents[2].parent / "shared" / "data" / "math500" / "math_500.json"
needs_data = pytest.mark.skipif(not FILE.exists(), reason="the shared MATH-500 rows are not here")


def make(**more):
    return math.Task(math.Settings(use="math", **{"path": str(FILE), **more}))


@needs_data
def test_every_gold_answer_in_a_box_is_right():
    task = make()
    found = gather([task])
    assert len(found.problems) == 500
    right = [task.correct(task.extract(task.gold_completion(p)), p) for p in found.problems]
    assert sum(right) >= 495


@needs_data
def test_equal_mathematics_written_otherwise_is_right():
    task = make()
    by_answer = {p.answer: p for p in task.problems()}
    for gold, other in {r"\frac{14}{3}": "14/3", "p - q": "-q+p", r"3\sqrt{13}": r"\sqrt{117}"}.items():
        assert task.correct(task.extract(f"So \\boxed{{{other}}}."), by_answer[gold])
    assert not task.correct(task.extract(r"So \boxed{q-p}."), by_answer["p - q"])


def test_its_own_test_file_and_a_train_file(tmp_path):
    rows = [
        {
            "problem": f"What is ${n}+1$?",
            "level": f"Level {n % 5 + 1}",
            "solution": f"It is $\\boxed{{{n + 1}}}$.",
        }
        for n in range(300)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "bench.json").write_text(
        json.dumps([{"problem": "$2^5$?", "answer": "32", "level": 3, "unique_id": "t/1"}])
    )
    task = make(path=str(tmp_path / "rows.jsonl"), test_path=str(tmp_path / "bench.json"))
    found = gather([task])
    assert found.counts["test"] == 1  # hashed rows join train where a test split of its own is there
    assert found.counts["train"] + found.counts["dev"] == 300
    by_id = {p.id: p for p in found.problems}
    assert by_id["t/1"].difficulty == "3"
    one = next(p for p in found.problems if p.question == "What is $7+1$?")
    assert (one.answer, one.difficulty) == ("8", "3")
    assert task.gold_completion(one) == r" It is $\boxed{8}$."


def test_rows_without_an_answer_are_rejected(tmp_path):
    good = [{"problem": f"{n}+1?", "answer": str(n + 1)} for n in range(300)]
    bad = [{"problem": "a"}, {"problem": "b", "solution": "no box"}, {"problem": "c", "answer": ["1"]}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, good + bad)))
    task = make(path=str(tmp_path / "rows.jsonl"))
    assert len(list(task.problems())) == 300
    assert [row["line"] for row in task.rejected] == [301, 302, 303]


@pytest.mark.parametrize("steps", ["\n", "\n\n"])
def test_steps_and_own_examples(steps):
    task = make(steps=steps, few_shot=4)
    assert len(task.built_in) == 4
    for _, completion, answer in task.built_in:
        shown = task.completion(completion)
        assert len(task.steps(shown)) == completion.count("\n\n") + 1
        assert task.extract(shown) == answer


def test_the_hint_and_its_leak(tmp_path):
    (tmp_path / "rows.jsonl").write_text(
        json.dumps({"problem": "What is $f(2)$ for $f(x)=x^2$?", "answer": "4"})
    )
    task = make(path=str(tmp_path / "rows.jsonl"))
    [problem] = task.problems()
    assert render(task, problem, hint=True).prompt_used == f"Q: {problem.question} (answer: 4)\nA:"
    assert task.leaks(problem, r" It is (answer: 4) so $\boxed{4}$.")
    assert task.leaks(problem, r" $f(2) = 2^2$, so $\boxed{4}$.") is None


def test_equal_mathematics_votes_together():
    task = make()
    assert keys(["1/2", "0.5", "\\frac{1}{2}", "x+1", "1 + x", None, "2"], task.same) == [
        "1/2", "1/2", "1/2", "x+1", "x+1", None, "2",
    ]  # fmt: skip
