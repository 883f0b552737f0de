"""Conversations about word problems, made by rules."""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest

from pipeline.errors import RecipeError
from pipeline.tasks import _word_talk, split_of, words

TASK = words.Task(words.Settings(use="words"))


def test_a_critique_computes_again_and_says_what_the_answer_is_worth():
    draw, seen = random.Random(2), Counter()
    for _ in range(600):
        made = TASK.conversation(draw)
        assert split_of(made.question) == "train"
        seen[made.act] += 1
        answers = [TASK.extract(said.text) for said in made.history if not said.act]
        if made.act == "critique":
            again = re.findall(r"= (\d+)", made.said.split(". The answer")[0])[-1]
            verdict = TASK.extract_turn("critique", made.said)
            assert verdict == ("right" if answers == [again] else "wrong")
            seen[verdict] += 1
        elif made.act == "compare":
            again = re.findall(r"= (\d+)", made.said)[-1]
            right = [answer == again for answer in answers]
            better = TASK.extract_turn("compare", made.said)
            assert better == ("same" if right[0] == right[1] else "first" if right[0] else "second")
        elif len(made.history) == 2:
            told = TASK.extract_turn("critique", made.history[1].text)
            assert (told == "right") == (TASK.extract(made.said) == answers[0])
    assert set(seen) == {*_word_talk.SHARES, "right", "wrong"}
    assert min(seen.values()) > 50


def test_a_spoiled_solution_ends_elsewhere_and_has_the_solutions_form():
    draw = random.Random(4)
    faults = 0
    for _ in range(300):
        problem = _word_talk._problem(TASK, draw)
        found = _word_talk.spoiled(problem, draw)
        assert not TASK.correct(TASK.extract(found), problem)
        assert all(_word_talk.STEP.fullmatch(line) for line in found.split("\n"))
        faults += not all(TASK.step_oracle(problem, found.splitlines(keepends=True)))
    assert faults > 200  # the others stop a step too early


def test_another_critic_than_the_sound_one_is_refused():
    with pytest.raises(RecipeError, match="task words: its conversations have a sound critic"):
        TASK.conversation(random.Random(0), holed=True)
