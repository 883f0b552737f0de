"""Own products through a whole model: a token's logits, and rows that the batch writes. On a GPU as it is; anywhere
else in Triton's interpreter, where triton is installed (its wheel is enough), in a process of its own."""

from __future__ import annotations

import copy
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from gpu_world import gpu_engine, parted
from model_world import make_model, word_tokenizer

from pipeline.engine.cuda_forward import PRODUCTS, Fast, _agree, gaps
from pipeline.engine.local import Engine

ROOT = Path(__file__).parents[2]


@pytest.fixture
def engine(device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """A small model whose tokens in few launches come from own products."""
    kernels = pytest.importorskip("pipeline.engine.cuda_kernels", reason="needs triton")
    from pipeline.engine.cuda_products import Products, fits

    folder = make_model(
        tmp_path / "model", word_tokenizer(), kind="Qwen2ForCausalLM", hidden_size=128, intermediate_size=192
    )
    monkeypatch.setenv(PRODUCTS, "1")
    half = "bfloat16" if device == "cuda" else "float32"  # the interpreter multiplies no bfloat16
    engine = gpu_engine(folder, device, dtype=half, max_rows=5, name="model")
    if device == "cpu":
        engine.fast = Fast(engine.model.base_model, kernels)
        engine.fast.products = Products(torch.device("cpu"), pdl=False)
    assert engine.fast is not None
    assert engine.fast.products is not None
    assert all(fits(layer, engine.fast.size) for layer in engine.fast.layers)
    return engine


@pytest.mark.gpu
def test_each_row_reads_its_own_token(engine: Engine, device: str):
    """The token of a row stands in a column of the sequences, so the rows' tokens do not follow one another."""
    read, written = gaps(engine.model, engine.fast, engine.top)
    far = 1e-5 if device == "cpu" else 0.06
    assert read < far
    assert written < far, f"a row's logits are {written:.3g} of their norm off"


@pytest.mark.gpu
def test_the_batch_writes_the_tokens_of_generate(engine: Engine, device: str):
    """Of six rows, five at a time: the last takes a freed place."""
    prompts = [[5, 6, 7], [8], [9, 10, 11, 12, 13], [14, 15], [3, 4, 5, 6], [30]]
    equal, near = parted(engine, prompts, 6, 1e-3 if device == "cpu" else 0.3)
    assert equal >= 12
    assert near <= (6 if device == "cuda" else 0)


def test_a_wrong_token_in_one_row_is_not_let_pass_for_the_other(policy_folder: Path):
    """In plain torch: the second row's last token, 47, is taken for 24."""
    engine = gpu_engine(policy_folder, "cpu", dtype="float32", name="policy")
    fast, model = engine.fast, engine.model
    assert fast is not None
    assert _agree(model, fast, engine.top)
    fast.words = copy.deepcopy(fast.words)
    fast.words.weight.data[47] = fast.words.weight.data[24]
    right = torch.arange(24, 48)[None]
    wrong = torch.cat([right[:, :-1], torch.tensor([[24]])], 1)
    with torch.inference_mode():
        theirs, found = (model(input_ids=ids, use_cache=False).logits[0, -1] for ids in (right, wrong))
    far = float((found - theirs).norm() / theirs.norm())
    assert gaps(model, fast, engine.top)[1] == pytest.approx(far, rel=1e-4)
    with pytest.warns(UserWarning, match="RATCHET_CUDA_PRODUCTS=1 changes nothing here"):
        assert not _agree(model, fast, engine.top)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")
def test_both_in_tritons_interpreter():
    done = subprocess.run(
        [sys.executable, "-m", "pytest", __file__, "-m", "gpu", "-p", "no:cacheprovider"],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "GPU_TESTS_ON": "cpu", "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    assert "2 passed" in done.stdout
