"""`dtype: auto` on a CPU: bfloat16 where the processor multiplies it and the model is large enough, else float32."""

from __future__ import annotations

import pytest
import torch
import transformers
from model_world import make_model, word_tokenizer

from pipeline.engine import own_forward, selftest
from pipeline.engine.growth import Request
from pipeline.engine.local import Engine
from pipeline.engine.start import start_engine
from pipeline.models import load
from pipeline.train import TrainJob
from pipeline.train._setup import weights_dtype

CPU = torch.device("cpu")
FAST = {"avx512_bf16"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("dtype") / "m", word_tokenizer())


@pytest.mark.parametrize(
    ("flags", "large", "found"),
    [(FAST, 1, torch.bfloat16), ({"amx_bf16"}, 1, torch.bfloat16), (FAST, 10**9, torch.float32), (set(), 1, torch.float32)],
)  # fmt: skip
def test_the_processor_and_the_size_decide(folder, monkeypatch, flags, large, found):
    monkeypatch.setattr(load, "processor_flags", lambda: flags)
    monkeypatch.setattr(load, "LARGE", large)
    assert load.dtype_of("auto", CPU, folder) == found
    assert load.dtype_of("float32", CPU, folder) == torch.float32
    assert load.dtype_of("auto", torch.device("cuda"), folder) == torch.bfloat16


def test_a_small_seed_stays_in_float32_on_every_processor(folder, monkeypatch):
    """Its rows are the same bytes as ever."""
    monkeypatch.setattr(load, "processor_flags", lambda: FAST | {"amx_bf16"})
    assert start_engine(folder).dtype == torch.float32


def test_training_takes_what_the_engine_takes(folder, monkeypatch, tmp_path):
    monkeypatch.setattr(load, "processor_flags", lambda: FAST)
    monkeypatch.setattr(load, "LARGE", 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    job = {
        "rows": lambda: iter(()),
        "base": folder,
        "adapter": None,
        "out": tmp_path,
        "scratch": tmp_path,
        "seed": 0,
    }
    assert weights_dtype(TrainJob(**job, round=1, lora={"r": 4})) == torch.bfloat16
    assert weights_dtype(TrainJob(**job, round=1, lora=None)) == torch.float32
    assert weights_dtype(TrainJob(**job, round=1, lora={"r": 4}, dtype="float32")) == torch.float32


def test_where_bfloat16_is_not_exact_auto_goes_back_to_float32(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("RATCHET_CACHE", str(tmp_path))
    monkeypatch.setattr(selftest, "_known", {})
    monkeypatch.setattr(load, "processor_flags", lambda: FAST)
    monkeypatch.setattr(load, "LARGE", 1)
    look = selftest._looked

    def feels(engine, *given):
        return (False, True, 1, False) if engine.dtype == torch.bfloat16 else look(engine, *given)

    monkeypatch.setattr(selftest, "_looked", feels)
    engine = start_engine(folder, check=True)
    assert (engine.dtype, engine.exact) == (torch.float32, True)
    assert not start_engine(folder, dtype="bfloat16", check=True).exact  # what is asked for is done, and said


def test_the_self_test_of_a_model_of_four_layers_leaves_an_engine_that_writes(tmp_path, monkeypatch):
    """It looks at two of them, after the look at transformers' own forward had all."""
    monkeypatch.setenv("RATCHET_CACHE", str(tmp_path))
    monkeypatch.setattr(selftest, "_known", {})
    engine = start_engine(make_model(tmp_path / "m", word_tokenizer(), num_hidden_layers=4), check=True)
    assert (engine.exact, engine.num_layers) == (True, 4)
    engine.submit([Request([5, 6, 7], 3, ends_on=0, temperature=0.0)])
    while engine.busy:
        engine.step()


def test_a_reward_models_rounding_is_held_against_the_spread_of_all_rows(prm_folder, monkeypatch):
    """A row of one token spreads nothing, and bfloat16 is off by a bit there too."""
    engine = Engine(prm_folder, head="value", dtype="bfloat16", name="prm")
    rows = own_forward._rows(engine, engine.model.config.get_text_config())
    assert len(rows[0]) == 1
    score, spread = (
        engine.score,
        torch.tensor([s for row in engine.score([(r, range(len(r))) for r in rows]) for s in row]).std(),
    )
    for share, fits in ((0.05, True), (2.0, False)):
        monkeypatch.setattr(
            engine,
            "score",
            lambda items, off=share * spread: [[s + off for s in row] for row in score(items)],
        )
        assert (own_forward._off_scores(engine, rows)[0] <= own_forward.OFF[torch.bfloat16]) is fits


def test_a_reward_model_that_is_read_whole_leaves_the_policy_of_its_base_alone(folder, monkeypatch):
    monkeypatch.setattr(own_forward, "_whole", set())

    def fails():
        raise ValueError("no such cache")

    value, plain = (own_forward.shape_of(folder, head, "float32") for head in ("value", None))
    assert own_forward.fits(folder, value, fails) is None
    assert (
        own_forward.fits(folder, value, lambda: Engine(folder, dtype="float32")) is None
    )  # it is known by now
    assert own_forward.fits(folder, plain, lambda: Engine(folder, dtype="float32")) is not None


def test_where_half_precision_does_not_fit_auto_goes_back_to_float32_before_rows_are_read_whole(
    folder, monkeypatch
):
    monkeypatch.setattr(own_forward, "_whole", set())
    monkeypatch.setattr(own_forward, "_known", {})
    monkeypatch.setattr(load, "processor_flags", lambda: FAST)
    monkeypatch.setattr(load, "LARGE", 1)
    look = own_forward._off_tokens
    monkeypatch.setattr(
        own_forward,
        "_off_tokens",
        lambda engine, rows: (9.0, 1) if engine.dtype == torch.bfloat16 else look(engine, rows),
    )
    engine = start_engine(folder, check=True)
    assert (engine.dtype, engine.reads_whole) == (torch.float32, False)


@pytest.mark.parametrize("head", [None, "shared"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_window_that_the_engine_does_not_know_is_seen_in_every_precision(tmp_path, head, dtype):
    """GPT-Neo's local layers, as a policy and with a value head beside it: right, if slow."""
    config = transformers.GPTNeoConfig(
        vocab_size=len(word_tokenizer()), hidden_size=64, num_layers=2, num_heads=4, window_size=8, eos_token_id=1,
        attention_types=[[["global", "local"], 1]], max_position_embeddings=256, bos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.GPTNeoForCausalLM(config).save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    engine = start_engine(tmp_path, head=head, dtype=dtype, check=True)
    assert (engine.reads_whole, str(engine.dtype)) == (True, f"torch.{dtype}")
