"""Timestamping alongside publication: what is stamped when, what is kept, and what a hostile authority achieves."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography.x509 import Certificate
from sqlalchemy import Engine, text
from sqlalchemy.exc import ProgrammingError

from audit_layer.log import timestamps
from audit_layer.log.timestamp_table import at_size, check_timestamps, page
from audit_layer.log.timestamps import HttpAuthority, Timestamper
from shared.runtime.errors import Code, CounterfoilError
from shared.translog.checkpoint import Checkpoint
from shared.translog.timestamp import MAX_REPLY_BYTES, QUERY_TYPE, query_for, verify_timestamp
from tests.audit_layer.log.world import ORIGIN, World, make_world
from tests.shared.translog.authority import OpensslAuthority, make_authority

SWAPPED = (
    "UPDATE log_timestamps SET reply = other.reply FROM log_timestamps other"
    " WHERE other.size = 9 AND log_timestamps.size = 5"
)


class AuthorityServer:
    """`openssl ts` behind HTTP. `answer`, when set, is a DOUBLE of an authority that answers differently."""

    def __init__(self, authority: OpensslAuthority) -> None:
        self.authority = authority
        self.asked = 0
        self.answer: Callable[[bytes], bytes] | None = None
        self.status = 200
        self.content_type = "application/timestamp-reply"
        self.drip_s = 0.0
        self.url = ""

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.asked += 1
                assert self.headers["content-type"] == QUERY_TYPE
                query = self.rfile.read(int(self.headers["content-length"]))
                reply = (outer.answer or outer.authority.reply)(query)
                self.send_response(outer.status)
                self.send_header("content-type", outer.content_type)
                self.end_headers()
                with contextlib.suppress(OSError):
                    for at in range(0, len(reply), 1 if outer.drip_s else 1 << 16):
                        self.wfile.write(reply[at : at + (1 if outer.drip_s else 1 << 16)])
                        if outer.drip_s:
                            time.sleep(outer.drip_s)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

        with Server(("127.0.0.1", 0), Handler) as server:
            self.url = f"http://127.0.0.1:{server.server_address[1]}/tsr"
            thread = threading.Thread(target=server.serve_forever, daemon=True)
            thread.start()
            try:
                yield
            finally:
                server.shutdown()
                thread.join()


@pytest.fixture
def world(engine: Engine, tmp_path: Path) -> Iterator[World]:
    made = make_world(engine, tmp_path, names=["w1.example"], threshold=1)
    yield made
    made.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[AuthorityServer]:
    made = AuthorityServer(make_authority(tmp_path / "tsa"))
    with made.serving():
        yield made


@contextlib.asynccontextmanager
async def timestamper(
    world: World, server: AuthorityServer, *, interval_s: float = 0.0, timeout_s: float = 10.0
):
    authority = HttpAuthority(server.url, timeout_s=timeout_s)
    try:
        yield Timestamper(
            world.engine,
            authority,
            origin=ORIGIN,
            anchors=[server.authority.anchor],
            interval_s=interval_s,
        )
    finally:
        await authority.aclose()


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - what is waited for happens in another thread
        await asyncio.sleep(0.01)


def kept(world: World) -> list[int]:
    with world.engine.connect() as connection:
        return [stamp.size for stamp in page(connection, None, 100)]


def problems(engine: Engine, *anchors: Certificate) -> list[str]:
    with engine.connect() as connection:
        return list(check_timestamps(connection, ORIGIN, anchors))


async def test_a_published_checkpoint_is_stamped_once_and_its_reply_kept(
    world: World, server: AuthorityServer
):
    async with timestamper(world, server) as stamping:
        assert await stamping.tick() is None
        world.append(0, 5)
        assert await stamping.tick() is None, "sequenced is not published"
        await world.publisher().publish()
        assert await stamping.tick() == 5
        assert await stamping.tick() is None
        world.append(5, 9)
        await world.publisher().publish()
        assert await stamping.tick() == 9
    assert server.asked == 2
    assert kept(world) == [9, 5]
    with world.engine.connect() as connection:
        stamp = at_size(connection, 5)
    assert stamp is not None
    assert stamp.root is not None
    checkpoint = Checkpoint(ORIGIN, 5, stamp.root)
    assert verify_timestamp(stamp.reply, checkpoint, [server.authority.anchor]) == stamp.time
    assert server.authority.verify(stamp.reply, checkpoint.body)
    assert problems(world.engine, server.authority.anchor) == []


async def test_at_most_one_checkpoint_is_stamped_in_an_interval(
    world: World, server: AuthorityServer, monkeypatch: pytest.MonkeyPatch
):
    publisher = world.publisher()
    async with timestamper(world, server, interval_s=3600) as stamping:
        world.append(0, 5)
        await publisher.publish()
        assert await stamping.tick() == 5
        world.append(5, 9)
        await publisher.publish()
        assert await stamping.tick() is None
        later = SimpleNamespace(time_ns=lambda: time.time_ns() + 3601 * 10**9)
        monkeypatch.setattr("audit_layer.log.timestamp_table.time", later)
        assert await stamping.tick() == 9
    assert server.asked == 2


async def test_what_a_hostile_authority_says_is_not_kept(
    world: World, server: AuthorityServer, tmp_path: Path
):
    world.append(0, 5)
    await world.publisher().publish()
    stranger = make_authority(tmp_path / "stranger")
    other = Checkpoint(ORIGIN, 5, b"\x09" * 32)
    with world.engine.connect() as connection:
        root = connection.execute(text("SELECT root FROM log_checkpoints")).scalar_one()
    same = Checkpoint(ORIGIN, 5, bytes(root))
    real = server.authority.reply
    answers: list[tuple[Callable[[bytes], bytes], Code]] = [
        (lambda _: real(query_for(other).der), Code.BAD_PROOF),
        (lambda _: real(query_for(same).der), Code.BAD_PROOF),  # an old answer, another nonce
        (stranger.reply, Code.BAD_SIGNATURE),
        (lambda _: b"garbage", Code.MALFORMED),
        (lambda _: b"", Code.MALFORMED),
        (lambda query: real(query) + bytes(MAX_REPLY_BYTES), Code.MALFORMED),
        (lambda _: bytes(1 << 24), Code.MALFORMED),
    ]
    async with timestamper(world, server) as stamping:
        for number, (answer, code) in enumerate(answers):
            server.answer = answer
            with pytest.raises(CounterfoilError) as caught:
                await stamping.tick()
            assert caught.value.code is code, (number, caught.value)
        server.answer = None
        for status, content_type, code in (
            (500, "application/timestamp-reply", Code.UNAVAILABLE),
            (302, "application/timestamp-reply", Code.UNAVAILABLE),
            (200, "text/html", Code.MALFORMED),
        ):
            server.status, server.content_type = status, content_type
            with pytest.raises(CounterfoilError) as caught:
                await stamping.tick()
            assert caught.value.code is code
        assert kept(world) == []
        server.status, server.content_type = 200, "Application/Timestamp-Reply; x=y"
        assert await stamping.tick() == 5


async def test_an_authority_that_answers_drop_by_drop_is_given_up(
    world: World, server: AuthorityServer
):
    world.append(0, 5)
    await world.publisher().publish()
    server.drip_s = 0.02
    async with timestamper(world, server, timeout_s=0.5) as stamping, asyncio.timeout(10):
        with pytest.raises(CounterfoilError) as caught:
            await stamping.tick()
    assert caught.value.code is Code.UNAVAILABLE
    assert kept(world) == []


async def test_an_authority_whose_clock_is_far_from_ours_is_not_believed(
    world: World, server: AuthorityServer, monkeypatch: pytest.MonkeyPatch
):
    world.append(0, 5)
    await world.publisher().publish()
    async with timestamper(world, server) as stamping:
        for apart_s in (-600, 600):
            ours = SimpleNamespace(time_ns=lambda by=apart_s: time.time_ns() + by * 10**9)
            monkeypatch.setattr(timestamps, "time", ours)
            with pytest.raises(CounterfoilError, match="clock") as caught:
                await stamping.tick()
            assert caught.value.code is Code.CONFLICT
    assert kept(world) == []


async def test_the_loop_outlives_an_authority_that_is_down_and_ends_when_it_is_cancelled(
    world: World, server: AuthorityServer, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(timestamps, "PAUSE_S", 0.01)
    world.append(0, 5)
    await world.publisher().publish()
    server.status = 500
    async with timestamper(world, server) as stamping, asyncio.timeout(30):
        task = asyncio.create_task(stamping.run())
        await until(lambda: server.asked >= 3)
        server.status = 200
        await until(lambda: bool(kept(world)))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert kept(world) == [5]


async def test_fsck_names_every_stored_timestamp_that_is_not_what_it_says(
    world: World, owner: Engine, server: AuthorityServer, tmp_path: Path
):
    publisher = world.publisher()
    async with timestamper(world, server) as stamping:
        for end in (5, 9):
            world.append(end - 4 if end == 9 else 0, end)
            await publisher.publish()
            assert await stamping.tick() == end
    anchor = server.authority.anchor
    assert problems(owner, anchor) == []
    assert ["nothing is configured" in line for line in problems(owner)] == [True]
    stranger = make_authority(tmp_path / "stranger").anchor
    assert len(problems(owner, stranger)) == 2
    for change, said in (
        ("UPDATE log_timestamps SET time = time + 1 WHERE size = 5", "].time: its reply states"),
        ("UPDATE log_timestamps SET reply = 'x' WHERE size = 5", "cannot be read"),
        ("UPDATE log_timestamps SET size = 6 WHERE size = 5", "].size: no published checkpoint"),
        (SWAPPED, "not about this checkpoint"),
        ("UPDATE log_checkpoints SET published_at = NULL WHERE size = 5", "].size: no published"),
    ):
        with owner.connect() as connection:
            transaction = connection.begin()
            connection.execute(text(change))
            found = list(check_timestamps(connection, ORIGIN, [anchor]))
            transaction.rollback()
        assert len(found) == 1, (change, found)
        assert said in found[0]


def test_the_servers_role_can_neither_change_nor_remove_a_timestamp(engine: Engine):
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO log_timestamps VALUES (1, 1, 'x')"))
    for statement in (
        "UPDATE log_timestamps SET time = 2",
        "DELETE FROM log_timestamps",
        "TRUNCATE log_timestamps",
    ):
        with pytest.raises(ProgrammingError, match="permission denied"), engine.begin() as c:
            c.execute(text(statement))
