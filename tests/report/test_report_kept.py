"""What a process keeps of rounds that are over gives what the disk gives, and the disk is read once."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
from report_world import World

from pipeline.errors import DamagedData
from pipeline.recipe.shape import Stage
from pipeline.report.card import run_card
from pipeline.run import record
from pipeline.run.kept import Kept
from pipeline.run.session import open_run
from pipeline.stages.inputs import ChunkReader, chunks_from, inputs_of, reader_of


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Three rounds, whose `traces` pool what the searches wrote."""
    return World(tmp_path / "data", num=8).write()


def pooled(world: World) -> Stage:
    stage = world.recipe.stage("traces")
    return dataclasses.replace(stage, settings=stage.settings.model_copy(update={"mix": "all_rounds"}))


def test_a_round_reads_what_is_new_in_it(world: World) -> None:
    """The earlier rounds' parts are gone from the disk: what was kept is all there is of them."""
    stage, run = pooled(world), world.run
    first = inputs_of(run, stage, 2)
    for chunk in chunks_from(first):
        reader_of(run, stage).groups(chunk)
    sources = inputs_of(run, stage, 3)
    assert [source.path.split("/")[1] for source in sources] == ["round-001", "round-002", "round-003"]
    chunks = chunks_from(sources)
    fresh = [ChunkReader(world.data).groups(chunk) for chunk in chunks]
    assert sum(len(group.traces) for groups in fresh for group in groups.values()) > 30
    for number in (1, 2):
        for path in (run.folder / f"round-{number:03d}").rglob("*.parquet"):
            path.unlink()
    again = [reader_of(run, stage).groups(chunk) for chunk in chunks]
    assert again == fresh
    assert [list(groups) for groups in again] == [list(groups) for groups in fresh]
    with pytest.raises(DamagedData, match="is missing"):
        ChunkReader(world.data).groups(chunks[0])


def test_what_finds_no_room_is_read_again(world: World) -> None:
    stage, run = pooled(world), world.run
    sources = inputs_of(run, stage, 3)
    chunks = chunks_from(sources)
    some = Kept(most_bytes=20_000)
    found = [ChunkReader(world.data, some).groups(chunk) for chunk in chunks]
    assert 10_000 < some.num_bytes <= 20_000
    assert [ChunkReader(world.data, some).groups(chunk) for chunk in chunks] == found
    assert [ChunkReader(world.data).groups(chunk) for chunk in chunks] == found


def test_a_stage_that_pools_nothing_keeps_nothing(world: World) -> None:
    stage = world.recipe.stage("traces")
    for chunk in chunks_from(inputs_of(world.run, stage, 3)):
        reader_of(world.run, stage).groups(chunk)
    assert world.run.kept.num_bytes == 0
    assert not world.run.kept.sources


def test_the_record_and_the_card_of_closed_rounds_are_derived_once(world: World) -> None:
    """Round 1 is taken away: a process that closed it says the same as before."""
    run = world.run
    rows = record.metrics_rows(run)
    card = run_card(run, rows)
    shutil.rmtree(run.folder / "round-001" / "search")
    assert record.to_lines(record.metrics_rows(run)) == record.to_lines(rows)
    assert run_card(run, record.metrics_rows(run)) == card
    assert record.to_lines(record.metrics_rows(open_run("world", world.workspace))) != record.to_lines(rows)


def test_a_look_takes_closed_rounds_from_the_record(world: World) -> None:
    whole = record.metrics_rows(world.run)
    record.write(world.run.folder / "metrics.jsonl", whole)
    looked = open_run("world", world.workspace)
    assert record.to_lines(record.known_rows(looked)) == record.to_lines(whole)
    assert set(looked.kept.metrics) == {0, 1, 2, 3}
    damaged = world.run.folder / "metrics.jsonl"
    damaged.write_text(damaged.read_text()[:-20])
    assert record.to_lines(record.known_rows(open_run("world", world.workspace))) == record.to_lines(whole)
    half = [row for row in whole if row["round"] < 2 and not row.get("final")]
    record.write(damaged, half)
    behind = open_run("world", world.workspace)
    assert record.to_lines(record.known_rows(behind)) == record.to_lines(whole)
