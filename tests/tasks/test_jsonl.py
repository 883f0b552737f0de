"""Any file of questions: field names, shapes, and every kind of bad input; none may end in a traceback."""

import contextlib
import json
import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.errors import DamagedData, RatchetError, RecipeError
from pipeline.tasks import jsonl
from pipeline.tasks.prepare import gather, render

SCIBENCH = Path(__file__).parents[2].parent / "shared" / "data" / "scibench"
ROWS = [{"question": f"How much is {n} and {n}?", "answer": str(2 * n)} for n in range(400)]


def make(path, **more):
    return jsonl.Task(jsonl.Settings(use="jsonl", path=str(path), **more))


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.fixture
def with_bad(tmp_path):
    """Reads 400 good rows and then one bad line; gives the rejection."""

    def read(bad, **more):
        file = tmp_path / "rows.jsonl"
        file.write_bytes(lines(ROWS) + bad + b"\n" + lines([{"question": "The last?", "answer": "1"}]))
        found = gather([make(file, **more)])
        assert len(found.problems) == 401  # reading goes on after a bad line
        assert found.problems == gather([make(file, **more)]).problems
        assert len(found.problems) + len(found.rejected) + len(found.dropped) == 402
        [rejected] = found.rejected
        assert (rejected["file"], rejected["line"], rejected["task"]) == (str(file), 401, "jsonl")
        return rejected["reason"]

    return read


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b'{"question": "a", "answer": ', "not JSON"),
        (b"{'question': 'a'}", "not JSON"),
        (b"[1, 2]", "not a JSON object but a list"),
        (b'"text"', "not a JSON object but text"),
        (b"null", "not a JSON object but nothing"),
        (b'{"question": "a"}', "no field 'answer' (it has question)"),
        (b"{}", "no field 'question' (it has nothing)"),
        (b'{"question": 5, "answer": "1"}', "'question' is a number, not text"),
        (b'{"question": ["a"], "answer": "1"}', "'question' is a list, not text"),
        (b'{"question": {"a": 1}, "answer": "1"}', "'question' is an object, not text"),
        (b'{"question": "a", "answer": null}', "'answer' is nothing, not text"),
        (b'{"question": "a", "answer": true}', "'answer' is true or false, not text"),
        (b'{"question": "a", "answer": NaN}', "NaN is no JSON number"),
        (b'{"question": "a", "answer": 1e999}', "not a finite number"),
        (b'{"question": "a", "answer": ' + b"9" * 5000 + b"}", "not JSON"),
        (b'{"question": "", "answer": "1"}', "'question' is empty"),
        (b'{"question": " \\n ", "answer": "1"}', "'question' is empty"),
        (b'{"question": "a", "answer": ""}', "'answer' is empty"),
        (b'{"question": "caf\xe9", "answer": "1"}', "not UTF-8 at byte 17"),
        (b'{"question": "a\\u0000b", "answer": "1"}', "NUL character"),
        (b'{"question": "a\x00b", "answer": "1"}', "NUL byte"),
        (b'{"question": "a\\ud800b", "answer": "1"}', "lone surrogate"),
        (b'{"question": "a", "answer": "\\udfff"}', "lone surrogate"),
        (b'{"question": "' + b"x" * 10_000_000 + b'", "answer": "1"}', "10,000,000 characters"),
        (b"[" * 100_000, "not JSON"),
        (b'{"a":' * 100_000, "nested too deep"),
        (b"\xff\xfe{\x00}\x00", "NUL byte"),
    ],
    ids=range(27),
)
def test_a_bad_line_is_rejected_with_its_place_and_reason(with_bad, bad, reason):
    assert reason in with_bad(bad)


def test_a_line_longer_than_any_row_may_be(with_bad):
    assert "32" not in with_bad(b'{"question": "' + b"x" * 20_000_000 + b'", "answer": "1"}')
    assert "a line of more than" in with_bad(b"x" * (40 * 1024 * 1024))


