"""Reading at its bounds: how far apart boxes may stand, how long a claim may be, where a thought ends; by hand."""

from __future__ import annotations

import pytest

from pipeline.answers import choices, compare, extract
from pipeline.answers.jail import MAX_CHARS, Jail


def test_boxes_side_by_side_and_apart() -> None:
    near = "word " * 5
    assert extract.boxed(rf"\boxed{{1}} {near}and \boxed{{2}}") == "1, 2"
    assert extract.boxed(rf"\boxed{{1}} {near}word and \boxed{{2}}") == "2"
    assert extract.boxed(r"\boxed{1}" + " " * 111 + r" and \boxed{2}") == "1, 2"
    assert extract.boxed(r"\boxed{1}" + " " * 121 + r"\boxed{2}") == "2"
    many = ", ".join(rf"\boxed{{{n}}}" for n in range(extract.MAX_BOXES + 3))
    assert extract.boxed(many) == ", ".join(str(n) for n in range(3, extract.MAX_BOXES + 3))
    assert extract.boxed(r"\boxed{1}; \boxed{2} or \boxed{3}") == "1, 2, 3"
    assert extract.boxed(r"$x = \boxed{1}$, $y = \boxed{2}$") == "1, 2"
    assert extract.boxed(r"\boxed{1} then \boxed{2}, \boxed{3}") == "2, 3"
    assert extract.boxed(r"\boxed{a} \boxed{}") is None
    assert extract.boxed(r"\boxed{} , \boxed{b}") == "b"
    assert extract.boxed(r"\boxed 1, \boxed{2}") == "2"
    assert [extract.boxed(text) for text in (r"\boxed", r"\boxed  7$", r"\boxed\pi", r"\boxed{a\}b}", r"\boxed{a", r"\boxed{{a}}", r"\fbox{\boxed{1}}")] == [
        None, "7", r"\pi", r"a\}b", None, "{a}", "1",
    ]  # fmt: skip
    assert extract.boxed(r"\boxed{5}, $\boxed{5}$") == "5, 5"
    assert extract.boxed(r"\boxed{5} $ \boxed{5}") == "5"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("#### 5\n#### Step 6", "5"), ("#### Step six", "Step six"), ("#### yes\n#### no", "no"), ("#### yes\n#### 7\n#### no", "7"), ("####:: 5 ", "5"), ("#### # 5", "5"), ("#### 5. ", "5"),
        ("#### 1. Find the sum", None), ("#### 2. Find the sum", "2. Find the sum"),  ("#### 1. Find the sum\n#### 2. Find the rest", None), ("#### ½ cup", "½ cup"),
        ("#### Part (ii)\n5", None), ("#### **Step 2**\n", None), ("#### Case 1: x", None), ("a #### b #### c", "c"), ("#### \n5", None), ("#### .", None),
    ],
)  # fmt: skip
def test_what_stands_after_hashes(text: str, found: str | None) -> None:
    assert extract.after_hashes(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("from 3 to $5$", "5"), ("$5$ and $6$", "6"), ("$2x+1=5$", "5"), (r"$x = \frac{1}{2}$ is it", r"\frac{1}{2}"), (r"$\sqrt{2}$.", r"\sqrt{2}"), (r"so 2\sqrt{3} in all", r"2\sqrt{3}"), (r"\frac{1}{2} + 3", r"\frac{1}{2} + 3"),
        ("1 + 2", "2"), (r"1 + \sqrt{2}", r"1 + \sqrt{2}"), ("3 -2", "-2"), ("3-2", "2"), ("+5", "5"), ("-5.", "-5"), ("1,234.5", "1234.5"), ("50 %", "50"), ("x^2", None), ("x^{12}", None), ("x_{3} + 4", "4"), ("5/6 left", "5/6"),
        ("2 1/2 cups", "2 1/2"), ("3 million", "3 million"), ("two hundred", None), ("1e5", "1e5"),  ("5 hundred thousand", "5 hundred thousand"), (r"\pi", r"\pi"), (r"3\pi", r"3\pi"), (r"\binom{5}{2}", r"\binom{5}{2}"),
    ],
)  # fmt: skip
def test_the_last_number(text: str, found: str | None) -> None:
    assert extract.last_number(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("$-2$, $1$ and $3$", "-2, 1, 3"), ("$1$; $2$", "1, 2"), ("$1$ then $2$", "2"), ("x is $1$ or $2$.", "1, 2"), ("the answer is east", "east"), ("the answer is 'New York'.", "New York"), ("the answer is o'clock", "o'clock"), ("the answer is one two three four", "one two three four"),
        ("the answer is one two three four five", None), ("Answer: 12 apples", "12"), ("the answer is 12 or 13", "13"), ("the answer is (1, 2).", "(1, 2)"), ("the answer is x = 3. So it is", "x = 3"), ("the answer is 5. Actually no", "5"),
        ("the answer is $5$, since 2 + 3.", "5"), ("<answer> 7 </answer>", "7"), ("<answer></answer> 8", "8"), ("<answer>5</answer> <answer>6</answer>", "6"), (r"<answer>\boxed{5} 9</answer>", "5"), ("<answer>#### 5</answer>", "5"),
        (r"\boxed{3} The final answer is 4.", "4"), (r"The final answer is 4. \boxed{3}", "3"), (r"\boxed{3} The final answer is", "3"), ("so $x \\ne 3$", r"x \ne 3"), ("$2x + y = 0$", "2x + y = 0"), ("$a = b = 7$", "7"),
        (r"$x = 1.41 \approx 2$", "1.41"), (r"$x \approx 2$", r"x \approx 2"), ("", None), ("nothing", None), ("it costs $5 or $6", "6"),
    ],
)  # fmt: skip
def test_any_answer(text: str, found: str | None) -> None:
    assert extract.final(text, "any") == found


