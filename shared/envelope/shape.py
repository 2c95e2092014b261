"""The sizes of a response's records: by the classes of protocol §3.2, or constant under time slots (§4.2.1)."""

from dataclasses import dataclass
from typing import Final

from shared.envelope.padding import padded_size
from shared.statements.request import Slots

SMALLEST_FRAME: Final = 64
SMALLEST_FINAL: Final = 256
MAX_FRAME: Final = 2**20
MAX_FINAL: Final = 2**24
TAG: Final = 16
"""Bytes by which a ciphertext is longer than its plaintext."""
FIRST_CLASS: Final = 16
"""Frames in the smallest class of answers."""


@dataclass(frozen=True, slots=True)
class Shape:
    """How the plaintexts of one response are padded."""

    slots: Slots | None = None
    request: int = 0
    """The header's `padded`: the size of the request's body."""

    @property
    def largest_frame(self) -> int:
        """Return the largest plaintext that a frame can have, in bytes."""
        return MAX_FRAME - TAG - 1 if self.slots is None else self.slots.size - 1

    def frame(self, length: int) -> int:
        """Return the size of a frame whose plaintext has `length` bytes."""
        return padded_size(length, SMALLEST_FRAME) if self.slots is None else self.slots.size

    def final(self, length: int, frames: int) -> int:
        """Return the size of a final record whose plaintext has `length` bytes, after `frames` frames."""
        if self.slots is None:
            return padded_size(length, SMALLEST_FINAL)
        least = max(length + 1, 2 * frames * self.slots.size + 4 * self.request + 4096)
        return min(1 << (least - 1).bit_length(), max(MAX_FINAL - TAG, length + 1))

    def most_frames(self, max_tokens: int) -> int:
        """Return the largest number of frames that a response to a request for `max_tokens` tokens can have."""
        return max_tokens + 1 if self.slots is None else min(2**16, 2**25 // self.slots.size)


CLASSES: Final = Shape()
"""That of a response without time slots."""


def frame_class(frames: int) -> int:
    """Return the number of frames that an answer of `frames` frames is filled up to."""
    return FIRST_CLASS << (max(0, frames - 1) // FIRST_CLASS).bit_length()
