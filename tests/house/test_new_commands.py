"""What ships and what a user has at hand: recipes in the wheel, the schema, env, rm's neighbours, solve, export's card, notebooks."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_world import recipe_data

from pipeline.errors import DamagedData, RecipeError
from pipeline.loop import run_loop
from pipeline.processes.group import Processes
from pipeline.recipe.read import load
from pipeline.report.console import Console
from pipeline.run.session import session

ROOT = Path(__file__).parents[2]
SHIPPED = sorted((ROOT / "recipes").glob("*.yaml"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    """A project folder with one finished run, `tiny`."""
    place = tmp_path_factory.mktemp("finished")
    (place / "r.yaml").write_text(yaml.safe_dump(recipe_data(tiny, rounds=1), sort_keys=False))
    console = Console(quiet=True, main=False)
    with contextlib.chdir(place), session(load("r.yaml"), console, Processes()) as run:
        run_loop(run)
    return place


@pytest.fixture
def ran(place: Path, finished: Path) -> Path:
    """A copy of it, to work in."""
    shutil.copytree(finished, place, dirs_exist_ok=True)
    return place


# --- recipes


def test_recipes_are_listed_and_copied(place: Path, ratchet: Any) -> None:
    code, said = ratchet("recipes")
    assert code == 0
    assert len(SHIPPED) > 7
    for path in SHIPPED:
        assert f"\n{path.stem} " in f"\n{said}"
    assert "launch/zero3" in said
    code, said = ratchet("recipes", "copy", "star_addition")
    assert (code, "star_addition.yaml: change it as you like" in said) == (0, True)
    assert (place / "star_addition.yaml").read_bytes() == (
        ROOT / "recipes" / "star_addition.yaml"
    ).read_bytes()
    assert (place / "recipe.schema.json").is_file()  # its second line names it
    assert ratchet("check", "star_addition.yaml")[0] == 0
    assert "is there already" in ratchet("recipes", "copy", "star_addition")[1]
    assert "did you mean star_addition?" in ratchet("recipes", "copy", "star_adition")[1]
    assert "name one of" in ratchet("recipes", "copy")[1]
    assert "did you mean copy?" in ratchet("recipes", "coppy", "x")[1]
    (place / "sub").mkdir()
    assert ratchet("recipes", "copy", "launch/ddp", "--to", "sub")[0] == 0
    for name, to, more in (("fair_words", "sub", 2), ("fair_words", ".", 2), ("evidence_csqa", "sub", 1)):
        before = len(list(Path(to).glob("*.jsonl"))) + len(list(Path(to).glob("*.txt")))
        assert ratchet("recipes", "copy", name, "--to", to)[0] == 0
        assert len(list(Path(to).glob("*.jsonl"))) + len(list(Path(to).glob("*.txt"))) == before + more
        assert "recipes/" not in "".join(  # what it reads lies where it was copied to
            line.split("#")[0] for line in (Path(to) / f"{name}.yaml").read_text().splitlines()
        )
    assert ratchet("check", "fair_words.yaml")[0] == ratchet("check", "sub/fair_words.yaml")[0] == 0
    assert yaml.safe_load((place / "sub" / "ddp.yaml").read_text())["num_processes"]


def test_the_wheel_holds_the_recipes(tmp_path: Path) -> None:
    """Built from a copy of the tracked files, without a network; read as an installed package would."""
    pytest.importorskip("setuptools")
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    source = tmp_path / "source"
    for name in listed.stdout.split():
        if name.startswith(("pipeline/", "recipes/")) or "/" not in name:
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    code = "import setuptools.build_meta as b; print(b.build_wheel('out'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    [wheel] = (source / "out").glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        names = set(packed.namelist())
        packed.extractall(tmp_path / "site")
    for path in [*SHIPPED, ROOT / "recipes" / "launch" / "ddp.yaml", ROOT / "recipes" / "recipe.schema.json"]:
        assert f"pipeline/_recipes/{path.relative_to(ROOT / 'recipes').as_posix()}" in names
    assert not any(name.startswith(("tests/", "recipes/")) for name in names)
    words = [sys.executable, "-m", "pipeline", "recipes", "copy", "quickstart"]
    done = subprocess.run(
        words, cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(tmp_path / "site")}
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "quickstart.yaml").read_bytes() == (ROOT / "recipes" / "quickstart.yaml").read_bytes()


# --- the schema


class _Editor(yaml.SafeLoader):
    """YAML 1.2's numbers, as editors read them: 6e-3 is one."""


