"""The papers' tasks by name: rows in their published form, real rows where they are here, and bad ones."""

import json
from collections import Counter
from pathlib import Path

import pytest

from pipeline.commands.tasks import listing
from pipeline.errors import DamagedData
from pipeline.recipe.methods import method, methods
from pipeline.tasks import _presets
from pipeline.tasks.prepare import gather

DATA = Path(__file__).parents[2].parent / "shared" / "data"
NAMES = [n for n in methods("tasks") if issubclass(method("tasks", n).Task, _presets.Task)]

PUBLISHED = {  # one row in each form that a set was published in: (row, answer, a right text, a wrong text)
    "asdiv": [
        (
            {
                "body": "Seven red cups and two green cups are on the shelf.",
                "question": "How many cups are on the shelf?",
                "solution_type": "Addition",
                "answer": "9 (cups)",
                "formula": "7+2=9",
            },
            "9",
            "7 + 2 = 9",
            "7 - 2 = 5",
        ),
        (
            {
                "ID": "nluds-1",
                "Grade": "2",
                "Body": "A rope is 2.5 meters long.",
                "Question": "How long are two?",
                "Solution-Type": "Multiplication",
                "Answer": "5 (meters)",
                "Formula": "2.5*2=5",
            },
            "5",
            "The answer is 5 meters.",
            "The answer is 50.",
        ),
    ],
    "multiarith": [
        (
            {
                "iIndex": 3,
                "sQuestion": " Ana had 14 pens. She lost 4 and then got 3. How many are there? ",
                "lEquations": ["X=((14.0-4.0)+3.0)"],
                "lSolutions": [13.0],
            },
            "13",
            "14 - 4 = 10\n10 + 3 = 13",
            "14 + 3 = 17",
        ),
        ({"question": "5 bags of 4 nuts. How many?", "final_ans": "20"}, "20", "5 * 4 = 20", "24"),
    ],
    "strategyqa": [
        (
            {
                "qid": "b8",
                "term": "Oak",
                "description": "a tree",
                "question": "Could an oak fit into a shoebox?",
                "answer": False,
                "facts": ["An oak is over 20 meters tall.", "A shoebox is 35 centimeters long."],
                "decomposition": [],
            },
            "no",
            "Yes, some trees are small. But an oak is not. So the answer is no.",
            "An oak seed would fit. So the answer is yes.",
        ),
        (
            {"qid": "b9", "question": "Is ice cold?", "answer": True, "facts": "Ice is below zero."},
            "yes",
            "Yes.",
            "Perhaps, perhaps not.",
        ),
    ],
    "math500": [
        (
            {
                "problem": "Solve $2x = 1$.",
                "solution": "So $x = \\boxed{\\frac{1}{2}}$.",
                "answer": "\\frac{1}{2}",
                "subject": "Algebra",
                "level": 1,
                "unique_id": "test/algebra/1.json",
            },
            "\\frac{1}{2}",
            "Halve it: \\boxed{0.5}",
            "\\boxed{2}",
        ),
        ({"content": "What is $3^2$?", "answer": "9"}, "9", "\\boxed{9}", "\\boxed{6}"),
    ],
    "aime": [
        (
            {
                "id": 60,
                "problem": "Find $N$.",
                "solution": "A sketch.",
                "answer": "073",
                "url": "",
                "year": "2024",
            },
            "73",
            "so \\boxed{73}",
            "so \\boxed{37}",
        ),
        (
            {"ID": "2024-II-4", "Problem": "Find $m+n$.", "Solution": "It is \\boxed{33}.", "Answer": 33},
            "33",
            "\\boxed{033}",
            "\\boxed{34}",
        ),
        ({"question": "Find $k$.", "answer": "204"}, "204", "\\boxed{204}", "\\boxed{24}"),
    ],
    "olympiadbench": [
        (
            {
                "id": 1606,
                "question": "Find all $x$ with $x^2 = 4$.",
                "solution": ["Two roots."],
                "final_answer": ["$-2, 2$"],
                "context": None,
                "image_1": None,
                "modality": "Text-only",
                "is_multiple_answer": True,
                "unit": None,
                "answer_type": "Numerical",
                "error": None,
                "subfield": "Algebra",
            },
            "-2, 2",
            "\\boxed{2, -2}",
            "\\boxed{2}",
        ),
        (
            {
                "id": 1607,
                "question": "How far does it fly?",
                "context": "A ball leaves at 10 m/s.",
                "final_answer": ["10.2"],
                "unit": "m",
                "error": "1e-1",
                "subfield": "Mechanics",
            },
            "10.2",
            "\\boxed{10.25}",
            "\\boxed{10.4}",
        ),
    ],
    "gsm_hard": [
        (
            {
                "input": "A hen lays 9130205 eggs, 3 break. How many are left?",
                "code": "...",
                "target": 9130202.0,
            },
            "9130202",
            "9130205 - 3 = 9130202\n#### 9,130,202",
            "#### 9130203",
        ),
        (
            {
                "input": "Seven men share 100 loaves. How much has each?",
                "code": "",
                "target": 14.285714285714286,
            },
            None,
            "#### 14.2857",
            "#### 14.2",
        ),
    ],
    "scibench": [
        (
            {
                "problem_text": "What is the pressure of the ethane?",
                "answer_latex": " 50.7",
                "answer_number": "50.7",
                "unit": "$\\mathrm{atm}$ ",
                "problemid": " e1",
                "source": "atkins",
                "solution": "",
                "comment": "",
            },
            None,
            "\\boxed{51}",
            "\\boxed{54}",
        ),
        (
            {"content": "How far? The unit of the answer should be cm.", "answer": 10.8},
            "10.8",
            "\\boxed{11.0}",
            "\\boxed{11.5}",
        ),
    ],
    "gpqa": [
        (
            {
                "Record ID": "rec1",
                "Question": "Which is the lightest?",
                "Correct Answer": "hydrogen",
                "Incorrect Answer 1": "helium",
                "Incorrect Answer 2": "neon",
                "Incorrect Answer 3": "helium",  # a wrong option stands twice in a published row too
                "Subdomain": "Chemistry (general)",
            },
            None,
            None,
            "I cannot say.",
        )
    ],
}
CASES = [(name, *case) for name, cases in PUBLISHED.items() for case in cases]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def make(name, path, **more):
    module = method("tasks", name)
    return module.Task(module.Settings(use=name, path=str(path), **more))


