"""The draw over one epoch's receipts, pure (protocol §6.1, steps 4 and 5)."""

from collections.abc import Sequence
from dataclasses import dataclass

from shared.selection.beacon import combine
from shared.selection.draw import drawn_by_rate, floor_of, selection_seed
from shared.statements.audits import DrawReason, EpochOpen, EpochSeal


@dataclass(frozen=True, slots=True)
class Logged:
    """One receipt of the epoch: log entry, log index, and the key bundle that signed it."""

    entry: bytes
    index: int
    bundle: bytes


@dataclass(frozen=True, slots=True)
class DrawnReceipt:
    """One receipt of the sample, and by which rule it is in."""

    entry: bytes
    index: int
    reason: DrawReason


def draw_receipts(
    receipts: Sequence[Logged],
    *,
    origin: str,
    seal: EpochSeal,
    opened: EpochOpen,
    reveals: Sequence[bytes],
    whole: bool,
) -> tuple[bytes, list[DrawnReceipt]]:
    """Return (seed, sample in order of index). `whole` draws every receipt: the beacon was not complete."""
    seed = selection_seed(origin, seal.size, seal.root, combine(reveals))
    by_node: dict[bytes, list[bytes]] = {}
    for receipt in receipts:
        by_node.setdefault(receipt.bundle, []).append(receipt.entry)
    floor = {
        entry for entries in by_node.values() for entry in floor_of(seed, entries, opened.floor)
    }
    drawn = []
    for receipt in sorted(receipts, key=lambda receipt: receipt.index):
        if whole:
            drawn.append(DrawnReceipt(receipt.entry, receipt.index, DrawReason.WHOLE))
        elif drawn_by_rate(seed, receipt.entry, opened.rate_ppm):
            drawn.append(DrawnReceipt(receipt.entry, receipt.index, DrawReason.DRAW))
        elif receipt.entry in floor:
            drawn.append(DrawnReceipt(receipt.entry, receipt.index, DrawReason.FLOOR))
    return seed, drawn
