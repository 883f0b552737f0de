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
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from pipeline.models import environment

environment.prepare(int(os.environ.get("OMP_NUM_THREADS", "1")))

import torch  # noqa: E402  the environment comes first
from bench_store import million_rows  # noqa: E402

from pipeline.generate import mcts_star  # noqa: E402
from pipeline.models.asks import Asks, Continue, Prefix, Score  # noqa: E402
from pipeline.models.driver import Driver, Search  # noqa: E402
from pipeline.models.endings import EOS, LENGTH, STEP  # noqa: E402
from pipeline.models.engine import Engine  # noqa: E402
from pipeline.models.growth import Row, grown  # noqa: E402
from pipeline.rows import Question  # noqa: E402
from pipeline.tasks import countdown  # noqa: E402

LIVE_ROWS, NUM_PROMPTS = 64, 1024
LIVE_SEARCHES = (32, 128, 512)
MEAN_TAIL, MAX_TAIL = 57, 238  #: the heavy tail of lengths
SHAPES: dict[str, dict[str, int]] = {
    "qwen2.5-1.5b": {
        "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
        "num_key_value_heads": 2, "vocab_size": 151936,
    },
}  # fmt: skip


@dataclass
class Bench:
    """What is measured, and the rates met on the way."""

    folder: Path  #: the policy's
    device: str
    task: Any
    scratch: Path
    rounds: int
    notes: dict[str, float] = field(default_factory=dict)

    def note(self, name: str, value: float) -> float:
        """Keep and show a figure."""
        self.notes[name] = round(value, 4)
        print(f"  {name:44s}{value:14.2f}", flush=True)
        return value

    def engine(self, folder: Path, **more: Any) -> Engine:
        return Engine(folder, device=self.device, **more)

    def questions(self, number: int) -> list[Question]:
        """Training questions of the task."""
        found = []
        for problem in self.task.problems():
            prompt = self.task.prompt(problem.question)
            found.append(
                Question(id=problem.id, question=problem.question, prompt=prompt, prompt_used=prompt)
            )
            if len(found) == number:
                break
        return found


def in_turns(rounds: int, *measures: Callable[[], float]) -> list[float]:
    """The best rate of each, measured in turns so that a noisy neighbour troubles all alike."""
    best = [0.0] * len(measures)
    for _ in range(rounds):
        best = [max(old, measure()) for old, measure in zip(best, measures, strict=True)]
    return best


def seconds(device: str) -> float:
    """The clock, after all that was asked of the device is done."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


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
        rows = [Row(ids, limit, seed=i, ends_on=EOS) for i, ids in enumerate(prompts)]
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


# -- the search against its own asks, replayed without a tree


def make_prm(bench: Bench) -> Path:
    """The policy's body with a random head: as fast as a trained one."""
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    folder = bench.scratch / "prm"
    torch.manual_seed(0)
    model = AutoModelForTokenClassification.from_pretrained(bench.folder, num_labels=1)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(bench.folder).save_pretrained(folder)
    return folder


def searches(bench: Bench, number: int) -> Iterator[Search]:
    """ReST-MCTS* with 10 iterations and branch 3: about 97 tokens a tree for the reference code."""
    settings = mcts_star.Settings(by="policy", value="prm", iterations=10, branch=3, temperature=1.0)
    for question in bench.questions(number):
        asks = mcts_star.generate(question, settings, None)
        yield Search(question.id, bench.task, asks, bench.task.settings.max_tokens)


@dataclass
class Recording:
    """A run of searches: its rates, and what it asked for."""

    trees: float
    written: float
    read: float
    rows: list[Row] = field(default_factory=list)
    items: list[Any] = field(default_factory=list)


def run_searches(bench: Bench, policy: Engine, prm: Engine, live: int, number: int) -> Recording:
    """`number` searches, `live` at a time. Rates are a second: trees, tokens written, prefixes read."""
    rows: list[Row] = []
    items: list[Any] = []
    submit, score = policy.submit, prm.score
    policy.submit = lambda new: (new := list(new), rows.extend(new), submit(new))[-1]  # type: ignore[method-assign]
    prm.score = lambda new, known=(): (items.extend(new), score(new, known))[-1]  # type: ignore[method-assign]
    driver = Driver({"policy": policy, "prm": prm}.__getitem__, run_seed=0, round=0, stage="bench")
    todo = list(searches(bench, number))
    start = seconds(bench.device)
    for _ in driver.run(todo, live):
        pass
    total = seconds(bench.device) - start
    del policy.submit, prm.score
    reading = driver.spent["seconds"]["read"]
    written = driver.spent["written"]["policy"]
    return Recording(number / total, written / (total - reading), len(items) / reading, rows, items)


def replay(bench: Bench, policy: Engine, recorded: Recording, live: int) -> float:
    """The recorded rows as one flat queue: tokens a second with as many rows live, no tree, no reward
    model.
    """
    before, policy.max_rows = policy.max_rows, min(policy.max_rows, 3 * live)
    policy.clear()
    rows = [
        Row(r.ids, r.limit, r.seed, r.temperature, r.top_p, r.top_k, r.ends_on, r.state)
        for r in recorded.rows
    ]
    start = seconds(bench.device)
    policy.submit(rows)
    while policy.busy:
        policy.step(4)
    rate = sum(len(row.new_ids) for row in rows) / (seconds(bench.device) - start)
    policy.max_rows = before
    policy.clear()
    return rate


