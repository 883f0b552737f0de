"""`transformers serve`, a server that nobody here wrote: a model that is not trained is sampled and measured over
it; one that is trained is refused when it is connected to, in one sentence.

It takes text alone, gives no ids and no log-probabilities, refuses fields that it does not know (422), and
samples only as a whole `generation_config` says.
"""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from serving import free_port, serving
from tiny_world import recipe_data
from typer.testing import CliRunner

from pipeline.__main__ import app
from pipeline.engine.growth import Request
from pipeline.engine.local import Engine
from pipeline.engine.server import ServerEngine
from pipeline.errors import RecipeError

lacking = [name for name in ("fastapi", "uvicorn", "openai") if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(bool(lacking), reason=f"transformers[serving] is not installed: {lacking}"),
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A half-taught seed: its tokenizer has letters, without which transformers fails at texts that stop."""
    from pipeline.models.seeds import build

    return build("seed://countdown?steps=40", None, tmp_path_factory.mktemp("seed"))


@pytest.fixture(scope="module")
def address(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(tiny)]
    command += ["--device", "cpu", "--host", "127.0.0.1", "--port", str(port)]
    with serving(command, port, tmp_path_factory.mktemp("serve") / "log") as url:
        yield url


def write(engine, prompts: list[str], **more) -> list[Request]:
    rows = [Request(engine.encode(prompt), 41, seed=i, **more) for i, prompt in enumerate(prompts)]
    engine.submit(rows)
    while engine.busy:
        engine.step()
    return rows


def test_greedy_rows_are_the_local_ones(address: str, tiny: Path) -> None:
    served = ServerEngine(tiny, servers=[address], max_rows=2)
    can = served.can
    assert can.kind == "transformers serve"
    assert (can.takes_ids, can.gives_ids, can.logprobs, can.reads) == (False, False, False, False)
    assert can.stops
    assert can.whole_config
    assert "top_k" not in can.fields
    assert any("was not checked" in note for note in served.notes)
    prompts = [f"numbers {i} {i + 1} {i + 2} target {2 * i + 3}\n" for i in range(2, 7)]
    for mine, theirs in zip(
        write(Engine(tiny), prompts, temperature=0.0), write(served, prompts, temperature=0.0), strict=True
    ):
        assert theirs.new_ids == mine.new_ids
        assert theirs.flags == mine.flags
        assert all(map(math.isnan, theirs.logprobs))


def test_it_samples_where_it_is_asked_to(address: str, tiny: Path) -> None:
    """The model's own generation config says nothing of sampling: only a whole one draws. top_k: 1 is greedy."""
    served = ServerEngine(tiny, servers=[address], max_rows=2)
    prompts = ["numbers 3 4 5 target 12\n"] * 6
    drawn = {tuple(row.new_ids) for row in write(served, prompts, temperature=1.5)}
    assert len(drawn) > 1
    sharp = {tuple(row.new_ids) for row in write(served, prompts, temperature=1.5, top_k=1)}
    assert len(sharp) == 1


def test_what_it_cannot_do_is_one_sentence(address: str, tiny: Path, tmp_path: Path) -> None:
    served = ServerEngine(tiny, servers=[address])
    with pytest.raises(RecipeError, match="transformers serve at .* gives no prompt_logprobs"):
        served.logprobs([([3, 4], 1)])
    with pytest.raises(RecipeError, match=r"HTTP 404.*--enable-lora --max-lora-rank"):
        ServerEngine(tiny, servers=[address], lora={"r": 4}, scratch=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_run_over_it_from_end_to_end(
    address: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Greedy rows and accuracies are the local run's; a recipe that trains ends before any work."""
    monkeypatch.chdir(tmp_path)
    rows = {}
    for name, servers in (("local", []), ("served", [address])):
        data = recipe_data(tiny, name=name)
        data["models"] = {"policy": {"base": str(tiny), "engine": {"server": servers, "max_rows": 2}}}
        data["stages"] = {
            "sample": {"generate": "sample", "by": "policy", "n": 1, "temperature": 0},
            "check": {"label": "outcome", "from": "sample"},
        }
        data["rounds"], data["finally"] = (
            1,
            {"final": {"evaluate": "accuracy", "of": "policy", "split": "dev"}},
        )
        Path(f"{name}.yaml").write_text(json.dumps(data))
        done = CliRunner().invoke(app, ["run", f"{name}.yaml"], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        assert ("served by transformers serve" in done.output) == bool(servers)
        folder = tmp_path / "data" / name
        found = [
            row for part in sorted(folder.glob("round-001/sample/*.parquet")) for row in pq.read_table(part).to_pylist()
        ]  # fmt: skip
        rows[name] = [(row["problem_id"], row["token_ids"], row["finish"]) for row in found]
        last = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()][-1]
        rows[name].append(last["metrics"]["final/accuracy/greedy"])
    assert len(rows["local"]) == 41
    assert rows["served"] == rows["local"]
    data = recipe_data(tiny, name="trained")
    data["models"]["policy"]["engine"] = {"server": [address]}
    Path("trained.yaml").write_text(json.dumps(data))
    done = CliRunner().invoke(app, ["run", "trained.yaml"])
    assert isinstance(done.exception, RecipeError)
    assert "--enable-lora" in str(done.exception)
    assert not list((tmp_path / "data/trained").glob("round-*/*/manifest.json"))
