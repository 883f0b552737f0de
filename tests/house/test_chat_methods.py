"""Methods that judge, imagine and search, through a chat template, in one small run: what is rendered is the acting
model's template, once; what no verdict, number or question can be read from is counted; turns are learned alone."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import chat_world
import pytest
import yaml
from chat_world import rows, run
from real_world import chat

from pipeline.asks import Said
from pipeline.rows import Dropped, Example, Label, Node, Pair, Problem, Trace
from pipeline.store.run_folder import tree_hash
from pipeline.tasks import words
from pipeline.tasks._acts import messages
from pipeline.vote._preferences import PROMPT, shown

TASK = words.Task(words.Settings(**chat_world.TASK))
PROBLEMS = {problem.id: problem for problem in TASK.problems()}
ONE = {"steps": 1, "batch_size": 4}
BEFORE: dict[str, Any] = {
    "guess": {"generate": "sample", "n": 8},
    "credit": {"label": "outcome", "from": "guess"},
    "ends": {"select": "step_values", "from": "credit", "use": "correct"},
    "values": {"train": "prm", "model": "value", "target": "value", "from": "ends", **ONE},
    "outcomes": {"train": "orm", "model": "orm", "from": "ends", "loss": "bce", **ONE},
    "chance": {"label": "judge", "from": "guess", "how": "chance"},
    "checked": {"label": "judge", "from": "guess", "how": "chance", "after": "check"},
    "pairs": {"select": "pairs", "from": "chance", "score": "value", "max_per_problem": 2},
    "duels": {"select": "duels", "from": "pairs", "by": "ranker"},
    "ranks": {"train": "dpo", "model": "ranker", "from": "duels", **ONE},
}
STAGES: dict[str, Any] = {
    "imagine": {"generate": "imagine", "n": 3, "reward": "r_zero", "votes": 2},
    "grown": {
        "generate": "eta_mcts", "from": "imagine", "value": "value", "orm": "orm", "simulations": 2, "rollouts": 2,
        "max_depth": 2, "distance": 2,
    },
    "believed": {"generate": "world_model", "simulations": 2, "n": 2, "max_depth": 2, "critique_temperature": 1},
    "ruled": {"generate": "true_world", "simulations": 2, "n": 2, "max_depth": 2},
    "berry": {"generate": "sr_mcts", "judge": "ranker", "rollouts": 2},
    "talk": {"generate": "two_turn", "n": 10},
    "refined": {
        "generate": "self_refine", "n": 6, "attempts": 2, "first_temperature": 1, "temperature": 1,
        "check_temperature": 1,
    },
    "spliced": {"generate": "reflect", "from": "refined", "spliced": True, "by": "taught", "n": 2},
    "thoughts": {"select": "unfiltered", "from": "spliced", "max_per_problem": None},
    "critics": {"label": "critic", "from": "talk", "value": "value", "outcome": "orm", "n": 2},
    "duel": {"label": "duel", "from": "talk", "by": "ranker", "most": 4},
    "verify": {"label": "self_verify", "from": "talk", "n": 1, "keep": True},
    "right": {"label": "outcome", "from": "talk"},
    "first": {"label": "shaped", "from": "right", "stage": 1, "reference": "policy@0"},
    "second": {"label": "shaped", "from": "right", "stage": 2, "reference": "policy@0"},
    "episodes": {"select": "episodes", "from": "second"},
    "skills": {"select": "quadruples", "from": "refined"},
    "fitting": {"select": "reflected", "from": "verify", "right": False, "r_ifd": "any", "below": 1e9},
    "misses": {"select": "near_miss", "from": "verify"},
    "reinforce": {"train": "policy_gradient", "model": "policy", "from": "episodes", **ONE},
    "teach": {"train": "sft", "model": "taught", "from": ["skills", "fitting", "misses", "thoughts"], **ONE},
    "turns": {"evaluate": "turns", "of": "policy", "from": "talk", "split": "train"},
    "trust": {"evaluate": "critique", "from": "verify"},
    "arms": {"evaluate": "verification", "of": "policy", "split": "dev", "attempts": 2, "tokens": 60},
    "gap": {"evaluate": "oracle_gap", "of": "policy", "oracle": "taught", "base": "policy@0", "split": "dev"},
}  # fmt: skip
CHATS = ("guess", "checked", "imagine", "grown", "believed", "ruled", "berry", "talk", "refined", "verify")


def before(turns: list[dict[str, str]]) -> str:
    """The prompt of chat turns: the start token once, then the turns."""
    return "<s>" + chat(turns)


def asked(problem_id: str, act: str = "", *said: Said) -> str:
    """The prompt of a turn about a problem."""
    question = PROBLEMS[problem_id].question
    return before(messages(TASK, question, act, said) if act else TASK.messages(question))


def test_a_chat_model_judges_imagines_and_searches(place: Path) -> None:
    golds = [p.solution.splitlines()[-1] + "\n" for p in PROBLEMS.values() if p.split == "train"]
    said = dict.fromkeys(golds, 2.4) | dict.fromkeys(("Score: 4", "Score: 1", "How many now?"), 2.2)
    said |= {"Verdict: right": 3.1, "Verdict: wrong": 2.8}
    base = {"base": str(chat_world.make(place / "base", said, end=2.2, brief=True)), "lora": {"r": 2}}
    heads = {"value": "value", "orm": "token", "ranker": "pair"}
    models = {"policy": base, "taught": base, **{name: base | {"head": head} for name, head in heads.items()}}
    recipe = {
        "name": "r",
        "task": chat_world.TASK,
        "models": models,
        "rounds": 1,
        "before": BEFORE,
        "stages": STAGES,
    }
    path = place / "r.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    metrics = run(path)["rounds"][1]["metrics"]
    folder = Path("data/r")
    whole = {name: folder / ("round-000" if name in BEFORE else "round-001") for name in (*BEFORE, *STAGES)}
    rendered(whole)
    duelled(whole)
    imagined(whole)
    counted(whole)
    learned(whole, place / "base")
    measured(whole, metrics)
    found = tree_hash(folder)
    run(path)
    assert tree_hash(folder) == found


def rendered(whole: dict[str, Path]) -> None:
    """Every turn begins with one start token and one mark of a user, and ends where the model is to speak."""
    for stage in CHATS:
        traces = rows(whole[stage], stage, Trace)
        assert traces, stage
        for trace in traces:
            assert trace.prompt.startswith("<s><|user|>")
            assert trace.prompt.count("<s>") == 1
            assert trace.prompt.endswith("<eos><|assistant|>")
            assert not any(mark in trace.text for mark in ("<s>", "<|user|>", "<|assistant|>", "<eos>"))
            if stage != "grown" and not (trace.act or trace.turn):
                assert trace.prompt == asked(trace.problem_id)
    assert rows(whole["berry"], "berry", Node)
    assert {node.value is None for node in rows(whole["berry"], "berry", Node) if node.depth} == {False}
    assert rows(whole["believed"], "believed", Node)


def duelled(whole: dict[str, Path]) -> None:
    """A judge of two learns and is asked in its own template: the question's message, both answers, one turn."""
    texts: dict[str, Trace] = {trace.id: trace for trace in rows(whole["guess"], "guess", Trace)}
    pairs = rows(whole["duels"], "duels", Pair)
    assert pairs
    for row in pairs:
        both = [texts[row.trace_id].text, texts[row.rejected_id].text]
        content = TASK.messages(PROBLEMS[row.problem_id].question)[-1]["content"]
        first, second = both if row.chosen == "yes" else both[::-1]
        assert row.prompt == before([{"role": "user", "content": shown(PROMPT, content, first, second)}])
        assert {row.chosen, row.rejected} == {"yes", "no"}
    values = [row.value for row in rows(whole["duel"], "duel", Label)]
    assert 0.0 in values
    assert 1.0 in values


