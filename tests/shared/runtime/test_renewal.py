"""Certificates that expire, or are replaced, while servers and clients run; refusals that name their cause at both ends."""

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from cryptography import x509
from fastapi import FastAPI

from audit_layer.commands.audit import audit
from shared.runtime.certificates import WARN_BEFORE, Followed, Life, Teller, how_it_failed
from shared.runtime.cli import EXIT_CODES, run
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.grpc import (
    Replaced,
    RpcServer,
    build_server,
    error_from_rpc,
    secure_aio_channel,
    secure_channel,
)
from shared.runtime.http import serve_https
from shared.runtime.keys import create_private
from shared.runtime.tls import LIFE, LocalCA, TlsFiles, client_context

NOW = datetime.now(UTC)
HEALTH = "/grpc.health.v1.Health/Check"
AGES = {
    "good": timedelta(0),
    "expired": LIFE + timedelta(days=3),
    "early": -timedelta(days=5),
}


@pytest.fixture
def authority(tmp_path: Path) -> LocalCA:
    return LocalCA.load_or_create(tmp_path / "ca", now=NOW - timedelta(days=200))


def issued(authority: LocalCA, kind: str = "good") -> TlsFiles:
    """Issue the certificate of a test's one server, again if it was of another kind."""
    if kind == "others":
        return authority.issue("server", ["other.example", "192.0.2.1"])
    return authority.issue("server", now=NOW - AGES[kind])


def serial(files: TlsFiles) -> int:
    return x509.load_pem_x509_certificate(files.cert.read_bytes()).serial_number


def replace(path: Path, data: bytes) -> None:
    """Replace a file as an operator's tool does: under another inode, whatever the clock's resolution is."""
    fresh = path.with_name("fresh")
    fresh.write_bytes(data)
    fresh.chmod(0o600)
    fresh.replace(path)


async def shown_serial(address: str, ca_file: Path) -> int:
    """Return the serial number of the certificate that a server shows to a new connection."""
    host, port = address.rsplit(":", 1)
    context = client_context(ca_file)
    context.set_alpn_protocols(["h2", "http/1.1"])
    _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    certificate = writer.get_extra_info("ssl_object").getpeercert()
    writer.close()
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        await writer.wait_closed()
    return int(certificate["serialNumber"], 16)


@contextlib.asynccontextmanager
async def rpc_server(files: TlsFiles) -> AsyncIterator[RpcServer]:
    built = build_server(tls=files, address="127.0.0.1:0", services=[])
    await built.start()
    try:
        yield built
    finally:
        await built.stop(0)


@contextlib.asynccontextmanager
async def https_server(files: TlsFiles) -> AsyncIterator[object]:
    server = await serve_https(FastAPI(), files, "127.0.0.1:0", grace_s=1.0)
    try:
        yield server
    finally:
        await server.stop()


SERVERS = {"grpc": rpc_server, "https": https_server}


# -- servers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SERVERS)
async def test_a_running_server_shows_the_certificate_that_replaced_its_own(authority, kind):
    files = issued(authority, "expired")
    async with SERVERS[kind](files) as server:
        issued(authority)  # the expired one is replaced, as `up` or an operator does
        assert await shown_serial(server.address, files.ca) == serial(files)
        authority.issue("server", ["127.0.0.1"])
        assert await shown_serial(server.address, files.ca) == serial(files)


def test_the_core_is_given_a_pair_once_since_it_frees_what_it_is_given():
    one, two, roots = (b"k1", b"c1", None), (b"k2", b"c2", None), (b"k2", b"c2", b"ca")
    pairs = iter([one] * 3 + [two] * 3 + [roots] * 2)
    replaced = Replaced(lambda: next(pairs))
    assert replaced.first == one
    given = [replaced() for _ in range(7)]
    assert [item is None for item in given] == [True, True, False, True, True, False, True]
    assert given[2] is not given[5]


@pytest.mark.parametrize("kind", SERVERS)
async def test_half_a_pair_is_not_served_and_logged_only_if_it_persists(authority, kind, caplog):
    files = issued(authority)
    before = serial(files)
    other = authority.issue("other")
    async with SERVERS[kind](files) as server:
        replace(files.key, other.key.read_bytes())
        assert await shown_serial(server.address, files.ca) == before
        assert "cannot be used" not in caplog.text
        for _ in range(3):
            assert await shown_serial(server.address, files.ca) == before
        assert caplog.text.count("the replaced files cannot be used") == 1
        replace(files.cert, other.cert.read_bytes())
        assert await shown_serial(server.address, files.ca) == serial(other)


