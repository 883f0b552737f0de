"""Countdown: rules, oracle against brute force, gold, splits."""

from __future__ import annotations

import random
import subprocess
import sys
from itertools import permutations

import pytest
from pydantic import ValidationError

from pipeline.errors import RecipeError
from pipeline.rows import Problem
from pipeline.tasks import split_of
from pipeline.tasks.countdown import Settings, Task, moves, question_of, ways


def task(**more) -> Task:
    return Task(Settings(use="countdown", **more))


def brute_force(numbers: list[int], largest: int) -> set[int]:
    """Reachable values by trying every order, written apart from the task's own code."""
    if len(numbers) == 1:
        return {numbers[0]}
    found: set[int] = set()
    for i, j in permutations(range(len(numbers)), 2):
        a, b = numbers[i], numbers[j]
        rest = [n for k, n in enumerate(numbers) if k not in (i, j)]
        results = [a + b, a - b, a * b] + ([a // b] if a % b == 0 else [])
        for result in results:
            if 1 <= result <= largest:
                found |= brute_force([*rest, result], largest)
    return found


def test_the_defaults_have_as_many_problems_as_the_design_says():
    problems = list(task().problems())
    assert len(problems) == 12_229
    assert len({p.id for p in problems}) == len({p.question for p in problems}) == 12_229
    assert {p.split for p in problems} == {"train", "dev", "test"}
    assert all(p.split == split_of(p.question) for p in problems)


def test_counts_are_prefixes_of_one_order():
    few = list(task(train=50, dev=20, test=30).problems())
    more = list(task(train=90, dev=20, test=30).problems())
    assert [p.id for p in few if p.split == "train"] == [p.id for p in more if p.split == "train"][:50]
    assert [sum(p.split == s for p in few) for s in ("train", "dev", "test")] == [50, 20, 30]


def test_more_problems_than_exist_are_refused_with_the_number_that_exist():
    with pytest.raises(RecipeError, match=r"task\.test: 5000 .* 1263 exist"):
        list(task(test=5000).problems())


@pytest.mark.parametrize(
    "bad", [{"range": (0, 20)}, {"range": (20, 1)}, {"target": (10, 300)}, {"numbers": 1}]
)
def test_settings_that_make_no_sense_are_refused(bad):
    with pytest.raises(ValidationError):
        task(**bad)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_reachable_values_match_brute_force(count):
    draw = random.Random(count)
    for _ in range(40):
        numbers = tuple(sorted(draw.randint(1, 20) for _ in range(count)))
        assert set(ways(numbers, 200)) == brute_force(list(numbers), 200), numbers


def test_the_game_of_24_is_countdown_with_four_numbers():
    from pipeline.models import seeds
    from pipeline.tasks import game24

    game = game24.Task(game24.Settings(use="game24", train=5, dev=2, test=2))
    assert sum(map(len, game._pool().values())) == 1346  # of 1,362 hands with fractions allowed
    for problem in game.problems():
        assert problem.question.endswith("target 24")
        assert problem.source == "game24"
        gold = game.gold_completion(problem)
        assert game.correct(game.extract(gold), problem)
        assert game.step_oracle(problem, game.steps(gold)) == [True] * 3
    recipe, _ = seeds.plan("seed://countdown", game.settings)
    assert recipe.rules == {"numbers": 4, "range": (1, 13), "target": (24, 24), "largest": 200}


def test_every_gold_completion_is_right_step_by_step():
    countdown = task()
    for problem in countdown.problems():
        gold = countdown.gold_completion(problem)
        assert gold == problem.solution
        assert countdown.extract(gold) == problem.answer
        assert countdown.correct(problem.answer, problem)
        assert countdown.step_oracle(problem, countdown.steps(gold)) == [True, True]


def test_the_oracle_agrees_with_brute_force_on_random_play():
    countdown, draw, seen = task(), random.Random(0), {True: 0, False: 0}
    for _ in range(4000):
        question, played = countdown.random_play(draw)
        numbers, target = countdown.parse(question)
        problem = Problem(id="x", question=question, answer=None)
        steps = countdown.steps(played)
        verdicts = countdown.step_oracle(problem, steps)
        left = [int(n) for n in steps[0].strip().split(", left ")[1].split(", ")]
        assert verdicts[0] == (target in brute_force(left, 200))
        assert verdicts[-1] == countdown.correct(countdown.extract(played), problem)
        assert sorted(numbers) == list(numbers)
        seen[verdicts[0]] += 1
    assert min(seen.values()) > 50  # both outcomes were met


def test_random_play_is_legal_and_never_a_dev_or_test_question():
    countdown, draw, hinted = task(), random.Random(1), 0
    for _ in range(2000):
        question, played = countdown.random_play(draw)
        numbers, target = countdown.parse(question)
        assert split_of(question_of(numbers, target)) == "train"
        assert countdown.extract(played) is not None
        reached = int(played.rsplit(" = ", 1)[1])
        as_if = type(countdown.problem((3, 7, 12), 15))(
            id="x", question=question_of(numbers, reached), answer=""
        )
        assert countdown.correct(countdown.extract(played), as_if)
        if "hint" in question:
            hinted += 1
            assert played.startswith(question.split("hint ")[1] + " = ")
    assert 100 < hinted < 500


PROBLEM = task().problem((3, 7, 12), 15)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("12 - 7 = 5, left 3, 5\n5 * 3 = 15", True),
        ("12 - 7 = 5, left 3, 5\n3 * 5 = 15", True),  # either order
        ("12 - 7 = 5\n5 * 3 = 15", True),  # `left` may be missing
        ("12 - 7 = 5, left 4, 5\n5 * 3 = 15", True),  # a false list is a trace error, not a wrong answer
        ("12 + 3 = 15", False),  # not all used
        ("12 - 7 = 5\n5 * 3 = 15\n15 * 1 = 15", False),  # a number that is not there
        ("12 - 7 = 6\n6 * 3 = 15", False),  # false arithmetic
        ("7 - 12 = -5\n5 * 3 = 15", False),
        ("12 + 7 = 19, left 3, 19\n19 - 3 = 16", False),  # legal, not the target
        ("12 / 7 = 1\n1 + 3 = 4", False),  # does not come out even
        ("3 * 5 = 15", False),
        ("", False),
        ("the answer is 15", False),
    ],
)
def test_right_and_wrong_texts(text, right):
    countdown = task()
    assert countdown.correct(countdown.extract(text), PROBLEM) is right


