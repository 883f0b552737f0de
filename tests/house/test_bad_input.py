"""Bad input through the command line: one clear sentence, the right exit code, nothing half-written, and outcome.json
says so. (Recipes with wrong keys: test_recipe.py. Models that are not there, nothing kept: test_loop.py.)"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import real_world as world
import yaml

from pipeline.rows import Dropped, Example, Problem
from pipeline.run.status import run_status
from pipeline.store.folder import StageFolder
from pipeline.store.run_folder import verify_run
from pipeline.store.workspace import Workspace

ROOT = Path(__file__).parents[2]
DATA, CHECKPOINTS = Path("data"), Path("checkpoints")
GOOD = [
    {"id": f"q{n}", "problem": f"What is {n} plus {n + 3}?", "solution": str(2 * n + 3)} for n in range(1, 41)
]
Command = Callable[..., tuple[int, str]]


def recipe(place: Path, base: Path | str = "./never-reached", **more: Any) -> Path:
    """A recipe over `rows.jsonl`, one round."""
    data = {
        "name": "bad",
        "task": {
            "use": "jsonl", "path": "rows.jsonl", "id": "id", "question": "problem", "answer": "solution",
            "extract": "hashes", "max_tokens": 24,
        },
        "models": {"policy": {"base": str(base), "lora": {"r": 4}}},
        "rounds": 1,
        "wandb": {"mode": "disabled"},
        "stages": {
            "sample": {"generate": "sample", "by": "policy", "n": 2, "temperature": 0.5},
            "check": {"label": "outcome", "from": "sample"},
            "rows": {"select": "correct", "from": "check"},
            "learn": {"train": "sft", "model": "policy", "from": "rows", "steps": 3, "batch_size": 4},
            "measure": {"evaluate": "accuracy", "of": "policy", "split": "dev"},
        },
        **more,
    }  # fmt: skip
    path = place / "bad.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return path


def refused(name: str, code: int, said: str, before: str | None = None) -> str:
    """Holds the disk against the promise after a run ended with `code`; returns the sentence.

    before: the stage that failed, which has no manifest."""
    assert "Traceback" not in said
    outcome = json.loads((DATA / name / "outcome.json").read_text())
    assert (outcome["ok"], outcome["exit_code"]) == (False, code)
    assert outcome["message"] in said
    assert outcome["message"].count("\n") < 6
    assert not [path for folder in (DATA, CHECKPOINTS) for path in folder.rglob(".tmp-*")]
    assert not list(DATA.glob(f"{name}/*/{before or '*'}/manifest.json"))
    assert not list(CHECKPOINTS.glob(f"{name}/round-*/*/manifest.json"))
    assert verify_run(DATA / name, CHECKPOINTS / name) == []
    return outcome["message"]


def untouched(name: str, code: int, wanted: int, said: str) -> str:
    """Holds the disk against the promise that a first mistake leaves nothing; returns what was said."""
    assert (code, "Traceback" in said) == (wanted, False), said
    assert not (DATA / name).exists()
    assert not (CHECKPOINTS / name).exists()
    assert not [path for folder in (DATA, CHECKPOINTS) for path in folder.rglob(".tmp-*")]
    return said


# --- data


def lines(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


BAD_FILES = {
    "malformed": (lines(GOOD) + b'{"id": "q99", "problem": \n', "rows.jsonl:41: not JSON"),
    "a list": (lines(GOOD) + b"[1, 2]\n", "rows.jsonl:41: not a JSON object but a list"),
    "empty": (b"", "the source is empty"),
    "blank": (b"\n \n", "the source is empty"),
    "missing field": (lines(GOOD) + b'{"id": "q99", "problem": "Why?"}\n', "rows.jsonl:41: no field 'solution'"),
    "wrong kind": (lines(GOOD) + b'{"id": "q99", "problem": 3, "solution": "1"}\n', "'problem' is a number, not text"),
    "duplicate id": (lines([*GOOD, {**GOOD[0], "problem": "Another?"}]), "id 'q1' stands also at"),
    "not UTF-8": (lines(GOOD) + b'{"id": "q99", "problem": "caf\xe9", "solution": "1"}\n', "rows.jsonl:41: not UTF-8"),
    "NUL": (lines(GOOD) + b'{"id": "q99", "problem": "a\0b", "solution": "1"}\n', "holds a NUL"),
    "NaN": (lines(GOOD) + b'{"id": "q99", "problem": "b", "solution": NaN}\n', "NaN is no JSON number"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_data_file_that_cannot_be_used(kind: str, place: Path, tiny: Path, ratchet: Command) -> None:
    content, words = BAD_FILES[kind]
    (place / "rows.jsonl").write_bytes(content)
    code, said = ratchet("run", recipe(place, tiny))
    assert words in untouched("bad", code, 3, said)


def test_a_data_file_that_is_not_there(place: Path, tiny: Path, ratchet: Command) -> None:
    code, said = ratchet("run", recipe(place, tiny))
    assert "rows.jsonl: no such file or folder" in untouched("bad", code, 3, said)


def test_a_large_data_file_is_refused_when_it_is_read(place: Path, tiny: Path, ratchet: Command) -> None:
    """Of a file above the size that a look reads whole, the mistakes are met later: nothing is left then either."""
    many = [
        {"id": f"m{n}", "problem": f"What is {n} and 1?" + " " * 2000, "solution": str(n)}
        for n in range(1500)
    ]
    (place / "rows.jsonl").write_bytes(lines(many) + lines([many[3] | {"problem": "Another?"}]))
    code, said = ratchet("run", recipe(place, tiny))
    assert "id 'm3' stands also at" in untouched("bad", code, 3, said)


def test_files_and_models_that_are_not_there_are_said_together(place: Path, ratchet: Command) -> None:
    code, said = ratchet("run", recipe(place))
    untouched("bad", code, 2, said)
    assert "rows.jsonl: no such file or folder" in said
    assert "models.policy.base: ./never-reached: no such folder" in said


def test_a_mended_file_goes_on_under_the_same_name(place: Path, tiny: Path, ratchet: Command) -> None:
    (place / "rows.jsonl").write_bytes(b"{\n")
    code, said = ratchet("run", recipe(place, tiny))
    untouched("bad", code, 3, said)
    (place / "rows.jsonl").write_bytes(lines(GOOD))
    code, said = ratchet("run", recipe(place, tiny), "rounds=0")
    assert code == 0, said
    assert {p.id for p in StageFolder(DATA / "bad/prepare").read(Problem)} == {row["id"] for row in GOOD}


def test_a_few_bad_rows_are_set_aside_and_counted(place: Path, tiny: Path, ratchet: Command) -> None:
    many = [{"id": f"m{n}", "problem": f"What is {n} and 1?", "solution": str(n + 1)} for n in range(250)]
    (place / "rows.jsonl").write_bytes(lines(many) + b"not json\n" + lines([{"id": "x", "problem": ""}]))
    code, said = ratchet("run", recipe(place, tiny), "rounds=0")
    assert code == 0, said
    assert "2 input rows rejected: data/bad/rejected.jsonl says which and why" in said
    found = [json.loads(line) for line in (DATA / "bad/rejected.jsonl").read_text().splitlines()]
    assert [(row["line"], row["reason"].split(":")[0]) for row in found] == [
        (251, "not JSON"),
        (252, "'problem' is empty"),
    ]
    assert len(list(StageFolder(DATA / "bad/prepare").read(Problem))) == 250


# --- models


def test_a_prompt_longer_than_the_context_is_dropped_and_counted(place: Path, ratchet: Command) -> None:
    (place / "rows.jsonl").write_bytes(lines(GOOD))
    from pipeline.tasks import jsonl

    settings = yaml.safe_load(recipe(place).read_text())["task"]
    task = jsonl.Task(jsonl.Settings(**settings))
    pairs = world.lessons(task, lambda number, problem, hinted: f" It is\n#### {problem.answer}", hints=False)
    base = world.by_heart(place / "policy", pairs, steps=60)
    long = [{**row, "problem": f"{row['problem']} {'Think hard. ' * 120}{row['id']}"} for row in GOOD[:6]]
    (place / "rows.jsonl").write_bytes(lines([*long, *GOOD[6:]]))
    code, said = ratchet("run", recipe(place, base))
    assert (code, "Traceback" in said) == (0, False)
    too_long = {row["id"] for row in long}
    problems = {p.id: p for p in StageFolder(DATA / "bad/prepare").read(Problem)}
    dropped = list(StageFolder(DATA / "bad/round-001/sample").read(Dropped))
    assert {row.reason for row in dropped} == {"prompt_too_long"}
    assert {row.what for row in dropped} == {i for i in too_long if problems[i].split == "train"}
    status = run_status("bad", Workspace(DATA, CHECKPOINTS))
    assert status["complete"]
    assert status["rounds"][1]["metrics"]["sample/dropped/prompt_too_long"] == len(dropped)
    assert list(StageFolder(DATA / "bad/round-001/rows").read(Example))
    assert verify_run(DATA / "bad", CHECKPOINTS / "bad") == []


def test_where_no_prompt_fits_nothing_is_measured_and_that_is_a_sentence(
    place: Path, ratchet: Command
) -> None:
    base = world.by_heart(place / "policy", [("How much is 1 and 1?", " It is\n#### 2")], steps=2)
    rows = [{**row, "part": "dev" if number >= 36 else "train"} for number, row in enumerate(GOOD)]
    rows[36:] = [{**row, "problem": "Think hard. " * 120 + row["problem"]} for row in rows[36:]]
    (place / "rows.jsonl").write_bytes(lines(rows))
    path = recipe(place, base)
    path.write_text(path.read_text().replace("question: problem", "question: problem\n  split: part"))
    code, said = ratchet("run", path)
    assert (code, "Traceback" in said) == (5, False), said
    assert "nothing was measured: no problem was left that policy could be measured on" in said
    assert "left out were 4 as prompt_too_long" in said
    assert "take a model with a longer context" in said


def test_an_answer_that_came_to_no_trace_is_wrong(place: Path, ratchet: Command, tiny: Path) -> None:
    """A search may drop all that a model wrote on a problem; the problem still counts."""
    asked = {"evaluate": "accuracy", "split": "dev", "search": {"generate": "reflect"}}
    task = {"use": "countdown", "largest": 200, "train": 4, "dev": 5, "test": 4, "max_tokens": 48}
    changes = {"task": task, "rounds": 0, "stages": {}, "finally": {"told": asked}}
    code, said = ratchet("run", recipe(place, tiny, **changes))
    assert (code, "Traceback" in said) == (0, False), said
    dropped = list(StageFolder(DATA / "bad/final-000/told").read(Dropped))
    assert "no_trace" in {row.reason for row in dropped}
    final = run_status("bad", Workspace(DATA, CHECKPOINTS))["final"]["metrics"]
    assert (final["told/problems"], final["told/accuracy/search"]) == (5, 0)


def unsafe_folder(place: Path, tiny: Path, kind: str) -> Path:
    folder = place / "model"
    shutil.copytree(tiny, folder)
    if kind == "pickle":
        (folder / "model.safetensors").unlink()
        (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    elif kind == "code":
        (folder / "modeling_own.py").write_text("raise SystemExit('ran')\n")
    else:
        config = json.loads((folder / "config.json").read_text())
        config["auto_map"] = {"AutoModelForCausalLM": "modeling_own.Model"}
        (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("kind", "words"),
    [("pickle", "a pickle can run code"), ("auto_map", "auto_map"), ("code", "carries code")],
)
def test_a_model_folder_that_could_run_code(
    kind: str, words: str, write_recipe: Callable[..., Path], place: Path, tiny: Path, ratchet: Command
) -> None:
    path = write_recipe(wandb={"mode": "disabled"})
    code, said = ratchet("run", path, f"models.policy.base={unsafe_folder(place, tiny, kind)}")
    assert words in untouched("tiny", code, 9, said)


SEARCH = {
    "search": {"generate": "mcts_star", "by": "policy", "value": "prm", "iterations": 2},
    "check": {"label": "outcome", "from": "search"},
    "rows": {"select": "correct", "from": "check"},
    "learn": {"train": "sft", "model": "policy", "from": "rows", "steps": 2},
    "measure": {"evaluate": "accuracy", "of": "policy"},
}


def test_a_search_with_a_reward_model_that_the_recipe_does_not_have(
    write_recipe: Callable[..., Path], ratchet: Command
) -> None:
    path = write_recipe(stages=SEARCH)
    for command in ("check", "run"):
        code, said = ratchet(command, path)
        assert code == 2
        assert "stages.search.value: no model 'prm'" in said
    assert not DATA.exists()


def test_a_search_with_a_reward_model_that_nobody_trained(
    write_recipe: Callable[..., Path], tiny: Path, ratchet: Command
) -> None:
    models = {"policy": {"base": str(tiny)}, "prm": {"base": str(tiny), "head": "value"}}
    path = write_recipe(stages=SEARCH, models=models, wandb={"mode": "disabled"})
    for command in ("check", "run"):
        code, said = ratchet(command, path)
        assert code == 2
        assert "stages.search.value: prm has no trained head by then" in said
    assert not DATA.exists()
    for base in ("seed://countdown", str(tiny)):
        code, _ = ratchet(
            "check", write_recipe(stages=SEARCH, models=models | {"prm": {"base": base, "head": "token"}})
        )
        assert code == 2


def test_a_reward_model_is_trained_when_it_is_first_asked(
    tiny: Path, ratchet: Command, write_recipe: Any
) -> None:
    """In `before`, from the second round on, or as an off-the-shelf folder: each of these is fine, the others are not."""
    models = {"policy": {"base": str(tiny)}, "prm": {"base": str(tiny), "head": "value"}}
    steps = {"select": "step_values", "from": "check"}
    first = {"train": "prm", "model": "prm", "from": "steps", "steps": 1}
    plain = {"probe": {"generate": "sample"}, "credit": {"label": "outcome", "from": "probe"},
             "seeds": steps | {"from": "credit"}, "first": first | {"from": "seeds"}}  # fmt: skip
    late = SEARCH | {"search": SEARCH["search"] | {"rounds": [2, None]}}
    with_steps = {"probe": {"generate": "sample"}, "credit": {"label": "outcome", "from": "probe"},
                  "steps": steps | {"from": "credit"}, "teach": first, **late}  # fmt: skip
    ready = tiny.parent / "ready"
    shutil.copytree(tiny, ready, dirs_exist_ok=True)
    config = json.loads((tiny / "config.json").read_text())
    (ready / "config.json").write_text(
        json.dumps(config | {"architectures": ["LlamaForTokenClassification"]})
    )
    bought = models | {"prm": {"base": str(ready), "head": "value"}}
    cases = [
        (0, {"stages": SEARCH, "before": plain, "models": models}),
        (0, {"stages": with_steps, "models": models}),
        (0, {"stages": SEARCH, "models": bought}),
        (2, {"stages": {**with_steps, "search": SEARCH["search"]}, "models": models}),
        (2, {"stages": SEARCH, "models": models, "before": {"early": SEARCH["search"], **plain}}),
    ]
    for wanted, more in cases:
        code, said = ratchet("check", write_recipe(**more))
        assert code == wanted, said
        assert ("has no trained head by then" in said) == (wanted == 2)


# --- a loss that is not finite, a full disk


def test_a_loss_that_is_not_finite_stops_before_the_step(
    write_recipe: Callable[..., Path], ratchet: Command
) -> None:
    """A learning rate so large that the second step overflows."""
    path = write_recipe(wandb={"mode": "disabled"})
    code, said = ratchet("run", path, "stages.learn.learning_rate=1e30")
    assert code == 6
    sentence = refused("tiny", 6, said, before="learn")
    assert "not finite" in sentence
    assert "nothing was saved" in sentence
    [dumped] = (DATA / "tiny/scratch").rglob("nan-rows.json")
    found = json.loads(dumped.read_text())
    traces = {row.trace_id for row in StageFolder(DATA / "tiny/round-001/rows").read(Example)}
    assert found["step"] == 2
    assert found["rows"]
    assert set(found["rows"]) <= traces
    assert not list(CHECKPOINTS.rglob("adapter_model.safetensors"))
    again, said = ratchet("run", "tiny")  # the same command ends the same way
    assert (again, "not finite" in said) == (6, True)


def test_a_run_that_will_not_fit_is_refused_before_it_starts(
    write_recipe: Callable[..., Path], ratchet: Command
) -> None:
    path = write_recipe(wandb={"mode": "disabled"})
    code, said = ratchet("run", path, "stages.sample.n=1000000000000")
    sentence = untouched("tiny", code, 7, said)
    assert "run tiny needs about" in sentence
    assert "are free" in sentence


def test_a_disk_that_takes_nothing_is_said(write_recipe: Callable[..., Path], place: Path) -> None:
    """A limit of zero bytes a file stands for the full disk: the very first write fails."""
    path = write_recipe(wandb={"mode": "disabled"})
    code = (
        "import resource, sys\n"
        "from pipeline.__main__ import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
        f"sys.argv = ['ratchet', 'run', {str(path)!r}]\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-B", "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=place,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 7, done.stderr
    assert done.stderr.startswith("StorageError: ")
    assert "Traceback" not in done.stderr
    assert not list(place.glob("data/tiny/round-*"))


@pytest.mark.full
def test_the_disk_fills_while_it_works(write_recipe: Callable[..., Path], place: Path) -> None:
    """A limit on a file's size stands for a disk that fills: rows pass, weights do not. With room again it goes on."""
    path = write_recipe(wandb={"mode": "disabled"}, rounds=1)
    code = (
        "import resource, sys\n"
        "from pipeline.__main__ import main\n"
        "hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)), hard))\n"
        "main()\n"
    )
    words = [sys.executable, "-B", "-c", code]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ways = {"env": environment, "cwd": place, "capture_output": True, "text": True}
    done = subprocess.run([*words, "20000", "run", str(path)], **ways)
    assert done.returncode == 7, done.stderr
    assert "Traceback" not in done.stderr
    outcome = json.loads((place / "data/tiny/outcome.json").read_text())
    assert (outcome["exit_code"], outcome["error"]) == (7, "StorageError")
    assert not list(place.glob("checkpoints/tiny/round-*/*/manifest.json"))
    done = subprocess.run([*words, str(10**9), "run", "tiny"], **ways)
    assert done.returncode == 0, done.stderr
    assert verify_run(place / "data/tiny", place / "checkpoints/tiny") == []


# --- a gate


def test_a_gate_on_a_metric_that_nothing_measures_is_said_before_anything_runs(
    write_recipe: Callable[..., Path], ratchet: Command
) -> None:
    path = write_recipe()
    for metric in ("measure/acuracy/greedy", "measure/pass@64", "measure/kl"):
        gate = f"models.policy.gate={{metric: {metric}, margin: 0.1}}"
        code, said = ratchet("run", path, gate)
        assert code == 2
        assert f"measure measures no '{metric.partition('/')[2]}'" in said
    assert not DATA.exists()


def test_a_gate_may_bound_a_gain_over_another_version_where_one_is_measured(
    write_recipe: Callable[..., Path], ratchet: Command
) -> None:
    path, both = write_recipe(), "stages.measure.of=[policy, policy@0]"
    gate = "models.policy.gate={{metric: measure/gain/greedy, {}}}".format
    assert ratchet("check", path, both, gate("at_least: -0.1"))[0] == 0
    assert (
        "is a change itself: it takes at_most or at_least"
        in ratchet("check", path, both, gate("margin: 0.1"))[1]
    )
    assert "measure measures no 'gain/greedy'" in ratchet("check", path, gate("at_least: -0.1"))[1]
