"""What kind of thing an answer is, form by form, written out by hand; and what numbers and units are read."""

from __future__ import annotations

from fractions import Fraction as F

import pytest

from pipeline.answers import forms, looks, numbers, units
from pipeline.answers.forms import Form, read
from pipeline.answers.numbers import Quantity


def shown(form: Form) -> str:
    """`kind name marks: parts`, a number as its value, percent sign and unit."""
    if form.number is not None:
        return spelled(form.number)
    unit = f" <{' '.join(form.unit.words) or dims_of(form.unit)}>" if form.unit else ""
    if not form.parts:
        return f"{form.kind} {' '.join(form.marks) or form.text}{unit}"
    head = " ".join(filter(None, (form.kind, form.name, "".join(form.marks))))
    return f"{head}: {' | '.join(shown(part) for part in form.parts)}{unit}"


def dims_of(unit: units.Unit) -> str:
    return "*".join(f"{name}{power}" for name, power in unit.dims) + f"@{unit.factor}"


def spelled(found: Quantity | None) -> str | None:
    if found is None:
        return None
    unit = f" {' '.join(found.unit.words) or dims_of(found.unit)}" if found.unit else ""
    return f"{found.value}{'%' * found.percent}{unit}"


FORMS = [
    ("7", "7"), ("-1/2", "-1/2"), ("5 cm", "5 m1@1/100"), ("50\\%", "50%"), ("7,", "7"), ("7;", "7"),
    ("8:05", "time 8 05 "), ("08:05 PM", "time 8 05 p"), ("3:30 a.m.", "time 3 30 a"), ("12:60", "ratio :: 12 | 60"),
    ("101_2", "base 5 2"), ("(52)_8", "base 42 8"), ("52_{eight}", "base 42 8"), ("FF_{16}", "base 255 16"),
    ("52 base 8", "base 42 8"), ("52 in base eight", "base 42 8"), ("11_1", "formula 11_1"), ("12_2", "formula 12_2"),
    ("1_{36}", "base 1 36"), ("1_{37}", "formula 1_{37}"), ("x_2", "formula x_2"), ("ab_8", "formula ab_8"),
    (r"\mathbb{R}", r"interval (): formula -\infty | formula \infty"), (r"\emptyset", r"set \emptyset"), (r"\{\}", r"set \{\}"),
    ("east", "word east"), (r"\text{New York}", "word New York"), ("(C)", "word C"), ("x-y", "formula x-y"),
    ("St. Louis", "word St. Louis"), ("(U.S.)", "word U.S"), ("o'clock", "word o'clock"), ("\"east\".", "word east"), ("a-b c", "formula a-b c"), ("one-two x", "word one-two x"), ("x1", "formula x1"), ("this or that", "list: word this | word that"), ("well-known", "word well-known"), ("infinity", "formula infinity"), ("-x", "formula -x"), ("pi", "formula pi"),
    ("1, 2, 3", "list: 1 | 2 | 3"), ("1;2", "list: 1 | 2"), ("1 and 2", "list: 1 | 2"), ("1, 2 and 3", "list: 1 | 2 | 3"),
    ("1,200", "1200"), ("1,200, 3", "list: 1200 | 3"), ("32, 349", "list: 32 | 349"), ("1,2", "list: 1 | 2"),
    ("a, b or c", "list: word a | word b | word c"), ("(1,2);(3,4)", "list: tuple: 1 | 2 | tuple: 3 | 4"),
    ("(1,200)", "tuple: 1 | 200"), ("(1,200, 3)", "tuple: 1200 | 3"), ("(1, 2", "formula (1, 2"),
    ("x = 5", "named x: 5"), ("x = y = 5", "named x: 5"), ("x + y = 5", "relation =: formula x + y | 5"),
    ("a + b = c + d = 9", "relation =: formula c + d | 9"), (r"x \in [2,3)", "named x: interval [): 2 | 3"),
    (r"x \approx 0.5", "named x: 1/2"), (r"x = \sqrt{2} \approx 1.41", r"named x: formula \sqrt{2}"), (r"x + 1 \approx 2", "formula x + 1"),
    ("f(2) = 7", "named f(2): 7"), ("x = 2, 3", "list: named x: 2 | 3"),
    ("0 < x < 3", "interval x (): 0 | 3"), (r"0 \le x < 3", "interval x [): 0 | 3"), (r"0 < x \le 3", "interval x (]: 0 | 3"),
    ("3 > x > 0", "interval x (): 0 | 3"), (r"3 \ge x > 0", "interval x (]: 0 | 3"), ("x > 3", r"interval x (): 3 | formula \infty"),
    (r"x \ge 3", r"interval x [): 3 | formula \infty"), ("x < 3", r"interval x (): formula -\infty | 3"),
    (r"x \le 3", r"interval x (]: formula -\infty | 3"), (r"3 \le x", r"interval x [): 3 | formula \infty"), ("3 < x", r"interval x (): 3 | formula \infty"),
    (r"3 \ge x", r"interval x (]: formula -\infty | 3"), ("x < y", "relation <: formula x | formula y"), (r"x \ne 3", "relation !=: formula x | 3"),
    ("0 < x > 3", "relation <>: 0 | formula x | 3"), ("|x| < 2", "relation <: formula |x| | 2"), ("x + 1 < 2", "relation <: formula x + 1 | 2"),
    ("< 3", "formula < 3"), ("x < e", r"interval x (): formula -\infty | word e"),
    (r"[1,2) \cup (3,4]", "union: interval [): 1 | 2 | interval (]: 3 | 4"), ("[1,2]U[3,4]", "union: interval []: 1 | 2 | interval []: 3 | 4"),
    ("(1, 2)", "tuple: 1 | 2"), ("[1, 2]", "interval []: 1 | 2"), ("(1, 2]", "interval (]: 1 | 2"), ("[1, 2, 3]", "tuple: 1 | 2 | 3"),
    (r"\{1, 2\}", "set: 1 | 2"), (r"\lbrace 1, 2 \rbrace", "set: 1 | 2"), (r"\{5\}", "set: 5"), ("(27)", "27"), ("{x+1}", "formula x+1"),
    (r"\{x : x > 3\}", r"interval x (): 3 | formula \infty"), (r"\{x \mid x > 3\}", r"interval x (): 3 | formula \infty"), ("(x+1)(x+2)", "formula (x+1)(x+2)"),
    ("(1;2)", "tuple: 1 | 2"), ("()", "formula ()"), (r"\langle 1, 2 \rangle", "tuple: 1 | 2"),
    (r"\pm 3", "list: 3 | -3"), (r"1 \pm x \mp y", "list: formula 1 + x - y | formula 1 - x + y"), (r"x = \pm 3", "named x: list: 3 | -3"),
    ("3:4", "ratio: 3 | 4"), ("2:4:6", "ratio: 2 | 4 | 6"), ("a:b=2", "named a:b: 2"), (":4", "formula :4"),
    (r"5\sqrt{3}\text{ cm}", r"formula 5\sqrt{3} <m1@1/100>"), (r"12\pi cm^2", r"formula 12\pi <m2@1/10000>"), (r"12\pi", r"formula 12\pi"),
    (r"\sqrt{2}^\circ", r"formula \sqrt{2} <degree1@1>"), (r"\sin 30^\circ", r"formula \sin 30^\circ"), (r"\frac{x}{2} marbles", r"formula \frac{x}{2} marbles"),
    (r"\frac{x}{2}\text{ marbles}", r"formula \frac{x}{2} <marble>"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "form"), FORMS)
