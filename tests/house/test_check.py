"""`check` tells every mistake at once, without torch; and what `run` refuses leaves nothing behind."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.commands.check import check
from pipeline.recipe import libraries

ROOT = Path(__file__).parents[2]
ROWS = [
    {"id": f"q{n}", "problem": f"What is {n} plus {n + 3}?", "solution": str(2 * n + 3)} for n in range(1, 61)
]
Write = Callable[..., Path]


def put(data: dict[str, Any], places: dict[str, Any]) -> dict[str, Any]:
    """Values at dotted places; None removes the key."""
    for place, value in places.items():
        *parents, last = place.split(".")
        spot = data
        for part in parents:
            spot = spot.setdefault(part, {})
        if value is None:
            spot.pop(last, None)
        else:
            spot[last] = value
    return data


@pytest.fixture
def write(place: Path, tiny: Path) -> Write:
    """A good recipe over rows.jsonl and the tiny model, with changes, in a file."""
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))

    def made(**places: Any) -> Path:
        data = {
            "name": "mine",
            "task": {
                "use": "jsonl", "path": "rows.jsonl", "id": "id", "question": "problem", "answer": "solution",
                "extract": "last_number", "max_tokens": 24,
            },
            "models": {"policy": {"base": str(tiny), "lora": {"r": 4}}},
            "rounds": 1,
            "wandb": {"mode": "disabled"},
            "stages": {
                "sample": {"generate": "sample", "by": "policy", "n": 2},
                "check": {"label": "outcome", "from": "sample"},
                "rows": {"select": "correct", "from": "check"},
                "learn": {"train": "sft", "model": "policy", "from": "rows", "steps": 3, "batch_size": 4},
                "measure": {"evaluate": "accuracy", "of": "policy", "split": "dev"},
            },
        }  # fmt: skip
        changes = {key.replace("__", "."): value for key, value in places.items()}
        path = place / "mine.yaml"
        path.write_text(yaml.safe_dump(put(data, changes), sort_keys=False))
        return path

    return made


def test_a_good_recipe_is_ok(write: Write) -> None:
    path = write()
    assert check([path], []) == ([], [f"{path}: ok (5 stages, 1 rounds)"])


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "lora rank": ({"models__policy__lora": {"rank": 8}}, "models.policy.lora: unknown key rank (did you mean r?)"),
    "lora alpha": ({"models__policy__lora__alpha": 8}, "unknown key alpha (did you mean lora_alpha?)"),
    "lora dropout": ({"models__policy__lora__dropout": 0.1}, "unknown key dropout (did you mean lora_dropout?)"),
    "lora by letters": (
        {"models__policy__lora__target_module": ["q_proj"]}, "unknown key target_module (did you mean target_modules?)",
    ),
    "lora module": (
        {"models__policy__lora__target_modules": ["q_proj", "v_prj"]}, "has no module 'v_prj' (did you mean v_proj?)",
    ),
    "lora text": ({"models__policy__lora__r": "many"}, "models.policy.lora.r: int is wanted, got 'many'"),
    "lora r 0": ({"models__policy__lora__r": 0}, "models.policy.lora.r: 0: 1 or more"),
    "lora dropout 1": ({"models__policy__lora__lora_dropout": 1.0}, "lora_dropout: 1.0: 0 or more and below 1"),
    "lora word": ({"models__policy__lora__bias": "al"}, "'al' is none of none, all, lora_only (did you mean all?)"),
    "args by letters": (
        {"stages__learn__args": {"wieght_decay": 0.1}},
        "stages.learn.args: unknown key wieght_decay (did you mean weight_decay?)",
    ),
    "args by meaning": ({"stages__learn__args": {"lr": 1e-3}}, "unknown key lr (it is set by learning_rate)"),
    "args of ours": ({"stages__learn__args": {"max_steps": 5}}, "stages.learn.args.max_steps: not here; it is set by steps"),
    "args text": (
        {"stages__learn__args": {"adam_epsilon": "1e-8"}}, "YAML reads 1e-8 as text; write 1.0e-8",
    ),
    "schedule": ({"stages__learn__schedule": "cosin"}, "stages.learn.schedule: 'cosin': transformers has no such schedule"),
    "server": ({"models__policy__engine": {"server": ["localhost:8000"]}}, "localhost:8000 is no address of a server"),
    "server port": ({"models__policy__engine": {"server": "http://one:eighty/v1"}}, "http://one:eighty/v1 is no address of a server"),
    "device": ({"models__policy__engine": {"device": "gpu"}}, "'gpu' is no device: auto, cpu, cuda"),
    "data file": ({"task__path": "rowz.jsonl"}, "task.path: rowz.jsonl: no such file or folder"),
    "data kind": ({"task__path": "rows.csv"}, "task.path: rows.csv: no such file"),
    "test file": ({"task__test_path": "hidden.jsonl"}, "task.test_path: hidden.jsonl: no such file"),
    "few-shot file": ({"task__few_shot_file": "shots.jsonl"}, "task.few_shot_file: shots.jsonl: no such file"),
    "field": ({"task__question": "question"}, "task.question: no field 'question' in the first rows of rows.jsonl"),
    "field by letters": ({"task__answer": "solutoin"}, "they have id, problem, solution (did you mean solution?)"),
    "file source": ({"stages__rows__from": ["check", {"file": "more.jsonl", "row": "Trace"}]}, "more.jsonl: no such file"),
    "model folder": ({"models__policy__base": "./nowhere"}, "models.policy.base: ./nowhere: no such folder"),
    "model name": ({"models__policy__base": "gpt2"}, "gpt2: no such folder (a Hub id reads like owner/name)"),
    "model kind": ({"models__policy__base": "hf://a/b"}, "hf://a/b: unknown kind"),
    "seed": ({"models__policy__base": "seed://cuntdown"}, "did you mean seed://countdown?"),
    "run": ({"models__policy__base": "run://nothing@3/policy"}, "run nothing has no finished round 3; make it first, as `ratchet run recipes/nothing.yaml`"),
    "run shape": ({"models__policy__base": "run://nothing/policy"}, "write run://RUN@ROUND/MODEL"),
    "limit": ({"task__max_tokens": 4096}, "task.max_tokens: 4,096 tokens, but the context of policy is 256"),
    "own limit": ({"stages__sample__max_tokens": 300}, "stages.sample.max_tokens: 300 tokens, but the context"),
    "limit and prompt": ({"task__max_tokens": 250}, "250 tokens after prompts of about"),
    "rows too long": ({"stages__learn__max_length": 2048}, "stages.learn.max_length: 2,048 tokens, but the context"),
    "copies": ({"stages__sample__temperature": 0}, "stages.sample: temperature 0 writes the same text each time, and n asks for 2"),
    "copies in a search": (
        {
            "models__prm": {"base": "Qwen/Qwen2.5-Math-PRM-7B", "head": "value"},
            "stages__measure__search": {"generate": "beam", "temperature": 0, "value": "prm", "n": 4, "width": 1},
        },
        "stages.measure.search: temperature 0 writes the same text",
    ),
    "no steps": ({"stages__learn__steps": 0}, "stages.learn.steps"),
    "margin": (
        {"models__policy__gate": {"metric": "measure/accuracy/greedy", "margin": 1}},
        "margin 1 is 100 points, so everything passes: write 0.01 for 1 points",
    ),
    "no dev": ({"task__dev": 0}, "stages.measure: reads the dev split, which has no problems"),
    "more than there are": ({"task__dev": 500}, "dev: 500 problems are asked for"),
    "a key of a gate": (
        {"models__policy__gate": {"metric": "measure/accuracy/greedy", "margn": 0.1}},
        "models.policy.gate.0: unknown key margn (did you mean margin?)",
    ),
    "a key of a schedule": (
        {"stages__learn__steps": {"frist": 3}}, "stages.learn.steps: unknown key frist (did you mean first?)",
    ),
    "gold chooses": (
        {"stages__measure__from": ["check"], "stages__measure__choose": "label"},
        "stages.measure: answers by labels, and check (label: outcome) has seen what is right",
    ),
    "nobody chooses": (
        {"stages__measure__from": ["sample"], "stages__measure__choose": "label"},
        "stages.measure: answers by labels, and no label stage is in its from",
    ),
    "chooses from nothing": ({"stages__measure__choose": "label"}, "choose: label needs the label stage that says it: set from"),
    "no task": ({"task": []}, "task: say which task: {use: countdown}, got []"),
    "no adapter's key": ({"models__policy__lora": "yes"}, "models.policy.lora"),
}  # fmt: skip


@pytest.mark.parametrize("kind", MISTAKES)
def test_one_mistake_of_each_kind(kind: str, write: Write) -> None:
    places, words = MISTAKES[kind]
    problems, _ = check([write(**places)], [])
    assert any(words in line for line in problems), problems
    assert len(problems) <= 2, problems
    assert "Traceback" not in "\n".join(problems)


def test_all_of_them_are_said_in_one_go(write: Write, place: Path) -> None:
    """Mistakes of the libraries' keys, of files, of models and of sense, in one recipe."""
    names = ["lora rank", "args by letters", "schedule", "data file", "few-shot file", "copies", "margin"]
    merged = {key: value for name in names for key, value in MISTAKES[name][0].items()}
    merged["models__prm"] = {"base": "./nowhere", "head": "value"}
    merged |= {"roundz": 3, "stages__measure__sampels": 3, "stages__check__from": "sampel"}
    problems, _ = check([write(**merged)], [])
    for name in names:
        assert any(MISTAKES[name][1] in line for line in problems), (name, problems)
    for words in (
        "models.prm.base: ./nowhere: no such folder",
        "unknown key roundz",
        "no such stage (did you mean sample?)",
    ):
        assert any(words in line for line in problems), (words, problems)


