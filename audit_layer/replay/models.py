"""Table of the replay room: the work list.

Statements are stored in the row before they are sent to the log, so that after a crash between the two the same bytes
are sent again; the log answers those with the index that they already have.
"""

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, LargeBinary, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from audit_layer.selection.models import KEPT_BY_WORKER, EpochRow
from audit_layer.storage.base import Base, Hash32, RowId


class WorkRow(Base):
    """One replay that one worker owes.

    A row is claimed by a lease; one whose lease has expired is claimed again. `verdict_statement` is stored before it is sent,
    and `done_at` is set once the log has acknowledged it: a worker killed anywhere resumes without a second verdict.
    """

    __tablename__ = "replay_work"
    __table_args__ = (
        Index(
            "uq_replay_work_receipt_kind",
            "receipt",
            "kind",
            unique=True,
            postgresql_where=text("found_by IS NULL"),
        ),
        Index("uq_replay_work_found_by_receipt", "found_by", "receipt", unique=True),
        KEPT_BY_WORKER,
    )

    id: Mapped[RowId]
    receipt: Mapped[Hash32]
    kind: Mapped[str] = mapped_column(Text)
    """A `selection.work.Kind`."""
    epoch: Mapped[int | None] = mapped_column(ForeignKey(EpochRow.epoch))
    """Null if its tenant asked for the audit."""
    worker: Mapped[str] = mapped_column(Text)
    request_statement: Mapped[bytes] = mapped_column(LargeBinary)
    deadline: Mapped[int] = mapped_column(BigInteger)
    hinted_at: Mapped[int] = mapped_column(BigInteger, default=0)
    leased_until: Mapped[int | None] = mapped_column(BigInteger)
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    failures: Mapped[int] = mapped_column(Integer, default=0, server_default=text("0"))
    """How often the auditor's own side failed; waiting for others does not count."""
    asked_at: Mapped[int | None] = mapped_column(BigInteger)
    """When the node was first asked for its evidence before the deadline; absent if it was not."""
    last_error: Mapped[str | None] = mapped_column(Text)
    judgement: Mapped[bytes | None] = mapped_column(LargeBinary)
    verdict_statement: Mapped[bytes | None] = mapped_column(LargeBinary)
    outcome: Mapped[str | None] = mapped_column(Text)
    reason: Mapped[str | None] = mapped_column(Text)
    done_at: Mapped[int | None] = mapped_column(BigInteger)
    found_by: Mapped[int | None] = mapped_column(ForeignKey("replay_work.id"))
    """The work that came to this about another receipt of the same chain of nodes; it has its verdict from the start."""
