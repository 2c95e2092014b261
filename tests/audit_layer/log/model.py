"""The log as a list and a dictionary: what the real one must be indistinguishable from."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from sqlalchemy import Connection, Engine, text

from audit_layer.log.sequencer import Result, Sequenced, Submission
from shared.runtime.errors import Code

Told = tuple[int, bool] | Code
"""(index, duplicate), or the error's code."""


def merkle_root(entries: Sequence[bytes]) -> bytes:
    """Return the root as RFC 6962 §2.1 defines it, word by word."""
    if not entries:
        return sha256(b"").digest()
    if len(entries) == 1:
        return sha256(b"\x00" + entries[0]).digest()
    half = 1 << (len(entries) - 1).bit_length() - 1
    left, right = merkle_root(entries[:half]), merkle_root(entries[half:])
    return sha256(b"\x01" + left + right).digest()


@dataclass
class Model:
    """The naive log."""

    entries: list[bytes] = field(default_factory=list)
    keys: dict[object, int] = field(default_factory=dict)
    """Idempotency key → index."""

    def append(self, batch: Sequence[Submission]) -> list[Told]:
        """Append a committed batch; return the answers that its submitters must get."""
        return [self._append(item) for item in batch]

    def _append(self, item: Submission) -> Told:
        key = item.entry if item.issuer_seq is None else (item.issuer, item.issuer_seq)
        if key not in self.keys:
            self.keys[key] = len(self.entries)
            self.entries.append(item.entry)
            return self.keys[key], False
        index = self.keys[key]
        return (index, True) if self.entries[index] == item.entry else Code.EQUIVOCATION

    def root(self, size: int) -> bytes:
        return merkle_root(self.entries[:size])


def told(results: Sequence[Result]) -> list[Told]:
    """Return results in the model's words."""
    return [
        (result.index, result.duplicate) if isinstance(result, Sequenced) else result.code
        for result in results
    ]


def stored(engine: Engine) -> tuple[list[bytes], int, bytes]:
    """Return the log's entries by ascending index, which must be dense, and its recorded size and root."""
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT index, entry FROM log_entries ORDER BY index")).all()
        state = _state(connection)
    assert [index for index, _ in rows] == list(range(len(rows)))
    return [bytes(entry) for _, entry in rows], *state


def _state(connection: Connection) -> tuple[int, bytes]:
    row = connection.execute(text("SELECT size, root FROM log_state")).one_or_none()
    return (0, merkle_root([])) if row is None else (row[0], bytes(row[1]))


def empty(owner: Engine) -> None:
    """Reset a used database to that of a log before its first entry."""
    with owner.begin() as connection:
        connection.execute(
            text("TRUNCATE log_state, log_entries, log_issuers, log_tiles, log_checkpoints")
        )
