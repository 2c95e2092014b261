"""Proofs of inclusion, from published files only.

The database answers only where an entry is; every hash in a proof comes from the
files, and every proof is checked before it is handed out.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Engine, text

from audit_layer.log.files import PublishedFiles
from audit_layer.log.tile_cache import TileCache
from audit_layer.storage.engine import transaction
from shared.runtime.errors import Code, CounterfoilError
from shared.translog.checkpoint import Checkpoint
from shared.translog.policy import LogPolicy, Witnessed, verify_witnessed
from shared.translog.proofs import consistency_proof, inclusion_proof, root_from_inclusion
from shared.translog.tiles import NodeReader
from shared.translog.tlog_proof import TlogProof
from shared.translog.tree import leaf_hash


@dataclass(frozen=True, slots=True)
class Together:
    """Proofs under one checkpoint."""

    note: str
    """The checkpoint with its signatures."""
    paths: Mapping[bytes, tuple[bytes, ...]]
    """The inclusion path of each entry."""


class ProofService:
    """Serves proofs under the newest witnessed checkpoint."""

    def __init__(
        self,
        engine: Engine,
        files: PublishedFiles,
        policy: LogPolicy,
        *,
        retry_after_s: float = 1.0,
    ) -> None:
        self._engine = engine
        self._files = files
        self._tiles = TileCache(files.read)
        self._policy = policy
        self._retry_after_s = retry_after_s
        self._verified: tuple[str, Witnessed] | None = None

    @property
    def policy(self) -> LogPolicy:
        """The rule for a witnessed checkpoint."""
        return self._policy

    def witnessed(self) -> Witnessed:
        """Return the newest witnessed checkpoint; NOT_WITNESSED, with a hint, before the first."""
        note = self._files.checkpoint()
        if note is None:
            raise self._not_yet("no checkpoint has been published yet")
        verified = self._verified
        if verified is None or verified[0] != note:
            verified = (note, verify_witnessed(note, self._policy))
            self._verified = verified
        return verified[1]

    def index_of(self, entry: bytes) -> int:
        """Return the index of an entry; NOT_FOUND when the log does not have it."""
        with transaction(self._engine) as connection:
            index = connection.execute(
                text("SELECT index FROM log_entries WHERE entry = :entry"), {"entry": entry}
            ).scalar_one_or_none()
        if index is None:
            raise CounterfoilError(Code.NOT_FOUND, "the log does not have this entry")
        return int(index)

    def prove(self, index_or_entry: int | bytes) -> TlogProof:
        """Prove that an entry is in the log, as of the newest witnessed checkpoint.

        Errors: NOT_FOUND for an unknown entry or an index below zero, NOT_WITNESSED with
        `retry_after_s` when no witnessed checkpoint covers it yet, CORRUPT when the files do not
        lead to the checkpoint's root (run fsck).
        """
        entry = index_or_entry if isinstance(index_or_entry, bytes) else None
        index = index_or_entry if isinstance(index_or_entry, int) else self.index_of(index_or_entry)
        if index < 0:
            raise CounterfoilError(Code.NOT_FOUND, f"the log has no index {index}")
        witnessed = self.witnessed()
        path = self._path(witnessed.checkpoint, index, entry)
        return TlogProof(index, path, witnessed.note.encode())

    def prove_together(self, places: Mapping[bytes, int]) -> Together:
        """Prove that entries are at these indexes, all under one checkpoint: the newest witnessed one.

        Errors: NOT_WITNESSED and CORRUPT as of `prove`.
        """
        witnessed = self.witnessed()
        paths = {
            entry: self._path(witnessed.checkpoint, index, entry) for entry, index in places.items()
        }
        return Together(witnessed.note.encode(), paths)

    def _path(self, checkpoint: Checkpoint, index: int, entry: bytes | None) -> tuple[bytes, ...]:
        """Return an inclusion path, checked."""
        if index >= checkpoint.size:
            raise self._not_yet(
                f"index {index} is not covered; {checkpoint.size} entries are witnessed"
            )
        reader = NodeReader(checkpoint.size, self._tiles)
        leaf = reader(0, index)
        path = inclusion_proof(index, checkpoint.size, reader)
        leads_there = root_from_inclusion(leaf, index, checkpoint.size, path) == checkpoint.root
        if not leads_there or (entry is not None and leaf_hash(entry) != leaf):
            self._tiles.clear()  # so that repaired files are seen without a restart
            raise CounterfoilError(
                Code.CORRUPT,
                f"the published files do not lead from index {index} to the checkpoint",
                remedy="Run `counterfoil log fsck`.",
            )
        return tuple(path)

    def consistency(self, old_size: int, new_size: int) -> list[bytes]:
        """Prove that the tree of `new_size`, which is published, extends that of `old_size` (RFC 9162 §2.1.4.1).

        Errors: INVALID_ARGUMENT for impossible sizes, NOT_WITNESSED when the larger one is not published yet.
        """
        if not 0 < old_size <= new_size:
            raise CounterfoilError(
                Code.INVALID_ARGUMENT,
                "consistency is proved from a smaller size above 0 to a larger one",
            )
        published = self.witnessed().checkpoint.size
        if new_size > published:
            raise self._not_yet(
                f"size {new_size} is not published; {published} entries are witnessed"
            )
        return consistency_proof(old_size, new_size, NodeReader(new_size, self._tiles))

    def tlog_proof(self, index_or_entry: int | bytes) -> str:
        """Return `prove(…)` as the text of a `.tlog-proof` file."""
        return self.prove(index_or_entry).encode()

    def tlog_proof_or_none(self, entry: bytes) -> str | None:
        """Return `tlog_proof(entry)`; None until a witnessed checkpoint covers it."""
        try:
            return self.tlog_proof(entry)
        except CounterfoilError as error:
            if error.code is not Code.NOT_WITNESSED:
                raise
            return None

    def _not_yet(self, reason: str) -> CounterfoilError:
        return CounterfoilError(
            Code.NOT_WITNESSED,
            reason,
            remedy="The witnesses will sign a new checkpoint shortly; retry.",
            retry_after_s=self._retry_after_s,
        )
