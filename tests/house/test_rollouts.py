"""Roll-outs of one labeller read by the next, in a real run of the tiny policy: the same labels, the same tokens charged,
nothing spent; and what `check` says of a `reuse` that cannot be."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_hooks import run

from pipeline.errors import RecipeError
from pipeline.loop import run_loop
from pipeline.processes.group import Processes
from pipeline.recipe.read import load
from pipeline.report.console import Console
from pipeline.rows import Dropped, Label, Node, Trace
from pipeline.run.record import read
from pipeline.run.session import session
from pipeline.store.folder import StageFolder
from pipeline.store.run_folder import tree_hash
from pipeline.store.workspace import Workspace

SHEPHERD = {"label": "shepherd", "from": "sample", "n": 3}
STAGES = {
    "sample": {"generate": "sample", "by": "policy", "n": 2, "chunk": 16},
    "credit": SHEPHERD,
    "alone": SHEPHERD | {"n": 5, "keep_rollouts": False},
    "again": SHEPHERD | {"from": ["sample", "credit"], "reuse": ["credit"]},
    "longer": SHEPHERD | {"n": 5, "from": ["sample", "credit"], "reuse": ["credit"]},
    "gained": {"label": "advantage", "from": "longer", "reuse": ["longer"], "n": 5, "scout": 0},
}


def said(folder: Path, stage: str) -> list[Label]:
    """A stage's labels as any stage would have written them."""
    return [replace(row, stage="", labeller="") for row in StageFolder(folder / stage).read(Label)]


def test_a_second_labeller_spends_nothing_and_says_the_same(
    write_recipe: Callable[..., Path], tiny: Path
) -> None:
    models = {"policy": {"base": str(tiny), "lora": {"r": 4}}}
    path = write_recipe(rounds=1, models=models, stages=STAGES, **{"finally": {}})
    folder = run(path)
    first = folder / "round-001"
    metrics = {k: v for row in read(folder / "metrics.jsonl") for k, v in row["metrics"].items()}
    timings = map(json.loads, (folder / "timing.jsonl").read_text().splitlines())
    spent = {row["stage"]: row["spent"].get("written", {}).get("policy", 0) for row in timings}
    charged = {stage: metrics[f"{stage}/charged/policy"] for stage in STAGES}

    traces = list(StageFolder(first / "sample").read(Trace))
    drawn = list(StageFolder(first / "credit").read(Trace))
    assert said(first, "again") == said(first, "credit")
    assert charged["again"] == charged["credit"] == spent["credit"] > 0
    assert spent["again"] == 0
    assert list(StageFolder(first / "again").read(Trace)) == [], "what was read stands already"

    assert said(first, "longer") == said(first, "alone")
    assert charged["longer"] == charged["alone"] == spent["alone"]
    assert 0 < spent["longer"] == charged["longer"] - charged["credit"]
    assert len(said(first, "longer")) == len(traces)

    by_id = {trace.id: trace for trace in traces}
    assert drawn
    for row in drawn:  # a roll-out begins with the trace it names, up to what it was charged for
        begun = row.token_ids[: len(row.token_ids) - row.tokens_charged]
        assert begun
        assert by_id[row.parent].token_ids[: len(begun)] == begun
    assert charged["credit"] == sum(row.tokens_charged for row in drawn)
    asked = [f"{name}/{count}" for name in ("credit", "again") for count in ("rollouts", "rollouts/right")]
    assert metrics[asked[0]] == metrics[asked[2]] >= len(drawn)
    assert 0 < metrics[asked[1]] == metrics[asked[3]] < metrics[asked[0]]
    assert 3 * metrics["longer/rollouts"] == 5 * metrics["credit/rollouts"]
    assert any(any(x for x in row.step_scores or () if x) for row in said(first, "credit"))
    gains = [row.advantage for row in said(first, "gained") if row.advantage]
    assert len(gains) == len(traces)

    before = tree_hash(folder)
    for gone in ("longer", "gained"):
        (first / gone / "manifest.json").unlink()
    for sidecar in (first / "longer").glob("train-*.json"):
        sidecar.unlink()
    run(path)
    assert tree_hash(folder) == before