def test_the_form_of_an_answer(text: str, form: str) -> None:
    assert shown(read(text)).replace("ratio::", "ratio:") == form.replace("ratio ::", "ratio:")


def test_how_deep_and_how_long_answers_are_read() -> None:
    deep = read("(1, " * 20 + "2" + ")" * 20)
    depth = 0
    while deep.parts:
        assert deep.kind == "tuple"
        deep, depth = deep.parts[-1], depth + 1
    assert (depth, deep.kind) == (forms.MAX_DEPTH, "formula")
    assert len(read(", ".join("ab" for _ in range(forms.MAX_PARTS))).parts) == forms.MAX_PARTS
    assert read(", ".join("ab" for _ in range(forms.MAX_PARTS + 1))).kind == "formula"
    assert len(read(f"({', '.join('12' for _ in range(forms.MAX_PARTS))})").parts) == forms.MAX_PARTS
    assert read(f"({', '.join('12' for _ in range(forms.MAX_PARTS + 1))})").kind == "formula"


def test_brackets_and_commas_by_place() -> None:
    assert forms._level("a(b[c]{d})e") == [0, 0, 1, 1, 2, 1, 1, 2, 1, 0, 0]
    assert forms._level("(a") == forms._level("a)(") == forms._level(")") == forms._level("") == []
    assert forms._cut("a,(b,c),d", forms._level("a,(b,c),d"), [(1, 2), (4, 5), (7, 8)]) == ["a", "(b,c)", "d"]
    assert forms._cut("a", [0], []) == ["a"]
    assert forms._commas("1,200,300", inside=False) == []
    assert forms._commas("1,200,300", inside=True) == [(1, 2), (5, 6)]
    assert forms._commas("1,200, 3", inside=True) == forms._commas("1,200, 3", inside=False) == [(5, 6)]
    assert forms._commas("1,2", inside=False) == [(1, 2)]
    assert [forms._variables(text) for text in ("x", "2y+1", r"\sqrt{2}", "e", "pi", "sqrt2", r"\pi e", "ex", "3")] == [
        True, True, False, False, False, False, False, True, False,
    ]  # fmt: skip


