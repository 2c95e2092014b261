"""Tables of the replay room: epochs, beacon values and the work list.

Statements are stored in the row before they are sent to the log, so that a crash between the two sends the same bytes
again; the log answers those with the index that they already have.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from audit_layer.storage.base import READ, WRITE, Base, Hash32, RowId, access

KEPT_BY_WORKER = access(worker=WRITE, server=READ)


class EpochRow(Base):
    """One epoch. `state` goes open → sealed → drawn; an epoch without a timely beacon is drawn whole."""

    __tablename__ = "replay_epochs"
    __table_args__ = (KEPT_BY_WORKER,)

    epoch: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    state: Mapped[str] = mapped_column(Text)
    opened_at: Mapped[int] = mapped_column(BigInteger)
    """When its term began: a term that ends without a receipt is followed by another."""
    open_index: Mapped[int | None] = mapped_column(BigInteger)
    """Log index of the open statement; absent until the log has acknowledged it."""
    first: Mapped[int | None] = mapped_column(BigInteger)
    size: Mapped[int | None] = mapped_column(BigInteger)
    sealed_at: Mapped[int | None] = mapped_column(BigInteger)
    whole: Mapped[bool | None] = mapped_column(Boolean)
    open_statement: Mapped[bytes] = mapped_column(LargeBinary)
    seal_statement: Mapped[bytes | None] = mapped_column(LargeBinary)
    draw_statement: Mapped[bytes | None] = mapped_column(LargeBinary)


class SealRow(Base):
    """One seal of one tenant, stored before it is sent. `log_index` is absent until the log has acknowledged it."""

    __tablename__ = "replay_seals"
    __table_args__ = (
        Index(None, "tenant", postgresql_where=text("log_index IS NULL")),
        KEPT_BY_WORKER,
    )

    tenant: Mapped[str] = mapped_column(Text, primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    statement: Mapped[bytes] = mapped_column(LargeBinary)
    log_index: Mapped[int | None] = mapped_column(BigInteger)


class BeaconRow(Base):
    """One party's commitment for one epoch, and its reveal once it came."""

    __tablename__ = "replay_beacons"
    __table_args__ = (KEPT_BY_WORKER,)

    epoch: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    party: Mapped[str] = mapped_column(Text, primary_key=True)
    position: Mapped[int] = mapped_column(Integer)
    commitment_statement: Mapped[bytes] = mapped_column(LargeBinary)
    reveal_statement: Mapped[bytes | None] = mapped_column(LargeBinary)


class WorkRow(Base):
    """One re-execution that one worker owes.

    A row is claimed by a lease; a lease that ran out is claimed again. `verdict_statement` is stored before it is sent,
    and `done_at` is set once the log has acknowledged it: a worker killed anywhere resumes without a second verdict.
    """

    __tablename__ = "replay_work"
    __table_args__ = (
        UniqueConstraint("receipt", "kind"),
        KEPT_BY_WORKER,
    )

    id: Mapped[RowId]
    receipt: Mapped[Hash32]
    kind: Mapped[str] = mapped_column(Text)
    """`primary`, or `confirm` for the second opinion on a FAIL."""
    epoch: Mapped[int] = mapped_column(ForeignKey("replay_epochs.epoch"))
    worker: Mapped[str] = mapped_column(Text)
    request_statement: Mapped[bytes] = mapped_column(LargeBinary)
    deadline: Mapped[int] = mapped_column(BigInteger)
    hinted_at: Mapped[int] = mapped_column(BigInteger, default=0)
    leased_until: Mapped[int | None] = mapped_column(BigInteger)
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    failures: Mapped[int] = mapped_column(Integer, default=0, server_default=text("0"))
    """How often the auditor's own side failed: waiting for others is none."""
    asked_at: Mapped[int | None] = mapped_column(BigInteger)
    """When the node was first asked for its evidence, within the deadline; absent when it was not."""
    last_error: Mapped[str | None] = mapped_column(Text)
    judgement: Mapped[bytes | None] = mapped_column(LargeBinary)
    verdict_statement: Mapped[bytes | None] = mapped_column(LargeBinary)
    outcome: Mapped[str | None] = mapped_column(Text)
    reason: Mapped[str | None] = mapped_column(Text)
    done_at: Mapped[int | None] = mapped_column(BigInteger)
