"""Certificates by which parties of tests know each other."""

from pathlib import Path

from shared.runtime.party import Party, PartyFiles, PartyRole
from shared.runtime.tls import LocalCA


def shown_by(role: PartyRole, name: str, ca_file: Path) -> PartyFiles:
    """Return the certificate of a party, issued by the local authority with this file."""
    folder = ca_file.parent
    where = folder / f"{role}-{name.replace('/', '-')}"
    return LocalCA.load_or_create(folder).issue_party(Party(role, name), folder=where)
