"""One contract a room: every method keeps it, and each way of breaking it is one sentence when the method loads."""

from __future__ import annotations

import ast
import importlib
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from pipeline.errors import RecipeError
from pipeline.models.heads import HEADS
from pipeline.recipe import contract, methods
from pipeline.recipe.read import build
from pipeline.settings import Cost, StageSettings, actors

ROOT = Path(__file__).parents[2]
PIPELINE = ROOT / "pipeline"
ALL = [(room, name) for room in methods.BASES for name in methods.methods(room)]


def test_there_are_methods_in_every_room() -> None:
    assert {room for room, _ in ALL} == set(methods.BASES)
    assert len(ALL) >= 28


@pytest.mark.parametrize(("room", "name"), ALL, ids=[f"{room}-{name}" for room, name in ALL])
def test_every_method_keeps_its_rooms_contract(room: str, name: str) -> None:
    module = methods.method(room, name)
    assert list(contract.breaches(module, methods.contract_of(room, module), name)) == []


GOOD = {
    "generate": "def generate(question, settings, given): yield",
    "label": "def label(problem, group, settings, task): yield",
    "select": "def select(group, settings, task, encode): return []",
    "train": "def train(job, settings): pass",
    "vote": "def vote(candidates, settings): pass",
    "evaluate": "def answer(question, settings, model, search, given): yield\n"
    "def outcomes(problem, traces, labels, settings, model, task): pass\n"
    "def measure(found, settings): return {}\n"
    "def metrics(settings): return []",
    "tasks": "from pipeline.tasks import BaseTask\nclass Task(BaseTask):\n"
    "  def problems(self): yield\n  def extract(self, text): pass\n  def correct(self, answer, problem): pass",
}


def made(room: str, code: str, settings: str = "pass") -> list[str]:
    """What is said of a method with this code."""
    module = ModuleType("mine")
    base = methods.BASES[room]
    head = f"from pipeline.{room} import {base}\nclass Settings({base}):\n  {settings}\n"
    exec(compile(head + code, "mine.py", "exec"), module.__dict__)
    return list(contract.breaches(module, methods.contract_of(room, module), "mine.py"))


@pytest.mark.parametrize("room", GOOD)
def test_the_least_that_a_room_asks_for_is_enough(room: str) -> None:
    assert made(room, GOOD[room]) == []


@pytest.mark.parametrize(
    ("room", "code", "said"),
    [
        ("label", "", "has no function label(problem, group, settings, task)"),
        (
            "label",
            "def lable(problem, group, settings, task): yield",
            "a function lable; is label(problem, group",
        ),
        (
            "label",
            "def label(problem, group, settings): yield",
            "has no parameter task; it is called as label(",
        ),
        (
            "label",
            "def label(problem, group, task, settings): yield",
            "stand in another order; it is called as",
        ),
        (
            "label",
            "def label(problem, group, settings, task, model): yield",
            "wants model, which nobody gives",
        ),
        ("label", "label = 3", "label is no function"),
        ("generate", "def generate(question, settings): yield", "has no parameter given"),
        ("select", "def select(group, settings, task, encoder): return []", "has no parameter encode"),
        (
            "select",
            GOOD["select"] + "\ndef reduce(surveys, settings): pass",
            "has no function survey(group, settings)",
        ),
        ("train", "def train(job): pass", "has no parameter settings; it is called as train(job, settings)"),
        (
            "train",
            GOOD["train"] + "\ndef target_off(label, settings): pass",
            "is target_of(label, settings) meant",
        ),
        ("vote", "def vote(candidates): pass", "has no parameter settings"),
        ("evaluate", "def answer(question, settings, model): yield", "has no parameter search, given"),
        (
            "evaluate",
            GOOD["evaluate"].replace("metrics", "metric_names"),
            "has no function metrics(settings)",
        ),
        ("tasks", "", "has no class Task(BaseTask)"),
        ("tasks", "class Task: pass", "Task is no BaseTask: derive it from pipeline.tasks.BaseTask"),
        (
            "tasks",
            "from pipeline.tasks import BaseTask\nclass Task(BaseTask): pass",
            "has no method extract(text)",
        ),
        (
            "tasks",
            GOOD["tasks"].replace("correct(self, answer, problem)", "correct(self, answer)"),
            "Task: correct(answer): has no parameter problem",
        ),
    ],
)
def test_each_breach_is_a_sentence(room: str, code: str, said: str) -> None:
    found = made(room, code)
    assert any(said in line for line in found), found
    assert all(line.startswith("mine.py: ") for line in found)


