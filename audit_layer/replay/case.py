"""What the judge receives: one disclosed request."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Member:
    """The receipt of one place of a chain, and the order that it answers, as they are in the trail."""

    receipt: bytes
    order: bytes


@dataclass(frozen=True, slots=True)
class ChainCase:
    """What else the log has about a chain (protocol §4.10)."""

    bundles: tuple[bytes, ...]
    """The key bundles that the envelope's header names as stages, in its order, as far as the log has them."""
    members: tuple[Member, ...]
    """The head's receipt, then those of the stages that it lists and the log has."""


@dataclass(frozen=True, slots=True, repr=False)
class Case:
    """One disclosed request. `secret` is the transcript secret (32 bytes); everything else is as it was signed."""

    receipt: bytes
    """The receipt statement; its signature was verified when it entered the trail and again by the worker."""
    order: bytes
    """The order statement that the receipt answers, verified likewise."""
    envelope: bytes
    frames: Iterable[bytes]
    """Ciphertexts, in order: the head's, for a stage's receipt. The judge passes over those of a single node once, so that they
    need not be in memory together."""
    final_record: bytes
    """Empty if there is none."""
    secret: bytes
    chain: ChainCase | None = None
    """None if no chain answered."""
