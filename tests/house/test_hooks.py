"""What the coming methods need of the loop, as a stranger's package has it: labellers without gold, roll-outs read by a
later labeller, selectors that ask models, evaluations of labelled traces. A real run of the tiny policy."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.loop import run_loop
from pipeline.processes.group import Processes
from pipeline.recipe import methods
from pipeline.recipe.read import load
from pipeline.report.console import Console
from pipeline.rows import Example, Label, Trace
from pipeline.run.record import read
from pipeline.run.session import session
from pipeline.store.folder import StageFolder
from pipeline.store.run_folder import tree_hash
from pipeline.store.workspace import Workspace

ROLL = """
from pipeline.asks import Continue, prefix_of, to_trace
from pipeline.label import LabelSettings
from pipeline.rows import Label, Question
from pipeline.settings import PolicyName
import dataclasses

class Settings(LabelSettings):
    sees_gold = False
    makes = ("Label", "Trace", "Dropped")
    by: PolicyName = "policy"

def label(problem, group, settings, task):
    assert problem.answer is None and problem.meta == "" and problem.solution == ""
    rows = []
    for trace in group.traces:
        [grown] = yield Continue(prefix_of(trace, 1), by=settings.by)
        question = Question(id=problem.id, question="", prompt=trace.prompt, prompt_used=trace.prompt)
        rows.append(dataclasses.replace(to_trace(question, grown, len(rows)), parent=trace.id))
        rows.append(Label(problem_id=problem.id, trace_id=trace.id, value=0.5, labeller="roll"))
    return rows
"""
REUSE = """
from pipeline.label import LabelSettings
from pipeline.rows import Label

class Settings(LabelSettings):
    sees_gold = True

def label(problem, group, settings, task):
    yield from ()
    rows = []
    for trace in group.traces:
        own = [one for one in group.rollouts if one.parent == trace.id]
        assert [one.token_ids[: trace.step_ends[0]] for one in own] == [trace.token_ids[: trace.step_ends[0]]]
        right = [task.correct(one.answer, problem) for one in own]
        rows.append(Label(problem_id=problem.id, trace_id=trace.id, value=sum(right) / len(right), labeller="reuse"))
    return rows
"""
ASKING = """
from pipeline.asks import Logprob, prefix_of
from pipeline.rows import Dropped, Example
from pipeline.select import SelectSettings
from pipeline.settings import PolicyName

class Settings(SelectSettings):
    by: PolicyName = "policy"

def survey(group, settings):
    return [len(trace.token_ids) for trace in group.traces]

def reduce(surveys, settings):
    return max(length for found in surveys for length in found)

def select(group, settings, task, encode, *, whole):
    replies = yield Logprob([prefix_of(trace) for trace in group.traces], by=settings.by)
    rows = []
    for trace, theirs in zip(group.traces, replies, strict=True):
        assert len(theirs) == len(trace.token_ids) <= whole
        if sum(theirs) < -40:
            rows.append(Dropped(problem_id=trace.problem_id, what=trace.id, reason="unlikely"))
        else:
            rows.append(Example(
                problem_id=trace.problem_id, prompt=trace.prompt, completion=trace.text, trace_id=trace.id,
                prompt_ids=encode(trace.prompt), completion_ids=list(trace.token_ids), old_logprobs=theirs,
            ))
    return rows
"""
GUESSING = """
from pipeline.asks import MonteCarlo, start
from pipeline.generate import GenerateSettings

class Settings(GenerateSettings):
    pass

def generate(question, settings, given):
    counts = yield MonteCarlo(start(question), by=settings.by, n=2)
    return counts