def test_every_preset_is_covered():
    assert sorted(PUBLISHED) == sorted(NAMES)
    assert len(NAMES) == 9


@pytest.mark.parametrize(("name", "row", "answer", "right", "wrong"), CASES)
def test_a_row_as_it_was_published(tmp_path, name, row, answer, right, wrong):
    task = make(name, write(tmp_path / "rows.jsonl", [row]), held_out=False)
    assert task.look() == []
    [problem] = task.problems()
    assert task.rejected == []
    assert answer in (None, problem.answer)
    right = right or f"The answer is ({problem.answer})."
    assert task.correct(task.extract(right), problem), (right, task.extract(right), problem.answer)
    assert not task.correct(task.extract(wrong), problem), (wrong, task.extract(wrong), problem.answer)
    gold = task.gold_completion(problem)
    assert gold
    assert task.correct(task.extract(gold), problem)
    hidden = [key for key in ("code", "decomposition", "formula") if key in row]
    assert not [key for key in hidden if str(row[key]) and str(row[key]) in problem.question]


@pytest.mark.parametrize("name", NAMES)
def test_worked_examples_are_right_and_held_out_sets_are_tests(tmp_path, name):
    row = PUBLISHED[name][0][0]
    task = make(name, write(tmp_path / "train.jsonl", [row]))
    [problem] = task.problems()
    assert problem.split == ("test" if task.settings.held_out else "train")
    shown = make(name, tmp_path / "train.jsonl", few_shot=min(3, len(task.built_in)))
    assert len(shown.examples(problem)) == 3
    for question, completion, wanted in task.built_in:
        said = task.extract(task.completion(completion))
        assert task.same(said, wanted), (question, said, wanted)


