"""The cache of tiles: bounded, least recently used first to go, and never older than the files for long."""

from pathlib import Path

import pytest
from sqlalchemy import Engine

from audit_layer.log.tile_cache import TileCache
from shared.runtime.errors import Code, CounterfoilError
from shared.translog.tiles import Tile
from tests.audit_layer.log.world import make_world


def test_it_holds_a_limited_number_of_tiles_and_forgets_the_least_recently_used():
    fetched: list[Tile] = []

    def fetch(tile: Tile) -> bytes:
        fetched.append(tile)
        return bytes([tile.index]) * tile.byte_length

    cache = TileCache(fetch, max_tiles=2)
    first, second, third = (Tile(0, index) for index in range(3))
    for tile in (first, second, first, third, first, second):
        assert cache(tile)[0] == [bytes([tile.index]) * 32] * 256
    assert fetched == [first, second, third, second]
    narrow, wide = Tile(0, 3, 7), Tile(0, 3, 8)
    for tile in (narrow, wide, narrow):
        assert cache(tile)[0] == [b"\x03" * 32] * tile.width
    assert fetched[4:] == [narrow, wide]
    cache.clear()
    cache(wide)
    assert fetched[6:] == [wide]


def test_what_cannot_be_fetched_is_asked_for_again():
    answers: list[CounterfoilError | bytes] = [
        CounterfoilError(Code.UNAVAILABLE, "not now"),
        b"\x01" * 8192,
    ]

    def fetch(tile: Tile) -> bytes:
        answer = answers.pop(0)
        if isinstance(answer, CounterfoilError):
            raise answer
        return answer

    cache = TileCache(fetch)
    with pytest.raises(CounterfoilError):
        cache(Tile(0, 0))
    assert cache(Tile(0, 0)) is cache(Tile(0, 0))
    assert cache(Tile(0, 0))[0] == [b"\x01" * 32] * 256


async def test_a_repaired_file_serves_proofs_without_a_restart(engine: Engine, tmp_path: Path):
    world = make_world(engine, tmp_path, names=["w1.example"], threshold=1)
    world.append(0, 300)
    await world.publisher().publish()
    tile = tmp_path / "public" / "tile" / "0" / "000"
    good = tile.read_bytes()
    tile.write_bytes(b"\x00" * len(good))
    proofs = world.proofs()
    with pytest.raises(CounterfoilError) as caught:
        proofs.prove(3)
    assert caught.value.code is Code.CORRUPT
    tile.write_bytes(good)
    assert proofs.prove(3).index == 3
    world.close()
