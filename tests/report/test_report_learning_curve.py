"""The fit of a learning curve finds what was put in; the command makes a recipe of each size."""

import math
from pathlib import Path

import pytest

from pipeline.commands.curve import curve, numbers, overrides_of
from pipeline.errors import RecipeError
from pipeline.recipe.read import load
from pipeline.report.console import Console
from pipeline.report.learning_curve import Point, fit, page, sentence, size_enough
from pipeline.store.workspace import Workspace

RECIPES = Path(__file__).parents[2] / "recipes"
SIZES = (100, 200, 400, 800, 1600)


def test_golden_curve():
    """error = .2 + 8 n^-.7, to the digit; 95 % of the result at 1,600, solved by hand."""
    points = [Point(n, 1 - (0.2 + 8 * n**-0.7)) for n in SIZES]
    found = fit(points, resamples=20)
    assert (found.a, found.b, found.c) == pytest.approx((0.2, 8, 0.7), rel=1e-3)
    goal = 1 - 0.95 * (1 - (0.2 + 8 * 1600**-0.7))
    assert found.enough == pytest.approx(((goal - 0.2) / 8) ** (-1 / 0.7), rel=1e-3)
    assert found.interval["c"] == pytest.approx((0.7, 0.7), rel=1e-3)  # no spread was put in


def test_the_interval_widens_with_the_runs_own():
    points = [Point(n, 1 - (0.1 + 3 * n**-0.4), 0.03) for n in SIZES]
    found = fit(points, resamples=60)
    low, high = found.interval["c"]
    assert low < 0.4 < high
    assert low < high - 0.01
    said = sentence("same steps", points, found)
    assert "same steps: error =" in said
    assert "95 % of the result at 1,600 stands at" in said


def test_what_cannot_be_fitted_is_said():
    with pytest.raises(RecipeError, match="2 sizes: three or more"):
        fit([Point(1, 0.5), Point(2, 0.6)])
    assert math.isnan(size_enough(0.5, 0.0, 1.0, 100))
    flat = fit([Point(n, 0.4) for n in SIZES], resamples=5)
    assert flat.error(100) == pytest.approx(0.6, abs=1e-3)


@pytest.mark.parametrize("given", ["", "a,b", "10,-3", "0"])
def test_sizes_are_numbers(given):
    with pytest.raises(RecipeError, match="whole numbers from 1 on"):
        numbers(given, "--sizes", 1)


def test_the_two_arms_of_a_recipe():
    """Steps in proportion, or the same; where a training goes by epochs it is the other way round."""
    recipe = load(RECIPES / "quickstart.yaml")
    assert numbers("400, 100,100", "--sizes", 1) == [100, 400]
    assert overrides_of(recipe, 100, 400, "steps") == ["task.train=100"]
    assert overrides_of(recipe, 100, 400, "epochs") == ["task.train=100", "stages.learn.steps.first=30"]
    assert overrides_of(recipe, 400, 400, "epochs") == ["task.train=400"]
    plain = load(RECIPES / "quickstart.yaml", ["stages.learn.steps=100"])
    assert overrides_of(plain, 100, 400, "epochs")[1] == "stages.learn.steps=25"
    by_epochs = load(RECIPES / "quickstart.yaml", ["stages.learn.steps=null", "stages.learn.epochs=2"])
    assert overrides_of(by_epochs, 100, 400, "steps")[1] == "stages.learn.epochs=8"
    assert overrides_of(by_epochs, 100, 400, "epochs") == ["task.train=100"]


def test_the_picture_holds_every_run_and_no_script():
    arms = {
        name: [Point(n, 0.3 + i / 20, 0.02) for i, n in enumerate(SIZES)] for name in ("one <arm>", "other")
    }
    text = page("Learning curve of x", "greedy accuracy", arms, {"other": fit(arms["other"], resamples=5)})
    assert text.count("<circle") == 10
    assert text.count("<polyline") == 1
    assert "one &lt;arm&gt;" in text
    assert "<script" not in text


def test_a_curve_of_too_few_sizes_runs_nothing(tmp_path):
    with pytest.raises(RecipeError, match="three or more"):
        curve(
            RECIPES / "quickstart.yaml", [1, 2], [0], [], Console(quiet=True), Workspace(tmp_path, tmp_path)
        )
    assert list(tmp_path.iterdir()) == []


def test_what_the_largest_size_lacks_is_said_before_the_smallest_runs(tmp_path):
    """A file of 12 rows has no 5,000 problems; a recipe without a training has no curve."""
    rows = tmp_path / "rows.jsonl"
    row = '{{"question": "what is {0} and 1?", "answer": "{1}", "split": "{2}"}}\n'
    rows.write_text("".join(row.format(n, n + 1, ("train", "dev", "test")[n % 3]) for n in range(12)))
    recipe = tmp_path / "small.yaml"
    trains = (
        "rounds: 1\nstages:\n  sample: {generate: sample, n: 2}\n  check: {label: outcome, from: sample}\n"
    )
    trains += "  rows: {select: correct, from: check}\n  learn: {train: sft, from: rows, steps: 8}\n"
    for body, said in (
        (trains, "at 5,000 problems: .*5000 problems are asked for"),
        ("rounds: 0\n", "trains nothing"),
    ):
        recipe.write_text(
            f"name: small\ntask: {{use: jsonl, path: '{rows}', split: split, train: 4, dev: 4, test: 4}}\n"
            f"models: {{policy: {{base: 'seed://countdown'}}}}\n{body}finally: {{final: {{evaluate: accuracy, split: test}}}}\n"
        )
        here = Workspace(tmp_path / "data", tmp_path / "checkpoints")
        with pytest.raises(RecipeError, match=said):
            curve(recipe, [2, 3, 5000], [0], [], Console(quiet=True), here)
        assert not (tmp_path / "data").exists()
