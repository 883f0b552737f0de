"""train/policy_gradient: the same number as trl's own loss, and what trl has not."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from train_world import additions, job_of, weights

from pipeline.errors import Diverged, NothingKept, RecipeError
from pipeline.rows import Example
from pipeline.settings import StageSettings
from pipeline.train import _losses
from pipeline.train import policy_gradient as pg

NUM = 15


@pytest.fixture(scope="module")
def world(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """An adapter that moved, the model with it, and rows whose log-probabilities are recorded a little off."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("start")
    start = Example(problem_id="p", prompt="", completion="")
    plain = [dataclasses.replace(start, **_ids(row), advantage=[1.0], old_logprobs=[-1.0] * len(row.completion_ids))
             for row in additions(NUM)]  # fmt: skip
    pg.train(
        job_of(base, folder, plain, round=0), pg.Settings(loss="reinforce", epochs=4, learning_rate=3e-2)
    )
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder / "out").eval()
    draw = np.random.default_rng(3)
    rows = []
    for number, row in enumerate(plain):
        read = logprobs(model, row)
        rows.append(
            dataclasses.replace(
                row,
                problem_id=f"g{number // 3}",
                trace_id=f"t{number}",
                advantage=[float(draw.normal())] if number % 2 else draw.normal(size=len(read)).tolist(),
                old_logprobs=(read + draw.normal(0, 0.3, len(read))).tolist(),
            )
        )
    return {"model": model, "adapter": folder / "out", "rows": rows}


def _ids(row: Example) -> dict[str, Any]:
    return {"problem_id": row.problem_id, "prompt_ids": row.prompt_ids, "completion_ids": row.completion_ids}