def test_it_says_so_without_torch_and_takes_overrides(write: Write, place: Path) -> None:
    path = write(models__policy__lora={"rank": 8})
    code = (
        "import sys\n"
        "from pipeline.__main__ import main\n"
        "sys.argv = ['ratchet', 'check', *sys.argv[1:]]\n"
        "try: main()\n"
        "except SystemExit as left: code = left.code\n"
        "heavy = {'torch', 'transformers', 'trl', 'peft', 'datasets', 'wandb'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "sys.exit(code)\n"
    )
    words = [sys.executable, "-c", code, str(path), "stages.learn.schedule=cosin", "stages.sampel.n=4"]
    done = subprocess.run(words, cwd=place, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 2, done.stderr
    assert "did you mean r?" in done.stderr
    assert "did you mean cosine?" in done.stderr
    assert "stages.sampel: needs exactly one of" in done.stderr
    assert "it has none (did you mean sample?)" in done.stderr
    words = [*words[:3], str(path), "models.policy.lora={r: 8}"]
    done = subprocess.run(words, cwd=place, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)})
    assert (done.returncode, done.stderr) == (0, "")
    assert "mine.yaml: ok" in done.stdout


def test_a_seed_that_does_not_talk_is_no_critic() -> None:
    path = ROOT / "recipes" / "mctsr_countdown.yaml"
    assert check([path], [])[0] == []
    told = check([path], ["models.policy.base=seed://countdown?steps=400"])[0]
    assert any("finally.refine: asks policy for turns (critique, rewrite)" in line for line in told)
    assert all("or take seed://countdown?steps=400&talk=1" in line for line in told)


