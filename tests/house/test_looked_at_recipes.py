"""Recipes of verifiers beside reward models, of tokens drawn otherwise, and of pauses: run small, to their ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_recipes_run import CHECKPOINTS, COUNTDOWN, DATA, RECIPES, run

from pipeline.commands.check import check
from pipeline.errors import DamagedData
from pipeline.rows import Label, Trace
from pipeline.run.status import run_status
from pipeline.store.folder import StageFolder
from pipeline.store.workspace import Workspace

SOLVED = ["before.samples.problems=24", "before.samples.n=3", "before.samples.temperature=1.5"]
PROBE = [*SOLVED, "before.learn.layer=1", "models.prm.base={tiny}"]


def finals(name: str, stage: str, kind: type) -> list[Any]:
    return list(StageFolder(DATA / name / "final-000" / stage).read(kind))


def small(name: str, tiny: Path, *more: str) -> str:
    return run(
        name,
        f"models.policy.base={tiny}",
        *COUNTDOWN,
        "task.test=6",
        *(one.format(tiny=tiny) for one in more),
    )


def test_a_probe_votes(place: Path, tiny: Path) -> None:
    small("probe_countdown", tiny, *PROBE, "finally.quality.problems=4", "finally.votes.samples=2")
    metrics = run_status("probe_countdown", Workspace(DATA, CHECKPOINTS))["final"]["metrics"]
    assert 0 <= metrics["votes/accuracy/weighted"] <= 1
    assert (CHECKPOINTS / "probe_countdown/round-000/prm/probe.safetensors").is_file()


def test_a_probe_is_a_critic(place: Path, tiny: Path) -> None:
    small(
        "self_check_countdown",
        tiny,
        *PROBE,
        "finally.asked.n=6",
        "finally.asked.split=train",
        "finally.asked.problems=8",
        "finally.majority.split=train",
        "finally.chosen.split=train",
    )
    labels = finals("self_check_countdown", "checked", Label)
    assert labels
    believed = ("accepted", "certain", "critic_silent")
    assert all((one.value == 1.0) == (one.reason in believed) for one in labels)
    assert {one.reason for one in labels} <= {*believed, "rejected", "not_asked"}


def test_pauses_go_with_the_adapter(place: Path, tiny: Path) -> None:
    """Round 2 samples from what round 1 trained with pauses; the base had none."""
    small(
        "pause_countdown", tiny, "rounds=2", "stages.learn.steps=2", "stages.learn.batch_size=8", "stages.sample.n=2",
        "problems_per_round=8",
    )  # fmt: skip
    said = json.loads((CHECKPOINTS / "pause_countdown/round-001/policy/pause.json").read_text())
    assert said["copies"] == 10
    [first, second] = [
        {
            t.prompt: t.prompt_hash
            for t in StageFolder(DATA / f"pause_countdown/round-00{n}/sample").read(Trace)
        }
        for n in (1, 2)
    ]
    standing = json.loads((DATA / "pause_countdown/round-001/gate.json").read_text())["standing"]["policy"]
    shared = first.keys() & second.keys()
    changed = {prompt for prompt in shared if first[prompt] != second[prompt]}
    assert changed == (shared if standing["round"] == 1 else set())  # only what stands has them


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("dola_real", ["task={{use: countdown, train: 4, dev: 2, test: 6}}"]),
        ("dola_countdown", ["task={{use: countdown, train: 24, dev: 2, test: 6}}", "before.learn.steps=2"]),
    ],
)
def test_dola_draws_otherwise_from_the_same_model(
    place: Path, tiny: Path, name: str, more: list[str]
) -> None:
    layers = "finally.dola.search={{generate: sample, temperature: 0, repetition_penalty: 1.2, dola: {{layers: [1]}}}}"
    bare = "finally.dola_bare.search={{generate: sample, temperature: 0, dola: {{layers: [0, 1], divergence: released}}}}"
    small(name, tiny, layers, bare, *more)
    texts = {
        stage: [one.text for one in finals(name, stage, Trace)] for stage in ("as_it_is", "penalised", "dola")
    }
    assert all(len(found) == 6 for found in texts.values())
    assert len({json.dumps(found) for found in texts.values()}) > 1
    assert all(max(one.logprobs) <= 0 for one in finals(name, "dola", Trace))


def test_claims_are_looked_up(place: Path, tiny: Path) -> None:
    pytest.importorskip("bm25s", reason="needs ratchet-lm[evidence]")
    facts = place / "facts.txt"
    facts.write_text("3 + 4 = 7 and 7 * 2 = 14\n\nan umbrella keeps the rain off")
    given = [f"finally.checked.store={facts}", "finally.checked.least_words=1"]
    small("evidence_csqa", tiny, "task={{use: countdown, train: 4, dev: 2, test: 6}}", *given)
    labels = finals("evidence_csqa", "checked", Label)
    assert labels
    assert all(one.reason.startswith("coverage ") for one in labels)
    assert all(one.value is not None for one in labels)  # unknown: 0.5


def test_a_store_with_a_measured_problem_stops_the_stage(place: Path, tiny: Path) -> None:
    """Before the first claim is read; and a store that is not there before anything runs."""
    facts = place / "facts.txt"
    problems, _ = check([RECIPES / "evidence_csqa.yaml"], [f"finally.checked.store={facts}"])
    assert any("facts.txt: no such file" in line for line in problems), problems
    from pipeline.tasks.countdown import Settings, Task

    task = Task(Settings(use="countdown", train=4, dev=2, test=6))
    unseen = next(problem for problem in task.problems() if problem.split == "test")
    facts.write_text(f"Some rivers flow north.\n\nIt is said: {unseen.question} It is so.")
    with pytest.raises(DamagedData) as found:
        small(
            "evidence_csqa",
            tiny,
            "task={{use: countdown, train: 4, dev: 2, test: 6}}",
            f"finally.checked.store={facts}",
        )
    assert "finally.checked: store:" in str(found.value)
    assert f"passage 2 holds the question of the test problem {unseen.id}" in str(found.value)
    assert found.value.exit_code == 3
