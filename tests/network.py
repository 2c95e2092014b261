"""Tests reach no further than this machine: Python's sockets refuse any other address.

An audit hook sees every `connect`, `bind`, `sendto` and name look-up that Python code makes, in every
thread. Libraries that open sockets in C (gRPC, libpq) are not seen; their tests use loopback by rule.
"""

import ipaddress
import sys

LOCAL_NAMES = frozenset({"localhost", "ip6-localhost", ""})


class OutsideNetworkError(RuntimeError):
    """A test tried to leave this machine."""


def is_local(host: object) -> bool:
    """Return whether a host, as sockets take it, is this machine's loopback."""
    if isinstance(host, (bytes, bytearray)):
        host = host.decode("ascii", "replace")
    if host is None or host in LOCAL_NAMES:
        return True
    try:
        return ipaddress.ip_address(str(host).split("%")[0]).is_loopback
    except ValueError:
        return False


def _refuse_outside(event: str, arguments: tuple[object, ...]) -> None:
    if event == "socket.getaddrinfo":
        host = arguments[0]
    elif event in {"socket.connect", "socket.bind", "socket.sendto"}:
        address = arguments[1]
        if not isinstance(address, tuple) or len(address) < 2:
            return  # a Unix socket, or another family without hosts
        host = address[0]
    else:
        return
    if not is_local(host) or (event == "socket.bind" and host == ""):
        raise OutsideNetworkError(f"{event} to {host!r}: tests stay on loopback")


def stay_on_this_machine() -> None:
    """Install the hook, for the rest of this process."""
    sys.addaudithook(_refuse_outside)