def test_a_seed_knows_no_chat() -> None:
    [line] = check([ROOT / "recipes" / "quickstart.yaml"], ["task.chat=true"])[0]
    assert "seed://countdown: an embedded seed has no chat template: set task.chat=false" in line


def test_turns_that_a_seed_has_no_words_for_are_told() -> None:
    path = ROOT / "recipes" / "rstar_countdown.yaml"
    for more, turns in (("ask", "solve, subanswer, subquestion"), ("rephrase", "rephrase, solve")):
        problems, _ = check([path], [f"finally.search.actions=[step, {more}]"])
        [line] = problems
        assert (
            f"finally.search: asks policy for turns ({turns}) that seed://countdown was never taught" in line
        )
        assert line.endswith("or take a model of language")  # the seed that talks does not know them either
    assert (
        check([path, ROOT / "recipes" / "revise_countdown.yaml"], [])[0] == []
    )  # its policy learns to revise
    assert (
        check(
            [path], ["finally.search.actions=[step, ask]", "models.policy.base=HuggingFaceTB/SmolLM2-135M"]
        )[0]
        == []
    )


def test_a_small_dev_split_is_told_with_its_interval(write: Write) -> None:
    gate = {"metric": "measure/accuracy/greedy", "margin": 0.02}
    problems, said = check([write(models__policy__gate=gate, task__dev=5)], [])
    assert problems == []
    [note] = [line for line in said if "note" in line]
    assert "5 dev problems are few for a margin of 0.02" in note
    assert "+-39 points (95 %)" in note  # 1.96 * sqrt(0.2 / 5)
    big = ["task={use: countdown, dev: 2000, test: 10, max_tokens: 24}"]
    assert not [line for line in check([write(models__policy__gate=gate)], big)[1] if "note" in line]