def forward(bench: Bench, prm: Engine, recorded: Recording) -> float:
    """The recorded prefixes in one call: prefixes a second."""
    start = seconds(bench.device)
    prm.score(recorded.items)
    return len(recorded.items) / (seconds(bench.device) - start)


def one_prompt_a_call(bench: Bench, policy: Engine, prm: Engine, number: int) -> float:
    """Trees a second when each step is its own `generate` call and each prefix its own forward, as in the
    reference code.
    """
    from transformers import AutoModelForCausalLM, AutoModelForTokenClassification

    given = {"dtype": policy.dtype, "device_map": policy.device}
    reference = AutoModelForCausalLM.from_pretrained(bench.folder, **given).eval()
    judge = AutoModelForTokenClassification.from_pretrained(prm.folder, **given).eval()
    rule = policy.rule(bench.task.step_separator, bench.task.stop)
    ends = [i for i in range(policy.num_tokens) if policy.endings.hits[i, rule.start] & STEP]

    def write(ask: Continue, prefix: Prefix) -> Prefix:
        room = bench.task.settings.max_tokens - prefix.num_tokens
        if prefix.done or room <= 0:
            return prefix
        ids = torch.tensor([[*policy.encode(prefix.prompt), *prefix.token_ids]], device=policy.device)
        stop = [*policy.eos_ids, *(ends if ask.until == "step" else [])]
        out = reference.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=ask.max_tokens or room, top_k=0,
            eos_token_id=stop, pad_token_id=policy.pad_id, do_sample=bool(ask.temperature),
            **({"temperature": ask.temperature} if ask.temperature else {}),
        )[0, ids.shape[1] :].tolist()  # fmt: skip
        flags = EOS if out[-1] in policy.eos_ids else STEP if out[-1] in ends else LENGTH
        row = Row([], room, new_ids=out, logprobs=[0.0] * len(out), flags=flags, state=rule.start)
        return grown(
            prefix, row, policy, rule, bench.task, "policy", ask.until, bench.task.settings.max_tokens
        )

    def answer(ask: Any) -> Any:
        if isinstance(ask, Continue):
            return [write(ask, prefix) for prefix in ask.listed for _ in range(ask.n)]
        assert isinstance(ask, Score)
        replies = []
        for prefix in ask.listed:
            prompt = prm.encode(prefix.prompt)
            ids = torch.tensor([[*prompt, *prefix.token_ids]], device=prm.device)
            at = [len(prompt) + end - 1 for end in prefix.step_ends]
            replies.append(judge(ids).logits[0, at, 0].tolist())
        return replies

    start = seconds(bench.device)
    with torch.inference_mode():
        for search in searches(bench, number):
            exhaust(search.asks, answer)
    return number / (seconds(bench.device) - start)


def exhaust(asks: Asks[Any], answer: Callable[[Any], Any]) -> None:
    """Drive one search alone."""
    reply = None
    while True:
        try:
            reply = answer(asks.send(reply))
        except StopIteration:
            return


def search_figures(bench: Bench) -> dict[str, float]:
    """The worst of 32, 128 and 512 live searches."""
    policy = bench.engine(bench.folder)
    prm = bench.engine(make_prm(bench), head="value")
    alone = max(one_prompt_a_call(bench, policy, prm, 6) for _ in range(2))
    bench.note("trees_per_second/one_prompt_a_call", alone)
    worst: dict[str, list[float]] = {
        "search_vs_raw": [],
        "scoring_vs_forward": [],
        "search_vs_sequential": [],
    }
    run_searches(bench, policy, prm, 32, 32)  # warm
    for live in LIVE_SEARCHES:
        best = Recording(0, 0, 0)
        raw = flat = 0.0
        for _ in range(bench.rounds):
            now = run_searches(bench, policy, prm, live, max(2 * live, 192))
            raw, flat = max(raw, replay(bench, policy, now, live)), max(flat, forward(bench, prm, now))
            best = Recording(
                max(best.trees, now.trees), max(best.written, now.written), max(best.read, now.read)
            )
        bench.note(f"trees_per_second/{live}", best.trees)
        bench.note(f"search_tokens_per_second/{live}", best.written)
        bench.note(f"raw_tokens_per_second/{live}", raw)
        bench.note(f"search_prefixes_per_second/{live}", best.read)
        bench.note(f"forward_prefixes_per_second/{live}", flat)
        worst["search_vs_raw"].append(bench.note(f"search_vs_raw/{live}", best.written / raw))
        worst["scoring_vs_forward"].append(bench.note(f"scoring_vs_forward/{live}", best.read / flat))
        worst["search_vs_sequential"].append(bench.note(f"search_vs_sequential/{live}", best.trees / alone))
    return {name: min(values) for name, values in worst.items()}


# -- the table


TARGETS = {
    "engine_vs_generate_64": 1.0,
    "search_vs_raw": 0.85,
    "scoring_vs_forward": 0.85,
    "search_vs_sequential": 20.0,
}
LIMITS = {"million_rows_rss_gib": 2.0}  #: at most


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
    parser.add_argument("--only", default="", help="figures whose name holds this")
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
                "million_rows": million_rows,
            }
            for name, part in parts.items():
                if given.only in name:
                    figures |= part()
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
