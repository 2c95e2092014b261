"""Parties of the platform as certificates name them: nodes, workers, custodians, witnesses, the audit server.

A party's certificate carries one URI among its subject alternative names, `counterfoil://party/ROLE/NAME` (protocol §9);
a node's name is OPERATOR/NODE. A certificate without it, such as a server's of the same authority, is nobody's.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, Self

from cryptography import x509

from shared.runtime.config import Settings
from shared.runtime.errors import Code, CounterfoilError

SCHEME: Final = "counterfoil:"
_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_URI: Final = re.compile(rf"counterfoil://party/([a-z]{{1,16}})/({_NAME}(?:/{_NAME})?)", re.ASCII)


class PartyRole(StrEnum):
    """What a party is to others."""

    NODE = "node"
    WORKER = "worker"
    CUSTODIAN = "custodian"
    WITNESS = "witness"
    AUDIT = "audit"
    """An audit server: the log's own process."""


@dataclass(frozen=True, slots=True)
class Party:
    """Who a certificate says its holder is."""

    role: PartyRole
    name: str

    @classmethod
    def parse(cls, uri: str) -> Self | None:
        """Return the party that a URI names; None if it names none."""
        found = _URI.fullmatch(uri)
        if found is None or found[1] not in set(PartyRole):
            return None
        return cls(PartyRole(found[1]), found[2])

    @property
    def uri(self) -> str:
        """The name as certificates carry it; CONFIGURATION if no certificate could."""
        uri = f"counterfoil://party/{self.role}/{self.name}"
        if self.parse(uri) is None:
            raise CounterfoilError(
                Code.CONFIGURATION,
                f"{self.name!r} cannot be a party's name in a certificate",
                remedy="Use letters, digits, dots, hyphens and underscores; a node's is OPERATOR/NODE.",
            )
        return uri

    def __str__(self) -> str:
        return f"{self.role} {self.name}"


class PartyFiles(Settings):
    """What a party shows to others, and whom it believes (all PEM)."""

    cert: Path
    """Its own certificate, which names it: `counterfoil://party/ROLE/NAME`."""
    key: Path
    ca: Path
    """The authorities whose certificates other parties show here."""


class PartyListener(PartyFiles):
    """The same for a server that parties call at an address of their own."""

    address: str = "127.0.0.1:0"
    """Where parties call, host:port; port 0 takes any free one. Everyone there must show a party's certificate."""


class PartyCallers(Settings):
    """Who calls a server of which some routes are for parties."""

    ca: Path | None = None
    """The authorities of the certificates that callers show (PEM)."""
    behind_proxy: bool = False
    """A proxy in front of this server checks the callers' certificates, and nobody else can reach it. Then this server asks
    for none and believes that whoever calls a party's route may."""


def party_in(certificate: bytes) -> Party | None:
    """Return the party that a certificate (DER or PEM) names; None if it names none, or more than one."""
    try:
        read = (
            x509.load_pem_x509_certificate(certificate)
            if certificate.startswith(b"-----")
            else x509.load_der_x509_certificate(certificate)
        )
        names = read.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound):
        return None
    own = [
        uri
        for uri in names.get_values_for_type(x509.UniformResourceIdentifier)
        if uri.lower().startswith(SCHEME)
    ]
    return Party.parse(own[0]) if len(own) == 1 else None


def check_callers(callers: PartyCallers | None, file: str, command: str) -> PartyCallers:
    """Return who may call; CONFIGURATION for a configuration from before parties had certificates."""
    if callers is not None and (callers.ca is not None) != callers.behind_proxy:
        return callers
    raise CounterfoilError(
        Code.CONFIGURATION,
        f"{file} does not say how its callers' certificates are checked: [party] needs either `ca`, the authorities of"
        " their certificates, or `behind_proxy = true`",
        remedy=f"Run `{command}` again with --party-ca FILE (keys and state stay), or set `behind_proxy = true` if a proxy"
        " checks them.",
    )


def check_party(
    files: PartyFiles | None, role: PartyRole, name: str | None, again: str
) -> PartyFiles:
    """Return a party's own files; CONFIGURATION if there are none, or if the certificate names somebody else.

    An audit server's name may be any: its log's keys say which log it is.
    """
    wanted = f"counterfoil://party/{role}/{name or 'NAME'}"
    if files is None:
        raise CounterfoilError(
            Code.CONFIGURATION,
            f"the configuration has no [party]: others refuse this {role} without a certificate that names {wanted}",
            remedy=f"Get one (`counterfoil audit party certificate`) and run `{again}` again with it; keys and state stay.",
        )
    try:
        named = party_in(files.cert.read_bytes())
    except OSError as error:
        raise CounterfoilError(
            Code.CONFIGURATION, f"{files.cert} cannot be read: {error.strerror}"
        ) from error
    if named is None or named.role is not role or name not in {None, named.name}:
        shown = f"the certificate of {named}" if named else "not a party's certificate"
        raise CounterfoilError(
            Code.CONFIGURATION,
            f"{files.cert} is {shown}",
            remedy=f"It must carry {wanted} as its only counterfoil URI.",
        )
    return files
