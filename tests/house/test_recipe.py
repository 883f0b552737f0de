"""Recipes: the contract's seven, every error at once with the nearest key, what a change means."""

from __future__ import annotations

import copy
import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline.errors import RecipeError
from pipeline.processes.group import Processes
from pipeline.recipe import read as recipes
from pipeline.recipe.plan import describe
from pipeline.report.console import Console
from pipeline.run.session import session
from pipeline.store.workspace import Workspace

ROOT = Path(__file__).parents[2]
SHIPPED = sorted((ROOT / "recipes").glob("*.yaml"))
CONTRACT = sorted((ROOT / "tests" / "recipes").glob("*.yaml"))
GOOD = {
    "name": "good",
    "task": {"use": "countdown", "train": 50, "dev": 10, "test": 10},
    "models": {"policy": {"base": "seed://countdown"}},
    "rounds": 1,
    "stages": {
        "sample": {"generate": "sample", "by": "policy", "n": 2},
        "check": {"label": "outcome", "from": "sample"},
        "rows": {"select": "correct", "from": "check"},
        "learn": {"train": "sft", "model": "policy", "from": "rows", "steps": 5},
        "measure": {"evaluate": "accuracy", "of": "policy"},
    },
}


def changed(**places: object) -> dict:
    """GOOD with values put at dotted places (`stages__rows__n=3`); the value ... removes the key."""
    data = copy.deepcopy(GOOD)
    for place, value in places.items():
        *parents, last = place.split("__")
        spot = data
        for part in parents:
            spot = spot.setdefault(part, {})
        if value is ...:
            del spot[last]
        else:
            spot[last] = value
    return data


def problems(data: dict) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        recipes.build(data, "r.yaml")
    assert caught.value.exit_code == 2
    return caught.value.problems


def test_every_shipped_recipe_is_whole() -> None:
    assert len(SHIPPED) >= 7
    for path in SHIPPED:
        assert recipes.load(path).not_built == (), path


@pytest.mark.parametrize("path", CONTRACT, ids=lambda p: p.stem)
def test_the_contract_recipes_are_well_formed_and_plan(path: Path) -> None:
    """Methods that are not there are said so; everything else about them is checked, and `plan` walks them."""
    recipe = recipes.load(path)
    said = describe(recipe)
    for stage in recipe.stages:
        assert f"  {stage.name} " in said
        assert stage.built or any(stage.name in line for line in recipe.not_built)
    if path.stem in ("star", "rest_mcts"):
        assert recipe.not_built == ()


def test_plan_takes_its_speeds_from_earlier_runs(tmp_path: Path) -> None:
    """1,000 tokens a second were written and 10 rows a second trained; a base that never ran gets no time."""
    path = ROOT / "recipes" / "star_addition.yaml"
    earlier = tmp_path / "old"
    earlier.mkdir()
    (earlier / "recipe.yaml").write_text(path.read_text())
    rows = [
        {"round": 1, "stage": "sample", "seconds": 192.0, "spent": {"written": {"policy": 192_000}}},
        {"round": 1, "stage": "learn", "seconds": 1920.0, "spent": None},
    ]
    (earlier / "timing.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    metrics = {"round": 1, "stage": "learn", "metrics": {"learn/steps": 300}}
    (earlier / "metrics.jsonl").write_text(json.dumps(metrics) + "\n")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "timing.jsonl").write_text("{")
    said = describe(recipes.load(path), tmp_path)
    assert "4,000 problems, about 192,000 tokens, 3 min" in said  # 192 s
    assert "19,200 rows (last round 27,648), 32 min" in said  # 1,920 s
    said = describe(recipes.load(ROOT / "recipes" / "star_gsm8k.yaml"), tmp_path)
    assert "all problems of the data, about 128 tokens each, time unknown" in said
    assert "without the time of sample, retry, learn, measure, final" in said


def test_the_contract_has_its_seven() -> None:
    assert {p.stem for p in CONTRACT} == {
        "star", "rest_mcts", "pav", "iterated_dpo", "score", "alphallm", "rstar",
    }  # fmt: skip


def test_all_problems_are_said_at_once_with_the_nearest_key() -> None:
    data = changed(
        stages__rows__max_per_problm=3,
        stages__sample__n="many",
        models__policy__lora_rank=3,
        task__tran=5,
        roundz=2,
    )
    found = problems(data)
    assert len(found) == 5
    text = "\n".join(found)
    for words in (
        "stages.rows: unknown key max_per_problm (did you mean max_per_problem?)",
        "stages.sample.n: ",
        '"many"',
        "models.policy: unknown key lora_rank",
        "task: unknown key tran (did you mean train?)",
        "unknown key roundz (did you mean rounds?)",
    ):
        assert words in text


