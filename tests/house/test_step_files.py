"""Human step labels from files: a reward model trained on PRM800K's rows and measured on ProcessBench's, from a recipe."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.commands.check import check
from pipeline.errors import DamagedData
from pipeline.loop import run_loop
from pipeline.processes.group import Processes
from pipeline.recipe.read import load
from pipeline.report.console import Console
from pipeline.rows import Label, Problem, StepExample, Trace
from pipeline.run.session import find, session
from pipeline.run.status import run_status
from pipeline.store.folder import StageFolder
from pipeline.store.run_folder import tree_files, verify_run
from pipeline.store.workspace import Workspace

ROOT = Path(__file__).parents[2]
DATA, CHECKPOINTS = Path("data"), Path("checkpoints")


def question(n: int) -> str:
    return f"numbers {n} {n + 1} target {2 * n + 1}"


def prm800k(n: int, error: bool) -> dict[str, Any]:
    """A row as published: three steps, the second of them chosen among two; labelling ends at an error."""
    texts = [f"{n} + {n + 1}", f"= {2 * n + 1}", "so the answer" if not error else "- 1"]
    ratings = [1, 0, -1 if error else 1]
    steps = [
        {
            "completions": [{"text": text, "rating": rating, "flagged": None}]
            + ([{"text": "another", "rating": -1, "flagged": None}] if k == 1 else []),
            "human_completion": None,
            "chosen_completion": None if rating == -1 else 0,
        }
        for k, (text, rating) in enumerate(zip(texts, ratings, strict=True))
    ]
    return {
        "labeler": "x", "timestamp": "t", "generation": 9, "is_quality_control_question": False,
        "is_initial_screening_question": False,
        "question": {"problem": question(n), "ground_truth_answer": str(2 * n + 1)},
        "label": {"steps": steps, "total_time": 1, "finish_reason": "found_error" if error else "solution"},
    }  # fmt: skip


def processbench(n: int, label: int) -> dict[str, Any]:
    return {
        "id": f"gsm8k-{n}", "generator": "some-model", "problem": question(n), "steps": ["1 + 1", "= 2", "- 1", "so"],
        "final_answer_correct": label < 0, "label": label,
    }  # fmt: skip


def put(path: Path, rows: list[Any]) -> Path:
    text = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(f"{line}\n" for line in text))
    return path


def recipe(tiny: Path, learn: Any, **more: Any) -> dict[str, Any]:
    """A reward model from people's labels alone: trained in before, measured on others in round 0 and 1."""
    return {
        "models": {
            "policy": {"base": str(tiny), "lora": {"r": 4}},
            "prm": {"base": str(tiny), "head": "value", "lora": {"r": 4}},
        },
        "rounds": 0,
        "before": learn,
        "stages": {},
        "finally": {
            "bench": {
                "evaluate": "prm_quality", "of": "prm", "split": "test",
                "from": {"file": "bench.jsonl", "form": "processbench"},
            }
        },
        **more,
    }  # fmt: skip


HARD = {"train": "prm", "model": "prm", "target": "hard", "steps": 2, "batch_size": 8}
FILE = {"file": "people.jsonl", "form": "prm800k"}
DIRECT = {"first": HARD | {"from": FILE}}
SELECTED = {
    "rows": {"select": "step_values", "from": FILE},
    "first": HARD | {"from": "rows"},
}


def run(path: Path) -> dict[str, Any]:
    said = io.StringIO()
    with session(
        find(str(path), [], None, DATA), Console(file=said), Processes(), Workspace(DATA, CHECKPOINTS)
    ) as one:
        run_loop(one)
    return run_status("tiny", Workspace(DATA, CHECKPOINTS)) | {"said": said.getvalue()}


@pytest.fixture
def files(place: Path) -> Path:
    put(place / "people.jsonl", [prm800k(n, bool(n % 2)) for n in range(1, 121)] + ['{"question": 1}'])
    put(place / "bench.jsonl", [processbench(n, (-1, 0, 2)[n % 3]) for n in range(200, 230)])
    return place


