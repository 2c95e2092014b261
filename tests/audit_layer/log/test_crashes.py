"""kill -9 at every persistent step: nothing acknowledged is lost, nothing is there twice."""

import multiprocessing
import signal
from hashlib import sha256
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

import audit_layer.log
import audit_layer.witness
from audit_layer.log.sequencer import Sequenced, Sequencer
from shared.runtime.errors import CounterfoilError
from shared.translog.policy import verify_witnessed
from tests.audit_layer.log.crash_child import NAMES, append_and_publish
from tests.audit_layer.log.fault_points import fault_points
from tests.audit_layer.log.world import World, make_world, numbered

POINTS = [*fault_points(audit_layer.log), *fault_points(audit_layer.witness)]

_children = multiprocessing.get_context("forkserver")
_children.set_forkserver_preload(["tests.audit_layer.log.crash_child"])


def _files(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): sha256(path.read_bytes()).hexdigest()
        for path in root.glob("tile/**/*")
        if path.is_file() and not path.name.startswith(".")
    }


async def test_kill_at_each_step_loses_nothing_and_forks_nothing(
    engine: Engine, dsn: str, tmp_path: Path
):
    size = 0
    for turn, point in enumerate(POINTS):
        end = size + 90 + turn
        child = _children.Process(
            target=append_and_publish, args=(dsn, str(tmp_path), size, end, f"{point}:kill")
        )
        child.start()
        child.join(60)
        assert child.exitcode == -signal.SIGKILL, point
        before = _files(tmp_path / "public")
        world = make_world(engine, tmp_path, names=NAMES, threshold=1)
        await _recover(world, size, end, point)
        after = _files(tmp_path / "public")
        changed = [path for path in before if path in after and after[path] != before[path]]
        assert not changed, point
        world.close()
        size = end


async def _recover(world: World, size: int, end: int, point: str) -> None:
    noted = world.folder / "acknowledged"
    acknowledged = int(noted.read_text()) if noted.exists() else 0
    with world.engine.connect() as connection:
        present = connection.execute(text("SELECT count(*) FROM log_entries")).scalar_one()
    assert present >= acknowledged, point
    assert present in {size, end}, point
    results = Sequencer(world.engine).append([numbered(i) for i in range(size, end)])
    assert [r.index for r in results if isinstance(r, Sequenced)] == list(range(size, end)), point
    await world.publisher().publish()
    assert verify_witnessed(world.files.checkpoint() or "", world.policy).checkpoint.size == end
    assert world.fsck() == [], point


@pytest.mark.parametrize("end", [4])
async def test_a_signature_made_before_the_crash_is_resent_and_not_remade(
    engine: Engine, dsn: str, tmp_path: Path, end: int
):
    child = _children.Process(
        target=append_and_publish,
        args=(dsn, str(tmp_path), 0, end, "log.sign.after-second-place:kill"),
    )
    child.start()
    child.join(60)
    world = make_world(engine, tmp_path, names=NAMES, threshold=1)
    kept = world.second_place.read()
    assert kept is not None
    await world.publisher().publish()
    assert (world.files.checkpoint() or "").startswith(kept[1])
    world.close()


async def test_fsck_right_after_a_crash_tells_an_unfinished_log_from_a_damaged_one(
    engine: Engine, dsn: str, tmp_path: Path
):
    child = _children.Process(
        target=append_and_publish,
        args=(dsn, str(tmp_path), 0, 10, "log.publish.after-checkpoint-file:kill"),
    )
    child.start()
    child.join(60)
    world = make_world(engine, tmp_path, names=NAMES, threshold=1)
    assert world.fsck() == []
    with pytest.raises(CounterfoilError):
        world.proofs().tlog_proof(10)
    assert world.proofs().tlog_proof(9)
    world.close()
