"""The tiny models of model_world, made once."""

from __future__ import annotations

from pathlib import Path

import pytest
from model_world import bpe_tokenizer, make_model, word_tokenizer


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def policy_folder(models: Path) -> Path:
    return make_model(models / "policy", word_tokenizer())


@pytest.fixture(scope="session")
def prm_folder(models: Path) -> Path:
    return make_model(
        models / "prm", word_tokenizer(), kind="LlamaForTokenClassification", seed=1, num_labels=1
    )


@pytest.fixture(scope="session")
def bpe_folder(models: Path) -> Path:
    return make_model(models / "bpe", bpe_tokenizer(), seed=2)


@pytest.fixture(scope="session")
def policy(policy_folder: Path):
    from pipeline.engine.local import Engine

    return Engine(policy_folder, name="policy")


@pytest.fixture(scope="session")
def prm(prm_folder: Path):
    from pipeline.engine.local import Engine

    return Engine(prm_folder, head="value", name="prm")


@pytest.fixture(scope="session")
def bpe(bpe_folder: Path):
    from pipeline.engine.local import Engine

    return Engine(bpe_folder, name="bpe")