def brought(stem: str) -> StageFolder:
    [folder] = (DATA / "tiny/files").glob(f"{stem}-*")
    return StageFolder(folder)


@pytest.mark.parametrize("learn", [DIRECT, SELECTED], ids=["trained from the file", "selected first"])
def test_people_s_labels_train_and_measure_a_reward_model(
    write_recipe: Callable[..., Path], tiny: Path, files: Path, learn: dict[str, Any]
) -> None:
    path = write_recipe(**recipe(tiny, learn))
    assert check([path], [])[0] == []
    status = run(path)
    assert status["complete"]
    folder = brought("people")
    traces = {trace.id: trace for trace in folder.read(Trace)}
    labels = {label.trace_id: label for label in folder.read(Label)}
    examples = list(folder.read(StepExample))
    assert len(traces) == len(labels) == len(examples) == 120
    assert len({problem.id for problem in folder.read(Problem)}) == 120
    for row in examples:
        trace, label = traces[row.trace_id], labels[row.trace_id]
        assert row.labels == label.step_scores
        assert label.labeller == "human"
        prompt = len(row.token_ids) - len(trace.token_ids)
        assert prompt > 0
        assert row.token_ids[prompt:] == trace.token_ids
        assert [end - prompt for end in row.step_ends] == trace.step_ends
        assert trace.step_ends[-1] == len(trace.token_ids)
        assert all(step.endswith("\n") for step in trace.steps)
    wanted = {(1.0, 1.0, 0.0): 60, (1.0, 1.0, 1.0): 60}  # neutral counts as right, as in the paper
    assert {key: sum(tuple(row.labels) == key for row in examples) for key in wanted} == wanted
    [rejected] = [json.loads(line) for line in (DATA / "tiny/rejected.jsonl").read_text().splitlines()]
    assert (rejected["file"], rejected["line"]) == ("people.jsonl", 121)
    assert "not a PRM800K row: no field 'label'" in rejected["reason"]
    assert "rejected.jsonl says which and why" in status["said"]
    assert verify_run(DATA / "tiny", CHECKPOINTS / "tiny") == []


def test_the_shipped_recipe_learns_from_people(tiny: Path, files: Path) -> None:
    name = "prm_from_people"
    words = ["task={use: countdown, train: 8, dev: 4, test: 4, max_tokens: 60}", "before.learn.from.file=people.jsonl",
             "finally.bench.from.file=bench.jsonl", "before.learn.steps=2", "before.learn.batch_size=8", "before.learn.warmup_steps=0",
             "wandb.mode=disabled", *(f"models.{model}.base={tiny}" for model in ("policy", "prm")), "models.prm.lora={r: 4}"]  # fmt: skip
    recipe = load(ROOT / "recipes" / f"{name}.yaml", words)
    with session(recipe, Console(quiet=True, main=False), Processes(), Workspace(DATA, CHECKPOINTS)) as one:
        run_loop(one)
    final = run_status(name, Workspace(DATA, CHECKPOINTS))["final"]["metrics"]
    assert final["bench/problems"] == 30
    assert 0 <= final["bench/first_error_f1"] <= 1


