"""Texts that are looked things up in: how a file is cut into passages, and what may not stand in one."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from pipeline.errors import DamagedData
from pipeline.rows import Problem
from pipeline.store.passages import Passage, hash_of, leak, read_passages, words_of


def stored(tmp_path: Path, text: str, name: str = "store.txt") -> Path:
    (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path / name


def refusal(path: Path) -> str:
    with pytest.raises(DamagedData) as caught:
        read_passages(path)
    return str(caught.value)


def test_words_are_letters_and_digits_in_lower_case() -> None:
    assert words_of("The Nile's 2nd_arm, CAFÉ-3.5 x") == [
        "the",
        "nile",
        "s",
        "2nd",
        "arm",
        "café",
        "3",
        "5",
        "x",
    ]
    assert words_of(" _ -- \n") == []


def test_paragraphs_are_numbered_from_one_and_empty_ones_are_none(tmp_path: Path) -> None:
    path = stored(tmp_path, "\n\n One\nline two \n \t\n\n--\n\nTwo é\n")
    assert read_passages(path) == (Passage("1", "One\nline two"), Passage("3", "Two é"))
    assert read_passages(path) is read_passages(path)
    stored(tmp_path, "another text")
    assert read_passages(path) == (Passage("1", "another text"),)
    stored(tmp_path, "another tent")  # as many bytes, later
    os.utime(path, ns=(10**18, path.stat().st_mtime_ns + 10**9))
    assert read_passages(path) == (Passage("1", "another tent"),)
    stored(tmp_path, "another text")
    said = '[["1", "another text"]]'
    assert hash_of(path) == hashlib.sha256(said.encode()).hexdigest()
    said = '[["1", "caf\u00e9"]]'
    assert hash_of(stored(tmp_path, "café", "e.txt")) == hashlib.sha256(said.encode()).hexdigest()


def test_lines_have_an_id_or_their_number(tmp_path: Path) -> None:
    lines = (
        '{"text": "a b"}\n\n{"id": 7, "text": "c"}\n{"id": "x", "text": "d", "more": 1}\n{"text": "..."}\n'
    )
    path = stored(tmp_path, lines, "store.jsonl")
    assert read_passages(path) == (Passage("1", "a b"), Passage("7", "c"), Passage("x", "d"))


@pytest.mark.parametrize(
    "line", ["no json", "[1]", '"text"', "3", '{"txt": "a"}', '{"text": 3}', '{"text": null}']
)
def test_a_line_that_is_no_passage_is_told_with_its_place(tmp_path: Path, line: str) -> None:
    path = stored(tmp_path, '{"text": "fine"}\n\n' + line, "store.jsonl")
    assert refusal(path) == f'store: {path}:3: not of the form {{"text": "..."}}: {line!r}'


def test_files_that_hold_no_passages(tmp_path: Path) -> None:
    none = ": holds no passage: write paragraphs, or lines with a text each"
    for name, text in (
        ("a.txt", ""),
        ("b.txt", " \n\n -- "),
        ("c.jsonl", "\n"),
        ("d.jsonl", '{"text": "?"}'),
    ):
        path = stored(tmp_path, text, name)
        assert refusal(path) == f"store: {path}{none}"
    assert refusal(tmp_path / "none.txt") == f"store: {tmp_path / 'none.txt'}: no such file"
    assert refusal(tmp_path) == f"store: {tmp_path}: no such file"
    (tmp_path / "x.txt").write_bytes(b"\xff\xfe")
    assert refusal(tmp_path / "x.txt").startswith(
        f"store: {tmp_path / 'x.txt'}: cannot be read as UTF-8 text: "
    )
    long = stored(tmp_path, "x" * 70, "long.jsonl")
    assert refusal(long).endswith(f": {'x' * 60!r}")


def problem(question: str = "?", solution: str = "", answer: str | None = None) -> Problem:
    return Problem(id="p", question=question, solution=solution, answer=answer, split="test")


@pytest.mark.parametrize(
    ("held", "found"),
    [
        (problem("a b c d e"), "question"),
        (problem("A, b; C d.  e?\nand more that is nowhere"), "question"),  # its first line
        (problem("a b c d"), ""),  # four words stand anywhere
        (problem("b c d e f"), "question"),
        (problem("a b c d f"), ""),
        (problem("a b c d e fg"), ""),
        (problem(solution="a b c d e f g h"), "solution"),
        (problem(solution="a b c d e f g"), ""),
        (problem(answer="d e f g"), "answer"),
        (problem(answer="e f g"), ""),
        (problem(answer="g h the second"), ""),  # over the border of two passages
        (problem(answer="second passage is here"), "answer"),
    ],
)
def test_what_is_measured_may_not_be_looked_up(held: Problem, found: str) -> None:
    passages = [Passage("one", "A b c d. E f g h"), Passage("two", "The second passage is here")]
    said = leak(passages, [problem("x y z"), held])
    if not found:
        assert said == ""
        return
    text = {"question": held.question.split("\n")[0], "solution": held.solution, "answer": held.answer}[found]
    where = "two" if held.answer and "second" in held.answer else "one"
    assert said == (
        f"passage {where} holds the {found} of the test problem p ({text!r}): what is measured may not be looked "
        "up. Take it out of the store"
    )


def test_nothing_leaks_into_nothing() -> None:
    assert leak([], [problem("a b c d e")]) == ""
    assert leak([Passage("1", "a b c d e")], []) == ""
    long = "w " * 50
    assert f"({('w ' * 30)[:60]!r})" in leak([Passage("1", long)], [problem(long.strip())])
