"""When two forms mean the same: by which rule, what the algebra is asked where one is needed, and all three verdicts."""

from __future__ import annotations

from fractions import Fraction as F

import pytest

from pipeline.answers import sameness
from pipeline.answers.forms import Form, read
from pipeline.answers.numbers import Quantity, quantity
from pipeline.answers.sameness import NoAlgebra, Undecided, rounded_to, same, same_quantity, same_value


class Told:
    """An algebra that notes what it is asked, and says what it is told to say."""

    def __init__(self, verdict: bool | None = True) -> None:
        self.verdict = verdict
        self.asked: list[tuple[str, ...]] = []

    def equal(self, one: str, other: str) -> bool | None:
        self.asked.append(("equal", one, other))
        return self.verdict

    def relations(self, one: Form, other: Form) -> bool | None:
        self.asked.append(
            ("relations", *(f"{' '.join(f.marks)} {'|'.join(p.text for p in f.parts)}" for f in (one, other)))
        )
        return self.verdict

    def sets(self, one: Form, other: Form) -> bool | None:
        self.asked.append(("sets", one.kind, other.kind))
        return self.verdict


def judged(one: str, other: str, verdict: bool | None = True) -> tuple[bool | None, list[tuple[str, ...]]]:
    told = Told(verdict)
    return same(read(one), read(other), told), told.asked


@pytest.mark.parametrize(
    ("one", "other", "verdict"),
    [
        ("5", "5.0", True), ("5", "6", False), ("5 cm", "5", True), ("5 cm", "50 mm", True), ("5 cm", "5 m", False), ("50%", "0.5", True), ("50%", "50", True), ("50%", "5", False),
        ("1, 2", "2, 1", True), ("1, 2", "1, 3", False), ("1, 2", "1", False), ("1, 1, 2", "1, 2, 2", False), ("(1, 2)", "(1, 2.0)", True), ("(1, 2)", "(2, 1)", False),
        ("(1, 2)", r"\{1, 2\}", False), (r"\{1, 2\}", "2, 1", True), ("(1, 2)", "1, 2", True), ("(1, 2)", "2, 1", False), (r"\{5\}", "5", True), ("x = 5", "5", True), ("x = 5", "x = 5.0", True),
        ("x = 5", "x = 6", False), ("f(x) = 5", "f(n) = 5", True), ("f(x) = 5", "f(n) = 6", False), ("0 < x < 3", "(0, 3)", True), ("0 < x < 3", "[0, 3]", False),
        ("0 < x < 3", "0 < y < 3", False), ("0 < x < 3", "y = (0, 3)", False), ("0 < x < 3", "x = (0, 3)", True), ("(0, 3)", "(0, 3]", False), ("[0, 3]", "[0, 4]", False), ("0 < x < 3", "0, 3", True),
        ("[0, 3]", "0, 3", False), ("[0, 3]", "5", False), ("x > 3", "3", False), ("52_8", "52_9", False), ("52_8", "(52)_8", True), ("52_8", "42", False), ("8:30", "8:30 a.m.", True), ("8:30 pm", "8:30 a.m.", False),
        ("8:30", "8:31", False), ("8:30", "9:30", False), ("8:00", "8 a.m.", True), ("8:00 pm", "8 a.m.", False), ("8:01", "8 a.m.", False), ("8:00", "8", False), ("8:00", "8 cm", False),
        ("yes", "Yes", True), ("yes", "no", False), ("a", "A", False), ("xy", "yx", True), ("on", "no", False), ("abc", "cab", True), ("cat", "act", False), ("New York", "new-york", True),
        ("x", "5", False), (r"[1,2) \cup (3,4]", r"(3,4] \cup [1,2)", True), ("1, x", "1, x", True), ("1 and east", "East, 1", True), ("east", "5 cm", False),
    ],
)  # fmt: skip
def test_without_an_algebra(one: str, other: str, verdict: bool) -> None:
    assert same(read(one), read(other), NoAlgebra()) is verdict
    assert same(read(other), read(one), NoAlgebra()) is verdict