def test_the_measure_is_processbench_s_own(
    write_recipe: Callable[..., Path], tiny: Path, files: Path
) -> None:
    """Against `step_files.processbench`, from the scores on disk."""
    from pipeline.evaluate.step_files import processbench as by_file
    from pipeline.evaluate.step_files import read_processbench
    from pipeline.run.record import metrics_rows
    from pipeline.run.session import open_run

    learn = {"first": HARD | {"from": FILE, "steps": 40, "learning_rate": 1e-2}}  # enough to find "- 1" wrong
    run(write_recipe(**recipe(tiny, learn)))
    opened = open_run("tiny", Workspace(DATA, CHECKPOINTS))
    [measured] = [row for row in metrics_rows(opened) if row["stage"] == "bench"]
    solutions = list(read_processbench(Path("bench.jsonl")))
    by_question = {problem.id: problem.question for problem in brought("bench").read(Problem)}
    scores: dict[str, list[float]] = {}
    for label in StageFolder(DATA / "tiny/final-000/bench").read(Label):
        if label.labeller == "prm":
            scores[by_question[label.problem_id]] = [s for s in label.step_scores or [] if s is not None]
    assert all(len(scores[one.problem]) == 4 for one in solutions)
    by_id = {question: problem_id for problem_id, question in by_question.items()}
    solutions.sort(key=lambda one: by_id[one.problem])  # the halves are by the order of ids
    found = by_file(solutions, [scores[one.problem] for one in solutions])
    assert found["f1"] > 0
    assert measured["metrics"]["bench/first_error_f1"] == pytest.approx(found["f1"])
    assert measured["metrics"]["bench/problems"] == 30
    # true steps: 4 of a right one, 0 and 2 of the wrong ones; what stands after an error is false
    assert measured["metrics"]["bench/true_share"] == pytest.approx((10 * 4 + 10 * 0 + 10 * 2) / 120)


