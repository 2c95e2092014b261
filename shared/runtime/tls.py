"""TLS for every channel: a local certificate authority for machines that have none, and the contexts.

The authority is created at first start and signs for this installation only. Issuing again returns the
existing certificate until it has lived two thirds of its life, or its hosts or its authority change;
then it is replaced, so a restart renews it. Private keys are ECDSA P-256, in files of mode 0600.
"""

import ipaddress
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Self, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from shared.runtime.certificates import Followed, Teller, TrustingContext
from shared.runtime.config import Settings, check_private
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import (
    PUBLIC_FILE,
    create_private,
    private_folder,
    write_atomic,
    write_private,
)
from shared.runtime.party import Party, PartyFiles

T = TypeVar("T")

AUTHORITY_LIFE: Final = timedelta(days=3650)
LIFE: Final = timedelta(days=90)
_SKEW: Final = timedelta(hours=1)
"""How far a certificate is backdated, for peers whose clocks are behind."""
_LEAF_USAGE: Final = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)
_AUTHORITY_USAGE: Final = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


class TlsFiles(Settings):
    """The files of a server's certificate chain and key, and of the authority that its clients trust (all PEM)."""

    cert: Path
    key: Path
    ca: Path


@dataclass(frozen=True, slots=True)
class LocalCA:
    """An authority in a folder: `ca.pem` is public, `ca.key` is private."""

    folder: Path
    certificate: x509.Certificate
    _key: ec.EllipticCurvePrivateKey

    @classmethod
    def load_or_create(cls, folder: Path, *, now: datetime | None = None) -> Self:
        """Return the folder's authority, creating it at first start and again in the last third of its life."""
        moment = now or datetime.now(UTC)
        private_folder(folder)
        key = _load_or_create_key(folder / "ca.key")
        path = folder / "ca.pem"
        certificate = _load_certificate(path)
        if (
            certificate is None
            or certificate.public_key() != key.public_key()
            or _in_last_third(certificate, moment)
        ):
            certificate = _self_signed(key, moment)
            write_atomic(path, certificate.public_bytes(Encoding.PEM), mode=PUBLIC_FILE)
        return cls(folder, certificate, key)

    @property
    def ca_file(self) -> Path:
        """The authority's certificate, for clients."""
        return self.folder / "ca.pem"

    def issue(
        self,
        name: str,
        hosts: Sequence[str] = ("localhost", "127.0.0.1", "::1"),
        *,
        folder: Path | None = None,
        now: datetime | None = None,
    ) -> TlsFiles:
        """Return a certificate for `hosts` (names or addresses) as `<name>.pem` and `<name>.key`.

        They are in `folder`, by default next to the authority. A certificate that is still good is kept.
        """
        where = private_folder(folder or self.folder)
        files = TlsFiles(cert=where / f"{name}.pem", key=where / f"{name}.key", ca=self.ca_file)
        usages = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
        self._keep_or_sign(files, name, [_general_name(host) for host in hosts], usages, now)
        return files

    def issue_party(
        self, party: Party, *, folder: Path | None = None, now: datetime | None = None
    ) -> PartyFiles:
        """Return a certificate for one party to show to others, as `party.pem` and `party.key` in `folder`.

        It can be no server's. A certificate that is still good is kept.
        """
        where = private_folder(folder or self.folder)
        files = PartyFiles(cert=where / "party.pem", key=where / "party.key", ca=self.ca_file)
        names = [x509.UniformResourceIdentifier(party.uri)]
        self._keep_or_sign(files, str(party)[:64], names, (ExtendedKeyUsageOID.CLIENT_AUTH,), now)
        return files

    def _keep_or_sign(
        self,
        files: TlsFiles | PartyFiles,
        name: str,
        names: Sequence[x509.GeneralName],
        usages: Sequence[x509.ObjectIdentifier],
        now: datetime | None,
    ) -> None:
        moment = now or datetime.now(UTC)
        if self._still_good(files, names, moment):
            return
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(key.public_key(), name, names, usages, moment)
        write_private(files.key, _pem(key))
        write_atomic(files.cert, certificate.public_bytes(Encoding.PEM), mode=PUBLIC_FILE)

    def _still_good(
        self, files: TlsFiles | PartyFiles, names: Sequence[x509.GeneralName], moment: datetime
    ) -> bool:
        certificate = _load_certificate(files.cert)
        if certificate is None or not files.key.exists():
            return False
        try:
            certificate.verify_directly_issued_by(self.certificate)
            found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        except (InvalidSignature, ValueError, TypeError, x509.ExtensionNotFound):
            return False
        return (
            list(found.value) == list(names)
            and certificate.public_key() == _load_key(files.key).public_key()
            and not _in_last_third(certificate, moment)
        )

    def _sign(
        self,
        key: ec.EllipticCurvePublicKey,
        name: str,
        names: Sequence[x509.GeneralName],
        usages: Sequence[x509.ObjectIdentifier],
        moment: datetime,
    ) -> x509.Certificate:
        issuer = self._key.public_key()
        return (
            x509.CertificateBuilder()
            .subject_name(_common_name(name))
            .issuer_name(self.certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(moment - _SKEW)
            .not_valid_after(min(moment + LIFE, self.certificate.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_LEAF_USAGE, critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )


def client_context(ca_file: Path, party: PartyFiles | None = None) -> ssl.SSLContext:
    """Return a context for HTTPS clients that trusts only this authority, TLS 1.3, and shows a party's certificate if given.
    It reloads the files: connections made after they were replaced use their new content.
    """

    def make() -> TrustingContext:
        try:
            usual = ssl.create_default_context(cafile=str(ca_file))
            context = TrustingContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_verify_locations(cafile=str(ca_file))
        except OSError as error:  # ssl.SSLError is one
            raise CounterfoilError(
                Code.CONFIGURATION, f"{ca_file} does not hold a certificate authority's certificate"
            ) from error
        context.options, context.verify_flags = usual.options, usual.verify_flags
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.authority = ca_file
        if party is not None:
            load_pair(context, party)
        return context

    return TrustingContext.of(ca_file, make, [] if party is None else [party.cert, party.key])


def server_context(files: TlsFiles, callers_ca: Path | None = None) -> ssl.SSLContext:
    """Return a context for HTTPS servers, TLS 1.3. Each handshake uses the files as they are at that time.
    With `callers_ca`, callers are asked for a certificate: one may show none, but one that it shows must be of these authorities.
    """

    def make() -> ssl.SSLContext:
        return loaded_context(files, callers_ca)

    current = served(files, make, callers_ca)
    context = make()

    def choose(connection: ssl.SSLSocket | ssl.SSLObject, _name: object, _context: object) -> None:
        connection.context = current()

    context.sni_callback = choose  # called for every handshake, even without a name
    return context


def served(
    files: TlsFiles, make: Callable[[], T], callers_ca: Path | None = None
) -> Callable[[], T]:
    """Return a function to call at every handshake: it returns what `make` builds from the server's files at that time.
    Warnings that the certificate is about to expire are logged, now and while it is served.
    """
    teller = Teller(files.cert)

    def made() -> T:
        value = make()
        teller.renewed()
        return value

    authorities = [] if callers_ca is None else [callers_ca]
    followed = Followed([files.cert, files.key, *authorities], made)

    def current() -> T:
        value = followed.current()
        teller.look(datetime.now(UTC))
        return value

    current()
    return current


def loaded_context(files: TlsFiles, callers_ca: Path | None = None) -> ssl.SSLContext:
    """Return a context with a server's certificate and key as they are now; CONFIGURATION if they do not match."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    load_pair(context, files)
    if callers_ca is not None:
        try:
            context.load_verify_locations(cafile=str(callers_ca))
        except OSError as error:
            raise CounterfoilError(
                Code.CONFIGURATION,
                f"{callers_ca} does not hold the certificate of an authority of parties",
            ) from error
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def load_pair(context: ssl.SSLContext, files: TlsFiles | PartyFiles) -> None:
    """Load a certificate and its key as they are now; CONFIGURATION if they do not match."""
    check_private(files.key)
    try:
        context.load_cert_chain(files.cert, files.key)
    except OSError as error:
        raise CounterfoilError(
            Code.CONFIGURATION, f"{files.cert} and {files.key} are not a certificate and its key"
        ) from error


def _self_signed(key: ec.EllipticCurvePrivateKey, moment: datetime) -> x509.Certificate:
    # A serial number in the name distinguishes an authority from the one that it replaces.
    serial = x509.random_serial_number()
    name = _common_name(f"Counterfoil local CA {serial:x}"[:64])
    public = key.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(serial)
        .not_valid_before(moment - _SKEW)
        .not_valid_after(moment + AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_AUTHORITY_USAGE, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )


def _in_last_third(certificate: x509.Certificate, moment: datetime) -> bool:
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return moment < begin or end - moment < (end - begin) / 3


def _common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(host)
    except ValueError as error:
        raise CounterfoilError(
            Code.CONFIGURATION, f"{host!r} is neither a host name nor an address"
        ) from error


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _load_or_create_key(path: Path) -> ec.EllipticCurvePrivateKey:
    if not path.exists():
        create_private(path, _pem(ec.generate_private_key(ec.SECP256R1())))
    return _load_key(path)


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    check_private(path)
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CounterfoilError(Code.CONFIGURATION, f"{path} is not a private key in PEM") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CounterfoilError(Code.CONFIGURATION, f"{path} does not hold an ECDSA key")
    return key


def _load_certificate(path: Path) -> x509.Certificate | None:
    """Return the certificate, or None if there is none to keep."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
