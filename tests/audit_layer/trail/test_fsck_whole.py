"""`log fsck` names whatever was changed behind the server's back: each column of each table, and each published file.

The columns come from the declared tables, so none can be forgotten: a new one fails here until the check covers it or
`BELIEVED` says why it cannot.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import ARRAY, Boolean, Column, Engine, LargeBinary, Table, Text

from audit_layer.api.tokens import Tokens
from audit_layer.log.batcher import Batcher
from audit_layer.log.sequencer import Sequencer
from audit_layer.log.timestamp_table import store
from audit_layer.storage.base import Base
from audit_layer.trail.at_rest import DAY_MS, create_key_file, with_keeper
from audit_layer.trail.erasure import Eraser
from audit_layer.trail.fsck_whole import check_all
from audit_layer.trail.gap_watch import GapWatch
from audit_layer.trail.service import Accepted, Refused, Submission, Trail
from audit_layer.trail.write_rows import write_rows
from audit_layer.wiring.audit_server import Core
from shared.codec.moment import Period, now_ms
from shared.translog.checkpoint import Checkpoint
from shared.translog.signed_checkpoint import parse_and_verify
from shared.translog.timestamp import query_for, verify_timestamp
from tests.audit_layer.api import statements as made
from tests.audit_layer.log.world import World as LogWorld
from tests.audit_layer.log.world import make_world
from tests.audit_layer.served import fill
from tests.postgres import Database
from tests.shared.translog.authority import OpensslAuthority, make_authority

TABLES = [
    table for table in Base.metadata.sorted_tables if table.name.startswith(("log_", "trail_"))
]
BELIEVED = {
    ("trail_parties", "id"): "a surrogate key that nothing refers to",
    ("trail_evidence", "id"): "a surrogate key that nothing refers to",
    ("trail_gaps", "id"): "a surrogate key that nothing refers to",
    ("trail_findings", "detail"): "a sentence for people: the two statements are the proof",
}
"""Columns on which nothing signed bears. Times are bounded by signed ones to within minutes, not exactly."""
TEN_YEARS_MS = 315_360_000_000


@dataclass
class World:
    """A log with a trail, all kinds of rows, and several checkpoints; nobody else at work."""

    log: LogWorld
    engine: Engine
    key_file: Path
    owner: psycopg.Connection
    erased: set[bytes]
    authority: OpensslAuthority

    @property
    def files(self) -> Path:
        return self.log.folder / "public"

    def check(self) -> list[str]:
        return check_all(
            with_keeper(self.engine, self.key_file),  # one that remembers no data keys
            policy=self.log.policy,
            files=self.log.files,
            second_place=self.log.second_place,
            anchors=[self.authority.anchor],
        )


OLD = made.NOW - 40 * made.HOUR
"""In a day that is over."""


def put(trail: Trail, *submissions: Submission) -> list[bytes]:
    results = trail.submit(submissions)
    assert all(isinstance(result, Accepted) for result in results), results
    return [result.entry for result in results if isinstance(result, Accepted)]


def leave_gaps(engine: Engine, trail: Trail, node: made.Node) -> None:
    """One gap in a node's and a tenant's numbers that was reported and has closed, and one that was reported and is open."""
    skipped, following, later = (node.receipt("acme", started=OLD) for _ in range(3))
    put(trail, following)
    watch = GapWatch(engine, grace_ms=0)
    assert watch.look(now_ms()).reported
    put(trail, skipped, later, node.refusal("acme", at=OLD))
    assert watch.look(now_ms()).resolved
    node.receipt("acme", started=OLD)
    put(trail, node.receipt("acme", started=OLD))
    assert watch.look(now_ms()).reported
    node.receipt("bolt", started=OLD)
    put(trail, node.receipt("bolt", started=OLD))
    watch.look(now_ms())


def erase_a_day(engine: Engine, trail: Trail) -> None:
    day = OLD // DAY_MS * DAY_MS
    eraser = Eraser(engine, trail, made.key("authority"), name="authority")
    eraser.erase(
        "bolt", Period(day, day + DAY_MS), reason="asked to", requested_by="bolt", now=now_ms()
    )


def erased(owner: psycopg.Connection) -> set[bytes]:
    rows = owner.execute(
        "SELECT entry, order_entry FROM trail_receipts WHERE tenant = 'bolt' AND started = %s",
        [OLD],
    ).fetchall()
    return {entry for row in rows for entry in row}


def stamp(log: LogWorld, authority: OpensslAuthority) -> None:
    checkpoint = parse_and_verify(log.files.checkpoint() or "", log.policy.logs)[0]
    assert isinstance(checkpoint, Checkpoint)
    reply = authority.reply(query_for(checkpoint).der)
    time_ms = verify_timestamp(reply, checkpoint, [authority.anchor])
    with log.engine.begin() as connection:
        store(connection, checkpoint.size, time_ms, reply)


@pytest.fixture
async def world(database: Database, tmp_path: Path) -> Any:
    key_file = tmp_path / "erasure.key"
    create_key_file(key_file)
    plain = database.engine("server")
    engine = with_keeper(plain, key_file)
    log = make_world(plain, tmp_path, names=["w1.example"], threshold=1)
    publisher = log.publisher()
    batcher = Batcher(Sequencer(engine), in_transaction=write_rows)
    trail = Trail(engine, batcher, frozenset({made.PROFILE}))
    filled = fill(Core(engine, batcher, trail, Tokens(engine)))
    await publisher.publish()
    trail.submit([Submission(made.rate_card("alpha", f"list {i}")) for i in range(260)])
    await publisher.publish()
    card = trail.statements(type="rate-card")[0].entry
    second = made.Node("alpha", filled.bundles["alpha"], card).receipt("acme", tokens=8)
    (refused,) = trail.submit([second])
    assert isinstance(refused, Refused)
    receipt = filled.receipts["acme"][0]
    trail.deposit(receipt, made.delivered(filled.signed[receipt]))
    old_bundle = made.bundle("beta", not_after=made.NOW - 20 * made.HOUR)
    (bundle,) = put(trail, Submission(old_bundle))
    leave_gaps(
        engine, trail, made.Node("beta", bundle, card, number=2, previous=filled.by_operator["beta"][1],
                                 orders={"acme": 500, "bolt": 500})
    )  # fmt: skip
    erase_a_day(engine, trail)
    await publisher.publish()
    authority = make_authority(tmp_path / "authority")
    stamp(log, authority)
    trail.disable_party("bolt", "tenant")
    batcher.close()
    with psycopg.connect(database.owner_dsn, autocommit=True) as owner:
        found = World(log, plain, key_file, owner, erased(owner), authority)
        assert found.check() == []
        yield found
    log.close()


@contextmanager
def changed(
    owner: psycopg.Connection, table: Table, column: Column[Any], erased: set[bytes]
) -> Iterator[None]:
    """Change a column in one row in the middle, bypassing any constraint; restore everything afterwards.

    Rows whose entry is in `erased` stay: the bytes that would contradict a change are gone.
    """
    keys = [key.name for key in table.primary_key]
    name = column.name
    found = owner.execute(
        sql.SQL("SELECT {} FROM {} ORDER BY {} IS NULL, {}").format(
            sql.SQL(", ").join(map(sql.Identifier, [name, *keys])),
            sql.Identifier(table.name),
            sql.Identifier(name),
            sql.SQL(", ").join(map(sql.Identifier, keys)),
        )
    ).fetchall()
    found = [row for row in found if not any(value in erased for value in row[1:])]
    assert found, f"there is no row of {table.name} to change"
    rows = [row for row in found if row[0] is not None] or found
    old, *key = rows[len(rows) // 2]
    new = _other(column, old)
    moved = [new if part == name else value for part, value in zip(keys, key, strict=True)]
    dropped = _update(owner, table.name, name, new, dict(zip(keys, key, strict=True)))
    try:
        yield
    finally:
        _update(owner, table.name, name, old, dict(zip(keys, moved, strict=True)))
        for repair in dropped:
            owner.execute(repair)


def _update(
    owner: psycopg.Connection, table: str, column: str, value: Any, key: dict[str, Any]
) -> list[sql.Composed]:
    """Set one value; return the SQL that restores the constraints that were in the way."""
    undo: list[sql.Composed] = []
    statement = sql.SQL("UPDATE {} SET {} = %s WHERE {}").format(
        sql.Identifier(table),
        sql.Identifier(column),
        sql.SQL(" AND ").join(sql.SQL("{} = %s").format(sql.Identifier(part)) for part in key),
    )
    while True:
        try:
            assert owner.execute(statement, [value, *key.values()]).rowcount == 1
        except (psycopg.errors.CheckViolation, psycopg.errors.ForeignKeyViolation) as error:
            undo.append(_drop(owner, str(error.diag.table_name), str(error.diag.constraint_name)))
        except psycopg.errors.GeneratedAlways:
            kind = sql.SQL("ALTER TABLE {} ALTER COLUMN {} SET GENERATED BY DEFAULT")
            owner.execute(kind.format(sql.Identifier(table), sql.Identifier(column)))
        else:
            return undo


def _drop(owner: psycopg.Connection, table: str, constraint: str) -> sql.Composed:
    row = owner.execute(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE conrelid = %s::regclass AND conname = %s",
        (table, constraint),
    ).fetchone()
    assert row is not None
    names = sql.Identifier(table), sql.Identifier(constraint)
    owner.execute(sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(*names))
    return sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} {}").format(*names, sql.SQL(row[0]))


def _other(column: Column[Any], old: Any) -> Any:
    """Return another value of the column's type: one bit, or further off than any clock."""
    if isinstance(column.type, ARRAY):
        return [_flip(old[0], 0), *old[1:]]
    if isinstance(column.type, LargeBinary):
        return bytes(32) if old is None else _flip(old, len(old) // 2)
    if isinstance(column.type, Text):
        return "x" if old is None else f"{old}x"
    if isinstance(column.type, Boolean):
        return not old
    if column.name.endswith(("at", "since")) and old is not None:
        return old + TEN_YEARS_MS
    return 7 if old is None else old + 1000


def _flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def names(line: str, table: str, column: str) -> bool:
    """Return whether a difference names a column, as `table.column` or `table[row].column`."""
    head = line
    while table in head:
        _, _, head = head.partition(table)
        rest = head.partition("]")[2] if head.startswith("[") else head
        if rest.startswith(f".{column}") and not rest[len(column) + 1 :][:1].isidentifier():
            return True
    return False


def test_a_name_in_a_finding_is_recognised_only_when_it_is_there():
    assert names("log_state.size: is 3", "log_state", "size")
    assert names("x: is not log_tiles[level=0, index=1].index", "log_tiles", "index")
    assert not names("log_tiles[level=0, index=1].width: x", "log_tiles", "index")
    assert not names("log_entries[index=1].issuer_seq: x", "log_entries", "issuer")


async def test_every_column_of_every_table_is_named_when_it_was_changed(world: World):
    unnoticed = []
    for table in TABLES:
        for column in table.columns:
            with changed(world.owner, table, column, world.erased):
                found = world.check()
            named = any(names(line, table.name, column.name) for line in found)
            if named == ((table.name, column.name) in BELIEVED):
                unnoticed.append((table.name, column.name, found[:4]))
    assert not unnoticed, "\n".join(map(str, unnoticed))
    assert world.check() == []


async def test_every_published_file_is_named_when_it_was_changed_cut_or_removed(world: World):
    root = world.files
    paths = [path for path in sorted(root.rglob("*")) if path.is_file()]
    assert len(paths) >= 8
    spoil: dict[str, Callable[[bytes], bytes | None]] = {
        "a flipped byte": lambda data: _flip(data, len(data) // 2),
        "a missing byte": lambda data: data[:-1],
        "one more byte": lambda data: data + b"\0",
        "nothing in it": lambda _: b"",
        "no file": lambda _: None,
    }
    for path in paths:
        name, data = path.relative_to(root).as_posix(), path.read_bytes()
        for how, do in spoil.items():
            spoiled = do(data)
            path.unlink()
            if spoiled is not None:
                path.write_bytes(spoiled)
            found = world.check()
            path.write_bytes(data)
            assert any(line.startswith(f"{name}:") for line in found), (name, how, found)
    assert world.check() == []


@pytest.mark.parametrize(
    "name",
    ["tile/0/999", "tile/0/000.p/9", "tile/entries/777", "tile/7/000", "tile/0/notes", "tile/x"],
)
async def test_a_stray_file_is_named(world: World, name: str):
    path = world.files / name
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(b"stray")
    assert any(line.startswith(f"{name}:") for line in world.check())
