"""sqlite files are their owner's: new ones under any umask, and old ones that were open to others."""

import os
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from audit_layer.custodian.store import ReleaseStore
from audit_layer.monitor.store import MonitorStore
from audit_layer.witness.store import WitnessStore
from execution_layer.client.archive import Archive
from execution_layer.node.store import NodeStore
from shared.parties.reveal_memory import RevealMemory
from shared.runtime import journal
from shared.runtime.errors import Code, CounterfoilError
from tests.full_disk import FullDisk

STORES: dict[str, Callable[[Path], object]] = {
    "archive": Archive,
    "custodian": ReleaseStore,
    "monitor": lambda path: MonitorStore(path, "log.example/1"),
    "node": lambda path: NodeStore(path, bytes(32)),
    "reveals": RevealMemory,
    "witness": WitnessStore,
}


def open_to_others(folder: Path) -> dict[str, str]:
    """Return the files that somebody else could read, with their modes."""
    found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    return {name: f"{mode:04o}" for name, mode in found.items() if mode & 0o077}


@pytest.fixture(params=[0o000, 0o022, 0o027, 0o077], ids=oct)
def umask(request):
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.parametrize("store", STORES)
def test_nobody_else_can_read_what_a_store_keeps(umask, store, tmp_path):
    opened = STORES[store](tmp_path / "kept.sqlite")
    assert {path.name for path in tmp_path.iterdir()} >= {"kept.sqlite", "kept.sqlite-wal"}
    assert open_to_others(tmp_path) == {}
    opened.close()


@pytest.mark.parametrize("store", STORES)
def test_files_that_were_open_to_others_are_closed(store, tmp_path):
    STORES[store](tmp_path / "kept.sqlite").close()
    for suffix in ("", "-wal", "-shm"):
        path = tmp_path / f"kept.sqlite{suffix}"
        path.touch()
        path.chmod(0o644)
    opened = STORES[store](tmp_path / "kept.sqlite")
    assert open_to_others(tmp_path) == {}
    opened.close()


def test_a_file_that_is_open_and_not_ours_is_refused_by_name(tmp_path, monkeypatch):
    path = tmp_path / "kept.sqlite"
    path.touch()
    path.chmod(0o644)

    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", refused)
    with pytest.raises(CounterfoilError, match=r"kept\.sqlite is open to other users") as caught:
        journal.keep_private(path)
    assert caught.value.code is Code.CONFIGURATION
    assert "chmod 600" in (caught.value.remedy or "")


@pytest.fixture
def kept(tmp_path):
    with journal.Journal(
        tmp_path / "kept.sqlite", schema="CREATE TABLE t (x BLOB UNIQUE)", version=1
    ) as opened:
        yield opened


def rows(kept) -> int:
    return int(kept.read(lambda db: db.execute("SELECT count(*) FROM t").fetchone()[0]))


def test_a_full_disk_is_reported_by_name_and_is_over_when_it_is(kept):
    disk = FullDisk(kept)
    with pytest.raises(
        journal.Unwritable, match=r"kept\.sqlite cannot be written: the disk is full"
    ):
        kept.write_now(lambda db: db.execute("INSERT INTO t VALUES (1)"))
    assert kept.failure.reason == "the disk is full"
    assert kept.failure.code is Code.UNAVAILABLE
    assert rows(kept) == 0
    disk.full = False
    kept.write_now(lambda db: db.execute("INSERT INTO t VALUES (1)"))
    assert kept.failure is None
    assert rows(kept) == 1


async def test_a_probe_finds_out_whether_the_file_can_be_written(kept):
    disk = FullDisk(kept)
    with pytest.raises(journal.Unwritable):
        await kept.probe()
    disk.full = False
    await kept.probe()
    assert kept.failure is None


def test_a_disk_that_fills_up_within_an_operation_leaves_nothing_of_its_group(kept):
    kept.write_now(lambda db: db.execute("PRAGMA cache_size = 1"))
    kept.write_now(lambda db: db.execute("PRAGMA max_page_count = 1"))  # as many as there are
    with pytest.raises(journal.Unwritable):
        kept.write_now(lambda db: db.execute("INSERT INTO t VALUES (zeroblob(100000))"))
    assert rows(kept) == 0
    kept.write_now(lambda db: db.execute("PRAGMA max_page_count = 100000"))
    kept.write_now(lambda db: db.execute("INSERT INTO t VALUES (zeroblob(100000))"))
    assert rows(kept) == 1


def test_what_a_caller_did_wrong_is_not_a_failure_of_the_disk(kept):
    kept.write_now(lambda db: db.execute("INSERT INTO t VALUES (1)"))
    with pytest.raises(sqlite3.IntegrityError):
        kept.write_now(lambda db: db.execute("INSERT INTO t VALUES (1)"))
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        kept.write_now(lambda db: db.execute("INSERT INTO nowhere VALUES (1)"))
    assert kept.failure is None
