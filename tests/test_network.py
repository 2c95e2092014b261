"""Tests stay on this machine."""

import socket

import pytest

from tests.network import OutsideNetworkError, is_local


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.9.10", True),
        ("::1", True),
        ("localhost", True),
        (b"localhost", True),
        (None, True),
        ("10.0.0.1", False),
        ("192.0.2.1", False),
        ("2001:db8::1", False),
        ("0.0.0.0", False),  # noqa: S104  # an address that is refused
        ("example.org", False),
        ("localhost.example.org", False),
    ],
)
def test_only_loopback_is_local(host, expected):
    assert is_local(host) is expected


def test_connecting_binding_sending_and_asking_for_names_outside_are_refused():
    with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        for attempt in (
            lambda: tcp.connect(("192.0.2.1", 80)),
            lambda: tcp.connect_ex(("192.0.2.1", 80)),
            lambda: tcp.bind(("0.0.0.0", 0)),  # noqa: S104  # likewise
            lambda: udp.sendto(b"x", ("192.0.2.1", 53)),
            lambda: socket.getaddrinfo("example.org", 443),
        ):
            with pytest.raises(OutsideNetworkError):
                attempt()


def test_loopback_works():
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()
