"""Few-shot as a phase: which versions of a model see worked examples, and that the examples are never tested."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from tiny_world import SETTINGS, recipe_data

from pipeline.errors import RecipeError
from pipeline.loop import run_loop
from pipeline.processes.group import Processes
from pipeline.recipe import read as recipes
from pipeline.report.console import Console
from pipeline.rows import Trace
from pipeline.run.session import session
from pipeline.store.folder import StageFolder
from pipeline.tasks import countdown, gsm8k
from pipeline.tasks.prepare import gather


def shots(few_shot, trained):
    return countdown.Settings(use="countdown", few_shot=few_shot).shots(trained)


@pytest.mark.parametrize(
    ("rounds", "base", "first", "second"),
    [([0, 1], 3, 0, 0), ([0, 2], 3, 3, 0), ([0, None], 3, 3, 3), ([2, None], 0, 3, 3), ([0, 0], 3, 0, 0)],
)
def test_a_version_is_shown_examples_if_it_begins_to_write_in_these_rounds(rounds, base, first, second):
    few = {"examples": 3, "rounds": rounds}
    assert [shots(few, trained) for trained in (-1, 1, 2)] == [base, first, second]
    assert shots(few, None) == 3
    assert [shots(2, trained) for trained in (-1, 1, 9)] == [2, 2, 2]


@pytest.mark.parametrize("few_shot", [-1, {"examples": -1}, {"examples": 2, "round": [0, 1]}, "four"])
def test_what_is_no_few_shot_is_refused_by_name(few_shot):
    data = recipe_data("somewhere")
    data["task"]["few_shot"] = few_shot
    with pytest.raises(RecipeError, match=r"task\.few_shot"):
        recipes.build(data)


def test_worked_examples_are_never_evaluated(tmp_path):
    """An example that stands in the test file is left out of the test split, with a reason; in train it is only
    never shown before itself."""
    rows = [{"question": f"What is {i} plus {i}?", "answer": f"Add.\n#### {2 * i}"} for i in range(60)]
    for name, part in (("train", rows[:50]), ("test", rows[50:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    shown = [
        {"question": row["question"], "completion": row["answer"]} for row in (rows[3], rows[55], rows[57])
    ]
    (tmp_path / "shots").mkdir()
    (tmp_path / "shots/shots.jsonl").write_text("".join(json.dumps(row) + "\n" for row in shown))

    def tests_of(few_shot):
        settings = gsm8k.Settings(
            use="gsm8k",
            path=str(tmp_path / "train.jsonl"),
            test_path=str(tmp_path / "test.jsonl"),
            few_shot=few_shot,
            few_shot_file=str(tmp_path / "shots/shots.jsonl"),
        )
        found = gather([gsm8k.Task(settings)])
        return found.counts["test"], [row.reason for row in found.dropped]

    whole, none = tests_of(0)
    assert none == []
    assert tests_of(2) == (whole - 2, ["a worked example, left out of test"] * 2)
    assert tests_of({"examples": 2, "rounds": [0, 1]}) == (
        whole - 2,
        ["a worked example, left out of test"] * 2,
    )


@pytest.mark.timeout(300)
def test_a_run_shows_them_to_the_versions_that_are_named(write_recipe):
    """Here to the trained ones: the tiny base was never shown an example. Each version keeps its prompt where it
    is measured, the base at the end too."""
    task = {**SETTINGS, "few_shot": {"examples": 2, "rounds": [2, None]}}
    path = write_recipe(task=task, name="few")
    recipe = recipes.load(
        path, ["stages.measure.samples=0", "finally.final.samples=0", "models.policy.gate=[]"]
    )
    with session(recipe, Console(file=io.StringIO()), Processes()) as run:
        run_loop(run)

    def rows(place: str, model: str = "policy") -> list[Trace]:
        found = [row for row in StageFolder(Path("data/few") / place).read(Trace) if row.model == model]
        assert found
        return found

    def few(place: str, model: str = "policy") -> set[bool]:
        return {row.few_shot for row in rows(place, model)}

    assert few("round-000/measure") == {False}
    assert few("round-001/sample") == {False}
    assert few("round-001/measure") == {True}
    assert few("round-002/sample") == {True}
    assert few("final-002/final") == {True}
    assert few("final-002/final", "policy@0") == {False}
    assert all(row.prompt.count("target") == 1 for row in rows("round-002/sample"))  # training shows none
