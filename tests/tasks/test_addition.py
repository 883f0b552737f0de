"""Addition with STaR's scratchpad."""

from __future__ import annotations

from collections import Counter

import pytest
from pydantic import ValidationError

from pipeline.errors import RecipeError
from pipeline.tasks import split_of
from pipeline.tasks.addition import Settings, Task, scratchpad


def task(**more) -> Task:
    return Task(Settings(use="addition", **{"train": 200, "dev": 20, "test": 60, **more}))


PROBLEM = task().problem(624, 259)


def test_the_scratchpad_is_the_papers():
    assert task().prompt(PROBLEM.question) + task().gold_completion(PROBLEM) == (
        "Input:\n6 2 4 + 2 5 9\nTarget:\n<scratch>\n6 2 4 + 2 5 9 , C: 0\n6 2 + 2 5 , 3 C: 1\n"
        "6 + 2 , 8 3 C: 0\n, 8 8 3 C: 0\n0 8 8 3\n</scratch>\n8 8 3"
    )


def test_every_gold_completion_is_right_step_by_step():
    addition, lengths = task(digits=(1, 10)), Counter()
    for problem in addition.problems():
        gold = addition.gold_completion(problem)
        assert addition.extract(gold) == problem.answer
        assert addition.correct(problem.answer, problem)
        verdicts = addition.step_oracle(problem, addition.steps(gold))
        assert all(verdicts)
        assert len(verdicts) == len(problem.question.split(" + ")[0].split()) + 5
        lengths[problem.difficulty] += 1
    assert sorted(lengths) == [f"{n:02d} digits" for n in range(1, 11)]


def test_problems_are_distinct_in_their_split_and_even_over_lengths():
    problems = list(task(train=2000).problems())
    assert len({p.id for p in problems}) == len({p.question for p in problems}) == 2080
    assert all(p.split == split_of(p.question) for p in problems)
    train = Counter(p.difficulty for p in problems if p.split == "train")
    assert train["01 digits"] >= 70  # of 100 sums in all, what the hash gives to train
    assert max(train.values()) - min(n for d, n in train.items() if d != "01 digits") <= 1
    assert [p.id for p in problems] == [p.id for p in task(train=2000).problems()]


def test_counts_that_do_not_exist_are_refused():
    with pytest.raises(RecipeError, match=r"task\.train: 500 .* exist with 1 to 1"):
        list(task(digits=(1, 1), train=500).problems())
    with pytest.raises(ValidationError, match="each count must be given"):
        task(train=None)
    with pytest.raises(ValidationError):
        task(digits=(5, 1))


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("</scratch>\n8 8 3", "883"),
        ("</scratch>\n8 8 3\n", "883"),
        ("</scratch>\n0 8 8 3", "883"),
        ("8 8 3", None),
        ("</scratch>\n", None),
        ("</scratch>\n8 8 3 and more", None),
        ("", None),
    ],
)
def test_extraction(text, answer):
    assert task().extract(text) == answer
    assert task().correct(answer, PROBLEM) is (answer == "883")


def test_the_oracle_finds_the_first_false_line_and_trusts_nothing_after_it():
    addition = task()
    steps = addition.steps(PROBLEM.solution)
    assert steps[2] == "6 2 + 2 5 , 3 C: 1\n"
    for number in range(len(steps)):
        broken = [*steps[:number], steps[number].rstrip("\n") + " 7\n", *steps[number + 1 :]]
        assert addition.step_oracle(PROBLEM, broken) == [k < number for k in range(len(steps))]
    assert addition.step_oracle(PROBLEM, [*steps, "more"])[-1] is False


def test_a_wrong_scratchpad_under_a_right_answer_is_a_trace_error():
    addition = task()
    text = PROBLEM.solution.replace("3 C: 1", "3 C: 0")
    assert addition.correct(addition.extract(text), PROBLEM)
    assert not all(addition.step_oracle(PROBLEM, addition.steps(text)))


def test_the_hint_shows_the_target_and_its_echo_is_a_leak():
    addition = task()
    hinted = addition.hinted(PROBLEM)
    assert addition.prompt(hinted) == "Input:\n6 2 4 + 2 5 9\nTarget: 8 8 3\n"
    assert addition.leaks(PROBLEM, PROBLEM.solution) is None
    assert addition.leaks(PROBLEM, "Target: 8 8 3\n" + PROBLEM.solution) is not None


def test_few_shot_examples_have_the_problems_length_and_are_right():
    addition = task(few_shot=10, digits=(1, 5))
    for problem in list(addition.problems())[:20]:
        shown = addition.examples(problem)
        assert len(shown) == 10
        for question, completion in shown:
            assert split_of(question) == "train"
            assert question != problem.question
            assert len(question) == len(problem.question)
            a, b = (number.replace(" ", "") for number in question.split(" + "))
            assert completion == scratchpad(a, b)


def test_a_model_that_goes_on_with_the_next_example_is_cut_there():
    """Its right answer would be lost among questions of its own. The embedded seed, shown none, is not cut."""
    few = task(few_shot=2)
    problem = next(iter(few.problems()))
    gold = few.gold_completion(problem)
    whole = gold + few.example_separator + few.prompt(problem.question) + gold
    assert few.stop == (few.example_separator,)
    assert not few.correct(few.extract(whole + "x"), problem)
    assert few.correct(few.extract(whole.split(few.stop[0])[0]), problem)
    assert task().stop == task(few_shot=2, chat=True).stop == ()
