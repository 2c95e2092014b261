"""Mirrors of the published log: static files that stand in for the audit server, and are believed in nothing.

A mirror serves the log's tiles and `directory.json` (protocol §5.8). Its key bundles pass the same checks as the
audit server's, and consistency with what the client has kept is computed from tiles that lead to a witnessed root.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shared.proto.counterfoil.audit.v1 import audit_pb2
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.fetching import HttpsFiles
from shared.statements.cose import parse_statement
from shared.statements.identities import IdentityKey, IdentityKeyEnd
from shared.statements.keys import KeyBundle, Revocation
from shared.translog.checkpoint import Checkpoint, parse_checkpoint
from shared.translog.notes import parse_note
from shared.translog.prefix import roots_of
from shared.translog.published import OnDemand, PublishedLog
from shared.translog.tiles import TileReader
from shared.verification.directory_file import (
    MAX_DIRECTORY,
    PATH,
    DirectoryFile,
    Placed,
    parse_directory,
)

Listing = audit_pb2.ListKeyBundlesResponse
"""Key bundles and revocations with their proofs, whoever lists them."""
_UNUSABLE: Final = frozenset({Code.NOT_FOUND, Code.MALFORMED, Code.CORRUPT, Code.BAD_PROOF})
"""Errors that say that tiles are missing or wrong, which is the mirror's fault and nobody else's."""


class Mirror:
    """One address below which the log's files are served."""

    def __init__(self, url: str, ca: Path | None) -> None:
        """Raise CONFIGURATION if it is not an https:// address."""
        self._files = HttpsFiles(url, ca)
        self._log = PublishedLog(self._files)

    @property
    def name(self) -> str:
        """Its name in errors."""
        return f"the mirror {self._files.url}"

    async def listing(self) -> "Shown":
        """Return its key bundles and revocations, unverified; UNAVAILABLE, NOT_FOUND or MALFORMED."""
        data = await self._files.get(PATH, MAX_DIRECTORY)
        return await asyncio.to_thread(lambda: _shown(self.name, parse_directory(data)))

    async def check(self, older: Checkpoint, newer: Checkpoint) -> None:
        """Check by tiles that the newer tree begins with the older one.

        FORK, with the proof, if the newer tree begins with another one; UNAVAILABLE if the tiles show neither.
        """
        try:
            first, second, nodes = await OnDemand(self._log.tile).compute(
                lambda fetch: roots_of(older.size, newer.size, TileReader(newer.size, fetch))
            )
        except CounterfoilError as error:
            if error.code not in _UNUSABLE:
                raise
            raise self._unusable(newer, error.detail) from error
        if second != newer.root:
            raise self._unusable(newer, "its tiles do not lead to the signed root")
        if first != older.root:
            raise ForkProved(older, newer, nodes)

    def _unusable(self, newer: Checkpoint, why: str) -> CounterfoilError:
        return CounterfoilError(
            Code.UNAVAILABLE,
            f"{self.name} does not serve the tree of size {newer.size}: {why}",
        )


@dataclass(frozen=True, slots=True)
class Shown:
    """What a mirror lists; nothing of it has been verified."""

    source: str
    size: int
    """Of the log, as it claims."""
    listing: Listing


class ForkProved(CounterfoilError):  # noqa: N818  # a fact about a log
    """FORK, with subtrees ("level/index" → hash in hex) that lead to the newer root and to another root at the older size."""

    def __init__(self, older: Checkpoint, newer: Checkpoint, nodes: dict[str, str]) -> None:
        super().__init__(
            Code.FORK, f"the tree of size {newer.size} has another beginning of size {older.size}"
        )
        self.nodes = nodes


async def ask_all(mirrors: Sequence[Mirror]) -> tuple[list[Shown], list[CounterfoilError]]:
    """Ask every mirror at once, because each may omit what another shows.
    Returns what they show, by size with the largest first, and the errors of the others.
    """

    async def one(mirror: Mirror) -> Shown | CounterfoilError:
        try:
            return await mirror.listing()
        except CounterfoilError as error:
            return error

    said = await asyncio.gather(*(one(mirror) for mirror in mirrors))
    shown = [answer for answer in said if isinstance(answer, Shown)]
    shown.sort(key=lambda item: item.size, reverse=True)
    return shown, [answer for answer in said if isinstance(answer, CounterfoilError)]


def _shown(source: str, file: DirectoryFile) -> Shown:
    """Return a directory file's key bundles and revocations, without what cannot be read and other types."""
    listing = Listing()
    for placed in file.statements:
        match _type(placed):
            case KeyBundle.TYPE:
                listing.bundles.add(statement=placed.statement, tlog_proof=file.proof(placed))
            case IdentityKey.TYPE | IdentityKeyEnd.TYPE:
                listing.identities.add(statement=placed.statement, tlog_proof=file.proof(placed))
            case Revocation.TYPE:
                listing.revocations.add(statement=placed.statement, tlog_proof=file.proof(placed))
    return Shown(source, parse_checkpoint(parse_note(file.note).text).size, listing)


def _type(placed: Placed) -> str | None:
    try:
        return parse_statement(placed.statement).type
    except CounterfoilError:
        return None
