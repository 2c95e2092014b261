"""What calls for a disclosure, and what custodians are shown of it: a draw, or the audit request of the tenant."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


class Ground(Protocol):
    """What calls for a disclosure, as custodians are shown it."""

    @property
    def before(self) -> Sequence[bytes]:
        """What the authority logs before the disclosure request, and may have been killed before it did."""

    @property
    def witnessed(self) -> Mapping[str, bytes]:
        """Statements that are shown with a proof that they are witnessed, by their name in a release case."""

    @property
    def besides(self) -> Mapping[str, Any]:
        """What else is shown, by its name in a release case."""


@dataclass(frozen=True, slots=True)
class DrawnGround:
    """A draw, and what it follows from."""

    opened: bytes
    seal: bytes
    draw: bytes
    commitments: tuple[bytes, ...]
    reveals: tuple[bytes, ...]
    floor_entries: tuple[bytes, ...] = ()
    """The node's receipts of the epoch, when the reason is `floor`."""

    @property
    def before(self) -> Sequence[bytes]:
        """The draw."""
        return (self.draw,)

    @property
    def witnessed(self) -> Mapping[str, bytes]:
        """Open statement, seal and draw."""
        return {"open": self.opened, "seal": self.seal, "draw": self.draw}

    @property
    def besides(self) -> Mapping[str, Any]:
        """What the beacon's parties committed to and revealed."""
        return {
            "commitments": self.commitments,
            "reveals": self.reveals,
            "floor_entries": self.floor_entries or None,
        }


@dataclass(frozen=True, slots=True)
class AskedGround:
    """The audit request of the receipt's tenant."""

    audit: bytes

    @property
    def before(self) -> Sequence[bytes]:
        """Nothing: the tenant logged its audit request itself."""
        return ()

    @property
    def witnessed(self) -> Mapping[str, bytes]:
        """The audit request."""
        return {"audit": self.audit}

    @property
    def besides(self) -> Mapping[str, Any]:
        """Nothing."""
        return {}
