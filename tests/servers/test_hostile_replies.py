"""Every reply may be bad: a process that speaks raw sockets answers badly in each of the ways of `hostile.py`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
import hostile
from model_world import make_model, word_tokenizer

from pipeline.engine import connection
from pipeline.engine.endings import EOS, STEP
from pipeline.engine.growth import Request
from pipeline.engine.server import ServerEngine
from pipeline.errors import RecipeError, WorkerLost, printable

NAMES = [*hostile.REPLIES, *hostile.SLOW]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    script = str(Path(hostile.__file__))
    process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("hostile") / "policy", word_tokenizer())


def tell(address: str, path: str) -> object:
    with urllib.request.urlopen(f"{address}/{path}") as answer:
        return json.loads(answer.read())


def finish(engine: ServerEngine) -> None:
    while engine.busy:
        engine.step()


def connected(address: str, folder: Path, **more) -> ServerEngine:
    tell(address, "hostile/good")
    return ServerEngine(folder, servers=[address], name="policy", pause=0.001, verify=False, **more)


@pytest.mark.parametrize("name", NAMES)
def test_a_bad_reply_is_tried_four_times_and_named(
    name: str, address: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = name in hostile.SLOW
    monkeypatch.setattr(connection, "MAX_BODY", 4 << 20)
    engine = connected(address, folder)
    if slow and "unbounded" not in name:
        engine._link.seconds = 0.4
    tell(address, f"hostile/{name}")
    engine.submit([Request([3, 4], 3)])
    with pytest.raises(WorkerLost) as lost:
        finish(engine)
    said = str(lost.value)
    assert lost.value.exit_code == 8
    assert address in said
    assert "after 4 tries" in said
    assert said.isprintable()
    assert len(said) < 1000
    wanted = hostile.SLOW[name] if slow else hostile.REPLIES[name][1]
    assert wanted in said
    assert len(tell(address, "seen")) == 4


def test_there_are_forty_ways() -> None:
    assert len(NAMES) >= 40
    assert len(set(NAMES)) == len(NAMES)


def test_a_good_reply_after_three_bad_ones_is_taken(address: str, folder: Path) -> None:
    engine = connected(address, folder)
    engine._link._pause = 0.2
    tell(address, "hostile/html")
    engine.submit([Request([3, 4], 3)])
    while len(tell(address, "seen")) < 3:
        pass
    tell(address, "hostile/good")
    [row] = engine.step()
    assert row.new_ids == [hostile.GOOD_ID] * 3
    assert row.logprobs == [hostile.GOOD_VALUE] * 3


def test_faults_are_tried_again_and_a_dead_server_is_named(address: str, folder: Path) -> None:
    """Busy, then slow, then dead, then well: one row, and no row twice. A server that is not there is named."""
    engine = connected(address, folder)
    engine._link._pause = 0.2
    tell(address, "hostile/reason_of_503")
    engine.submit([Request([3, 4], 3)])
    for then in ("too_many_requests", "reason_of_500"):
        while len(tell(address, "seen")) < 1:
            pass
        tell(address, f"hostile/{then}")
    while len(tell(address, "seen")) < 1:
        pass
    tell(address, "hostile/good")
    [row] = engine.step()
    assert row.new_ids == [hostile.GOOD_ID] * 3
    assert not engine.busy
    with pytest.raises(WorkerLost, match="127.0.0.1:9 gives no good answer to /v1/models after 4 tries"):
        ServerEngine(folder, servers=["http://127.0.0.1:9"], pause=0.001)


def test_what_cannot_be_served_is_said(address: str, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="value cannot be served"):
        connected(address, folder, head="value")
    with pytest.raises(RecipeError, match="holds whole weights"):
        connected(address, folder, adapter=tmp_path)
    with pytest.raises(RecipeError, match="not an http address"):
        ServerEngine(folder, servers=["file:///etc"])
    with pytest.raises(RecipeError, match="names no server"):
        ServerEngine(folder, servers=[])
    with pytest.raises(RecipeError, match=r"has no model 'bsae' \(did you mean base\?\)"):
        connected(address, folder, model="bsae")
    with pytest.raises(RecipeError, match="has no head"):
        connected(address, folder).score([([3, 4], [1])])


def test_a_bad_answer_to_a_score_is_named(address: str, folder: Path) -> None:
    engine = connected(address, folder)
    assert engine.logprobs([([3, 4, 5], 1)]) == [[hostile.GOOD_VALUE] * 2]
    for name in ("html", "ids_missing"):
        tell(address, f"hostile/{name}")
        with pytest.raises(WorkerLost, match="after 4 tries"):
            engine.logprobs([([3, 4, 5], 1)])


def test_a_refusal_is_the_users_and_says_the_servers_words(address: str, folder: Path) -> None:
    hostile_words = "\x1b[31mno such model\x07"
    engine = connected(address, folder)
    found = engine._link._hidden(connection.words_of(json.dumps({"detail": hostile_words}).encode()))
    assert found == "no such model"
    assert printable("a\x1b]0;title\x07b\u200bc\nd") == "a b c d"
    assert printable("x" * 999).endswith("...")
    assert len(printable("x" * 999)) == 300


def test_what_a_row_asks_for(address: str, folder: Path) -> None:
    """Seed, temperature, top_p, top_k and stops of a row go out as they are; nothing else shapes the draw."""
    engine = connected(address, folder)
    lines = engine.rule("\n", ("numbers",))
    row = Request([3, 4], 7, seed=2**40 + 11, temperature=0.7, top_p=0.9, top_k=5, state=lines.start,
                  ends_on=STEP | EOS)  # fmt: skip
    tell(address, "hostile/good")
    engine.submit([row])
    finish(engine)
    [asked] = tell(address, "seen")
    assert asked == {
        "model": "base",
        "prompt": [3, 4],
        "max_tokens": 7,
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 5,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "seed": (2**40 + 11) % 2**31,
        "logprobs": 1,
        "return_token_ids": True,
        "stop": ["\n"],
        "include_stop_str_in_output": True,
    }
    seeds = []
    for seed in (0, 1, 2**31, 2**31 + 1):
        tell(address, "hostile/good")
        engine.submit([Request([3], 2, seed=seed)])
        engine.step()
        seeds += [one["seed"] for one in tell(address, "seen")]
    assert seeds == [0, 1, 0, 1]


def test_a_key_goes_to_the_server_and_into_no_message(
    address: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RecipeError, match="RATCHET_TEST_KEY is not set"):
        connected(address, folder, api_key_env="RATCHET_TEST_KEY")
    monkeypatch.setenv("RATCHET_TEST_KEY", "LoRA")
    engine = connected(address, folder, api_key_env="RATCHET_TEST_KEY")
    tell(address, "hostile/reason_of_500")
    engine.submit([Request([3], 2)])
    with pytest.raises(WorkerLost) as lost:
        engine.step()
    assert "*** rank 64" in str(lost.value)
    assert "LoRA" not in str(lost.value)


def test_a_base_that_is_not_ours_is_refused_at_connect(address: str, folder: Path) -> None:
    """This server gives each token the log-probability -0.5; ours does not."""
    tell(address, "hostile/good")
    with pytest.raises(RecipeError, match="is not the model in .* nats a token"):
        ServerEngine(folder, servers=[address], name="policy", pause=0.001)


def test_clear_drops_what_is_under_way(address: str, folder: Path) -> None:
    engine = connected(address, folder)
    tell(address, "hostile/silence")
    engine.submit([Request([3, 4], 3)])
    engine.clear()
    assert not engine.busy
    assert engine.step() == []


@pytest.mark.full
def test_the_command_line_says_one_sentence(address: str, folder: Path, tmp_path: Path) -> None:
    """Exit 8 and the server's words, without its escapes, on a terminal and in outcome.json."""
    tell(address, "hostile/escapes")
    recipe = {
        "name": "r", "task": {"use": "countdown", "train": 4, "dev": 2, "test": 2, "max_tokens": 8},
        "models": {"policy": {"base": str(folder), "engine": {"server": [address], "model": "base"}}},
        "rounds": 1, "wandb": {"mode": "disabled"},
        "stages": {"sample": {"generate": "sample", "by": "policy", "n": 1}},
    }  # fmt: skip
    (tmp_path / "r.yaml").write_text(json.dumps(recipe))
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "run", "r.yaml"],
        cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(root)},
    )  # fmt: skip
    assert done.returncode == 8, done.stderr
    assert "Traceback" not in done.stderr
    assert "evil" in done.stderr
    told = json.loads((tmp_path / "data/r/outcome.json").read_text())
    for text in (done.stderr, done.stdout, json.dumps(told, ensure_ascii=False)):
        assert not set(text) & set("\x1b\x07\u202e\x00\x9b")
