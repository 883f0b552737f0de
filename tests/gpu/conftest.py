"""Tests of the GPU's paths. Those marked `gpu` need a CUDA device; GPU_TESTS_ON=cpu runs them on the CPU, in plain
torch, so that no time on a GPU goes into mistakes of another kind."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "models"))
FORCED = os.environ.get("GPU_TESTS_ON", "")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import torch

    if FORCED or torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="session")
def device() -> str:
    return FORCED or "cuda"


@pytest.fixture(scope="session")
def policy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from model_world import make_model, word_tokenizer

    return make_model(tmp_path_factory.mktemp("models") / "policy", word_tokenizer())


@pytest.fixture(scope="session")
def prm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from model_world import make_model, word_tokenizer

    folder = tmp_path_factory.mktemp("models") / "prm"
    return make_model(folder, word_tokenizer(), kind="LlamaForTokenClassification", seed=1, num_labels=1)
