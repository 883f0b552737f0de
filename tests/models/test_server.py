"""The server engine against a small real server: a local engine behind `/v1/completions`, as vLLM speaks it."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from model_world import LineTask
from typer.testing import CliRunner

from pipeline.__main__ import app
from pipeline.errors import RecipeError, WorkerLost
from pipeline.models.asks import Continue, Prefix, Score
from pipeline.models.driver import Driver, Search
from pipeline.models.endings import EOS, STEP
from pipeline.models.engine import Engine
from pipeline.models.growth import Row
from pipeline.models.open import open_engine
from pipeline.models.server import ServerEngine


class Served(ThreadingHTTPServer):
    """Answers with a local engine. `faults` are HTTP codes to give first; `text_only` refuses token ids."""

    daemon_threads = True

    def __init__(self, engine: Engine) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.engine, self.lock = engine, threading.Lock()
        self.faults: list[int] = []
        self.adapters: list[dict] = []
        self.seen: list[dict] = []
        self.text_only = self.plain = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answer(BaseHTTPRequestHandler):
    server: Served

    def log_message(self, *args: object) -> None: ...

    def reply(self, code: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(code)
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        self.reply(200, {"data": [{"id": "base"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            if self.server.faults:
                self.reply(self.server.faults.pop(), {"error": "a fault"})
            elif self.path == "/v1/load_lora_adapter":
                self.server.adapters.append(body)
                self.reply(200, "Success")
            else:
                self.complete(body)

    def complete(self, body: dict) -> None:
        self.server.seen.append(body)
        engine = self.server.engine
        ids = body["prompt"]
        if isinstance(ids, str):
            ids = engine.encode(ids)
        elif self.server.text_only:
            self.reply(400, {"message": "prompt must be a string."})
            return
        rule = engine.rule((body.get("stop") or [""])[0], ())
        row = Row(
            ids,
            body["max_tokens"],
            body.get("seed", 0),
            body["temperature"],
            state=rule.start,
            ends_on=STEP | EOS,
        )
        engine.submit([row])
        finish(engine)
        ended = row.flags & (STEP | EOS)
        choice = {
            "text": engine.decode(row.new_ids),
            "token_ids": row.new_ids,
            "logprobs": {"token_logprobs": row.logprobs},
            "finish_reason": "stop" if ended else "length",
            "stop_reason": "\n" if row.flags & STEP else None,
        }
        if "prompt_logprobs" in body:
            read = engine.logprobs([(ids, 1)])[0]
            choice["prompt_logprobs"] = [
                None,
                *({str(t): {"logprob": x}} for t, x in zip(ids[1:], read, strict=True)),
            ]
        if self.server.plain:
            del choice["token_ids"], choice["stop_reason"], choice["logprobs"]
        self.reply(200, {"choices": [choice]})


@pytest.fixture
def served(policy_folder: Path) -> Iterator[Served]:
    server = Served(Engine(policy_folder))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def connect(served: Served, folder: Path, **more) -> ServerEngine:
    return ServerEngine(folder, servers=[served.url], name="policy", pause=0.01, max_rows=4, **more)


def finish(engine) -> None:
    while engine.busy:
        engine.step()


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


def run(policy, judge) -> dict:
    driver = Driver({"policy": policy, "judge": judge}.__getitem__, run_seed=0, round=0, stage="s")
    searches = [Search(f"p{i}", LineTask(), search(i), 40) for i in range(8)]
    return {end.problem_id: end.result for end in driver.run(searches, 3)}


def test_a_search_over_a_server_is_the_local_one(served, policy, policy_folder):
    local = run(policy, Engine(policy_folder, head="token", name="judge"))
    remote = run(connect(served, policy_folder), connect(served, policy_folder, head="token"))
    assert sum(len(end.steps) for end, _ in local.values()) > 20
    for name, (end, scores) in local.items():
        other, read = remote[name]
        assert other.token_ids == end.token_ids
        assert (other.steps, other.finish, other.answer) == (end.steps, end.finish, end.answer)
        assert other.logprobs == pytest.approx(end.logprobs, abs=1e-5)
        assert [len(s) for s in read] == [len(s) for s in scores]
        for a, b in zip(read, scores, strict=True):
            assert a == pytest.approx(b, abs=1e-4)
    asked = served.seen[0]
    assert asked["stop"] == ["\n"]
    assert asked["include_stop_str_in_output"] is True
    assert all(isinstance(body["prompt"], list) for body in served.seen)


def test_a_server_that_takes_text_alone_still_writes(served, policy, policy_folder):
    served.text_only = served.plain = True
    engine = connect(served, policy_folder)
    ids = policy.encode("numbers 3 9 =")
    rows = [Row(ids, 20, temperature=0.0) for _ in range(2)]
    for one, target in ((engine, rows[0]), (policy, rows[1])):
        one.submit([target])
        finish(one)
    assert rows[0].new_ids == policy.encode_more(policy.decode(rows[1].new_ids))[:20]
    assert all(math.isnan(x) for x in rows[0].logprobs)
    assert isinstance(served.seen[-1]["prompt"], str)
    lines = engine.rule("\n", ())
    engine.submit([Row(ids, 30, seed=i, ends_on=STEP | EOS, state=lines.start) for i in range(20)])
    with pytest.raises(RecipeError, match="stop_reason"):
        finish(engine)
    engine.clear()


def test_faults_are_tried_again_and_a_dead_server_is_named(served, policy_folder):
    engine = connect(served, policy_folder)
    served.faults = [503, 429, 500]
    row = Row(engine.encode("numbers 3 ="), 5)
    engine.submit([row])
    assert engine.step() == [row]
    assert row.new_ids
    served.faults = [404]
    engine.submit([Row(engine.encode("numbers 3 ="), 5)])
    with pytest.raises(RecipeError, match="HTTP 404"):
        engine.step()
    with pytest.raises(WorkerLost, match="127.0.0.1:9 does not answer after 4 tries"):
        ServerEngine(policy_folder, servers=["http://127.0.0.1:9"], pause=0.001)


def test_an_adapter_is_loaded_under_a_new_name_each_version(served, policy_folder, tmp_path):
    for version in ("aaaa", "bbbb"):
        engine = connect(served, policy_folder, adapter=tmp_path, weights_hash=version)
        engine.submit([Row(engine.encode("numbers"), 2)])
        engine.step()
    assert [one["lora_name"] for one in served.adapters] == ["policy-aaaa", "policy-bbbb"]
    assert served.adapters[0]["lora_path"] == str(tmp_path)
    assert [body["model"] for body in served.seen] == ["policy-aaaa", "policy-bbbb"]
    served.faults = [400]
    with pytest.raises(RecipeError, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING"):
        connect(served, policy_folder, adapter=tmp_path)


def test_a_server_that_does_not_use_an_adapter_is_refused(served, policy_folder, tmp_path):
    """The server answers with its base whatever name it is asked by."""
    import torch
    from safetensors.torch import save_file

    for fill, refused in ((0.0, False), (0.5, True)):  # an adapter at its start changes nothing
        place = tmp_path / str(fill)
        place.mkdir()
        weights = {"a.lora_A.weight": torch.ones(2, 4), "a.lora_B.weight": torch.full((4, 2), fill)}
        save_file(weights, place / "adapter_model.safetensors")
        if refused:
            with pytest.raises(RecipeError, match="as without it"):
                connect(served, policy_folder, adapter=place)
        else:
            connect(served, policy_folder, adapter=place)
    assert [body["model"] for body in served.seen if "prompt_logprobs" in body][1] == "policy-0.5"


def test_what_a_server_cannot_do_is_said(served, policy_folder):
    with pytest.raises(RecipeError, match="value cannot be served"):
        connect(served, policy_folder, head="value")
    with pytest.raises(RecipeError, match="not an http address"):
        ServerEngine(policy_folder, servers=["file:///etc"])
    with pytest.raises(RecipeError, match="has no head"):
        connect(served, policy_folder).score([([3, 4], [1])])


def test_open_engine_chooses(served, policy_folder):
    assert isinstance(open_engine(policy_folder, servers=[served.url]), ServerEngine)
    local = open_engine(policy_folder, name="policy", check=True, max_rows=8)
    assert local.exact
    assert not open_engine(policy_folder, servers=[served.url]).exact


def test_a_recipe_over_a_server_writes_what_the_local_engine_writes(
    served, policy_folder, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    written = {}
    for name, servers in (("local", []), ("served", [served.url])):
        recipe = {
            "name": name,
            "task": {"use": "countdown", "train": 6, "dev": 2, "test": 2, "max_tokens": 12},
            "models": {"policy": {"base": str(policy_folder), "engine": {"server": servers, "max_rows": 4}}},
            "rounds": 1,
            "stages": {
                "sample": {"generate": "sample", "by": "policy", "n": 2, "temperature": 0},
                "check": {"label": "outcome", "from": "sample"},
            },
        }
        Path(f"{name}.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
        result = CliRunner().invoke(app, ["run", f"{name}.yaml"], catch_exceptions=False)
        assert result.exit_code == 0
        assert ("in distribution only" in result.output) == bool(servers)
        folder = tmp_path / "data" / name / "round-001" / "sample"
        rows = [row for part in sorted(folder.glob("*.parquet")) for row in pq.read_table(part).to_pylist()]
        written[name] = [(row["problem_id"], row["token_ids"], row["finish"]) for row in rows]
    assert served.seen
    assert len(written["local"]) == 12
    assert written["served"] == written["local"]