def imagined(whole: dict[str, Path]) -> None:
    """Proposals are asked for in the template; what is none, or stands already, is counted; the rest is worked on."""
    traces, problems = rows(whole["imagine"], "imagine", Trace), rows(whole["imagine"], "imagine", Problem)
    for trace in traces:
        assert trace.prompt == asked(trace.problem_id, "propose", Said(PROBLEMS[trace.problem_id].question))
    labels = {row.trace_id: row for row in rows(whole["imagine"], "imagine", Label)}
    assert set(labels) == {trace.id for trace in traces}
    assert all((labels[one.id].value == -1) == (labels[one.id].reason == "no_question") for one in traces)
    lost = rows(whole["imagine"], "imagine", Dropped)
    assert len(problems) + len(lost) == len(traces)
    assert all(problem.answer is None for problem in problems)
    known = {problem.id: problem.question for problem in problems}
    for trace in rows(whole["grown"], "grown", Trace):
        assert trace.prompt == before(TASK.messages(known[trace.problem_id]))


def counted(whole: dict[str, Path]) -> None:
    """Each attempt has a label or a reason, never both; none without a verdict is scored."""
    for stage, given in (("checked", "guess"), ("critics", "talk"), ("duel", "talk"), ("verify", "talk")):
        wanted = {trace.id for trace in rows(whole[given], given, Trace) if trace.is_attempt}
        labels = [row.trace_id for row in rows(whole[stage], stage, Label)]
        lost = [row.what for row in rows(whole[stage], stage, Dropped)]
        assert labels, stage
        assert sorted([*labels, *lost]) == sorted(wanted), stage
    for stage in ("chance", "checked", "critics", "duel", "verify"):
        assert all(0 <= row.value <= 1 for row in rows(whole[stage], stage, Label)), stage
    for stage in ("checked", "verify"):
        said: dict[str, set[str | None]] = defaultdict(set)
        for turn in rows(whole[stage], stage, Trace):
            assert turn.act == "critique"
            said[turn.parent].add(turn.answer)
        labels = {row.trace_id: row for row in rows(whole[stage], stage, Label)}
        assert said
        for name, answers in said.items():
            assert (name in labels) == (answers != {None}), (stage, name)
    for name, label in {row.trace_id: row for row in rows(whole["verify"], "verify", Label)}.items():
        if label.reason != "no_answer":
            assert label.correct == (said[name] == {"right"})


