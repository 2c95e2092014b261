"""What the parties of the beacon sign (protocol §6.1)."""

from dataclasses import dataclass
from typing import ClassVar

from shared.statements.schema import Bytes32, Line, Name, Statement, Uint


@dataclass(frozen=True, slots=True)
class BeaconCommitment(Statement):
    """Binds a party to its reveal before the epoch's receipts are signed."""

    TYPE: ClassVar[str] = "beacon-commitment"

    party: Name
    origin: Line
    epoch: Uint
    commitment: Bytes32

    @property
    def subject(self) -> str:
        """The epoch."""
        return f"epoch-{self.epoch}"


@dataclass(frozen=True, slots=True)
class BeaconReveal(Statement):
    """Opens a commitment, for one seal only: under another seal it counts as missing."""

    TYPE: ClassVar[str] = "beacon-reveal"

    party: Name
    origin: Line
    epoch: Uint
    seal: Bytes32
    """Entry of the epoch-seal statement that the party saw."""
    reveal: Bytes32

    @property
    def subject(self) -> str:
        """The epoch."""
        return f"epoch-{self.epoch}"
