"""The configuration of one node (`node.toml`) and of the tenants it serves (`tenants.toml`)."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from execution_layer.pipeline.settings import Chain, StageWork
from shared.codec.ids import NAME
from shared.parties.settings import LogSettings, WorkerSettings
from shared.runtime.config import Settings
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.key_store import KeyStoreSettings
from shared.runtime.metrics_server import MetricsSettings
from shared.runtime.party import PartyListener
from shared.runtime.tls import TlsFiles
from shared.runtime.traffic import Traffic

HEX32 = r"^[0-9a-f]{64}$"

NodeName = Annotated[str, Field(pattern=f"^{NAME.pattern}$")]
KeyHex = Annotated[str, Field(pattern=HEX32)]


class AuditTarget(Settings):
    """Where statements are submitted."""

    target: str
    """host:port where the audit server takes calls of parties."""
    ca_file: Path
    """The authority that must have issued the audit server's certificate."""


class AuditServer(AuditTarget):
    """Where receipts go, and whose disclosure requests are answered. All of it is needed for receipts to be judged."""

    authority_keys: Annotated[tuple[KeyHex, ...], Field(min_length=1)]
    """Public keys (hex) of the audit authorities whose disclosure requests release ciphertexts."""
    log: LogSettings
    """The log in which such a request must be witnessed."""
    workers: Annotated[tuple[WorkerSettings, ...], Field(min_length=1)]
    """The audit workers that may request evidence, each for what is disclosed to it."""


class NodeParty(PartyListener):
    """The certificate that names this node to the audit server, and where audit workers call with theirs."""

    endpoint: str | None = None
    """host:port published to workers, if it is not the bound address."""


class Quotas(Settings):
    """Limits for one request, one tenant and all tenants together."""

    max_output_tokens: Annotated[int, Field(ge=1, le=2**20)] = 4096
    """The largest token budget in one order."""
    in_flight_per_tenant: Annotated[int, Field(ge=1, le=4096)] = 64
    in_flight: Annotated[int, Field(ge=1, le=4096)] = 256
    """Requests accepted and not yet finished, for all tenants; more are OVERLOADED."""
    queue: Annotated[int, Field(ge=1, le=4096)] = 256
    """Requests that wait for their first token; more are OVERLOADED."""
    queue_per_tenant: Annotated[int, Field(ge=1, le=4096)] = 64
    requests_per_s_per_tenant: Annotated[float, Field(ge=0.001, le=2**20)] = 1000
    """Calls of Generate per second that one tenant has signed, refused ones included, and likewise of Resume; bursts of four
    times as many."""
    refusals_per_tenant: Annotated[int, Field(ge=0, le=2**20)] = 10_000
    """Signed refusals kept for one tenant, each until a day after its order has expired (some 0.7 kB); more are unsigned."""


class Retention(Settings):
    """How long ciphertexts and transcript secrets are kept for audits. Receipts and orders are kept forever."""

    days: Annotated[int, Field(ge=3, le=3650)] = 30
    """Audits can be asked for during a day, and evidence be waited for during another (protocol §6.2.7)."""
    max_bytes: Annotated[int, Field(ge=2**20)] = 8 * 2**30
    """Above this, the oldest evidence whose receipt was delivered is removed."""


