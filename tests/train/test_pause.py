"""Pause tokens: what rows and prompts get, what a training leaves, and who reads it: engine, next training, export, seeds."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from base_world import WORDS
from train_world import additions, job_of, weights

from pipeline.engine.growth import Request
from pipeline.engine.start import start_engine
from pipeline.errors import DamagedData, RecipeError
from pipeline.models.pause import Pause, grow, pause_of, paused, write_pause
from pipeline.models.registry import merge
from pipeline.models.seeds import plan
from pipeline.rows import StepExample
from pipeline.settings import in_fingerprint
from pipeline.tasks.countdown import Settings as Countdown
from pipeline.train import prm, sft

FAST: dict[str, Any] = {"steps": 4, "batch_size": 8, "learning_rate": 1e-2, "max_length": 64}
NEW = len(WORDS)


def tied(base: Path, folder: Path) -> Path:
    """The tiny base with one table for input and output."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(base, tie_word_embeddings=True)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("paused")
    job = job_of(base, folder, additions(16))
    sft.train(job, sft.Settings(**FAST, pause=3))
    return job.out


# --- rows and prompts


def test_copies_stand_behind_a_prompt_once() -> None:
    pause = Pause(9, 2)
    assert pause.after([1, 2]) == [1, 2, 9, 9]
    assert pause.after([1, 2, 9, 9, 9, 9]) == [1, 2, 9, 9]
    assert Pause(9, 0).after([1, 9]) == [1]


def test_pretraining_rows_by_hand() -> None:
    """Half of the rows have all copies behind the prompt, the others a tenth of their tokens anywhere; without the
    pauses every row is what it was, and nothing learns to say one."""
    ids, labels = list(range(10, 30)), [-1] * 6 + list(range(16, 30))
    draw, behind = random.Random(0), 0
    for _ in range(200):
        found, learned = paused((ids, labels), 6, Pause(99, 5), draw)
        kept = [i for i, token in enumerate(found) if token != 99]
        assert [found[i] for i in kept] == ids
        assert [learned[i] for i in kept] == labels
        assert all(learned[i] == -1 for i, token in enumerate(found) if token == 99)
        assert found[0] == 10  # never before the start
        number = len(found) - len(ids)
        assert number in (2, 5)
        behind += number == 5
        assert number == 2 or found[6:11] == [99] * 5
    assert 70 < behind < 130


