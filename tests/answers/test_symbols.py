"""The algebra itself, in this process and without a jail: what is equal, what is not, and what it cannot tell."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import sympy

from pipeline.answers import _symbols, _worker
from pipeline.answers._symbols import Sympy, _braced, _close, _prepared, _size, parse
from pipeline.answers.forms import read

ALGEBRA = Sympy()


@pytest.mark.parametrize(
    ("text", "prepared"),
    [
        ("x**2", "x^{2}"), ("sqrt(a(b))", r"\sqrt{a(b)}"), ("x^(n+1)", "x^{n+1}"), ("x^12", "x^{12}"), ("x^-1", "x^{-1}"), ("x^-n", "x^{-n}"), ("1.5", r"\frac{15}{10}"), (".25", r"\frac{25}{100}"),
        (r"0.\overline{6}", r"\frac{2}{3}"), ("1,234", "1234"), (r"\varnothing", r"\emptyset"), ("sin x", r"\sin  x"), (r"x ^ 2", "x^{2}"),
    ],
)  # fmt: skip
def test_a_formula_as_the_grammar_reads_it(text: str, prepared: str) -> None:
    assert _prepared(text).replace(" ", "") == prepared.replace(" ", "")


def test_brackets_of_a_command() -> None:
    assert _braced("f(a)f(b(c))", "f", "f") == "f{a}f{b(c)}"
    assert _braced("f(a", "f", "f") == "f(a"
    assert _braced("g(a)", "f", "f") == "g(a)"


@pytest.mark.parametrize(
    ("one", "other", "verdict"),
    [
        ("x + 1", "1 + x", True), ("x + 1", "x + 2", False), (r"\sqrt{x^2}", "x", False), (r"\sqrt{x^2}", "|x|", True), ("(x-1)(x+1)", "x^2-1", True), (r"\frac{1}{2^{75}}", r"\frac{1}{2^{74}}", False),
        (r"1-\frac{1}{2^{80}}", "1", False), (r"\sqrt{3+2\sqrt2}", r"1+\sqrt2", True), (r"\sin 30^\circ", "1/2", True), (r"e^{i\pi}", "-1", True), (r"\pi", "3.141593", True), (r"\pi", "3.14159", False),
        ("3.141593", r"\pi", True), (r"\sqrt{2}", "1.414214", True), (r"\sqrt{2}", "1.414215", False), (r"\infty", r"\infty", True), (r"\infty", r"-\infty", False), (r"\infty", "1", False),
        (r"\binom{5}{2}", "10", True), ("5!", "120", True), (r"\log_2 8", "3", True), (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}", True),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1\\3\end{pmatrix}", False), (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1&2\end{pmatrix}", False), (r"\begin{pmatrix}1\\2\end{pmatrix}", "1", False),
        (r"\sum_{k=1}^{n} k", r"\frac{n(n+1)}{2}", True), (r"\sum_{k=1}^{3} k", "6", True), ("x y", "y x", True), ("x", "y", False), ("0", "0 x", True), (r"\sqrt{-x^2-1}", r"i\sqrt{x^2+1}", True),
    ],
)  # fmt: skip
def test_formulas_that_are_equal_or_not(one: str, other: str, verdict: bool) -> None:
    assert bool(ALGEBRA.equal(one, other)) is verdict
    assert bool(ALGEBRA.equal(other, one)) is verdict


@pytest.mark.parametrize(
    ("one", "other", "verdict"),
    [
        ("2x+4y=6", "x+2y=3", True), ("2x+4y=6", "x+2y=4", False), ("x+y=2x", "2x=x+y", True), ("x+1<y", "y>x+1", True), ("x+1<y", "y<x+1", False), ("x+1<y", "x+1=y", False), ("x+y<1", r"x+y\le1", False),
        ("x+y<1", "-x-y>-1", True), ("x+y<1", "-x-y<-1", False), ("x+y!=1", "-x-y!=-1", True), ("x+y=1", "x+z=1", False), ("1<x+y<2", "2>x+y>1", True), ("1<x+y<2", "1<x+y<3", False), ("1<x+y<2", "x+y<2", False), ("1+1=2", "2=1+1", True),
    ],
)  # fmt: skip
def test_relations_that_are_multiples(one: str, other: str, verdict: bool) -> None:
    assert bool(ALGEBRA.relations(read(one), read(other))) is verdict
    assert bool(ALGEBRA.relations(read(other), read(one))) is verdict


@pytest.mark.parametrize(
    ("one", "other", "verdict"),
    [
        (r"[1,2]\cup[2,3]", "[1,3]", True), (r"[1,2)\cup(2,3]", "[1,3]", False), (r"[1,2)\cup(2,3]", r"[1,2)\cup(2,3)", False), (r"\{1\}\cup(1,2)", "[1,2)", True), ("|x|<2", "(-2,2)", True), (r"|x|\le2", "(-2,2)", False),
        (r"|x|\le2", "[-2,2]", True), (r"x\ne0", r"(-\infty,0)\cup(0,\infty)", True), ("x^2=1", r"\{1,-1\}", True), ("x<-2, x>2", "|x|>2", True), ("[1,2], [2,3]", "[1,3]", True), (r"x \in [1,2]", "[1,2]", True), ("(1/2, 1)", "(0.5, 1)", True),
    ],
)  # fmt: skip
def test_sets_of_numbers(one: str, other: str, verdict: bool) -> None:
    assert bool(ALGEBRA.sets(read(one), read(other))) is verdict
    assert bool(ALGEBRA.sets(read(other), read(one))) is verdict


def test_numbers_close_to_some_digits() -> None:
    def close(one: str, other: str, digits: int = 10) -> bool | None:
        return _close(*(sympy.sympify(text).evalf(40) for text in (one, other)), digits)

    assert [close(*pair) for pair in (("1", "1"), ("0", "0"), ("1", "2"), ("0", "1e-30"))] == [
        True,
        True,
        False,
        False,
    ]
    assert close("1", "1.00000000005") is True
    assert close("1", "1.0000000002") is False
    assert close("-1", "1") is False
    assert [close(*pair) for pair in (("oo", "oo"), ("oo", "-oo"), ("oo", "1"), ("1", "oo"))] == [
        True,
        False,
        False,
        False,
    ]
    assert [close(*pair) for pair in (("nan", "1"), ("1", "zoo"), ("x", "1"), ("1", "x"))] == [None] * 4


def test_giants_are_refused_before_anything_computes_them() -> None:
    for text in ("9^{9^{9}}", "(10^9)!", "10^{10^{10}}", "((10^{5})!)!", "2^{1000000}"):
        with pytest.raises(OverflowError, match="too many digits"):
            parse(text)
    for text in ("2^{1000}", "100!", "10^{-50}", r"\frac{1}{20!}", "x^{1000}"):
        assert parse(text) is not None
    assert _size(sympy.Integer(12345)) == 4
    assert _size(sympy.Rational(1, 1000)) == -3
    assert _symbols.MAX_DIGITS == 100_000


def test_names_with_a_meaning() -> None:
    assert parse("i") == sympy.I
    assert parse("e") == sympy.E
    assert parse(r"\pi") == sympy.pi
    assert parse(r"\sum_{i=1}^{3} i").doit() == 6  # a bound i is no imaginary unit
    assert parse("f(x)").free_symbols == {sympy.Symbol("f(x)", real=True)}
    assert parse("X") != parse("x")
    with pytest.raises(Exception):  # noqa: B017, PT011 (whatever the grammar raises)
        parse("")


# --- the inside of a worker


def test_what_a_worker_evaluates() -> None:
    found = [
        _worker._numbers_only(text) for text in ("12", " -3 ", "+4", "1.5", ".5", "2.", "1e3", "x", "Ab1")
    ]
    assert found == [12, -3, 4, 1.5, 0.5, 2.0, 1000.0, sympy.Symbol("x"), sympy.Symbol("Ab1")]
    assert [type(one).__name__ for one in found[:4]] == ["Integer", "Integer", "Integer", "Float"]
    assert _worker._numbers_only("x" * 31) == sympy.Symbol("x" * 31)
    for text in ("", "1+1", "x y", "__import__('os')", "x_1", "1e99999", "x" * 32, "0x10", "-x", "1.2.3"):
        with pytest.raises(ValueError, match="text is never evaluated"):
            _worker._numbers_only(text)


def test_what_a_worker_may_open_and_do(tmp_path: Path) -> None:
    hook = _worker._guard((str(tmp_path), "/usr"))
    inside = str(tmp_path / "x")
    for args in (
        (inside, "r", 0),
        (inside, "rb", 0),
        (inside, None, os.O_RDONLY),
        (inside, None, None),
        ("/usr/x", "r", 0),
        (inside,),
    ):
        hook("open", args)
    wrong = [(inside, mode, 0) for mode in ("w", "a", "x", "r+", "wb")]
    wrong += [(inside, None, flag) for flag in (os.O_WRONLY, os.O_RDWR, os.O_CREAT)]
    for args in (*wrong, ("/etc/passwd", "r", 0), (3, "r", 0)):
        with pytest.raises(PermissionError, match="^the answer jail opens no files$"):
            hook("open", args)
    for event in ("os.system", "os.remove", "subprocess.Popen", "socket.connect", "ctypes.dlopen", "shutil.rmtree", "urllib.Request", "pty.spawn", "syslog.openlog", "webbrowser.open", "ftplib.connect"):  # fmt: skip
        with pytest.raises(PermissionError, match=f"^the answer jail refuses {event}$"):
            hook(event, ())
    for event in ("os.listdir", "os.scandir", "import", "exec", "compile", "object.__getattr__"):
        hook(event, ())


def test_how_a_worker_answers() -> None:
    def same(one: str, other: str) -> bool | None:
        if one == "memory":
            raise MemoryError
        if one == "deep":
            raise RecursionError
        if one == "odd":
            raise KeyError(one)
        return one == other

    jobs = [
        ["same", "a", "a"],
        ["same", "a", "b"],
        ["search", "(.)", "ab"],
        ["search", "c", "ab"],
        ["search", "(", "a"],
    ]
    assert [_worker._answer(job, same) for job in jobs] == [
        {"ok": True},
        {"ok": False},
        {"ok": "b"},
        {"ok": None},
        {"ok": None},
    ]
    assert [_worker._answer(["same", one, ""], same) for one in ("memory", "deep", "odd")] == [
        {"ok": None, "spoiled": True}, {"ok": None}, {"ok": None},
    ]  # fmt: skip
    assert [_worker._search(*job) for job in ((r"a(\d)(\d)", "a12 a34"), (r"\d+", "1 22"), ("x", "y"))] == [
        "3",
        "22",
        None,
    ]
    assert json.dumps(_worker._answer(["search", "b", "abc"], same)) == '{"ok": "b"}'
