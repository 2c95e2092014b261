"""Tables of the trail. What was signed is append-only; every indexed column can be recomputed from the signed bytes."""

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    ColumnElement,
    ForeignKey,
    Index,
    LargeBinary,
    Text,
    UniqueConstraint,
    case,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from audit_layer.storage.base import (
    APPEND,
    EVERYTHING,
    READ,
    WRITE,
    Base,
    Count,
    Hash32,
    Name,
    RowId,
    Statement,
    UnixMs,
    access,
    bytes_check,
    not_negative,
)

KEPT_BY_SERVER = access(server=APPEND, worker=READ)


class PartyRow(Base):
    """A key that the audit layer believes, and for what. Keys are never reused under another name."""

    __tablename__ = "trail_parties"
    __table_args__ = (
        UniqueConstraint("role", "public_key"),
        Index(None, "role", "name"),
        bytes_check("public_key", 32),
        access(server=WRITE, worker=READ),
    )

    id: Mapped[RowId]
    name: Mapped[Name]
    role: Mapped[Name]
    """operator, tenant, authority, worker, custodian or witness."""
    public_key: Mapped[Hash32]
    added_at: Mapped[UnixMs]
    disabled_at: Mapped[UnixMs | None]


class StatementRow(Base):
    """One statement as it was signed, and its place in the log."""

    __tablename__ = "trail_statements"
    __table_args__ = (
        bytes_check("entry", 32),
        bytes_check("signer", 32),
        not_negative("log_index"),
        Index(None, "type", "log_index"),
        Index(
            "ix_trail_statements_seals",
            "subject",
            "log_index",
            postgresql_where=text("type = 'tenant-seal'"),
        ),
        KEPT_BY_SERVER,
    )

    entry: Mapped[Hash32] = mapped_column(primary_key=True)
    log_index: Mapped[Count] = mapped_column(unique=True)
    type: Mapped[Name]
    signer: Mapped[Hash32]
    issuer: Mapped[Name]
    subject: Mapped[Name]
    raw: Mapped[Statement]
    recorded_at: Mapped[UnixMs]


class OrderRow(Base):
    """An order that came with its receipt or refusal, whose hash binds it; so it has no log entry of its own."""

    __tablename__ = "trail_orders"
    __table_args__ = (
        # Not unique: a tenant that signs one number for two nodes must cost neither its receipt.
        Index(None, "tenant", "number", "attempt"),
        bytes_check("entry", 32),
        bytes_check("head", 32),
        KEPT_BY_SERVER,
    )

    entry: Mapped[Hash32] = mapped_column(primary_key=True)
    tenant: Mapped[Name]
    number: Mapped[Count]
    attempt: Mapped[Count]
    max_input_tokens: Mapped[int | None] = mapped_column(BigInteger)
    max_output_tokens: Mapped[int | None] = mapped_column(BigInteger)
    """Null, although every order has it, in rows that were written before this column was."""
    max_ms: Mapped[int | None] = mapped_column(BigInteger)
    cost_centre: Mapped[bytes | None] = mapped_column(LargeBinary(32))
    head: Mapped[bytes | None] = mapped_column(LargeBinary(32))
    """Of an order for a part of a chain's answer (protocol §4.10): the head's order. Null for a whole answer's."""
    place: Mapped[int | None] = mapped_column(BigInteger)
    """Of such an order: the stage's place."""
    raw: Mapped[Statement]


