"""The archive: on disk before an order is sent, numbers assigned once, and a kill -9 at any point loses nothing of it."""

import asyncio
import json
import os
import signal
import sqlite3
import stat
import sys
from dataclasses import replace
from hashlib import sha256

import pytest

from execution_layer.client import archive as archive_module
from execution_layer.client.archive import (
    Archive,
    NewTranscript,
    Received,
    State,
    own_keys_in,
)
from execution_layer.client.order_numbers import FORGOTTEN_MS
from execution_layer.client.part_records import NewPart
from shared.codec.moment import now_ms
from shared.envelope.sealing import open_with_secret
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.faults import VARIABLE
from shared.statements.cose import entry_of, open_as
from shared.statements.orders import Order
from tests.execution_layer.fakes import FakeEngine

BUNDLE = b"\x01" * 32
NEW = NewTranscript("honest/node-1", BUNDLE, b"s" * 32, b"envelope", None)
CENTRE = 'R&D; "Zürich"\'s'
NOTHING = Received(None, None, (), None, None)


def signed(number, attempt):
    statement = f"order {number}/{attempt}".encode()
    return statement, sha256(statement).digest()


def signed_part(_number, _attempt, _head, place):
    statement = f"part {place}".encode()
    return statement, sha256(statement).digest()


@pytest.fixture
async def archive(tmp_path):
    opened = Archive(tmp_path / "client" / "archive.sqlite")
    await opened.remember_bundle(BUNDLE, b"statement", "proof", 2**50)
    yield opened
    opened.close()


async def test_numbers_and_attempts_have_no_gaps(archive):
    given = [await archive.order(NEW, signed) for _ in range(3)]
    again = [await archive.order(NEW, signed, number=1) for _ in range(2)]
    assert [(item.number, item.attempt) for item in given] == [(0, 0), (1, 0), (2, 0)]
    assert [(item.number, item.attempt) for item in again] == [(1, 1), (1, 2)]
    assert archive.counts()["numbers"] == 3


async def test_an_order_that_could_not_be_signed_uses_no_number(archive):
    def failing(number, attempt):
        raise OSError("the key file is gone")

    with pytest.raises(OSError, match="gone"):
        await archive.order(NEW, failing)
    assert (await archive.order(NEW, signed)).number == 0


async def test_two_clients_on_one_archive_never_give_out_a_number_twice(archive, tmp_path):
    second = Archive(tmp_path / "client" / "archive.sqlite")
    try:
        given = await asyncio.gather(
            *(which.order(NEW, signed) for _ in range(20) for which in (archive, second))
        )
    finally:
        second.close()
    assert sorted(item.number for item in given) == list(range(40))


async def test_only_its_owner_can_read_it(archive, tmp_path):
    await archive.order(NEW, signed)
    folder = tmp_path / "client"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path.name


async def test_an_order_under_an_unknown_bundle_is_not_written(archive):
    with pytest.raises(sqlite3.IntegrityError):
        await archive.order(NewTranscript("x", b"?" * 32, b"", b"", None), signed)
    assert archive.latest(1) == []


async def test_what_came_back_is_found_by_receipt_and_by_order(archive):
    ordered = await archive.order(NEW, signed)
    frames = ((b"one", b"signature 1"), (b"two", b"signature 2"))
    received = Received(b"n" * 32, b"h0", frames, b"final", b"signature 3")
    await archive.close_attempt(ordered.id, State.ANSWERED, received, receipt=(b"r", b"e" * 32))
    kept = archive.by_entry(b"e" * 32)
    assert kept == archive.by_entry(ordered.entry) == archive.get(ordered.id)
    assert kept.frames == (b"one", b"two")
    assert kept.signatures == (b"signature 1", b"signature 2")
    assert kept.finished >= kept.created
    assert archive.unproved() == [kept]
    await archive.attach_proof(kept.id, "a proof", 7)
    assert archive.unproved() == []
    assert archive.get(kept.id).log_index == 7


async def test_what_is_not_there_is_not_found(archive):
    for look in (
        lambda: archive.get(1),
        lambda: archive.by_entry(bytes(32)),
        lambda: archive.bundle(bytes(32)),
    ):
        with pytest.raises(CounterfoilError) as caught:
            look()
        assert caught.value.code is Code.NOT_FOUND


