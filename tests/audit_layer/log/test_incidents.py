"""What has befallen logs elsewhere, done to this one: it stops or continues, but never loses, duplicates or forks anything."""

import asyncio
import multiprocessing
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import Engine, text

from audit_layer.log.batcher import Batcher
from audit_layer.log.checkpoint_table import store_cosigned
from audit_layer.log.second_place import SecondPlace
from audit_layer.log.sequencer import Result, Sequenced, Sequencer, Submission
from audit_layer.storage.dsn import on_database
from audit_layer.storage.engine import make_engine, transaction
from shared.runtime.errors import Code, CounterfoilError
from shared.translog.checkpoint import Checkpoint
from shared.translog.notes import SignatureLine, parse_note
from shared.translog.policy import verify_witnessed
from shared.translog.signed_checkpoint import sign
from shared.translog.tree import leaf_hash, root
from tests.audit_layer.log.incident_child import append_all
from tests.audit_layer.log.world import (
    LOG_KEYS,
    LOG_SIGNERS,
    ORIGIN,
    LocalWitness,
    World,
    entry,
    make_world,
    numbered,
)
from tests.postgres import Database, PostgresServer

NAMES = ["w1.example"]
_children = multiprocessing.get_context("forkserver")


@pytest.fixture
def world(engine: Engine, tmp_path: Path) -> Iterator[World]:
    made = make_world(engine, tmp_path, names=NAMES, threshold=1)
    yield made
    made.close()


def entries(engine: Engine) -> list[bytes]:
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT index, entry FROM log_entries ORDER BY index")).all()
    assert [index for index, _ in rows] == list(range(len(rows)))
    return [bytes(value) for _, value in rows]


def batch(first: int, end: int) -> list[Submission]:
    return [numbered(number) for number in range(first, end)]


def indexes(results: Sequence[Result]) -> list[int]:
    return [result.index for result in results if isinstance(result, Sequenced)]


async def refused(world: World, code: Code) -> None:
    """Publish as a new process would; it must refuse, sign nothing and change no checkpoint file."""
    kept, public, sizes = world.second_place.read(), world.files.checkpoint(), world.sizes()
    with pytest.raises(CounterfoilError) as caught:
        await world.publisher().publish()
    assert caught.value.code is code
    assert world.second_place.read() == kept
    assert world.files.checkpoint() == public
    assert world.sizes() == sizes


# -- the disk is full in the middle of a batch ----------------------------------------------------------


@contextmanager
def disk_full_from(owner: Engine, index: int) -> Iterator[None]:
    """A double for a full disk: Postgres itself fails the COPY at one row, with the SQLSTATE of a full disk (53100)."""
    with owner.begin() as connection:
        connection.exec_driver_sql(
            "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION"
            " 'a double for: No space left on device' USING ERRCODE = 'disk_full'; END $$"
        )
        connection.exec_driver_sql(
            "CREATE TRIGGER full_disk BEFORE INSERT ON log_entries FOR EACH ROW"
            f" WHEN (NEW.index >= {index}) EXECUTE FUNCTION full_disk()"
        )
    yield
    with owner.begin() as connection:
        connection.exec_driver_sql("DROP TRIGGER full_disk ON log_entries")


async def test_a_disk_that_fills_up_in_mid_batch_takes_nothing_of_the_batch(
    world: World, owner: Engine
):
    world.append(0, 300)
    batcher = Batcher(Sequencer(world.engine))
    with disk_full_from(owner, 700):
        waiting = [batcher.submit(batch(300 + 100 * i, 400 + 100 * i)) for i in range(6)]
        outcomes = [await asyncio.to_thread(future.exception) for future in waiting]
        for error in filter(None, outcomes):
            assert isinstance(error, CounterfoilError)
            assert error.code is Code.UNAVAILABLE  # told to try again, and nothing was taken
        assert any(outcomes)
        acknowledged = [
            index
            for future, error in zip(waiting, outcomes, strict=True)
            if error is None
            for index in indexes(future.result())
        ]
        assert len(entries(world.engine)) == 300 + len(acknowledged) <= 700
        await world.publisher().publish()
        assert world.fsck() == []
    again = [batcher.submit(batch(300 + 100 * i, 400 + 100 * i)).result(20) for i in range(6)]
    batcher.close()
    assert sorted(index for results in again for index in indexes(results)) == list(range(300, 900))
    await world.publisher().publish()
    assert world.fsck() == []


@contextmanager
def tiny_disk(folder: Path, size: str) -> Iterator[None]:
    assert _ran("mount", "-t", "tmpfs", "-o", f"size={size},mode=0777", "tmpfs", str(folder))
    try:
        yield
    finally:
        _ran("umount", "--lazy", str(folder))