def test_a_byte_order_mark_and_windows_line_ends_are_fine(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + lines(ROWS[:5]).replace(b"\n", b"\r\n") + b"\n\n")
    task = make(file)
    assert len(list(task.problems())) == 5
    assert task.rejected == []


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.jsonl", b"", "no usable row.*empty"),
        ("blank.jsonl", b"\n\n \n", "no usable row"),
        ("binary.jsonl", bytes(range(256)) * 20, "no usable row"),
        ("utf16.jsonl", lines(ROWS).decode().encode("utf-16"), "no usable row"),
        ("cut.json", b'[{"question": "a", "answer": "1"}, {"que', "not JSON"),
        ("latin.json", b'[{"question": "caf\xe9", "answer": "1"}]', "not UTF-8 at byte"),
        ("none.json", b"[]", "no usable row"),
        ("torn.parquet", b"PAR1 this is none", "not a readable Parquet file"),
        ("rows.csv", b"question,answer\na,1\n", "cannot read .csv.*jsonl"),
        ("rows.pkl", b"cos\nsystem\n", "cannot read .pkl"),
    ],
)
def test_a_file_that_cannot_be_used_stops_with_one_sentence(tmp_path, name, content, said):
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(DamagedData, match=said) as caught:
        gather([make(file)])
    assert "\n" not in str(caught.value)
    assert name in str(caught.value) or "jsonl" in str(caught.value)
    assert caught.value.exit_code == 3


def test_a_path_that_is_not_there_and_an_empty_folder(tmp_path):
    with pytest.raises(DamagedData, match=r"task\.path: .*nowhere.*no such file"):
        gather([make(tmp_path / "nowhere.jsonl")])
    with pytest.raises(DamagedData, match="without a .jsonl"):
        gather([make(tmp_path)])
    with pytest.raises(RecipeError, match=r"task\.path: jsonl needs"):
        gather([make("")])


