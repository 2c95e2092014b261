"""Published files that were lost come back from the database, byte for byte."""

import shutil
from pathlib import Path

import pytest
from sqlalchemy import Engine

from audit_layer.log.republish import republish
from shared.runtime.errors import Code, CounterfoilError
from tests.audit_layer.log.world import World, make_world

SIZES = (7, 300, 520, 600)


@pytest.fixture
async def world(engine: Engine, tmp_path: Path):
    made = make_world(engine, tmp_path, names=["w1.example"], threshold=1)
    publisher, before = made.publisher(), 0
    for size in SIZES:
        made.append(before, size)
        await publisher.publish()
        before = size
    yield made
    made.close()


def contents(world: World) -> dict[str, bytes]:
    root = world.folder / "public"
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file()
    }


def run(world: World) -> tuple[int, list[tuple[int, int]]]:
    ticks: list[tuple[int, int]] = []
    written = republish(
        world.engine, world.files, world.second_place, lambda done, of: ticks.append((done, of))
    )
    return written, ticks


async def test_a_lost_folder_is_restored_whole_and_publication_continues(world: World):
    before = contents(world)
    shutil.rmtree(world.folder / "public")
    written, ticks = run(world)
    assert contents(world) == before
    assert written == len(before) - 1  # the checkpoint is no tile
    assert ticks == [(done, written) for done in range(1, written + 1)]
    assert world.fsck() == []
    world.append(600, 900)
    await world.publisher().publish()
    assert world.fsck() == []


async def test_only_what_is_missing_is_written(world: World):
    before = contents(world)
    for name in ("tile/0/001", "checkpoint"):
        (world.folder / "public" / name).unlink()
    assert run(world)[0] == 1
    assert contents(world) == before
    assert run(world)[0] == 0


async def test_differing_bytes_are_reported_and_not_replaced(world: World):
    spoiled = world.folder / "public" / "tile" / "entries" / "000"
    spoiled.write_bytes(bytes(len(spoiled.read_bytes())))
    with pytest.raises(CounterfoilError, match="tile/entries/000") as caught:
        run(world)
    assert caught.value.code is Code.CORRUPT


async def test_it_runs_neither_alongside_a_publisher_nor_before_the_first_checkpoint(
    world: World, engine: Engine, tmp_path: Path
):
    with world.second_place.exclusively(), pytest.raises(CounterfoilError) as caught:
        run(world)
    assert caught.value.code is Code.CONFLICT
    with world.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE log_checkpoints SET published_at = NULL")
    with pytest.raises(CounterfoilError) as caught:
        run(world)
    assert caught.value.code is Code.NOT_FOUND