def test_what_a_set_does_not_take_is_left_out_with_a_reason(tmp_path):
    rows = [
        {"body": "", "question": "When does it end?", "answer": "8:30", "formula": ""},
        {"body": "", "question": "How many each?", "answer": "3 (cups); 4 (pans)", "formula": ""},
        {"question": "How many are 2 and 2?", "answer": "4 (cups)", "formula": "2+2=4"},
    ]
    task = make("asdiv", write(tmp_path / "asdiv.jsonl", rows))
    assert [p.answer for p in task.problems()] == ["4"]
    assert [row.reason.rpartition(": ")[0].rpartition(": ")[2] for row in task.dropped][:1] == [
        "the answer is no single number"
    ]
    assert len(task.dropped) == 2
    assert task.rejected == []
    seen = [
        {"id": 1, "question": "In the figure?", "final_answer": ["1"], "image_1": {"bytes": "x"}},
        {"id": 2, "question": "Prove it.", "final_answer": None},
    ]
    task = make("olympiadbench", write(tmp_path / "olympiad.jsonl", seen))
    assert list(task.problems()) == []
    assert ["picture" in row.reason or "proof" in row.reason for row in task.dropped] == [True, True]


@pytest.mark.parametrize(
    ("name", "row", "reason"),
    [
        ("aime", {"problem": "Find it.", "answer": "1000"}, "a whole number of 0 to 999"),
        ("aime", {"problem": "Find it.", "answer": "x"}, "'answer' is no number: 'x'"),
        ("aime", {"Problem": "Find it."}, "no field 'Answer' (it has Problem)"),
        ("aime", {"text": "Find it."}, "no field 'problem' (it has text)"),
        ("strategyqa", {"question": "Is it?", "answer": "maybe"}, "true or false is wanted"),
        ("multiarith", {"sQuestion": "How many?", "lSolutions": [1.0, 2.0]}, "must hold one number"),
        ("scibench", {"content": "How far?", "answer": "far"}, "no number: 'far'"),
        ("gpqa", {"Question": "Which?", "Correct Answer": "this"}, "no field 'Incorrect Answer 1'"),
        ("gsm_hard", {"input": "How many?", "target": None}, "'answer' is nothing, not text"),
    ],
)
def test_bad_rows_are_refused_with_their_place(tmp_path, name, row, reason):
    task = make(name, write(tmp_path / "rows.jsonl", [row]))
    assert list(task.problems()) == []
    [bad] = task.rejected
    assert bad["line"] == 1
    assert reason in bad["reason"]


def test_a_users_file_may_name_its_fields(tmp_path):
    file = write(tmp_path / "mine.jsonl", [{"ask": "What is $1+1$?", "gold": "2"}])
    task = make("math500", file, question="ask", answer="gold", held_out=False)
    assert task.look() == []
    assert [(p.question, p.answer) for p in task.problems()] == [("What is $1+1$?", "2")]
    wrong = make("math500", file, question="asked", answer="gold")
    assert "no field 'asked'" in wrong.look()[0]
    with pytest.raises(DamagedData, match="no such file or folder"):
        list(make("aime", tmp_path / "absent.jsonl").problems())


def test_the_options_of_gpqa_are_in_an_order_of_their_own(tmp_path):
    rows = [
        {"Question": f"Which of {n}?", "Correct Answer": "yes"}
        | {f"Incorrect Answer {i}": f"no {i}" for i in (1, 2, 3)}
        for n in range(200)
    ]
    found = list(make("gpqa", write(tmp_path / "gpqa.jsonl", rows)).problems())
    counts = Counter(p.answer for p in found)
    assert sorted(counts) == ["a", "b", "c", "d"]
    assert min(counts.values()) > 25
    assert all(f"({p.answer}) yes" in p.question for p in found)


@pytest.mark.parametrize(
    ("name", "folder", "num"), [("math500", "math500", 500), ("scibench", "scibench", 582)]
)
def test_real_rows(name, folder, num):
    if not (DATA / folder).exists():
        pytest.skip("the shared rows are not here")
    task = make(name, DATA / folder)
    found = gather([task])
    assert found.rejected == []
    assert len(found.problems) + len(found.dropped) == num
    assert {p.split for p in found.problems} == {"test"}
    assert all(task.correct(p.answer, p) for p in found.problems)
    sample = found.problems[::7]
    assert all(task.correct(task.extract(task.gold_completion(p)), p) for p in sample)


def test_the_list_names_every_task_with_licence_and_source():
    said = listing()
    for name in methods("tasks"):
        [line] = [line for line in said.splitlines() if line.split("  ")[0] == name]
        assert "  " in line
    assert "hub://EleutherAI/asdiv" in said
    assert "CC BY-NC 4.0" in said
    [own] = [line for line in said.splitlines() if line.startswith("countdown")]
    assert "made by itself" in own
