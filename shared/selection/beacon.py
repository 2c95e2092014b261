"""The commit–reveal beacon (protocol §6.1): nobody knows R while the epoch's receipts are signed."""

from collections.abc import Sequence

from shared.codec.hashing import labelled_hash, labelled_mac


def reveal(secret: bytes, origin: str, epoch: int) -> bytes:
    """Return what a party reveals for an epoch of one log, 32 bytes."""
    return labelled_mac(secret, "beacon", origin.encode(), epoch.to_bytes(8, "big"))


def commitment(party: str, origin: str, epoch: int, revealed: bytes) -> bytes:
    """Return the commitment to a reveal, 32 bytes."""
    place = epoch.to_bytes(8, "big")
    return labelled_hash("beacon-commitment", party.encode(), origin.encode(), place, revealed)


def combine(reveals: Sequence[bytes]) -> bytes:
    """Return R from the reveals, in the order in which the open statement names their commitments."""
    return labelled_hash("beacon", *reveals)
