"""A million traces through the loop's own label and select stages: memory stays flat, time is linear.

    python scripts/bench_store.py [ROWS] [--folder FOLDER]

The traces are synthetic (gold solutions of countdown, three quarters of them made wrong) and written as a
generate stage writes them; then `check` (label: outcome) and `rows` (select: correct) run, each in a process
of its own whose peak memory the kernel tells. Prints the passes, then million_rows_rss_gib (the worst) and
million_rows_seconds (the sum of label and select).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from pipeline.models.environment import prepare as prepare_environment

prepare_environment(1)

import yaml  # noqa: E402  the environment comes first

from pipeline.loop import close_round, prepare  # noqa: E402
from pipeline.processes.group import Processes  # noqa: E402
from pipeline.recipe.read import load  # noqa: E402
from pipeline.report.console import Console  # noqa: E402
from pipeline.rows import Problem, Trace  # noqa: E402
from pipeline.run.run import Run  # noqa: E402
from pipeline.run.session import session  # noqa: E402
from pipeline.stages.run import plan_stage, run_stage  # noqa: E402
from pipeline.store.folder import StageFolder  # noqa: E402

ROWS, PROBLEMS, CHUNK = 1_000_000, 8_000, 40
RECIPE = {
    "name": "bench",
    "task": {"use": "countdown", "train": PROBLEMS, "dev": 20, "test": 20},
    "models": {"policy": {"base": "./base", "lora": {"r": 4}}},
    "rounds": 1,
    "wandb": {"mode": "disabled"},
    "stages": {
        "sample": {"generate": "sample", "by": "policy", "chunk": CHUNK},
        "check": {"label": "outcome", "from": "sample"},
        "rows": {"select": "correct", "from": "check", "max_per_problem": 8},
        "learn": {"train": "sft", "model": "policy", "from": "rows"},
    },
}


def base(folder: Path) -> None:
    """A model folder for the stages' tokenizer: two random layers, one token a character."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["<pad>", "</s>", *map(chr, range(32, 127)), "\n"]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", pad_token="<pad>").save_pretrained(
        folder
    )
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(words), **shape)).save_pretrained(folder)


def opened() -> Any:
    """A session on the run of this folder."""
    return session(load(Path("r.yaml")), Console(quiet=True, main=False), Processes())


def traces(run: Run, problem: Problem, number: int, task: Any) -> Iterator[Trace]:
    """So many traces of one problem, every fourth of them right."""
    gold = task.gold_completion(problem)
    prompt = task.prompt(problem.question)
    for i in range(number):
        text = gold if i % 4 == 0 else gold.replace("=", "= 1", 1)
        steps = task.steps(text)
        ids = [(31 * i + k) % 97 for k in range(len(text))]
        ends, at = [], 0
        for step in steps:
            at += len(step)
            ends.append(at)
        yield Trace(
            problem_id=problem.id, round=1, stage="sample", id=f"{problem.id}/sample.1/{i}", prompt=prompt,
            text=text, token_ids=ids, step_ends=ends, steps=steps, answer=task.extract(text), finish="eos",
            logprobs=[-(token % 50) / 7 for token in ids], model="policy", tokens_charged=len(ids),
        )  # fmt: skip


def write(rows: int) -> int:
    """The run up to its generate stage, whose chunks hold the synthetic traces."""
    with opened() as run:
        prepare(run)
        close_round(run, 0)
        stage = run.recipe.stage("sample")
        plan, _ = plan_stage(run, stage, 1)
        folder = run.stage_folder(stage, 1)
        folder.begin(plan)
        task = run.task_of(next(iter(run.problems.values())))
        each, more = divmod(rows, PROBLEMS)
        left = more
        for number, chunk in enumerate(plan.chunks):
            with folder.writing(number) as part:
                for problem_id in chunk.ids:
                    part.add(traces(run, run.problems[problem_id], each + (left > 0), task))
                    left -= 1
                part.count("given", len(chunk.ids))
        return folder.commit().rows(Trace)


def stage(name: str) -> int:
    """One stage of round 1, by the loop's own code. Returns its rows."""
    with opened() as run:
        manifest = run_stage(run, run.recipe.stage(name), 1)
        return sum(manifest.counts.rows.values())


def measured(what: str, rows: int, answers: Any) -> None:
    """In a process of its own: the pass, its seconds and its peak of memory."""
    begun = time.perf_counter()
    made = write(rows) if what == "write" else stage(what)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    answers.put({"rows": made, "seconds": round(time.perf_counter() - begun, 1), "rss_gib": round(peak, 3)})


def million_rows(rows: int = ROWS, folder: Path | None = None) -> dict[str, float]:
    """million_rows_rss_gib: the worst pass; million_rows_seconds: label and select together."""
    context, before, passes = multiprocessing.get_context("spawn"), Path.cwd(), {}
    with tempfile.TemporaryDirectory(dir=folder) as place:
        os.chdir(place)
        try:
            base(Path("base"))
            Path("r.yaml").write_text(yaml.safe_dump(RECIPE, sort_keys=False))
            for what in ("write", "check", "rows"):
                answers = context.Queue()
                process = context.Process(target=measured, args=(what, rows, answers))
                process.start()
                process.join()
                assert process.exitcode == 0, f"{what}: the process ended with {process.exitcode}"
                passes[what] = answers.get()
            chunks = len(StageFolder(Path("data/bench/round-001/sample")).done())
            size = sum(path.stat().st_size for path in Path().rglob("*") if path.is_file())
        finally:
            os.chdir(before)
    print(json.dumps({**passes, "chunks": chunks, "bytes": size}))
    return {
        "million_rows_rss_gib": max(p["rss_gib"] for p in passes.values()),
        "million_rows_seconds": round(passes["check"]["seconds"] + passes["rows"]["seconds"], 1),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", type=int, nargs="?", default=ROWS)
    parser.add_argument("--folder", type=Path, help="where the rows lie meanwhile: some GB")
    given = parser.parse_args()
    print(json.dumps(million_rows(given.rows, given.folder)))


if __name__ == "__main__":
    main()
