"""Commands about guided search, on a small run of the shipped recipe: solve, compare, the paper's round-0 data, claims."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline.commands.budget import compare
from pipeline.commands.solve import solve
from pipeline.errors import RecipeError
from pipeline.loop import run_loop
from pipeline.processes.group import Processes
from pipeline.recipe.read import load
from pipeline.report.console import Console
from pipeline.rows import Label, StepExample, Trace
from pipeline.run.record import by_round, read
from pipeline.run.session import session
from pipeline.run.status import run_status
from pipeline.store.folder import StageFolder
from pipeline.store.workspace import Workspace

ROOT = Path(__file__).parents[2]
DATA, CHECKPOINTS = Path("data"), Path("checkpoints")
SMALL = [
    "rounds=1", "task.train=40", "task.dev=12", "task.test=12", "task.max_tokens=60", "wandb.mode=disabled",
    "before.probe.n=4", "stages.search.iterations=3", "stages.search.chunk=16", "stages.measure.samples=2",
    *(f"{stage}.{key}" for stage in ("before.first", "stages.learn", "stages.refine") for key in ("steps=4", "batch_size=8")),
    *(f"{stage}.{key}" for stage in ("stages.quality", "finally.judged")
      for key in ("min_auc=0", "min_sd=0", "max_length_correlation=1", "samples=2", "split=train", "problems=16")),
    "finally.final.samples=2", "finally.guided.search.iterations=3",
]  # fmt: skip


def small(tiny: Path, *more: str, name: str = "guided") -> str:
    """The shipped recipe made small, as a file of its own; returns its name."""
    bases = [f"models.{model}.base={tiny}" for model in ("policy", "prm")]
    recipe = load(ROOT / "recipes/rest_mcts_countdown.yaml", [*SMALL, *bases, *more], name)
    Path(f"{name}.yaml").write_text(yaml.safe_dump(recipe.resolved(), sort_keys=False))
    return f"{name}.yaml"


def run(path: str, until: str | None = None) -> None:
    with session(
        load(path), Console(file=io.StringIO()), Processes(), Workspace(DATA, CHECKPOINTS)
    ) as working:
        run_loop(working, until)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    """A project folder with one finished round."""
    place, before = tmp_path_factory.mktemp("guided"), Path.cwd()
    os.chdir(place)
    try:
        run(small(tiny))
    finally:
        os.chdir(before)
    return place


@pytest.fixture
def there(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(made)
    return made


def test_solve_answers_and_prints_the_tree(there: Path) -> None:
    problem = next(p for p in StageFolder(DATA / "guided/prepare").read("Problem") if p.split == "train")
    said = solve(problem.question, "guided", "mcts_star", ["iterations=3"], Workspace(DATA, CHECKPOINTS))
    tree, _, rest = said.partition("\n\n")
    first = [line for line in tree.splitlines() if "left" in line]  # every first operation says what is left
    assert first
    assert any(line.startswith(" ") for line in tree.splitlines())  # indented by depth
    assert "answer: " in rest
    assert "tokens: " in rest
    assert "by policy" in rest
    assert "by prm" in rest
    assert said == solve(
        problem.question, "guided", "mcts_star", ["iterations=3"], Workspace(DATA, CHECKPOINTS)
    )
    for search, more in (
        ("beam", ["n=4"]),
        ("best_of_n", ["n=3"]),
        ("alphazero", ["simulations=2"]),
        ("sample", []),
    ):
        assert "answer: " in solve(problem.question, "guided", search, more, Workspace(DATA, CHECKPOINTS))


@pytest.mark.parametrize(
    ("search", "overrides", "words"),
    [
        ("mcts_sta", [], "did you mean mcts_star"),
        ("mcts_star", ["iteration=3"], "did you mean iterations"),
        ("mcts_star", ["iterations=0"], "greater than or equal to 1"),
        ("mcts_star", ["value=critic"], "no model 'critic'"),
        ("mcts_star", ["iterations"], "an override is key.sub=value"),
    ],
)
def test_solve_says_what_it_cannot_do(there: Path, search: str, overrides: list[str], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        solve("numbers 3, 7, 12; target 24", "guided", search, overrides, Workspace(DATA, CHECKPOINTS))


def test_solve_needs_a_run_with_a_round(there: Path) -> None:
    with pytest.raises(RecipeError, match="no run 'guidet'.*did you mean guided"):
        solve("numbers 3, 7, 12; target 24", "guidet", "mcts_star", [], Workspace(DATA, CHECKPOINTS))


def test_round_0_data_as_in_the_paper(place: Path, tiny: Path) -> None:
    """Verified prefixes are worth k / K, and one step of the weak policy after each that leaves the route falls."""
    run(small(tiny, "before.credit={label: prefix_values, from: probe, by: policy}"), until="seeds")
    folder = DATA / "guided/round-000"
    probed = {trace.id: trace for trace in StageFolder(folder / "probe").read(Trace)}
    made = {trace.id: trace for trace in StageFolder(folder / "credit").read(Trace)}
    labels = {label.trace_id: label for label in StageFolder(folder / "credit").read(Label)}
    right = [label for label in labels.values() if label.correct]
    assert right
    for label in right:
        number = len(label.step_scores)
        assert label.step_scores == pytest.approx([(k + 1) / number for k in range(number)])
    assert made
    for trace in made.values():
        *before, value = labels[trace.id].step_scores
        parent = probed[trace.parent]
        k, number = len(before), len(parent.steps)
        assert labels[parent.id].correct
        assert trace.steps[:-1] == parent.steps[:k]
        assert before == [None] * k
        assert value == pytest.approx(max(0.0, k / number - (1 - k / number) / (number - k + 1)))
    trained = {row.trace_id: row for row in StageFolder(folder / "seeds").read(StepExample)}
    assert set(made) <= set(trained)
    assert {label.trace_id for label in right} & set(trained)
    assert not {i for i, label in labels.items() if i in probed and not label.correct} & set(trained)


@pytest.mark.full
def test_compare_gives_each_recipe_its_tokens_and_one_table(place: Path, tiny: Path) -> None:
    plain = load(ROOT / "recipes/rest_em_countdown.yaml", [
        *SMALL[:6], f"models.policy.base={tiny}", "stages.learn.steps=4", "stages.learn.batch_size=8",
        "stages.measure.samples=2", "stages.sample.chunk=8", "finally.final.samples=2",
    ], "plain")  # fmt: skip
    Path("plain.yaml").write_text(yaml.safe_dump(plain.resolved(), sort_keys=False))
    paths = [Path(small(tiny)), Path("plain.yaml")]
    table = compare(paths, 900, [], Console(file=io.StringIO()), Workspace(DATA, CHECKPOINTS))
    head, *lines = table.splitlines()
    assert head.split()[:3] == ["recipe", "round", "accuracy"]
    assert [(line.split()[0], line.split()[1]) for line in lines] == [
        (name, number) for name in ("guided", "plain") for number in ("0", "1", "test")
    ]
    for name in ("guided", "plain"):
        metrics = by_round(read(DATA / f"compare-{name}-s0-900" / "metrics.jsonl"))[1]
        stage = "search" if name == "guided" else "sample"
        assert metrics[f"{stage}/charged/policy"] > 900  # more was written than may be learned from
        assert metrics["learn/dropped/budget"] > 0
        assert metrics["learn/examples"] > 0
    assert table == compare(paths, 900, [], Console(file=io.StringIO()), Workspace(DATA, CHECKPOINTS))


@pytest.mark.full
def test_claims_about_search_are_measured_and_kept(place: Path, tiny: Path) -> None:
    for seed in (0, 1):
        run(small(tiny, f"seed={seed}", name=f"rest_mcts_countdown-s{seed}"))
    more = ["--seeds", "0", "1", "--problems", "6", "--samples", "8", "--more", "60", "--to", "search.json"]
    command = [sys.executable, "-B", str(ROOT / "scripts/claims_search.py"), *more, "--set", "stages.learn.steps=4",
               "stages.measure.samples=2", "finally.final.samples=2"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text = Path("search.json").read_text()
    for words in ("beats ReST-EM", "MCTS*", "beats best of N at equal tokens", "weighted by the PRM beats the majority",
                  "majority of 8 beats greedy", "beats the least", "beats the product", "beam", "rises with N"):  # fmt: skip
        assert words in text
    assert all(
        run_status(name.name, Workspace(DATA, CHECKPOINTS))["complete"] for name in DATA.glob("rest_em-*")
    )
    assert len(list(DATA.glob("rest_em-*"))) == 4
    assert [len(json.loads(text)[part]) > 3 for part in ("rows", "tables")] == [True, True]
    subprocess.run(command, check=True, capture_output=True)
    assert Path("search.json").read_text() == text  # the same figures from what was kept