BROKEN = {
    "no tokenizer": (["tokenizer.json"], "no tokenizer: copy tokenizer.json"),
    "no config": (["config.json"], "no config.json"),
    "no weights": (["model.safetensors"], "no .safetensors file"),
}


@pytest.mark.parametrize("kind", [*BROKEN, "cut", "pointer", "adapter", "shard", "text config"])
def test_a_model_folder_that_is_not_whole(
    kind: str, write: Write, place: Path, tiny: Path, ratchet: Any
) -> None:
    folder = shutil.copytree(tiny, place / "model")
    weights = folder / "model.safetensors"
    if kind in BROKEN:
        names, words = BROKEN[kind]
        for name in names:
            (folder / name).unlink()
    elif kind == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
        words = "cut or changed; copy the file again"
    elif kind == "pointer":
        weights.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
        words = "a pointer of Git LFS"
    elif kind == "adapter":
        (folder / "config.json").rename(folder / "adapter_config.json")
        words = "an adapter alone"
    elif kind == "shard":
        index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        words = "1 of 2 weight files are missing, model-00001-of-00002.safetensors first"
    else:
        (folder / "config.json").write_text("[1]")
        words = "not a JSON object"
    path = write(models__policy__base=str(folder))
    problems, _ = check([path], [])
    assert any(words in line for line in problems), problems
    code, said = ratchet("run", path)
    assert (code in (2, 3), words in said, "Traceback" in said) == (True, True, False)
    assert not (place / "data" / "mine").exists()


def test_the_fields_read_off_the_source_are_those_of_the_classes() -> None:
    """Every field that may be given, and no other, of the installed libraries."""
    from peft import LoraConfig
    from transformers import SchedulerType, TrainingArguments
    from trl import SFTConfig

    for kind in (LoraConfig, SFTConfig, TrainingArguments):
        names = {each.name for each in dataclasses.fields(kind) if each.init}
        assert len(names) > 30
        assert set(libraries.fields(kind.__name__)) == names
    assert set(libraries.schedules()) == {each.value for each in SchedulerType}
    unknown = set(libraries.WORDS.values()) - {
        *libraries.fields("LoraConfig"), *libraries.fields("SFTConfig"),
    }  # fmt: skip
    assert not unknown


# --- a run is not poisoned by a first mistake


