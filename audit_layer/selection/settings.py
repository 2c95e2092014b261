"""Configuration of the selection authority."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from shared.envelope.hpke import hpke_key_id
from shared.parties.settings import key_bytes
from shared.runtime.config import Settings


class PeerSettings(Settings):
    """A worker to whom the authority may disclose."""

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
    """How long a missing reveal is waited for; after that the epoch is audited whole. A draw is due in an hour."""
    rate_ppm: int = Field(default=10_000, ge=0, le=1_000_000)
    floor: int = Field(default=1, ge=0)
    disclosure_seconds: float = Field(default=86_400, gt=0)
    """From a draw to the deadline after which missing evidence counts against whoever withheld it."""
    seal_period: SealPeriod = "day"
    """What one tenant seal covers, in UTC."""
    seal_grace_seconds: float = Field(default=3600, ge=0)
    """How long after its period a tenant's seal waits for receipts; what comes later is late in the next."""