def test_more_than_one_in_a_hundred_stops_with_the_first_reasons(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_bytes(lines(ROWS) + b"oops\n" * 4)
    assert len(gather([make(file)]).rejected) == 4  # 4 of 404 is less
    file.write_bytes(lines(ROWS) + b"oops\n" * 5)
    with pytest.raises(DamagedData, match=r"5 of 405 rows .* 1%: .*rows\.jsonl:401: not JSON"):
        gather([make(file)])


def test_a_duplicate_id_is_fatal_and_names_both_places(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_bytes(lines([{"id": n % 3, **row} for n, row in enumerate(ROWS[:4])]))
    with pytest.raises(DamagedData, match=r"rows\.jsonl:4: id '0' stands also at .*rows\.jsonl:1"):
        gather([make(file, id="id")])


def test_a_question_met_twice_is_dropped_with_a_reason(tmp_path):
    file = tmp_path / "rows.jsonl"
    again = [
        {"question": "HOW much is  3 and 3", "answer": "6"},
        {"question": "How much is 4 and 4?", "answer": "9"},
    ]
    file.write_bytes(lines(ROWS[:10] + again))
    found = gather([make(file)])
    assert len(found.problems) == 10
    assert [row.reason.split(".jsonl:4")[-1] for row in found.dropped][0] == ""
    assert found.dropped[1].reason.endswith("rows.jsonl:5, with another answer")
    with_ids = [{"id": f"i{n}", **row} for n, row in enumerate(ROWS[:10] + again)]
    file.write_bytes(lines(with_ids))
    found = gather([make(file, id="id")])
    assert [(row.what, row.reason) for row in found.dropped] == [
        ("i10", "the same question as i3"),
        ("i11", "the same question as i4, with another answer"),
    ]


def test_ids_and_splits_do_not_depend_on_the_order_of_the_rows(tmp_path):
    first, second = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    first.write_bytes(lines(ROWS))
    second.write_bytes(lines(ROWS[::-1]))
    ours, theirs = gather([make(first)]).problems, gather([make(second)]).problems
    assert [(p.id, p.split) for p in ours] == [(p.id, p.split) for p in theirs]


@pytest.mark.parametrize("shape", ["lines.jsonl", "lines.json", "array.json", "rows.parquet"])
def test_every_shape_reads_the_same(tmp_path, shape):
    file = tmp_path / shape
    if shape.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist(ROWS), file)
    else:
        file.write_bytes(json.dumps(ROWS).encode() if shape == "array.json" else lines(ROWS))
    plain = tmp_path / "plain.jsonl"
    plain.write_bytes(lines(ROWS))
    assert [p.id for p in make(file).problems()] == [p.id for p in make(plain).problems()]


def test_a_folder_whose_files_say_their_splits(tmp_path):
    for name, part in {
        "train-00000-of-00001": ROWS[:300],
        "validation": ROWS[300:310],
        "my.test": ROWS[310:330],
    }.items():
        (tmp_path / f"{name}.jsonl").write_bytes(lines(part))
    assert gather([make(tmp_path)]).counts == {"train": 300, "dev": 10, "test": 20}


def test_fields_of_any_name_and_depth(tmp_path):
    file = tmp_path / "rows.jsonl"
    row = {
        "q": {"stem": "What is it?"},
        "gold": "work\n#### 1,234",
        "key": 7,
        "hard": 3,
        "part": "Validation",
        "why": "so",
    }
    file.write_bytes(lines([row]))
    task = make(
        file,
        question="q.stem",
        answer="gold",
        gold="hashes",
        id="key",
        difficulty="hard",
        split="part",
        solution="why",
    )
    [problem] = task.problems()
    assert (problem.id, problem.question, problem.answer) == ("7", "What is it?", "1,234")
    assert (problem.difficulty, problem.split, problem.solution) == ("3", "dev", "so")


def test_an_unknown_split_is_rejected(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_bytes(lines([{**row, "part": "tset" if n == 3 else "train"} for n, row in enumerate(ROWS)]))
    task = make(file, split="part")
    assert len(list(task.problems())) == 399
    assert [(row["line"], row["reason"]) for row in task.rejected] == [
        (4, "'part' is 'tset': train, dev or test is wanted")
    ]


def test_problems_that_nobody_can_solve_have_no_answer(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_bytes(lines([{"question": "Who knows?"}]))
    task = make(file, answer="")
    [problem] = task.problems()
    assert problem.answer is None
    assert task.hinted(problem) is None
    assert not task.correct("1", problem)
    assert task.gold_completion(problem) is None


@pytest.mark.skipif(not SCIBENCH.exists(), reason="the shared SciBench rows are not here")
def test_scibench_reads_and_its_gold_is_right():
    task = make(
        SCIBENCH,
        name="scibench",
        question="content",
        compare="numeric",
        tolerance=0.05,
        extract="last_number",
    )
    found = gather([task])
    assert len(found.problems) + len(found.dropped) == 582
    assert len(found.dropped) == 9  # the files hold these questions twice
    assert sum("another answer" in row.reason for row in found.dropped) == 3
    assert found.rejected == []
    assert all(task.correct(task.extract(task.gold_completion(p)), p) for p in found.problems)
    assert all(
        task.correct(task.extract(f"it is about {float(p.answer) * 1.04:.6f} m"), p) for p in found.problems
    )
    wrong = [
        p
        for p in found.problems
        if task.correct(task.extract(f"it is {float(p.answer) * 1.2 + math.copysign(1, float(p.answer))}"), p)
    ]
    assert wrong == []


def test_the_ways_to_extract(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_bytes(lines(ROWS[:3]))
    text = r"First 3. The answer is (b), \boxed{x^2}. ANSWER=[17]" + "\n#### 42"
    ways = {"boxed": "x^2", "hashes": "42", "last_number": "42", "choice": "b", "any": "x^2"}
    assert {how: make(file, extract=how).extract(text) for how in ways} == ways
    assert make(file, extract="regex", regex=r"ANSWER=\[(.*?)\]").extract(text) == "17"
    assert make(file, extract="regex", regex=r"(a+)+$").extract("a" * 60 + "!") is None  # it would take years


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"template": "no place for it"}, "must hold {question}"),
        ({"hint": "{question}"}, "must hold {question} and {answer}"),
        ({"extract": "regex"}, "regex"),
        ({"regex": "a"}, "regex"),
        ({"extract": "regex", "regex": "(a"}, "not a regular expression"),
        ({"tolerance": 0.1}, "compare: numeric"),
        ({"compare": "fuzzy"}, "exact"),
        ({"anwser": "a"}, "anwser"),
        ({"step_separator": ""}, "step_separator"),
    ],
)
def test_settings_that_make_no_sense(wrong, said):
    with pytest.raises(ValidationError, match=said):
        make("x.jsonl", **wrong)