class NodeSettings(Settings):
    """Everything that `counterfoil node serve` needs."""

    operator: NodeName
    node: NodeName
    model: Path
    """Folder of the checkpoint (Hugging Face layout)."""
    address: str = "127.0.0.1:0"
    """Where gRPC listens; port 0 takes any free one."""
    endpoint: str | None = None
    """host:port published to clients, if it is not the bound address."""
    keys: Path
    """Folder of the node's own keys and key bundles."""
    operator_key_file: Path
    """The operator's identity key: it signs key bundles."""
    key_store: KeyStoreSettings = KeyStoreSettings()
    """Where the node's own keys are."""
    operator_key_store: KeyStoreSettings = KeyStoreSettings()
    """Where the operator's identity key is."""
    attestation: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")] | None = None
    """What attests the node's keys in its key bundles: the name of a plug-in, which is its evidence's format. `development` makes
    evidence that proves nothing, for tests; clients refuse it unless their policy says otherwise."""
    tenants_file: Path
    """Public keys of the tenants; reloaded when it changes."""
    rate_card_file: Path
    """The signed rate card that orders must name."""
    spool: Path
    """Requests, evidence, receipts and the meter (sqlite)."""
    device: Literal["cpu", "cuda"] = "cpu"
    """What computes the model: this machine's processors, or its first NVIDIA GPU."""
    threads: Annotated[int, Field(ge=1, le=512)] = 1
    """CPU threads for the model. They affect its speed, not its bits."""
    arithmetic: str = "auto"
    """The definition of every operation (protocol §7.2), hence the bits. `auto`: the one of the device's own matrix unit."""
    max_batch: Annotated[int, Field(ge=1, le=1024)] = 16
    """Sequences in one batch."""
    prefill_rows: Annotated[int, Field(ge=1, le=2**16)] = 256
    """Prompt positions computed in one step, in addition to one per generating sequence."""
    kv_memory_mib: Annotated[int, Field(ge=1, le=2**22)] = 512
    """The device's memory for KV blocks, including those of the prefix cache. It must hold one sequence of full length."""
    max_model_len: Annotated[int, Field(ge=1, le=2**22)] | None = None
    """Longest sequence, prompt plus answer, if it is to be shorter than the model's context."""
    frame_interval_ms: Annotated[int, Field(ge=0, le=1000)] = 50
    """Tokens that arrive within this time share a frame."""
    grace_s: Annotated[float, Field(ge=0, le=600)] = 10.0
    """How long a stop waits for requests in flight before cutting them off (with receipts)."""
    gpu_energy: bool = False
    """Read the first NVIDIA GPU's energy counter. Only for models that run on it."""
    reflection: bool = False
    """Offer gRPC reflection; off in production."""
    chain: Chain | None = None
    """The stages that compute the layers which this node does not; without it the node computes all of them."""
    stage: StageWork | None = None
    """The layers that this node computes for others' answers; without it the node answers itself."""
    region: NodeName | None = None
    """Where the node says that it is, for clients who choose by distance."""
    tls: TlsFiles
    party: NodeParty | None = None
    """It must be given to serve."""
    audit: AuditServer
    quotas: Quotas = Quotas()
    retention: Retention = Retention()
    traffic: Traffic = Traffic()
    metrics: MetricsSettings | None = None
    """Where Prometheus scrapes this process; nowhere, if there is no such table."""

    @model_validator(mode="after")
    def _check_stage(self) -> Self:
        if self.stage is not None and (self.chain is not None or self.device != "cpu"):
            raise ValueError("a [stage] computes on the CPU, and leaves no layers to a [chain]")
        return self

    @property
    def chain_status(self) -> Path:
        """Where the head of a chain writes how that stands."""
        return self.spool.parent / f"{self.spool.stem}.chain.json"

    @property
    def issuer(self) -> str:
        """The name under which the node signs and numbers its receipts."""
        return f"{self.operator}/{self.node}"

    def context(self, positions: int) -> int:
        """Return the longest sequence that this node accepts, given the model's `positions`; CONFIGURATION if it is set higher."""
        if self.max_model_len is None:
            return positions
        if self.max_model_len > positions:
            raise CounterfoilError(
                Code.CONFIGURATION,
                f"max_model_len = {self.max_model_len} is more than the model's {positions} positions",
                remedy=f"Set it to {positions} or less, or omit it.",
            )
        return self.max_model_len


class TenantsFile(Settings):
    """`tenants.toml`."""

    tenants: dict[NodeName, KeyHex | Annotated[tuple[KeyHex, ...], Field(min_length=1)]] = Field(
        default_factory=dict
    )
    """Public key or keys (hex) by tenant name. A tenant adds and ends keys in the log by itself; these are the beginning."""
