"""Tables of the log. Entries and tiles are append-only for every service; nothing here is ever deleted."""

from typing import Final

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
    declare_function,
    not_negative,
)

PARTITION_BITS: Final = 20
"""A partition of `log_entries` holds 2^20 indexes: the one being written stays small enough for memory."""


class LogState(Base):
    """The one row that every append compares and sets.

    A committed row is the intent to sign: for each size there is one root, and whatever is signed
    (a COSE Receipt, a checkpoint) was committed here first.
    """

    __tablename__ = "log_state"
    __table_args__ = (
        CheckConstraint("id = 1", name="one_row"),
        bytes_check("root", 32),
        not_negative("size"),
        access(server=WRITE, worker=READ),
    )

    id: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    size: Mapped[Count]
    root: Mapped[Hash32]


class LogEntry(Base):
    """One leaf. `issuer` and `issuer_seq` are the idempotency key of numbered statements.

    Statements without a number of their own have no `issuer_seq` and are identified by their entry. No
    constraint can make keys unique across partitions; the sequencer does, by looking them up in the
    transaction that compares and sets the state, and `fsck` counts them.
    """

    __tablename__ = "log_entries"
    __table_args__ = (
        Index(None, "issuer", "issuer_seq"),
        Index(None, "entry", postgresql_using="hash"),
        bytes_check("entry", 32),
        bytes_check("issuer", 32),
        not_negative("index"),
        not_negative("issuer_seq"),
        {"postgresql_partition_by": "RANGE (index)", **access(server=APPEND, worker=READ)},
    )

    index: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    entry: Mapped[Hash32]
    issuer: Mapped[Hash32]
    issuer_seq: Mapped[int | None] = mapped_column(BigInteger)
    recorded_at: Mapped[UnixMs]


class LogIssuer(Base):
    """How far an issuer's numbers go: none above `highest` is in the log yet.

    This saves looking up new keys, and shows gaps: with numbers from 0, an issuer
    without a gap has `held` = `highest` + 1.
    """

    __tablename__ = "log_issuers"
    __table_args__ = (
        bytes_check("issuer", 32),
        not_negative("highest"),
        CheckConstraint("held BETWEEN 1 AND highest + 1", name="held"),
        access(server=WRITE, worker=READ),
    )

    issuer: Mapped[Hash32] = mapped_column(primary_key=True)
    highest: Mapped[int] = mapped_column(BigInteger)
    held: Mapped[Count]


class LogTile(Base):
    """The root of a full tile, which is a hash of the tile above it.

    A tile's contents follow from the entries, or from the roots of the tiles below. Rows are
    written once, together with the tile's last hash.
    """

    __tablename__ = "log_tiles"
    __table_args__ = (
        bytes_check("root", 32),
        not_negative("level"),
        not_negative("index"),
        access(server=APPEND, worker=READ),
    )

    level: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    index: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    root: Mapped[Hash32]


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


class LogTimestamp(Base):
    """An RFC 3161 timestamp over a published checkpoint."""

    __tablename__ = "log_timestamps"
    __table_args__ = (
        not_negative("size"),
        access(server=APPEND, worker=READ),
    )

    size: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    time: Mapped[UnixMs]
    """When the authority says that it saw the checkpoint."""
    reply: Mapped[bytes] = mapped_column(LargeBinary)
    """The whole TimeStampResp, as verified before it was stored."""


# Creates partitions up to the one after the current one, and returns the first index beyond them.
# Runs with the owner's rights, because services may not create tables; attaching locks out no reader.
declare_function(
    "log_extend",
    """
CREATE FUNCTION log_extend() RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp AS $body$
DECLARE
  part bigint;
  wanted bigint;
  name text;
BEGIN
  PERFORM pg_advisory_xact_lock(x'6C6F675F70617274'::bigint);
  SELECT coalesce(max(size), 0) >> $bits$ INTO part FROM log_state;
  FOR wanted IN 0 .. part + 1 LOOP
    name := format('log_entries_p%s', wanted);
    IF to_regclass(name) IS NULL THEN
      EXECUTE format('CREATE TABLE %I (LIKE log_entries INCLUDING ALL)', name);
      EXECUTE format(
        'ALTER TABLE log_entries ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%s)',
        name, wanted << $bits$, (wanted + 1) << $bits$);
    END IF;
  END LOOP;
  RETURN (part + 2) << $bits$;
END
$body$
""".replace("$bits$", str(PARTITION_BITS)),
)
