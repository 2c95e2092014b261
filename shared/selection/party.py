"""A party of the beacon: commits to an epoch, and reveals once its seal is witnessed (protocol §6.1).

Pure: the caller must store what a party has to remember (`Revealed`) before the reveal is returned.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import Signer
from shared.selection import beacon
from shared.selection.epoch import open_epoch, require
from shared.statements.beacons import BeaconCommitment, BeaconReveal
from shared.statements.cose import entry_of, open_as, sign
from shared.translog.policy import LogPolicy

SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class Revealed:
    """What a party revealed: for this epoch, under this seal, over the log indexes [first, size)."""

    epoch: int
    seal: bytes
    first: int
    size: int


@dataclass(frozen=True, slots=True, repr=False)
class BeaconParty:
    """A witness or custodian with its beacon secret (32 bytes), for the log `origin`."""

    name: str
    origin: str
    secret: bytes
    key: Signer

    def __post_init__(self) -> None:
        if len(self.secret) != SECRET_BYTES:
            raise CounterfoilError(Code.CONFIGURATION, "a beacon secret must be 32 bytes long")

    def __repr__(self) -> str:
        return f"BeaconParty({self.name!r}, {self.origin!r})"

    def commit(self, epoch: int) -> bytes:
        """Return the signed commitment for an epoch; always the same bytes."""
        revealed = beacon.reveal(self.secret, self.origin, epoch)
        value = BeaconCommitment(
            party=self.name,
            origin=self.origin,
            epoch=epoch,
            commitment=beacon.commitment(self.name, self.origin, epoch, revealed),
        )
        return sign(value, key=self.key, issuer=self.name)

    def reveal(
        self,
        number: int,
        *,
        opened: bytes,
        open_proof: str,
        seal: bytes,
        seal_proof: str,
        log: LogPolicy,
        authority: bytes,
        revealed: Iterable[Revealed],
    ) -> tuple[bytes, Revealed]:
        """Return the signed reveal for the epoch shown, and what to remember of it.

        `number` is the requested epoch. `revealed` is what this party remembers of that epoch and of the
        ones before and after it. It reveals under one seal per epoch, and only for epochs whose order in
        the log is that of their numbers: otherwise the authority could look at R first and choose the
        range, the root or the number of draws afterwards. Errors: those of `open_epoch`; FORK for a
        second seal or an overlap; BAD_PROOF for another epoch, or if the open statement does not name
        this party's commitment.
        """
        epoch = open_epoch(
            opened, open_proof, seal, seal_proof, log=log, origin=self.origin, authority=authority
        )
        require(epoch.opened.epoch == number, "the statements are of another epoch")
        require(
            entry_of(self.commit(number)) in epoch.opened.commitments,
            "the open statement does not name this party's commitment",
        )
        now = Revealed(number, epoch.seal_entry, epoch.seal.first, epoch.seal.size)
        for before in revealed:
            _check_apart(before, now)
        value = BeaconReveal(
            party=self.name,
            origin=self.origin,
            epoch=number,
            seal=epoch.seal_entry,
            reveal=beacon.reveal(self.secret, self.origin, number),
        )
        return sign(value, key=self.key, issuer=self.name), now


def read_commitment(raw: bytes, party: str, origin: str, epoch: int) -> BeaconCommitment:
    """Parse a party's answer as its commitment; BAD_PROOF if it is another's, MALFORMED if it is not one.
    Its signature is not checked: that takes the party's key.
    """
    value, statement = open_as(BeaconCommitment, raw, None)
    require(
        (value.party, statement.issuer, value.origin, value.epoch) == (party, party, origin, epoch),
        f"the commitment of {party} belongs to another party, or is for another log or epoch",
    )
    return value


def read_reveal(raw: bytes, committed: bytes, seal: bytes) -> BeaconReveal:
    """Parse a party's answer as its reveal under the seal (an entry); BAD_PROOF if it does not open its commitment."""
    expected, commitment = open_as(BeaconCommitment, committed, None)
    value, statement = open_as(BeaconReveal, raw, None)
    require(
        (value.party, value.origin, value.epoch, value.seal, statement.issuer, statement.kid)
        == (
            expected.party,
            expected.origin,
            expected.epoch,
            seal,
            commitment.issuer,
            commitment.kid,
        )
        and beacon.commitment(value.party, value.origin, value.epoch, value.reveal)
        == expected.commitment,
        f"the reveal of {expected.party} does not open its commitment under this seal",
    )
    return value


def _check_apart(before: Revealed, now: Revealed) -> None:
    if before.epoch == now.epoch:
        if before.seal != now.seal:
            raise CounterfoilError(Code.FORK, f"epoch {now.epoch} was presented with two seals")
        return
    earlier, later = sorted((before, now), key=lambda revealed: revealed.epoch)
    if earlier.size > later.first:
        raise CounterfoilError(
            Code.FORK, f"epoch {later.epoch} begins before epoch {earlier.epoch} ends"
        )
