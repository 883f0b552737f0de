"""How fast the engine and the driver are, against the tools that they replace.

    python scripts/bench.py --json bench.json                         # the countdown seed, CPU, one thread
    python scripts/bench.py --device cuda --shapes qwen2.5-1.5b       # random weights of real shapes, no
    download

Every figure is a ratio of two rates, measured in one process, in turns, under the same environment. A figure
with several cases is the worst of them; the rates themselves are in the notes. The search's writing rate
counts all of its time but the reward model's, so the tree, the driver and the places that stay empty in the
batch all count against it; its reading rate counts the time in the reward model.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from pipeline.models import environment

environment.prepare(int(os.environ.get("OMP_NUM_THREADS", "1")))

import torch  # noqa: E402  the environment comes first
from bench_labels import label_figures  # noqa: E402
from bench_rounds import round_figures  # noqa: E402
from bench_search import search_figures  # noqa: E402
from bench_store import million_rows  # noqa: E402
from bench_world import Bench, in_turns, seconds  # noqa: E402

from pipeline.engine.endings import EOS  # noqa: E402
from pipeline.engine.growth import Request  # noqa: E402
from pipeline.tasks import countdown  # noqa: E402

LIVE_ROWS, NUM_PROMPTS = 64, 1024
MEAN_TAIL, MAX_TAIL = 57, 238  #: the heavy tail of lengths
SHAPES: dict[str, dict[str, int]] = {
    "qwen2.5-1.5b": {
        "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
        "num_key_value_heads": 2, "vocab_size": 151936,
    },
}  # fmt: skip


# -- the engine against `generate`


def random_policy(bench: Bench, like: dict[str, Any]) -> Path:
    """Nearly uniform next tokens, of which one in 57 ends: lengths of mean 57, cut at 238."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import (
        LlamaConfig,
        LlamaForCausalLM,
        PreTrainedTokenizerFast,
        Qwen2Config,
        Qwen2ForCausalLM,
    )

    folder = bench.scratch / "random"
    size = like["vocab_size"]
    inner = Tokenizer(models.WordLevel({f"t{i}": i for i in range(size)}, unk_token="t0"))
    inner.decoder = decoders.Fuse()
    PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="t0", eos_token="t57").save_pretrained(folder)
    given = {
        "max_position_embeddings": 1024,
        "bos_token_id": None,
        "pad_token_id": 0,
        "initializer_range": 0.005,
    }
    real = "num_key_value_heads" in like
    config = (Qwen2Config if real else LlamaConfig)(
        **like, **given, eos_token_id=list(range(57, size, MEAN_TAIL))
    )
    torch.manual_seed(0)
    model = (Qwen2ForCausalLM if real else LlamaForCausalLM)(config)
    model.to(torch.bfloat16 if bench.device == "cuda" else torch.float32).save_pretrained(folder)
    return folder


def useful(row: Sequence[int], eos: Sequence[int]) -> int:
    """Tokens up to the first end token, itself included."""
    return next((i + 1 for i, token in enumerate(row) if token in eos), len(row))


def against_generate(bench: Bench, case: str, folder: Path, prompts: list[list[int]], limit: int) -> float:
    """1,024 queued prompts, 64 rows live, against `generate` in sorted batches of 64."""
    from transformers import AutoModelForCausalLM

    engine = bench.engine(folder, max_rows=LIVE_ROWS)
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=engine.dtype).to(engine.device).eval()
    eos = set(engine.eos_ids)

    def ours() -> float:
        start = seconds(bench.device)
        rows = [Request(ids, limit, seed=i, ends_on=EOS) for i, ids in enumerate(prompts)]
        engine.submit(rows)
        while engine.busy:
            engine.step(4)
        return sum(len(row.new_ids) for row in rows) / (seconds(bench.device) - start)

    def theirs() -> float:
        start, total = seconds(bench.device), 0
        ordered = sorted(prompts, key=len)
        for first in range(0, len(ordered), LIVE_ROWS):
            part = ordered[first : first + LIVE_ROWS]
            width = max(map(len, part))
            ids = torch.tensor([[engine.pad_id] * (width - len(p)) + p for p in part], device=engine.device)
            mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in part], device=engine.device)
            with torch.inference_mode():
                out = reference.generate(
                    ids, attention_mask=mask, do_sample=True, top_k=0, max_new_tokens=limit,
                    pad_token_id=engine.pad_id, eos_token_id=sorted(eos),
                )  # fmt: skip
            total += sum(useful(row, eos) for row in out[:, width:].tolist())
        return total / (seconds(bench.device) - start)

    mine, other = in_turns(bench.rounds, ours, theirs)
    bench.note(f"engine_tokens_per_second/{case}", mine)
    bench.note(f"generate_tokens_per_second/{case}", other)
    return bench.note(f"engine_vs_generate_64/{case}", mine / other)


