"""`push` and its card: no text that leaves holds a local path, a user's or a host's name, or a server's address."""

from __future__ import annotations

import getpass
import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.__main__ import app
from pipeline.commands.push import files, push
from pipeline.recipe.read import build
from pipeline.report.leaving import Private, leave
from pipeline.run.session import open_run
from pipeline.store.documents import unseal
from pipeline.store.workspace import Workspace


def test_nothing_that_leaves_says_where_it_was_made(
    write_recipe: Callable[..., Path], place: Path, tiny: Path
) -> None:
    """A whole run over a folder as its base: every file of rows and weights as `push` lays it out, and the card."""
    path = write_recipe(rounds=1, about=f"on {socket.gethostname()} by {getpass.getuser()}")
    done = CliRunner().invoke(app, ["run", str(path)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    workspace = Workspace(Path("data"), Path("checkpoints"))
    run = open_run("tiny", workspace)
    private = Private(run.recipe)
    out, changed, seen = place / "out", 0, 0
    for folder, inside in ((run.folder, "data"), (workspace.checkpoints / "tiny", "weights")):
        changed += leave(folder, files(folder), out / inside, private)
    forbidden = {str(place), str(tiny), str(tiny.parent), str(Path.home()) + "/"}
    before = b"".join(p.read_bytes() for p in Path("data/tiny").rglob("*") if p.suffix in (".json", ".yaml"))
    assert str(tiny).encode() in before  # there is something to hide
    for file in (p for p in out.rglob("*") if p.is_file()):
        seen += 1
        content = file.read_bytes()
        for word in forbidden:
            assert word.encode() not in content, (file, word)
        if file.suffix == ".json" and b'"sealed"' in content:
            unseal(file)
    assert seen > 15
    assert changed >= 3
    assert {p.name for p in out.rglob("*")} >= {"recipe.yaml", "gate.json", "manifest.json", "metrics.jsonl"}
    said = "\n".join(push("tiny", "me/tiny", True, True, False, workspace))
    card = said.split("README.md:\n")[1]
    assert not [word for word in forbidden if word in card]
    assert tiny.name in card


def test_names_and_addresses_go_and_the_rest_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "gpu-box-17.lab.example")
    monkeypatch.setattr(getpass, "getuser", lambda: "ada_lovelace")
    monkeypatch.setenv("HOME", "/home/ada_lovelace")
    recipe = build(
        {
            "name": "r",
            "task": {"use": "countdown"},
            "models": {"policy": {"base": str(tmp_path), "engine": {"server": ["http://10.0.0.7:8000/v1"]}}},
        }
    )
    private = Private(recipe)
    text = (
        f"base {tmp_path} at http://10.0.0.7:8000/v1 by ada_lovelace on gpu-box-17.lab.example (gpu-box-17); "
        "~/models/one and /home/ada_lovelace/x/two; 3/4 of 5/6, a/b/c, https://example.org/a/b, measure/accuracy/greedy"
    )
    told = private.without(text)
    assert told == (
        f"base {tmp_path.name} at http://server/v1 by someone on someone (someone); "
        "one and two; 3/4 of 5/6, a/b/c, https://example.org/a/b, measure/accuracy/greedy"
    )
    assert private.without(told) == told
    assert private.without(json.dumps({"path": f"{Path.cwd()}/a b/c"})) == '{"path": "a b/c"}'
