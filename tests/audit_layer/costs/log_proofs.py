"""Proofs of inclusion straight from the database's entries, under a checkpoint that is signed on the spot."""

from collections.abc import Mapping
from hashlib import sha256

import psycopg

from audit_layer.log.proof_service import Together
from shared.translog.checkpoint import Checkpoint
from shared.translog.cosignature import cosign
from shared.translog.notes import SignatureType, Signer
from shared.translog.policy import LogPolicy
from shared.translog.proofs import inclusion_proof, lookup_in, root_at
from shared.translog.signed_checkpoint import sign
from shared.translog.tree import leaf_hash
from tests.postgres import Database

ORIGIN = "log.example/costs"
_LOG = Signer(ORIGIN, SignatureType.ED25519, sha256(b"costs log").digest())
_WITNESS = Signer("witness", SignatureType.COSIGNATURE_ED25519, sha256(b"costs witness").digest())
POLICY = LogPolicy.from_vkeys(
    logs=[_LOG.verifier.vkey()], witnesses=[_WITNESS.verifier.vkey()], threshold=1
)


class LogProofs:
    """Proves whatever the log has."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @property
    def policy(self) -> LogPolicy:
        return POLICY

    def prove_together(self, places: Mapping[bytes, int]) -> Together:
        with psycopg.connect(self._database.owner_dsn) as connection:
            rows = connection.execute("SELECT entry FROM log_entries ORDER BY index").fetchall()
        lookup = lookup_in([leaf_hash(entry) for (entry,) in rows])
        head = Checkpoint(ORIGIN, len(rows), root_at(len(rows), lookup))
        note = sign(head, [_LOG], time_s=1).with_signatures((cosign(_WITNESS, head, time_s=1),))
        paths = {
            entry: tuple(inclusion_proof(index, len(rows), lookup))
            for entry, index in places.items()
        }
        return Together(note.encode(), paths)