def engine_vs_generate(bench: Bench, like: dict[str, Any], own: bool) -> dict[str, float]:
    """(a) the lengths that the seed makes, (b) a heavy tail."""
    draw = random.Random(0)
    folder = random_policy(bench, like)
    prompts = [
        [draw.randrange(like["vocab_size"]) for _ in range(draw.randrange(8, 17))] for _ in range(NUM_PROMPTS)
    ]
    found = [against_generate(bench, "heavy_tail", folder, prompts, MAX_TAIL)]
    if own:
        encode = bench.engine(bench.folder).encode
        prompts = [encode(question.prompt) for question in bench.questions(NUM_PROMPTS)]
        found.append(against_generate(bench, "seed", bench.folder, prompts, bench.task.settings.max_tokens))
    return {"engine_vs_generate_64": min(found)}


# -- the table


TARGETS = {
    "engine_vs_generate_64": 1.0,
    "search_vs_raw": 0.85,
    "scoring_vs_forward": 0.85,
    "search_vs_sequential": 20.0,
    "rollouts_vs_flat": 0.9,
}
LIMITS = {"million_rows_rss_gib": 2.0, "round_overhead_s": 1.0}  #: at most


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print the table, write the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--shapes", choices=sorted(SHAPES), help="random weights of these shapes, engine only"
    )
    parser.add_argument("--only", default="", help="the part by this name: rollouts, rounds, ...")
    parser.add_argument("--rounds", type=int, default=3, help="each rate is the best of so many")
    parser.add_argument("--checkpoints", type=Path, default=Path(__file__).parents[1] / "checkpoints")
    given = parser.parse_args(arguments)
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as scratch:
        settings = countdown.Settings(use="countdown")
        bench = Bench(Path(), given.device, countdown.Task(settings), Path(scratch), given.rounds)
        figures: dict[str, float] = {}
        if given.shapes:
            figures |= engine_vs_generate(bench, SHAPES[given.shapes], own=False)
        else:
            from pipeline.models.seeds import build

            bench.folder = build("seed://countdown", settings, given.checkpoints)
            config = json.loads((bench.folder / "config.json").read_text())
            keys = (
                "hidden_size",
                "intermediate_size",
                "num_hidden_layers",
                "num_attention_heads",
                "vocab_size",
            )
            like = {key: config[key] for key in keys}
            parts: dict[str, Callable[[], dict[str, float]]] = {
                "engine_vs_generate": lambda: engine_vs_generate(bench, like, own=True),
                "search": lambda: search_figures(bench),
                "rollouts": lambda: label_figures(bench),
                "million_rows": million_rows,
                "rounds": lambda: round_figures(bench.scratch, given.checkpoints),
            }
            wanted_parts = [name for name in parts if given.only in name or name in given.only]
            if not wanted_parts:
                parser.error(f"--only {given.only}: none of {', '.join(parts)}")
            for name in wanted_parts:
                figures |= parts[name]()
    print(f"\n{'figure':34s}{'value':>10s}{'target':>10s}")
    for name, value in figures.items():
        missed = value < TARGETS.get(name, value) or value > LIMITS.get(name, value)
        wanted = TARGETS.get(name, LIMITS.get(name))
        print(f"{name:34s}{value:10.2f}{wanted or '':>10}{'  missed' if missed else ''}")
    made = {"torch": torch.__version__, "threads": torch.get_num_threads(), "machine": platform.machine()}
    report = {**figures, "notes": bench.notes, "environment": made}
    if given.json:
        given.json.write_text(json.dumps(report, indent=2) + "\n")
    return report


if __name__ == "__main__":
    main()