def _ran(name: str, *arguments: str) -> bool:
    program = shutil.which(name)
    return (
        program is not None and subprocess.run([program, *arguments], check=False).returncode == 0
    )


def _may_mount() -> bool:
    return os.geteuid() == 0 and _ran("unshare", "--mount", "true")


@pytest.mark.skipif(not _may_mount(), reason="a real disk can only be made full by who may mount")
async def test_a_disk_that_is_really_full_takes_nothing_of_the_batch(
    database: Database, postgres: PostgresServer, world: World
):
    with psycopg.connect(postgres.admin_dsn(database.name), autocommit=True) as admin:
        ((data,),) = admin.execute("SHOW data_directory").fetchall()
        folder = Path(data).parent / f"tiny-{database.name}"
        folder.mkdir()
        with tiny_disk(folder, "1m"):
            _fill_up(world, admin, folder, Path(data))
    await world.publisher().publish()
    assert world.fsck() == []


def _fill_up(world: World, admin: psycopg.Connection, folder: Path, data: Path) -> None:
    """Move the table that every append writes to onto the disk; append until it is full, and after it has grown."""
    place, owner = folder / "space", data.stat()
    place.mkdir()
    os.chown(place, owner.st_uid, owner.st_gid)
    name = sql.Identifier("tiny_space")
    admin.execute(sql.SQL("CREATE TABLESPACE {} LOCATION {}").format(name, str(place)))
    admin.execute(sql.SQL("ALTER TABLE log_issuers SET TABLESPACE {}").format(name))
    kept, caught = 0, None
    while caught is None and kept < 100_000:
        many = [Submission(entry((kept, i)), entry((kept, i)), 0) for i in range(1000)]
        try:
            kept += len(indexes(Sequencer(world.engine).append(many)))
        except CounterfoilError as error:
            caught = error
    assert caught is not None
    assert caught.code is Code.UNAVAILABLE
    assert len(entries(world.engine)) == kept > 0
    assert world.fsck() == []
    assert _ran("mount", "-o", "remount,size=16m", str(folder))
    assert indexes(Sequencer(world.engine).append(many)) == list(range(kept, kept + 1000))
    admin.execute("ALTER TABLE log_issuers SET TABLESPACE pg_default")
    admin.execute(sql.SQL("DROP TABLESPACE {}").format(name))


@pytest.mark.skipif(not _may_mount(), reason="a real disk can only be made full by who may mount")
@pytest.mark.parametrize(("folder", "size"), [("public", "64k"), ("second", "4k")])
async def test_publication_waits_for_room_and_leaves_nothing_torn(
    world: World, folder: str, size: str
):
    """The disk of the published files, or of the second place, is full; the database's is not."""
    place = world.folder / folder
    place.mkdir()
    with tiny_disk(place, size):
        world.append(0, 2000)
        for _ in range(2):
            with pytest.raises(CounterfoilError, match="No space left") as caught:
                await world.publisher().publish()
            assert caught.value.code is Code.UNAVAILABLE
        assert world.files.checkpoint() is None
        world.append(2000, 2010)
        assert _ran("mount", "-o", "remount,size=4m", str(place))
        witnessed = await world.publisher().publish()
        assert witnessed is not None
        assert witnessed.checkpoint.size == 2010
        assert world.fsck() == []


# -- a restored backup behind its witness -----------------------------------------------------------------


@contextmanager
def backup(database: Database, postgres: PostgresServer, source: World) -> Iterator[str]:
    """Copy the database as it is now; yield the server's DSN of the copy."""
    source.engine.dispose()
    database.engine("owner").dispose()
    name = f"{database.name}_backup"
    postgres.create(name, owner="owner", template=database.name)
    try:
        yield on_database(database.server_dsn, name)
    finally:
        postgres.drop(name)


@pytest.mark.parametrize("grown", [0, 3, 30], ids=["as it was", "shorter", "longer"])
@pytest.mark.parametrize("old_second_place", [False, True], ids=["kept", "restored"])
async def test_a_restored_backup_behind_its_witness_never_signs_again(
    world: World, database: Database, postgres: PostgresServer, grown: int, old_second_place: bool
):
    """Whether the second place was kept or came from the same backup, and whatever was appended meanwhile."""
    world.append(0, 10)
    await world.publisher().publish()
    second = world.folder / "second"
    shutil.copytree(second, world.folder / "second.backup")
    with backup(database, postgres, world) as dsn:
        world.append(10, 25)
        await world.publisher().publish()
        if old_second_place:
            shutil.rmtree(second)
            (world.folder / "second.backup").rename(second)
        engine = make_engine(dsn)
        restored = make_world(engine, world.folder, names=NAMES, threshold=1)
        if grown:
            Sequencer(engine).append([numbered(1000 + i) for i in range(grown)])
        await refused(restored, Code.FORK)
        restored.witnesses[0].down = True
        if (
            old_second_place
        ):  # the evidence stays, also for the next process and without its witness
            await refused(restored, Code.FORK)
        assert verify_witnessed(world.files.checkpoint() or "", world.policy).checkpoint.size == 25
        restored.close()
        engine.dispose()