_Editor.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?$"), list("-+.0123456789")
)


@pytest.fixture(scope="module")
def validator() -> Any:
    import jsonschema

    from pipeline.recipe.schema import schema

    found = schema()
    jsonschema.Draft7Validator.check_schema(found)
    return jsonschema.Draft7Validator(found)


def test_the_shipped_schema_is_as_the_settings_say() -> None:
    """Run `ratchet schema > recipes/recipe.schema.json` after changing a setting."""
    from pipeline.commands.schema import text

    assert (ROOT / "recipes" / "recipe.schema.json").read_text().strip() == text().strip()


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_recipe_names_the_schema_and_fits_it(path: Path, validator: Any) -> None:
    text = path.read_text()
    assert text.split("\n")[1] == "# yaml-language-server: $schema=recipe.schema.json"
    wrong = [(list(e.path), e.message) for e in validator.iter_errors(yaml.load(text, Loader=_Editor))]
    assert wrong == []


@pytest.mark.parametrize(
    "words",
    ["stages.learn.args={wieght_decay: 0.1}", "stages.learn.args={max_steps: 3}", "models.policy.lora={rank: 3}",
     "stages.rows.max_per_problm=3", "roundz=3", "task.use=countdwn", "stages.sample.generate=smaple", "stages.sample.n=many",
     "stages.learn.schedule=cosin", "models.policy.hed=value", "stages.learn.steps=0", "task.larges=3",
     "models.policy.gate={metric: x, margn: 0.1}"],
)  # fmt: skip
def test_the_schema_refuses_what_check_refuses(words: str, validator: Any) -> None:
    from pipeline.recipe.read import plain

    data = plain(ROOT / "recipes" / "quickstart.yaml")
    data["stages"]["learn"]["learning_rate"] = 6e-3
    assert validator.is_valid(data)
    data = plain(ROOT / "recipes" / "quickstart.yaml", [words, "stages.learn.learning_rate=0.006"])
    assert not validator.is_valid(data)


# --- env