async def test_an_archive_of_another_release_is_refused(tmp_path):
    path = tmp_path / "archive.sqlite"
    Archive(path).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(CounterfoilError) as caught:
        Archive(path)
    assert caught.value.code is Code.CONFIGURATION
    assert str(path) in caught.value.detail


async def test_a_file_that_is_not_a_database_is_named(tmp_path):
    path = tmp_path / "archive.sqlite"
    path.write_bytes(b"not a database, and long enough to be looked at" * 50)
    path.chmod(0o600)
    with pytest.raises(CounterfoilError) as caught:
        Archive(path)
    assert caught.value.code is Code.CORRUPT
    assert str(path) in caught.value.detail


async def infer(world, fault, prompt="hello"):
    """Run `counterfoil infer` as a process that dies at a fault point; return (exit code, output)."""
    world.policy()
    config = world.folder / "client" / "client.toml"
    arguments = ["infer", "--config", str(config), "--max-tokens", "5", "--json", prompt]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "shared.runtime", *arguments),
        env={**os.environ, VARIABLE: fault},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, out


@pytest.mark.parametrize(
    ("fault", "reached_the_node"),
    [("client.ordered:kill", False), ("client.receipt.checked:kill", True)],
)
async def test_kill_9_between_order_receipt_and_archive_loses_nothing_that_cannot_be_made_good(
    world, fault, reached_the_node
):
    """Secret, envelope and order are there; the number is not used again; the node answers for the receipt."""
    async with world.node(FakeEngine()) as node:
        code, out = await infer(world, fault)
        assert code == -signal.SIGKILL
        assert out == b""  # an answer whose receipt is not on disk was not returned
        if reached_the_node:
            await world.audit.wait_for_receipts(1)
        async with world.client() as client:
            (kept,) = client.archive.latest(10)
            assert (kept.number, kept.state) == (0, State.ORDERED)
            opened = open_with_secret(kept.envelope, kept.secret)
            assert [message.content for message in opened.body.messages] == ["hello"]
            order, _ = open_as(Order, kept.order_statement, None)
            assert order.envelope == opened.envelope_hash
            answer = await client.generate(prompt="again", max_tokens=3)
            assert answer.number == 1
            await world.audit.wait_for_receipts(1 + reached_the_node)
            orders = {item.payload["order"] for item in world.audit.receipts()}
            assert (entry_of(kept.order_statement) in orders) is reached_the_node
        assert node.store.was_seen(kept.order_entry, opened.ctx) is reached_the_node


async def close(archive, ordered, state):
    await archive.close_attempt(ordered.id, state, NOTHING)


async def test_a_number_under_which_nothing_was_accepted_goes_to_the_next_request(archive):
    first, second = [await archive.order(NEW, signed) for _ in range(2)]
    retried = await archive.order(NEW, signed, number=first.number)
    for item in (first, retried):
        await close(archive, item, State.REFUSED)
    await close(archive, second, State.ANSWERED)
    assert (await archive.order(NEW, signed)).number == 2  # it is not free before it is given back
    await archive.give_back(0)
    await archive.give_back(0)
    again, new = [await archive.order(NEW, signed) for _ in range(2)]
    assert [(item.number, item.attempt) for item in (again, new)] == [(0, 2), (3, 0)]
    assert len({item.entry for item in (first, retried, again)}) == 3


@pytest.mark.parametrize(
    "state", [State.ORDERED, State.ANSWERED, State.BROKEN, State.DISBELIEVED], ids=str
)
async def test_a_number_that_may_have_been_accepted_is_kept(archive, state):
    accepted = await archive.order(NEW, signed)
    if state is not State.ORDERED:
        await close(archive, accepted, state)
    await close(archive, await archive.order(NEW, signed, number=0), State.REFUSED)
    await archive.give_back(0)
    assert (await archive.order(NEW, signed)).number == 1


async def test_two_clients_never_take_one_free_number_both(archive, tmp_path):
    for _ in range(5):
        await close(archive, await archive.order(NEW, signed), State.REFUSED)
    second = Archive(tmp_path / "client" / "archive.sqlite")
    try:
        for number in range(5):
            await archive.give_back(number)
        given = await asyncio.gather(
            *(which.order(NEW, signed) for _ in range(5) for which in (archive, second))
        )
    finally:
        second.close()
    assert sorted((item.number, item.attempt) for item in given) == [
        *((number, 1) for number in range(5)),
        *((number, 0) for number in range(5, 10)),
    ]