@pytest.mark.parametrize("kind", SERVERS)
async def test_a_server_says_in_its_log_that_clients_refuse_its_certificate(
    authority, kind, caplog
):
    files = issued(authority, "expired")
    async with SERVERS[kind](files):
        pass
    (line,) = [r.getMessage() for r in caplog.records if "served certificate" in r.getMessage()]
    end = Life.of(x509.load_pem_x509_certificate(files.cert.read_bytes())).end
    assert f"{files.cert} expired on {end:%Y-%m-%d}" in line
    assert "clients refuse it" in line


def test_a_certificate_near_its_end_is_logged_once_a_day(tmp_path, caplog):
    files = LocalCA.load_or_create(tmp_path).issue("server")
    teller = Teller(files.cert)
    teller.renewed()
    end = Life.of(x509.load_pem_x509_certificate(files.cert.read_bytes())).end
    with caplog.at_level(logging.WARNING):
        teller.look(end - WARN_BEFORE - timedelta(minutes=1))
        assert caplog.records == []
        for hours in (0, 1, 23, 25):
            teller.look(end - timedelta(days=10) + timedelta(hours=hours))
        assert caplog.text.count(f"expires on {end:%Y-%m-%d}") == 2
        caplog.clear()
        files = LocalCA.load_or_create(tmp_path).issue("server", ["localhost"])
        teller.renewed()
        teller.look(NOW)
        assert caplog.records == []


def test_a_short_life_is_logged_in_its_last_quarter():
    life = Life(NOW, NOW + timedelta(days=4))
    assert life.warning(NOW + timedelta(days=2)) is None
    assert "expires on" in (life.warning(NOW + timedelta(days=3, hours=1)) or "")


def test_files_that_cannot_be_looked_at_leave_what_was_made(tmp_path: Path):
    path = tmp_path / "file"
    path.write_bytes(b"1")

    def make() -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            raise CounterfoilError(Code.CONFIGURATION, "gone") from error

    followed = Followed([path], make)
    path.unlink()
    assert (followed.current(), followed.current()) == (b"1", b"1")
    path.write_bytes(b"22")
    assert followed.current() == b"22"


# -- clients ------------------------------------------------------------------------------------------------


def cause(kind: str, address: str, files: TlsFiles, stranger: Path) -> str:
    """Return the beginning of the sentence that says why a certificate is refused."""
    life = Life.of(x509.load_pem_x509_certificate(files.cert.read_bytes()))
    return {
        "expired": f"the certificate of {address} expired on {life.end:%Y-%m-%d %H:%M} UTC; this machine's clock says",
        "early": f"the certificate of {address} is not valid before {life.begin:%Y-%m-%d %H:%M} UTC; this machine's",
        "others": f"the certificate of {address} is for other names: other.example, 192.0.2.1",
        "stranger": f"the certificate of {address} is signed by an authority that {stranger} does not hold",
    }[kind]


CAUSES = ("expired", "early", "others", "stranger")


@pytest.fixture
def refused(authority, tmp_path, request) -> tuple[str, TlsFiles, Path]:
    """Return what is wrong, the server's files, and the authority that the client trusts."""
    kind = request.param
    stranger = LocalCA.load_or_create(tmp_path / "stranger").ca_file
    files = issued(authority, "good" if kind == "stranger" else kind)
    return kind, files, stranger if kind == "stranger" else files.ca


@pytest.mark.parametrize("refused", CAUSES, indirect=True)
async def test_a_client_of_grpc_says_why_it_refuses_a_server(refused):
    kind, files, ca_file = refused
    async with rpc_server(files) as server:
        expected = cause(kind, server.address, files, ca_file)

        def blocking() -> grpc.RpcError:
            with secure_channel(server.address, ca_file) as channel:
                method: Any = channel.unary_unary(HEALTH)
                with pytest.raises(grpc.RpcError) as told:
                    method(b"", timeout=20)
            return told.value

        async with secure_aio_channel(server.address, ca_file) as channel:
            with pytest.raises(grpc.RpcError) as unary:
                await channel.unary_unary(HEALTH)(b"", timeout=20)
            with pytest.raises(grpc.RpcError) as stream:
                async for _ in channel.unary_stream(HEALTH)(b"", timeout=20):
                    pass
        for raised in (unary.value, stream.value, await asyncio.to_thread(blocking)):
            error = error_from_rpc(raised)
            assert error.code is Code.UNAVAILABLE
            assert error.detail.startswith(expected)