def test_a_generator_that_sees_gold_is_given_it_by_name() -> None:
    gold = "sees_gold = True"
    assert "has no parameter problem, task" in made("generate", GOOD["generate"], gold)[0]
    assert made("generate", "def generate(question, settings, given, *, problem, task): yield", gold) == []
    assert made("generate", "def generate(question, settings, given, **more): yield", gold) == []
    assert made("generate", "def generate(question, _settings, _given): yield") == []


def test_settings_must_derive_from_the_rooms_own() -> None:
    module = ModuleType("mine")
    module.Settings, module.vote = StageSettings, lambda candidates, settings: None  # type: ignore[attr-defined]
    [said] = contract.breaches(module, methods.contract_of("vote", module), "mine.py")
    assert said == "mine.py: Settings is no VoteSettings: derive it from pipeline.vote.VoteSettings"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package that offers the label method `mine`; its code is the test's to write."""
    info = tmp_path / "stranger-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: stranger\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[ratchet.label]\nmine = stranger_mine\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for cached in (methods.method, methods.module_of):
        cached.cache_clear()
    yield tmp_path
    for cached in (methods.method, methods.module_of):
        cached.cache_clear()
    sys.modules.pop("stranger_mine", None)


RECIPE = {
    "name": "x",
    "task": {"use": "countdown", "train": 5, "dev": 5, "test": 5},
    "models": {"policy": {"base": "seed://countdown"}},
    "stages": {
        "sample": {"generate": "sample", "by": "policy"},
        "mine": {"label": "mine", "from": "sample"},
        "rows": {"select": "corect", "from": "mine"},
    },
}
HEAD = "from pipeline.label import LabelSettings\nclass Settings(LabelSettings):\n  pass\n"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (
            HEAD + "def label(problem, group, settings): yield",
            "stranger_mine.py: label(problem, group, settings): has no",
        ),
        (
            "import no_such_module_anywhere",
            "the entry point stranger_mine cannot be imported: ModuleNotFoundError",
        ),
        ("def f(:", "cannot be imported: SyntaxError"),
        ("x = 1", "stranger_mine.py: has no class Settings(LabelSettings)"),
    ],
)
def test_an_entry_point_is_held_against_the_contract(package: Path, code: str, said: str) -> None:
    importlib.invalidate_caches()
    (package / "stranger_mine.py").write_text(code)
    with pytest.raises(RecipeError) as found:
        build(RECIPE, "r.yaml")
    assert any(
        line.startswith("r.yaml: stages.mine: label: mine: ") and said in line
        for line in found.value.problems
    )
    assert any("did you mean correct?" in line for line in found.value.problems), "all problems at once"


def test_a_good_entry_point_is_a_method_like_any_other(package: Path) -> None:
    importlib.invalidate_caches()
    (package / "stranger_mine.py").write_text(HEAD + GOOD["label"])
    assert "mine" in methods.methods("label")
    assert methods.method("label", "mine").__name__ == "stranger_mine"


# --- models by what they are asked to do


def test_each_model_of_a_stage_says_what_it_is_asked_to_do() -> None:
    beam = methods.method("generate", "beam").Settings(plus="progress")
    assert [(one.key, one.name, one.does) for one in actors(beam)] == [
        ("by", "policy", "writes"),
        ("value", "prm", "scores"),
        ("plus", "progress", "scores"),
    ]
    quality = methods.method("evaluate", "prm_quality").Settings(of=["prm", "prm@0"])
    assert [(one.name, one.does, one.standing) for one in actors(quality)] == [
        ("prm", "scores", False),
        ("prm@0", "scores", False),
        ("policy", "writes", True),
    ]