class ReceiptRow(Base):
    """A receipt's fields, for queries. What the receipt omits is null."""

    __tablename__ = "trail_receipts"
    __table_args__ = (
        bytes_check("entry", 32),
        Index(None, "tenant", "log_index"),
        Index(None, "operator", "node", "log_index"),
        Index(None, "model_root", "log_index"),
        Index(None, "started"),
        Index(
            None, "order_entry"
        ),  # not unique: a second receipt for an order is kept, as evidence
        UniqueConstraint("operator", "node", "node_sequence"),
        bytes_check("sent", 32),
        bytes_check("received", 32),
        KEPT_BY_SERVER,
    )

    entry: Mapped[Hash32] = mapped_column(primary_key=True)
    log_index: Mapped[Count] = mapped_column(unique=True)
    order_entry: Mapped[Hash32]
    bundle: Mapped[Hash32]
    tenant: Mapped[Name]
    number: Mapped[Count]
    attempt: Mapped[Count]
    operator: Mapped[Name]
    node: Mapped[Name]
    node_sequence: Mapped[Count]
    model_root: Mapped[Hash32]
    numeric_profile: Mapped[Hash32]
    input_tokens: Mapped[Count]
    cached_tokens: Mapped[Count]
    output_tokens: Mapped[Count]
    compute_ms: Mapped[int | None] = mapped_column(BigInteger)
    energy_mj: Mapped[int | None] = mapped_column(BigInteger)
    energy_quality: Mapped[Name]
    finish: Mapped[Name]
    cancelled: Mapped[bool | None] = mapped_column(Boolean)
    """Whether it bears its tenant's cancellation; null in rows that were written before this column was."""
    started: Mapped[UnixMs]
    ended: Mapped[UnixMs]
    rate_card: Mapped[Hash32]
    part: Mapped[bool] = mapped_column(Boolean, server_default=text("false"))
    """Whether it is a stage's: its order is for a part, which has no number of its own (protocol §4.10.1)."""
    sent: Mapped[bytes | None] = mapped_column(LargeBinary(32))
    """Of a chain: the root of what its node sent; `received` likewise."""
    received: Mapped[bytes | None] = mapped_column(LargeBinary(32))
    stages: Mapped[bytes | None] = mapped_column(LargeBinary)
    """Of a head of a chain: the entries of the stages' receipts in order, concatenated."""


def own_number() -> ColumnElement[int | None]:
    """Return the number among its tenant's that a receipt accounts for: none if it is for a part."""
    return case((ReceiptRow.part, None), else_=ReceiptRow.number)


class RefusalRow(Base):
    """A refusal's fields, for queries. Its order is kept as a receipt's is."""

    __tablename__ = "trail_refusals"
    __table_args__ = (
        bytes_check("entry", 32),
        Index(None, "tenant", "log_index"),
        Index(None, "operator", "node", "log_index"),
        UniqueConstraint("order_entry"),
        KEPT_BY_SERVER,
    )

    entry: Mapped[Hash32] = mapped_column(primary_key=True)
    log_index: Mapped[Count] = mapped_column(unique=True)
    order_entry: Mapped[Hash32]
    bundle: Mapped[Hash32]
    tenant: Mapped[Name]
    number: Mapped[Count]
    attempt: Mapped[Count]
    operator: Mapped[Name]
    node: Mapped[Name]
    reason: Mapped[Name]
    at: Mapped[UnixMs]


class VerdictRow(Base):
    """A verdict, with the parties that its receipt concerns."""

    __tablename__ = "trail_verdicts"
    __table_args__ = (
        bytes_check("entry", 32),
        Index(None, "receipt"),
        Index(None, "operator", "node", "log_index"),
        KEPT_BY_SERVER,
    )

    entry: Mapped[Hash32] = mapped_column(primary_key=True)
    log_index: Mapped[Count] = mapped_column(unique=True)
    receipt: Mapped[Hash32]
    worker: Mapped[Name]
    outcome: Mapped[Name]
    reason: Mapped[Name]
    confirms: Mapped[bytes | None] = mapped_column(LargeBinary(32))
    at: Mapped[UnixMs]
    tenant: Mapped[Name]
    operator: Mapped[Name]
    node: Mapped[Name]
    asked: Mapped[bool] = mapped_column(Boolean, server_default=text("false"))
    """Whether the receipt's tenant chose it for this audit, and no draw did (`trail.asked`)."""


