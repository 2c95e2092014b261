"""Configuration of the selection authority."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from shared.envelope.hpke import hpke_key_id
from shared.parties.settings import key_bytes
from shared.runtime.config import Settings


class PeerSettings(Settings):
    """A worker to which the authority may disclose."""

    name: str
    hpke_key: str
    """Hex of the raw HPKE public key."""
    signing_key: str
    """Hex of the raw Ed25519 public key."""

    @property
    def hpke_key_id(self) -> bytes:
        """Key id of the HPKE key."""
        return hpke_key_id(key_bytes(self.hpke_key, f"the HPKE key of {self.name}"))


SealPeriod = Literal["day", "month"]


class AuthoritySettings(Settings):
    """The selection authority: one worker of an installation holds its key."""

    key_file: Path
    epoch_seconds: float = Field(default=600, gt=0)
    reveal_seconds: float = Field(default=60, gt=0, le=1800)
    """How long to wait for a missing reveal; after that the whole epoch is audited. A draw is due within an hour."""
    rate_ppm: int = Field(default=10_000, ge=0, le=1_000_000)
    floor: int = Field(default=1, ge=0)
    strict_floor: int = Field(default=0, ge=0)
    """The floor of nodes that are suspended or watched; without effect unless it is above `floor`. Custodians release nothing
    of an epoch whose strict floor is above their `max_floor`, so agree on it with them first."""
    disclosure_seconds: float = Field(default=86_400, gt=0)
    """Time from a draw to the deadline, after which missing evidence counts against whoever withheld it."""
    asked_within_seconds: float = Field(default=86_400, gt=0)
    """How long after its receipt is in the log a request's tenant may ask for its audit: nodes must keep their evidence for
    this long, plus `disclosure_seconds`."""
    max_asked_per_day: int = Field(default=250, ge=0)
    """How many audits one tenant can have by asking, in any 24 hours. Custodians bound what all tenants ask for together."""
    seal_period: SealPeriod = "day"
    """The period that one tenant seal covers, in UTC."""
    seal_grace_seconds: float = Field(default=3600, ge=0)
    """How long after its period a tenant seal waits for receipts; later ones are counted as late in the next."""
