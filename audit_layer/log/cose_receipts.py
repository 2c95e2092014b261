"""Transparency receipts of grade *sequenced*: COSE Receipts for entries that have just been committed.

A COSE Receipt signs a root, so the same rules hold as for a checkpoint: the root is committed first, the
signed checkpoint is in the second place before anyone sees a signature over its root, and the log's
history is checked against the second place before anything is appended to it (see `guard`).
"""

import time
from collections.abc import Sequence

from audit_layer.log.second_place import SecondPlace
from audit_layer.log.sequencer import Head, Sequenced
from shared.runtime.keys import Signer
from shared.translog import notes
from shared.translog.checkpoint import Checkpoint
from shared.translog.cose_receipt import ReceiptIssuer
from shared.translog.proofs import inclusion_proof
from shared.translog.signed_checkpoint import sign


class Receipts:
    """Issues COSE Receipts under the sequencer's tree head."""

    def __init__(
        self, signers: Sequence[notes.Signer], key: Signer, second_place: SecondPlace
    ) -> None:
        """`signers` are the log's checkpoint keys; `key` signs COSE Receipts and nothing else."""
        self._origin = signers[0].verifier.name
        self._signers = tuple(signers)
        self._issuer = ReceiptIssuer(key)
        self._second_place = second_place

    def issue(self, head: Head, placed: Sequence[Sequenced]) -> list[Sequenced]:
        """Return the entries' places with their COSE Receipts.

        Errors: FORK when the log has stopped; UNAVAILABLE when the second place cannot be written.
        """
        self._second_place.check_running()
        kept = self._second_place.read()
        if kept is None or kept[0].size < head.size:
            checkpoint = Checkpoint(self._origin, head.size, head.root)
            note = sign(checkpoint, self._signers, time_s=int(time.time())).encode()
            self._second_place.write(checkpoint, note)
        return [
            Sequenced(
                item.entry,
                item.index,
                duplicate=item.duplicate,
                receipt=self._issuer.issue(
                    item.entry,
                    item.index,
                    head.size,
                    inclusion_proof(item.index, head.size, head.node),
                    head.root,
                ),
            )
            for item in placed
        ]
