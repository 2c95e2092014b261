"""Why either side of a connection refuses the other's certificate: found out by a handshake, since libraries do not say it."""

import socket
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from shared.runtime.certificates import life_of
from shared.runtime.errors import CounterfoilError
from shared.runtime.net import join_address, split_address
from shared.runtime.party import PartyFiles
from shared.runtime.tls import client_context

PROBE_S: Final = 2.0
HEARING_S: Final = 1.0
"""How long a server may take to say that it refuses us."""


def refused_by(url: str, ca_file: Path, party: PartyFiles | None) -> str | None:
    """Return the same as `refusal` for a server by its https:// address."""
    parts = urlsplit(url)
    if parts.hostname is None:
        return None
    return refusal(join_address(parts.hostname, parts.port or 443), ca_file, party)


def refusal(target: str, ca_file: Path, party: PartyFiles | None = None) -> str | None:
    """Perform a handshake and return why either side refuses the other's certificate; None if neither does, or nobody answers.
    Blocks; a server that says nothing after the handshake is waited for.
    """
    life = None if party is None else life_of(party.cert)
    now = datetime.now(UTC)
    if party is not None and life is not None and not life.holds(now):
        return f"the certificate that this party shows, {party.cert}, {life.warning(now)}"
    try:
        host, port = split_address(target)
        (family, kind, _, _, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        context = client_context(ca_file, party)
        # Wrapped before it is connected: of a connected socket that the peer resets, `wrap_socket` would leave one open.
        with context.wrap_socket(socket.socket(family, kind), server_hostname=host) as secure:
            secure.settimeout(PROBE_S)
            secure.connect(address)
            return None if _heard(secure) else f"{target} {_dropped(party)}"
    except ssl.SSLCertVerificationError as error:
        return str(error.strerror)
    except (OSError, ValueError, CounterfoilError):
        return None


def _heard(secure: ssl.SSLSocket) -> bool:
    """Whether a server stays after the handshake. In TLS 1.3 it sees our certificate when our side has ended, and neither
    gRPC's core nor asyncio sends the alert that would say what is wrong with it.
    """
    secure.settimeout(HEARING_S)
    try:
        return bool(secure.recv(1))
    except TimeoutError:
        return True
    except OSError:
        return False


def _dropped(party: PartyFiles | None) -> str:
    if party is None:
        return (
            "asks callers for a party's certificate and none was shown, so it ended the connection"
        )
    return (
        f"ended the connection after it had seen the certificate that this party shows, {party.cert}: its authority is not"
        " among those that the server believes ([party] ca there), or it has expired by the server's clock"
    )
