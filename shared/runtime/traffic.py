"""What one peer, and all of them together, may ask of a server: settings, and the gate that keeps them.

A peer is an IP address (of IPv6 its /64: whoever has one address there has them all), so everybody behind one
translated address is one peer, and so is everything on one machine that calls another process there. The defaults
leave honest load alone; they are there so that no single caller can take a server from all others.
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
"""For TLS, on any server."""
_Count = Annotated[int, Field(ge=1, le=2**20)]
_Rate = Annotated[float, Field(ge=0.001, le=2**20)]
_Seconds = Annotated[int, Field(ge=1, le=86_400)]


class Traffic(Settings):
    """Limits on connections and calls. A refused call is OVERLOADED and says when to try again."""

    connections: _Count = 4096
    """Open at once, of all peers."""
    connections_per_peer: _Count = 1024
    """Of these, HTTP connections of one address."""
    calls_in_flight: _Count = 2048
    calls_in_flight_per_peer: _Count = 1024
    calls_per_s: _Rate = 5000
    """Of one address, for each gRPC method and for HTTP together; four times as many at once."""
    method_calls_per_s: Mapping[str, _Rate] = Field(default_factory=dict)
    """Other numbers for single gRPC methods, by their name (`Submit`)."""
    streams_per_connection: _Count = 512
    """gRPC calls at once on one connection; a client lets further ones wait."""
    watches_per_peer: _Count = 32
    """Open-ended streams of one address: health's Watch, and reflection."""
    watch_s: _Seconds = 900
    """How long such a stream lasts; a client that watches opens it again."""
    body_mib: _Count = 256
    """Memory for the bodies of HTTP requests that are being read, of all peers; a quarter of it for one."""
    head_s: _Seconds = 20
    """Seconds for the head of an HTTP request."""
    body_s: _Seconds = 60
    """Seconds for the body of an HTTP request, and for a reader that has stopped reading an answer."""


class Gate:
    """Keeps the limits of one server. Belongs to one event loop."""

    def __init__(self, traffic: Traffic, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.traffic = traffic
        self._rate = _rate(traffic.calls_per_s, clock)
        self._own_rates = {
            name: _rate(per_s, clock) for name, per_s in traffic.method_calls_per_s.items()
        }
        self._calls = Places(traffic.calls_in_flight, traffic.calls_in_flight_per_peer)
        self._watches = Places(traffic.connections, traffic.watches_per_peer)
        body = traffic.body_mib * 2**20
        self._bodies = Places(body, body // 4)
        self.connections = Places(traffic.connections, traffic.connections_per_peer)

    @contextlib.contextmanager
    def call(self, peer: str, method: str) -> Iterator[None]:
        """Let one call pass and be in flight, or raise OVERLOADED."""
        own = self._own_rates.get(method.rpartition("/")[2], self._rate)
        self._pace(own, (peer, method), f"{peer} calls {method} too often")
        with self._place(
            self._calls, peer, 1, f"too many calls of {peer}, or of all, are in flight"
        ):
            yield

    @contextlib.contextmanager
    def watch(self, peer: str, method: str) -> Iterator[None]:
        """Let one open-ended stream begin, or raise OVERLOADED."""
        self._pace(self._rate, (peer, method), f"{peer} calls {method} too often")
        most = self.traffic.watches_per_peer
        with self._place(self._watches, peer, 1, f"{peer} has {most} streams without a deadline"):
            yield

    @contextlib.contextmanager
    def body(self, peer: str, size: int) -> Iterator[None]:
        """Let the body of one request be read, or raise OVERLOADED."""
        with self._place(self._bodies, peer, size, "too many long requests are being read"):
            yield

    def credential(self, header: bytes) -> None:
        """Count a call against the token that it shows, wherever it comes from, or raise OVERLOADED."""
        name = sha256(header).digest()[:16]
        self._pace(self._rate, name, "calls with this token are too many")

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
    """Return the name under which an address is counted: an IPv4 address, an IPv6 /64, or the text as it is."""
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
    """Return the same for what gRPC calls a peer: `ipv4:1.2.3.4:5`, `ipv6:%5B::1%5D:5`, `unix:…`."""
    family, _, address = peer.partition(":")
    if family not in {"ipv4", "ipv6"}:
        return family[:64]
    host = address.rpartition(":")[0]
    return peer_of(host.replace("%5B", "").replace("%5D", "").strip("[]"))