def test_a_reader_that_went_away_is_no_traceback() -> None:
    """As behind `| head`: the pipe is closed before a word is said."""
    command = [sys.executable, "-m", "pipeline", "recipes"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as asked:
        assert asked.stdout is not None
        asked.stdout.close()
        assert asked.stderr is not None
        assert asked.stderr.read() == b""
        assert asked.wait(60) == 141


def test_env_says_what_a_bug_report_needs(place: Path, ratchet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("WANDB_API_KEY", "key_secret")
    code, said = ratchet("env")
    assert code == 0
    import torch

    for what in (f"torch            {torch.__version__}", "OMP_NUM_THREADS  3", "usable cores", "GB free"):
        assert what in said, what
    assert "secret" not in said


def test_the_new_commands_load_no_torch(finished: Path) -> None:
    for words in (["env"], ["schema"], ["recipes"], ["rm", "nothing"], ["show", "tiny", "1", "check"]):
        code = (
            "import sys\n"
            "from pipeline.__main__ import main\n"
            f"sys.argv = ['ratchet', *{words!r}]\n"
            "try: main()\n"
            "except SystemExit: pass\n"
            "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
        )
        environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=finished, capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, (words, done.stderr)


# --- export and solve


def test_an_exported_model_has_a_card(ran: Path, ratchet: Any) -> None:
    from pipeline.store.weights import read_weights

    code, said = ratchet("export", "tiny", 1, "--to", "out")
    assert code == 0, said
    card = (ran / "out" / "README.md").read_text()
    front, text = card.removeprefix("---\n").split("---\n", 1)
    head = yaml.safe_load(front)
    assert (head["library_name"], head["pipeline_tag"], head["license"]) == (
        "transformers",
        "text-generation",
        "unknown",
    )
    assert "base_model" not in head  # a folder of this machine is no model of the Hub
    assert "# tiny, policy after round 1" in text
    assert "by `measure`: greedy accuracy" in text
    assert "by `final`: greedy accuracy" in text
    assert 'AutoModelForCausalLM.from_pretrained("out")' in text
    read_weights(ran / "out")  # the card is no part of what is hashed
    again, _ = ratchet("export", "tiny", 1, "--to", "out")
    assert again == 0


def test_solve_takes_the_search_that_the_run_has_models_for(ran: Path, ratchet: Any) -> None:
    problem = next(iter(_problems(ran)))
    code, said = ratchet("solve", problem, "--run", "tiny")
    assert code == 0, said
    assert "tokens: " in said
    assert "answer: " in said or "no answer" in said
    assert ratchet("solve", problem)[0] == 0  # the newest run
    code, said = ratchet("solve", problem, "--search", "mcts_star")
    assert (code, "the run has no model 'prm'" in said) == (2, True)


def test_what_solve_searches_with() -> None:
    from pipeline.commands.solve import own_search

    guided = own_search(load(ROOT / "recipes" / "rest_mcts_countdown.yaml"))
    assert guided[0] in ("mcts_star", "best_of_n", "beam")
    assert guided[1]["value"] == "prm"
    assert own_search(load(ROOT / "recipes" / "quickstart.yaml")) == ("sample", {})
    assert own_search(load(ROOT / "recipes" / "star_addition.yaml"))[0] == "sample"  # never with a hint


def test_solve_asks_in_a_loop(ran: Path, ratchet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = list(_problems(ran))[:2]
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{first}\n{second}\n\n{first}\n"))
    code, said = ratchet("solve", "n=2")
    assert code == 0, said
    assert "tiny after round 1, by sample" in said
    assert said.count("tokens: ") == 2  # the empty line ended it


def test_solve_without_any_run(place: Path, ratchet: Any) -> None:
    code, said = ratchet("solve", "1 + 1")
    assert (code, "no run in data/ has finished a round" in said) == (2, True)


def _problems(place: Path) -> list[str]:
    from pipeline import Run

    return list(Run("tiny", place).problems()["question"])


# --- notebooks


def test_a_run_in_a_notebook(finished: Path) -> None:
    from datasets import Dataset

    from pipeline import Run

    run = Run("tiny", finished)
    assert repr(run) == "Run('tiny': complete)"
    assert (run.rounds, run.stages[:2]) == ([0, 1], ["sample", "check"])
    assert run.recipe["stages"]["sample"]["n"] == 3
    metrics = run.metrics()
    assert list(metrics.index) == [0, 1]
    rows = [json.loads(line) for line in (finished / "data/tiny/metrics.jsonl").read_text().splitlines()]
    wanted = next(r["metrics"] for r in rows if r["stage"] == "measure" and r["round"] == 1)
    assert metrics.loc[1, "measure/accuracy/greedy"] == wanted["measure/accuracy/greedy"]
    assert "final/accuracy/greedy@0" in run.metrics(final=True).columns
    traces = run.rows(1, "sample")
    assert isinstance(traces, Dataset)
    assert (len(traces), "token_ids" in traces.column_names) == (120, True)
    assert set(run.rows(1, "check")["correct"]) <= {True, False}
    kept, dropped = run.rows(1, "rows"), run.rows(1, "rows", "Dropped")
    assert len(kept) + len(dropped) == 120
    assert sum(split == "dev" for split in run.problems()["split"]) == 12
    assert run.result().startswith("greedy accuracy")


def test_a_model_of_a_round_is_the_one_that_the_run_used(finished: Path) -> None:
    """The last round's policy answers dev problems as its evaluation recorded."""
    import torch

    from pipeline import Run

    run = Run("tiny", finished)
    model, tokenizer = run.model()
    seed, _ = run.model(0)
    assert any(not torch.equal(a, b) for a, b in zip(model.parameters(), seed.parameters(), strict=True))
    greedy = [r for r in run.rows(1, "measure") if r["model"] == "policy" and r["temperature"] == 0.0][:6]
    prompts = {r["id"]: r["question"] for r in run.problems()}
    from pipeline.recipe.methods import method

    task = method("tasks", "countdown").Task(method("tasks", "countdown").Settings(use="countdown"))
    assert len(greedy) == 6
    for row in greedy:
        ids = tokenizer(task.prompt(prompts[row["problem_id"]]), return_tensors="pt").input_ids
        out = model.generate(ids, do_sample=False, max_new_tokens=len(row["token_ids"]))[0, ids.shape[1] :]
        assert out.tolist() == row["token_ids"][: len(out)]


def test_the_report_of_a_notebook(finished: Path, tmp_path: Path) -> None:
    from pipeline import Run

    run = Run("tiny", finished)
    assert run.report(tmp_path / "r.html").read_text().startswith("<!doctype html>")
    assert "tiny" in run.html()


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda run: run.rows(9, "sample"), "round 9, sample: nothing is committed; finished rounds: [0, 1]"),
        (lambda run: run.rows(1, "smaple"), "did you mean sample?"),
        (
            lambda run: run.rows(1, "sample", "Nod"),
            "no rows of kind 'Nod' (did you mean Node?); it has 120 Trace",
        ),
        (lambda run: run.rows(1, "learn"), "it has no rows"),
        (lambda run: run.model(7), "round 7 is not finished; finished: [0, 1]"),
        (lambda run: run.model(1, "prm"), "no model 'prm'"),
    ],
)
def test_what_is_not_there_is_a_sentence(ask: Any, words: str, finished: Path) -> None:
    from pipeline import Run

    with pytest.raises(RecipeError) as caught:
        ask(Run("tiny", finished))
    assert words in str(caught.value)


