"""Exact commitments: SHA-256 over the final hidden states of every 32 positions.

Positions are numbered from 0 over prompt and output. With P prompt tokens and N output tokens, the states
of positions 0 … P-2 form the prompt blocks and those of positions P-1 … P+N-2 the output blocks: output
block b holds the positions whose logits chose output tokens 32b … 32b+31. The last token's own state is
never needed. A row is the state's little-endian bytes in the profile's dtype, after the final norm.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

COMMITMENT_BLOCK = 32


@dataclass(frozen=True, slots=True)
class Activations:
    """Block hashes of one sequence (32 bytes each); the last block of each list may be short.

    Of a sequence that ended before its first output token there are the prompt blocks that were complete by then.
    """

    prompt_blocks: tuple[bytes, ...]
    output_blocks: tuple[bytes, ...]

    def leaves(self) -> tuple[bytes, ...]:
        """Return all block hashes, prompt blocks first."""
        return self.prompt_blocks + self.output_blocks


class _Blocks:
    """Hashes of every 32 rows of a growing list, and of the rows after them."""

    def __init__(self, row_bytes: int, hashes: Sequence[bytes] = ()) -> None:
        self.hashes = list(hashes)
        self._block_bytes = COMMITMENT_BLOCK * row_bytes
        self._running = sha256()
        self._filled = 0

    def append(self, rows: memoryview) -> None:
        while len(rows):
            part = rows[: self._block_bytes - self._filled]
            rows = rows[len(part) :]
            self._running.update(part)
            self._filled += len(part)
            if self._filled == self._block_bytes:
                self.hashes.append(self._running.digest())
                self._running, self._filled = sha256(), 0

    def closed(self) -> tuple[bytes, ...]:
        """Return all hashes as if the list ended here, including that of a short last block."""
        rest = (self._running.digest(),) if self._filled else ()
        return (*self.hashes, *rest)


class ActivationHasher:
    """Hash a sequence's rows in order of position, in any chunking.

    Besides the commitment it hashes all positions in blocks counted from position 0, so that a later sequence that
    begins with the same tokens can `resume` after them.
    """

    def __init__(self, prompt_length: int, row_bytes: int) -> None:
        self.position = 0
        """The position whose row comes next."""
        self._last = prompt_length - 1
        self._row_bytes = row_bytes
        self._aligned = _Blocks(row_bytes)
        self._output = _Blocks(row_bytes)
        self._prompt_blocks: tuple[bytes, ...] | None = None
        """Set once the row of the last prompt position has been appended."""

    def append(self, rows: bytes | memoryview) -> None:
        """Add the states of the next len(rows) / row_bytes positions."""
        assert len(rows) % self._row_bytes == 0
        view = memoryview(rows)
        before = max(0, self._last - self.position) * self._row_bytes
        self._aligned.append(view[:before])
        if len(view) > before:
            if self._prompt_blocks is None:
                self._prompt_blocks = self._aligned.closed()
            self._aligned.append(view[before:])
            self._output.append(view[before:])
        self.position += len(view) // self._row_bytes

    def aligned(self, first: int, count: int) -> tuple[bytes, ...]:
        """Return the hashes of `count` whole blocks from block `first` on, counted from position 0."""
        hashes = tuple(self._aligned.hashes[first : first + count])
        assert len(hashes) == count
        return hashes

    def resume(self, first: int, hashes: Sequence[bytes]) -> int:
        """Continue after blocks `first`, `first` + 1, … given their hashes instead of their rows.
        The blocks are counted from position 0, begin at or before the known rows' end, and end before the last prompt
        position. Returns how many rows no longer need to be appended.
        """
        end = (first + len(hashes)) * COMMITMENT_BLOCK
        saved = end - self.position
        if saved <= 0:
            return 0
        assert first * COMMITMENT_BLOCK <= self.position
        assert end <= self._last
        self._aligned = _Blocks(self._row_bytes, (*self._aligned.hashes[:first], *hashes))
        self.position = end
        return saved

    def finish(self) -> Activations:
        """Return all hashes. The last output block may be short; the last prompt block only once every position before the
        prompt's last one was appended: a sequence that ends earlier commits to whole blocks (protocol §4.7).
        """
        prompt = self._prompt_blocks
        if prompt is None:
            whole = self.position == self._last
            prompt = self._aligned.closed() if whole else tuple(self._aligned.hashes)
        return Activations(prompt, self._output.closed())