@pytest.mark.parametrize(
    ("models", "stage", "said"),
    [
        (
            {},
            {"generate": "beam", "value": "policy"},
            "value: policy has no head, so it scores nothing; name a model",
        ),
        (
            {"prm": "value"},
            {"generate": "sample", "by": "prm"},
            "by: prm has head: value, which writes nothing",
        ),
        ({"prm": "value"}, {"generate": "beam"}, "value: prm has no trained head by then"),
        (
            {},
            {"evaluate": "accuracy", "samples": 4, "votes": ["majorty"]},
            "no vote 'majorty' (did you mean majority?)",
        ),
        (
            {},
            {"evaluate": "accuracy", "samples": 4, "votes": ["weighted"]},
            "votes by weighted need a reward model",
        ),
        (
            {},
            {"evaluate": "accuracy", "samples": 4, "votes": [{"use": "weighted", "agregate": "min"}]},
            "vote weighted: unknown key agregate (did you mean aggregate?)",
        ),
        (
            {},
            {"evaluate": "accuracy", "search": {"generate": "beam", "value": "policy"}},
            "search.value: policy has no",
        ),
    ],
)
def test_a_recipe_that_asks_the_wrong_thing_of_a_model_is_told(models: dict, stage: dict, said: str) -> None:
    policy = {"policy": {"base": "seed://countdown"}}
    heads = {name: {"base": "seed://countdown", "head": head} for name, head in models.items()}
    with pytest.raises(RecipeError) as found:
        build(RECIPE | {"models": policy | heads, "stages": {"one": stage}}, "r.yaml")
    assert any(said in line for line in found.value.problems), found.value.problems


def test_every_head_is_served() -> None:
    heads = [name for name in HEADS if name != "policy"]
    models = {name: {"base": "seed://countdown", "head": name} for name in heads}
    models["policy"] = {"base": "seed://countdown"}
    recipe = build(RECIPE | {"models": models, "stages": {"one": {"generate": "sample"}}}, "r.yaml")
    assert recipe.not_built == ()
    assert len(heads) == 6


# --- what a method says of itself, and nobody else


#: keys without a default
NEEDED = {
    "critic": {"prm": "prm"},
    "ensemble": {"by": ("prm",)},
    "evidence": {"store": "train"},
    "gae": {"critic": "prm"},
    "self_check": {"by": "policy"},
    "shaped": {"stage": 1},
    "shaped_reward": {"reference": "policy@0"},
    "step_reward": {"value": "prm"},
    "turns": {"search": {"generate": "two_turn"}},
}


@pytest.mark.parametrize(("room", "name"), [one for one in ALL if one[0] in methods.ROOMS])
def test_every_stage_method_says_its_cost(room: str, name: str) -> None:
    task = methods.method("tasks", "countdown").Settings(use="countdown")
    settings = methods.method(room, name).Settings(**NEEDED.get(name, {}))
    cost = settings.cost(task, 4.0)
    assert isinstance(cost, Cost)
    assert all(n >= 0 for n in (*cost.written.values(), *cost.read.values(), cost.traces))
    if room == "generate":
        assert cost.written.get("policy", 0) > 0 or settings.sees_gold  # what is given, nobody writes
        assert cost.traces > 0


def test_shared_code_reads_no_setting_by_name_and_names_no_method() -> None:
    """In what stands between the rooms and the report; `eval` and `solve` are commands of one method each."""
    names = {name for room, name in ALL if room != "tasks"} - {"sample", "best", "correct", "outcome"}
    seen = 0
    for folder in ("recipe", "run", "stages", "engine", "processes"):
        for path in (PIPELINE / folder).glob("*.py"):
            text = path.read_text()
            assert not re.search(
                r"getattr\((?:[\w.]*\.)?settings, \"", text.replace("getattr(settings, split)", "")
            ), path
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.Compare):
                    said = {
                        c.value
                        for c in ast.walk(node)
                        if isinstance(c, ast.Constant) and isinstance(c.value, str)
                    }
                    assert not said & names, f"{path}:{node.lineno} compares with {said & names}"
                    seen += bool(said)
    assert seen > 50