class EvidenceRow(Base):
    """Ciphertexts that somebody deposited for a receipt, checked against it and its node's signature; kept until they expire."""

    __tablename__ = "trail_evidence"
    __table_args__ = (
        UniqueConstraint("receipt", "digest"),
        access(server=EVERYTHING, worker=READ),
    )

    id: Mapped[RowId]
    receipt: Mapped[Hash32]
    digest: Mapped[Hash32]
    envelope: Mapped[bytes] = mapped_column(LargeBinary)
    node_nonce: Mapped[bytes] = mapped_column(LargeBinary)
    frames: Mapped[list[bytes]] = mapped_column(ARRAY(LargeBinary))
    final_record: Mapped[bytes] = mapped_column(LargeBinary)
    final_signature: Mapped[bytes] = mapped_column(LargeBinary)
    deposited_at: Mapped[UnixMs]


class FindingRow(Base):
    """Something that an issuer must explain: two statements under one number, two receipts for one order, a receipt for an order
    that was refused, numbers that never arrived.

    For a gap the statements are its neighbours: those with the number before it (empty when it begins at 0) and after it.
    """

    __tablename__ = "trail_findings"
    __table_args__ = (
        UniqueConstraint("digest"),
        bytes_check("digest", 32),
        KEPT_BY_SERVER,
    )

    id: Mapped[RowId]
    kind: Mapped[Name]
    issuer: Mapped[Name]
    detail: Mapped[str] = mapped_column(Text)
    digest: Mapped[Hash32]
    """Digest of kind and statements (`rows.finding_values`), since an index cannot hold the statements themselves."""
    first_statement: Mapped[bytes] = mapped_column(LargeBinary)
    second_statement: Mapped[bytes] = mapped_column(LargeBinary)
    at: Mapped[UnixMs]


class ResolutionRow(Base):
    """A finding that no longer holds: all numbers of a gap have arrived. The finding itself stays unchanged."""

    __tablename__ = "trail_resolutions"
    __table_args__ = (KEPT_BY_SERVER,)

    finding: Mapped[int] = mapped_column(ForeignKey("trail_findings.id"), primary_key=True)
    at: Mapped[UnixMs]


class CounterRow(Base):
    """One more than the highest number seen in one numbering, and (`kind` "log") the next log index to look at."""

    __tablename__ = "trail_counters"
    __table_args__ = (not_negative("next"), access(server=WRITE, worker=READ))

    kind: Mapped[Name] = mapped_column(primary_key=True)
    issuer: Mapped[Name] = mapped_column(primary_key=True)
    next: Mapped[Count]


class GapRow(Base):
    """A run of numbers now missing; gone once they have arrived."""

    __tablename__ = "trail_gaps"
    __table_args__ = (
        Index(None, "kind", "issuer", "last"),
        Index(None, "finding"),
        access(server=EVERYTHING, worker=READ),
    )

    id: Mapped[RowId]
    kind: Mapped[Name]
    """node: receipts of `operator/node`; tenant: its orders."""
    issuer: Mapped[Name]
    first: Mapped[Count]
    last: Mapped[Count]
    since: Mapped[UnixMs]
    """When a higher number was recorded."""
    finding: Mapped[int | None] = mapped_column(ForeignKey("trail_findings.id"))
    """The finding that reports it, null within the grace period."""


class ErasureRow(Base):
    """An erasure, stored before it is sent. `done_at` is absent until the keys are destroyed."""

    __tablename__ = "trail_erasures"
    __table_args__ = (access(server=WRITE, worker=READ),)

    id: Mapped[RowId]
    statement: Mapped[Statement]
    done_at: Mapped[UnixMs | None]


class DataKeyRow(Base):
    """The key under which one tenant's receipts and orders of one day are stored (`trail.erasure`)."""

    __tablename__ = "trail_data_keys"
    __table_args__ = (
        Index(None, "tenant", "day", unique=True, postgresql_where=text("erasure IS NULL")),
        CheckConstraint("wrapped IS NOT NULL OR erasure IS NOT NULL", name="kept_or_erased"),
        access(server=WRITE, worker=READ),
    )

    id: Mapped[RowId]
    tenant: Mapped[Name]
    day: Mapped[UnixMs]
    """When the day begins."""
    wrapped: Mapped[bytes | None] = mapped_column(LargeBinary)
    """The data key under the key-encryption key; null once it is destroyed."""
    erasure: Mapped[int | None] = mapped_column(ForeignKey("trail_erasures.id"))
    """Once set, nothing more is stored under the key."""