# --- numbers


QUANTITIES = [
    ("12", "12"), ("-12", "-12"), ("+5", "5"), ("- 5", "-5"), ("--5", None), ("+-5", None), ("-$5", "-5 dollar1@1"), ("$-5", "-5 dollar1@1"),
    ("1,234.50", "2469/2"), ("12,34", None), (".5", "1/2"), ("5.", "5"), (".", None), ("1e3", "1000"), ("1.5E-2", "3/200"), ("1e401", None), ("2e400", str(2 * 10**400)),
    ("3 1/2", "7/2"), ("3 and 1/2", "7/2"), (r"3\frac{1}{2}", "7/2"), (r"3\frac12", "7/2"), ("3 3/2", None), ("3 2/2", None), ("-3 1/2", "-7/2"),
    ("3/4", "3/4"), ("1.5/2", "3/4"), ("1/0", None), (r"\frac{3}{4}", "3/4"), (r"\frac34", "3/4"), (r"-\frac{-3}{4}", "3/4"), (r"\frac{1}{0}", None),
    (r"0.\overline{6}", "2/3"), (r".1\overline{6}", "1/6"), (r"2.0\bar{3}", "61/30"), ("0.(3)", "1/3"),
    (r"1.5 \times 10^{3}", "1500"), (r"2 \cdot 10^{-2}", "1/50"), ("2*10^2", "200"), ("3x10^2", "300"), (r"1 \times 10^{401}", None),
    ("2^10", "1024"), ("2^{-1}", "1/2"), ("2**3", "8"), ("2^(3)", "8"), ("0^0", None), ("0^{-1}", None), ("0^1", "0"), ("2^400", str(2**400)), ("2^401", None),
    ("5 million", "5000000"), ("2 hundred thousand", "200000"), ("3 dozen", "36"), ("1.5 billion", "1500000000"), ("4 trillion", str(4 * 10**12)), ("2 thousands", "2000"),
    ("50%", "50%"), ("50 percent", "50%"), (r"50\%", "50%"), ("50 per cent", "50%"), ("50 pct", "50%"), ("5 percentage", "5%"),
    ("5 cm", "5 m1@1/100"), ("5 m", "5 m1@1"), ("5m", None), ("5 t", None), ("5cm", "5 m1@1/100"), ("5 apples", "5 apple"), ("5apples", None), ("5 a", None),
    ("x = 5", None), ("5 and 6", None), ("2x", None), ("", None), ("abc", None), ("1" * 61, "1" * 61), ("1" * 201, None),
]  # fmt: skip


