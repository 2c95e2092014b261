"""The sampling rule (protocol §6.1): pure functions of the seed and of log entries."""

from collections.abc import Iterable, Sequence
from hashlib import sha256

from shared.codec.hashing import labelled_hash, labelled_mac
from shared.statements.request import PPM


def selection_seed(origin: str, size: int, root: bytes, r: bytes) -> bytes:
    """Return the seed of an epoch that was sealed at (size, root), 32 bytes."""
    return labelled_hash("selection", origin.encode(), size.to_bytes(8, "big"), root, r)


def ticket(seed: bytes, entry: bytes) -> int:
    """Return an entry's lot: uniform below 2^256 to whoever does not know the seed."""
    return int.from_bytes(labelled_mac(seed, "draw", entry), "big")


def drawn_by_rate(seed: bytes, entry: bytes, rate_ppm: int) -> bool:
    """Whether the entry is drawn at a rate of `rate_ppm` in a million."""
    return ticket(seed, entry) < rate_ppm * 2**256 // PPM


def floor_of(seed: bytes, entries: Iterable[bytes], m: int) -> frozenset[bytes]:
    """Return the `m` entries with the smallest lots (all, if there are fewer)."""
    return frozenset(sorted(set(entries), key=lambda entry: (ticket(seed, entry), entry))[:m])


def node_hash(entries: Sequence[bytes]) -> bytes:
    """Return the seal's hash over one key bundle's receipts: their entries in order of index."""
    return sha256(b"".join(entries)).digest()
