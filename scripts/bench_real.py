"""How fast the engine and the trainer are on a real model, SmolLM2-135M-Instruct, against the tools that they
replace.

    python scripts/bench_real.py                              # `make bench-real`: bf16 and fp32
    python scripts/bench_real.py --dtypes bfloat16 --only decode,prefill --rounds 1

Rates are tokens a CPU second of this process, measured in turns, the best of `--rounds`. decode: word
problems in the chat template, 64 sampled tokens each, prompts included, against transformers' `generate` on
the same prompts. prefill: prompts read, as a share of what torch.mm does with the model's own shapes and
1,024 rows. scoring: the same body with a reward model's head, against the model's own forward over the same
rows. sft: LoRA steps of `train: sft`, against trl's SFTTrainer on the same rows and weights. lean: decode
with and without `engine/cpu_forward`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from pipeline.models import environment

environment.prepare(int(os.environ.get("OMP_NUM_THREADS", "1")))

import torch  # noqa: E402  the environment comes first
from bench_world import in_turns  # noqa: E402

from pipeline.engine import local  # noqa: E402
from pipeline.engine.growth import Request  # noqa: E402
from pipeline.engine.local import Engine  # noqa: E402
from pipeline.models.packaged import build  # noqa: E402
from pipeline.rows import Example  # noqa: E402
from pipeline.tasks import words  # noqa: E402
from pipeline.train import TrainJob, sft  # noqa: E402

TARGETS = {"decode": 1.3, "prefill": 0.8, "scoring": 1.0, "sft": 1.2}
ROWS, NUM_TOKENS = (16, 64), 64
LORA = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}
STEPS, BATCH = 3, 16


def prompts(engine: Engine, number: int) -> list[list[int]]:
    """Questions of the word problems, in the model's chat template."""
    task = words.Task(words.Settings(use="words", few_shot=0))
    found = []
    for problem in task.problems():
        turn = [{"role": "user", "content": problem.question}]
        text = engine.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        found.append(engine.encode(text))
        if len(found) == number:
            break
    return found


def rate(tokens: int, work: Callable[[], Any]) -> float:
    """Tokens a CPU second."""
    start = time.process_time()
    work()
    return tokens / (time.process_time() - start)


def write(engine: Engine, given: Sequence[Sequence[int]], each: int) -> None:
    """As many rows as there are prompts, each its tokens."""
    rows = [Request(list(ids), each, seed=i, temperature=0.8, ends_on=0) for i, ids in enumerate(given)]
    engine.submit(rows)
    while engine.busy:
        engine.step(4)


def generate(model: Any, pad: int, given: Sequence[Sequence[int]], each: int) -> None:
    """The same by transformers, padded on the left."""
    width = max(map(len, given))
    ids = torch.tensor([[pad] * (width - len(one)) + list(one) for one in given])
    mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in given])
    with torch.inference_mode():
        model.generate(
            ids, attention_mask=mask, do_sample=True, temperature=0.8, top_k=0, top_p=1.0, pad_token_id=pad,
            max_new_tokens=each, min_new_tokens=each,
        )  # fmt: skip


def decode(
    engine: Engine, model: Any, rounds: int, rows: Sequence[int], each: int
) -> dict[str, tuple[float, float]]:
    """(the engine's rate, generate's) at so many rows."""
    found = {}
    for number in rows:
        given, pad = prompts(engine, number), engine.pad_id
        tokens = number * each
        ours, theirs = in_turns(
            rounds,
            lambda given=given, tokens=tokens: rate(tokens, lambda: write(engine, given, each)),
            lambda given=given, tokens=tokens, pad=pad: rate(
                tokens, lambda: generate(model, pad, given, each)
            ),
        )
        found[f"decode/{number} rows"] = (ours, theirs)
    return found


def peak(model: Any, rows: int) -> float:
    """Tokens a CPU second if a forward were its products alone, as torch.mm makes them, without the head."""
    body = [m.weight for m in model.base_model.modules() if type(m) is torch.nn.Linear]
    inputs = {w.shape[1]: torch.randn(rows, w.shape[1]).to(w.dtype) for w in body}

    def products() -> None:
        for weight in body:
            torch.mm(inputs[weight.shape[1]], weight.t())

    with torch.inference_mode():
        return rate(rows, products)


def prefill(engine: Engine, model: Any, rounds: int) -> dict[str, tuple[float, float]]:
    """Prompts read for their caches, against torch.mm on 1,024 rows."""
    given = prompts(engine, 64)
    tokens = sum(map(len, given))

    def read() -> None:
        with torch.inference_mode():
            for group, width in engine.groups([len(one) for one in given]):
                engine.prefill([given[i] for i in group], width)

    ours, most = in_turns(rounds, lambda: rate(tokens, read), lambda: peak(model, 1024))
    return {"prefill": (ours, most)}


def scorer(folder: Path, scratch: Path) -> Path:
    """The same body with a reward model's head, drawn once."""
    from transformers import AutoConfig, AutoModelForTokenClassification, AutoTokenizer

    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(folder, num_labels=1)
    model = AutoModelForTokenClassification.from_pretrained(folder, config=config, dtype=torch.float32)
    model.save_pretrained(scratch / "prm")
    AutoTokenizer.from_pretrained(folder).save_pretrained(scratch / "prm")
    (scratch / "prm" / "prm.json").write_text(json.dumps({"loss": "mse"}))
    return scratch / "prm"


