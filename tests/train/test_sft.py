"""train/sft: what is trained on, what is refused, and that it learns."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from train_world import additions, job_of, weights

from pipeline.errors import Diverged, NothingKept, RatchetError, RecipeError
from pipeline.rows import Example
from pipeline.train import StepSchedule
from pipeline.train.sft import Settings, train

FAST = {"steps": 6, "batch_size": 8, "learning_rate": 1e-2, "max_length": 32}


def test_steps_schedule_is_the_papers() -> None:
    schedule = StepSchedule(first=40, growth=1.2)
    assert [schedule.at(i) for i in range(1, 8)] == [40, 48, 57, 69, 82, 99, 119]
    assert schedule.at(30) == 7912


def test_lora_changes_the_adapter_and_learns(base: Path, tmp_path: Path) -> None:
    report = train(job_of(base, tmp_path, additions(40), lora={"r": 8}), Settings(**FAST | {"steps": 40}))
    found = weights(tmp_path / "out")
    moved = [name for name, array in found.items() if "lora_B" in name and np.abs(array).max() > 0]
    assert len(moved) == 14  # seven linear layers, twice; B starts at 0
    assert report.metrics["loss"] < report.metrics["loss/first"] - 0.1
    assert report.metrics["num_trainable"] == sum(array.size for array in found.values())
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def test_lora_dict_reaches_peft_whole(base: Path, tmp_path: Path) -> None:
    lora = {"r": 3, "lora_alpha": 5, "target_modules": ["q_proj"], "use_rslora": True}
    train(job_of(base, tmp_path, additions(8), lora=lora), Settings(**FAST))
    saved = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert (saved["r"], saved["lora_alpha"], saved["use_rslora"]) == (3, 5, True)
    assert all("q_proj" in name for name in weights(tmp_path / "out"))


def test_full_training_writes_an_ordinary_model(base: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    train(job_of(base, tmp_path, additions(8), lora=None), Settings(**FAST))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    before = AutoModelForCausalLM.from_pretrained(base)
    assert model.config.use_cache == before.config.use_cache
    assert not np.array_equal(model.lm_head.weight.detach(), before.lm_head.weight.detach())


@pytest.mark.parametrize("lora", [{"r": 4}, None])
def test_goes_on_from_earlier_weights(base: Path, tmp_path: Path, lora: dict | None) -> None:
    rows = additions(8)
    train(job_of(base, tmp_path / "1", rows, lora=lora), Settings(**FAST))
    first = weights(tmp_path / "1/out")
    still = Settings(**FAST | {"steps": 1, "learning_rate": 1e-12})
    train(job_of(base, tmp_path / "2", rows, lora=lora, adapter=tmp_path / "1/out"), still)
    second = weights(tmp_path / "2/out")
    assert first.keys() == second.keys()
    for name, array in first.items():
        np.testing.assert_allclose(array, second[name], atol=1e-7, err_msg=name)


def test_no_base_is_looked_up_on_the_hub(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A committed adapter names its base without a folder; peft would ask the network for it at each save."""
    import socket
    import threading

    rows = additions(8)
    train(job_of(base, tmp_path / "first", rows, lora={"r": 4}), Settings(**FAST))
    config = tmp_path / "first/out/adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": "policy"}))
    asked: list[object] = []

    def refuse(*names: object, **more: object) -> None:
        if threading.current_thread() is threading.main_thread():  # telemetry of the libraries has its own
            asked.append(names)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    train(job_of(base, tmp_path / "2", rows, lora={"r": 4}, adapter=config.parent), Settings(**FAST))
    assert asked == []


def test_earlier_weights_of_another_kind_are_refused(base: Path, tmp_path: Path) -> None:
    train(job_of(base, tmp_path / "1", additions(8), lora={"r": 4}), Settings(**FAST))
    job = job_of(base, tmp_path / "2", additions(8), lora=None, adapter=tmp_path / "1/out")
    with pytest.raises(RecipeError, match="holds an adapter and the recipe asks for lora: none"):
        train(job, Settings(**FAST))