def test_a_killed_read_is_read_again_to_the_same_bytes(
    write_recipe: Callable[..., Path], tiny: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped between two files, before a commit; afterwards the file itself may change or go."""
    import shutil

    from pipeline.store.folder import StageFolder as Folder

    path = write_recipe(**recipe(tiny, DIRECT))
    run(path)
    whole = tree_files(DATA / "tiny")
    shutil.rmtree(DATA / "tiny")
    shutil.rmtree(CHECKPOINTS / "tiny")
    commit = Folder.commit

    def stop(self: Any, extra: Any = None) -> Any:
        if self.path.parent.name == "files" and self.path.name.startswith("bench"):
            raise KeyboardInterrupt
        return commit(self, extra)

    monkeypatch.setattr(Folder, "commit", stop)
    with pytest.raises(KeyboardInterrupt):
        run(path)
    monkeypatch.setattr(Folder, "commit", commit)
    put(Path("people.jsonl"), ["gone"])
    run(path)
    assert tree_files(DATA / "tiny") == whole


def test_a_question_of_dev_or_test_trains_nothing(
    write_recipe: Callable[..., Path], tiny: Path, place: Path
) -> None:
    from pipeline.recipe.methods import method
    from pipeline.tasks.prepare import gather

    module = method("tasks", "countdown")
    path = write_recipe(**recipe(tiny, DIRECT))
    settings = find(str(path), [], None, DATA).tasks[0]
    test = [p.question for p in gather([module.Task(settings)]).problems if p.split == "test"]
    rows = [prm800k(n, bool(n % 2)) for n in range(1, 11)]
    rows[4]["question"]["problem"] = test[0]
    put(place / "people.jsonl", rows)
    bench = [processbench(n, (-1, 1)[n % 2]) for n in range(200, 210)]
    bench[0]["problem"] = test[1]  # an evaluation may
    put(place / "bench.jsonl", bench)
    run(path)
    [rejected] = [json.loads(line) for line in (DATA / "tiny/rejected.jsonl").read_text().splitlines()]
    assert (rejected["line"], rejected["reason"]) == (5, "its question stands in the test split")
    assert len(list(brought("people").read(Trace))) == 9
    assert len(list(brought("bench").read(Trace))) == 10


GOOD = [processbench(n, -1) for n in range(1, 9)]
BAD: dict[str, tuple[list[Any], str]] = {
    "label too many": (
        [*GOOD, processbench(9, 4)],
        "bench.jsonl:9: not a ProcessBench row: label 4 of 4 steps",
    ),
    "label missing": ([{k: v for k, v in GOOD[0].items() if k != "label"}], "no field 'label'"),
    "label no number": ([{**GOOD[0], "label": "2"}], "label '2' of 4 steps"),
    "label a truth value": (
        [{**GOOD[0], "label": True}],
        "label True of 4 steps: the first wrong one is wanted",
    ),
    "no step": ([{**GOOD[0], "steps": []}], "not a ProcessBench row: no step"),
    "steps no texts": ([{**GOOD[0], "steps": [1, 2]}], "step 0 (from 0) is no text: 1"),
    "steps one text": ([{**GOOD[0], "steps": "1 + 1"}], "steps is a text, where a list is wanted"),
    "a blank step": ([{**GOOD[0], "steps": ["1 + 1", " "]}], "step 1 (from 0) is no text"),
    "right or wrong in words": (
        [{**GOOD[0], "final_answer_correct": "yes"}],
        "'yes', neither true nor false",
    ),
    "half a character": ([{**GOOD[0], "problem": "\ud800"}], "problem holds half a character"),
    "too deep": (["[" * 100_000], "not JSON: nested too deep"),
    "no problem": ([{**GOOD[0], "problem": " "}], "problem is no text"),
    "not JSON": ([*GOOD, "{"], "bench.jsonl:9: not a ProcessBench row: not JSON"),
    "a list": (["[1, 2]"], "the row is a list, where an object is wanted"),
    "another form": ([prm800k(1, True)], "is it of the form processbench?"),
    "empty": ([], "no usable row: it is empty"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_file_that_is_not_of_its_form_is_said(
    write_recipe: Callable[..., Path], tiny: Path, files: Path, kind: str
) -> None:
    rows, words = BAD[kind]
    put(files / "bench.jsonl", rows)
    path = write_recipe(**recipe(tiny, DIRECT))
    problems, _ = check([path], [])
    assert any(words in line and "finally.bench.from" in line for line in problems), problems
    with pytest.raises(DamagedData, match="bench.jsonl"):
        run(path)
    assert not (DATA / "tiny").exists()


def test_what_a_source_may_say(write_recipe: Callable[..., Path], tiny: Path, files: Path) -> None:
    def problems(source: Any) -> list[str]:
        return check([write_recipe(**recipe(tiny, {"first": HARD | {"from": source}}))], [])[0]

    assert any(
        "wants either row (Trace, StepExample, ...) or form" in p for p in problems({"file": "people.jsonl"})
    )
    both = FILE | {"row": "StepExample"}
    assert any("wants either row" in line for line in problems(both))
    assert any("form" in line for line in problems({"file": "people.jsonl", "form": "prm900k"}))
    assert any(
        "missing.jsonl: no such file" in line
        for line in problems({"file": "missing.jsonl", "form": "prm800k"})
    )


def test_a_row_source_keeps_its_fingerprint() -> None:
    from pipeline.recipe.shape import dump
    from pipeline.settings import FileSource

    assert dump(FileSource(file="a.jsonl", row="Example")) == {"file": "a.jsonl", "row": "Example"}
    assert dump(FileSource(file="a.jsonl", form="prm800k")) == {"file": "a.jsonl", "form": "prm800k"}


@pytest.mark.parametrize("seed", range(20))
def test_rows_hold_what_the_files_say(tmp_path: Path, seed: int) -> None:
    """Any mix of good and bad rows: each is a solution or rejected, with the line that it stands in."""
    from pipeline.evaluate.step_files import read_form

    draw = random.Random(seed)
    rows, bad = [], set()
    for n in range(1, 31):
        row = processbench(n, draw.randrange(-1, 4))
        if draw.random() < 0.3:
            bad.add(n)
            row = draw.choice(["{", "[]", {**row, "label": draw.choice([9, None, -2, "x"])}, {"id": 1}])
        rows.append(row)
    rejected: list[dict[str, Any]] = []
    found = list(read_form(put(tmp_path / "f.jsonl", rows), "processbench", rejected))
    assert {row["line"] for row in rejected} == bad
    assert {line for line, _ in found} == set(range(1, 31)) - bad
    for line, solution in found:
        label = rows[line - 1]["label"]
        wrong = [k for k, ok in enumerate(solution.verdicts) if ok is False]
        assert wrong == ([label] if label >= 0 else [])
        assert all(ok is None for ok in solution.verdicts[label + 1 :]) or label < 0


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "rating a truth value": (
        lambda step: step["completions"][0].update(rating=True),
        "rating True is none of",
    ),
    "rating of more": (lambda step: step["completions"][0].update(rating=2), "rating 2 is none of -1, 0, 1"),
    "chosen before the first": (
        lambda step: step.update(chosen_completion=-1),
        "of step 1 is -1, of 1 completions",
    ),
    "chosen after the last": (
        lambda step: step.update(chosen_completion=5),
        "of step 1 is 5, of 1 completions",
    ),
    "chosen a text": (lambda step: step.update(chosen_completion="0"), "chosen_completion of step 1 is '0'"),
    "completions no list": (
        lambda step: step.update(completions={"a": 1}),
        "completions of step 1 is an object",
    ),
    "people's words a text": (
        lambda step: step.update(chosen_completion=None, human_completion="x"),
        "human_completion of step 1 is a text, where an object is wanted",
    ),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_a_row_of_prm800k_that_is_wrong_inside_is_said(tmp_path: Path, kind: str) -> None:
    from pipeline.evaluate.step_files import read_whole

    change, words = CHANGES[kind]
    row = prm800k(1, False)
    change(row["label"]["steps"][0])
    with pytest.raises(DamagedData) as caught:
        read_whole(put(tmp_path / "f.jsonl", [row]), "prm800k")
    assert words in str(caught.value)


@pytest.mark.parametrize("name", ["question", "label"])
@pytest.mark.parametrize("value", [None, 1, "x", []])
def test_a_row_of_prm800k_without_its_parts_is_said(tmp_path: Path, name: str, value: Any) -> None:
    from pipeline.evaluate.step_files import read_whole

    with pytest.raises(
        DamagedData, match=rf"{name} is (null|a number|a text|a list), where an object is wanted"
    ):
        read_whole(put(tmp_path / "f.jsonl", [prm800k(1, False) | {name: value}]), "prm800k")


def test_what_nobody_rated_is_no_solution_without_an_error(tmp_path: Path) -> None:
    """No rating is no verdict: such a row would else count as right throughout."""
    from pipeline.evaluate.step_files import read_whole

    unrated = prm800k(1, False)
    for step in unrated["label"]["steps"]:
        step["completions"][0]["rating"] = None
    found, rejected = read_whole(put(tmp_path / "f.jsonl", [unrated, prm800k(2, True)]), "prm800k")
    assert ([line for line, _ in found], rejected) == ([2], [])
    floats = json.dumps(prm800k(3, True)).replace('"rating": -1', '"rating": -1.0')
    [(_, solution)], _ = read_whole(put(tmp_path / "g.jsonl", [floats]), "prm800k")
    assert solution.verdicts == (True, True, False)


def test_how_a_file_is_written_matters_not_or_is_said(tmp_path: Path) -> None:
    from pipeline.evaluate.step_files import read_whole

    text = json.dumps(processbench(1, -1))
    path = tmp_path / "f.jsonl"
    path.write_bytes(f"\n{text}\n\n".encode("utf-8-sig"))
    assert len(read_whole(path, "processbench")[0]) == 1
    path.write_bytes(text.encode("utf-16"))
    with pytest.raises(DamagedData, match=r"f.jsonl: cannot be read: not UTF-8 .*: save it as UTF-8"):
        read_whole(path, "processbench")
    lines = tmp_path / "f.json"
    lines.write_text(f"{text}\n{text}\n")
    with pytest.raises(DamagedData, match=r"f.json: cannot be read as a JSON list: .* the ending .jsonl"):
        read_whole(lines, "processbench")