@pytest.mark.parametrize(("text", "found"), QUANTITIES)
def test_a_plain_number_exactly(text: str, found: str | None) -> None:
    assert spelled(numbers.quantity(text)) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("x = 5", "5"), ("about 5", "5"), (r"\approx 5", "5"), ("approximately 5 km", "5 m1@1000"), ("5m", "5 m1@1"), ("27km", "27 m1@1000"),
        ("2x", None), ("9t", None), ("Area = 12", "12"), ("f(2) = 7", "7"), ("x + y = 5", None), ("x == 5", None), ("= 5", "5"), ("x = y = 5", "5"),
    ],
)  # fmt: skip
def test_a_number_in_a_comparison_of_numbers(text: str, found: str | None) -> None:
    assert spelled(numbers.quantity(text, loose=True)) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("12 apples (3 per child)", F(12)), ("Total: $5", F(5)), ("2 + 3 = 5", F(5)), ("(5)", F(5)), ("5 to 6", None), ("5-6", None), ("5, 6", None),
        ("10:30", None), ("3 x 4", None), ("1 2", None), ("no", None), ("costs -5 dollars", F(-5)), ("5 million in all", F(5 * 10**6)),
        ("is 3/4 of it", F(3, 4)), ("x_1", None), ("5 apples = 3 pears", F(5)), ("about 1,200.", F(1200)), ("5 and a half", None), ("-$5 left", F(-5)),
    ],
)  # fmt: skip
def test_the_first_number_of_a_line(text: str, found: F | None) -> None:
    assert numbers.first_number(text) == found


def test_numbers_spelled_in_one_way() -> None:
    values = [
        F(5),
        F(-5),
        F(0),
        F(1, 2),
        F(-1, 8),
        F(1, 3),
        F(-7, 30),
        F(1, 100),
        F(123, 1000),
        F(1234, 5),
        F(1, 2**10),
    ]
    assert [numbers.spell(value) for value in values] == [
        "5", "-5", "0", "0.5", "-0.125", "1/3", "-7/30", "0.01", "0.123", "246.8", "0.0009765625",
    ]  # fmt: skip
    assert [numbers.number(text) for text in ("5 cm", "$5", "5%", "5 dollars")] == [None, F(5), F(5), None]
    assert [numbers.number(text, units=True) for text in ("5 cm", "5 dollars", "x")] == [F(5), F(5), None]
    assert [numbers.after_name(text) for text in ("x = 5", "x = y = 5", "x + y = 5", "5", "x == 5", r"v \approx 2")] == [
        "5", "5", "x + y = 5", "5", "x == 5", "2",
    ]  # fmt: skip
    name = "a" * 100
    assert numbers.after_name(f"{name}=5") == "5"
    assert numbers.after_name(f"{name}a=5") == f"{name}a=5"
    assert numbers.clean(r"$\text{ 5 }$") == "5"
    assert numbers.clean("{{5}}") == "{{5}}"
    assert numbers.clean("{5}") == "5"


# --- units


UNITS = [
    ("km", "m1@1000"), ("cm^2", "m2@1/10000"), ("km/h", "m1*s-1@5/18"), ("km h^{-1}", "m1*s-1@5/18"), ("m/s^2", "m1*s-2@1"), ("miles per hour", "m1*s-1@1397/3125"),
    ("mph", "m1*s-1@1397/3125"), ("square meters", "m2@1"), ("sq ft", "m2@145161/1562500"), ("cubic cm", "m3@1/1000000"), ("ml", "m3@1/1000000"), ("kilograms", "g1@1000"),
    ("hours", "s1@3600"), ("dollars", "dollar1@1"), ("cents", "dollar1@1/100"), ("\\text{ cm}", "m1@1/100"), ("\\mathrm{~kJ}", "g1*m2*s-2@1000000"), ("kJ mol^{-1}", "g1*m2*mol-1*s-2@1000000"),
    ("blue marbles", "blue marble"), ("pi", None), ("and more", None), ("", None), ("5", None), ("^\\circ", "degree1@1"), ("°", None),
]  # fmt: skip