def test_roll_outs_that_a_limit_cuts_are_told(
    write_recipe: Callable[..., Path], tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = {"policy": {"base": str(tiny), "lora": {"r": 4}}}
    stages = {"sample": STAGES["sample"], "credit": SHEPHERD | {"max_tokens": 12}}
    path = write_recipe(rounds=1, models=models, stages=stages, **{"finally": {}})
    workspace = Workspace(Path("data"), Path("checkpoints"))
    with session(load(path), Console(), Processes(), workspace) as working:
        run_loop(working)
    said = " ".join(" ".join(capsys.readouterr()).split())
    assert re.search(
        r"credit: [\d,]+ of [\d,]+ roll-outs were cut by their limit \(its max_tokens is 12\)", said
    )


def test_a_completer_that_cannot_read_a_step_is_counted_by_trace(
    write_recipe: Callable[..., Path], tiny: Path, tmp_path: Path
) -> None:
    """Its tokenizer has no word `left`, which the first step of a play holds."""
    other = tmp_path / "other"
    shutil.copytree(tiny, other)
    tokenizer = (other / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(tokenizer.replace('"left"', '"right"'))
    models = {"policy": {"base": str(tiny)}, "completer": {"base": str(other)}}
    given = SHEPHERD | {"by": "completer"}
    stages = {
        "sample": STAGES["sample"],
        "credit": given,
        "gained": given | {"label": "advantage", "scout": 1},
        "kept": given | {"label": "relative"},
        "tree": given | {"label": "omega", "filter": 0, "searches": 2, "temperature": 1.5},
    }
    folder = run(write_recipe(rounds=1, models=models, stages=stages, **{"finally": {}}))
    first = folder / "round-001"
    traces = {trace.id for trace in StageFolder(first / "sample").read(Trace)}
    for stage in ("credit", "gained", "kept", "tree"):
        dropped = list(StageFolder(first / stage).read(Dropped))
        labelled = {row.trace_id for row in StageFolder(first / stage).read(Label)} & traces
        reasons = {row.reason for row in dropped}
        if stage == "tree":  # it searches wrong traces alone, of problems that the completer sometimes solves
            assert reasons <= {"not_readable", "truncated"}
        else:
            assert reasons == {"not_readable"}
        assert labelled | {row.what for row in dropped} == traces
        assert len(labelled) + len(dropped) == len(traces)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"again": {"reuse": ["sample"]}}, r"again.reuse: sample leaves no roll-outs \(generate: sample\)"),
        ({"again": {"reuse": ["credt"]}}, "again.reuse: credt is not in from .did you mean credit"),
        ({"again": {"temperature": 0.5}}, "credit draws by policy at temperature 1, this stage by policy at"),
        ({"credit": {"keep_rollouts": False}}, r"credit leaves no roll-outs \(keep_rollouts: false\)"),
        (
            {"again": {"by": "other"}},
            "by policy at temperature 1, this stage by other at temperature 1: they share no",
        ),
        ({"credit": {"n": 0}}, "credit.n: input should be greater than or equal to 1, got 0"),
    ],
)
def test_a_reuse_that_cannot_be_is_a_sentence(
    change: dict[str, dict[str, Any]], words: str, write_recipe: Callable[..., Path], tiny: Path
) -> None:
    stages = {
        name: stage | change.get(name, {})
        for name, stage in STAGES.items()
        if name in ("sample", "credit", "again")
    }
    models = {"policy": {"base": str(tiny)}, "other": {"base": str(tiny)}}
    with pytest.raises(RecipeError, match=words):
        load(write_recipe(rounds=1, models=models, stages=stages, **{"finally": {}}))


def test_a_training_between_two_labellers_is_a_sentence(
    write_recipe: Callable[..., Path], tiny: Path
) -> None:
    path = write_recipe()
    data = yaml.safe_load(path.read_text())
    data["before"] = {
        "try": STAGES["sample"],
        "first": SHEPHERD | {"from": "try"},
        "some": {"select": "correct", "from": "first"},
        "teach": {"train": "sft", "model": "policy", "from": "some", "steps": 1},
        "second": SHEPHERD | {"from": ["try", "first"], "reuse": ["first"]},
    }
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    with pytest.raises(RecipeError, match="second.reuse: teach trains policy after first drew its roll-outs"):
        load(path)
    data["stages"]["third"] = SHEPHERD | {"from": ["sample", "first"], "reuse": ["first"]}
    del data["before"]["second"]
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    with pytest.raises(RecipeError, match="third.reuse: first is in before: only stages of one section"):
        load(path)


def test_problems_without_a_label_are_left_out_of_what_is_measured(
    write_recipe: Callable[..., Path], tiny: Path
) -> None:
    """DiVeRSe's labels without the task's own solution: none where no sample is right."""
    stages = {
        "sample": STAGES["sample"],
        "check": {"label": "outcome", "from": "sample"},
        "near": {"label": "match", "from": "check", "gold": False},
    }
    last = {"truth": {"evaluate": "label_quality", "from": "near"}}
    models = {"policy": {"base": str(tiny)}}
    folder = run(write_recipe(rounds=1, models=models, stages=stages, **{"finally": last}))
    near = StageFolder(folder / "round-001" / "near")
    known = {label.problem_id for label in near.read(Label) if label.step_scores}
    tried = {trace.problem_id for trace in StageFolder(folder / "round-001" / "sample").read(Trace)}
    assert 0 < len(known) < len(tried)
    [final] = [row["metrics"] for row in read(folder / "metrics.jsonl") if row.get("final")]
    assert final["truth/problems"] == len(known)


def test_the_report_of_labels_alone_says_what_there_was(
    write_recipe: Callable[..., Path], tiny: Path, ratchet: Any
) -> None:
    """No rounds, no search, no health check of the reward model: none of these may be told of."""
    lora = {"r": 4}
    models = {
        "policy": {"base": str(tiny), "lora": lora},
        "prm": {"base": str(tiny), "head": "value", "lora": lora},
    }
    before = {
        "sample": STAGES["sample"],
        "tree": {"label": "omega", "from": "sample", "n": 2, "filter": 0},
        "rows": {"select": "step_values", "from": "tree"},
        "learn": {"train": "prm", "model": "prm", "from": "rows", "steps": 1, "batch_size": 4},
    }
    truth = {"truth": {"evaluate": "label_quality", "from": "tree"}}
    path = write_recipe(rounds=0, models=models, before=before, stages={}, **{"finally": truth})
    code, said = ratchet("run", path)
    assert code == 0
    assert "next: ratchet report tiny" in said
    assert "rounds=2" not in said, "which this recipe refuses: it has no stages"
    assert ratchet("report", "tiny")[0] == 0
    page = re.sub(r"<[^>]+>", " ", Path("data/tiny/report.html").read_text(encoding="utf-8"))
    page = " ".join(page.split())
    nodes = len(list(StageFolder(Path("data/tiny/round-000/tree")).read(Node)))
    assert f"the labels of tree made trees of prefixes, {nodes:,} nodes: `ratchet show tiny 0 tree`" in page
    assert "trees are shown" not in page
    assert "Nothing of that round checked its health." in page
    assert "two more rounds" not in page
    depths = re.search(r"labels that are true, at the end Numbers (.{0,80})", page)
    assert depths is not None
    assert "95 %" not in depths[1], "there is no interval of one depth"