def test_settings_may_change_until_a_stage_is_committed(write: Write, place: Path, ratchet: Any) -> None:
    """A launch that was killed in its first stage leaves problems and perhaps chunks; the corrected recipe goes on."""
    from pipeline.store.folder import StageFolder

    path = write()
    assert ratchet("run", path, "--until", "measure", "rounds=0")[0] == 0
    run = place / "data" / "mine"
    problems = (run / "prepare" / "manifest.json").read_bytes()
    (run / "round-000" / "measure" / "manifest.json").unlink()  # as a kill before the commit leaves it
    assert StageFolder(run / "round-000" / "measure").done()
    code, said = ratchet("run", path, "stages.learn.steps=4", "--until", "measure")
    assert code == 0, said
    assert "changed: stages.learn.steps: 3 -> 4" in said
    assert "removed" not in said  # nothing that was begun depends on it
    assert (run / "prepare" / "manifest.json").read_bytes() == problems
    (run / "round-000" / "measure" / "manifest.json").unlink()
    code, said = ratchet("run", path, "stages.learn.steps=4", "task.max_tokens=20", "--until", "measure")
    assert code == 0, said
    assert f"begun under other settings, so removed: {Path('data/mine/prepare')}" in said
    assert "removed: data/mine/round-000/measure" in said
    code, said = ratchet("run", path, "stages.learn.steps=4", "task.max_tokens=16")
    assert code == 2
    assert "mine: task.max_tokens: 20 -> 16" in said  # a committed stage stands: no change any more


def test_a_mistake_that_only_the_launch_meets_leaves_nothing(
    write: Write, place: Path, ratchet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    path = write(models__policy__base="nobody-here/no-such-model")
    code, said = ratchet("run", path)
    assert (code, "Traceback" in said) == (2, False)
    assert "not in the local cache and the Hub cannot be reached" in said
    assert not (place / "data" / "mine").exists()
    assert ratchet("run", write(), "rounds=0")[0] == 0  # the name is as good as new


@pytest.mark.parametrize("words", [["--until", "measur"], ["--launch", "no.yaml"], ["stages.sample.n"]])
def test_a_misspelt_word_of_the_command_line_leaves_nothing(
    words: list[str], write: Write, place: Path, ratchet: Any
) -> None:
    code, said = ratchet("run", write(), *words)
    assert (code, "Traceback" in said) == (2, False)
    assert not (place / "data").exists()


def test_rm_removes_a_run_and_asks(
    write: Write, place: Path, ratchet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import io

    from pipeline.store.lock import RunLock

    trained = write(stages__rows={"select": "unfiltered", "from": "sample"})  # whatever it wrote
    assert ratchet("run", trained)[0] == 0
    data, weights = place / "data" / "mine", place / "checkpoints" / "mine"
    assert weights.is_dir()
    assert ratchet("rm", "min") == (2, "RecipeError: no run 'min' in data/ (did you mean mine?)\n")
    for bad in ("../data", "tasks", "a/b"):
        assert ratchet("rm", bad, "--yes")[0] == 2
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    code, said = ratchet("rm", "mine")
    assert (code, "nothing removed" in said, "data/mine (" in said) == (1, True, True)
    with RunLock(data):
        code, said = ratchet("rm", "mine", "--yes")
        assert (code, "in use by process" in said) == (4, True)
    assert data.is_dir()
    assert weights.is_dir()
    code, said = ratchet("rm", "mine", "--yes")
    assert code == 0, said
    assert "removed data/mine (" in said
    assert [p.name for p in data.parent.iterdir()] == []
    assert [p.name for p in weights.parent.iterdir()] == []


def test_a_file_where_the_rows_should_go(write: Write, place: Path, ratchet: Any) -> None:
    (place / "data").touch()
    code, said = ratchet("run", write())
    assert (code, "data: is a file where a folder is wanted" in said, "Traceback" in said) == (7, True, False)


def test_rm_says_who_reads_a_run(write: Write, place: Path, ratchet: Any) -> None:
    assert ratchet("run", write(), "rounds=0")[0] == 0
    other = place / "data" / "other"
    other.mkdir()
    (other / "recipe.yaml").write_text("models: {policy: {base: 'run://mine@0/policy'}}\n")
    from pipeline.commands.rm import contents
    from pipeline.store.workspace import HERE

    assert "read by other" in contents("mine", HERE)