@pytest.mark.parametrize(
    ("one", "other", "asked"),
    [
        ("x + 1", "1 + x", [("equal", "x + 1", "1 + x")]),
        ("x", "x + 0", [("equal", "x", "x + 0")]),
        ("xy", "y x + 0", [("equal", "xy", "y x + 0")]),
        ("1/2", r"\frac{\sqrt{4}}{4}", [("equal", r"\frac{1}{2}", r"\frac{\sqrt{4}}{4}")]),
        ("7", r"\sqrt{49}", [("equal", "7", r"\sqrt{49}")]),
        ("0.333333", r"\sqrt{1/9}", [("equal", "0.333333", r"\sqrt{1/9}")]),
        (r"\sqrt{4}\text{ cm}", "20 mm", [("equal", r"\frac{1}{100}(\sqrt{4})", r"\frac{1}{1000}(20)")]),
        (r"\sqrt{4}\text{ cm}", "2 cm", [("equal", r"\sqrt{4}", "2")]),
        (r"\sqrt{4}\text{ cm}", r"\sqrt{5}", [("equal", r"\sqrt{4}", r"\sqrt{5}")]),
        ("3:4", "6:8", [("equal", r"(4) \cdot (6)", r"(8) \cdot (3)")]),
        ("1:2", "1/2", [("equal", r"\frac{1}{2}", "1/2")]),
        ("2x + 4y = 6", "x + 2y = 3", [("relations", "= 2x + 4y|6", "= x + 2y|3")]),
        ("x = 1", "y = 1", [("relations", "= x|1", "= y|1")]),
        ("y = 2x", "2x - y = 0", [("relations", "= y|2x", "= 2x - y|0")]),
        (r"x \in (1, 2)", "|x - 1| < 1", [("sets", "tuple", "relation")]),
        (r"x \ne 0", r"(-\infty, 0) \cup (0, \infty)", [("sets", "relation", "union")]),
        ("|x| < 2", "(-2, 2)", [("sets", "relation", "tuple")]),
        ("|x| < 2", r"\{1, 2\}", [("sets", "relation", "set")]),
        (r"[1,2] \cup [2,3]", "[1,3]", [("sets", "union", "interval")]),
        ("(x + 1, 2)", "(1 + x, 2)", [("equal", "x + 1", "1 + x")]),
        ("[x + 1, 2]", "[1 + x, 2]", [("equal", "x + 1", "1 + x")]),
        ("x + 1, 2", "2, 1 + x", [("equal", "x + 1", "1 + x")]),
    ],
)  # fmt: skip
def test_what_the_algebra_is_asked(one: str, other: str, asked: list[tuple[str, ...]]) -> None:
    for verdict in (True, False, None):
        assert judged(one, other, verdict) == (verdict, asked)
    with pytest.raises(Undecided):
        same(read(one), read(other), NoAlgebra())


@pytest.mark.parametrize(
    ("one", "other", "verdict"),
    [
        ("1:2", "east", False), ("1:2:3", "1:2", False), ("1:2:3", "x + 1", False), ("x + 1 = 2", "5", False), ("x + 1 = 2", r"\{1, 2\}", False), (r"\sqrt{4}\text{ cm}", r"\sqrt{4}\text{ kg}", False),
        (r"[1,2] \cup [2,3]", "east", False), ("east", "x + 1", False), ("52_8", "x + 1", False), ("8:30", "x + 1", False), ("(1, 2)", "x + 1", False), ("x, 2", "x + 1, 2, 3", False),
    ],
)  # fmt: skip
def test_what_no_algebra_is_asked_of(one: str, other: str, verdict: bool) -> None:
    assert judged(one, other) == (verdict, [])
    assert judged(other, one) == (verdict, [])


def test_lists_where_the_algebra_cannot_tell() -> None:
    assert judged("x + 1, east", "1 + x, west", None)[0] is False  # east is nowhere, whatever x + 1 is
    assert judged("x + 1, 2", "1 + x, 3", None)[0] is None  # 2 may be 1 + x
    assert judged("x + 1, x + 2", "1 + x, 2 + x", None)[0] is None
    assert judged("x + 1, x + 2", "1 + x, 2 + x", False)[0] is False
    assert judged("(x + 1, 2)", "(1 + x, 3)", None)[0] is False
    assert judged("(x + 1, x)", "(1 + x, x)", None)[0] is None
    a = [read("x + 1"), read("7")]
    assert sameness._matched(a, [read("7"), read("y")], Told()) is True
    assert sameness._each([read("1")], [read("1")], lambda x, y: None) is None
    assert sameness._each([], [], lambda x, y: None) is True
    with pytest.raises(ValueError, match="zip"):
        sameness._each([read("1")], [], lambda x, y: True)


