"""A beacon party as a service: the pure party, its memory, and whom it trusts. Witnesses and custodians each run one."""

from dataclasses import dataclass
from typing import Annotated

from shared.parties.reveal_memory import Kept, RevealMemory
from shared.runtime.errors import Code, CounterfoilError
from shared.selection.party import BeaconParty
from shared.statements.cose import MAX_LONG_STATEMENT, MAX_STATEMENT
from shared.statements.rules import Octets, Text
from shared.statements.schema import Record, Uint
from shared.translog.policy import LogPolicy

MAX_MESSAGE = 4 << 20
MAX_COMMITMENT_REQUEST = 64
_Proof = Annotated[str, Text(2**18, 1)]


@dataclass(frozen=True, slots=True)
class CommitmentRequest(Record):
    """`POST /beacon/commitment`."""

    epoch: Uint


@dataclass(frozen=True, slots=True)
class RevealRequest(Record):
    """`POST /beacon/reveal`: the witnessed open statement and seal of the epoch."""

    epoch: Uint
    open: Annotated[bytes, Octets(MAX_STATEMENT, 1)]
    open_proof: _Proof
    seal: Annotated[bytes, Octets(MAX_LONG_STATEMENT, 1)]
    seal_proof: _Proof


@dataclass(frozen=True, slots=True)
class BeaconService:
    """Answers requests for commitments and reveals. Blocking; thread-safe."""

    party: BeaconParty
    memory: RevealMemory
    log: LogPolicy
    authority: bytes

    def commitment(self, message: bytes) -> bytes:
        """Answer with the signed commitment for an epoch; the same bytes each time."""
        return self.party.commit(
            CommitmentRequest.from_cbor(message, max_bytes=MAX_COMMITMENT_REQUEST).epoch
        )

    def reveal(self, message: bytes) -> bytes:
        """Answer with the signed reveal, made once per epoch under one seal and stored before it is returned.
        Errors: those of `BeaconParty.reveal`; CONFLICT for an epoch that was passed over.
        """
        shown = RevealRequest.from_cbor(message, max_bytes=MAX_MESSAGE)
        with self.memory.lock:
            if self.memory.passed(shown.epoch):
                raise CounterfoilError(
                    Code.CONFLICT, f"epoch {shown.epoch} was drawn without the reveal of this party"
                )
            near = self.memory.near(shown.epoch)
            statement, revealed = self.party.reveal(
                shown.epoch,
                opened=shown.open,
                open_proof=shown.open_proof,
                seal=shown.seal,
                seal_proof=shown.seal_proof,
                log=self.log,
                authority=self.authority,
                revealed=[kept.revealed for kept in near],
            )
            known = self.memory.find(revealed.epoch)
            if known is not None:
                return known.statement
            self.memory.keep(Kept(revealed, statement))
            return statement