def test_zero_trainable_is_an_error(base: Path, tmp_path: Path) -> None:
    lora = {"r": 4, "target_modules": [], "trainable_token_indices": None}
    with pytest.raises(RatchetError, match="weights would train|peft refuses"):
        train(job_of(base, tmp_path, additions(8), lora=lora), Settings(**FAST))
    assert not list((tmp_path / "out").iterdir())


def test_only_the_completion_carries_loss(base: Path) -> None:
    from pipeline.train._batches import Corpus, policy_batches

    corpus = Corpus.of([[5, 6, 7, 8, 2], [5, 6, 2]], ["a", "b"], first_trained=[3, 2])
    batch = policy_batches(corpus, pad=0)([0, 1])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 2], [5, 6, 2, 0, 0]]
    assert batch["labels"].tolist() == [[-100, -100, -100, 8, 2], [-100, -100, 2, -100, -100]]
    assert (batch["labels"] == -100).float().mean().item() == pytest.approx(0.7)


def test_text_rows_end_with_the_end_token(base: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from pipeline.train.sft import token_ids

    tokenizer = AutoTokenizer.from_pretrained(base)
    row = Example(problem_id="p", prompt="1 + 2 =", completion="3")
    prompt, completion, fault = token_ids(row, Settings(), tokenizer, {tokenizer.eos_token_id})
    assert tokenizer.convert_ids_to_tokens(prompt) == ["1", "+", "2", "="]
    assert tokenizer.convert_ids_to_tokens(completion) == ["3", "</s>"]
    assert not fault


def test_long_and_cut_rows_are_dropped_by_reason_never_cut(base: Path, tmp_path: Path) -> None:
    good = additions(5)
    long = [dataclasses.replace(row, completion_ids=[4] * 40 + [2]) for row in additions(2)]
    cut = [dataclasses.replace(row, completion_ids=[4, 5]) for row in additions(3)]
    report = train(job_of(base, tmp_path, [*good, *long, *cut]), Settings(**FAST, unended="drop"))
    assert report.dropped == {"too_long": 2, "truncated": 3}
    assert report.metrics["examples"] == 5


def test_nothing_kept_counts_by_reason_before_training(base: Path, tmp_path: Path) -> None:
    cut = [dataclasses.replace(row, completion_ids=[4, 5]) for row in additions(3)]
    with pytest.raises(NothingKept, match="nothing to train on: 3 truncated"):
        train(job_of(base, tmp_path, cut), Settings(**FAST, unended="drop"))
    with pytest.raises(NothingKept, match="no row arrived"):
        train(job_of(base, tmp_path, []), Settings(**FAST))
    assert not list((tmp_path / "out").iterdir())


def test_answers_that_end_at_a_stop_text_get_the_end_token(base: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from pipeline.train.sft import token_ids

    row = dataclasses.replace(additions(1)[0], completion_ids=[4, 5])
    assert token_ids(row, Settings(), AutoTokenizer.from_pretrained(base), {2})[1] == [4, 5, 2]
    ended = dataclasses.replace(row, completion_ids=[4, 2])
    assert token_ids(ended, Settings(), AutoTokenizer.from_pretrained(base), {2})[1] == [4, 2]


def test_unequal_weights_are_refused(base: Path, tmp_path: Path) -> None:
    rows = additions(4)
    rows[0] = dataclasses.replace(rows[0], weight=0.5)
    with pytest.raises(RecipeError, match=r"different weights \(0.5 to 1.0\)"):
        train(job_of(base, tmp_path, rows), Settings(**FAST))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"weight_decy": 0.1}, r"args.weight_decy: unknown key \(did you mean weight_decay\?\)"),
        ({"max_steps": 3}, "args.max_steps: not here; it is set by steps"),
        ({"optim": "nonsense"}, "the trainer refuses its arguments"),
    ],
)
def test_args_pass_through_or_are_refused(base: Path, tmp_path: Path, args: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        train(job_of(base, tmp_path, additions(4)), Settings(**FAST, args=args))


def test_unknown_lora_key_names_the_nearest(base: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"lora.lora_alfa: unknown key \(did you mean lora_alpha\?\)"):
        train(job_of(base, tmp_path, additions(4), lora={"lora_alfa": 3}), Settings(**FAST))


def test_batch_is_split_to_fit_and_said(base: Path, tmp_path: Path) -> None:
    from pipeline.train._setup import split_batch

    assert split_batch(128, 2, None, 48) == (64, 1)
    assert split_batch(128, 1, None, 1024) == (32, 4)
    assert split_batch(12, 1, 4, 10) == (4, 3)
    with pytest.raises(RecipeError, match="cannot be shared by 3 processes; the nearest is 33"):
        split_batch(32, 3, None, 10)
    said: list[str] = []
    train(job_of(base, tmp_path, additions(9), say=said.append), Settings(**FAST, micro_batch=2))
    assert "steps of 8 = 2 rows a device x 1 processes x 4 accumulated" in said[0]


def losses(base: Path, folder: Path, **settings: object) -> np.ndarray:
    report = train(
        job_of(base, folder, additions(30)),
        Settings(**FAST | {"steps": 10, "log_every": 1, "learning_rate": 1e-3} | settings),
    )
    return np.array([entry["loss"] for entry in report.history])


def test_packing_and_accumulation_take_the_same_steps(base: Path, tmp_path: Path) -> None:
    plain = losses(base, tmp_path / "plain")
    np.testing.assert_allclose(losses(base, tmp_path / "packed", packing=True), plain, rtol=2e-5)
    np.testing.assert_allclose(losses(base, tmp_path / "four", micro_batch=2), plain, rtol=2e-5)
    both = losses(base, tmp_path / "both", packing=True, micro_batch=4)
    np.testing.assert_allclose(both, plain, rtol=2e-5)
    for name in ("packed", "four", "both"):
        a, b = weights(tmp_path / "plain/out"), weights(tmp_path / name / "out")
        for key in a:
            np.testing.assert_allclose(a[key], b[key], atol=2e-4, err_msg=f"{name} {key}")


def test_packed_lines_hold_every_row_once() -> None:
    from pipeline.train._batches import Corpus, packed_batches

    rows = [[10 + i] * n for i, n in enumerate([3, 7, 2, 5, 1, 4])]
    corpus = Corpus.of(rows, [str(i) for i in range(6)], first_trained=[1] * 6)
    batch = packed_batches(corpus, pad=0, max_length=8)([0, 1, 2, 3, 4, 5])
    assert batch["input_ids"].shape == (3, 8)
    assert sorted(batch["input_ids"][batch["input_ids"] > 0].tolist()) == sorted(sum(rows, []))
    assert (batch["position_ids"] == 0).sum() == 6 + (batch["input_ids"] == 0).sum()
    assert (batch["labels"] != -100).sum() == sum(len(row) - 1 for row in rows)


def test_a_packed_rows_first_token_is_predicted_by_nothing() -> None:
    """Not even where a row is trained from its first token on: the end of its neighbour stands before it."""
    from pipeline.train._batches import Corpus, packed_batches

    rows = [[11, 12, 13], [21, 22], [31, 32, 33, 34]]
    corpus = Corpus.of(rows, ["a", "b", "c"], first_trained=[0, 0, 2])
    batch = packed_batches(corpus, pad=0, max_length=9)([0, 1, 2])
    assert batch["input_ids"].tolist() == [[31, 32, 33, 34, 11, 12, 13, 21, 22]]
    assert batch["labels"].tolist() == [[-100, -100, 33, 34, -100, 12, 13, -100, 22]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1, 2, 0, 1]]


