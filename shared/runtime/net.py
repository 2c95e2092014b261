"""Addresses as configuration writes them: `host:port`, `[ipv6]:port`."""

import ipaddress
import socket

from shared.runtime.errors import Code, CounterfoilError


def split_address(address: str) -> tuple[str, int]:
    """Split `host:port` into (host, port); brackets around an IPv6 address are removed."""
    host, colon, port = address.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if not colon or not bare or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise CounterfoilError(
            Code.CONFIGURATION,
            f"{address!r} is not an address",
            remedy="Write host:port, for example 127.0.0.1:7443; port 0 takes any free one.",
        )
    return bare, int(port)


def join_address(host: str, port: int) -> str:
    """Return `host:port`, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is this machine's own."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def bind(address: str) -> socket.socket:
    """Return a bound TCP socket that is not listening yet; CONFIGURATION if the address is taken."""
    host, port = split_address(address)
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(where)
        except OSError:
            bound.close()
            raise
    except OSError as error:
        raise CounterfoilError(
            Code.CONFIGURATION,
            f"the address {address} cannot be bound: {error.strerror}",
            remedy="Stop what listens there, or choose another port (0 takes any free one).",
        ) from error
    bound.setblocking(False)
    return bound