async def test_a_restored_backup_waits_while_no_witness_says_what_it_holds(
    world: World, database: Database, postgres: PostgresServer
):
    world.append(0, 10)
    await world.publisher().publish()
    shutil.copytree(world.folder / "second", world.folder / "second.backup")
    with backup(database, postgres, world) as dsn:
        world.append(10, 25)
        await world.publisher().publish()
        shutil.rmtree(world.folder / "second")
        (world.folder / "second.backup").rename(world.folder / "second")
        engine = make_engine(dsn)
        restored = make_world(engine, world.folder, names=NAMES, threshold=1)
        Sequencer(engine).append([numbered(1000)])
        restored.witnesses[0].down = True
        await refused(restored, Code.UNAVAILABLE)
        restored.close()
        engine.dispose()


# -- two at once ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("advisory_lock", [True, False], ids=["locked", "not locked"])
async def test_two_sequencers_in_two_processes_give_each_entry_one_index(
    world: World, dsn: str, tmp_path: Path, advisory_lock: bool
):
    """Both append the same entries in different order, and some of their own."""
    children = [
        _children.Process(
            target=append_all, args=(dsn, str(tmp_path / f"{which}"), which, advisory_lock)
        )
        for which in range(2)
    ]
    for child in children:
        child.start()
    for child in children:
        await asyncio.to_thread(child.join, 60)
        assert child.exitcode == 0
    told: dict[bytes, set[int]] = {}
    for which in range(2):
        for line in (tmp_path / f"{which}").read_text().splitlines():
            name, index = line.split()
            told.setdefault(bytes.fromhex(name), set()).add(int(index))
    assert {value: {at} for at, value in enumerate(entries(world.engine))} == told
    await world.publisher().publish()
    assert world.fsck() == []


async def test_two_publishers_with_a_second_place_each_sign_one_history(
    world: World, tmp_path: Path
):
    """Two servers on one database, neither seeing the other's lock: one root per size, whichever comes first."""
    other = make_world(world.engine, tmp_path, names=NAMES, threshold=1)
    other.second_place = SecondPlace(tmp_path / "elsewhere" / "signed.note", LOG_KEYS)
    publishers = [world.publisher(), other.publisher()]
    seen: list[str] = []
    for end in range(1, 30):
        world.append(end - 1, end)
        outcomes = await asyncio.gather(*(p.tick() for p in publishers), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException) and not isinstance(outcome, CounterfoilError):
                assert "pk_log_checkpoints" in str(outcome)  # both decided on one size at once
        seen.append(world.files.checkpoint() or "")
    kept = entries(world.engine)
    notes = [verify_witnessed(note, world.policy).checkpoint for note in filter(None, seen)]
    assert notes
    for checkpoint in notes:
        leaves = [leaf_hash(value) for value in kept[: checkpoint.size]]
        assert checkpoint.root == root(leaves)
    assert [checkpoint.size for checkpoint in notes] == sorted(c.size for c in notes)
    assert world.witnesses[0].store.forks(ORIGIN) == []
    other.close()


# -- a migration that loses rows --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "named"),
    [
        ("DELETE FROM log_entries WHERE index = 290", "log_entries"),
        ("DELETE FROM log_entries WHERE index >= 280", "log_state.size"),
        ("TRUNCATE log_entries", "log_state.size"),
        ("DELETE FROM log_tiles", "log_tiles"),
        ("DELETE FROM log_state", "log_state"),
        ("UPDATE log_entries SET entry = sha256(entry) WHERE index = 299", "log_state.root"),
    ],
)
async def test_rows_that_a_migration_lost_are_noticed_by_fsck_and_by_the_next_append(
    world: World, owner: Engine, loss: str, named: str
):
    world.append(0, 260)
    await world.publisher().publish()
    world.append(260, 300)
    with owner.begin() as connection:
        connection.execute(text(loss))
    assert any(str(finding).startswith(named) for finding in world.fsck())
    with pytest.raises(CounterfoilError):
        Sequencer(world.engine).append(batch(300, 310))
    with world.engine.connect() as connection:
        newest = connection.execute(text("SELECT max(index) FROM log_entries")).scalar_one()
    assert newest is None or newest < 300