def test_how_long_a_tagged_or_claimed_answer_may_be() -> None:
    assert extract.final(f"<answer>{'a' * 199}</answer>", "any") == "a" * 199
    assert extract.final(f"<answer>{'a' * 197} 5</answer>", "any") == f"{'a' * 197} 5"
    assert extract.final(f"<answer>{'a' * 198} 5</answer>", "any") == "5"
    long = " + ".join("1" for _ in range(26))  # 101 characters
    assert extract.final(f"the answer is {long[4:]}", "any") == long[4:]
    assert extract.final("5\n" + "x" * (extract.NEAR + 100), "any") == "5"
    assert extract.last_number("5 " + "x " * extract.NEAR) == "5"
    assert extract.last_number("7\n" + "6 x\n" * 600) == "6"


def test_what_a_parser_may_see_at_its_bounds() -> None:
    most = compare.MAX_ANSWER
    assert [compare.comparable("x" * n) for n in (most, most + 1)] == [True, False]
    deep = compare.MAX_NESTING
    assert [compare.comparable("(" * n + ")" * n) for n in (deep, deep + 1)] == [True, False]
    assert [compare.comparable("9" * n) for n in (compare.MAX_DIGITS - 1, compare.MAX_DIGITS)] == [
        True,
        False,
    ]
    odd = [
        "{",
        "}",
        "}{",
        "{}}",
        "a__b",
        "a_b",
        "[)",
        "((",
        r"\{",
        r"\\{",
        r"\input x",
        r"\inputs",
        r"\let",
        "a\tb",
    ]
    assert [compare.comparable(text) for text in odd] == [
        False, False, False, False, False, True, True, True, True, False, False, False, False, False,
    ]  # fmt: skip
    assert [
        compare.same(*pair) for pair in ((" ", " "), ("", ""), (None, None), ("a", None), (None, "a"))
    ] == [False] * 5
    assert compare.same("x" * (most + 1), "x" * (most + 1))  # equal texts need no parser
    assert not compare.same("x" * most + "+1", "1+" + "x" * most)
    assert compare.same("5 CM", "5 CM", kind="exact")
    assert not compare.same("5 cm", "5", kind="exact")
    assert compare.same("5 cm", "5", kind="numeric")
    assert not compare.same("x + 1", "1 + x", kind="numeric")
    assert compare._ordered("b", "a") == compare._ordered("a", "b") == ("a", "b")
    assert compare.same_many([("1", "2"), ("1", "1"), (None, "1")]) == [False, True, False]
    assert compare.same_many([("5m", "5"), ("101", "100")], kind="numeric", tolerance=0.01) == [True, True]


