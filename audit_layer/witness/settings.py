"""`witness.toml`."""

from pathlib import Path

from shared.parties.settings import LogSettings
from shared.runtime.config import Settings
from shared.runtime.key_store import KeyStoreSettings
from shared.runtime.metrics_server import MetricsSettings
from shared.runtime.party import PartyCallers
from shared.runtime.tls import TlsFiles
from shared.runtime.traffic import Traffic


class WitnessSettings(Settings):
    """One witness, for one log."""

    name: str
    address: str
    keys_folder: Path
    key_store: KeyStoreSettings = KeyStoreSettings()
    """Where the witness's keys are."""
    state_file: Path
    """sqlite: the latest checkpoint, and reveals."""
    authority: str
    """Hex of the audit authority's public key."""
    tls: TlsFiles
    party: PartyCallers | None = None
    """How the certificates of those who call a party's route are checked. It must be said."""
    log: LogSettings
    traffic: Traffic = Traffic()
    metrics: MetricsSettings | None = None
    """Where Prometheus scrapes this process; nowhere, if there is no such table."""
