"""`custodian.toml`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from shared.parties.settings import LogSettings, WorkerSettings
from shared.runtime.config import Settings
from shared.runtime.key_store import KeyStoreSettings
from shared.runtime.metrics_server import MetricsSettings
from shared.runtime.party import PartyCallers
from shared.runtime.tls import TlsFiles
from shared.runtime.traffic import Traffic
from shared.verification.limits import Limits

_DEFAULT = Limits()


class LimitSettings(Settings):
    """The most that this custodian agrees to, whatever the authority says (protocol §6.2.1)."""

    max_rate_ppm: int = Field(default=_DEFAULT.max_rate_ppm, ge=0, le=1_000_000)
    """Highest rate of an epoch, per million: the authority's `rate_ppm`, with room for what you agree to."""
    max_floor: int = Field(default=_DEFAULT.max_floor, ge=0)
    """Highest floor of an epoch: receipts per key bundle that are drawn in any case."""
    max_releases_per_day: int = Field(default=_DEFAULT.max_releases_per_day, ge=0)
    """Releases in any 24 hours, whatever the reason."""
    max_floor_per_day: int = Field(default=_DEFAULT.max_floor_per_day, ge=0)
    """Of these, releases for receipts that only the floor draws."""
    max_whole_per_day: int = Field(default=_DEFAULT.max_whole_per_day, ge=0)
    """Of these, releases for epochs that are audited whole."""
    max_asked_per_day: int = Field(default=_DEFAULT.max_asked_per_day, ge=0)
    """Of these, releases that tenants asked for, whatever the draw says."""
    max_tenant_per_day: int = Field(default=_DEFAULT.max_tenant_per_day, ge=0)
    """Of these, releases about the receipts of any one tenant."""
    max_authority_per_day: int = Field(default=_DEFAULT.max_authority_per_day, ge=0)
    """Of these, releases for requests that are signed with any one key of the authority."""

    @model_validator(mode="after")
    def _leave_room(self) -> Self:
        """No missing reveal, short epoch or tenant that asks may use up what draws by rate need."""
        others = self.max_floor_per_day + self.max_whole_per_day + self.max_asked_per_day
        if others > self.max_releases_per_day:
            raise ValueError(
                "max_floor_per_day, max_whole_per_day and max_asked_per_day together are more than"
                " max_releases_per_day"
            )
        return self

    def limits(self) -> Limits:
        """Return the limits in the form that the checks take."""
        return Limits(**self.model_dump())


class CustodianSettings(Settings):
    """One custodian."""

    name: str
    address: str
    keys_folder: Path
    key_store: KeyStoreSettings = KeyStoreSettings()
    """Where the custodian's keys are."""
    state_file: Path
    """sqlite: releases with what became of them, escrow reports, and reports of what was refused."""
    authority: str
    """Hex of the audit authority's public key."""
    tls: TlsFiles
    party: PartyCallers | None = None
    """How the certificates of those who call a party's route are checked. It must be said."""
    log: LogSettings
    traffic: Traffic = Traffic()
    metrics: MetricsSettings | None = None
    """Where Prometheus scrapes this process; nowhere, if there is no such table."""
    workers: tuple[WorkerSettings, ...] = ()
    limits: LimitSettings = Field(default_factory=LimitSettings)
    parties: Mapping[str, str] = Field(default_factory=dict)
    """Other parties of the beacon and their keys (hex): what is in their name must be signed with these."""
    operators: Mapping[str, str] = Field(default_factory=dict)
    """Node operators and their identity keys (hex); if any are given, key bundles of others are refused."""
    tenants: Mapping[str, str] = Field(default_factory=dict)
    """Tenants and their keys (hex); if any are given, orders of others are refused."""
