"""What one peer, and all peers together, may ask of a server: settings, and the gate that enforces them.
A peer is an IP address (for IPv6 its /64: anybody who has one address there has them all), so everybody behind one
translated address is one peer, and so are all processes on one machine that call another process there. The defaults
do not affect honest load; they keep a single caller from monopolising a server.
"""

import contextlib
import ipaddress
import time
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from typing import Annotated, Final

from pydantic import Field

from shared.runtime.config import Settings
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.rates import Places, RateLimit

RETRY_AFTER_S: Final = 1.0
HANDSHAKE_S: Final = 20
"""Seconds for a TLS handshake, on any server."""
_Count = Annotated[int, Field(ge=1, le=2**20)]
_Rate = Annotated[float, Field(ge=0.001, le=2**20)]
_Seconds = Annotated[int, Field(ge=1, le=86_400)]


class Traffic(Settings):
    """Limits on connections and calls. A refused call gets OVERLOADED, which says when to try again."""

    connections: _Count = 4096
    """Connections open at once, from all peers."""
    connections_per_peer: _Count = 1024
    """HTTP connections from one address."""
    calls_in_flight: _Count = 2048
    calls_in_flight_per_peer: _Count = 1024
    calls_per_s: _Rate = 5000
    """Calls per second from one address, for each gRPC method, and for HTTP as a whole; bursts of four times as many."""
    method_calls_per_s: Mapping[str, _Rate] = Field(default_factory=dict)
    """Different rates for individual gRPC methods, by name (`Submit`)."""
    party_calls_per_s: _Rate = 5000
    """Calls per second of one party, by its certificate, for each method or route; bursts of four times as many."""
    tenant_calls_per_s: _Rate = 1000
    """Calls per second in the name of one tenant, as its signature or token shows, for each method or route; bursts likewise."""
    streams_per_connection: _Count = 512
    """Concurrent gRPC calls on one connection; a client holds back further ones."""
    watches_per_peer: _Count = 32
    """Open-ended streams from one address: health's Watch, and reflection."""
    watch_s: _Seconds = 900
    """How long such a stream lasts; a client that watches reopens it."""
    body_mib: _Count = 256
    """Memory for HTTP request bodies being read, from all peers; one peer may use a quarter of it."""
    head_s: _Seconds = 20
    """Seconds within which an HTTP request's head must arrive."""
    body_s: _Seconds = 60
    """Seconds within which an HTTP request's body must arrive, and for which a client may stop reading a response."""


class Gate:
    """Enforces one server's limits. Belongs to one event loop."""

    def __init__(self, traffic: Traffic, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.traffic = traffic
        self._rate = _rate(traffic.calls_per_s, clock)
        self._own_rates = {
            name: _rate(per_s, clock) for name, per_s in traffic.method_calls_per_s.items()
        }
        self._party_rate = _rate(traffic.party_calls_per_s, clock)
        self._tenant_rate = _rate(traffic.tenant_calls_per_s, clock)
        self._calls = Places(traffic.calls_in_flight, traffic.calls_in_flight_per_peer)
        self._watches = Places(traffic.connections, traffic.watches_per_peer)
        body = traffic.body_mib * 2**20
        self._bodies = Places(body, body // 4)
        self.connections = Places(traffic.connections, traffic.connections_per_peer)

    @contextlib.contextmanager
    def call(self, peer: str, method: str) -> Iterator[None]:
        """Admit one call while it is in flight, or raise OVERLOADED."""
        own = self._own_rates.get(method.rpartition("/")[2], self._rate)
        self._pace(own, (peer, method), f"{peer} calls {method} too often")
        with self._place(
            self._calls, peer, 1, f"too many calls are in flight from {peer}, or in total"
        ):
            yield

    @contextlib.contextmanager
    def watch(self, peer: str, method: str) -> Iterator[None]:
        """Admit one open-ended stream, or raise OVERLOADED."""
        self._pace(self._rate, (peer, method), f"{peer} calls {method} too often")
        most = self.traffic.watches_per_peer
        with self._place(self._watches, peer, 1, f"{peer} has {most} streams without a deadline"):
            yield

    @contextlib.contextmanager
    def body(self, peer: str, size: int) -> Iterator[None]:
        """Admit the body of one request, or raise OVERLOADED."""
        with self._place(self._bodies, peer, size, "too many long requests are being read"):
            yield

    def party(self, party: str, method: str) -> None:
        """Count a call against the party whose certificate it shows, wherever it comes from, or raise OVERLOADED."""
        self._pace(self._party_rate, (party, method), f"{party} calls {method} too often")

    def tenant(self, tenant: str, method: str) -> None:
        """Count a call against the tenant whose signature or token it bears, wherever it comes from, or raise OVERLOADED."""
        self._pace(self._tenant_rate, (tenant, method), f"tenant {tenant} calls {method} too often")

    def credential(self, header: bytes) -> None:
        """Count a call against the token that it presents, wherever it comes from, or raise OVERLOADED."""
        name = sha256(header).digest()[:16]
        self._pace(self._rate, name, "there are too many calls with this token")

    @staticmethod
    def _pace(rate: RateLimit, key: object, problem: str) -> None:
        if wait := rate.take(key):
            raise CounterfoilError(
                Code.OVERLOADED, problem, remedy="Call less often.", retry_after_s=wait
            )

    @staticmethod
    @contextlib.contextmanager
    def _place(places: Places, key: str, count: int, problem: str) -> Iterator[None]:
        if not places.take(key, count):
            raise CounterfoilError(Code.OVERLOADED, problem, retry_after_s=RETRY_AFTER_S)
        try:
            yield
        finally:
            places.give(key, count)


def _rate(per_s: float, clock: Callable[[], float]) -> RateLimit:
    return RateLimit(per_s, max(1.0, 4 * per_s), clock=clock)


def peer_of(host: str) -> str:
    """Return the name under which an address is counted: an IPv4 address, an IPv6 /64, or the text itself."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host[:64]
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))


def peer_of_grpc(peer: str) -> str:
    """Return the same for a peer as gRPC names it: `ipv4:1.2.3.4:5`, `ipv6:%5B::1%5D:5`, `unix:…`."""
    family, _, address = peer.partition(":")
    if family not in {"ipv4", "ipv6"}:
        return family[:64]
    host = address.rpartition(":")[0]
    return peer_of(host.replace("%5B", "").replace("%5D", "").strip("[]"))