@pytest.mark.parametrize(
    ("loss", "named"),
    [
        ("DELETE FROM log_entries WHERE index = 7", "log_entries"),
        ("UPDATE log_entries SET entry = sha256(entry) WHERE index = 7", "log_tiles"),
        ("DELETE FROM log_issuers", "log_issuers"),
        ("UPDATE log_issuers SET highest = 5, held = 6", "log_issuers"),
        ("DELETE FROM log_checkpoints WHERE size = 260", "checkpoint"),
    ],
)
async def test_rows_lost_from_the_past_are_noticed_by_fsck(
    world: World, owner: Engine, loss: str, named: str
):
    """An append looks at the tree's edge only, so what is gone from full tiles is for `fsck` to find."""
    world.append(0, 260)
    await world.publisher().publish()
    with owner.begin() as connection:
        connection.execute(text(loss))
    assert any(str(finding).startswith(named) for finding in world.fsck())


# -- two tree heads that disagree ---------------------------------------------------------------------------


async def test_a_root_in_the_database_that_the_entries_do_not_have_is_neither_extended_nor_signed(
    world: World, owner: Engine
):
    world.append(0, 10)
    await world.publisher().publish()
    world.append(10, 12)
    with owner.begin() as connection:
        connection.execute(text("UPDATE log_state SET root = sha256(root)"))
    with pytest.raises(CounterfoilError) as caught:
        Sequencer(world.engine).append(batch(12, 13))
    assert caught.value.code is Code.CORRUPT
    await refused(world, Code.CORRUPT)


@pytest.mark.parametrize("size", [10, 12, 15])
async def test_a_second_place_with_another_root_stops_the_log(world: World, size: int):
    """At the size last signed, at one that the database has reached since, and beyond it."""
    world.append(0, 10)
    await world.publisher().publish()
    shutil.rmtree(world.folder / "second")
    other = Checkpoint(ORIGIN, size, b"\x07" * 32)
    world.second_place.write(other, sign(other, LOG_SIGNERS, time_s=1).encode())
    world.append(10, 12)
    await refused(world, Code.FORK)


async def test_a_checkpoint_row_with_another_root_stops_the_log(world: World, owner: Engine):
    world.append(0, 10)
    await world.publisher().publish()
    world.append(10, 12)
    with owner.begin() as connection:
        connection.execute(text("UPDATE log_checkpoints SET root = sha256(root)"))
    await refused(world, Code.FORK)


# -- entries missing under overload ---------------------------------------------------------------------------


async def test_under_overload_refusals_are_reported_and_what_is_accepted_is_there(
    world: World,
):
    """Eight threads, a queue of 32: each submission is in the log at the index it was given, or OVERLOADED and not in it."""
    batcher = Batcher(Sequencer(world.engine), max_batch=16, max_queue=32)
    accepted: list[tuple[Submission, Future[list[Result]]]] = []
    turned_away: list[tuple[Submission, CounterfoilError]] = []

    def hand_in(which: int) -> None:
        for number in range(150):
            item = numbered(number, entry(which))
            try:
                accepted.append((item, batcher.submit([item])))
            except CounterfoilError as error:
                turned_away.append((item, error))

    threads = [threading.Thread(target=hand_in, args=(which,)) for which in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    batcher.close()
    held = entries(world.engine)
    for item, future in accepted:
        (result,) = future.result(0)
        assert isinstance(result, Sequenced)
        assert held[result.index] == item.entry
    assert turned_away
    assert {error.code for _, error in turned_away} == {Code.OVERLOADED}
    assert all(error.retry_after_s for _, error in turned_away)
    assert len(accepted) + len(turned_away) == 1200
    assert sorted(held) == sorted(item.entry for item, _ in accepted)
    await world.publisher().publish()
    assert world.fsck() == []


# -- a commit that comes through after its answer was lost ------------------------------------------------------


async def test_cosignatures_that_a_lost_commit_stored_are_the_ones_that_are_published(world: World):
    """A double for the late commit: the witness itself stores a first quorum, then cosigns again at another time."""

    class Twice(LocalWitness):
        async def add_checkpoint(
            self, old_size: int, proof: Sequence[bytes], note: str
        ) -> tuple[SignatureLine, ...]:
            first = await super().add_checkpoint(old_size, proof, note)
            with transaction(world.engine) as connection:
                store_cosigned(connection, 5, parse_note(note).with_signatures(first).encode())
            self.witness._clock = lambda: time.time() + 60
            return await super().add_checkpoint(5, [], note)

    world.witnesses[0].store.close()
    world.witnesses = [Twice(NAMES[0], world.folder)]
    world.append(0, 5)
    await world.publisher().publish()
    assert world.fsck() == []