def test_an_unknown_method_is_said_with_the_other_problems() -> None:
    found = problems(changed(stages__rows__max_per_problm=3, stages__sample__generate="smaple"))
    assert found == [
        "r.yaml: stages.rows: unknown key max_per_problm (did you mean max_per_problem?)",
        "r.yaml: stages.sample: generate: smaple is not built yet (did you mean sample?)",
    ]


def test_an_unknown_method_stops_a_run_before_anything_is_made(tmp_path: Path) -> None:
    recipe = recipes.build(changed(stages__measure__evaluate="acuracy"), "r.yaml")
    with (
        pytest.raises(RecipeError, match="did you mean accuracy"),
        session(
            recipe, Console(quiet=True), Processes(), Workspace(tmp_path / "data", tmp_path / "checkpoints")
        ),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stages__check__from": "sampel"}, "did you mean sample?"),
        ({"stages__check__from": "rows"}, "it runs later"),
        ({"stages__check__from": ...}, "nothing to work on"),
        ({"stages__sample__by": "polcy"}, "did you mean policy?"),
        ({"stages__rows__from": "sample"}, "needs Label rows"),
        ({"stages__measure__split": "test"}, "read once, in finally"),
        ({"stages__sample__split": "dev"}, "never learned from"),
        ({"stages__sample__split": "no"}, "split"),
        ({"stages__sample__generate": 3}, "not built"),
        ({"stages__sample__label": "outcome"}, "exactly one of"),
        ({"models__policy__gate": {"metric": "measur/accuracy/greedy", "margin": 0.1}}, "did you mean measure?"),
        ({"models__policy__gate": {"metric": "measure/accuracy/greedy"}}, "either margin or at_most or at_least"),
        ({"models__policy__head": "value"}, "train: sft trains a policy (no head) or head: token"),
        ({"name": "../x"}, "no run name"),
        ({"name": "tasks"}, "name of a folder"),
        ({"task__use": "countdwn"}, "did you mean countdown?"),
        ({"models": {}}, "models: missing"),
        ({"rounds": 2.5}, "rounds"),
        ({"rounds": True}, "YAML reads"),
        ({"stages__measure__search": {"generate": "beam", "valu": "policy"}}, "unknown key valu"),
        ({"stages__check__chunk": 5}, "inherits its slices"),
        ({"stages__again": {"train": "sft", "model": "policy", "from": "rows"}}, "already trains policy"),
    ],
)  # fmt: skip
def test_one_mistake_of_each_kind_is_one_clear_sentence(change: dict, words: str) -> None:
    data = changed(**change)
    if change.get("stages__sample__generate") == 3:
        assert any(words in line for line in recipes.build(data).not_built)
        return
    assert any(words in line for line in problems(data)), problems(data)


def test_numbers_that_yaml_reads_as_text_become_numbers() -> None:
    recipe = recipes.build(changed(stages__learn__learning_rate="3e-4"))
    assert recipe.stage("learn").settings.learning_rate == 3e-4


@pytest.mark.parametrize("text", ["a: [1", "a: 1\na: 2", "- 1\n", "", "\t"])
def test_files_that_are_no_recipe(tmp_path: Path, text: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match="r.yaml"):
        recipes.load(path)


def test_a_recipe_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(b"name: \xff\xfe")
    with pytest.raises(RecipeError, match="UTF-8"):
        recipes.load(path)


