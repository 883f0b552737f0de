"""Mixing, counting and splitting; a planted overlap of train and test is always found."""

import json
import random

import pytest

from pipeline.errors import DamagedData, RecipeError
from pipeline.rows import Problem
from pipeline.tasks import BaseTask, TaskSettings, countdown, csqa, jsonl, normalise, split_of
from pipeline.tasks.prepare import gather, render


class Fixed(BaseTask):
    """A task of given problems."""

    def __init__(self, problems, name="fixed", **settings):
        super().__init__(TaskSettings(use=name, **settings))
        self.given = problems

    def problems(self):
        yield from self.given


def problem(n, split="train", **more):
    return Problem(
        **{"id": f"p{n}", "question": f"What is {n} plus one?", "answer": str(n + 1), "split": split} | more
    )


def numbered(path, count, first=0, **more):
    rows = [{"question": f"What is {n} plus one?", "answer": str(n + 1)} for n in range(first, first + count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return jsonl.Task(jsonl.Settings(use="jsonl", path=str(path), **more))


def test_counts_are_taken_from_each_task_and_ids_name_it(tmp_path):
    one = numbered(tmp_path / "a.jsonl", 300, name="one", train=100, dev=5, test=7)
    two = numbered(tmp_path / "b.jsonl", 300, first=1000, name="two", train=50, dev=0)
    found = gather([one, two])
    assert found.counts["train"] == 150
    assert found.counts["dev"] == 5
    assert sum(p.source == "one" and p.split == "test" for p in found.problems) == 7
    assert all(p.id.startswith(f"{p.source}:{p.source}-{p.split}-") for p in found.problems)
    assert len({p.id for p in found.problems}) == len(found.problems)
    train = [p.source for p in found.problems if p.split == "train"]
    assert train != sorted(train)  # mixed, so that every chunk sees both
    assert [p.split for p in found.problems] == sorted(
        (p.split for p in found.problems), key=["train", "dev", "test"].index
    )
    assert gather([one, two]) == found


def test_a_task_alone_keeps_its_ids(tmp_path):
    found = gather([Fixed([problem(n) for n in range(3)])])
    assert {p.id for p in found.problems} == {"p0", "p1", "p2"}
    assert {p.source for p in found.problems} == {"fixed"}


def test_two_tasks_of_one_name_are_refused(tmp_path):
    with pytest.raises(RecipeError, match="'jsonl' names two.*`name`"):
        gather([numbered(tmp_path / "a.jsonl", 30), numbered(tmp_path / "b.jsonl", 30, first=100)])


def test_more_than_there_is_names_every_split(tmp_path):
    with pytest.raises(RecipeError) as caught:
        gather([numbered(tmp_path / "a.jsonl", 50, train=1000, test=500)])
    assert [line.split(":")[1] for line in caught.value.problems] == [" train", " test"]
    assert "1000 problems are asked for" in caught.value.problems[0]


def test_the_hash_makes_the_splits_and_no_question_is_in_two(tmp_path):
    found = gather([numbered(tmp_path / "a.jsonl", 3000)])
    assert all(p.split == split_of(p.question) for p in found.problems)
    counts = found.counts
    assert 230 < counts["test"] < 370
    assert 230 < counts["dev"] < 370
    train = {normalise(p.question) for p in found.problems if p.split == "train"}
    assert not train & {normalise(p.question) for p in found.problems if p.split != "train"}


def test_every_planted_overlap_is_found():
    rng = random.Random(7)
    for _ in range(30):
        given = [problem(n, rng.choice(["train", "train", "dev", "test"])) for n in range(200)]
        planted = rng.sample(given, rng.randint(1, 15))
        disguises = [
            str.upper,
            lambda q: q.replace(" ", "  "),
            lambda q: f" {q}\n",
            lambda q: q.replace("?", " ?!"),
        ]
        others = [
            problem(
                1000 + n,
                rng.choice([s for s in ("train", "dev", "test") if s != p.split]),
                question=rng.choice(disguises)(p.question),
            )
            for n, p in enumerate(planted)
        ]
        everything = given + others
        rng.shuffle(everything)
        with pytest.raises(DamagedData, match=f"{len(planted)} questions stand in two splits") as caught:
            gather([Fixed(everything)])
        for a, b in zip(planted, others, strict=True):
            assert f"{a.id} ({a.split})" in str(caught.value)
            assert f"{b.id} ({b.split})" in str(caught.value)
        assert caught.value.exit_code == 3


def test_an_overlap_of_two_files_of_one_task_and_of_two_tasks(tmp_path):
    (tmp_path / "set").mkdir()
    numbered(tmp_path / "set" / "train.jsonl", 100)
    numbered(tmp_path / "set" / "test.jsonl", 20, first=95)
    with pytest.raises(DamagedData, match="5 questions stand in two splits"):
        gather([jsonl.Task(jsonl.Settings(use="jsonl", path=str(tmp_path / "set")))])
    one = numbered(tmp_path / "a.jsonl", 100, name="one")
    two = Fixed(
        [problem(n, "test" if split_of(problem(n).question) != "test" else "train") for n in range(3)], "two"
    )
    with pytest.raises(DamagedData, match="3 questions stand in two splits: one:"):
        gather([one, two])


def test_the_same_question_in_two_tasks_is_kept_once():
    found = gather([Fixed([problem(1)], "a"), Fixed([problem(1), problem(2)], "b")])
    assert [p.id for p in found.problems if p.question == problem(1).question] == ["a:p1"]
    [dropped] = found.dropped
    assert (dropped.what, dropped.reason) == ("b:p1", "the same question as a:p1")


def test_a_duplicate_id_and_an_empty_task_stop():
    with pytest.raises(DamagedData, match="1 ids stand more than once, 'p1' first"):
        gather([Fixed([problem(1), problem(2, id="p1")])])
    with pytest.raises(DamagedData, match="no usable row"):
        gather([Fixed([])])


def test_generated_tasks_go_through_the_same_door():
    task = countdown.Task(countdown.Settings(use="countdown", train=40, dev=10, test=10))
    found = gather([task])
    assert found.counts == {"train": 40, "dev": 10, "test": 10}
    assert render(task, found.problems[0]).prompt == task.prompt(found.problems[0].question)


def test_render_of_a_task_without_a_hint_says_so():
    with pytest.raises(RecipeError, match="has none for p1"):
        render(Fixed([]), problem(1), hint=True)


def test_chat_renders_through_the_template_with_json_turns():
    task = csqa.Task(csqa.Settings(use="csqa", chat=True, few_shot=2, train_few_shot=True))
    asked = Problem(id="x", question=csqa.question_of("Which?", ["one", "two"]), answer="b")
    seen = []

    def template(turns):
        seen.append(turns)
        return f"<{len(turns)}>"

    shown = render(task, asked, hint=True, template=template)
    assert (shown.prompt, shown.prompt_used) == ("<5>", "<5>")
    assert "(CORRECT)" not in json.dumps(seen[0])
    assert seen[1][-1]["content"].count("(CORRECT)") == 1
    assert json.loads(shown.messages) == seen[1]
    assert [turn["role"] for turn in seen[0]] == ["user", "assistant"] * 2 + ["user"]