def test_the_loss_is_on_the_answer_alone(base: Path, tmp_path: Path) -> None:
    """Pauses lengthen rows and train no position; the first loss is torch's own over the same ids."""
    from collections import Counter

    from transformers import AutoModelForCausalLM, AutoTokenizer

    rows = additions(8)
    job = job_of(base, tmp_path, rows)
    tokenizer = AutoTokenizer.from_pretrained(base)
    corpus = sft.read(job, sft.Settings(), tokenizer, Counter(), Pause(NEW, 3))
    plain = sft.read(job, sft.Settings(), tokenizer, Counter())
    assert (corpus.lengths - plain.lengths).tolist() == [3] * 8
    assert (corpus.first_trained - plain.first_trained).tolist() == [3] * 8
    first = corpus.tokens[: corpus.lengths[0]].tolist()
    assert first == [*rows[0].prompt_ids, *[NEW] * 3, *rows[0].completion_ids]
    report = sft.train(job, sft.Settings(**FAST | {"steps": 1}, pause=3))
    model = AutoModelForCausalLM.from_pretrained(base)
    grow(model, Pause(NEW, 3))
    total, number = 0.0, 0
    for row in rows:
        ids = torch.tensor([[*row.prompt_ids, *[NEW] * 3, *row.completion_ids]])
        with torch.no_grad():
            said = model(ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
        total -= float(said[len(row.prompt_ids) + 2 :].sum())
        number += len(row.completion_ids)
    assert report.metrics["loss"] == pytest.approx(total / number, abs=1e-5)
    assert report.metrics["trained_positions"] == number


# --- what a training leaves


def test_one_row_is_learned_and_saved(base: Path, trained: Path) -> None:
    held = weights(trained)
    rows = [name for name in held if "lora_" not in name]
    assert [(name.rpartition(".")[2], held[name].shape) for name in rows] == [
        ("trainable_tokens_delta", (1, 32))
    ]
    table = weights(base)["model.embed_tokens.weight"]
    assert np.abs(held[rows[0]][0] - table.mean(0)).max() > 1e-3  # it moved away from where it began
    assert json.loads((trained / "pause.json").read_text()) == {"copies": 3, "id": NEW}


def test_the_engine_renders_and_reads_them(base: Path, trained: Path) -> None:
    """Log-probabilities are those of peft's own model over prompt, pauses and answer; another number of pauses gives
    others."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    engine = start_engine(base, trained, dtype="float32", check=True)
    prompt = engine.encode("1 + 2 =")
    assert prompt == [4, 23, 5, 25, NEW, NEW, NEW]
    assert engine.encode_text("1 + 2 =") == prompt[:4]
    assert engine.decode([6, NEW, 28]) == engine.decode([6, 28])
    model = AutoModelForCausalLM.from_pretrained(base)
    grow(model, Pause(NEW, 3))
    model = PeftModel.from_pretrained(model, trained).eval()
    ids = [*prompt, 6, 2]
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    wanted = [float(logits[6, 6]), float(logits[7, 2])]
    assert engine.logprobs([(ids, 7)])[0] == pytest.approx(wanted, abs=1e-4)
    assert engine.logprobs([([*prompt[:4], 6, 2], 4)])[0] != pytest.approx(wanted, abs=1e-3)
    row = Request(prompt, 4, temperature=0.0, ends_on=0)
    engine.submit([row])
    while engine.busy:
        engine.step()
    assert len(row.new_ids) == 4


@pytest.mark.parametrize("kind", ["apart", "tied"])
@pytest.mark.parametrize("lora", [{"r": 4}, None])
def test_export_is_an_ordinary_folder_that_says_the_same(
    base: Path, tmp_path: Path, kind: str, lora: Any
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    start = base if kind == "apart" else tied(base, tmp_path / "tied")
    job = job_of(start, tmp_path, additions(16), lora=lora)
    sft.train(job, sft.Settings(**FAST, pause=2))
    if lora is None:  # the stage brings whole weights their base's tokenizer
        for file in start.glob("tokenizer*"):
            (job.out / file.name).write_bytes(file.read_bytes())
    whole, adapter = (start, job.out) if lora else (job.out, None)
    engine = start_engine(whole, adapter, dtype="float32")
    merge(whole, adapter, None, tmp_path / "exported", {})
    out = tmp_path / "exported"
    exported = start_engine(out, None, dtype="float32")
    ids = [*engine.encode("1 + 2 ="), 6, 2]
    assert ids == [4, 23, 5, 25, NEW, NEW, 6, 2] == [*exported.encode("1 + 2 ="), 6, 2]
    assert exported.logprobs([(ids, 6)])[0] == pytest.approx(engine.logprobs([(ids, 6)])[0], abs=1e-4)
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer("1 + 2 = <pause> <pause>", add_special_tokens=False)["input_ids"] == ids[:6]
    assert AutoModelForCausalLM.from_pretrained(out).get_input_embeddings().weight.shape[0] == NEW + 1


# --- the four cells


def test_none_and_others_after_a_training_with_pauses(base: Path, tmp_path: Path, trained: Path) -> None:
    """A training goes on with what it starts from, unless it says a number; 0 is one."""
    plain = job_of(base, tmp_path / "plain", additions(16))
    sft.train(plain, sft.Settings(**FAST, pause=0))
    assert not (plain.out / "pause.json").exists()
    merge(base, trained, None, tmp_path / "paused", {})  # stands for a base that was trained with pauses
    for given, wanted in ((None, 3), (0, 0), (5, 5)):
        job = job_of(tmp_path / "paused", tmp_path / f"on{given}", additions(16))
        sft.train(job, sft.Settings(**FAST, pause=given))
        assert pause_of(job.out, job.base) == Pause(NEW, wanted)
        engine = start_engine(job.base, job.out, dtype="float32")
        assert engine.encode("1 + 2 =") == [4, 23, 5, 25, *[NEW] * wanted]
    goes_on = job_of(base, tmp_path / "goes_on", additions(16), adapter=trained)
    sft.train(goes_on, sft.Settings(**FAST))
    assert pause_of(goes_on.out) == Pause(NEW, 3)


def test_defaults_are_the_bytes_of_before(base: Path, tmp_path: Path) -> None:
    found = []
    for name, more in (("a", {}), ("b", {"pause": 0})):
        job = job_of(base, tmp_path / name, additions(16))
        sft.train(job, sft.Settings(**FAST, **more))
        found.append({p.name: p.read_bytes() for p in job.out.glob("*.safetensors")})
    assert found[0] == found[1]
    assert not in_fingerprint(sft.Settings(), "pause")
    assert (
        plan("seed://countdown", Countdown(use="countdown"))[0].hash
        == plan("seed://countdown?pause=0", Countdown(use="countdown"))[0].hash
    )


def test_a_seed_knows_its_pauses(tmp_path: Path) -> None:
    from pipeline.models.seeds import build

    task = Countdown(use="countdown", numbers=3, range=(1, 9))
    folder = build("seed://countdown?pause=4&steps=2&hidden=32&inner=32", task, tmp_path)
    engine = start_engine(folder, None, dtype="float32")
    plain = build("seed://countdown?steps=2&hidden=32&inner=32", task, tmp_path)
    pause = pause_of(folder)
    assert pause is not None
    assert pause.copies == 4
    assert pause.id == len(
        start_engine(plain, None, dtype="float32").tokenizer
    )  # all other ids are as before
    prompt = engine.encode("numbers")
    assert prompt[-4:] == [pause.id] * 4
    assert prompt[-5] != pause.id


# --- what cannot be


def test_what_does_not_fit_is_said(base: Path, tmp_path: Path, trained: Path) -> None:
    with pytest.raises(RecipeError, match="pause must be from 0 to 256, not 300"):
        plan("seed://countdown?pause=300", Countdown(use="countdown"))
    with pytest.raises(RecipeError, match="several walks are learned side by side"):
        plan("seed://deduction?pause=3", None)
    without = job_of(base, tmp_path / "without", additions(16))
    sft.train(without, sft.Settings(**FAST))
    job = job_of(base, tmp_path / "late", additions(16), adapter=without.out)
    with pytest.raises(RecipeError, match="pause: 3: .* was trained without the token and holds none"):
        sft.train(job, sft.Settings(**FAST, pause=3))
    rows = [
        StepExample(problem_id="p", prompt="", completions=[""], labels=[float(i % 2)], token_ids=[3, 4, 5], step_ends=[3])
        for i in range(4)
    ]  # fmt: skip
    other = job_of(base, tmp_path / "prm", rows, adapter=trained, head="token")
    with pytest.raises(
        RecipeError, match="has 3 pause tokens behind every prompt .* this method trains without"
    ):
        prm.train(other, prm.Settings(**FAST, target="soft"))
    faults = sft.Settings(pause=3, args={"deepspeed": "zero.json"}).faults("base", [])
    assert any("the token's row is saved from one whole model" in fault for fault in faults)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"id": 3}',
        '{"id": -1, "copies": 2}',
        '{"id": 3, "copies": 999}',
        '{"id": "3", "copies": 2}',
    ],
)
def test_a_broken_file_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "pause.json").write_text(text)
    with pytest.raises(DamagedData, match=r"pause\.json: not of the form"):
        pause_of(tmp_path)


def test_no_file_is_no_pause(tmp_path: Path) -> None:
    assert pause_of(None, tmp_path) is None
    write_pause(tmp_path, None)
    assert not list(tmp_path.iterdir())
