"""Tables of the selection room: epochs, beacon values, what tenants asked for, and tenant seals.

Statements are stored in the row before they are sent to the log, so that after a crash between the two the same bytes
are sent again; the log answers those with the index that they already have.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Index,
    Integer,
    LargeBinary,
    Text,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from audit_layer.storage.base import READ, WRITE, Base, Hash32, access, bytes_check

KEPT_BY_WORKER = access(worker=WRITE, server=READ)


class EpochRow(Base):
    """One epoch. `state` goes open → sealed → drawn; an epoch without a timely beacon is drawn whole."""

    __tablename__ = "replay_epochs"
    __table_args__ = (KEPT_BY_WORKER,)

    epoch: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    state: Mapped[str] = mapped_column(Text)
    opened_at: Mapped[int] = mapped_column(BigInteger)
    """When its term began; a term that ends without a receipt is followed by another."""
    open_index: Mapped[int | None] = mapped_column(BigInteger)
    """Log index of the open statement; absent until the log has acknowledged it."""
    first: Mapped[int | None] = mapped_column(BigInteger)
    size: Mapped[int | None] = mapped_column(BigInteger)
    sealed_at: Mapped[int | None] = mapped_column(BigInteger)
    whole: Mapped[bool | None] = mapped_column(Boolean)
    open_statement: Mapped[bytes] = mapped_column(LargeBinary)
    seal_statement: Mapped[bytes | None] = mapped_column(LargeBinary)
    draw_statement: Mapped[bytes | None] = mapped_column(LargeBinary)


class BeaconRow(Base):
    """One party's commitment for one epoch, and its reveal once it has arrived."""

    __tablename__ = "replay_beacons"
    __table_args__ = (KEPT_BY_WORKER,)

    epoch: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    party: Mapped[str] = mapped_column(Text, primary_key=True)
    position: Mapped[int] = mapped_column(Integer)
    commitment_statement: Mapped[bytes] = mapped_column(LargeBinary)
    reveal_statement: Mapped[bytes | None] = mapped_column(LargeBinary)


class AskedRow(Base):
    """One audit request that the authority has looked at: either answered with a disclosure request, or left, and why.

    `logged` is set once the log has acknowledged the disclosure request.
    """

    __tablename__ = "replay_asked"
    __table_args__ = (
        bytes_check("audit_request", 32),
        bytes_check("receipt", 32),
        CheckConstraint(
            "(request_statement IS NULL) <> (left_why IS NULL)", name="answered_or_left"
        ),
        Index(None, "tenant", "at"),
        Index(None, "receipt"),
        Index(
            "ix_replay_asked_unlogged",
            "log_index",
            postgresql_where=text("request_statement IS NOT NULL AND NOT logged"),
        ),
        KEPT_BY_WORKER,
    )

    audit_request: Mapped[Hash32] = mapped_column(primary_key=True)
    """Its log entry."""
    log_index: Mapped[int] = mapped_column(BigInteger, unique=True)
    receipt: Mapped[Hash32]
    tenant: Mapped[str] = mapped_column(Text)
    at: Mapped[int] = mapped_column(BigInteger)
    """When it was looked at."""
    request_statement: Mapped[bytes | None] = mapped_column(LargeBinary)
    left_why: Mapped[str | None] = mapped_column(Text)
    """`again`, `late` or `limit`, as `selection.asking` defines them."""
    logged: Mapped[bool] = mapped_column(Boolean, default=False)


class SealRow(Base):
    """One tenant seal, stored before it is sent. `log_index` is absent until the log has acknowledged it."""

    __tablename__ = "replay_seals"
    __table_args__ = (
        Index(None, "tenant", postgresql_where=text("log_index IS NULL")),
        KEPT_BY_WORKER,
    )

    tenant: Mapped[str] = mapped_column(Text, primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    statement: Mapped[bytes] = mapped_column(LargeBinary)
    log_index: Mapped[int | None] = mapped_column(BigInteger)
