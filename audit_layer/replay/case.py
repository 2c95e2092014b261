"""What the judge receives: one disclosed request."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, repr=False)
class Case:
    """One disclosed request. `secret` is the transcript secret (32 bytes); everything else is as it was signed."""

    receipt: bytes
    """The receipt statement; its signature was verified when it entered the trail and again by the worker."""
    order: bytes
    """The order statement that the receipt answers, verified likewise."""
    envelope: bytes
    frames: Iterable[bytes]
    """Ciphertexts, in order. The judge passes over them once, so that they need not be in memory together."""
    final_record: bytes
    """Empty if there is none."""
    secret: bytes
