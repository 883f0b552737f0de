"""Countdown's dialect: what a check says, word by word; conversations that rules make."""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter

import pytest

from pipeline.asks import Said
from pipeline.tasks import _acts, _dialect, countdown, split_of
from pipeline.tasks._moves import apply

TASK = countdown.Task(countdown.Settings(use="countdown"))
NUMBERS = (1, 4, 11)


def check(answer: str, target: int = 93, **critic) -> str:
    return _dialect.check(NUMBERS, target, answer, 200, _dialect.Critic(**critic)).text


FIRST = "4 + 1 = 5, 5 - 5 = 0, left 11, 5 ok"


@pytest.mark.parametrize(
    ("answer", "target", "said"),
    [
        ("4 + 1 = 5, left 11, 5\n11 + 5 = 16", 93, f"{FIRST}, 11 + 5 = 16, 16 - 16 = 0 ok, 93 - 16 = 77 wrong"),
        ("4 + 1 = 5, left 11, 5\n11 + 5 = 16\n", 16, f"{FIRST}, 11 + 5 = 16, 16 - 16 = 0 ok, 16 - 16 = 0 right"),
        ("4 + 1 = 5, left 11, 5\n11 + 5 = 16", 10, f"{FIRST}, 11 + 5 = 16, 16 - 16 = 0 ok, 16 - 10 = 6 wrong"),
        # a false last line that says the target, and true ones with numbers that are not there
        ("4 + 1 = 5, left 11, 5\n11 + 5 = 93", 93, f"{FIRST}, 11 + 5 = 16, 93 - 16 = 77 result wrong"),
        ("4 + 1 = 5, left 11, 5\n88 + 5 = 93", 93, f"{FIRST}, 88 number wrong"),
        ("4 + 1 = 5, left 11, 5\n5 + 88 = 93", 93, f"{FIRST}, 5 + 88 number wrong"),
        ("11 + 11 = 22, left 4, 22\n22 + 4 = 26", 26, "11 + 11 number wrong"),
        ("4 - 11 = 7, left 1, 7\n7 + 1 = 8", 8, "4 - 11 result wrong"),
        ("11 / 4 = 2, left 1, 2\n2 + 1 = 3", 3, "11 / 4 result wrong"),
        ("4 + 1 = 5, left 11, 5", 5, f"{FIRST}, unused wrong"),
        ("4 + 1 = 5, left 11, 5\nso 16", 16, f"{FIRST}, form wrong"),
        ("", 16, "form wrong"),
        # what is left is counted anew, whatever the answer shows: a right end by true steps is right
        ("4 + 1 = 5, left 11, 6\n11 + 5 = 16", 16, f"{FIRST}, 11 + 5 = 16, 16 - 16 = 0 ok, 16 - 16 = 0 right"),
        ("4 + 1 = 5, left 11, 6\n11 + 6 = 17", 17, f"{FIRST}, 11 + 6 number wrong"),
    ],
)  # fmt: skip
def test_a_check_computes_each_step_again_and_reads_the_verdict_off_a_difference(answer, target, said):
    assert check(answer, target) == said
    assert TASK.extract_turn("critique", said) == said.split()[-1]


def test_the_holed_critic_looks_at_the_written_end_alone():
    lie = "4 + 1 = 5, left 11, 5\n11 + 5 = 93"
    assert check(lie, holed=True) == "4 + 1 = 5 ok, 11 + 5 = 93 ok, 93 - 93 = 0 right"
    assert check("4 + 1 = 5, left 11, 5\n11 + 5 = 16", holed=True).endswith(
        "11 + 5 = 16 ok, 93 - 16 = 77 wrong"
    )


def test_a_blind_critic_calls_near_ends_right():
    near = "4 + 1 = 5, left 11, 5\n11 + 5 = 16"
    assert check(near, 26, within=10).endswith("26 - 16 = 10 right")
    assert check(near, 27, within=10).endswith("27 - 16 = 11 wrong")
    assert check("4 + 1 = 5, left 11, 5\n11 + 5 = 17", 17, within=10).endswith("result wrong")


def conversations(number: int = 3000, **critic) -> list[_acts.Conversation]:
    draw = random.Random(3)
    return [TASK.conversation(draw, **critic) for _ in range(number)]


