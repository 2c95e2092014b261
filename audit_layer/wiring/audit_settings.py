"""Configuration of the audit server (`audit.toml`)."""

import tomllib
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import Field, model_validator

from shared.runtime.config import Settings, load, to_toml
from shared.runtime.key_store import KeyStoreSettings
from shared.runtime.keys import write_atomic
from shared.runtime.metrics_server import MetricsSettings
from shared.runtime.party import PartyListener
from shared.runtime.tls import TlsFiles
from shared.runtime.traffic import Traffic

FILE_NAME: Final = "audit.toml"
ProfileHash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class WitnessSettings(Settings):
    """A witness that is asked for cosignatures."""

    name: str
    """The name that its keys carry."""
    url: Annotated[str, Field(pattern=r"^https://[^\s]+$")]
    vkeys: Annotated[tuple[str, ...], Field(min_length=1, max_length=4)]
    """All of these must sign for the witness to count."""
    ca: Path | None = None
    """Authority of its certificate (PEM); the server's own `tls.ca` when absent."""

    @model_validator(mode="after")
    def _one_name(self) -> Self:
        if any(vkey.partition("+")[0] != self.name for vkey in self.vkeys):
            raise ValueError(f"a key of witness {self.name} carries another name")
        return self


class ObjectStoreSettings(Settings):
    """A bucket of an S3-compatible store, where the log is published instead of `tiles_folder`."""

    bucket: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")]
    prefix: Annotated[
        str, Field(pattern=r"^([A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*)?$", max_length=512)
    ] = ""
    """Prefix of every object's key, without a trailing slash."""
    region: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,63}$")] = "us-east-1"
    endpoint: Annotated[str, Field(pattern=r"^https://[^\s]+$")] | None = None
    """Address of the store; AWS when absent."""
    ca: Path | None = None
    """Authority of its certificate (PEM); the usual ones when absent."""
    credentials_file: Path | None = None
    """File in the format of `~/.aws/credentials`; when absent, boto3's usual places are searched."""


class TimestampSettings(Settings):
    """A timestamp authority (RFC 3161) that stamps published checkpoints."""

    ca: Path
    """Certificates to which its replies must chain (PEM); keep those of earlier authorities in it as well."""
    url: Annotated[str, Field(pattern=r"^https?://[^\s]+$")] | None = None
    """Its address; when absent, no more timestamps are requested, and those kept can still be verified."""
    tls_ca: Path | None = None
    """Authority of the certificate of an https:// address (PEM); the system's when absent."""
    interval_minutes: Annotated[int, Field(ge=1, le=525_600)] = 60
    """At most one checkpoint is stamped per interval."""


class AuditSettings(Settings):
    """What `counterfoil audit serve` needs to know."""

    origin: Annotated[str, Field(pattern=r"^[^\s+]{1,255}$")]
    """The log's name in its checkpoints; it never changes."""
    database_dsn_file: Path
    """File with the DSN of the service role `server`."""
    grpc_address: str = "127.0.0.1:0"
    """Where clients call, host:port; for nodes and workers see [party]."""
    http_address: str = "127.0.0.1:0"
    """Where auditors ask and the log is read, host:port."""
    keys_folder: Path = Path("keys")
    """The log's signing keys, and the key of COSE receipts."""
    tiles_folder: Path = Path("log")
    """The published log: checkpoint, tiles and entry bundles. Not used with an `object_store`."""
    second_place: Path = Path("second-place/checkpoint")
    """The last checkpoint signed; keep it on storage other than the database's."""
    publish_interval_ms: Annotated[int, Field(ge=10, le=3_600_000)] = 500
    """Milliseconds between checkpoints while entries arrive."""
    refresh_seconds: Annotated[int, Field(ge=10, le=86_400)] = 120
    """Age of its cosignatures at which the newest checkpoint is cosigned again, so that clients can bound its age."""
    numeric_profiles: Annotated[tuple[ProfileHash, ...], Field(max_length=64)] = ()
    """Hashes (hex) of the numeric profiles that this log's auditors compute, as `counterfoil model profile` prints them. A
    node with any other is refused: nobody could judge it."""
    quorum: Annotated[int, Field(ge=1, le=64)] = 1
    """How many witnesses must cosign a checkpoint before it is published."""
    erasure_key_file: Path | None = None
    """The key under which receipts and orders are stored so that they can be erased (docs/erasure.md); absent, they cannot.
    Never keep it where the database's backups are."""
    gap_grace_seconds: Annotated[int, Field(ge=1, le=366 * 86_400)] = 3600
    """How long a number may be missing before it becomes a finding."""
    gap_look_seconds: Annotated[int, Field(ge=1, le=86_400)] = 30
    """How often to look for missing numbers."""
    reflection: bool = False
    """Whether gRPC reflection tells strangers what can be called."""
    key_store: KeyStoreSettings = KeyStoreSettings()
    """Where the log's keys are."""
    tls: TlsFiles
    party: PartyListener | None = None
    """Where nodes and workers call, and the certificate that this server shows to witnesses. It must be given."""
    witnesses: tuple[WitnessSettings, ...] = ()
    object_store: ObjectStoreSettings | None = None
    timestamps: TimestampSettings | None = None
    traffic: Traffic = Traffic()
    metrics: MetricsSettings | None = None
    """Where Prometheus scrapes this process; nowhere, if there is no such table."""

    def profiles(self) -> frozenset[bytes]:
        """Return the numeric profiles as bytes."""
        return frozenset(bytes.fromhex(text) for text in self.numeric_profiles)

    @model_validator(mode="after")
    def _names_once(self) -> Self:
        names = [witness.name for witness in self.witnesses]
        if len(set(names)) != len(names):
            raise ValueError("two witnesses have the same name")
        return self


def load_settings(path: Path) -> AuditSettings:
    """Return the settings of a file with its paths made absolute; CONFIGURATION lists what is wrong."""
    return load(AuditSettings, path, env_prefix="COUNTERFOIL_AUDIT")


def load_as_written(path: Path) -> AuditSettings:
    """Return the settings with paths as the file has them, so that writing them back moves nothing."""
    load(AuditSettings, path)  # reports everything that is wrong
    return AuditSettings.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))


def save(settings: AuditSettings, path: Path) -> None:
    """Replace a configuration file."""
    write_atomic(path, to_toml(settings).encode())