def test_template_hint_and_leak(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_bytes(lines([{"question": "Is {answer} or {question} a word? {0.__class__}", "answer": "no"}]))
    task = make(file, template="### {question}\n>", hint="{question} [the key is: {answer}]")
    [problem] = task.problems()
    assert render(task, problem).prompt == f"### {problem.question}\n>"
    assert render(task, problem, hint=True).prompt_used == f"### {problem.question} [the key is: no]\n>"
    assert task.leaks(problem, "Since [the key is: no], no.")
    assert task.leaks(problem, "Neither is one.\nno") is None
    assert make(file, hint="").hinted(problem) is None


def test_a_few_shot_file(tmp_path):
    file, shots = tmp_path / "rows.jsonl", tmp_path / "shots.jsonl"
    file.write_bytes(lines(ROWS[:3]))
    shots.write_bytes(
        lines([{"question": row["question"], "completion": "So #### 1", "answer": 1} for row in ROWS[:3]])
    )
    task = make(file, few_shot=2, few_shot_file=str(shots))
    problem = next(iter(task.problems()))
    assert [q for q, _ in task.examples(problem)] == [
        r["question"] for r in ROWS[:3] if r["question"] != problem.question
    ]
    assert all(c == " So #### 1" for _, c in task.examples(problem))
    assert "(answer: 1)" in render(task, problem, hint=True).prompt_used
    with pytest.raises(RecipeError, match="few_shot: 9.*has 3 examples"):
        make(file, few_shot=9, few_shot_file=str(shots)).examples(problem)
    with pytest.raises(RecipeError, match="few_shot: 1.*0 worked examples"):
        make(file, few_shot=1)
    shots.write_bytes(b'{"question": "a"}\n{"completion": 1}\n')
    with pytest.raises(RecipeError) as caught:
        make(file, few_shot=1, few_shot_file=str(shots)).examples(problem)
    assert len(caught.value.problems) == 2


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.binary(max_size=60)
        | st.sampled_from([b"{", b"\xef\xbb\xbf", b"\x00", b'{"question":"a","answer":"b"}'])
    )
)
@example([b'{"question":"a","answer":"b"}', b'{"question":"a","answer":"c"}'])
def test_any_bytes_are_read_or_refused(tmp_path, parts):
    content = b"\n".join(parts)
    file = tmp_path / "rows.jsonl"
    file.write_bytes(content)
    task = make(file)
    found = list(task.problems())
    rows = [
        line
        for n, line in enumerate(content.split(b"\n"))
        if (line.removeprefix(b"\xef\xbb\xbf") if n == 0 else line).strip()
    ]
    assert len(found) + len(task.rejected) + len(task.dropped) == len(rows)
    for suffix in (".json", ".parquet"):
        other = tmp_path / f"rows{suffix}"
        other.write_bytes(content)
        with contextlib.suppress(RatchetError):  # anything else is a traceback for the user
            list(make(other).problems())