"""
ENTRIES = """[ratchet.label]
roll = stranger_roll
reuse = stranger_reuse
[ratchet.select]
asking = stranger_asking
[ratchet.generate]
guessing = stranger_guessing
"""


@pytest.fixture(autouse=True)
def package(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installed package with four methods."""
    site = tmp_path_factory.mktemp("site")
    for name, code in (("roll", ROLL), ("reuse", REUSE), ("asking", ASKING), ("guessing", GUESSING)):
        (site / f"stranger_{name}.py").write_text(code)
    info = site / "stranger-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: stranger\nVersion: 1\n")
    (info / "entry_points.txt").write_text(ENTRIES)
    monkeypatch.syspath_prepend(str(site))
    importlib.invalidate_caches()
    yield
    methods.method.cache_clear()
    methods.module_of.cache_clear()
    for name in ("roll", "reuse", "asking", "guessing"):
        sys.modules.pop(f"stranger_{name}", None)


STAGES = {
    "sample": {"generate": "sample", "by": "policy", "n": 2, "chunk": 16},
    "roll": {"label": "roll", "from": "sample"},
    "reuse": {"label": "reuse", "from": ["sample", "roll"]},
    "rows": {"select": "asking", "from": "reuse", "on_empty": "continue"},
    "measure": {"evaluate": "accuracy", "of": "policy", "split": "dev"},
}
FINALLY = {
    "again": {"generate": "sample", "by": "policy", "n": 3, "split": "test"},
    "judged": {"label": "outcome", "from": "again"},
    "final": {
        "evaluate": "accuracy",
        "of": "policy",
        "split": "test",
        "from": "judged",
        "votes": ["majority"],
    },
}


def run(path: Path) -> Path:
    workspace = Workspace(Path("data"), Path("checkpoints"))
    with session(load(path), Console(quiet=True, main=False), Processes(), workspace) as working:
        run_loop(working)
    return Path("data") / "tiny"


def test_a_run_of_hooks(write_recipe: Callable[..., Path], tiny: Path) -> None:
    models = {"policy": {"base": str(tiny), "lora": {"r": 4}}}
    path = write_recipe(rounds=1, models=models, stages=STAGES, **{"finally": FINALLY})
    folder = run(path)
    first = folder / "round-001"
    traces = list(StageFolder(first / "sample").read(Trace))
    rolled = list(StageFolder(first / "roll").read(Trace))
    assert {one.parent for one in rolled} == {trace.id for trace in traces}
    labels = list(StageFolder(first / "reuse").read(Label))
    assert {label.trace_id for label in labels} == {trace.id for trace in traces}, "no roll-out was labelled"
    assert {label.value for label in labels} == {0.0, 1.0}
    rows = list(StageFolder(first / "rows").read(Example))
    assert rows
    assert all(len(row.old_logprobs or ()) == len(row.completion_ids) for row in rows)
    metrics = {k: v for row in read(folder / "metrics.jsonl") for k, v in row["metrics"].items()}
    assert metrics["rows/given"] == len(traces)
    assert metrics["rows/charged/policy"] > 0
    # the labelled traces themselves were measured: nothing was written for it
    judged = list(StageFolder(folder / "final-001" / "judged").read(Label))
    assert metrics["final/accuracy/sampled"] == pytest.approx(
        sum(bool(one.correct) for one in judged) / len(judged)
    )
    assert "final/accuracy/majority" in metrics
    assert "final/charged/policy" not in metrics

    before = tree_hash(folder)
    for gone in ("roll", "rows"):  # a stage made again from the same inputs is the same
        (first / gone / "manifest.json").unlink()
        for sidecar in (first / gone).glob("*.json"):
            if sidecar.name != "plan.json":
                sidecar.unlink()
    run(path)
    assert tree_hash(folder) == before


def test_only_who_sees_gold_may_ask_how_often_it_ends_right(
    write_recipe: Callable[..., Path], tiny: Path
) -> None:
    models = {"policy": {"base": str(tiny)}}
    path = write_recipe(models=models, stages={"sample": {"generate": "guessing"}}, **{"finally": {}})
    with pytest.raises(TypeError, match="MonteCarlo sees gold: only a label stage may ask it"):
        run(path)