def test_no_tag_of_a_recipe_builds_an_object(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("name: !!python/object/apply:os.system ['touch made']\n")
    with pytest.raises(RecipeError):
        recipes.load(path)
    assert not (tmp_path / "made").exists()


def test_resolved_recipes_load_to_themselves(tmp_path: Path) -> None:
    assert SHIPPED
    for path in SHIPPED:
        one = recipes.load(path, ["seed=7"])
        copy = tmp_path / path.name
        copy.write_text(yaml.safe_dump(one.resolved(), sort_keys=False))
        assert recipes.load(copy).leaves() == one.leaves(), path


def test_overrides() -> None:
    recipe = recipes.load(ROOT / "recipes" / "quickstart.yaml", ["stages.sample.n=3", "seed=4"], name="other")
    assert (recipe.stage("sample").settings.n, recipe.seed, recipe.name) == (3, 4, "other")
    with pytest.raises(RecipeError, match="key.sub=value"):
        recipes.load(ROOT / "recipes" / "quickstart.yaml", ["stages.sample.n"])


def test_every_leaf_key_is_classified_and_a_data_change_is_refused() -> None:
    """Each leaf of the quickstart, changed one at a time: data is refused with its line, the rest is taken."""
    old = recipes.load(ROOT / "recipes" / "quickstart.yaml")
    leaves = old.leaves()
    kinds = {kind for _, kind in leaves.values()}
    assert kinds == {"data", "extendable", "operational"}
    assert len(leaves) > 60
    assert leaves["rounds"][1] == "extendable"
    assert leaves["models.policy.engine.max_rows"][1] == "operational"
    changes = {"rounds": 4, "stages.sample.n": 9, "window": 3, "models.policy.engine.max_rows": 8, "seed": 1}
    for key, value in changes.items():
        new = recipes.load(ROOT / "recipes" / "quickstart.yaml", [f"{key}={value}"])
        refused, taken = recipes.changes(old, new)
        assert refused + taken == [f"{key}: {leaves[key][0]} -> {value}"]
        assert bool(refused) == (leaves[key][1] == "data")
    refused, _ = recipes.changes(old, recipes.load(ROOT / "recipes" / "quickstart.yaml", ["rounds=1"]))
    assert refused  # fewer rounds than were done is no extension


def test_data_settings_leave_operational_keys_out() -> None:
    model = recipes.load(ROOT / "recipes" / "quickstart.yaml").models["policy"]
    assert "engine" not in recipes.data_settings(model)
    assert "lora" in recipes.data_settings(model)


def test_stages_run_in_their_rounds() -> None:
    recipe = recipes.load(ROOT / "recipes" / "star_gsm8k.yaml")
    retry = recipe.stage("retry")
    assert [n for n in range(1, 6) if retry.runs_in(n)] == [3, 4, 5]


def test_check_is_quick_and_loads_no_torch() -> None:
    """Under a second is the promise; the event is that no torch module is loaded."""
    code = (
        "import sys; from pipeline.recipe.read import load; from pathlib import Path\n"
        "[load(p) for p in Path('recipes').glob('*.yaml')]\n"
        "import pipeline.__main__, pipeline.run.status, pipeline.recipe.plan\n"
        "heavy = [m for m in ('torch', 'transformers', 'trl', 'peft', 'datasets', 'wandb') if m in sys.modules]\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_command_line_says_one_sentence_and_its_code(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump(changed(roundz=3), sort_keys=False))
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "check", str(path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "roundz (did you mean rounds?)" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_entry_point_offers_a_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package outside the repository adds a generator without touching it."""
    (tmp_path / "outside.py").write_text(
        "from pipeline.generate.sample import Settings as Base, generate\n"
        "class Settings(Base):\n    extra: int = 3\n"
    )
    info = tmp_path / "outside-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[ratchet.generate]\nborrowed = outside\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    recipe = recipes.build(changed(stages__sample__generate="borrowed", stages__sample__extra=5))
    assert recipe.not_built == ()
    assert recipe.stage("sample").settings.extra == 5


def test_random_bytes_never_give_a_traceback(tmp_path: Path) -> None:
    rng = __import__("random").Random(0)
    path = tmp_path / "r.yaml"
    for _ in itertools.repeat(None, 300):
        path.write_bytes(bytes(rng.randrange(256) for _ in range(rng.randrange(40))))
        with pytest.raises(RecipeError):
            recipes.load(path)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("shepherd_deduction", "task.hops=[4,2]", "task: hops: [4, 2] must be two whole numbers"),
        (
            "shepherd_deduction",
            "task.kinds=2",
            "task: a problem may need 22 made-up kinds and there are 2: raise",
        ),
        (
            "shepherd_deduction",
            "before.credit.n=yes",
            "before.credit.n: is no truth value here (YAML reads no",
        ),
        (
            "pivotal_countdown",
            "before.pivots.within=[0.8,0.2]",
            "within: [0.8, 0.2] must be two shares, low before",
        ),
    ],
)
def test_a_sentence_of_the_settings_own_stands_by_itself(name: str, change: str, words: str) -> None:
    """Neither the library's `value error` before it nor all the settings behind it."""
    with pytest.raises(RecipeError) as caught:
        recipes.load(ROOT / "recipes" / f"{name}.yaml", [change])
    assert words in str(caught.value)
    assert "alue error" not in str(caught.value)
    assert "{" not in str(caught.value)
