"""Logarithm and exponential in float64 with the same bits on every processor; numpy's differ with the instruction set."""

import numpy as np
from numpy.typing import NDArray

from shared.model.native.library import kernels

Floats = NDArray[np.float64]


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
