"""The Enhanced Borda Count, by hand."""

from __future__ import annotations

import random

import pytest
from pydantic import ValidationError

from pipeline.vote._preferences import PairQuestion, closure, global_values, ranked, shown

#: 0 beats 1, 1 beats 2, 2 beats 3; 3 beats 0 and 0 and 2, 1 and 3 were not told apart well
CHAIN = [
    [0, 0.9, 0.4, 0.3],
    [0.1, 0, 0.8, 0.4],
    [0.6, 0.2, 0, 0.7],
    [0.2, 0.3, 0.3, 0],
]


def test_wins_go_through_others():
    beats = closure(CHAIN)
    # 0 beats 1; 1 beats 2; 2 beats 0 and 3: through the circle 0, 1 and 2 beat each other and 3
    assert beats == [
        [False, True, True, True],
        [True, False, True, True],
        [True, True, False, True],
        [False, False, False, False],
    ]


def test_a_circle_is_told_by_how_sure_its_wins_are():
    # among 0, 1 and 2: 0.9 + 0.4, 0.1 + 0.8, 0.6 + 0.2
    assert ranked(CHAIN) == [0, 1, 2, 3]
    assert global_values(CHAIN) == [1.0, 1 - 1 / 3, 1 - 2 / 3, 0.0]
    assert global_values([[0.5]]) == [1.0]
    assert global_values([]) == []


def test_a_judge_that_knows_an_order_gives_it():
    numbers = list(range(9))
    random.Random(3).shuffle(numbers)
    better = [[1.0 if a > b else 0.0 for b in numbers] for a in numbers]
    assert [numbers[i] for i in ranked(better)] == sorted(numbers, reverse=True)
    # where only neighbours are told apart, the closure finds the order all the same
    near = [[1.0 if a == b + 1 else 0.0 for b in numbers] for a in numbers]
    assert [numbers[i] for i in ranked(near)] == sorted(numbers, reverse=True)


def test_text_is_never_formatted_again():
    said = shown("{question}|{first}|{second}|{x}", "What is {first}?", "{second}", "7")
    assert said == "What is {first}?|{second}|7|{x}"
    with pytest.raises(ValidationError, match=r"has no \{second\}"):
        PairQuestion(prompt="{question} {first}")
    for options in (("yes", " yes"), ("yes", "")):
        with pytest.raises(ValidationError, match="two words that differ"):
            PairQuestion(options=options)
