"""How long certificates hold, and why one was refused; files of TLS that are followed while a process runs.

Servers and clients may run longer than a certificate lives. So every handshake looks whether the files behind it were
replaced, and what a server serves is told in its log when it comes near its end.
"""

import contextlib
import logging
import ssl
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from cryptography import x509

from shared.runtime.errors import CounterfoilError
from shared.runtime.printable import printable

WARN_BEFORE: Final = timedelta(days=14)
"""How long before its end a certificate is told; for one that lives less than four times that, a quarter of its life."""
TELL_EVERY: Final = timedelta(days=1)
NAMES_SHOWN: Final = 8
_EXPIRED, _NOT_YET, _WRONG_NAMES = 10, 9, frozenset({62, 64})
"""X509_V_ERR_… of OpenSSL, as `verify_code` has them."""

T = TypeVar("T")
Stamp = tuple[tuple[int, int, int], ...]
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Life:
    """From when until when a certificate holds."""

    begin: datetime
    end: datetime

    @classmethod
    def of(cls, certificate: x509.Certificate) -> "Life":
        """Return the life of a certificate."""
        return cls(certificate.not_valid_before_utc, certificate.not_valid_after_utc)

    def holds(self, now: datetime) -> bool:
        """Tell whether the certificate is valid at a time."""
        return self.begin <= now <= self.end

    def warning(self, now: datetime) -> str | None:
        """Say that it does not hold, or that it soon will not; None while there is time."""
        clock = f"this machine's clock says {_shown(now)}"
        if now < self.begin:
            return f"is not valid before {_shown(self.begin)}; {clock}"
        if now > self.end:
            return f"expired on {_shown(self.end)}; {clock}"
        if self.end - now < min(WARN_BEFORE, (self.end - self.begin) / 4):
            return f"expires on {_shown(self.end)}"
        return None


def life_of(path: Path) -> Life | None:
    """Return the life of the first certificate in a PEM file; None where there is none that can be read."""
    try:
        return Life.of(x509.load_pem_x509_certificate(path.read_bytes()))
    except (OSError, ValueError):
        return None


def why_refused(
    error: ssl.SSLCertVerificationError,
    certificate: bytes | None,
    who: str,
    authority: Path,
    now: datetime,
) -> str:
    """Say why the certificate (DER, where it is known) of `who` was refused, and what to do about it."""
    read = None
    with contextlib.suppress(ValueError):
        read = x509.load_der_x509_certificate(certificate) if certificate else None
    about = f"the certificate of {who}"
    if error.verify_code in {_EXPIRED, _NOT_YET}:
        said = Life.of(read).warning(now) if read is not None else None
        return f"{about} {said or error.verify_message}. Whoever runs it has to renew it, or set a clock."
    if error.verify_code in _WRONG_NAMES:
        names = _names(read)
        shown = f": {', '.join(names)}" if names else ""
        return (
            f"{about} is for other names{shown}. Use one of them, or have it issued for this one."
        )
    return (
        f"{about} is signed by an authority that {authority} does not hold ({error.verify_message})."
        " Take the authority's file from whoever runs it, or look whose address it is."
    )


def how_it_failed(error: BaseException) -> str:
    """Return what a connection's failure was: the refusal of a certificate in its words, else the name of the error.

    What else libraries put into their messages is not told: it may hold what was sent.
    """
    seen: BaseException | None = error
    for _ in range(8):
        if isinstance(seen, ssl.SSLCertVerificationError):
            return str(seen.strerror)
        seen = None if seen is None else seen.__cause__ or seen.__context__
    return type(error).__name__


class Followed(Generic[T]):
    """What is made of files, and made anew when one of them was replaced. Any thread may ask.

    Files that cannot be used are told once, and what was made before is kept. That one of a pair was replaced and the
    other not yet is nothing to tell: only what is still so when somebody asks again is.
    """

    def __init__(self, files: Sequence[Path], make: Callable[[], T]) -> None:
        self._files = tuple(files)
        self._make = make
        self._lock = threading.Lock()
        self._stamp = self._look()
        self._failure: CounterfoilError | None = None
        self._made = make()

    def current(self) -> T:
        """Return what the files make now."""
        stamp = self._look()
        with self._lock:
            if stamp != self._stamp:
                self._stamp, self._failure = stamp, None
                try:
                    self._made = self._make()
                except CounterfoilError as error:
                    self._failure = error
            elif self._failure is not None:
                _log.warning("the files that were replaced are not used: %s", self._failure)
                self._failure = None
            return self._made

    def _look(self) -> Stamp:
        stamps = []
        for path in self._files:
            try:
                found = path.stat()
            except OSError:
                stamps.append((0, 0, 0))
            else:
                stamps.append((found.st_mtime_ns, found.st_size, found.st_ino))
        return tuple(stamps)


