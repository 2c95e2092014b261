"""`GET /metrics` over real sockets, and what its peers can do to it: wait, flood, send junk, read slowly."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator

import pytest

from shared.runtime.config import checked
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.metrics import Exposition, Kind, Metric
from shared.runtime.metrics_server import (
    MOST_HEAD,
    MOST_SCRAPES,
    MetricsServer,
    MetricsSettings,
    metrics,
)
from shared.runtime.net import split_address
from shared.runtime.party import Party, PartyRole
from shared.runtime.tls import LocalCA, client_context

DEPTH = Metric("counterfoil_test_depth", Kind.GAUGE, "How deep.")
GET = b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n"


def exposition() -> Exposition:
    return Exposition("test", "name", {"one": lambda: [DEPTH(7)]})


@contextlib.contextmanager
def serving(
    settings: MetricsSettings | None = None, scrape_s: float = 60.0
) -> Iterator[MetricsServer]:
    server = MetricsServer(settings or MetricsSettings(), exposition(), scrape_s=scrape_s)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def connected(server: MetricsServer) -> socket.socket:
    return socket.create_connection(split_address(server.address), 60)


def rest(connection: socket.socket) -> bytes:
    """Return what comes until the other side closes; nothing where it had closed before it was sent to."""
    answer = b""
    with contextlib.suppress(ConnectionError):
        while more := connection.recv(65536):
            answer += more
    return answer


def asked(server: MetricsServer, request: bytes = GET) -> bytes:
    with connected(server) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(request)
        return rest(connection)


def answered(server: MetricsServer) -> bytes:
    """Ask until there is a place."""
    while not (answer := asked(server)):
        pass
    return answer


def test_a_scrape_is_answered_and_says_how_long_it_is():
    with serving() as server:
        head, _, body = asked(server).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert f"content-length: {len(body)}".encode() in head
    assert b"counterfoil_test_depth 7.0\n" in body


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /metrics/../etc/passwd HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /metrics HTTP/1.1\r\ncontent-length: 0\r\n\r\n", b"405"),
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"404"),
        (b"\r\n\r\n", b"404"),
        (b"GET /metrics?name[]=up HTTP/1.0\r\n\r\n", b"200"),
    ],
)
def test_what_is_no_scrape_is_refused(request_, status):
    with serving() as server:
        assert asked(server, request_).split(b" ")[1] == status


def test_a_head_without_end_is_refused_once_it_is_long():
    with serving() as server:
        answer = asked(server, b"GET /metrics HTTP/1.1\r\nx: " + b"y" * MOST_HEAD)
        assert answer.startswith(b"HTTP/1.1 400") or not answer  # or the rest of it was never read
        assert b"counterfoil_test_depth" in answered(server)


def test_more_connections_than_places_are_closed_unanswered_and_places_come_back():
    with serving() as server:
        silent = [connected(server) for _ in range(MOST_SCRAPES)]
        with connected(server) as late:
            assert rest(late) == b""
        for connection in silent:
            connection.sendall(GET)
            assert b"counterfoil_test_depth" in rest(connection)
            connection.close()
        assert b"counterfoil_test_depth" in answered(server)


def test_silent_peers_and_half_heads_give_their_places_back_by_themselves():
    with serving(scrape_s=0.2) as server:
        silent = [connected(server) for _ in range(MOST_SCRAPES)]
        silent[0].sendall(b"GET /metr")
        for connection in silent:
            assert rest(connection) == b""
            connection.close()
        for _ in range(MOST_SCRAPES):
            assert server._places.acquire(timeout=60)


def test_one_that_does_not_read_holds_up_nobody_else():
    with serving() as server:
        slow = connected(server)
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        slow.sendall(GET)
        assert b"counterfoil_test_depth" in asked(server)
        slow.close()


def test_scrapes_at_once_are_all_answered_or_closed():
    with serving() as server:
        answers: list[bytes] = []
        threads = [
            threading.Thread(target=lambda: answers.append(asked(server))) for _ in range(40)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(answers) == 40
        assert all(not one or one.endswith(b"\n") for one in answers)
        assert any(answers)
        assert b"counterfoil_test_depth" in answered(server)


def test_other_addresses_than_this_machines_own_need_certificates(tmp_path):
    tls = LocalCA.load_or_create(tmp_path).issue("metrics")
    for values in (
        {"address": "0.0.0.0:0"},
        {"address": "[::]:0"},
        {"address": "metrics.example:9000"},
        {"address": "0.0.0.0:0", "tls": tls.model_dump()},
        {"callers_ca": tls.ca},
        {"address": "here"},
    ):
        with pytest.raises(CounterfoilError) as caught:
            checked(MetricsSettings, values, "node.toml")
        assert caught.value.code is Code.CONFIGURATION
    given = {"address": "0.0.0.0:0", "tls": tls.model_dump(), "callers_ca": tls.ca}
    assert checked(MetricsSettings, given, "node.toml").callers_ca == tls.ca


def test_with_certificates_only_those_who_show_one_are_answered(tmp_path):
    authority = LocalCA.load_or_create(tmp_path)
    tls = authority.issue("metrics")
    shown = authority.issue_party(Party(PartyRole.WORKER, "w"), folder=tmp_path / "w")
    settings = MetricsSettings(tls=tls, callers_ca=tls.ca)

    def scraped(server: MetricsServer, context: ssl.SSLContext) -> bytes:
        with (
            connected(server) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as connection,
        ):
            connection.sendall(GET)
            return rest(connection)  # type: ignore[arg-type]

    with serving(settings) as server:
        context = client_context(tls.ca)
        assert scraped(server, context).startswith(b"HTTP/1.1 403")
        context.load_cert_chain(shown.cert, shown.key)
        assert b"counterfoil_test_depth" in scraped(server, context)
        assert asked(server) == b""  # plain HTTP


def test_it_is_off_unless_there_is_a_table():
    with metrics(None, exposition) as bound:
        assert bound == {}
    with metrics(MetricsSettings(), exposition) as bound:
        assert split_address(bound["metrics"])[1] > 0
    with pytest.raises(OSError):
        socket.create_connection(split_address(bound["metrics"]), 60)


def test_an_address_that_is_taken_is_said():
    with serving() as server, pytest.raises(CounterfoilError) as caught:
        MetricsServer(MetricsSettings(address=server.address), exposition())
    assert caught.value.code is Code.CONFIGURATION