def scoring(folder: Path, dtype: str, scratch: Path, rounds: int) -> dict[str, tuple[float, float]]:
    """Scores at every token, against the model's own forward over batches as large."""
    from transformers import AutoModelForTokenClassification

    place = scorer(folder, scratch)
    engine = Engine(place, head="value", dtype=dtype)
    model = AutoModelForTokenClassification.from_pretrained(place, dtype=engine.dtype).eval()
    given = prompts(engine, 64)
    tokens = sum(map(len, given))

    def ours() -> None:
        engine.score([(ids, [len(ids) - 1]) for ids in given])

    def theirs() -> None:
        with torch.inference_mode():
            for group, width in engine.groups([len(one) for one in given]):
                rows = [given[i] + [engine.pad_id] * (width - len(given[i])) for i in group]
                model(torch.tensor(rows))

    first, second = in_turns(rounds, lambda: rate(tokens, ours), lambda: rate(tokens, theirs))
    return {"scoring": (first, second)}


def examples(engine: Engine, number: int) -> list[Example]:
    """Gold rationales of the word problems as training rows."""
    task = words.Task(words.Settings(use="words", few_shot=0))
    found = []
    for problem in task.problems():
        prompt, completion = task.prompt(problem.question), task.gold_completion(problem)
        if completion is not None:
            found.append(
                Example(problem_id=problem.id, round=1, stage="rows", prompt=prompt, completion=completion)
            )
        if len(found) == number:
            break
    return found


def sft_rates(folder: Path, engine: Engine, dtype: str, scratch: Path) -> dict[str, tuple[float, float]]:
    """The same rows, steps, weights and adapter through `train: sft` and through trl's trainer."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    rows = examples(engine, STEPS * BATCH)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = sum(len(tokenizer(row.prompt + row.completion).input_ids) + 1 for row in rows)
    (scratch / "out").mkdir()
    (scratch / "job").mkdir()

    def ours() -> None:
        job = TrainJob(
            rows=lambda: iter(rows), base=folder, adapter=None, out=scratch / "out", scratch=scratch / "job",
            seed=0, round=1, dtype=dtype, lora=LORA,
        )  # fmt: skip
        settings = {"steps": STEPS, "batch_size": BATCH, "learning_rate": 6e-4, "max_length": 256}
        sft.train(job, sft.Settings.model_validate(settings))

    def theirs() -> None:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
        data = Dataset.from_list([{"prompt": r.prompt, "completion": r.completion} for r in rows])
        arguments = SFTConfig(
            output_dir=str(scratch / "trl"), max_steps=STEPS, per_device_train_batch_size=BATCH, bf16=False,
            use_cpu=True, learning_rate=6e-4, report_to="none", save_strategy="no", disable_tqdm=True,
            max_length=256, gradient_checkpointing=False,
        )  # fmt: skip
        SFTTrainer(
            model, arguments, train_dataset=data, processing_class=tokenizer,
            peft_config=LoraConfig(**LORA, task_type="CAUSAL_LM"),
        ).train()  # fmt: skip

    first = rate(tokens, ours)
    return {"sft": (first, rate(tokens, theirs))}


def lean_rates(
    folder: Path, engine: Engine, dtype: str, rounds: int, each: int
) -> dict[str, tuple[float, float]]:
    """Decode with the lean forward and the products laid out for it, against the model's own forward in the
    same engine.
    """
    made = local.cpu_forward_of
    local.cpu_forward_of = lambda *_, **__: None
    plain = Engine(folder, dtype=dtype)
    local.cpu_forward_of = made
    given = prompts(engine, 16)
    tokens = len(given) * each
    ours, theirs = in_turns(
        rounds,
        lambda: rate(tokens, lambda: write(engine, given, each)),
        lambda: rate(tokens, lambda: write(plain, given, each)),
    )
    return {"lean/16 rows": (ours, theirs)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the table of docs/benchmarks.md."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dtypes", default="bfloat16,float32")
    parser.add_argument("--only", default="decode,prefill,scoring,lean,sft")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--rows", default=",".join(map(str, ROWS)), help="decoded together")
    parser.add_argument("--tokens", type=int, default=NUM_TOKENS, help="written by each row")
    parser.add_argument("--checkpoints", type=Path, default=Path(__file__).parents[1] / "checkpoints")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    random.seed(0)
    folder, only = build("seed://smollm2", given.checkpoints), given.only.split(",")
    found: dict[str, tuple[float, float]] = {}
    print("| figure | ours | theirs | ratio | goal |\n|---|---|---|---|---|")

    def show(dtype: str, rates: dict[str, tuple[float, float]]) -> None:
        for name, (ours, theirs) in rates.items():
            found[f"{name}/{dtype}"] = (ours, theirs)
            goal = TARGETS.get(name.split("/")[0], "")
            print(
                f"| {name}, {dtype} | {ours:.0f} | {theirs:.0f} | **{ours / theirs:.2f}** | {goal} |",
                flush=True,
            )

    for dtype in given.dtypes.split(","):
        with tempfile.TemporaryDirectory() as place:
            scratch = Path(place)
            engine = Engine(folder, dtype=dtype)
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=engine.dtype).eval()
            if "decode" in only:
                show(
                    dtype,
                    decode(
                        engine, model, given.rounds, [int(n) for n in given.rows.split(",")], given.tokens
                    ),
                )
            if "prefill" in only:
                show(dtype, prefill(engine, model, given.rounds))
            if "lean" in only and engine._lean is not None:
                show(dtype, lean_rates(folder, engine, dtype, given.rounds, given.tokens))
            del model
            if "scoring" in only:
                show(dtype, scoring(folder, dtype, scratch, given.rounds))
            if "sft" in only:
                show(dtype, sft_rates(folder, engine, dtype, scratch))
    if given.json:
        given.json.write_text(json.dumps({name: list(pair) for name, pair in found.items()}, indent=1))


if __name__ == "__main__":
    main()