@pytest.mark.parametrize(("text", "found"), UNITS)
def test_units_and_their_sizes(text: str, found: str | None) -> None:
    unit = units.read_unit(text)
    assert (unit and (" ".join(unit.words) or dims_of(unit))) == found


def test_what_two_units_have_in_common() -> None:
    km, m, s, apple, red, pear = (
        units.read_unit(text) for text in ("km", "m", "s", "apples", "red apples", "pears")
    )
    one = (F(1), F(1))
    assert units.common(None, km, strict=True) == units.common(km, None, strict=True) == units.common(None, None, strict=True) == one  # fmt: skip
    assert units.common(km, m, strict=True) == units.common(km, m, strict=False) == (F(1000), F(1))
    assert units.common(km, s, strict=True) is units.common(km, s, strict=False) is None
    assert units.common(apple, red, strict=True) == units.common(red, apple, strict=True) == one
    assert units.common(apple, pear, strict=True) is units.common(apple, m, strict=True) is units.common(m, apple, strict=True) is None  # fmt: skip
    assert units.common(apple, pear, strict=False) == units.common(apple, m, strict=False) == one
    assert units.read_unit("a" * units.MAX_UNIT) is not None
    assert units.read_unit("a" * (units.MAX_UNIT + 1)) is None


# --- looks


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("$5$", "5"), ("**5**", "5"), ("`5`", "5"), ('"5"', "5"), ("__5__", "5"), (r"\(5\)", "5"), ("5.", "5"), ("5..", "5."), ("a  b", "a b"), ("x + 1", "x+1"),
        ("1 2", "1 2"), ("2 x", "2x"), ("x 2", "x2"), (r"\left( 1, 2 \right)", "(1,2)"), (r"\text{a b}", "a b"), (r"\dfrac{1}{2}", r"\frac{1}{2}"), (r"1\,200", "1200"),
        ("a\n b", "a b"), ("", ""), ("A", "A"),
    ],
)  # fmt: skip
def test_an_answer_without_its_looks(text: str, plain: str) -> None:
    assert looks.plain(text) == plain


@pytest.mark.parametrize(
    ("text", "tidy"),
    [
        ("3⁴", "3^{4}"), ("x₁₂", "x_{12}"), ("√50", r"\sqrt{50}"), ("∛27", r"\sqrt[3]{27}"), ("√(x+1)", r"\sqrt{x+1}"), ("√x", r"\sqrt{x}"), ("√", r"\sqrt{}"),
        ("½", r"\frac{1}{2}"), ("−5", "-5"), ("a\u00a0b", "a b"), ("18\u202f250", r"18\,250"), ("a\u200bb", "ab"), ("２", "2"), ("×", r"\times "), ("plain", "plain"),
    ],
)  # fmt: skip
def test_unicode_as_tex(text: str, tidy: str) -> None:
    assert looks.tidy(text) == tidy


def test_the_end_of_a_completion() -> None:
    assert looks.ending("a < b") == "a < b"
    assert looks.ending("<think>a</think>b") == "b"
    assert looks.ending("<think>a</think>b<think>c</think>d<reasoning>e") == "d"
    assert looks.ending("a<THINK>b") == "a"
    assert looks.ending("<thinking>a</thinking> b </think> c") == " c"
    assert looks.ending("x" * 3 + "y" * looks.MAX_TEXT) == "y" * looks.MAX_TEXT
    assert [looks.untext(text) for text in (r"\text{a}", r"\mathrm{~b}", r"\textbf{c}d", "e")] == [
        "a",
        "~b",
        "cd",
        "e",
    ]
    assert looks.untext(r"5\text{ cm}", " ") == "5 cm "
