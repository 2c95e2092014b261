"""The sampling rule (protocol §6.1): pure functions of the seed and of log entries."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

from shared.codec.hashing import labelled_hash, labelled_mac
from shared.statements.disclosures import DisclosureReason
from shared.statements.request import PPM


@dataclass(frozen=True, slots=True)
class Logged:
    """One receipt of the epoch: log entry, log index, and the key bundle that signed it."""

    entry: bytes
    index: int
    bundle: bytes


@dataclass(frozen=True, slots=True)
class DrawnReceipt:
    """One receipt of the sample, and the rule that draws it."""

    entry: bytes
    index: int
    reason: DisclosureReason


def selection_seed(origin: str, size: int, root: bytes, r: bytes) -> bytes:
    """Return the seed of an epoch sealed at (size, root), 32 bytes."""
    return labelled_hash("selection", origin.encode(), size.to_bytes(8, "big"), root, r)


def ticket(seed: bytes, entry: bytes) -> int:
    """Return an entry's lot: uniform below 2^256 to anybody who does not know the seed."""
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


def by_bundle(receipts: Iterable[Logged]) -> dict[bytes, list[bytes]]:
    """Return the entries of each key bundle's receipts, in order of index."""
    entries: dict[bytes, list[bytes]] = {}
    for receipt in sorted(receipts, key=lambda receipt: receipt.index):
        entries.setdefault(receipt.bundle, []).append(receipt.entry)
    return entries


def sample(
    seed: bytes,
    receipts: Sequence[Logged],
    *,
    rate_ppm: int,
    floor: int,
    whole: bool,
    raised: Mapping[bytes, int] | None = None,
) -> list[DrawnReceipt]:
    """Return the drawn receipts of an epoch, in order of index; all of them if it is audited `whole`.

    `raised` gives the floor of the key bundles that have another one than `floor`.
    """
    floors = raised or {}
    smallest = {
        entry
        for bundle, entries in by_bundle(receipts).items()
        for entry in floor_of(seed, entries, floors.get(bundle, floor))
    }
    drawn = []
    for receipt in sorted(receipts, key=lambda receipt: receipt.index):
        if whole:
            drawn.append(DrawnReceipt(receipt.entry, receipt.index, DisclosureReason.WHOLE))
        elif drawn_by_rate(seed, receipt.entry, rate_ppm):
            drawn.append(DrawnReceipt(receipt.entry, receipt.index, DisclosureReason.DRAW))
        elif receipt.entry in smallest:
            drawn.append(DrawnReceipt(receipt.entry, receipt.index, DisclosureReason.FLOOR))
    return drawn
