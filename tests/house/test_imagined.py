"""Imagined problems in a real run: held against every split, named by the task, worked on by the stages that read
them; and what saw gold says so. A stranger's generator proposes what the test tells it to."""

from __future__ import annotations

import dataclasses
import importlib
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tiny_world import SETTINGS

from pipeline.errors import RecipeError
from pipeline.loop import run_loop
from pipeline.processes.group import Processes
from pipeline.recipe import methods
from pipeline.recipe.measures import declared, panels_of
from pipeline.recipe.read import load
from pipeline.report.console import Console
from pipeline.rows import Dropped, Label, Problem, Trace
from pipeline.run.record import read
from pipeline.run.session import session
from pipeline.store.folder import StageFolder
from pipeline.store.run_folder import tree_hash
from pipeline.store.workspace import Workspace
from pipeline.tasks import countdown, split_of
from pipeline.tasks.prepare import gather

PROPOSING = """
from pipeline.asks import Continue, start, to_trace
from pipeline.generate import GenerateSettings
from pipeline.rows import Problem

class Settings(GenerateSettings):
    makes = ("Trace", "Problem", "Dropped")
    questions: tuple[str, ...] = ()

def generate(question, settings, given):
    [written] = yield Continue(start(question), by=settings.by)
    found = [Problem(id=f"{question.id}/q{i}", question=q, answer="42") for i, q in enumerate(settings.questions)]
    return [to_trace(question, written, 0), *found]
"""


