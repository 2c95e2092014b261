"""What the fused arithmetics (protocol §7.2.4) ask of a model, whichever backend computes them."""

from typing import Final

import torch
from torch import Tensor

from shared.runtime.errors import Code, CounterfoilError

FUSED_16: Final = "fused-16"
FUSED_8: Final = "fused-8"
FUSED: Final = (FUSED_16, FUSED_8)
SEGMENT: Final = 128
"""Positions of one segment of attention."""
MOST: Final = 2.0**32
"""The largest magnitude in a tensor of a model."""
LEAST_EPS: Final = 2.0**-40


def check_tensor(tensor: Tensor) -> None:
    """Raise UNSUPPORTED for a matrix, a bias or a norm's weight with magnitudes for which no sum is defined."""
    if tensor.numel() and not all(abs(float(end)) <= MOST for end in tensor.aminmax()):
        raise CounterfoilError(
            Code.UNSUPPORTED,
            "the fused arithmetics are not defined for weights beyond 2^32, and this model has some",
            remedy="Serve it under chain-1.",
        )


def check_given(tensor: Tensor) -> None:
    """Check what a backend is given to keep as `check_tensor` does, except for states, which are float32 (R, D)."""
    if tensor.dtype == torch.bfloat16 or tensor.dim() == 1:
        check_tensor(tensor)


def check_eps(eps: float) -> None:
    """Raise UNSUPPORTED for a norm's eps with which a norm might not be finite."""
    if eps < LEAST_EPS:
        raise CounterfoilError(
            Code.UNSUPPORTED,
            f"the fused arithmetics are not defined for a norm's eps below 2^-40, and this model has {eps}",
            remedy="Serve it under chain-1.",
        )
