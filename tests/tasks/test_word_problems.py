"""Word problems: equations and their other ways, our own templates, SVAMP's real rows."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import DamagedData, RecipeError
from pipeline.tasks import _equations as equations
from pipeline.tasks import normalise, svamp, words
from pipeline.tasks._word_templates import TEMPLATES
from pipeline.tasks.prepare import gather, render

REAL = Path(__file__).parents[3] / "shared/data/svamp/SVAMP.json"
real = pytest.mark.skipif(not REAL.is_file(), reason=f"the real rows are not there: {REAL}")


def make(**more):
    return words.Task(words.Settings(**{"use": "words", "train": 300, "dev": 60, "test": 120, **more}))


def judged(equation: str, *steps: str) -> list[bool]:
    return equations.verdicts(equations.parse(equation), steps)


# --- equations


def test_lines_are_the_calculations_from_the_inside():
    found = equations.lines(equations.parse("( ( 8.0 - 3.0 ) * 2.0 )"))
    assert found == ["8 - 3 = 5", "5 * 2 = 10"]
    assert equations.lines(equations.parse("7 - 2 * 3")) == ["2 * 3 = 6", "7 - 6 = 1"]
    assert equations.solution(equations.parse("60 * ( 55 / 15 )")) == ["60 * 55 = 3300", "3300 / 15 = 220"]


@pytest.mark.parametrize("text", ["", "3 +", "( 3 - 2", "3 - 2 )", "3 $ 2", "- 3"])
def test_what_is_no_equation_is_said(text):
    with pytest.raises(ValueError, match="not an equation"):
        equations.parse(text)


def test_a_right_way_in_another_order_is_right_and_luck_is_not():
    assert judged("( 9 - 2 ) - 3", "9 - 2 = 7", "7 - 3 = 4") == [True, True]
    assert judged("( 9 - 2 ) - 3", "2 + 3 = 5", "9 - 5 = 4") == [True, True]
    assert judged("( 9 - 2 ) - 3", "9 - 3 = 6", "6 - 2 = 4") == [True, True]
    assert judged("( 9 - 2 ) - 3", "2 * 3 = 6") == [False]  # true, and on no right way
    assert judged("4 * 2", "2 * 4 = 8") == [True]
    assert judged("2 + 2", "2 * 2 = 4") == [False]  # the right number by luck
    assert judged("9 - 5", "5 - 9 = 4") == [False]
    assert judged("9 - 5", "9 - 5 = 3") == [False]
    assert judged("9 - 5", "9 - 5 = 4", "#### 4") == [True, True]
    assert judged("9 - 5", "#### 4") == [False]
    assert judged("9 - 5", "9 - 5 = 4", "4 - 4 = 0") == [True, False]  # went on past the end
    assert judged("( 9 - 2 ) - 3", "9 - 2 = 8", "8 - 3 = 5") == [False, False]
    assert judged("9 - 5", "He has 9 - 5 = 4 apples left.") == [True]
    assert judged("1200 / 3", "1,200 ÷ 3 = 400") == [True]


numbers = st.integers(1, 99).map(str)
trees = st.recursive(
    numbers, lambda inner: st.tuples(inner, st.sampled_from("+-*"), inner).map(lambda t: f"( {' '.join(t)} )"),
    max_leaves=3,
)  # fmt: skip


@given(trees)
def test_every_way_gives_the_equations_value_and_its_own_lines_are_right(text):
    expression = equations.parse(text)
    leaves = [Fraction(leaf) for leaf in equations.leaves(expression)]
    wanted = equations.value(expression, leaves)
    assert all(judged(text, *equations.lines(expression)))
    for way in equations.ways(expression) if len(leaves) > 1 else ():
        known = list(leaves)
        for a, sign, b in way:
            known.append(equations.apply(known[a], sign, known[b]))
        assert known[-1] == wanted


# --- words


def test_problems_are_right_distinct_and_within_their_limits():
    task = make(largest=60)
    found = gather([task])
    assert found.counts == {"train": 300, "dev": 60, "test": 120}
    assert len({problem.id for problem in found.problems}) == 480
    for problem in found.problems:
        steps = task.steps(task.gold_completion(problem))
        assert task.step_oracle(problem, steps) == [True] * len(steps)
        assert task.correct(task.extract(task.gold_completion(problem)), problem)
        assert not task.correct(str(int(problem.answer) + 1), problem)
        assert 1 <= int(problem.answer) <= 60
        assert "{" not in problem.question
        for number in problem.solution.replace("\n", " ").split(" "):
            assert not number.isdigit() or int(number) <= 60
    assert {problem.difficulty for problem in found.problems} == {"1 step", "2 steps"}


def test_the_problems_do_not_change_when_more_are_asked_for():
    few, many = (list(make(train=count).problems()) for count in (20, 60))
    assert few[:20] == many[:20]


def test_disjoint_templates_are_disjoint_and_shared_ones_are_not():
    parts = make().templates
    names = {split: {template.name for template in parts[split]} for split in parts}
    assert set().union(*names.values()) == {template.name for template in TEMPLATES}
    assert sum(map(len, names.values())) == len(TEMPLATES)
    for split, few in names.items():
        equations_of = {t.equation if t.num_steps == 1 else "two" for t in parts[split]}
        assert equations_of == {"x + y", "x - y", "x * y", "x / y", "two"}, (split, few)
    shared = make(templates="shared").templates
    assert shared["train"] == shared["test"] == list(TEMPLATES)


def test_a_number_too_many_stands_in_as_many_stories_as_asked():
    none, all_of = make(extra=0.0, steps=(1, 1)), make(extra=1.0, steps=(1, 1))
    count = {task: [sum(c.isdigit() for c in p.question.split()) for p in task.problems()] for task in (none, all_of)}  # fmt: skip
    numbers_in = lambda p: len([w for w in p.question.replace(".", " ").split() if w.isdigit()])  # noqa: E731
    assert count
    assert {numbers_in(p) for p in none.problems()} == {2}
    assert min(numbers_in(p) for p in all_of.problems()) >= 2
    assert sum(numbers_in(p) == 3 for p in all_of.problems()) > 400


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"steps": (2, 1)}, "steps: "),
        ({"steps": (1, 3)}, "steps: "),
        ({"train": None}, "each count must be given"),
        ({"few_shot": 7}, "few_shot: 7: words has 6"),
        ({"few_shot": {"examples": 7, "rounds": [0, 1]}}, "few_shot: 7: words has 6"),
    ],
)
def test_settings_that_cannot_be_are_refused(more, said):
    with pytest.raises(ValueError, match=said):
        make(**more)


def test_too_many_problems_for_the_numbers_are_said(monkeypatch):
    monkeypatch.setattr(words, "TRIES", 20)
    with pytest.raises(RecipeError, match=r"task.test: 4000 word problems asked, \d+ found.*raise `largest`"):
        list(make(train=1, dev=0, test=4000, steps=(1, 1), largest=20, extra=0.0).problems())


def test_worked_examples_stand_in_front_and_their_solutions_are_right():
    task = make(few_shot=6)
    problem = next(iter(task.problems()))
    shown = render(task, problem)
    assert shown.prompt == f"Q: {problem.question}\nA:"
    assert shown.prompt_used == shown.stem + shown.prompt
    assert shown.stem.count("Q: ") == 6
    for (_, solution, answer), (_, completion) in zip(
        words.word_problems.EXAMPLES, task.examples(problem), strict=True
    ):
        assert completion == f" {solution}"
        assert task.extract(completion) == answer
        lines = [equations.calculation(line) for line in solution.split("\n")]
        assert all(equations.apply(a, sign, b) == result for a, sign, b, result in lines)
        assert all(one[3] in (two[0], two[2]) for one, two in pairwise(lines))


def test_answers_in_other_words_are_found():
    task = make()
    assert task.extract(" 9 + 4 = 13\n13 - 2 = 11") == "11"
    assert task.extract("So she has 1,200 apples left.") == "1200"
    assert task.extract("The answer is \\boxed{7}.") == "7"
    assert task.extract("I do not know.") is None


# --- SVAMP


@real
def test_every_real_row_is_read_and_its_gold_is_right():
    task = svamp.Task(svamp.Settings(use="svamp", path=str(REAL), chat=True, few_shot=4))
    found = gather([task])
    assert (found.rejected, found.dropped) == ([], [])
    assert sum(found.counts.values()) == 1000
    assert found.counts["test"] == 300
    unknown = [problem for problem in found.problems if not problem.solution]
    assert len(unknown) <= 2
    for problem in found.problems:
        if problem in unknown:
            continue
        gold = task.gold_completion(problem)
        assert task.correct(task.extract(gold), problem), problem
        assert all(task.step_oracle(problem, task.steps(gold))), problem
    places = sorted(int(problem.meta.split(":")[2].split('"')[0]) for problem in found.problems if problem.split == "test")  # fmt: skip
    assert places == list(range(701, 1001))
    examples = {normalise(question) for question, _ in task.examples(found.problems[0])}
    assert not examples & {normalise(problem.question) for problem in found.problems}


def test_a_row_in_the_hubs_form_and_rows_that_are_none(tmp_path):
    rows = """[{"ID": "chal-9", "Body": "If 3 hens lay 2 eggs each", "Question": "how many eggs are there?",
      "Equation": "( 3.0 * 2.0 )", "Answer": "6", "Type": "Multiplication"},
     {"ID": "chal-10", "Body": "He had 5.", "Question": "How many?", "Equation": "( 5.0 + )", "Answer": "5"}]"""
    (tmp_path / "svamp.json").write_text(rows)
    task = svamp.Task(svamp.Settings(use="svamp", path=str(tmp_path / "svamp.json")))
    [problem] = task.problems()
    assert problem.question == "If 3 hens lay 2 eggs each, how many eggs are there?"
    assert (problem.answer, problem.solution) == ("6", "3 * 2 = 6")
    assert "'Equation' cannot be read: not an equation: a number is missing" in task.rejected[0]["reason"]
    with pytest.raises(DamagedData, match="1 of 2 rows are malformed"):
        gather([task])
