"""Models that talk about their own work, through a chat template: a tiny random one whose likeliest pieces are answers,
verdicts and scores goes through every generator and judge over word problems, in one run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from chat_world import SAID, TASK, rows, run
from real_world import chat

from pipeline.asks import Said
from pipeline.rows import Dropped, Example, Label, Node, Problem, Trace
from pipeline.tasks import words
from pipeline.tasks._acts import LABELS, messages

GENERATORS: dict[str, dict[str, Any]] = {
    "two_turn": {"n": 5},
    "self_refine": {"n": 2, "attempts": 3, "first_temperature": 1, "temperature": 1, "check_temperature": 1},
    "check_context": {"n": 2, "checks": 2},
    "mctsr": {"rollouts": 3, "scale": "five", "dummy": ""},
    "sr_mcts": {"rollouts": 3},
    "reflect": {"n": 3, "keep_untidy": True},
    "revise": {"chains": 2, "length": 3},
    "rstar": {
        "actions": ["step", "rest", "ask", "again", "rephrase"], "rollouts": 2, "votes": 2, "steps": 1,
        "subquestions": 1, "answers": 2, "max_depth": 3,
    },
}  # fmt: skip


def test_a_chat_model_talks_in_every_way(chatting: Path, place: Path) -> None:
    """All generators, both judges of what `two_turn` wrote, and a training on it."""
    stages: dict[str, Any] = {name: {"generate": name, **settings} for name, settings in GENERATORS.items()}
    stages |= {
        "turns": {"evaluate": "turns", "of": "policy", "split": "dev", "search": {"generate": "two_turn"}},
        "self_verify": {"label": "self_verify", "from": "two_turn", "n": 3, "keep": True},
        "judge": {"label": "judge", "from": "two_turn", "samples": 3},
        "rows": {"select": "unfiltered", "from": "two_turn", "max_per_problem": None},
        "learn": {"train": "sft", "model": "policy", "from": "rows", "steps": 1, "batch_size": 2},
    }
    models = {"policy": {"base": str(chatting), "lora": {"r": 2}}}
    recipe = {"name": "chatted", "task": TASK, "models": models, "rounds": 1, "stages": stages}
    path = place / "chatted.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    status, talked = run(path), Path("data/chatted/round-001")
    task = words.Task(words.Settings(**TASK))
    problems = {problem.id: problem for problem in task.problems()}
    acts = set()
    for stage in GENERATORS:
        traces = rows(talked, stage, Trace)
        assert {trace.problem_id for trace in traces} == {
            p.id for p in problems.values() if p.split == "train"
        }
        by_id = {trace.id: trace for trace in traces}
        for trace in traces:
            problem = problems[trace.problem_id]
            looked_at(trace, problem, task)
            acts.add(trace.act)
            if trace.parent in by_id and stage != "revise":
                assert by_id[trace.parent].text.strip() in trace.prompt, trace.id
    assert {"critique", "revise", "rewrite", "judge", "compare", "reflect"} <= acts
    assert rows(talked, "mctsr", Node)
    assert rows(talked, "rstar", Node)  # its smaller questions are steps of the tree, not traces
    judged(talked, task, problems)
    learned(talked)
    assert 0 <= status["rounds"][1]["metrics"]["turns/accuracy/t2"] <= 1


def looked_at(trace: Trace, problem: Problem, task: words.Task) -> None:
    """Its prompt is the template's, ends where the model is to speak, and says nothing of the solution."""
    asked = chat(task.messages(problem.question))
    assert trace.prompt.startswith(("<|user|>", "<|system|>"))
    assert trace.prompt.endswith("<eos><|assistant|>")
    assert problem.question in trace.prompt
    if not trace.act and not trace.turn:
        assert trace.prompt == asked
    else:
        assert LABELS[trace.act or "revise"] not in trace.prompt  # no seed's plain label
    written = problem.solution.splitlines()
    assert not any(line in trace.prompt for line in written if line not in SAID)
    assert len(trace.token_ids) == len(trace.logprobs) > 0


def judged(folder: Path, task: words.Task, problems: dict[str, Problem]) -> None:
    """Verdicts and points come from the kept turns alone; what got none is counted."""
    attempts = {trace.id: trace for trace in rows(folder, "two_turn", Trace)}
    for stage, act in (("self_verify", "critique"), ("judge", "judge")):
        labels, lost = rows(folder, stage, Label), rows(folder, stage, Dropped)
        assert {row.trace_id for row in labels} | {row.what for row in lost} >= set(attempts)
        turns = rows(folder, stage, Trace)
        assert turns
        for turn in turns:
            answer = attempts[turn.parent]
            question = problems[turn.problem_id].question
            assert turn.prompt == chat(messages(task, question, act, [Said(answer.text)]))
        for row in labels:
            said = [turn.answer for turn in turns if turn.parent == row.trace_id and turn.answer is not None]
            if said:
                told = [float(one) / 5 if act == "judge" else float(one == "right") for one in said]
                assert row.value == pytest.approx(sum(told) / len(told))


def learned(folder: Path) -> None:
    """A turn is trained on under what it was shown, and of its own tokens alone."""
    turns = {trace.id: trace for trace in rows(folder, "two_turn", Trace)}
    kept = rows(folder, "rows", Example)
    assert {turns[row.trace_id].turn for row in kept} == {0, 1}
    for row in kept:
        trace = turns[row.trace_id]
        assert (row.prompt, row.completion_ids) == (trace.prompt, trace.token_ids)
        if trace.parent:
            assert turns[trace.parent].text.strip() in row.prompt


@pytest.mark.full
def test_a_chat_model_is_warmed_up_on_conversations_that_rules_make(chatting: Path, place: Path) -> None:
    small = ["task.train=8", "task.dev=1", "task.test=2", "task.max_tokens=14", "problems_per_round=3"]
    small += ["stages.talk.problems=4", "stages.learn.steps=1", "stages.learn.batch_size=2"]
    small += ["stages.learn.warmup_steps=0", "models.policy.lora.r=2", "stages.sample.n=4"]
    recipe = Path(__file__).parents[2] / "recipes" / "self_words.yaml"
    status = run(recipe, f"models.policy.base={chatting}", *small)
    first, second = (Path("data/self_words/round-001"), Path("data/self_words/round-002"))
    talk = {row.id: row for row in rows(first, "talk", Trace)}
    assert len(talk) == 4
    assert all(row.prompt.endswith("<eos><|assistant|>") for row in talk.values())
    assert {row.trace_id for row in rows(first, "words", Example)} <= set(talk)
    assert not (second / "talk").exists()
    for number, folder in (
        (1, first),
        (2, second),
    ):  # greedy, this model ends at once: counted, never a verdict
        asked = {trace.id for trace in rows(folder, "sample", Trace)}
        told = {row.trace_id for row in rows(folder, "verify", Label)}
        assert told | {row.what for row in rows(folder, "verify", Dropped)} >= asked
        assert status["rounds"][number]["metrics"]["trust/verdicts"] == len(told)
    final = status["final"]["metrics"]
    assert {"turns/accuracy/t2", "turns/accuracy/t2@0"} <= set(final)
