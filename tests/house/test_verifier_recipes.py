"""Verifiers in recipes: what `check` says of them, and an implicit one wherever a reward model may stand."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.commands.check import check
from pipeline.commands.export import export_model
from pipeline.engine.start import start_engine
from pipeline.errors import RecipeError
from pipeline.loop import run_loop
from pipeline.processes.group import Processes
from pipeline.report.console import Console
from pipeline.rows import Node, Trace
from pipeline.run.session import find, session
from pipeline.run.status import run_status
from pipeline.store.folder import StageFolder
from pipeline.store.workspace import Workspace
from pipeline.vote import weight

DATA, CHECKPOINTS = Path("data"), Path("checkpoints")
OUTCOMES = {
    "probe": {"generate": "sample", "by": "policy", "n": 2, "chunk": 16},
    "credit": {"label": "outcome", "from": "probe"},
    "seeds": {"select": "step_values", "from": "credit", "use": "correct"},
}
SEARCH = {"generate": "beam", "by": "policy", "value": "prm", "n": 4, "width": 2, "chunk": 16}


def models(tiny: Path, **prm: Any) -> dict[str, Any]:
    return {
        "policy": {"base": str(tiny), "lora": {"r": 4}},
        "prm": {"base": str(tiny), "lora": {"r": 4}, **prm},
    }


def trained(by: str, **more: Any) -> dict[str, Any]:
    return OUTCOMES | {
        "first": {"train": by, "model": "prm", "from": "seeds", "steps": 3, "batch_size": 8, **more}
    }


FAULTS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], str]] = {
    "a value of a token head": (
        {"head": "token"}, trained("prm", target="value"), {}, "before.first: target value: head token is a probability",
    ),
    "a language model beside a value head": (
        {"head": "value"}, trained("orm", lm_weight=1), {}, "before.first: lm_weight 1: head value has no language model",
    ),
    "an implicit one without its base": (
        {"head": "implicit", "lora": "none"}, trained("implicit"), {}, "before.first: lora: none trains all weights",
    ),
    "an implicit one with biases": (
        {"head": "implicit", "lora": {"r": 4, "bias": "all"}}, trained("implicit"), {},
        "models.prm.lora.bias: all: trained biases stay",
    ),
    "another trainer's head": (
        {"head": "implicit"}, trained("orm"), {}, "models.prm has head: implicit; train: orm trains head: value or head: token",
    ),
    "an implicit one that nobody trained": (
        {"head": "implicit"}, OUTCOMES, {"stages": {"search": SEARCH}}, "prm has no trained head by then",
    ),
    "smoothed numbers": (
        {"head": "value"}, trained("prm", target="value", label_smoothing=0.1), {}, "label_smoothing: 0.1 is for a cross-entropy",
    ),
    "sums of log-odds taken for probabilities": (
        {"head": "implicit"}, trained("implicit"),
        {
            "stages": {
                "search": SEARCH | {"aggregate": "sum_logit"},
                "measure": {"evaluate": "accuracy", "of": "policy", "from": "search", "votes": ["weighted"]},
            }
        },
        "stages.measure: takes the scores of search as probability and they are log-odds: set its aggregate",
    ),
    "a probe that descends": (
        {"head": "probe"}, trained("probe"), {}, "has no such key: leave it out",
    ),
    "a probe on a server": (
        {"head": "probe", "engine": {"server": ["http://localhost:1"]}}, {}, {},
        "models.prm: head: probe cannot be served",
    ),
    "rows of ours for a selector": (
        {"head": "value"},
        {**OUTCOMES, "seeds": {"select": "step_values", "from": ["credit", {"file": "r.yaml", "row": "Trace"}]}},
        {}, "before.seeds.from: r.yaml: rows (row: Trace) are read by a training alone",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", FAULTS)
def test_what_does_not_fit_is_said_before_anything_runs(
    write_recipe: Callable[..., Path], tiny: Path, kind: str
) -> None:
    prm, before, more, words = FAULTS[kind]
    path = write_recipe(
        models=models(tiny, **prm), before=before, **{"stages": {}, "finally": {}, "rounds": 1} | more
    )
    problems, _ = check([path], [])
    assert any(words in line for line in problems), problems


def test_an_implicit_model_guides_votes_and_is_measured(
    write_recipe: Callable[..., Path], tiny: Path
) -> None:
    """Searches, best of n by votes, and prm_quality; each end's score is the engine's own."""
    stages = {
        "search": SEARCH,
        "measure": {
            "evaluate": "accuracy", "of": "policy", "split": "dev", "samples": 2, "value": "prm",
            "votes": ["best", "weighted", {"use": "weighted", "aggregate": "mean_logit"}],
        },
        "quality": {  # three steps of training are not held to a limit
            "evaluate": "prm_quality", "of": "prm", "split": "dev", "samples": 1, "min_auc": 0, "min_sd": 0,
            "max_length_correlation": 1,
        },
    }  # fmt: skip
    path = write_recipe(
        models=models(tiny, head="implicit"), before=trained("implicit", learning_rate=3e-2), stages=stages, rounds=1,
        **{"finally": {}},
    )  # fmt: skip
    with session(
        find(str(path), [], None, DATA),
        Console(file=io.StringIO()),
        Processes(),
        Workspace(DATA, CHECKPOINTS),
    ) as working:
        run_loop(working)
    metrics = run_status("tiny", Workspace(DATA, CHECKPOINTS))["rounds"][1]["metrics"]
    assert 0 <= metrics["measure/accuracy/weighted-mean_logit"] <= 1
    assert 0 < metrics["quality/score/mean"] < 1  # a probability: log-odds went through the logistic
    engine = start_engine(tiny, CHECKPOINTS / "tiny/round-000/prm", head="implicit", dtype="float32")
    folder = StageFolder(DATA / "tiny/round-001/search")
    assert all(0 <= node.value <= 1 for node in folder.read(Node) if node.value is not None)
    seen = set()
    for trace in list(folder.read(Trace))[:20]:
        prompt = engine.encode(trace.prompt)
        ids = [*prompt, *trace.token_ids]
        [[score]] = engine.score([(ids, [len(ids) - 1])], [(None, len(prompt))])
        assert trace.score == pytest.approx(weight(score, "log_odds"), abs=1e-6)
        seen.add(round(score, 4))
    assert len(seen) > 1  # it says something


def test_a_probe_guides_votes_and_is_measured(write_recipe: Callable[..., Path], tiny: Path) -> None:
    """From a recipe: fitted, its file beside its base, searched, voted and measured by; `export` says what it is."""
    learn = {"first": {"train": "probe", "model": "prm", "from": "seeds", "layer": 1}}
    stages = {
        "search": SEARCH,
        "measure": {
            "evaluate": "accuracy", "of": "policy", "split": "dev", "samples": 2, "value": "prm", "problems": 8,
            "votes": ["best", "weighted"],
        },
        "quality": {
            "evaluate": "prm_quality", "of": "prm", "split": "dev", "samples": 1, "min_auc": 0, "min_sd": 0,
            "max_length_correlation": 1, "problems": 8,
        },
    }  # fmt: skip
    path = write_recipe(
        models=models(tiny, head="probe"), before=OUTCOMES | learn, stages=stages, rounds=1, **{"finally": {}}
    )
    with session(
        find(str(path), [], None, DATA),
        Console(file=io.StringIO()),
        Processes(),
        Workspace(DATA, CHECKPOINTS),
    ) as working:
        run_loop(working)
    metrics = run_status("tiny", Workspace(DATA, CHECKPOINTS))["rounds"][1]["metrics"]
    assert 0 <= metrics["measure/accuracy/best"] <= 1
    assert 0 < metrics["quality/score/mean"] < 1
    engine = start_engine(tiny, CHECKPOINTS / "tiny/round-000/prm", head="probe", dtype="float32")
    seen = set()
    for trace in list(StageFolder(DATA / "tiny/round-001/search").read(Trace))[:10]:
        ids = [*engine.encode(trace.prompt), *trace.token_ids]
        assert engine.score([(ids, [len(ids) - 1])])[0][0] == pytest.approx(trace.score, abs=1e-6)
        seen.add(trace.score)
    assert len(seen) > 1
    with pytest.raises(RecipeError, match="head: probe is read against its base"):
        export_model("tiny", 1, "prm", None, Workspace(DATA, CHECKPOINTS))
