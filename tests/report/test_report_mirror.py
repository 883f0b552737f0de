"""wandb mirrors the record: read back with wandb's own reader; absent, slow or unreachable, nobody
waits for it.
"""

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.evaluate import accuracy
from pipeline.recipe.measures import Measure
from pipeline.report.monitor.follow import LAST
from pipeline.report.monitor.mirror import Mirror, best_round, environment_wins, records, run_id, sync
from pipeline.run import record

LIMIT = 50.0  #: ten times the exit delay that is promised


@pytest.fixture(autouse=True)
def no_wandb_settings_of_the_user(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "wandb-config"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "wandb-cache"))


def stages(number, value, history=()):
    """The rows of a round, without its gate."""
    learn = {"round": number, "stage": "learn", "metrics": {"learn/loss": 0.5}, "history": list(history)}
    return [learn, {"round": number, "stage": "measure", "metrics": {"measure/accuracy/greedy": value}}]


def whole(number, value, history=()):
    gate = {"round": number, "stage": "gate", "metrics": {"gate/policy/promoted": float(value > 0.1)}}
    return [*stages(number, value, history), gate]


def told(number, value):
    promoted = float(value > 0.1)
    named = {"learn/loss": 0.5, "measure/accuracy/greedy": value, "gate/policy/promoted": promoted}
    return {"round": number, **named}


ROUNDS = [row for n in range(4) for row in whole(n, n / 10)]
FINAL = {"round": 3, "stage": "final", "final": True, "metrics": {"final/accuracy/greedy": 0.5}}


def read_back(folder: Path, kind="history"):
    """Every history record (or every alert) of every offline folder, by wandb's own reader."""
    found = []
    for run in sorted((folder / "wandb").glob("offline-run-*")):
        command = [str(Path(sys.executable).parent / "wandb"), "leet", "inspect", "--json", str(run)]
        lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
        entries = [json.loads(line) for line in lines.splitlines()]
        found += [entry[kind].get("item", entry[kind]) for entry in entries if entry["type"] == kind]
    return found


def plain(item):
    return {name: value for name, value in item.items() if not name.startswith("_")}


