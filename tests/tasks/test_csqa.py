"""CommonsenseQA on the real rows: options, letters, the hint on the right option."""

import json
from pathlib import Path

import pytest

from pipeline.tasks import csqa
from pipeline.tasks.prepare import gather, render

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "commonsenseqa"
needs_data = pytest.mark.skipif(not DATA.exists(), reason="the shared CommonsenseQA rows are not here")


def make(**more):
    return csqa.Task(csqa.Settings(use="csqa", **{"path": str(DATA), **more}))


def row(n=0, **more):
    choices = [{"label": label, "text": f"thing {label}{n}"} for label in "ABCDE"]
    return {
        "id": f"q{n}",
        "answerKey": "B",
        "question": {"stem": f"Which is {n}?", "choices": choices},
    } | more


@needs_data
def test_every_row_is_read_and_its_gold_is_right():
    task = make()
    found = gather([task])
    assert len(found.problems) == 9741 + 1221
    assert found.counts["test"] == 1221  # the data set's dev split: its test answers are secret
    assert found.rejected == []
    assert found.dropped == []
    assert all(task.correct(task.extract(task.gold_completion(p)), p) for p in found.problems)
    for problem in found.problems:
        hinted = task.hinted(problem)
        assert hinted.count("(CORRECT)") == 1
        assert f"({problem.answer}) {json.loads(problem.meta)['option']} (CORRECT)" in hinted
        assert hinted.replace(" (CORRECT)", "") == problem.question


def test_the_hubs_flat_rows_read_the_same(tmp_path):
    nested = row()
    flat = {
        "id": "q0",
        "question": "Which is 0?",
        "answerKey": "B",
        "choices": {"label": list("ABCDE"), "text": [f"thing {label}0" for label in "ABCDE"]},
    }
    assert make().read(nested) == make().read(flat)


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({"answerKey": ""}, "answerKey"),
        ({"answerKey": "F"}, "answerKey"),
        ({"answerKey": 2}, "a number, not text"),
        ({"question": "only a stem"}, "choices"),
        ({"question": {"stem": "s", "choices": []}}, "choices"),
        ({"question": {"stem": "s", "choices": ["a", "b"]}}, "objects"),
        (
            {
                "question": {
                    "stem": "s",
                    "choices": [{"label": "A", "text": "x"}, {"label": "A", "text": "y"}],
                }
            },
            "twice",
        ),
        ({"question": {"stem": " ", "choices": [{"label": "A", "text": "x"}]}}, "empty"),
        ({"id": None}, "id"),
    ],
)
def test_malformed_rows_are_rejected(tmp_path, broken, reason):
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps(row(n)) for n in range(5)) + "\n" + json.dumps(row(9, **broken)))
    task = make(path=str(file))
    assert len(list(task.problems())) == 5
    [rejected] = task.rejected
    assert rejected["line"] == 6
    assert reason in rejected["reason"]


def test_a_duplicate_id_is_named(tmp_path):
    from pipeline.errors import DamagedData

    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps(row(n, id="same")) for n in range(2)))
    with pytest.raises(DamagedData, match="'same'.*rows.jsonl:1"):
        list(make(path=str(file)).problems())


def test_seven_own_examples_in_the_tasks_format(tmp_path):
    task = make(few_shot=7)
    assert len(task.built_in) == 7
    for question, completion, answer in task.built_in:
        assert task.extract(completion) == answer
        option = next(line for line in question.split("\n") if line.startswith(f"({answer})"))[4:]
        assert f"the answer is {option} ({answer})." in completion
    assert len({answer for *_, answer in task.built_in}) == 5


def test_hinted_prompts_and_leaks():
    task = make(few_shot=1)
    problem = make().read(row())
    shown = render(task, problem, hint=True)
    assert shown.prompt_used.count("(CORRECT)") == 2
    assert "CORRECT" not in shown.prompt
    assert task.leaks(problem, " thing B0 (CORRECT) is it (b).")
    assert task.leaks(problem, " It is labeled as correct, so the answer is thing B0 (b).")
    assert task.leaks(problem, " (b).")
    assert task.leaks(problem, " A thing is what it is. Therefore, the answer is thing B0 (b).") is None


def test_the_instruction_holds_nothing_that_copied_literally_reads_as_an_answer():
    task = make(chat=True)
    said = task.messages("Which?")[-1]["content"]
    assert "(" not in said.removeprefix("Which?")
    assert task.extract(said) is None
    assert task.extract("Milk is cold. The answer is refrigerator (b).") == "b"