@pytest.mark.parametrize("refused", CAUSES, indirect=True)
async def test_a_client_of_https_says_why_it_refuses_a_server(refused):
    kind, files, ca_file = refused
    async with https_server(files) as server:
        options = {"verify": client_context(ca_file), "trust_env": False, "timeout": 20}
        url = f"https://{server.address}"

        def blocking() -> None:
            with httpx.Client(**options) as client:
                client.get(url)

        with pytest.raises(httpx.ConnectError) as told:
            await asyncio.to_thread(blocking)
        assert how_it_failed(told.value).startswith(cause(kind, server.address, files, ca_file))
        async with httpx.AsyncClient(**options) as client:
            with pytest.raises(httpx.ConnectError) as told:
                await client.get(url)
        assert how_it_failed(told.value).startswith(cause(kind, server.host, files, ca_file))


def test_other_failures_have_the_name_of_their_error_and_nothing_of_what_was_sent():
    error = httpx.ConnectError("token abc")
    error.__cause__ = OSError("token abc")
    assert how_it_failed(error) == "ConnectError"


@pytest.mark.parametrize("refused", ["expired"], indirect=True)
async def test_a_command_that_asks_a_server_says_why_it_refuses_it(refused, tmp_path, capsys):
    kind, files, ca_file = refused
    token = tmp_path / "token"
    create_private(token, b"secret")
    async with https_server(files) as server:
        arguments = (
            *("receipts", "--url", f"https://{server.address}"),
            *("--token-file", str(token), "--ca", str(ca_file)),
        )
        code = await asyncio.to_thread(run, audit, arguments)
    assert code == EXIT_CODES[Code.UNAVAILABLE]
    assert cause(kind, server.address, files, ca_file) in capsys.readouterr().err


async def test_a_server_that_is_away_is_not_said_to_show_a_wrong_certificate(authority):
    files = issued(authority)
    async with rpc_server(files) as server:
        address = server.address
    async with secure_aio_channel(address, files.ca) as channel:
        with pytest.raises(grpc.RpcError) as told:
            await channel.unary_unary(HEALTH)(b"", timeout=20)
    assert "certificate" not in error_from_rpc(told.value).detail


async def test_clients_that_live_on_trust_the_authority_that_replaced_theirs(tmp_path, authority):
    ca_file = tmp_path / "trusted.pem"
    ca_file.write_bytes(LocalCA.load_or_create(tmp_path / "old").ca_file.read_bytes())
    files = issued(authority)
    async with rpc_server(files) as rpc, https_server(files) as https:
        url = f"https://{https.address}"
        async with (
            secure_aio_channel(rpc.address, ca_file) as channel,
            httpx.AsyncClient(verify=client_context(ca_file), trust_env=False) as client,
        ):
            check: Any = channel.unary_unary(HEALTH)
            with pytest.raises(grpc.RpcError):
                await check(b"", timeout=20)
            with pytest.raises(httpx.ConnectError):
                await client.get(url)
            replace(ca_file, files.ca.read_bytes())
            assert await check(b"", timeout=20)
            assert (await client.get(url)).status_code == 404

        def blocking() -> None:
            with secure_channel(rpc.address, ca_file) as channel:
                method: Any = channel.unary_unary(HEALTH)
                assert method(b"", timeout=20)

        await asyncio.to_thread(blocking)


async def test_what_is_no_longer_an_authority_leaves_the_one_before(tmp_path, authority):
    files = issued(authority)
    ca_file = tmp_path / "trusted.pem"
    ca_file.write_bytes(files.ca.read_bytes())
    context = client_context(ca_file)
    async with https_server(files) as server:
        replace(ca_file, b"nothing of the kind")
        async with httpx.AsyncClient(verify=context, trust_env=False) as client:
            assert (await client.get(f"https://{server.address}")).status_code == 404
        ca_file.unlink()
        async with httpx.AsyncClient(verify=context, trust_env=False) as client:
            assert (await client.get(f"https://{server.address}")).status_code == 404