def learned(whole: dict[str, Path], base: Path) -> None:
    """A turn's own tokens are learned, under the ids of what it was shown."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    start, speaks = tokenizer.convert_tokens_to_ids(["<s>", "<|assistant|>"])
    turns = {trace.id: trace for trace in rows(whole["talk"], "talk", Trace)}
    acts: dict[str, set[str]] = {}
    own: dict[str, dict[str, Trace]] = {
        "skills": {row.id: row for row in rows(whole["refined"], "refined", Trace)}
    }
    for stage in ("episodes", "skills", "fitting", "misses"):
        kept = rows(whole[stage], stage, Example)
        traces = own.get(stage, turns)
        acts[stage] = {traces[row.trace_id].act for row in kept}
        for row in kept:
            assert row.completion_ids == traces[row.trace_id].token_ids
            assert row.prompt_ids.count(start) == 1
            assert row.prompt_ids[0] == start
            assert row.prompt_ids[-1] == speaks
            assert tokenizer.decode(row.prompt_ids) == row.prompt
            assert not {start, speaks} & set(row.completion_ids)
    assert acts["skills"] >= {"critique"}
    assert acts | {"skills": set()} == {
        "episodes": {"", "revise"}, "skills": set(), "fitting": {"revise"}, "misses": {"revise"}
    }  # fmt: skip
    for row in rows(whole["episodes"], "episodes", Example):
        assert row.prompt == turns[row.trace_id].prompt
        assert row.old_logprobs == turns[row.trace_id].logprobs
    for row in rows(whole["fitting"], "fitting", Example):
        assert row.prompt == asked(row.problem_id)
    thoughts = rows(whole["thoughts"], "thoughts", Example)
    assert thoughts  # nobody wrote them as they stand: their ids are left to the trainer
    for row in thoughts:
        assert (row.prompt, row.completion_ids) == (asked(row.problem_id, "reflect"), [])
        assert row.completion.startswith("<thinking>")
        assert row.completion.rstrip().endswith("</output>")
    attempts = [turn for turn in turns.values() if turn.is_attempt]
    for row in rows(whole["misses"], "misses", Example):
        act = turns[row.trace_id].act
        others = (one for one in attempts if one.problem_id == row.problem_id)
        assert row.prompt in {asked(row.problem_id, act, Said(one.text)) for one in others}


def measured(whole: dict[str, Path], metrics: dict[str, float]) -> None:
    """Numbers that can be counted again from the rows."""
    right = {row.trace_id: bool(row.correct) for row in rows(whole["right"], "right", Label)}
    talk = {trace.id: trace for trace in rows(whole["talk"], "talk", Trace)}
    for turn in (0, 1):
        share = [right[name] for name, trace in talk.items() if trace.turn == turn]
        assert metrics[f"turns/accuracy/t{turn + 1}"] == pytest.approx(sum(share) / len(share), abs=1e-7)
    for row in rows(whole["second"], "second", Label):
        trace = talk[row.trace_id]
        mine, first = (float(right[name]) for name in (trace.id, trace.parent or trace.id))
        assert row.value == (mine + 10 * (mine - first) if trace.turn else mine)
    assert {row.value for row in rows(whole["first"], "first", Label) if not talk[row.trace_id].turn} == {0.0}
    verdicts = rows(whole["verify"], "verify", Label)
    assert metrics["trust/verdicts"] == len(verdicts)
    for arm in ("once", "self", "self_resample", "binary", "first_error", "all_errors", "resample"):
        assert 0 <= metrics[f"arms/accuracy/{arm}"] <= 1
    behind = metrics["gap/accuracy/greedy@taught"] - metrics["gap/accuracy/greedy"]
    assert metrics["gap/gap"] == pytest.approx(behind, abs=1e-7)
