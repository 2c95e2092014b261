"""The node's records about a request, as its store takes and returns them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, repr=False)
class AcceptedRecord:
    """One accepted request: enough to answer an audit, and to write its receipt after a crash.

    Of a stage's part there is no envelope, settings or input (all empty); `secret` is that of its two boundaries.
    """

    order: bytes
    """The order statement."""
    order_entry: bytes
    tenant: str
    number: int
    attempt: int
    ctx: bytes
    envelope: bytes
    request_id: bytes
    """16 bytes, from the envelope's header."""
    secret: bytes
    """The transcript secret; the store encrypts it under the node's storage key."""
    node_nonce: bytes
    model_root: bytes
    numeric_profile: bytes
    settings: bytes
    """Blinded commitment to the sampler settings, as in the receipt."""
    input: bytes
    """Blinded commitment to the prompt's tokens."""
    prompt_tokens: int
    started: int
    """Milliseconds since 1970."""
    tenant_key: bytes | None
    """The public key (32 bytes) that signed the order; None for one that an older version accepted."""
    head: str | None = None
    """Of a part: `operator/node` of the head, who alone may have it computed."""
    parts: tuple[bytes, ...] = ()
    """The orders for the stages of its chain, in order of place."""


@dataclass(frozen=True, slots=True, repr=False)
class UnfinishedRecord:
    """An accepted request without a receipt, with the frames that may have left the node."""

    id: int
    accepted: AcceptedRecord
    frames: tuple[bytes, ...]
    cancelled: bool = False
    """Whether its tenant has cancelled it."""
    cached: int = 0
    """Prompt positions that came from the prefix cache; 0 while there is no token."""
    interruptions: int = 0
    """After how many restarts it went on."""


@dataclass(frozen=True, slots=True, repr=False)
class StoredStream:
    """What the store knows of one response, beside its frames."""

    request: int
    order: bytes
    """The order statement."""
    tenant_key: bytes | None
    node_nonce: bytes
    frames: int
    """How many there are."""
    finished: bool
    """Whether it has a receipt."""
    kept: bool
    """Whether its evidence is still there."""
    final_record: bytes
    final_signature: bytes
    """Both are empty if nothing was sealed."""


@dataclass(frozen=True, slots=True)
class SignedReceipt:
    """A signed receipt; final record and signature are empty if nothing was sealed after it."""

    sequence: int
    entry: bytes
    statement: bytes
    final_record: bytes
    final_signature: bytes


@dataclass(frozen=True, slots=True)
class StoredEvidence:
    """The ciphertexts of one request, as the Evidence service hands them out."""

    receipt: bytes
    """The node's receipt statement."""
    order: bytes
    envelope: bytes
    node_nonce: bytes
    frames: tuple[bytes, ...]
    final_record: bytes
    final_signature: bytes
    """Over the final record; both are empty if nothing was sealed."""


@dataclass(frozen=True, slots=True)
class PendingReceipt:
    """A receipt that the audit server has not acknowledged."""

    sequence: int
    statement: bytes
    order: bytes


@dataclass(frozen=True, slots=True)
class SpoolCounts:
    """How many receipts there are, by delivery state."""

    signed: int
    pending: int
    delivered: int
    rejected: int


@dataclass(frozen=True, slots=True)
class MeterRow:
    """Token totals of one tenant, model, day (UTC, ISO form) and rate card; `cached` is a part of `input`."""

    tenant: str
    model_root: bytes
    day: str
    rate_card: bytes
    input: int
    cached: int
    output: int
    requests: int
