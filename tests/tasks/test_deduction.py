"""Deduction: worlds, oracle against brute force, gold, luck, splits."""

from __future__ import annotations

import random
import re

import pytest
from pydantic import ValidationError

from pipeline.rows import Problem
from pipeline.tasks import split_of
from pipeline.tasks._kinds import KINDS, read_question
from pipeline.tasks.deduction import Settings, Task

QUESTION = (
    "Rex is a bramax. Is Rex red, calm, loud or shy? Every dolvax is calm. Each fennax is red. "
    "Any bramax is a fennax. Every bramax is a dolvel. Each korbax is loud. Any moskax is shy."
)
TRUTH = (
    "Ada is a bramax. True or false: Ada is calm. Every fennax is not calm. Any bramax is a fennax. "
    "Each bramax is a dolvel. Every korbax is a jintax. Every jintax is calm."
)


def task(**more) -> Task:
    return Task(Settings(**{"use": "deduction", "train": 60, "dev": 12, "test": 12} | more))


def problem(question: str) -> Problem:
    return task().problem(question)


def lines(*steps: str) -> list[str]:
    return [f"{step}\n" for step in steps[:-1]] + [steps[-1]]


@pytest.mark.parametrize(
    ("steps", "verdicts"),
    [
        (["bramax is a fennax", "fennax is red", "answer: red"], [True, True, True]),
        (["Every bramax is a fennax.", "fennax is red", "answer: red"], [True, True, True]),
        (["bramax is a dolvel", "answer: red"], [False, False]),  # true, leads nowhere; then right by luck
        (["bramax is a fennax", "answer: red"], [True, False]),  # not concluded yet
        (["answer: red"], [False]),
        (["bramax is a fennax", "fennax is calm", "answer: calm"], [True, False, False]),  # no such rule
        (["bramax is a fennax", "dolvax is calm", "answer: calm"], [True, False, False]),  # it does not apply
        (["bramax is a fennax", "fennax is red", "answer: calm"], [True, True, False]),
        (["bramax is a fennax", "fennax is red", "answer: red", "answer: red"], [True, True, True, False]),
        (["fennax is red", "answer: red"], [False, False]),  # skips the first rule
        (["bramax is fennax", "answer: red"], [False, False]),
        ([], []),
    ],
)
def test_the_oracle_by_hand(steps, verdicts):
    assert task().step_oracle(problem(QUESTION), lines(*steps) if steps else []) == verdicts


def test_true_or_false():
    given = problem(TRUTH)
    gold = "bramax is a fennax\nfennax is not calm\nanswer: false"
    assert (given.answer, given.solution, given.difficulty) == ("false", gold, "02 hops")
    assert task().step_oracle(given, lines(*gold.split("\n"))) == [True, True, True]
    assert task().step_oracle(given, lines("bramax is a dolvel", "answer: false")) == [False, False]


def ends(question: str, done: list[str]) -> set[str]:
    """Answers that honest completions of these lines reach, by trying every rule; written apart from the
    task's code."""
    start = re.match(r"\w+ is a (\w+)\.", question)[1]
    rules = re.findall(r"(?:Every|Each|Any) (\w+) is (a \w+|not \w+|\w+)\.", question)
    asked = re.search(r"Is \w+ ([a-z, ]+) or (\w+)\?", question)
    options = [*asked[1].split(", "), asked[2]]
    found = set()

    def walk(at: str, said: list[str]) -> None:
        if done[: len(said)] != said[: len(done)]:
            return
        if at in options:
            full = [*said, f"answer: {at}"]
            if full[: len(done)] == done:
                found.add(at)
            return
        for kind, what in rules:
            if kind == at:
                walk(what.removeprefix("a "), [*said, f"{kind} is {what}"])

    walk(start, [])
    return found


def test_the_oracle_matches_brute_force():
    deduction, draw, seen = task(hops=(1, 5), branches=2), random.Random(0), {True: 0, False: 0}
    for _ in range(150):
        question, [walk] = deduction.rule_walks(draw, 1)
        question = question.partition(" Hint:")[0]
        given = deduction.problem(question)
        steps = deduction.steps(walk)
        for number, verdict in enumerate(deduction.step_oracle(given, steps), 1):
            said = [step.rstrip("\n") for step in steps[:number]]
            assert verdict == (given.answer in ends(question, said)), (question, said)
            seen[verdict] += 1
    assert min(seen.values()) > 100


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"hops": (1, 10)},
        {"form": "truth"},
        {"choices": 8, "branches": 3},
        {"branches": 0, "hops": (1, 3)},
    ],
)
def test_gold_is_right_step_by_step_and_lengths_are_even(more):
    deduction = task(**more)
    found = list(deduction.problems())
    assert len({p.id for p in found}) == len({p.question for p in found}) == 84
    assert [sum(p.split == s for p in found) for s in ("train", "dev", "test")] == [60, 12, 12]
    low, high = deduction.settings.hops
    for given in found:
        assert given.split == split_of(given.question)
        gold = deduction.gold_completion(given)
        assert gold == given.solution
        assert deduction.correct(deduction.extract(gold), given)
        steps = deduction.steps(gold)
        assert deduction.step_oracle(given, steps) == [True] * len(steps)
        assert given.difficulty == f"{len(steps) - 1:02d} hops"
    bins = [sum(p.difficulty == f"{h:02d} hops" for p in found) for h in range(low, high + 1)]
    assert max(bins) - min(bins) <= 3


