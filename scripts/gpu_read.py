"""Reading, searching and training on a GPU: a reward model's forwards as a share of the matrix peak, MCTS* of
512 searches at once against its own flat batches, LoRA SFT against trl's SFTTrainer."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from gpu_decode import prompts_of
from gpu_world import Record, bytes_of, make, sync

from pipeline.engine import cuda_engine
from pipeline.engine.local import Engine


def score(record: Record, scratch: Path, device: str, shape: str, tiny: bool) -> None:
    """Rows of 512 tokens, a score at every 32nd: in few launches and as transformers runs the model."""
    folder = make(scratch / f"{shape}-prm", shape, device, head=True)
    engine = Engine(folder, head="value", device=device, name="prm")
    if device == "cpu":  # the GPU's ways, in plain torch
        cuda_engine.prepare(engine)
    kept = engine.fast
    record.note(f"{shape}/prm_few_launches", kept is not None)
    record.ready()
    number, length = (6, 40) if tiny else (256, 512)
    sequences = prompts_of(engine.model.config.vocab_size, number, length, length)
    items = [(ids, range(7 if tiny else 31, length, 8 if tiny else 32)) for ids in sequences]
    weights, _ = bytes_of(folder, 1, 1)
    config = engine.model.config
    weights -= config.vocab_size * config.hidden_size  # a reward model has no head of words
    attention = 2 * config.num_hidden_layers * config.num_attention_heads * length  # causal: half of 4
    work = number * length * (2 * weights + attention * (config.hidden_size // config.num_attention_heads))
    given = []
    for name, fast in (("few", kept), ("hf", None)):
        if name == "few" and kept is None:
            continue
        engine.fast = fast

        def measure(name: str = name) -> None:
            for _ in range(2):
                begun = sync(device)
                given.append(engine.score(items))
                spent = sync(device) - begun
            record.note(f"{shape}/score_{name}/tokens_per_second", number * length / spent)
            record.note(f"{shape}/score_{name}/tflops", work / spent / 1e12)
            if "matmul_tflops" in record.found:
                share = work / spent / 1e12 / record.found["matmul_tflops"]
                record.note(f"{shape}/score_{name}/share_of_peak", share)

        record.attempt(f"{shape}/score_{name}", measure)
    if len(given) == 4:
        first, second = (torch.tensor(each) for each in (given[0], given[2]))
        record.note(f"{shape}/score/relative_gap", float((first - second).norm() / second.norm()))


def search(record: Record, seed: Path, scratch: Path, device: str, tiny: bool) -> None:
    """ReST-MCTS* on countdown, a search against its own asks replayed flat: with random weights of a model
    that keeps a GPU busy, which write in the seed's tokens, and with the seed itself, where the host has the
    work.
    """
    from bench_search import make_prm, run_searches
    from bench_world import Bench
    from transformers import AutoTokenizer

    from pipeline.tasks import countdown

    task = countdown.Task(countdown.Settings(use="countdown", largest=100, max_tokens=48))
    shape = "tiny" if tiny else "0.5b"
    large = make(scratch / f"{shape}-words", shape, device, words=AutoTokenizer.from_pretrained(seed))
    live = 4 if tiny else 512
    worlds = []
    for name, folder in ((shape, large), ("seed", seed)):
        (scratch / f"search-{name}").mkdir(parents=True, exist_ok=True)
        bench = Bench(folder, device, task, scratch / f"search-{name}", 1)
        policy = bench.engine(folder, name="policy", max_rows=512)
        prm = bench.engine(make_prm(bench), head="value", name="prm")
        record.note(f"{name}/few_launches", [policy.fast is not None, prm.fast is not None])
        run_searches(bench, policy, prm, live, live)
        worlds.append((name, bench, policy, prm))
    record.ready()
    for name, bench, policy, prm in worlds:
        for every in (4, 12):
            record.attempt(
                f"{name}/{every}", searched, record, bench, policy, prm, live, f"{name}/{every}", every
            )
    for name, bench, policy, prm in worlds:
        record.attempt(f"{name}/host", hosted, record, bench, policy, prm, live, name)


def searched(
    record: Record, bench: Any, policy: Engine, prm: Engine, live: int, name: str, every: int
) -> None:
    """As many searches as live at a time; `every`: tokens between two looks at who may join."""
    from bench_search import forward, replay, run_searches

    from pipeline.engine import driver

    before, driver.JOIN_EVERY = driver.JOIN_EVERY, every
    try:
        now = run_searches(bench, policy, prm, live, live)
    finally:
        driver.JOIN_EVERY = before
    record.note(f"{name}/trees_per_second", now.trees)
    record.note(f"{name}/tokens_per_second", now.written)
    record.note(f"{name}/prefixes_per_second", now.read)
    record.note(f"{name}/seconds", {key: round(value, 3) for key, value in now.seconds.items()})
    record.note(f"{name}/rows", len(now.rows))
    record.note(f"{name}/tokens_a_row", sum(len(row.new_ids) for row in now.rows) / len(now.rows))
    flat = replay(bench, policy, now, live)
    record.note(f"{name}/flat_tokens_per_second", flat)
    record.note(f"{name}/vs_flat", now.written / flat)
    read = forward(bench, prm, now)
    record.note(f"{name}/flat_prefixes_per_second", read)
    record.note(f"{name}/reading_vs_flat", now.read / read)


def hosted(record: Record, bench: Any, policy: Engine, prm: Engine, live: int, name: str) -> None:
    """Where the host's time goes."""
    import cProfile
    import io
    import pstats

    from bench_search import run_searches

    seen = cProfile.Profile()
    seen.runcall(run_searches, bench, policy, prm, live, live // 2)
    for order in ("tottime", "cumtime"):
        text = io.StringIO()
        pstats.Stats(seen, stream=text).strip_dirs().sort_stats(order).print_stats(26)
        record.note(f"{name}/host_by_{order}", text.getvalue().splitlines()[4:])


def train(record: Record, scratch: Path, device: str, shape: str, tiny: bool) -> None:
    """Real tokens a second of LoRA SFT on the same rows: ours, and trl's SFTTrainer as it comes."""
    folder = make(scratch / shape, shape, device)
    number, batch, steps, most = (16, 4, 3, 30) if tiny else (512, 32, 14, 512)
    size = 300 if tiny else 151936
    prompts = prompts_of(size, number, most // 8, most // 4)
    answers = prompts_of(size - 1, number, most // 4, most // 2)
    given = record, folder, prompts, answers, batch, steps
    record.ready()
    ours = record.attempt("ours", _ours, *given, "ours", {})
    from pipeline.train import _alone

    use, _alone.use = (
        _alone.use,
        lambda model: False,
    )  # the same rows padded, and several to a line with a mask
    record.attempt("ours_padded", _ours, *given, "padded", {})
    record.attempt("ours_packed", _ours, *given, "packed", {"packing": True})
    _alone.use = use
    theirs = record.attempt("trl", _theirs, record, folder, prompts, answers, batch, steps, device)
    if ours and theirs:
        record.note(f"{shape}/sft_vs_trl", ours / theirs)


LORA = {"r": 16, "lora_alpha": 32}


class Clock:
    """Tokens and seconds of a training without its first steps."""

    def __init__(self, skip: int) -> None:
        self.skip, self.ends = skip, list[float]()

    def tick(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())

    def rate(self, tokens: list[int]) -> float:
        """tokens: of each step."""
        used = tokens[self.skip : len(self.ends)]
        return sum(used) / (self.ends[-1] - self.ends[self.skip - 1])


def _ours(
    record: Record, folder: Path, prompts: Any, answers: Any, batch: int, steps: int, name: str,
    more: dict[str, Any],
) -> float:  # fmt: skip
    from transformers import TrainerCallback

    from pipeline.rows import Example
    from pipeline.train import TrainJob, _trainers, sft

    rows = [
        Example(
            problem_id=f"p{i}", trace_id=f"t{i}", prompt="", completion="", prompt_ids=prompt,
            completion_ids=[*answer, 57],
        )
        for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True))
    ]  # fmt: skip
    clock, tokens = Clock(2), list[int]()

    class Ticks(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.tick()

        def on_train_begin(self, *_: Any, model: Any, **__: Any) -> None:
            record.note(f"sft_{name}/attention", model.config._attn_implementation)

    prepare = _trainers.Exact.prepare

    def watched(self: Any, job: Any, order: Any, *given: Any) -> None:
        prepare(self, job, order, *given)
        self.add_callback(Ticks())
        tokens.extend(int(order.lengths[order._of_step(step)].sum()) for step in range(steps))

    _trainers.Exact.prepare = watched  # type: ignore[method-assign]
    try:
        with tempfile.TemporaryDirectory() as place:
            out, kept = Path(place) / "out", Path(place) / "kept"
            out.mkdir()
            kept.mkdir()
            job = TrainJob(lambda: iter(rows), folder, None, out, kept, seed=7, round=1, lora=dict(LORA))
            settings = sft.Settings(steps=steps, batch_size=batch, max_length=512, **more)
            report = sft.train(job, settings)
    finally:
        _trainers.Exact.prepare = prepare  # type: ignore[method-assign]
    record.note(f"sft_{name}/loss", report.metrics["loss"])
    return record.note(f"sft_{name}/tokens_per_second", clock.rate(tokens))


def _theirs(
    record: Record, folder: Path, prompts: Any, answers: Any, batch: int, steps: int, device: str
) -> float:
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    rows = [
        {
            "input_ids": [*prompt, *answer, 57],
            "labels": [-100] * len(prompt) + [*answer, 57],
        }
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    clock, tokens = Clock(2), list[int]()

    class Ticks(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.tick()

    with tempfile.TemporaryDirectory() as place:
        arguments = SFTConfig(
            output_dir=place, max_steps=steps, per_device_train_batch_size=batch, bf16=device == "cuda",
            use_cpu=device != "cuda", learning_rate=1e-4, save_strategy="no", report_to="none",
            disable_tqdm=True, max_length=None, dataset_kwargs={"skip_prepare_dataset": True},
            gradient_checkpointing=False, logging_strategy="no",
        )  # fmt: skip
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        trainer = SFTTrainer(
            AutoModelForCausalLM.from_pretrained(folder, dtype=dtype), arguments,
            train_dataset=Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(folder),
            peft_config=LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM", **LORA),
            callbacks=[Ticks()],
        )  # fmt: skip
        collate = trainer.data_collator

        def counted(features: list[dict[str, Any]]) -> Any:
            tokens.append(sum(len(one["input_ids"]) for one in features))
            return collate(features)

        trainer.data_collator = counted
        trainer.train()
    return record.note("sft_trl/tokens_per_second", clock.rate(tokens))
