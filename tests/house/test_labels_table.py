"""scripts/labels_table.py: its figures by hand, and both recipes run small through it, from sampling to the document."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from pipeline.recipe.read import load
from pipeline.rows import Trace
from pipeline.run.status import run_status
from pipeline.store.workspace import Workspace

ROOT = Path(__file__).parents[2]
THREE = ["task.numbers=3", "task.range=[1,20]", "task.target=[10,100]", "task.largest=200"]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """scripts/ is no package."""
    sys.path.insert(0, str(ROOT / "scripts"))
    spec = importlib.util.spec_from_file_location("labels_table", ROOT / "scripts" / "labels_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["labels_table"] = module
    spec.loader.exec_module(module)
    return module


def sample(*ids: int) -> Trace:
    """A trace of two steps, the first of one token."""
    return Trace(
        problem_id="p",
        id=f"p/{ids}",
        prompt="",
        text="",
        token_ids=list(ids),
        step_ends=[1, len(ids)],
        steps=["", ""],
        finish="eos",
    )


def test_a_task_that_is_not_made_again_keeps_its_section(script: ModuleType) -> None:
    text = f"# T\n\nhead\n\n## Deduction\n\nSeeds 0.\n\n## Other\n\n| a |\n\n{script.KEPT}\n\n## By hand\n"
    assert script.sections(text) == {"Deduction": "## Deduction\n\nSeeds 0.", "Other": "## Other\n\n| a |"}


def test_areas_by_hand(script: ModuleType) -> None:
    """Two problems. The shared first step of the first one counts once; in the second the model is at odds with itself:
    its sound first step lies above its own lost one, and both below the other problem's lost one."""
    rows = [
        [
            (sample(1, 2), [0.9, 0.8], [True, True]),
            (sample(1, 3), [0.9, 0.1], [True, False]),
            (sample(4, 5), [0.5, 0.2], [False, False]),
        ],
        [(sample(1, 2), [0.4, 0.6], [True, True]), (sample(6, 7), [0.3, 0.7], [False, False])],
    ]
    found = script.aucs(rows)
    assert found["first steps"] == 1
    # first steps: .9 > .5 and .4 > .3, a pair a problem; second ones: .8 > .1 and .2, but .6 < .7
    assert found["in a problem"] == pytest.approx((1 + 1 + 2 + 0) / 5)
    # first steps across problems: .9 beats .5 and .3, .4 beats .3 alone; ends: .8 beats all, .6 all but .7
    assert found["like steps"] == pytest.approx((3 + 5) / (4 + 6))
    assert found["samples"] == pytest.approx(5 / 6)
    assert script.Points.of([]).score.size == 0


@pytest.mark.full
@pytest.mark.parametrize("task", ["deduction", "countdown4"])
def test_a_table_of_small_runs(script: ModuleType, task: str, place: Path, tiny: Path) -> None:
    """Ten labellers, ten reward models, one document; a second start reads what stands."""
    path = ROOT / "recipes" / f"labels_{task}.yaml"
    words = ["task={use: countdown, train: 12, dev: 2, test: 6, max_tokens: 60}"]
    words = words if task == "deduction" else ["task.train=12", "task.dev=2", "task.test=6", *THREE]
    for name in load(path).models:
        words += [f"models.{name}.base={tiny}", f"models.{name}.lora={{r: 4}}"]
    for stage in load(path).stages:
        keys: list[str] = []
        if stage.room == "train":
            keys = ["steps=1", "batch_size=8", "on_empty=continue"]
        elif stage.room == "generate":
            keys = ["temperature=1.5", *(["problems=8"] if stage.settings.problems else [])]
            keys += ["iterations=2"] if stage.method == "mcts_star" else []
        elif stage.method == "omega":
            keys = ["n=3", "filter=0", "temperature=1.5"]
        elif stage.method == "shepherd":
            keys = ["n=3", "temperature=1.5"]
        elif stage.room == "label" and stage.settings.draws_by:
            keys = ["n=4", "temperature=1.5"]
        elif stage.room == "evaluate" and not stage.sources:
            keys = ["samples=2"]
        elif stage.room == "select":
            keys = ["on_empty=continue"]
        words += [f"{stage.section}.{stage.name}.{key}" for key in keys]
    asked = ["--tasks", task, "--seeds", "0", "--set", *words, "--to", "labels.md"]
    script.main(asked)
    text = Path("labels.md").read_text()
    for says in script.LABELLERS.values():
        assert text.count(f"| {says} |") == 3
    status = run_status(f"labels_{task}-s0", Workspace(Path("data"), Path("checkpoints")))
    assert status["final"]["metrics"]["truth_oracle/accuracy"] == 1
    assert status["final"]["metrics"]["truth_outcome/prefixes"] > 0
    assert f"## {script.TASKS[task]}" in text
    Path("labels.md").write_text(text.rstrip() + "\n\nkept\n")
    script.main([*asked, "--ready"])
    assert Path("labels.md").read_text() == text.rstrip() + "\n\nkept\n"


def test_what_models_start_from_is_made_first(
    script: ModuleType, place: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run by its recipe's name, once for all seeds; where only ready runs are wanted nothing is made."""
    small = "task: {use: countdown, train: 4, dev: 2, test: 2, max_tokens: 60}\nrounds: 0\n"
    sample = "before:\n  sample: {generate: sample, by: policy, n: 2}\n"
    (place / "recipes").mkdir()
    for name, base in (("lender", tiny), ("labels_small", "run://lender@0/policy")):
        recipe = f'name: {name}\n{small}models:\n  policy: {{base: "{base}"}}\n{sample}'
        (place / "recipes" / f"{name}.yaml").write_text(recipe)
    monkeypatch.setattr(script, "ROOT", place)
    space = Workspace(Path("data"), Path("checkpoints"))
    asked = script.Asked(space.data, space.checkpoints, (0, 1), (), ready=True)
    assert script.finished(asked, "small", 0) is None
    assert not space.data.exists()
    asked = script.Asked(space.data, space.checkpoints, (0, 1), (), ready=False)
    runs = [script.finished(asked, "small", seed) for seed in asked.seeds]
    assert [run.name for run in runs] == ["labels_small-s0", "labels_small-s1"]
    assert {path.parent.name for path in space.data.glob("*/recipe.yaml")} == {
        "lender",
        *(run.name for run in runs),
    }
    assert run_status("lender", space)["complete"]