def test_counts_are_prefixes_of_one_order():
    few, more = list(task().problems()), list(task(train=90).problems())
    assert [p.id for p in few if p.split == "train"] == [p.id for p in more if p.split == "train"][:60]
    assert [p.id for p in few if p.split != "train"] == [p.id for p in more if p.split != "train"]


def test_every_answer_has_a_chain_as_long_and_only_one_is_reached():
    for given in task(hops=(3, 3)).problems():
        world = read_question(given.question)
        assert len(world.answers) == 4
        back = {what: kind for kind, all_ in world.rules.items() for what in all_}
        for answer in world.answers:
            at, num = answer, 0
            while at in back:
                at, num = f"a {back[at]}", num + 1
            assert num == 3
        assert {answer for answer in world.answers if answer in ends(given.question, [])} == {given.answer}


def test_walks_by_the_rules_are_sound_and_often_right_for_a_wrong_reason():
    """With hops 2 to 4 and one wrong turn at each kind but the last, a walk by any rule is valid in
    (1/2 + 1/4 + 1/8) / 3 = .29; the rest guess one of four: .18 more."""
    deduction, draw = task(), random.Random(0)
    right = valid = num = 0
    while num < 2000:
        question, walks = deduction.rule_walks(draw, 4)
        world = read_question(question)
        if "Hint" in question or all(len(rules) == 1 for rules in world.rules.values()):
            continue  # hinted, or of those without wrong turns
        given = deduction.problem(question)
        for walk in walks:
            at = world.start
            for line in walk.split("\n")[:-1]:
                kind, _, what = line.partition(" is ")
                assert kind == at
                assert what in world.rules[kind]
                at = what.removeprefix("a ")
            num += 1
            if deduction.correct(deduction.extract(walk), given):
                right += 1
                valid += all(deduction.step_oracle(given, deduction.steps(walk)))
    assert 0.26 < valid / num < 0.32
    assert 0.43 < right / num < 0.51


@pytest.mark.parametrize(
    "more", [{}, {"form": "truth"}, {"hops": (1, 1), "branches": 0, "choices": 2, "kinds": 2}]
)
def test_small_worlds_are_small_and_train_questions(more):
    deduction, draw = task(**more), random.Random(0)
    for _ in range(200):
        question, walks = deduction.rule_walks(draw, 3, small=True)
        world = read_question(question)
        assert split_of(question) == "train"
        assert len(walks) == 3
        assert len(world.path()) <= 2
        assert sum(map(len, world.rules.values())) <= 7  # three chains of two and a wrong turn


def test_a_hint_is_the_first_rule_and_the_seed_has_seen_it_obeyed():
    deduction, draw, num = task(), random.Random(1), 0
    given = problem(QUESTION)
    assert deduction.hinted(given) == QUESTION + " Hint: bramax is a fennax."
    assert read_question(deduction.hinted(given)) == read_question(QUESTION)
    assert deduction.hinted(problem("Rex is a bramax. Is Rex red or calm? Any bramax is red.")) is None
    for _ in range(300):
        question, walks = deduction.rule_walks(draw, 3)
        if hint := question.partition(" Hint: ")[2]:
            num += 1
            assert {walk.partition("\n")[0] + "." for walk in walks} == {hint}
        assert split_of(question.partition(" Hint:")[0]) == "train"
    assert num > 10


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"hops": (0, 3)}, "hops: "),
        ({"hops": (2, 11)}, "<= 10"),
        ({"branch": (3, 2)}, "branch: "),
        ({"kinds": 10}, "raise kinds"),
        ({"hops": (1, 10), "branches": 4, "choices": 8}, "lower hops, branches or choices"),
        ({"train": None}, "each count must be given"),
        ({"choices": 1}, "greater than or equal to 2"),
    ],
)
def test_settings_that_make_no_sense_are_refused(bad, says):
    with pytest.raises(ValidationError, match=re.escape(says)):
        task(**bad)


def test_texts_that_are_no_question_or_no_answer():
    with pytest.raises(ValueError, match="not a deduction question"):
        read_question("numbers 3, 7; target 10")
    deduction = task()
    assert deduction.extract("bramax is a fennax\nfennax is red") is None
    assert deduction.extract("answer: red\nfennax is red") is None
    assert deduction.extract("answer: red\n") == "red"
    assert deduction.extract("") is None
    assert not deduction.correct(None, problem(QUESTION))
    assert not deduction.correct("purple", problem(QUESTION))


def test_examples_are_train_questions_of_the_same_length_and_never_the_problem():
    deduction = task(few_shot=3)
    for given in list(deduction.problems())[:6]:
        shown = deduction.examples(given)
        assert len(shown) == 3
        for question, completion in shown:
            assert question != given.question
            assert split_of(question) == "train"
            assert deduction.problem(question).difficulty == given.difficulty
            assert completion == deduction.problem(question).solution


def test_names_are_made_up_and_apart():
    assert len(set(KINDS)) == len(KINDS) == 144
    assert len({kind[:4] for kind in KINDS[:24]}) == 24
