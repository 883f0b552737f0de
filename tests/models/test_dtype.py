"""`dtype: auto` on a CPU: bfloat16 where the processor multiplies it and the model is large enough, else float32."""

from __future__ import annotations

import pytest
import torch
from model_world import make_model, word_tokenizer

from pipeline.engine import selftest
from pipeline.engine.growth import Request
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
