"""Exact commitments: SHA-256 over the final hidden states of every 32 positions.

Positions are numbered from 0 over prompt and output. With P prompt tokens and N output tokens, the states
of positions 0 … P-2 form the prompt blocks and those of positions P-1 … P+N-2 the output blocks: block b
holds the positions whose logits chose output tokens 32b … 32b+31. The last token's own state is never
needed. A row is the state's little-endian bytes in the profile's dtype, after the final norm.
"""

from dataclasses import dataclass, field
from hashlib import sha256

BLOCK = 32


@dataclass(frozen=True, slots=True)
class Activations:
    """Block hashes of one sequence (32 bytes each); the last block of each list may be short."""

    prompt_blocks: tuple[bytes, ...]
    output_blocks: tuple[bytes, ...]

    def leaves(self) -> tuple[bytes, ...]:
        """Return all block hashes, prompt blocks first."""
        return self.prompt_blocks + self.output_blocks


@dataclass(slots=True)
class ActivationHasher:
    """Hash a sequence's rows in order of position, in any chunking."""

    prompt_length: int
    row_bytes: int
    _position: int = 0
    _pending: bytearray = field(default_factory=bytearray)
    _prompt_blocks: list[bytes] = field(default_factory=list)
    _output_blocks: list[bytes] = field(default_factory=list)

    def append(self, rows: bytes | memoryview) -> None:
        """Add the states of the next len(rows) / row_bytes positions."""
        assert len(rows) % self.row_bytes == 0
        start = 0
        while start < len(rows):
            in_prompt = self._position < self.prompt_length - 1
            origin = 0 if in_prompt else self.prompt_length - 1
            end = origin + ((self._position - origin) // BLOCK + 1) * BLOCK
            if in_prompt:
                end = min(end, self.prompt_length - 1)
            take = min((end - self._position) * self.row_bytes, len(rows) - start)
            self._pending += rows[start : start + take]
            start += take
            self._position += take // self.row_bytes
            if self._position == end:
                self._close(in_prompt=in_prompt)

    def _close(self, *, in_prompt: bool) -> None:
        blocks = self._prompt_blocks if in_prompt else self._output_blocks
        blocks.append(sha256(self._pending).digest())
        self._pending.clear()

    def finish(self) -> Activations:
        """Close the last, possibly short block and return all hashes."""
        if self._pending:
            self._close(in_prompt=self._position <= self.prompt_length - 1)
        return Activations(tuple(self._prompt_blocks), tuple(self._output_blocks))