@pytest.fixture(autouse=True)
def package(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installed package with one method."""
    site = tmp_path_factory.mktemp("site")
    (site / "stranger_proposing.py").write_text(PROPOSING)
    info = site / "stranger-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: stranger\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[ratchet.generate]\nproposing = stranger_proposing\n")
    monkeypatch.syspath_prepend(str(site))
    importlib.invalidate_caches()
    yield
    methods.method.cache_clear()
    methods.module_of.cache_clear()
    sys.modules.pop("stranger_proposing", None)


def run(path: Path) -> Path:
    workspace = Workspace(Path("data"), Path("checkpoints"))
    with session(load(path), Console(quiet=True, main=False), Processes(), workspace) as working:
        run_loop(working)
    return Path("data") / "tiny"


def unknown(splits: set[str], known: set[str]) -> dict[str, str]:
    """A question of the tiny world's rules for each split that the hash may give, none of them prepared."""
    found: dict[str, str] = {}
    for target in range(10, 100):
        question = f"numbers 2, 5, 9; target {target}"
        if question not in known:
            found.setdefault(split_of(question), question)
    assert splits <= set(found)
    return found


def test_imagined_problems_are_held_against_the_splits_and_worked_on(
    write_recipe: Callable[..., Path], tiny: Path
) -> None:
    prepared = {p.question: p for p in gather([countdown.Task(countdown.Settings(**SETTINGS))]).problems}
    by_split = {
        split: next(q for q, p in prepared.items() if p.split == split) for split in ("train", "dev", "test")
    }
    new = unknown({"train", "test"}, set(prepared))
    asked = [*by_split.values(), new["train"], new["test"], "numbers 2, 5; target 40", "nonsense"]
    stages = {
        "imagine": {"generate": "proposing", "questions": asked, "chunk": 4, "problems": 8},
        "solve": {"generate": "sample", "from": "imagine", "n": 3},
        "votes": {"label": "plurality", "from": "solve"},
        "check": {"label": "outcome", "from": "solve"},
        "tops": {"select": "top_value", "from": "votes", "score": "label", "threshold": None, "min_characters": 0,
                 "on_empty": "continue"},
    }  # fmt: skip
    models = {"policy": {"base": str(tiny), "lora": {"r": 4}}}
    path = write_recipe(rounds=1, problems_per_round=8, models=models, stages=stages, **{"finally": {}})
    folder = run(path) / "round-001"
    dropped = list(StageFolder(folder / "imagine").read(Dropped))
    reasons = {row.reason for row in dropped}
    assert reasons == {"stands_in_train", "stands_in_dev", "stands_in_test", "hash_says_test", "no_question"}
    assert len(dropped) == 8 * 6
    assert len({row.what for row in dropped}) == len(dropped)
    problems = list(StageFolder(folder / "imagine").read(Problem))
    assert {(p.question, p.answer, p.split) for p in problems} == {(new["train"], None, "train")}
    [name] = {p.id for p in problems}  # proposed in both chunks, worked on once
    solved = list(StageFolder(folder / "solve").read(Trace))
    assert [trace.problem_id for trace in solved] == [name] * 3
    assert all(trace.prompt == f"{new['train']}\n" for trace in solved)
    labels = list(StageFolder(folder / "votes").read(Label)) + list(
        StageFolder(folder / "votes").read(Dropped)
    )
    assert len(labels) == 3
    assert {row.reason for row in StageFolder(folder / "check").read(Dropped)} == {"no_gold"}
    before = tree_hash(folder)
    for stage in ("imagine", "solve"):
        for sidecar in (folder / stage).glob("*.json"):
            if sidecar.name != "plan.json":
                sidecar.unlink()
    run(path)
    assert tree_hash(folder) == before


def test_where_nothing_was_imagined_a_sentence_says_so(write_recipe: Callable[..., Path], tiny: Path) -> None:
    stages = {
        "imagine": {"generate": "proposing", "questions": ["nonsense"], "problems": 4},
        "solve": {"generate": "sample", "from": "imagine"},
    }
    path = write_recipe(rounds=1, models={"policy": {"base": str(tiny)}}, stages=stages, **{"finally": {}})
    with pytest.raises(RecipeError, match=r"stages\.solve: its input imagined no problem that may stand"):
        run(path)


def test_what_saw_gold_says_so_in_every_metric(write_recipe: Callable[..., Path], tiny: Path) -> None:
    small = {"rollouts": 1, "dummy": "", "retries": 0}
    oracle = {
        "evaluate": "accuracy",
        "of": "policy",
        "split": "dev",
        "problems": 4,
        "search": {"generate": "mctsr_oracle", **small},
    }
    last = {
        "peeked": {"generate": "mctsr_oracle", "split": "dev", "problems": 4, **small},
        "checked": {"label": "outcome", "from": "peeked"},
        "final": {
            "evaluate": "accuracy",
            "of": "policy",
            "split": "dev",
            "from": "checked",
            "votes": ["majority"],
        },
    }
    last |= {"blind": oracle | {"search": {"generate": "mctsr", **small}}, "oracle": oracle}
    models = {"policy": {"base": str(tiny)}}
    path = write_recipe(rounds=0, models=models, stages={}, **{"finally": last})
    recipe = load(path)
    assert [stage.name for stage in recipe.stages if stage.saw_gold] == ["final", "oracle"]
    for name in ("oracle", "final"):
        assert all(one.name.startswith("gold/") for one in declared(recipe.stage(name)))
        assert all("sees gold" in one.says for one in declared(recipe.stage(name)))
        assert all(
            key.startswith("gold/") for panel in panels_of(recipe.stage(name)) for key in panel.metrics
        )
    folder = run(path)
    metrics = {k: v for row in read(folder / "metrics.jsonl") for k, v in row["metrics"].items()}
    assert "blind/accuracy/search" in metrics
    for name in ("oracle", "final"):
        measured = {
            key.partition("/")[2] for key in metrics if key.startswith(f"{name}/") and "accuracy" in key
        }
        assert measured
        assert all(key.startswith("gold/") for key in measured)
    right = [t for t in StageFolder(folder / "final-000" / "peeked").read(Trace) if t.chosen]
    assert right
    assert not any(trace.hinted or "hint" in trace.prompt for trace in right)


SEARCHES = {
    "mctsr": {"rollouts": 1, "dummy": "", "retries": 0, "scale": "five"},
    "sr_mcts": {"rollouts": 1},
    "imagine": {"n": 2, "reward": "r_zero", "votes": 2},
    "reflect": {"n": 2, "keep_untidy": True},
    "world_model": {"simulations": 2, "n": 2},
}


def test_poisoned_gold_makes_no_difference_but_to_what_says_that_it_sees_it(
    write_recipe: Callable[..., Path], tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peeking = {"mctsr_oracle": SEARCHES["mctsr"], "true_world": SEARCHES["world_model"]}
    stages = {
        name: {"generate": name, "problems": 3, **settings} for name, settings in (SEARCHES | peeking).items()
    }
    path = write_recipe(rounds=1, models={"policy": {"base": str(tiny)}}, stages=stages, **{"finally": {}})

    def written() -> dict[str, list[tuple[str, list[int]]]]:
        folder = run(path) / "round-001"
        traces = {name: list(StageFolder(folder / name).read(Trace)) for name in stages}
        return {name: [(t.id, t.token_ids, t.chosen, t.score) for t in rows] for name, rows in traces.items()}

    honest = written()
    shutil.rmtree("data")
    plain = countdown.Task.problem

    def poisoned(self: countdown.Task, numbers: tuple[int, ...], target: int) -> Problem:
        found = plain(self, numbers, target)
        return dataclasses.replace(found, answer="1 + 1 = 2", solution="1 + 1 = 2", meta='{"ways": 9}')

    monkeypatch.setattr(countdown.Task, "problem", poisoned)
    monkeypatch.setattr(countdown.Task, "correct", lambda self, answer, problem: answer is None)
    again = written()
    for name in SEARCHES:
        assert honest[name], name
        assert again[name] == honest[name], name
    assert again["mctsr_oracle"] != honest["mctsr_oracle"]


def test_a_seed_that_was_never_taught_to_propose_is_told(
    write_recipe: Callable[..., Path], ratchet: Callable
) -> None:
    stages = {"imagine": {"generate": "imagine"}}
    for base, code in (("seed://countdown", 2), ("seed://countdown?talk=1", 0)):
        path = write_recipe(rounds=1, models={"policy": {"base": base}}, stages=stages, **{"finally": {}})
        found, said = ratchet("check", path)
        assert found == code, said
        assert ("was never taught" in said) == bool(code)
