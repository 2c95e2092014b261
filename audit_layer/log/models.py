"""Tables of the log. Entries are append-only for every service; nothing here is ever deleted."""

from sqlalchemy import BigInteger, CheckConstraint, Index, LargeBinary, SmallInteger, Text
from sqlalchemy.orm import Mapped, mapped_column

from audit_layer.storage.base import (
    APPEND,
    READ,
    WRITE,
    Base,
    Count,
    Hash32,
    UnixMs,
    access,
    bytes_check,
    not_negative,
)


class LogState(Base):
    """The one row that every append compares and sets."""

    __tablename__ = "log_state"
    __table_args__ = (
        CheckConstraint("id = 1", name="one_row"),
        bytes_check("root", 32),
        CheckConstraint("size >= signed_size AND signed_size >= 0", name="sizes"),
        access(server=WRITE, worker=READ),
    )

    id: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    size: Mapped[Count]
    root: Mapped[Hash32]
    signed_size: Mapped[Count]
    """Largest size for which an intent to sign was recorded; it only grows."""


class LogEntry(Base):
    """One leaf. `issuer` and `issuer_seq` are the idempotency key of numbered statements.

    Statements without a number of their own have no `issuer_seq` and are known by their entry.
    """

    __tablename__ = "log_entries"
    __table_args__ = (
        Index(None, "issuer", "issuer_seq", unique=True),
        Index(None, "entry", unique=True),
        bytes_check("entry", 32),
        bytes_check("issuer", 32),
        not_negative("index"),
        not_negative("issuer_seq"),
        access(server=APPEND, worker=READ),
    )

    index: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    entry: Mapped[Hash32]
    issuer: Mapped[Hash32]
    issuer_seq: Mapped[int | None] = mapped_column(BigInteger)
    recorded_at: Mapped[UnixMs]


class LogTile(Base):
    """A tile as it is at the present size: `width` hashes of 32 bytes. It only grows."""

    __tablename__ = "log_tiles"
    __table_args__ = (
        CheckConstraint("width BETWEEN 1 AND 256", name="width"),
        CheckConstraint("octet_length(hashes) = width * 32", name="hashes_length"),
        access(server=WRITE, worker=READ),
    )

    level: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    index: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    width: Mapped[int] = mapped_column(SmallInteger)
    hashes: Mapped[bytes] = mapped_column(LargeBinary)


class LogCheckpoint(Base):
    """One checkpoint on its way: intent → signed → cosigned by the quorum → published.

    The primary key is what makes two roots for one size impossible.
    """

    __tablename__ = "log_checkpoints"
    __table_args__ = (
        bytes_check("root", 32),
        not_negative("size"),
        CheckConstraint("cosigned_note IS NULL OR note IS NOT NULL", name="cosigned_is_signed"),
        CheckConstraint(
            "published_at IS NULL OR cosigned_note IS NOT NULL", name="published_is_cosigned"
        ),
        access(server=WRITE, worker=READ),
    )

    size: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    root: Mapped[Hash32]
    intent_at: Mapped[UnixMs]
    note: Mapped[str | None] = mapped_column(Text)
    """The checkpoint with the log's own signatures, made once."""
    cosigned_note: Mapped[str | None] = mapped_column(Text)
    """The same with the quorum's cosignatures."""
    published_at: Mapped[int | None] = mapped_column(BigInteger)