def test_order_is_a_function_of_seed_and_step() -> None:
    from pipeline.train._batches import Corpus, Order

    corpus = Corpus.of([[1] * (1 + i % 4) for i in range(10)], [""] * 10, first_trained=[0] * 10)
    straight = Order(corpus, 4, 10, seed=3)
    read = straight.__getitems__(list(range(40)))
    late = Order(corpus, 4, 10, seed=3)
    assert late.__getitems__(list(range(24, 40))) == read[24:]
    for epoch in range(2):  # every row once before any row twice
        assert (
            sorted(read[: (epoch + 1) * 20]) == sorted([*range(10)] * (2 * (epoch + 1)))[: (epoch + 1) * 20]
        )
    assert Order(corpus, 4, 10, seed=4).__getitems__(list(range(40))) != read
    assert straight.num_trained(corpus) == sum(1 + i % 4 for i in range(10)) * 4


def poisoned(base: Path, folder: Path) -> Path:
    """A base whose embedding of the word "so" is NaN: every row that holds it has a NaN loss."""
    import shutil

    from safetensors.numpy import load_file, save_file

    shutil.copytree(base, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.embed_tokens.weight"][additions(1)[0].prompt_ids[0]] = np.nan
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("micro_batch", [8, 2])
def test_nan_stops_before_the_step(base: Path, tmp_path: Path, micro_batch: int) -> None:
    bad_base, bad_token = poisoned(base, tmp_path / "bad"), additions(1)[0].prompt_ids[0]
    rows = [row for row in additions(60) if bad_token not in [*row.prompt_ids, *row.completion_ids]]
    rows = [*rows[:15], dataclasses.replace(rows[15], prompt_ids=[bad_token], trace_id="the bad one")]
    settings = Settings(**FAST | {"steps": 40, "micro_batch": micro_batch, "log_every": 1})
    steps: list[float] = []
    job = job_of(bad_base, tmp_path, rows, lora={"r": 4}, report=lambda v: steps.append(v["step"]))
    with pytest.raises(Diverged, match="the loss is not finite; 1 of 8 rows are to blame") as stop:
        train(job, settings)
    assert stop.value.exit_code == 6
    dump = json.loads((tmp_path / "scratch/nan-rows.json").read_text())
    assert dump["rows"] == ["the bad one"]
    assert dump["step"] == max(steps) + 1  # the step was not taken
    assert not list((tmp_path / "out").iterdir())


def test_weights_are_untouched_by_the_step_that_stopped(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model that was stopped at step k holds the bytes of one that was told to take k - 1 steps."""
    from pipeline.train import _trainers

    seen: list[_trainers.PolicyTrainer] = []
    prepare: Callable[..., None] = _trainers.PolicyTrainer.prepare

    def keep(self: _trainers.PolicyTrainer, *args: object) -> None:
        seen.append(self)
        prepare(self, *args)

    monkeypatch.setattr(_trainers.PolicyTrainer, "prepare", keep)
    bad_base, bad_token = poisoned(base, tmp_path / "bad"), additions(1)[0].prompt_ids[0]
    rows = [row for row in additions(60) if bad_token not in [*row.prompt_ids, *row.completion_ids]]
    rows = [*rows[:25], dataclasses.replace(rows[25], prompt_ids=[bad_token])]
    settings = Settings(**FAST | {"steps": 20, "batch_size": 4, "warmup_steps": 0})
    with pytest.raises(Diverged):
        train(job_of(bad_base, tmp_path, rows, lora={"r": 4}), settings)
    taken = json.loads((tmp_path / "scratch/nan-rows.json").read_text())["step"] - 1
    assert taken >= 1
    stopped = {n: p.detach().numpy() for n, p in seen[0].model.named_parameters() if p.requires_grad}
    train(
        job_of(bad_base, tmp_path / "short", rows, lora={"r": 4}),
        Settings(**FAST | {"steps": taken, "batch_size": 4}),
    )
    for name, parameter in seen[1].model.named_parameters():
        if parameter.requires_grad:
            assert np.array_equal(parameter.detach().numpy(), stopped[name]), name