async def test_numbers_of_processes_that_died_are_free_once_their_orders_are_no_good(
    archive, tmp_path, monkeypatch
):
    async def next_number():
        later = Archive(tmp_path / "client" / "archive.sqlite")
        try:
            return (await later.order(NEW, signed)).number
        finally:
            later.close()

    _killed, refused, answered = [await archive.order(NEW, signed) for _ in range(3)]
    await close(archive, refused, State.REFUSED)
    await close(archive, answered, State.ANSWERED)
    assert await next_number() == 3
    later = now_ms() + FORGOTTEN_MS + 1000
    monkeypatch.setattr(archive_module, "now_ms", lambda: later)
    assert [await next_number() for _ in range(4)] == [0, 1, 3, 4]  # 3 was never closed either


def undo_tables(db, version):
    """Take back what an archive of a version did not have, down to version 8."""
    for column in ("audit", "audit_entry", "audit_index", "audit_rejected"):
        db.execute(f"ALTER TABLE parts DROP COLUMN {column}")
    if version < 11:
        db.execute("DROP TABLE parts")
    if version < 10:
        db.execute("DROP TABLE canaries")
    if version < 9:
        db.execute("DROP TABLE own_keys")


@pytest.mark.parametrize("version", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11])
async def test_an_older_archive_is_opened_and_keeps_what_it_holds(archive, tmp_path, version):
    await close(archive, await archive.order(NEW, signed), State.REFUSED)
    archive.close()
    path = tmp_path / "client" / "archive.sqlite"
    with sqlite3.connect(path) as db:
        undo_tables(db, version)
        if version < 8:
            db.execute("DROP TABLE audits")
        if version < 7:
            db.execute("DROP INDEX transcripts_refusal")
            for column in ("refusal", "refusal_entry", "rejected"):
                db.execute(f"ALTER TABLE transcripts DROP COLUMN {column}")
        if version < 6:
            db.execute("DROP TABLE contradictions")
        if version < 5:
            for later in ("suspects DROP COLUMN beside", "suspects DROP COLUMN nodes"):
                db.execute(f"ALTER TABLE {later}")
            db.execute("ALTER TABLE bundles DROP COLUMN not_after")
            db.execute("DROP TABLE standings")
        tags = CENTRE if version < 4 else json.dumps({"cost_centre": CENTRE})
        db.execute("UPDATE transcripts SET tags = ?", (tags,))
        if version < 4:
            db.execute("ALTER TABLE transcripts RENAME COLUMN tags TO cost_centre")
        if version < 3:
            db.execute("DROP TABLE free_numbers")
            db.execute("DROP INDEX transcripts_not_accepted")
        if version == 1:
            db.execute("DROP TABLE suspects")
            db.execute("DROP TABLE revocations")
            db.execute("ALTER TABLE transcripts DROP COLUMN final_signature")
        db.execute(f"PRAGMA user_version = {version}")
    db.close()
    assert own_keys_in(path) == ()
    opened = Archive(path)
    try:
        assert own_keys_in(path) == ()
        assert [item.number for item in opened.latest(5)] == [0]
        assert [item.tags for item in opened.latest(5)] == [{"cost_centre": CENTRE}]
        assert opened.contradictions(1) == []
        assert opened.suspects() == []
        assert opened.revoked_at() == {}
        assert opened.standings() == {}
        assert len(opened.live_bundles(0, 5)) == (
            version >= 5
        )  # an older one did not know when they end
        await opened.give_back(0)
        again = await opened.order(NEW, signed)
        assert opened.get(again.id).tags is None
        await opened.close_attempt(again.id, State.BROKEN, replace(NOTHING, final_signature=b"s"))
        assert opened.get(again.id).final_signature == b"s"
        assert opened.closing(before_ms=now_ms(), limit=9) == []
        await opened.want_audit(again.id)
        assert [item.number for item in opened.audits(9)] == [0]
        assert [item.canary for item in opened.sent(9)] == [False, False]
        ordered = await opened.order(
            replace(NEW, parts=(NewPart("farm/s1", BUNDLE),)), signed, sign_part=signed_part
        )
        assert [part.order_statement for part in opened.get(ordered.id).parts] == [b"part 1"]
    finally:
        opened.close()