def test_a_run_that_is_not_there(finished: Path) -> None:
    import pipeline

    with pytest.raises(RecipeError, match=r"did you mean tiny\?"):
        pipeline.Run("tinny", finished)
    with pytest.raises(AttributeError, match="no attribute 'Rnu'"):
        pipeline.Rnu  # noqa: B018


def test_damaged_rows_are_not_read(ran: Path) -> None:
    from pipeline import Run

    [part] = list((ran / "data/tiny/round-001/sample").glob("*-00000-*.parquet"))
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    with pytest.raises(DamagedData, match="verify tiny --repair"):
        Run("tiny", ran).rows(1, "sample")


def test_looking_at_a_run_loads_no_torch(finished: Path) -> None:
    code = (
        "import sys\n"
        "import pipeline\n"
        "assert not {m.split('.')[0] for m in sys.modules} & {'pydantic', 'torch', 'typer'}\n"
        "from pipeline import Run\n"
        "run = Run('tiny')\n"
        "assert len(run.metrics()) == 2 and run.rounds == [0, 1] and run.result()\n"
        "assert 'torch' not in sys.modules and 'datasets' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=finished,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr


def test_the_page_shows_what_works(ran: Path) -> None:
    """docs/notebooks.md, run as it stands, on a run of these names."""
    page = (ROOT / "docs" / "notebooks.md").read_text().replace("quickstart", "tiny").replace("(2, ", "(1, ")
    blocks = re.findall(r"```python\n(.*?)```", page, re.S)
    assert len(blocks) == 5
    lines = [line for block in blocks for line in block.splitlines()]
    kept = [line for line in lines if not re.search(r"plot\(\)|IPython|HTML|\"prm\"|model\(3", line)]
    assert len(lines) - len(kept) == 5
    names: dict[str, Any] = {}
    for line in kept:
        code = compile(line, "notebooks.md", "exec")
        exec(code, names)
    assert len(names["traces"]) == 120
