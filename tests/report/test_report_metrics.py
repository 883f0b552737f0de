"""metrics.jsonl: written whole, read back, no NaN, damage told."""

import json
import math

import pytest

from pipeline.errors import DamagedData
from pipeline.run import record

ROWS = [
    {"metrics": {"b/x": 1.5, "a/y": 2}, "round": 0, "done": True},
    {"round": 1, "stage": "measure", "metrics": {"b/x": math.nan, "a/z": math.inf}},
    {"round": 1, "metrics": {"a/z": 3.0}, "history": [{"step": 1, "loss": 0.5}]},
]


def test_round_trip_and_no_nan(tmp_path):
    path = tmp_path / "metrics.jsonl"
    record.write(path, ROWS)
    rows = record.read(path)
    assert rows[0] == ROWS[0]
    assert rows[1]["metrics"] == {"a/z": None, "b/x": None}
    assert rows[2]["history"] == ROWS[2]["history"]
    assert record.by_round(rows) == {0: {"a/y": 2, "b/x": 1.5}, 1: {"a/z": 3.0}}
    assert "NaN" not in path.read_text()
    before = path.read_bytes()
    record.write(path, ROWS)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_key_order_does_not_matter():
    assert record.line({"metrics": {"a": 1, "b": 2}, "round": 0}) == record.line(
        {"round": 0, "metrics": {"b": 2, "a": 1}}
    )
    assert json.loads(record.to_json({"b": {"z": math.nan}, "a": 1})) == {"a": 1, "b": {"z": None}}


def test_none_yet(tmp_path):
    assert record.read(tmp_path / "metrics.jsonl") == []


@pytest.mark.parametrize(
    "bad", ["{", "[]", '{"round": 1}', '{"round": "1", "metrics": {}}', '{"metrics": {}}']
)
def test_damage_is_told(tmp_path, bad):
    path = tmp_path / "metrics.jsonl"
    path.write_text(record.line(ROWS[0]) + "\n" + bad + "\n")
    with pytest.raises(DamagedData, match=r"metrics.jsonl:2: not a metrics row"):
        record.read(path)
