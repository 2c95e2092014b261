"""Configuration of an audit worker (`worker.toml`)."""

from pathlib import Path

from pydantic import Field

from audit_layer.selection.settings import AuthoritySettings, PeerSettings
from shared.parties.webhook import WebhookSettings
from shared.runtime.config import Settings
from shared.runtime.key_store import KeyStoreSettings
from shared.runtime.metrics_server import MetricsSettings
from shared.runtime.party import PartyFiles


class PartySettings(Settings):
    """A witness or custodian as the worker reaches it."""

    name: str
    url: str
    hpke_key: str | None = None
    """Hex of a custodian's HPKE public key; witnesses have none."""


class WorkerSettings(Settings):
    """`worker.toml`."""

    name: str
    origin: str
    """Origin line of the log."""
    database_dsn_file: Path
    broker_url_file: Path
    audit_server: str
    """host:port where the audit server takes calls of parties."""
    ca_file: Path
    party: PartyFiles | None = None
    """The certificate that names this worker to the audit server, nodes, custodians and witnesses. It must be given."""
    keys_folder: Path
    key_store: KeyStoreSettings = KeyStoreSettings()
    """Where the worker's and the authority's keys are."""
    erasure_key_file: Path | None = None
    """The audit server's, where it has one: the worker reads what is stored under it."""
    models: tuple[Path, ...]
    """The auditor's own checkpoints."""
    replay_threads: int = Field(default=1, ge=1)
    lease_seconds: float = Field(default=120, gt=0)
    """After this long without a sign of life from its worker, work is attempted again; a replay that is predicted to take
    longer has a longer lease."""
    longest_replay_seconds: float = Field(default=7200, gt=0)
    """No lease is longer, and a sequence that takes longer at this worker's own speed is judged without a replay: FAIL if
    anything else about it is wrong, and otherwise INCONCLUSIVE (`unreplayable`)."""
    replay_seconds: float = Field(default=120, gt=0)
    """How long a replay may take, plus, for each token of prompt and output:"""
    replay_seconds_per_token: float = Field(default=0.05, ge=0)
    custodians: tuple[PartySettings, ...] = ()
    witnesses: tuple[PartySettings, ...] = ()
    peers: tuple[PeerSettings, ...] = ()
    authority: AuthoritySettings | None = None
    alerts: WebhookSettings | None = None
    """Where the authority's worker sends alerts of budgets; nowhere, if there is no such table."""
    tick_seconds: float = Field(default=1.0, gt=0)
    """How often beat triggers the epoch clock."""
    hint_seconds: float = Field(default=30.0, gt=0)
    """How long waiting work is left alone before it is offered again."""
    evidence_timeout_seconds: float = Field(default=20, gt=0)
    metrics: MetricsSettings | None = None
    """Where Prometheus scrapes this process; nowhere, if there is no such table."""
    beat_metrics: MetricsSettings | None = None
    """Likewise for beat, which reads the authority's worker.toml."""