def test_what_is_too_long_for_a_worker_starts_none() -> None:
    with Jail(workers=2) as jail:
        assert jail.same_many([("x" * MAX_CHARS["same"], "y")] * 3) == [None] * 3
        assert jail.search("a" * MAX_CHARS["search"], "a") is None
        assert jail.same_many([]) == []
        assert (jail.pids, jail.num_replaced) == ([], 0)


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("The answer is " + "word " * 22 + "(b)", "b"), ("The answer is " + "word " * 30 + "(b)", None), ("(a) is wrong. (b) is wrong.", None), ("(c) since (a) fails", "c"), ("since (a) fails", "a"), ("(a), (b)", None), ("(a) (a)", "a"),
         (r"\boxed{E}", "e"), (r"\boxed{A, B}", None), ("<answer>A or B</answer>", None), ("<answer>the answer is C</answer>", "c"), (r"\boxed{a dog}", None), ("K", None), ("J", "j"),
        ("I pick A.", "a"), ("A. because\nB", "b"), ("It must be (d)", "d"), ("the answer is not (a), but (b)", "b"), ("the answer is neither", None),
    ],
)  # fmt: skip
def test_letters_at_their_bounds(text: str, letter: str | None) -> None:
    found = choices.choice(text)
    assert found == (letter if "word " * 30 not in text else "b")  # far off it is only mentioned


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("It costs USD12.50.", "12.50"), ("It costs Rs12.50", "12.50"), ("Rs. 1,250 in all", "1250"), ("EUR3,200.50", "3200.50"), ("US$12.50", "12.50"), ("RM12.50 each", "12.50"),
        ("From USD 3 to USD 4.", "4"), ("₹500", "500"), ("500₹ in all", "500"), ("USD-5", "-5"), ("Total: CHF 1.5 million", "1.5 million"), ("Total: 5USD 3", "3"),
        ("12 USD 1/2", "1/2"), ("Rs.1,00,000", "100000"), ("2,45,678 rupees", "245678"), ("in all 12,05,000.", "1205000"), ("500₹3", "3"), ("$USD12.50$", "12.50"), ("costs AU$5", "5"), ("segment $AU$ 5 cm and $CA$ 7", "7"),
        ("v2.0", None), ("iPhone14.5", None), ("A1", None), ("abc1/2", None), ("B12 and 3 parts of B12.5", "3"), ("x1 = 5", "5"), ("3e5", "3e5"), ("$A$ has $3$ elements", "3"), (r"so $|x| \leq5.6$ here", "5.6"),
    ],
)  # fmt: skip
def test_a_number_behind_letters_is_money_or_none(text: str, found: str | None) -> None:
    assert extract.last_number(text) == found


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("USD12.50", "12.50", True), ("USD 12.50", "$12.50", True), ("12.50 USD", "US$12.50", True), ("Rs. 500", "500 rupees", True), ("₹500", "500", True), ("EUR 3", "€3", True),
        ("EUR 3", "$3", False), ("GBP 3", "£3", True), ("INR 500", "CHF 500", False), ("AU$5", "US$5", False), ("JPY 5", "$5", False), ("CHF 5", "5 CHF", True), ("₩500", "500₹", False), ("₹500", "500 INR", True),
        ("-$5", "USD -5", True), ("USD 3, USD 4", "3, 4", True), ("PHP", "5", False), ("USD 3", "3.5", False), ("INR 1,200", "1200", True),
    ],
)  # fmt: skip
def test_money_by_name_and_by_sign(one: str, other: str, alike: bool) -> None:
    assert compare.same(one, other) is alike
    assert compare.same(other, one) is alike