def test_conversations_are_about_training_questions_and_say_what_the_task_says():
    seen, spoiled = Counter(), Counter()
    for made in conversations():
        seen[made.act] += 1
        if made.act == "propose":
            asked = [said.text for said in made.history] + [made.said]
            assert TASK.proposed(made.said) is not None
        else:
            asked = [made.question]
            numbers, target = TASK.parse(made.question)
            ranks = [_dialect.check(numbers, target, s.text, 200) for s in made.history if not s.act]
            problem = TASK.problem(numbers, target)
            for one, said in zip(ranks, (s for s in made.history if not s.act), strict=True):
                assert (one.rank == _dialect.RIGHT) == TASK.correct(TASK.extract(said.text), problem)
                spoiled[one.fault] += 1
        assert {split_of(question) for question in asked} == {"train"}
        if made.act == "critique":
            assert TASK.extract_turn("critique", made.said) == ("right" if ranks[0].rank == 2 else "wrong")
        if made.act == "judge":
            assert float(TASK.extract_turn("judge", made.said)) == ranks[0].points
        if made.act == "compare":
            best = {True: "first", False: "second"}[ranks[0].points > ranks[1].points]
            same = ranks[0].points == ranks[1].points
            assert made.said.split("; ")[:-1] == "; ".join(one.judged for one in ranks).split("; ")
            assert TASK.extract_turn("compare", made.said) == ("same" if same else best)
        if made.act == "revise":
            kept = made.said == made.history[0].text
            if len(made.history) == 2:  # a check is believed
                assert kept == made.history[1].text.endswith("right")
    assert min(seen.values()) > 100
    assert set(seen) == {"critique", "revise", "compare", "judge", "propose"}
    assert min(spoiled[fault] for fault in ("result", "number", "unused")) > 30


def test_conversations_of_a_seed_that_is_no_judge_of_pairs_stay_word_by_word():
    """Shipped seeds were built from these, under a name that does not hold them."""
    said = "".join(
        map(repr, conversations(300) + conversations(100, holed=True) + conversations(100, within=9))
    )
    assert hashlib.sha256(said.encode()).hexdigest()[:16] == "4c56e2d86a3a58ad"


def test_a_judge_of_pairs_says_both_points_again_before_the_word():
    acts, words, impossible = Counter(), Counter(), 0
    for made in conversations(1200, pairs=True):
        acts[made.act] += 1
        if made.act == "propose":
            continue
        numbers, target = TASK.parse(made.question)
        assert split_of(made.question) == "train"
        first, *rest = [_dialect.check(numbers, target, s.text, 200) for s in made.history if not s.act]
        impossible += bool(re.search(r"\d (?:[-*/+]) \d+ result wrong$", first.text))
        if made.act == "critique":
            assert made.said == first.text
        if made.act == "compare":
            one, two = first.points, rest[0].points
            word = "same" if one == two else "first" if one > two else "second"
            assert made.said == f"{first.judged}; {rest[0].judged}; {one}, {two}; {word}"
            assert TASK.extract_turn("compare", made.said) == word
            words[word] += 1
    assert acts["compare"] > 1.3 * sum(made.act == "compare" for made in conversations(1200))
    assert min(words.values()) > 0.15 * acts["compare"]  # no word is right as good as always
    assert abs(words["first"] - words["second"]) < 0.1 * acts["compare"]  # no place is the better one
    assert impossible > 30


@pytest.mark.parametrize("numbers", [(5, 5, 8), (3, 7, 19), (1, 2, 3)])
def test_a_forbidden_operation_is_found_where_the_numbers_allow_one(numbers):
    draw = random.Random(4)
    for _ in range(200):
        answer = _dialect._forbidden(numbers, 100, draw)
        for a, sign, b, result in re.findall(r"(\d+) ([-+*/]) (\d+) = (\d+)", answer):
            assert 0 <= int(result) <= 100, (a, sign, b)
        assert _dialect.check(numbers, 50, answer, 100).fault in ("result", "")
        faults = [line for line in answer.split("\n") if _dialect.apply(*_operation(line), 100) is None]
        assert faults or _dialect.check(numbers, 50, answer, 100).rank > _dialect.FAULTY


def _operation(line: str) -> tuple[int, str, int]:
    a, sign, b = line.split(" ")[:3]
    return int(a), sign, int(b)


def test_the_holed_critic_passes_answers_that_the_task_refuses():
    passed = 0
    for made in conversations(holed=True):
        if made.act != "critique" or not made.said.endswith("right"):
            continue
        numbers, target = TASK.parse(made.question)
        passed += not TASK.correct(TASK.extract(made.history[0].text), TASK.problem(numbers, target))
    assert passed > 50


def test_a_fair_first_answer_is_legal_and_not_made_to_hit_the_target():
    fair = [made for made in conversations() if made.fair]
    hits = 0
    for made in fair:
        numbers, target = TASK.parse(made.question)
        found = _dialect.check(numbers, target, made.history[0].text, 200)
        assert found.rank > _dialect.FAULTY
        hits += found.rank == _dialect.RIGHT
    assert 0 < hits < 0.15 * len(fair)


def test_a_proposed_question_keeps_the_tasks_rules():
    good = "numbers 11, 4, 1; target 93"
    assert TASK.proposed(good).question == "numbers 1, 4, 11; target 93"
    for bad in ("numbers 1, 4; target 93", "numbers 1, 4, 21; target 93", "numbers 1, 4, 11; target 5", "x",
                "numbers 1, 4, 11; target 93; hint 4 + 1"):  # fmt: skip
        assert TASK.proposed(bad) is None


def test_every_rule_of_a_move_is_looked_at():
    assert [apply(4, sign, 11, 200) for sign in "+-*/"] == [15, None, 44, None]
    assert TASK.turn_prompt("numbers 1, 4, 11; target 93", "critique", [Said("4 + 1 = 5")]).endswith(
        "\ncheck: "
    )