def test_orders_of_one_operation_vote_as_one_answer():
    countdown = task()
    assert countdown.extract("7 + 12 = 19\n3 + 19 = 22") == countdown.extract("12 + 7 = 19\n19 + 3 = 22")


@pytest.mark.parametrize(
    ("steps", "verdicts"),
    [
        (["12 - 7 = 5, left 3, 5\n", "5 * 3 = 15"], [True, True]),
        (["12 - 7 = 5, left 4, 5\n", "5 * 3 = 15"], [False, False]),  # the list is false
        (["12 + 7 = 19, left 3, 19\n", "19 - 3 = 16"], [False, False]),  # 15 is out of reach
        (["12 - 7 = 5, left 3, 5\n", "5 + 3 = 8"], [True, False]),
        (["12 - 7 = 5, left 3, 5\n", "5 * 3 = 15\n", "15 * 1 = 15"], [True, True, False]),
        (["12 - 7 = 5, le"], [False]),
        ([], []),
    ],
)
def test_the_step_oracle(steps, verdicts):
    assert task().step_oracle(PROBLEM, steps) == verdicts


def test_hints_show_the_first_operation_and_never_the_second():
    countdown = task()
    hinted = countdown.hinted(PROBLEM)
    assert hinted == "numbers 3, 7, 12; target 15; hint 12 - 7"
    assert countdown.parse(hinted) == countdown.parse(PROBLEM.question)
    assert countdown.prompt(hinted).endswith("\n")
    assert countdown.leaks(PROBLEM, PROBLEM.solution) is None
    assert countdown.leaks(PROBLEM, "hint 12 - 7\n") is not None
    assert task(numbers=2).hinted(task(numbers=2).problem((3, 7), 21)) is None


def test_few_shot_examples_are_right_train_problems_and_not_the_problem_itself():
    countdown = task(few_shot=3)
    train = [p for p in countdown.problems() if p.split == "train"]
    shown = countdown.examples(train[-1])
    assert len(shown) == 3
    assert train[-1].question not in [question for question, _ in shown]
    assert all(split_of(question) == "train" for question, _ in shown)


def test_moves_are_each_listed_once():
    found = moves((4, 4, 8), 200)
    assert len({move.text for move in found}) == len(found)
    assert "4 - 4" not in {f"{m.a} {m.sign} {m.b}" for m in found}


def test_the_task_loads_no_torch():
    code = "import sys, pipeline.tasks.countdown, pipeline.tasks.addition; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_same_operations_in_another_order_vote_together():
    four = task(numbers=4)
    one = four.extract("3 + 5 = 8, left 8, 2, 4\n2 * 4 = 8, left 8, 8\n8 + 8 = 16")
    other = four.extract("4 * 2 = 8, left 3, 5, 8\n5 + 3 = 8, left 8, 8\n8 + 8 = 16")
    assert one != other
    assert four.same(one, other)
    assert not four.same(one, four.extract("3 * 5 = 15, left 15, 2, 4\n4 / 2 = 2, left 15, 2\n15 + 2 = 17"))


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
