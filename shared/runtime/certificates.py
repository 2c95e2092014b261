"""Certificate lifetimes, why a certificate was refused, and TLS files that are reloaded while a process runs.

Servers and clients may outlive a certificate. So every handshake checks whether the files behind it were replaced, and a
server logs that its certificate is about to expire.
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
"""How long before its expiry a certificate is logged; for one that lives less than four times that, a quarter of its life."""
TELL_EVERY: Final = timedelta(days=1)
NAMES_SHOWN: Final = 8
_EXPIRED, _NOT_YET, _WRONG_NAMES = 10, 9, frozenset({62, 64})
"""X509_V_ERR_… of OpenSSL, as `verify_code` has them."""

T = TypeVar("T")
Stamp = tuple[tuple[int, int, int], ...]
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Life:
    """A certificate's validity period."""

    begin: datetime
    end: datetime

    @classmethod
    def of(cls, certificate: x509.Certificate) -> "Life":
        """Return the life of a certificate."""
        return cls(certificate.not_valid_before_utc, certificate.not_valid_after_utc)

    def holds(self, now: datetime) -> bool:
        """Return whether the certificate is valid at a time."""
        return self.begin <= now <= self.end

    def warning(self, now: datetime) -> str | None:
        """Return a warning that it is not valid, or soon will not be; None while there is time."""
        clock = f"this machine's clock says {_shown(now)}"
        if now < self.begin:
            return f"is not valid before {_shown(self.begin)}; {clock}"
        if now > self.end:
            return f"expired on {_shown(self.end)}; {clock}"
        if self.end - now < min(WARN_BEFORE, (self.end - self.begin) / 4):
            return f"expires on {_shown(self.end)}"
        return None


def life_of(path: Path) -> Life | None:
    """Return the life of the first certificate in a PEM file; None if there is no readable one."""
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
    """Return why the certificate of `who` (DER, if known) was refused, and what to do about it."""
    read = None
    with contextlib.suppress(ValueError):
        read = x509.load_der_x509_certificate(certificate) if certificate else None
    about = f"the certificate of {who}"
    if error.verify_code in {_EXPIRED, _NOT_YET}:
        said = Life.of(read).warning(now) if read is not None else None
        return f"{about} {said or error.verify_message}. Its operator has to renew it, or a clock is wrong."
    if error.verify_code in _WRONG_NAMES:
        names = _names(read)
        shown = f": {', '.join(names)}" if names else ""
        return (
            f"{about} is for other names{shown}. Use one of them, or have it reissued for this one."
        )
    return (
        f"{about} is signed by an authority that {authority} does not hold ({error.verify_message})."
        " Get the authority's file from the server's operator, or check whose address it is."
    )


def how_it_failed(error: BaseException) -> str:
    """Describe a connection's failure: the refusal of a certificate in its own words, else the error's name.
    Anything else that libraries put into their messages is withheld: it may contain what was sent.
    """
    seen: BaseException | None = error
    for _ in range(8):
        if isinstance(seen, ssl.SSLCertVerificationError):
            return str(seen.strerror)
        seen = None if seen is None else seen.__cause__ or seen.__context__
    return type(error).__name__


class Followed(Generic[T]):
    """A value built from files, and rebuilt when one of them is replaced. Thread-safe.
    Unusable files are logged once, and the previous value is kept. A pair of which only one file has been replaced so far is
    not logged unless that is still so at the next call.
    """

    def __init__(self, files: Sequence[Path], make: Callable[[], T]) -> None:
        self._files = tuple(files)
        self._make = make
        self._lock = threading.Lock()
        self._stamp = self._look()
        self._failure: CounterfoilError | None = None
        self._made = make()

    def current(self) -> T:
        """Return the value built from the files as they are now."""
        stamp = self._look()
        with self._lock:
            if stamp != self._stamp:
                self._stamp, self._failure = stamp, None
                try:
                    self._made = self._make()
                except CounterfoilError as error:
                    self._failure = error
            elif self._failure is not None:
                _log.warning("the replaced files cannot be used: %s", self._failure)
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
    """Logs warnings about the served certificate: at once, and then once a day."""

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
    """A client's context that reloads its authority's file, and names the cause when it refuses a certificate."""

    _followed: Followed[ssl.SSLContext]
    _protocols: list[str] | None = None
    authority: Path

    @classmethod
    def of(
        cls, authority: Path, make: Callable[[], ssl.SSLContext], more: Sequence[Path] = ()
    ) -> "TrustingContext":
        """Return a context as `make` builds it from `authority` and `more`; all of them are instances of this class."""
        followed = Followed([authority, *more], make)
        context = followed.current()
        assert isinstance(context, cls)
        context._followed = followed
        return context

    def set_alpn_protocols(self, alpn_protocols: Any) -> None:
        """Set what is offered, including by a context that replaces this one."""
        self._protocols = list(alpn_protocols)
        super().set_alpn_protocols(alpn_protocols)

    def wrap_socket(self, *arguments: Any, **options: Any) -> ssl.SSLSocket:
        """Wrap a socket, trusting the file's present content."""
        if (context := self._now()) is not self:
            return context.wrap_socket(*arguments, **options)
        return super().wrap_socket(*arguments, **options)

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        """Wrap buffers, trusting the file's present content."""
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
    """The same for event loops."""

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
    """Replace the text of a refusal with the sentence that says why."""
    context = connection.context
    if isinstance(context, TrustingContext):
        said = why_refused(error, _shown_by(connection), who, context.authority, datetime.now(UTC))
        error.args = (error.args[0], said)
        error.strerror = said


def _shown_by(connection: ssl.SSLSocket | ssl.SSLObject) -> bytes | None:
    """Return the certificate (DER) that a peer showed, even if it was refused; None if it is not available."""
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
