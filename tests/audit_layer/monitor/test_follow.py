"""An honest log: a real one, published with real witnesses, served over TLS."""

from itertools import pairwise
from pathlib import Path

import pytest
from sqlalchemy import Engine

from shared.translog.policy import verify_witnessed
from tests.audit_layer.log.world import World, make_world
from tests.audit_layer.monitor.conftest import Scene
from tests.audit_layer.monitor.doubles import NAMES, LyingLog, some_entries
from tests.postgres import Database


@pytest.fixture
def engine(database: Database) -> Engine:
    return database.engine("server")


@pytest.fixture
def world(engine: Engine, tmp_path: Path, scene: Scene):
    made = make_world(engine, tmp_path / "log", names=NAMES, threshold=2)
    scene.server.folder, scene.policy = made.files, made.policy
    yield made
    made.close()


async def grow(world: World, scene: Scene, first: int, end: int) -> None:
    world.append(first, end)
    witnessed = await world.publisher().publish()
    assert witnessed is not None
    scene.now_s = max(witnessed.times.values()) + 1


@pytest.fixture(autouse=True)
def folders(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()


async def test_every_entry_of_a_growing_log_is_recomputed_and_nothing_is_found(
    world: World, scene: Scene
):
    sizes = [0, 1, 255, 256, 700, 1030]
    for first, end in pairwise(sizes):
        await grow(world, scene, first, end)
        assert (await scene.look()).findings == 0
        assert scene.verified_size == end
    assert [fact["size"] for fact in scene.heard.of("followed")] == sizes[1:]
    assert scene.heard.of("followed")[-1]["witnesses"] == list(NAMES)
    assert scene.heard.kinds() == []
    bundles = {path for path in scene.server.asked if path.startswith("tile/entries/")}
    assert {"tile/entries/000", "tile/entries/004.p/6"} <= bundles
    assert "tile/1/000.p/4" in scene.server.asked


async def test_what_is_verified_is_not_fetched_again(world: World, scene: Scene):
    await grow(world, scene, 0, 600)
    await scene.look()
    scene.server.asked.clear()
    await scene.look()
    assert [path for path in scene.server.asked if path.startswith("tile/")] == []
    await grow(world, scene, 600, 601)
    await scene.look()
    assert "tile/entries/002.p/89" in scene.server.asked
    assert not {"tile/entries/000", "tile/0/000"} & set(scene.server.asked)


async def test_from_now_begins_at_the_present_size_and_recomputes_what_follows(
    world: World, scene: Scene
):
    await grow(world, scene, 0, 600)
    await scene.look(from_now=True)
    assert scene.verified_size == 600
    assert not any(path.startswith("tile/entries/") for path in scene.server.asked)
    await grow(world, scene, 600, 900)
    assert (await scene.look()).findings == 0
    assert scene.verified_size == 900


async def test_a_narrow_tile_that_has_gone_is_read_from_the_full_one(scene: Scene):
    log = LyingLog(some_entries(300))
    scene.server.show(log)
    scene.server.files["checkpoint"] = log.note(100)
    assert (await scene.look()).findings == 0
    assert scene.verified_size == 100


async def test_a_log_without_public_statements_is_reported_once_and_is_not_a_finding(
    world: World, scene: Scene
):
    await grow(world, scene, 0, 3)
    met = await scene.look()
    assert (met.findings, met.troubles) == (0, [])
    assert len(scene.heard.of("notice")) == 1


async def test_the_evidence_of_the_state_is_the_note_that_was_served(world: World, scene: Scene):
    from audit_layer.monitor.store import MonitorStore

    await grow(world, scene, 0, 5)
    await scene.look()
    store = MonitorStore(scene.state, scene.origin)
    held = store.verified()
    store.close()
    assert held is not None
    assert verify_witnessed(held.note, world.policy).checkpoint == held.checkpoint
