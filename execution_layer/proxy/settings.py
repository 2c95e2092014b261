"""`proxy.toml`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field

from execution_layer.client.policy import Hex32
from shared.runtime.config import Settings
from shared.runtime.tls import TlsFiles
from shared.runtime.traffic import Traffic

ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$")]


class ProxySettings(Settings):
    """One proxy: whose client it is, and what applications find there."""

    client: Path
    """The client's policy (client.toml): its key signs the orders, its archive keeps them."""
    address: str
    """host:port. Without [tls] it must be this machine's own (127.0.0.1 or ::1)."""
    keys_file: Path
    """sqlite: API keys, as hashes, with the tags of their orders (`counterfoil proxy key`)."""
    tls: TlsFiles | None = None
    """Certificate, key and authority (PEM), if other machines are to reach the proxy."""
    models: Annotated[Mapping[ModelName, Hex32], Field(min_length=1)]
    """The names that applications ask for, each with a model root."""
    default_max_tokens: Annotated[int, Field(ge=1, le=2**20)] = 1024
    """The token budget of a chat completion that names none."""
    max_body_bytes: Annotated[int, Field(ge=1024, le=8 * 2**20)] = 4 * 2**20
    """The longest request."""
    answers: Annotated[int, Field(ge=1, le=2**16)] = 256
    """Answers that may be under way at once; a request with `n` takes as many places."""
    answers_per_key: Annotated[int, Field(ge=1, le=2**16)] = 128
    """The same for each API key."""
    proofs_every_s: Annotated[int, Field(ge=0, le=86_400)] = 30
    """How often the log's proofs of new receipts are fetched, in seconds; 0: only when one is asked for."""
    traffic: Traffic = Traffic()
