"""The signed manifest beside an export: what the file is, its hash and its control totals.

One JSON object `{"manifest": …, "key": …, "signature": …}`. The signature is Ed25519 (RFC 8032) over the canonical bytes
of `manifest`: keys sorted, no white space, UTF-8. It holds text and small integers only, so these are also the bytes of
RFC 8785. Its `type` keeps the signature from meaning anything else.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.codec.moment import Period, to_rfc3339
from shared.runtime.errors import Code, CounterfoilError
from shared.runtime.keys import Signer, public_bytes
from shared.runtime.reading import open_regular, read_bounded

TYPE: Final = "counterfoil/v1/export-manifest"
SUFFIX: Final = ".manifest.json"
MAX_BYTES: Final = 2**20
CHUNK: Final = 2**20


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is signed about a file."""

    file: str
    """Its name when it was written."""
    sha256: str
    size: int
    """Bytes."""
    rows: int
    """Without headers."""
    totals: Mapping[str, Mapping[str, str]]
    """Exact sums by currency, then by charge category (in a journal: debit and credit)."""
    dataset: str
    version: str
    format: str
    period_start: str
    period_end: str
    """The period exported, half-open, RFC 3339 in UTC."""
    created: str

    def canonical(self) -> bytes:
        """Return the bytes that are signed."""
        text = json.dumps(
            {"type": TYPE, **asdict(self)},
            sort_keys=True,
            separators=(",", ":"),
            ensure_ascii=False,
        )
        return text.encode()


@dataclass(frozen=True, slots=True)
class About:
    """What the caller of a writer says about an export."""

    period: Period
    created: int
    """When, in ms."""


def beside(path: Path) -> Path:
    """Return where the manifest of a file is kept."""
    return path.with_name(path.name + SUFFIX)


def bounds(period: Period) -> tuple[str, str]:
    """Return a period's bounds as a manifest has them."""
    start, _, end = str(period).partition("/")
    return start, end


def signed(manifest: Manifest, key: Signer) -> bytes:
    """Return the manifest's file."""
    document = {
        "manifest": json.loads(manifest.canonical()),
        "key": public_bytes(key).hex(),
        "signature": key.sign(manifest.canonical()).hex(),
    }
    return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode()


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    type: str
    file: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=0)
    rows: int = Field(ge=0)
    totals: dict[str, dict[str, str]]
    dataset: str
    version: str
    format: str
    period_start: str
    period_end: str
    created: str


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    manifest: _Body
    key: str = Field(pattern=r"^[0-9a-f]{64}$")
    signature: str = Field(pattern=r"^[0-9a-f]{128}$")


def verify(path: Path, key: Ed25519PublicKey, *, manifest: Path | None = None) -> Manifest:
    """Return what `key` signed about the file `path`; `manifest` is beside it unless named.

    Errors: UNTRUSTED_KEY when another key signed, BAD_SIGNATURE when the manifest was changed, COMMITMENT_MISMATCH when
    the file was, MALFORMED for what is no manifest, CONFIGURATION when a file cannot be read.
    """
    found = read_manifest(read_bounded(manifest or beside(path), MAX_BYTES), key)
    size, digest = _hash_of(path)
    if (size, digest) != (found.size, found.sha256):
        raise CounterfoilError(
            Code.COMMITMENT_MISMATCH,
            f"{path} is not the file that its manifest describes: {size} bytes with SHA-256 {digest}",
        )
    return found


def read_manifest(data: bytes, key: Ed25519PublicKey) -> Manifest:
    """Return a manifest's content after its signature was verified with `key`; errors as in `verify`."""
    try:
        document = _Document.model_validate_json(data)
    except ValidationError as error:
        raise CounterfoilError(Code.MALFORMED, "it is not the manifest of an export") from error
    if bytes.fromhex(document.key) != public_bytes(key):
        raise CounterfoilError(
            Code.UNTRUSTED_KEY, f"the manifest is signed by {document.key}, not by the key expected"
        )
    values: dict[str, Any] = document.manifest.model_dump()
    type_ = values.pop("type")
    content = Manifest(**values)
    try:
        key.verify(bytes.fromhex(document.signature), content.canonical())
    except InvalidSignature as error:
        raise CounterfoilError(
            Code.BAD_SIGNATURE, "the manifest's signature does not verify"
        ) from error
    if type_ != TYPE:
        raise CounterfoilError(Code.MALFORMED, f"{type_[:60]!r} is not the type of a manifest")
    return content


def _hash_of(path: Path) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    try:
        with open_regular(path) as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
                size += len(chunk)
    except OSError as error:
        raise CounterfoilError(
            Code.CONFIGURATION, f"{path} cannot be read: {error.strerror}"
        ) from error
    return size, digest.hexdigest()


def created_text(about: About) -> str:
    """Return when an export was made, as its manifest has it."""
    return to_rfc3339(about.created)