def test_offline_runs_hold_every_metric_of_every_round_once(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    folder = tmp_path / "quickstart"
    folder.mkdir()
    (folder / "round-001").mkdir()
    refused = {"decisions": {"policy": {"reasons": ["surely worse"]}}}
    (folder / "round-001" / "gate.json").write_text(json.dumps(refused))
    mirror = Mirror(folder, grace=LIMIT)
    with mirror:
        record.write(folder / "metrics.jsonl", whole(0, 0.0))
        record.write(folder / "metrics.jsonl", [*whole(0, 0.0), *whole(1, 0.1), *stages(2, 0.9)])
    assert "mirrored 2 records" in (folder / "logs" / "wandb.log").read_text()

    killed = Mirror(folder).start()  # a launch whose mirror dies at once, then one that ends well
    os.killpg(killed.child.pid, signal.SIGKILL)
    assert killed.close() is False
    record.write(folder / "metrics.jsonl", [*ROUNDS, FINAL])
    with Mirror(folder, grace=LIMIT):
        pass
    items = read_back(folder)
    assert [item["round"] for item in items] == [0, 1, 2, 3, 3]
    assert [plain(item) for item in items] == records([*ROUNDS, FINAL])
    assert plain(items[1]) == told(1, 0.1)
    assert [item["_step"] for item in items] == [0, 1, 2, 3, 4]
    alerts = read_back(folder, "alert")
    assert [(a["title"], a["level"]) for a in alerts] == [("policy refused", "WARN")] * 2
    assert alerts[1]["text"] == "round 1: the gate kept the old one. surely worse"
    folders = list((folder / "wandb").glob("offline-run-*"))
    assert len(folders) == 1
    assert folders[0].name.endswith(run_id("quickstart"))


@pytest.mark.full
def test_what_was_synced_is_not_logged_again(tmp_path):
    folder = tmp_path / "quickstart"
    record.write(folder / "metrics.jsonl", ROUNDS)
    assert sync(folder)[0]
    (first,) = (folder / "wandb").glob("offline-run-*")
    next(first.glob("*.wandb")).with_suffix(".wandb.synced").touch()  # what `wandb sync` leaves behind
    record.write(folder / "metrics.jsonl", [*ROUNDS, *whole(4, 0.6), FINAL])
    done, said = sync(folder)
    assert done, said
    assert "mirrored 6 records" in said
    assert [item["round"] for item in read_back(folder)] == [0, 1, 2, 3, 3, 4]


def test_records_only_grow_while_a_run_goes_on():
    extended = [*ROUNDS, *whole(4, 0.6), FINAL, {**FINAL, "round": 4}]
    assert records(extended)[:5] == records([*ROUNDS, FINAL])
    assert len(records(extended)) == 7
    assert records([*whole(0, 0.0), *stages(1, 0.1)]) == [told(0, 0.0)]  # the gate has not decided yet


def test_curves_count_their_steps_over_the_rounds():
    curve = [{"step": 1, "loss": 2.0}, {"step": 5, "loss": 1.0}]
    found = records([*whole(0, 0.1), *whole(1, 0.2, curve), *whole(2, 0.3, curve)])
    assert [r["curve/learn/step"] for r in found if "curve/learn/step" in r] == [1, 5, 6, 10]
    assert found[2] == {"round": 1, "curve/learn/step": 5, "curve/learn/loss": 1.0}


def test_what_is_read_off_another_panel_is_hidden(tmp_path):
    """An interval's ends stay in the record, and do not become a panel each; read with wandb's own reader."""
    folder = tmp_path / "quickstart"
    values = {"m/auc": 0.8, "m/auc/low": 0.7, "m/auc/high": 0.9, "m/auc@incumbent": 0.7, "m/roc/05": 0.2}
    gate = {"round": 0, "stage": "gate", "metrics": {}}
    record.write(folder / "metrics.jsonl", [{"round": 0, "stage": "m", "metrics": values}, gate])
    assert sync(folder)[0]
    defined = read_back(folder, "metric")
    hidden = {one["name"] for one in defined if one.get("options", {}).get("hidden")}
    assert hidden == set(values) - {"m/auc"}
    assert [plain(item) for item in read_back(folder)] == [{"round": 0, **values}]


def test_tensorboard_holds_what_the_record_says(tmp_path):
    """Read back with TensorBoard's own reader, after two launches."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    record.write(tmp_path / "metrics.jsonl", [*ROUNDS, FINAL])
    for _ in range(2):
        done, said = sync(tmp_path, monitor="tensorboard")
        assert done, said
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1
    found = reader.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    told = [(event.step, pytest.approx(event.value)) for event in found.Scalars("measure/accuracy/greedy")]
    assert told == [(number, number / 10) for number in range(4)]


def test_a_monitor_that_is_not_installed_is_a_sentence(tmp_path):
    if importlib.util.find_spec("tensorboard"):
        pytest.skip("tensorboard is installed here")
    record.write(tmp_path / "metrics.jsonl", ROUNDS)
    done, said = sync(tmp_path, monitor="tensorboard")
    assert not done
    assert "pip install tensorboard, or set monitor: none" in said
    assert sync(tmp_path, monitor="none")[0] is False


KNOWN = [Measure("measure", metric) for metric in accuracy.metrics(accuracy.Settings())]


def test_best_round():
    rows = [*whole(0, 0.1), *whole(1, 0.4), *whole(2, 0.4), FINAL]
    assert best_round(rows, KNOWN) == {"best/round": 1, "best/measure/accuracy/greedy": 0.4}
    assert best_round([FINAL], KNOWN[:1]) == {}


def test_the_environment_wins(monkeypatch):
    class Recipe:
        mode, project, entity, tags = "offline", "theirs", "", ("a",)

    assert environment_wins(Recipe) == {
        "mode": "offline", "project": "theirs", "entity": None, "tags": ("a",), "group": None,
    }  # fmt: skip
    for name, value in {
        "PROJECT": "p",
        "ENTITY": "e",
        "TAGS": "x,y",
        "RUN_GROUP": "g",
        "MODE": "online",
    }.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    assert environment_wins(Recipe) == {
        "mode": "online", "project": "p", "entity": "e", "tags": ("x", "y"), "group": "g",
    }  # fmt: skip


def test_disabled_starts_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    mirror = Mirror(tmp_path)
    with mirror:
        assert mirror.child is None
    assert sync(tmp_path)[0] is False
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("wandb", "logged"),
    [
        ("raise ImportError('no wandb here')", "no wandb here"),
        pytest.param(
            "import time\ndef Settings(**k): pass\ndef init(**k): time.sleep(600)", "", marks=pytest.mark.full
        ),
        ("def Settings(**k): pass\ndef init(**k): raise RuntimeError('HTTP 500')", "HTTP 500"),
    ],
)
def test_absent_slow_or_failing_wandb_holds_nobody_up(tmp_path, monkeypatch, wandb, logged):
    """The stand-in is wandb's, not ours."""
    stand_in = tmp_path / "path"
    stand_in.mkdir()
    (stand_in / "wandb.py").write_text(wandb)
    monkeypatch.setenv("PYTHONPATH", str(stand_in))
    folder = tmp_path / "run"
    folder.mkdir()
    record.write(folder / "metrics.jsonl", ROUNDS)
    mirror = Mirror(folder, grace=1.0).start()
    child = mirror.child
    began = time.monotonic()
    assert mirror.close() is False
    assert time.monotonic() - began < LIMIT
    if not logged:  # it hangs: it goes by itself
        assert child.poll() is None
    child.wait(10 * LAST)
    assert logged in (folder / "logs" / "wandb.log").read_text()
    assert len(record.read(folder / "metrics.jsonl")) == len(ROUNDS)


def test_a_black_hole_holds_nobody_up(tmp_path, monkeypatch):
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as hole:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{hole.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        monkeypatch.setenv("WANDB_MODE", "online")
        record.write(tmp_path / "metrics.jsonl", ROUNDS)
        mirror = Mirror(tmp_path, grace=1.0).start()
        group = mirror.child.pid
        began = time.monotonic()
        assert mirror.close() is False
        assert time.monotonic() - began < LIMIT
    with pytest.raises(ProcessLookupError):
        os.killpg(group, 0)


def test_a_killed_run_leaves_no_mirror_behind(tmp_path):
    """The run dies by SIGKILL; its mirror sees the closed pipe, finishes the record and leaves."""
    record.write(tmp_path / "metrics.jsonl", ROUNDS)
    code = (
        "import os, signal, sys; from pathlib import Path; from pipeline.report.monitor.mirror import Mirror;"
        "m = Mirror(Path(sys.argv[1])).start(); print(m.child.pid, flush=True);"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    repository = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=repository,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == -signal.SIGKILL
    child, until = int(done.stdout), time.monotonic() + LIMIT
    while time.monotonic() < until and Path(f"/proc/{child}").exists():
        time.sleep(0.1)
    assert not Path(f"/proc/{child}").exists()
    assert [item["round"] for item in read_back(tmp_path)] == [0, 1, 2, 3]
