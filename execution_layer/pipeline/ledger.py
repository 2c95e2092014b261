"""Row hashes of what enters and leaves a place of a chain, kept beside keys and values (protocol §4.10.3). Pure.

Rows of one sequence are attended to by later ones of it, and by other sequences that have the same beginning. So a block's
hashes stay with it, with the identity of everything before it: nobody can have rows computed behind a block that was itself
computed behind something else.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from execution_layer.pipeline.boundary import malformed
from shared.envelope.boundary import ROW_HASH_BYTES
from shared.model.backend import Rows

_NOTHING: Final = bytes(32)
"""The identity of what is before position 0."""


@dataclass(slots=True, eq=False)
class Block:
    """The row hashes, concatenated, of what one block of keys and values was computed from, and of what came of it."""

    before: bytes
    """The identity of all rows before it."""
    entered: bytearray = field(default_factory=bytearray)
    left: bytearray = field(default_factory=bytearray)

    @property
    def identity(self) -> bytes:
        """What it is computed from, and behind what."""
        return sha256(self.before + self.entered).digest()


@dataclass(slots=True, eq=False)
class Track:
    """Where one sequence has been. It keeps the hashes when the memory of its keys and values is another's."""

    blocks: list[Block] = field(default_factory=list)
    position: int = 0
    """Of the row that enters next."""
    compute_s: float = 0.0

    @property
    def positions(self) -> int:
        """How many have left, from position 0 on without a gap."""
        return sum(len(block.left) for block in self.blocks) // ROW_HASH_BYTES

    def rows(self, count: int) -> tuple[list[bytes], list[bytes]]:
        """Return the hashes of the first `count` rows that entered, and of those that left."""
        entered = b"".join(block.entered for block in self.blocks)
        left = b"".join(block.left for block in self.blocks)
        return _split(entered, count), _split(left, count)


class Ledger:
    """The hashes beside one cache of keys and values. Safe to call from several threads."""

    def __init__(self, size: int) -> None:
        """A block has `size` positions."""
        self._size = size
        self._blocks: dict[int, Block] = {}
        self._lock = threading.Lock()

    def enter(self, track: Track, rows: Rows, hashes: Sequence[bytes]) -> list[Block]:
        """Note the hashes of rows that are about to be computed; return the block of each.

        MALFORMED if they would not follow what they claim to follow.
        """
        with self._lock:
            if not self._continues(track, rows):
                self._begin_again(track, rows)
            return self._note(track, rows, hashes)

    def leave(self, blocks: Sequence[Block], hashes: Sequence[bytes]) -> None:
        """Note the hashes of the same rows once they were computed."""
        with self._lock:
            for block, digest in zip(blocks, hashes, strict=True):
                block.left += digest

    def _continues(self, track: Track, rows: Rows) -> bool:
        """Whether a track goes on in the blocks in which it has been."""
        known = zip(rows.blocks, track.blocks, strict=False)
        return rows.position == track.position and all(
            self._blocks.get(number) is block for number, block in known
        )

    def _begin_again(self, track: Track, rows: Rows) -> None:
        """Let a track begin at position 0, or behind whole blocks that hold what comes before."""
        whole, rest = divmod(rows.position, self._size)
        if rest or len(rows.blocks) < whole:
            raise malformed("rows that begin where no block does")
        identity, blocks = _NOTHING, []
        for number in rows.blocks[:whole]:
            block = self._blocks.get(number)
            if block is None or block.before != identity or len(block.entered) < self._full:
                raise malformed("rows that follow keys and values that were computed behind others")
            identity = block.identity
            blocks.append(block)
        track.blocks, track.position = blocks, rows.position

    def _note(self, track: Track, rows: Rows, hashes: Sequence[bytes]) -> list[Block]:
        if len(rows.blocks) * self._size < rows.position + len(hashes):
            raise malformed("rows that have no blocks")
        noted = []
        for position, digest in enumerate(hashes, start=rows.position):
            place = position // self._size
            if place == len(track.blocks):
                before = track.blocks[-1].identity if track.blocks else _NOTHING
                block = self._blocks[rows.blocks[place]] = Block(before)
                track.blocks.append(block)
            track.blocks[place].entered += digest
            noted.append(track.blocks[place])
        track.position += len(hashes)
        return noted

    @property
    def _full(self) -> int:
        return self._size * ROW_HASH_BYTES


def _split(hashes: bytes, count: int) -> list[bytes]:
    size = ROW_HASH_BYTES
    return [hashes[row * size : (row + 1) * size] for row in range(count)]
