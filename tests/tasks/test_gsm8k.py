"""GSM8K on the real rows: splits, gold, prompts, hints and leaks."""

import json
from pathlib import Path

import pytest

from pipeline.errors import DamagedData, RecipeError
from pipeline.tasks import gsm8k, split_of
from pipeline.tasks.prepare import gather, render

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "gsm8k"
needs_data = pytest.mark.skipif(not DATA.exists(), reason="the shared GSM8K rows are not here")


def make(**more):
    return gsm8k.Task(gsm8k.Settings(use="gsm8k", **{"path": str(DATA), **more}))


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def problem(tmp_path):
    rows = [
        {
            "question": "Tom has 3 pens and buys 1,197 more. How many?",
            "answer": "3+1197=<<3+1197=1200>>1,200\n#### 1,200",
        }
    ]
    [found] = make(path=write(tmp_path / "a.jsonl", rows)).problems()
    return found


@needs_data
def test_every_gold_solution_extracts_and_compares_as_right():
    task = make()
    found = list(task.problems())
    assert len(found) == 7473 + 1319
    assert task.rejected == []
    assert task.dropped == []
    wrong = []
    for problem in found:
        completion = task.gold_completion(problem)
        assert "<<" not in completion
        assert "".join(task.steps(completion)) == completion
        if not task.correct(task.extract(completion), problem):
            wrong.append(problem.id)
    assert wrong == []


@needs_data
def test_the_published_test_split_stays_whole_and_dev_comes_from_train():
    found = gather([make()])
    assert found.counts["test"] == 1319
    assert found.counts["train"] + found.counts["dev"] == 7473
    assert 600 < found.counts["dev"] < 900
    assert all(split_of(p.question) == "dev" for p in found.problems if p.split == "dev")
    assert all("test.jsonl" in p.meta for p in found.problems if p.split == "test")
    assert gather([make()]) == found


@needs_data
def test_a_count_is_a_fixed_random_sample_that_only_grows():
    few = gather([make(train=50, dev=10, test=20)])
    more = gather([make(train=80, dev=10, test=20)])
    assert few.counts == {"train": 50, "dev": 10, "test": 20}
    assert [p.id for p in more.problems if p.split == "train"][:50] == [
        p.id for p in few.problems if p.split == "train"
    ]


def test_a_row_becomes_a_problem(problem):
    assert problem.answer == "1200"
    assert problem.solution == "3+1197=1,200"
    assert problem.difficulty == "1 steps"
    assert problem.id.startswith(f"gsm8k-{problem.split}-")


def test_extraction(tmp_path):
    task = make()
    assert task.extract("so\n#### 1,200 dollars.") == "1200"
    assert task.extract("#### $18") == "18"
    assert task.extract("#### 2/4") == "0.5"
    assert task.extract("the answer is 18") is None
    assert make(extract="any").extract("the answer is 18") == "18"
    assert make(extract="any").extract(r"so \boxed{18}") == "18"


def test_the_prompt_with_examples_and_hints(problem):
    task = make(few_shot=2)
    plain = render(task, problem)
    assert plain.prompt == f"Q: {problem.question}\nA:"
    assert plain.prompt_used.count("Q: ") == 3
    assert plain.prompt_used.endswith("\n\n" + plain.prompt)
    hinted = render(task, problem, hint=True)
    assert hinted.prompt == plain.prompt
    assert hinted.prompt_used.endswith(f"Q: {problem.question} (1200)\nA:")
    assert "How many rolls are left? (38)\nA:" in hinted.prompt_used  # the examples carry theirs too
    assert hinted.hinted
    assert render(task, problem, few_shot=0).prompt_used == plain.prompt
    assert render(make(few_shot=2, train_few_shot=True), problem).prompt == plain.prompt_used


def test_the_own_examples_are_right_and_in_the_tasks_format():
    task = make(few_shot=6)
    assert len(task.built_in) == 6
    for _, completion, answer in task.built_in:
        assert task.extract(completion) == answer
        assert task.steps(completion)[-1] == f"#### {answer}"
        for line in completion.split("\n")[:-1]:
            for part in line.split(" = ")[:-1]:
                assert any(c.isdigit() for c in part)


def test_an_example_never_shows_the_problem_itself(problem):
    task = make(few_shot=3)
    question, completion, answer = task.built_in[1]
    itself = type(problem)(id="x", question=question.upper(), answer=answer)
    shown = task.examples(itself)
    assert len(shown) == 3
    assert question not in [asked for asked, _ in shown]


def test_more_examples_than_there_are():
    with pytest.raises(RecipeError, match=r"few_shot: 7.*6 worked examples"):
        make(few_shot=7)


@pytest.mark.parametrize(
    "text",
    [
        " The answer (1200) follows.\n#### 1200",
        " As the hint says, 3 + 1197 = 1200.\n#### 1200",
        " We get (1,200).\n#### 1200",
        " 1200\nbecause 3 + 1197\n#### 1200",
        " The number in the parentheses is right.\n#### 1200",
        " #### 1200",
        " The answer is given as 1200.\n#### 1200",
    ],
)
def test_a_leaked_hint_is_seen(problem, text):
    assert make().leaks(problem, text)


def test_an_honest_rationale_is_no_leak(problem):
    assert make().leaks(problem, " He has 3 + 1197 = 1200 pens.\n#### 1200") is None
    assert make().leaks(problem, " He has 3 * (1200) / 3 = 1200\n#### 1200")
    assert make().leaks(problem, " f(1200) is 1200\n#### 1200") is None


def test_rows_without_a_gold_number_are_rejected(tmp_path):
    good = [{"question": f"How much is {n} and 1?", "answer": f"#### {n + 1}"} for n in range(300)]
    bad = [
        {"question": "How much is it?", "answer": "no mark"},
        {"question": "And this?", "answer": "#### many"},
    ]
    task = make(path=write(tmp_path / "a.jsonl", good + bad))
    found = gather([task])
    assert [row["line"] for row in found.rejected] == [301, 302]
    assert all("####" in row["reason"] for row in found.rejected)
    assert len(found.problems) == 300


def test_chat_examples_become_turns(problem):
    task = make(few_shot=1, chat=True, system="Be brief.")
    shown = render(task, problem, template=lambda turns: "|".join(t["role"] for t in turns))
    assert shown.prompt == "system|user"
    assert shown.prompt_used == "system|user|assistant|user"
    turns = json.loads(shown.messages)
    assert turns[0]["content"] == "Be brief."
    assert turns[-1]["content"].startswith(problem.question + "\n\n")
    assert "####" in turns[-1]["content"]
    assert task.stop == ()
    with pytest.raises(RecipeError, match="no chat template"):
        render(task, problem, template=lambda turns: None)


def test_without_a_network_the_hub_asks_for_a_path(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    task = make(path="", hub="nobody/no-such-data", cache=str(tmp_path))
    with pytest.raises(DamagedData, match=r"nobody/no-such-data .*give task\.path"):
        list(task.problems())