def logprobs(model: Any, row: Example) -> np.ndarray:
    ids = torch.tensor([[*row.prompt_ids, *row.completion_ids]])
    with torch.no_grad():
        spread = model(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
    read = spread.gather(-1, ids[0, 1:, None])[:, 0]
    return read[len(row.prompt_ids) - 1 :].numpy().astype(np.float64)


def padded(rows: list[Any], fill: float = 0.0) -> torch.Tensor:
    wide = max(map(len, rows))
    return torch.tensor([[*row, *[fill] * (wide - len(row))] for row in rows])


@pytest.fixture(scope="module")
def theirs(base: Path, world: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """trl's own trainer, on the same model and rows; its batch as it would have made it."""
    from datasets import Dataset
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    out = str(tmp_path_factory.mktemp("trl"))
    args = GRPOConfig(
        out, per_device_train_batch_size=NUM, num_generations=NUM, use_cpu=True, bf16=False, report_to="none",
        gradient_checkpointing=False,
    )  # fmt: skip
    trainer = GRPOTrainer(
        AutoModelForCausalLM.from_pretrained(base), reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=args, train_dataset=Dataset.from_dict({"prompt": ["1 + 1 ="] * NUM}),
        processing_class=AutoTokenizer.from_pretrained(base),
    )  # fmt: skip
    trainer.current_gradient_accumulation_steps = 1
    trainer.model = PeftModel.from_pretrained(trainer.model, world["adapter"]).train()
    rows = world["rows"]
    mask = padded([[1] * len(row.completion_ids) for row in rows]).long()
    sizes = [len(row.completion_ids) for row in rows]
    spread = [
        row.advantage * n if len(row.advantage) == 1 else row.advantage
        for row, n in zip(rows, sizes, strict=True)
    ]
    with world["model"].disable_adapter():
        reference = [logprobs(world["model"], row).tolist() for row in rows]
    batch = {
        "prompt_ids": torch.tensor([row.prompt_ids for row in rows]),
        "prompt_mask": torch.ones(NUM, len(rows[0].prompt_ids), dtype=torch.long),
        "completion_ids": padded([row.completion_ids for row in rows]).long(),
        "completion_mask": mask,
        "advantages": padded(spread),
        "old_per_token_logps": padded([row.old_logprobs for row in rows]),
        "ref_per_token_logps": padded(reference),
        "num_items_in_batch": mask.sum(),
    }
    return trainer, batch


def their_loss(theirs: Any, more: dict[str, Any] | None = None, **set_to: Any) -> float:
    trainer, batch = theirs
    usual = {
        "loss_type": "grpo", "importance_sampling_level": "token", "epsilon_low": 0.2, "epsilon_high": 0.2, "beta": 0.0,
        "top_entropy_quantile": 1.0, "max_completion_length": 7, "use_vllm": False, "entropy_coef": 0.0,
        "_entropy_bonus_enabled": False,
    }  # fmt: skip
    for name, value in (usual | set_to).items():
        setattr(trainer, name, value)
    trainer.args.steps_per_generation = 1
    trainer.args.use_bias_correction_kl = set_to.get("corrected", True)
    trainer.vllm_importance_sampling_correction = True
    with torch.no_grad():
        return float(trainer._compute_loss(trainer.model, batch | (more or {})))


def ours(base: Path, world: dict[str, Any], folder: Path, **settings: Any) -> Any:
    job = job_of(base, folder, world["rows"], adapter=world["adapter"])
    return pg.train(job, pg.Settings(**{"learning_rate": 1e-12, "max_length": 32} | settings))


@pytest.mark.parametrize(
    ("settings", "trl"),
    [
        ({"loss": "grpo"}, {}),
        ({"loss": "grpo", "clip_low": 0.1, "clip_high": 0.05}, {"epsilon_low": 0.1, "epsilon_high": 0.05}),
        ({"loss": "dr_grpo", "longest": 7}, {"loss_type": "dr_grpo"}),
        ({"loss": "bnpo"}, {"loss_type": "bnpo"}),
        ({"loss": "dapo"}, {"loss_type": "dapo", "epsilon_high": 0.28}),
        (
            {"loss": "gspo"},
            {"importance_sampling_level": "sequence", "epsilon_low": 3e-4, "epsilon_high": 4e-4},
        ),
        (
            {"loss": "cispo", "clip_high": 0.1},
            {"loss_type": "cispo", "epsilon_high": 1.1},
        ),  # trl's is the cap
        ({"loss": "grpo", "kl": {"coefficient": 0.3}}, {"beta": 0.3}),
        (
            {"loss": "gspo", "kl": {"coefficient": 0.3, "corrected": False}},
            {
                "importance_sampling_level": "sequence",
                "epsilon_low": 3e-4,
                "epsilon_high": 4e-4,
                "beta": 0.3,
                "corrected": False,
            },
        ),
        (
            {"loss": "dapo", "top_entropy": 0.3, "clip_high": 0.2},
            {"loss_type": "dapo", "top_entropy_quantile": 0.3},
        ),
        ({"loss": "grpo", "entropy_bonus": 0.1}, {"_entropy_bonus_enabled": True, "entropy_coef": 0.1}),
        ({"loss": "bnpo", "micro_batch": 4}, {"loss_type": "bnpo"}),  # 4 + 4 + 4 + 3 and a filler
    ],
)
def test_the_loss_is_trls(
    base: Path, world: dict, theirs: Any, tmp_path: Path, settings: dict, trl: dict
) -> None:
    found = ours(base, world, tmp_path, **settings).metrics["loss"]
    assert found == pytest.approx(their_loss(theirs, **trl), abs=1e-6)


def test_cispo_differs_from_trl_where_trl_is_off(
    base: Path, world: dict, theirs: Any, tmp_path: Path
) -> None:
    """The same words, epsilon_high = 0.28: trl cuts every ratio at 0.28, the paper at 1.28."""
    said = ours(base, world, tmp_path, loss="cispo", clip_high=0.28).metrics
    assert abs(said["loss"] - their_loss(theirs, loss_type="cispo", epsilon_high=0.28)) > 1e-3
    assert said["loss"] == pytest.approx(their_loss(theirs, loss_type="cispo", epsilon_high=1.28), abs=1e-6)


def test_truncated_weights_where_another_engine_wrote(
    base: Path, world: dict, theirs: Any, tmp_path: Path
) -> None:
    start = [logprobs(world["model"], row) for row in world["rows"]]
    weights_of = [
        np.minimum(np.exp(now - np.array(row.old_logprobs)), 1.1).tolist()
        for now, row in zip(start, world["rows"], strict=True)
    ]
    more = {
        "old_per_token_logps": padded([one.tolist() for one in start]),
        "importance_sampling_ratio": padded(weights_of),
    }
    said = ours(base, world, tmp_path, loss="grpo", truncate=1.1).metrics
    assert said["loss"] == pytest.approx(their_loss(theirs, more, use_vllm=True), abs=1e-6)
    assert said["ratio"] == pytest.approx(1, abs=1e-5)
    assert said["mismatch"] < 1e-5


def test_kl_in_the_advantage_is_paid_from_each_token_on(base: Path, world: dict, tmp_path: Path) -> None:
    """k1, by hand: with loss reinforce the loss is -sum of (A - c paid) log p, over the rows."""
    wanted = 0.0
    for row in world["rows"]:
        with world["model"].disable_adapter():
            reference = logprobs(world["model"], row)
        now, old = logprobs(world["model"], row), np.array(row.old_logprobs)
        paid = np.cumsum((old - reference)[::-1])[::-1]
        wanted -= float(((np.array(row.advantage) - 0.2 * paid) * now).sum()) / NUM
    kl = {"coefficient": 0.2, "kind": "k1"}
    assert ours(base, world, tmp_path, loss="reinforce", kl=kl).metrics["loss"] == pytest.approx(
        wanted, rel=1e-5
    )


def test_a_rows_own_kl_weight_and_the_reference_it_starts_from(
    base: Path, world: dict, tmp_path: Path
) -> None:
    kl = {"coefficient": 0.3}
    free = {**world, "rows": [dataclasses.replace(row, kl_weight=0.0) for row in world["rows"]]}
    plain = ours(base, world, tmp_path / "0").metrics["loss"]
    assert ours(base, free, tmp_path / "1", kl=kl).metrics["loss"] == pytest.approx(plain, abs=1e-7)
    start = ours(base, world, tmp_path / "2", kl=kl | {"reference": "start"}).metrics
    assert start["loss"] == pytest.approx(plain, abs=1e-6)
    assert start["kl/reference"] == pytest.approx(0, abs=1e-6)


def test_what_a_policy_gradient_is_watched_by(base: Path, world: dict, tmp_path: Path) -> None:
    said = ours(base, world, tmp_path, minibatches=4, epochs=2, log_every=3)
    flat = np.concatenate([logprobs(world["model"], row) - row.old_logprobs for row in world["rows"]])
    assert said.metrics["ratio"] == pytest.approx(np.exp(flat).mean(), rel=1e-5)
    assert said.metrics["kl/old"] == pytest.approx((np.exp(flat) - flat - 1).mean(), rel=1e-4)
    assert (said.metrics["steps"], said.metrics["staleness"], said.metrics["epochs"]) == (8, 7, 2)
    assert (said.metrics["groups"], said.metrics["equal_groups"]) == (5, 0)
    assert 0 < said.metrics["clip/low"] < 1
    assert 0 < said.metrics["clip/high"] < 1
    assert [line["step"] for line in said.history] == [3, 6, 8]
    assert "entropy" in said.history[0]
    assert said.metrics["trained_positions"] == 2 * flat.size


def test_two_rounds_with_a_carried_optimizer_are_one_training_of_two_steps(
    base: Path, world: dict, tmp_path: Path
) -> None:
    """The schedule goes on too: half the rate in the second."""
    given = {"loss": "grpo", "learning_rate": 1e-2, "schedule": "linear", "max_length": 32}
    whole = job_of(base, tmp_path / "whole", world["rows"], adapter=world["adapter"])
    pg.train(whole, pg.Settings(**given, epochs=2))
    carried = pg.Settings(**given)
    adapter, optimizer = world["adapter"], None
    for number in (1, 2):
        folder = tmp_path / str(number)
        more = {"carry_optimizer": True, "optimizer": optimizer, "schedule": (number - 1, 2)}
        job = job_of(base, folder, world["rows"], adapter=adapter, round=number, **more)
        pg.train(job, carried)
        adapter, optimizer = folder / "out", folder / "out/optimizer"
    one, two, start = weights(tmp_path / "whole/out"), weights(adapter), weights(world["adapter"])
    for name, array in one.items():
        np.testing.assert_allclose(two[name], array, atol=2e-6, err_msg=name)
        assert np.abs(array - start[name]).max() > 1e-3
    assert sorted(p.name for p in optimizer.iterdir()) == ["optimizer.json", "optimizer.safetensors"]
    other = job_of(base, tmp_path / "3", world["rows"], lora={"r": 2}, optimizer=optimizer)
    with pytest.raises(RecipeError, match="has no state that fits .*lora changed"):
        pg.train(other, carried)


def test_rows_that_cannot_be_trained_on_are_counted(base: Path, world: dict, tmp_path: Path) -> None:
    good = world["rows"][0]
    bad = {
        "no_logprobs": {"old_logprobs": None},
        "no_advantage": {"advantage": [1.0, 1.0, 1.0, 1.0, 1.0]},
        "bad_advantage": {"advantage": [math.nan]},
        "no_token_ids": {"completion_ids": []},
        "bad_kl_weight": {"kl_weight": -1.0},
        "too_long": {"prompt_ids": [3] * 40},
    }
    rows = [dataclasses.replace(good, **more) for more in bad.values()]
    job = job_of(base, tmp_path, [good, *rows], adapter=world["adapter"])
    assert pg.train(job, pg.Settings(max_length=32)).dropped == dict.fromkeys(bad, 1)
    with pytest.raises(NothingKept, match=r"no trace to train on: 1 no_logprobs, .*select: episodes"):
        pg.train(job_of(base, tmp_path / "2", rows, adapter=world["adapter"]), pg.Settings(max_length=32))


def test_a_loss_that_is_not_finite_stops_before_the_step(base: Path, world: dict, tmp_path: Path) -> None:
    rows = [*world["rows"][:5], dataclasses.replace(world["rows"][5], trace_id="wild", old_logprobs=[-1e4] * 3, advantage=[-1.0])]  # fmt: skip
    rows[5] = dataclasses.replace(rows[5], old_logprobs=[-1e4] * len(rows[5].completion_ids))
    job = job_of(base, tmp_path, rows, adapter=world["adapter"])
    with pytest.raises(Diverged, match="step 1: the loss is not finite; 1 of .* Training stopped before"):
        pg.train(job, pg.Settings(max_length=32))
    assert "wild" in (tmp_path / "scratch/nan-rows.json").read_text()
    assert not list((tmp_path / "out").iterdir())


def test_settings_that_cannot_go_together_are_said() -> None:
    class Drawn(StageSettings):
        @property
        def drawn_otherwise(self) -> str:
            return "temperature 0.7"

    settings = pg.Settings(
        carry_optimizer=True,
        args={"deepspeed": "zero2.json"},
        schedule="reduce_lr_on_plateau",
        schedule_rounds=2,
    )
    said = list(settings.faults("base", [("sample", Drawn()), ("check", StageSettings())]))
    assert len(said) == 4
    for words in (
        "restart_from: previous",
        "under ZeRO",
        "choose linear or cosine",
        "traces of sample .* temperature 0.7",
    ):
        assert sum(bool(re.search(words, line)) for line in said) == 1
    assert list(pg.Settings(carry_optimizer=True).faults("previous", [("s", StageSettings())])) == []
    phased = pg.Settings(schedule_rounds=9, rounds=(3, None), every=2)
    assert [phased.place_in_schedule(n) for n in (4, 6, 8)] == [(0, 9), (1, 9), (2, 9)]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"loss": "reinforce", "clip_low": 0.1}, "clip_low: loss reinforce has none"),
        ({"loss": "reinforce", "clip_high": 0.1}, "clip_high: loss reinforce has none"),
        ({"loss": "cispo", "clip_low": 0.1}, "clip_low: loss cispo has none"),
        ({"loss": "grpo", "longest": 9}, "longest: loss grpo is not divided by it"),
        ({"minibatches": 2, "batch_size": 8}, "minibatches and batch_size both say"),
        ({"top_entropy": 0}, "greater than 0"),
    ],
)
def test_what_a_loss_does_not_read_is_refused(given: dict, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        pg.Settings(**given)


def test_cispo_has_a_gradient_past_its_cap_and_clipping_has_none() -> None:
    old, ones = torch.zeros(1, 1), torch.ones(1, 1)
    for form, wanted in (("cispo", -1.5), ("grpo", 0.0), ("reinforce", -1.0)):
        now = torch.full((1, 1), 1.0, requires_grad=True)  # ratio e
        batch = _losses.Batch(now, old, ones, ones)
        loss, _ = _losses.per_token(batch, _losses.OBJECTIVES[form], 0.2, 0.5)
        loss.sum().backward()
        assert float(now.grad) == pytest.approx(wanted)
    assert float(_losses.k3(torch.tensor(0.5), torch.tensor(0.0))) == pytest.approx(0.10653, abs=1e-5)
    pair = torch.tensor([[0.1, -0.1, 0.3]])
    batch = _losses.Batch(pair, torch.zeros(1, 3), torch.ones(1, 3), torch.ones(1, 3))
    assert float(_losses.per_token(batch, _losses.OBJECTIVES["gspo"], 9, 9)[1]) == pytest.approx(
        1.10517, abs=1e-5
    )
