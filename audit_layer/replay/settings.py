"""Configuration of an audit worker."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from shared.envelope.hpke import hpke_key_id
from shared.runtime.config import Settings
from shared.runtime.errors import Code, CounterfoilError


class PartySettings(Settings):
    """A witness or custodian as the worker reaches it."""

    name: str
    url: str
    hpke_key: str | None = None
    """Hex of a custodian's HPKE public key; witnesses have none."""


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
        return hpke_key_id(parse_hex_key(self.hpke_key, f"the HPKE key of {self.name}"))


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


class WorkerSettings(Settings):
    """`worker.toml`."""

    name: str
    origin: str
    """Origin line of the log."""
    database_dsn_file: Path
    broker_url_file: Path
    audit_server: str
    """host:port of the audit server's gRPC API."""
    ca_file: Path
    keys_folder: Path
    erasure_key_file: Path | None = None
    """The audit server's, where it has one: the worker reads what is stored under it."""
    models: tuple[Path, ...]
    """The auditor's own checkpoints."""
    replay_threads: int = Field(default=1, ge=1)
    lease_seconds: float = Field(default=120, gt=0)
    """After so long without a sign of life of its worker, work is begun by another attempt."""
    replay_seconds: float = Field(default=120, gt=0)
    """What a replay may take, and for each token of prompt and output:"""
    replay_seconds_per_token: float = Field(default=0.05, ge=0)
    custodians: tuple[PartySettings, ...] = ()
    witnesses: tuple[PartySettings, ...] = ()
    peers: tuple[PeerSettings, ...] = ()
    authority: AuthoritySettings | None = None
    tick_seconds: float = Field(default=1.0, gt=0)
    """How often beat has the epoch clock looked at."""
    hint_seconds: float = Field(default=30.0, gt=0)
    """How long waiting work is left before it is offered again."""
    evidence_timeout_seconds: float = Field(default=20, gt=0)


def parse_hex_key(text: str, what: str) -> bytes:
    """Return the bytes of a key written in hex; CONFIGURATION names the key that is not."""
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise CounterfoilError(Code.CONFIGURATION, f"{what} is not hexadecimal") from error
