"""Greedy tokens against transformers' own `generate`: on both seeds, and on 200 real GSM8K prompts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from model_world import make_model

from pipeline.engine.endings import EOS
from pipeline.engine.growth import Request
from pipeline.engine.local import Engine
from pipeline.models import seeds
from pipeline.recipe.methods import method

GSM8K = Path(__file__).parents[2].parent / "shared" / "data" / "gsm8k" / "test.jsonl"
CLOSE = 1e-4  #: of the two top logits: either token is right


def compare(engine: Engine, prompts: list[list[int]], limit: int) -> tuple[int, int]:
    """(tokens compared, rows that parted at two close logits); a row that parts elsewhere fails."""
    rows = [Request(ids, limit, 0, 0.0, ends_on=EOS) for ids in prompts]
    engine.submit(rows)
    while engine.busy:
        engine.step(8)
    compared = close = 0
    for row in rows:
        given = torch.tensor([row.ids])
        theirs = engine.model.generate(
            given, attention_mask=torch.ones_like(given), do_sample=False, max_new_tokens=limit, top_k=None
        )[0, len(row.ids) :].tolist()
        parted = [i for i, (a, b) in enumerate(zip(row.new_ids, theirs, strict=False)) if a != b]
        compared += parted[0] if parted else len(theirs)
        if not parted:
            assert row.new_ids == theirs
            continue
        top = engine.model(torch.tensor([row.ids + theirs[: parted[0]]])).logits[0, -1].topk(2).values
        assert top[0] - top[1] < CLOSE, f"token {parted[0]}: {row.new_ids} against {theirs}"
        close += 1
    return compared, close


@pytest.mark.full
@pytest.mark.parametrize("name", ["countdown", "addition"])
def test_seeds_write_what_generate_writes(name: str, tmp_path: Path):
    module = method("tasks", name)
    settings = module.Settings(use=name, train=60, dev=0, test=0)
    engine = Engine(seeds.build(f"seed://{name}?steps=40", settings, tmp_path), name=name)
    task = module.Task(settings)
    prompts = [engine.encode(task.prompt(problem.question)) for problem in task.problems()]
    compared, close = compare(engine, prompts, 40)
    assert compared > 500
    assert close <= len(prompts) // 50
    print(f"seed://{name}: {compared} tokens equal, {close} rows parted at close logits")


@pytest.mark.full
def test_gsm8k_prompts_are_continued_as_generate_continues_them(tmp_path: Path):
    if not GSM8K.is_file():
        pytest.skip("shared/data/gsm8k is not beside this checkout")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    with GSM8K.open(encoding="utf-8") as file:
        questions = [json.loads(next(file))["question"] for _ in range(200)]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<pad>", "</s>"]
    core.train_from_iterator(
        questions, trainers.BpeTrainer(vocab_size=1000, special_tokens=special, show_progress=False)
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", pad_token="<pad>")
    engine = Engine(make_model(tmp_path / "model", tokenizer, max_position_embeddings=1024), name="policy")
    task = method("tasks", "gsm8k").Task(method("tasks", "gsm8k").Settings(use="gsm8k"))
    compared, close = compare(engine, [engine.encode(task.prompt(question)) for question in questions], 24)
    assert compared > 4000
    assert close <= 4
    print(f"GSM8K: {compared} tokens equal over 200 prompts, {close} rows parted at close logits")
