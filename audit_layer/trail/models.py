"""Tables of the trail. What was signed is append-only; every indexed column can be recomputed from the signed bytes."""

from sqlalchemy import ARRAY, BigInteger, Index, LargeBinary, Text, UniqueConstraint
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
    """One statement as it was signed, and where the log has it."""

    __tablename__ = "trail_statements"
    __table_args__ = (
        bytes_check("entry", 32),
        bytes_check("signer", 32),
        not_negative("log_index"),
        Index(None, "type", "log_index"),
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
    """An order that came with its receipt; the receipt's hash binds it, so it is no log entry of its own."""

    __tablename__ = "trail_orders"
    __table_args__ = (
        # Not unique: a tenant that signs one number for two nodes must not cost either its receipt.
        Index(None, "tenant", "number", "attempt"),
        bytes_check("entry", 32),
        KEPT_BY_SERVER,
    )

    entry: Mapped[Hash32] = mapped_column(primary_key=True)
    tenant: Mapped[Name]
    number: Mapped[Count]
    attempt: Mapped[Count]
    raw: Mapped[Statement]


class ReceiptRow(Base):
    """A receipt's fields, for queries. What the receipt leaves open is null."""

    __tablename__ = "trail_receipts"
    __table_args__ = (
        bytes_check("entry", 32),
        Index(None, "tenant", "log_index"),
        Index(None, "operator", "node", "log_index"),
        Index(None, "model_root", "log_index"),
        Index(None, "started"),
        UniqueConstraint("operator", "node", "node_sequence"),
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
    started: Mapped[UnixMs]
    ended: Mapped[UnixMs]
    rate_card: Mapped[Hash32]


class VerdictRow(Base):
    """A verdict, with whom its receipt concerns."""

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


class EvidenceRow(Base):
    """Ciphertexts that somebody deposited for a receipt. Believed in nothing; kept until they expire."""

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
    deposited_at: Mapped[UnixMs]


class FindingRow(Base):
    """Something that an issuer must explain: two statements under one number, a chain that does not join."""

    __tablename__ = "trail_findings"
    __table_args__ = (
        UniqueConstraint("kind", "first_statement", "second_statement"),
        KEPT_BY_SERVER,
    )

    id: Mapped[RowId]
    kind: Mapped[Name]
    issuer: Mapped[Name]
    detail: Mapped[str] = mapped_column(Text)
    first_statement: Mapped[bytes] = mapped_column(LargeBinary)
    second_statement: Mapped[bytes] = mapped_column(LargeBinary)
    at: Mapped[UnixMs]
