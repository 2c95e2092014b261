"""Epochs and draws: what the audit authority signs about selection (protocol §6.1)."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, ClassVar

from shared.statements.rules import Count, Whole
from shared.statements.schema import Boolean, Bytes32, Ms, Ppm, Statement, Uint

MAX_PARTIES = 64


@dataclass(frozen=True, slots=True)
class EpochOpen(Statement):
    """Opens an epoch: names the beacon's commitments and the rule of selection."""

    TYPE: ClassVar[str] = "epoch-open"
    CRITICAL: ClassVar[frozenset[str]] = frozenset({"strict_floor"})

    epoch: Uint
    at: Ms
    first: Uint
    commitments: Annotated[tuple[Bytes32, ...], Count(0, MAX_PARTIES)]
    """Entries of the beacon-commitment statements; their order is that of the reveals."""
    rate_ppm: Ppm
    floor: Annotated[int, Whole(2**32 - 1)]
    strict_floor: Annotated[int, Whole(2**32 - 1, 1)] | None = None
    """The floor of key bundles that the seal names as `strict`; above `floor`."""

    @property
    def subject(self) -> str:
        """The epoch."""
        return f"epoch-{self.epoch}"

    def check(self) -> None:
        """Check that no commitment is named twice."""
        self.require(
            len(set(self.commitments)) == len(self.commitments), "names a commitment twice"
        )
        self.require(
            self.strict_floor is None or self.strict_floor > self.floor,
            "has a strict floor that is not above the floor",
        )


@dataclass(frozen=True, slots=True)
class EpochSeal(Statement):
    """Closes an epoch over the log indexes [first, size)."""

    TYPE: ClassVar[str] = "epoch-seal"
    CRITICAL: ClassVar[frozenset[str]] = frozenset({"strict"})

    epoch: Uint
    at: Ms
    open: Bytes32
    first: Uint
    size: Uint
    root: Bytes32
    nodes: Annotated[dict[Bytes32, Bytes32], Count(0, 8192)]
    """Key bundle → SHA-256 of its receipts' entries in this epoch (`selection.draw.node_hash`)."""
    strict: Annotated[tuple[Bytes32, ...], Count(1, 8192)] | None = None
    """Those of the key bundles, rising, whose nodes were suspended or watched by the verdicts below `size`."""

    @property
    def subject(self) -> str:
        """The epoch."""
        return f"epoch-{self.epoch}"

    def check(self) -> None:
        """Check the range."""
        self.require(self.first <= self.size, "ends before it begins")
        strict = self.strict or ()
        self.require(
            all(a < b for a, b in pairwise(strict)) and set(strict) <= self.nodes.keys(),
            "has strict key bundles that do not rise or are not among its nodes",
        )


@dataclass(frozen=True, slots=True)
class Draw(Statement):
    """The epoch's sample. Anyone can recompute it."""

    TYPE: ClassVar[str] = "draw"

    epoch: Uint
    seal: Bytes32
    reveals: Annotated[tuple[Bytes32, ...], Count(0, MAX_PARTIES)]
    """Entries of the beacon-reveal statements in the order of the commitments, without missing ones."""
    whole: Boolean
    seed: Bytes32
    drawn: Annotated[tuple[Uint, ...], Count(0, 2**18)]
    """Log indexes of the drawn receipts, ascending; all of the epoch's receipts if `whole`."""

    @property
    def subject(self) -> str:
        """The epoch."""
        return f"epoch-{self.epoch}"

    def check(self) -> None:
        """Check the order of the indexes."""
        rising = all(a < b for a, b in pairwise(self.drawn))
        self.require(rising, "does not list its indexes in ascending order")
