"""Functions that the host computes for every backend, with the same bits on every processor; numpy's vary by instruction set.

Logarithm and exponential are the sampler's; tables of angles are what a backend rotates queries and keys by.
"""

import numpy as np
from numpy.typing import NDArray

from shared.model.native.library import kernels

Floats = NDArray[np.float64]
Table = NDArray[np.float32]


def ln(x: Floats) -> Floats:
    """Return natural logarithms of normal numbers above 0, error below 1 ulp."""
    x = np.ascontiguousarray(x, dtype=np.float64)
    out = np.empty_like(x)
    kernels().ln(x.ctypes.data, x.size, out.ctypes.data)
    return out


def exp(x: Floats) -> Floats:
    """Return exponentials of numbers up to 0 (−∞ included), error below 1 ulp; below −700 it is 0."""
    x = np.ascontiguousarray(x, dtype=np.float64)
    out = np.empty_like(x)
    kernels().exp(x.ctypes.data, x.size, out.ctypes.data)
    return out


def angles(frequencies: Floats, positions: int) -> tuple[Table, Table]:
    """Return cosines and sines of position × frequency, each (positions, frequencies), for positions from 0.

    A frequency is rounded to float32, its products with positions are exact in float64, and cosine and sine are computed by plain
    operations there.
    """
    rounded = np.ascontiguousarray(frequencies, dtype=np.float32)
    cosines, sines = (np.empty((positions, rounded.size), dtype=np.float32) for _ in range(2))
    pointers = (rounded.ctypes.data, cosines.ctypes.data, sines.ctypes.data)
    kernels().rotary(pointers[0], rounded.size, positions, 1.0, *pointers[1:])
    return cosines, sines
