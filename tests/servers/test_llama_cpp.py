"""llama.cpp's server (`make test-servers`): token ids in and out and log-probabilities, so that its base is held
against ours; it writes no stop text, reads no prompts and loads no adapter while it runs.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from model_world import bpe_tokenizer, make_model
from serving import free_port, serving

from pipeline.engine.endings import EOS, STEP
from pipeline.engine.growth import Request
from pipeline.engine.local import Engine
from pipeline.engine.server import ServerEngine
from pipeline.errors import RecipeError

PYTHON = os.environ.get("RATCHET_LLAMA_PYTHON", "")
HERE = Path(__file__).parent
pytestmark = [
    pytest.mark.servers,
    pytest.mark.skipif(not PYTHON, reason="RATCHET_LLAMA_PYTHON names no interpreter: make test-servers"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("llama") / "policy", bpe_tokenizer(), seed=2)


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    file, port = folder.parent / "policy.gguf", free_port()
    subprocess.run([PYTHON, str(HERE / "gguf_of.py"), str(folder), str(file)], check=True)
    command = [PYTHON, str(HERE / "llama_server.py"), str(file), str(port)]
    with serving(command, port, folder.parent / "log") as url:
        yield url


def test_it_writes_what_the_local_engine_writes(address: str, folder: Path) -> None:
    served, local = ServerEngine(folder, servers=[address], max_rows=4), Engine(folder)
    can = served.can
    assert can.kind == "llama.cpp"
    assert (can.takes_ids, can.gives_ids, can.logprobs, can.reads, can.stops) == (
        True,
        True,
        True,
        False,
        False,
    )
    assert can.wrote  # so the base was held against ours
    assert not any("was not checked" in note for note in served.notes)
    assert served.context == 512
    lines = {engine: engine.rule("\n", ()).start for engine in (served, local)}
    written = {}
    for engine in (served, local):
        rows = [
            Request(
                engine.encode(f"one step {i}."),
                2 if i % 2 else 24,
                temperature=0.0,
                state=lines[engine],
                ends_on=STEP | EOS,
            )
            for i in range(60)
        ]
        engine.submit(rows)
        while engine.busy:
            engine.step()
        written[engine] = rows
    whole = known = 0
    for theirs, mine in zip(written[served], written[local], strict=True):
        if "\ufffd" in local.decode(mine.new_ids):  # random bytes: it tells no ids inside a character
            continue
        whole += 1
        assert theirs.new_ids == mine.new_ids
        assert theirs.flags == mine.flags
        if not math.isnan(theirs.logprobs[0]):  # unknown where it went on into a broken character
            known += 1
            assert theirs.logprobs == pytest.approx(mine.logprobs, abs=2e-2)  # its cache is float16
    assert whole >= 6
    assert known >= 1


def test_another_model_is_refused(address: str, folder: Path, tmp_path: Path) -> None:
    other = make_model(tmp_path / "other", bpe_tokenizer(), seed=3)
    with pytest.raises(RecipeError, match="is not the model in"):
        ServerEngine(other, servers=[address])


def test_what_it_cannot_do_is_one_sentence(address: str, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"HTTP 404.*--enable-lora --max-lora-rank"):
        ServerEngine(folder, servers=[address], lora={"r": 4}, scratch=tmp_path)
    with pytest.raises(RecipeError, match=r"llama.cpp at .* gives no prompt_logprobs"):
        ServerEngine(folder, servers=[address]).logprobs([([3, 4], 1)])