@pytest.mark.parametrize(
    ("text", "step"),
    [
        ("0.333333", F(1, 10**6)), ("0.33333", None), ("1.333333", F(1, 10**6)), ("0.012345", None), ("0.0123456", F(1, 10**7)), ("0.00123456", F(1, 10**8)), ("1.000000", F(1, 10**6)),
        ("00.0000012", None), ("12.1234567", F(1, 10**7)), (".333333", F(1, 10**6)), ("1/3", None), ("x 0.333333", F(1, 10**6)), ("1.2.333333", None),
    ],
)  # fmt: skip
def test_what_a_last_digit_is_worth(text: str, step: F | None) -> None:
    assert rounded_to(text) == step


def test_values_at_their_bounds() -> None:
    assert same_value(F(1), F(1), ())
    assert not same_value(F(1), F(2), ())
    assert same_value(F(100), F(101), (), 0.01)
    assert same_value(F(100), F(99), (), 0.0100000001)
    assert not same_value(F(100), F(102), (), 0.01)
    assert same_value(F(-100), F(-101), (), 0.01)
    assert not same_value(F(1), F(-1), (), 0.5)
    assert same_value(F(0), F(1, 2), (), 0.5)  # absolute beside 0
    assert not same_value(F(0), F(1), (), 0.5)
    assert same_value(F(1, 2), F(0), (), 0.5)
    third = (F(1, 3), F(333333, 10**6))
    assert same_value(*third, ("1/3", "0.333333"))
    assert not same_value(
        *third, ("1/3", "0.333333"), 1e-9
    )  # a tolerance is all that counts where there is one
    assert not same_value(
        F(333334, 10**6), F(333333, 10**6), ("0.333334", "0.333333")
    )  # a whole last digit apart
    assert not same_value(*third, ("1/3", "x"))


def test_quantities_with_percent_and_units() -> None:
    def told(one: str, other: str, **more: object) -> bool:
        a, b = quantity(one, loose=True), quantity(other, loose=True)
        assert a is not None
        assert b is not None
        return same_quantity(a, b, (one, other), **more)  # type: ignore[arg-type]

    pairs = [
        ("10%", "0.1"),
        ("0.1", "10%"),
        ("10%", "10"),
        ("10%", "10%"),
        ("1 km", "1000 m"),
        ("1 km", "1"),
        ("5 apples", "5 pears"),
        ("5 apples", "5 red apples"),
    ]
    assert [told(*pair) for pair in pairs] == [True, True, True, True, True, True, False, True]
    assert told("5 apples", "5 pears", strict=False)
    assert not told("10%", "1%")
    assert not told("10%", "0.2")
    assert told("10%", "0.101", tolerance=0.01)
    assert told("1 km", "1001 m", tolerance=0.01)
    assert same_quantity(Quantity(F(1)), Quantity(F(1)), ("", ""))


def test_names_and_letters() -> None:
    alike = [("f(x)", "f(n)"), ("x", "x"), ("", "x"), ("x", ""), ("x_{1}", "x_1"), ("a b", "ab")]
    unlike = [("x", "y"), ("f(x)", "g(x)"), ("f(2)", "f(3)"), ("f(x)", "f"), ("f(x)", "f(xy)")]
    assert [sameness._same_name(*pair) for pair in (*alike, *unlike)] == [True] * 6 + [False] * 5
    products = ["xy", "ab", "abc", "cba", "xyz", "rst", "def", "klm"]
    words = ["on", "no", "x", "abd", "xyzw", "XY", "x1", "it", "ti"]
    assert [sameness._is_product(word) for word in (*products, *words)] == [True] * 8 + [False] * 9
    assert [sameness._spoken(word) for word in ("New-York", "É", "a.m.", "!")] == [
        "new york",
        "é",
        "a m",
        "!",
    ]


def test_forms_written_alike_are_the_same_unless_name_or_unit_differ() -> None:
    plain = Form("formula", "x + 1")
    assert same(plain, Form("formula", "x+1"), NoAlgebra()) is True
    with pytest.raises(Undecided):
        same(plain, Form("formula", "x+1", unit=read(r"\sqrt{2}\text{ cm}").unit), NoAlgebra())
    named = Form("interval", "(0, 3)", read("(0, 3)").parts, ("(", ")"), name="x")
    assert same(named, dataclass_with(named, "y"), NoAlgebra()) is False
    assert same(named, dataclass_with(named, "x"), NoAlgebra()) is True


def dataclass_with(form: Form, name: str) -> Form:
    return Form(form.kind, form.text, form.parts, form.marks, name)
