"""Hidden states as the bits of bfloat16 (numpy has no such type): u16 arrays of shape (rows, width)."""

import numpy as np
from numpy.typing import NDArray

Bits = NDArray[np.uint16]
Values = NDArray[np.float32]


def to_bits(values: Values) -> Bits:
    """Round float32 to bfloat16, to nearest with ties to even; finite values only."""
    wide = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32).astype(np.uint64)
    found: Bits = ((wide + 0x7FFF + (wide >> 16 & 1)) >> 16).astype(np.uint16)
    return found


def to_values(bits: Bits) -> Values:
    """Return what the bits stand for, which float32 holds exactly."""
    found: Values = (bits.astype(np.uint32) << 16).view(np.float32)
    return found