class Teller:
    """Logs what is to be known about a certificate that is served: at once, and then once a day."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._life: Life | None = None
        self._told: datetime | None = None

    def renewed(self) -> None:
        """Note that another certificate is served from now on."""
        self._life, self._told = life_of(self._path), None

    def look(self, now: datetime) -> None:
        """Log a warning if one is due."""
        if self._life is None or (self._told is not None and now - self._told < TELL_EVERY):
            return
        if (said := self._life.warning(now)) is not None:
            self._told = now
            more = "" if self._life.holds(now) else ": clients refuse it"
            _log.warning("the served certificate %s %s%s", self._path, said, more)


class TrustingContext(ssl.SSLContext):
    """A client's context that follows the file of its authority, and names the cause when it refuses a certificate."""

    _followed: Followed[ssl.SSLContext]
    _protocols: list[str] | None = None
    authority: Path

    @classmethod
    def of(cls, authority: Path, make: Callable[[], ssl.SSLContext]) -> "TrustingContext":
        """Return a context like those that `make` makes of `authority`, all of which are instances of this class."""
        followed = Followed([authority], make)
        context = followed.current()
        assert isinstance(context, cls)
        context._followed = followed
        return context

    def set_alpn_protocols(self, alpn_protocols: Any) -> None:
        """Set what is offered, also by a context that takes this one's place."""
        self._protocols = list(alpn_protocols)
        super().set_alpn_protocols(alpn_protocols)

    def wrap_socket(self, *arguments: Any, **options: Any) -> ssl.SSLSocket:
        """Wrap a socket, trusting what the file holds now."""
        if (context := self._now()) is not self:
            return context.wrap_socket(*arguments, **options)
        return super().wrap_socket(*arguments, **options)

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        """Wrap buffers, trusting what the file holds now."""
        if (context := self._now()) is not self:
            return context.wrap_bio(*arguments, **options)
        return super().wrap_bio(*arguments, **options)

    def _now(self) -> ssl.SSLContext:
        followed = getattr(self, "_followed", None)
        if followed is None:
            return self
        context: ssl.SSLContext = followed.current()
        if context is not self:
            context.verify_flags = self.verify_flags
            if self._protocols is not None:
                context.set_alpn_protocols(self._protocols)
        return context


class _Socket(ssl.SSLSocket):
    """A socket whose refusals say why."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except ssl.SSLCertVerificationError as error:
            _name_the_cause(error, self, _peer(self))
            raise


class _Buffers(ssl.SSLObject):
    """Likewise for event loops."""

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except ssl.SSLCertVerificationError as error:
            _name_the_cause(error, self, self.server_hostname or "the server")
            raise


TrustingContext.sslsocket_class = _Socket
TrustingContext.sslobject_class = _Buffers


def _name_the_cause(
    error: ssl.SSLCertVerificationError, connection: ssl.SSLSocket | ssl.SSLObject, who: str
) -> None:
    """Replace the text of a refusal by the sentence that says why."""
    context = connection.context
    if isinstance(context, TrustingContext):
        said = why_refused(error, _shown_by(connection), who, context.authority, datetime.now(UTC))
        error.args = (error.args[0], said)
        error.strerror = said


def _shown_by(connection: ssl.SSLSocket | ssl.SSLObject) -> bytes | None:
    """Return the certificate (DER) that a peer showed, although it was refused; None where it cannot be told."""
    chain = getattr(connection, "get_unverified_chain", None)
    try:
        if chain is not None:  # Python 3.13
            return bytes(chain()[0])
        shown = getattr(connection, "_sslobj").get_unverified_chain()  # noqa: B009  # private before 3.13
        return bytes(shown[0].public_bytes(2))  # 2: DER
    except (AttributeError, IndexError, TypeError, ValueError, ssl.SSLError):
        return None


def _peer(connection: ssl.SSLSocket) -> str:
    name = connection.server_hostname or "the server"
    try:
        return f"{name}:{connection.getpeername()[1]}"
    except (OSError, IndexError):
        return name


def _names(certificate: x509.Certificate | None) -> list[str]:
    if certificate is None:
        return []
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return []
    names = [*found.get_values_for_type(x509.DNSName)]
    names += [str(address) for address in found.get_values_for_type(x509.IPAddress)]
    return [printable(name, 100) for name in names[:NAMES_SHOWN]]


def _shown(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
