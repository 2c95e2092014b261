"""partitioned log: entries in partitions, a tile is its root, issuers are counted

Revises: 0001
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.schema import SchemaItem

revision: str = "0002"
down_revision: str | Sequence[str] | None = "0001"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

# A migration that loses a row of the log must not commit.
COMPLETE = """DO $check$
BEGIN
  IF (SELECT count(*) FROM log_entries) <> (SELECT count(*) FROM log_entries_old)
     OR EXISTS (SELECT FROM log_entries_old o LEFT JOIN log_entries e ON e.index = o.index
                 WHERE e IS DISTINCT FROM o) THEN
    RAISE EXCEPTION 'log_entries would not be what it was';
  END IF;
END $check$"""


def upgrade() -> None:
    for name in ("pk_log_entries", "ix_log_entries_entry", "ix_log_entries_issuer_issuer_seq"):
        op.execute(f"ALTER INDEX {name} RENAME TO {name}_old")
    op.rename_table("log_entries", "log_entries_old")
    op.create_table(
        "log_entries",
        *_entry_columns(),
        postgresql_partition_by="RANGE (index)",
    )
    op.create_index(op.f("ix_log_entries_entry"), "log_entries", ["entry"], postgresql_using="hash")
    op.create_index(
        op.f("ix_log_entries_issuer_issuer_seq"), "log_entries", ["issuer", "issuer_seq"]
    )
    op.create_object(
        "log_extend",
        "CREATE FUNCTION log_extend() RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER\n"
        "SET search_path = public, pg_temp AS $body$\n"
        "DECLARE\n"
        "  part bigint;\n"
        "  wanted bigint;\n"
        "  name text;\n"
        "BEGIN\n"
        "  PERFORM pg_advisory_xact_lock(x'6C6F675F70617274'::bigint);\n"
        "  SELECT coalesce(max(size), 0) >> 20 INTO part FROM log_state;\n"
        "  FOR wanted IN 0 .. part + 1 LOOP\n"
        "    name := format('log_entries_p%s', wanted);\n"
        "    IF to_regclass(name) IS NULL THEN\n"
        "      EXECUTE format('CREATE TABLE %I (LIKE log_entries INCLUDING ALL)', name);\n"
        "      EXECUTE format(\n"
        "        'ALTER TABLE log_entries ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%s)',\n"
        "        name, wanted << 20, (wanted + 1) << 20);\n"
        "    END IF;\n"
        "  END LOOP;\n"
        "  RETURN (part + 2) << 20;\n"
        "END\n"
        "$body$",
    )
    op.execute("SELECT log_extend()")
    op.execute("INSERT INTO log_entries SELECT * FROM log_entries_old")
    op.execute(COMPLETE)
    op.drop_table("log_entries_old")
    op.create_table(
        "log_issuers",
        sa.Column("issuer", sa.LargeBinary(length=32), nullable=False),
        sa.Column("highest", sa.BigInteger(), nullable=False),
        sa.Column("held", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("held BETWEEN 1 AND highest + 1", name=op.f("ck_log_issuers_held")),
        sa.CheckConstraint("highest >= 0", name=op.f("ck_log_issuers_highest_not_negative")),
        sa.CheckConstraint("octet_length(issuer) = 32", name=op.f("ck_log_issuers_issuer_length")),
        sa.PrimaryKeyConstraint("issuer", name=op.f("pk_log_issuers")),
    )
    op.execute(
        "INSERT INTO log_issuers SELECT issuer, max(issuer_seq), count(*) FROM log_entries"
        " WHERE issuer_seq IS NOT NULL GROUP BY issuer"
    )
    op.execute("ALTER INDEX pk_log_tiles RENAME TO pk_log_tiles_old")
    op.rename_table("log_tiles", "log_tiles_old")
    op.create_table(
        "log_tiles",
        sa.Column("level", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("index", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("root", sa.LargeBinary(length=32), nullable=False),
        sa.CheckConstraint("index >= 0", name=op.f("ck_log_tiles_index_not_negative")),
        sa.CheckConstraint("level >= 0", name=op.f("ck_log_tiles_level_not_negative")),
        sa.CheckConstraint("octet_length(root) = 32", name=op.f("ck_log_tiles_root_length")),
        sa.PrimaryKeyConstraint("level", "index", name=op.f("pk_log_tiles")),
    )
    # The root of a full tile is a hash of the tile above.
    op.execute(
        "INSERT INTO log_tiles SELECT level - 1, index * 256 + at, substr(hashes, at * 32 + 1, 32)"
        " FROM log_tiles_old, LATERAL generate_series(0, width - 1) AS at WHERE level > 0"
    )
    op.drop_table("log_tiles_old")
    op.drop_constraint(op.f("ck_log_state_sizes"), "log_state")
    op.drop_column("log_state", "signed_size")
    op.create_check_constraint(op.f("ck_log_state_size_not_negative"), "log_state", "size >= 0")
    _grant(tiles=["insert", "select"])
    op.set_access(
        "log_issuers",
        {"counterfoil_server": ["insert", "select", "update"], "counterfoil_worker": ["select"]},
    )


def downgrade() -> None:
    op.add_column("log_state", sa.Column("signed_size", sa.BigInteger(), nullable=True))
    op.execute(
        "UPDATE log_state SET signed_size = coalesce((SELECT max(size) FROM log_checkpoints), 0)"
    )
    op.alter_column("log_state", "signed_size", nullable=False)
    op.drop_constraint(op.f("ck_log_state_size_not_negative"), "log_state")
    op.create_check_constraint(
        op.f("ck_log_state_sizes"), "log_state", "size >= signed_size AND signed_size >= 0"
    )
    op.execute("ALTER INDEX pk_log_tiles RENAME TO pk_log_tiles_new")
    op.rename_table("log_tiles", "log_tiles_new")
    op.create_table(
        "log_tiles",
        sa.Column("level", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("index", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("width", sa.SmallInteger(), nullable=False),
        sa.Column("hashes", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint(
            "octet_length(hashes) = width * 32", name=op.f("ck_log_tiles_hashes_length")
        ),
        sa.CheckConstraint("width BETWEEN 1 AND 256", name=op.f("ck_log_tiles_width")),
        sa.PrimaryKeyConstraint("level", "index", name=op.f("pk_log_tiles")),
    )
    op.execute(
        "INSERT INTO log_tiles SELECT level + 1, index / 256, count(*), string_agg(root, '' ORDER BY index)"
        " FROM log_tiles_new GROUP BY level, index / 256"
    )
    op.execute(
        "INSERT INTO log_tiles SELECT 0, index / 256, count(*),"
        " string_agg(sha256('\\x00'::bytea || entry), '' ORDER BY index)"
        " FROM log_entries GROUP BY index / 256"
    )
    op.drop_table("log_tiles_new")
    op.drop_table("log_issuers")
    for name in ("pk_log_entries", "ix_log_entries_entry", "ix_log_entries_issuer_issuer_seq"):
        op.execute(f"ALTER INDEX {name} RENAME TO {name}_old")
    op.rename_table("log_entries", "log_entries_old")
    op.create_table("log_entries", *_entry_columns())
    op.create_index(op.f("ix_log_entries_entry"), "log_entries", ["entry"], unique=True)
    op.create_index(
        op.f("ix_log_entries_issuer_issuer_seq"),
        "log_entries",
        ["issuer", "issuer_seq"],
        unique=True,
    )
    op.execute("INSERT INTO log_entries SELECT * FROM log_entries_old")
    op.execute(COMPLETE)
    op.drop_table("log_entries_old")
    op.drop_object("log_extend")
    _grant(tiles=["insert", "select", "update"])


def _entry_columns() -> tuple[SchemaItem, ...]:
    return (
        sa.Column("index", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("entry", sa.LargeBinary(length=32), nullable=False),
        sa.Column("issuer", sa.LargeBinary(length=32), nullable=False),
        sa.Column("issuer_seq", sa.BigInteger(), nullable=True),
        sa.Column("recorded_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("index >= 0", name=op.f("ck_log_entries_index_not_negative")),
        sa.CheckConstraint("issuer_seq >= 0", name=op.f("ck_log_entries_issuer_seq_not_negative")),
        sa.CheckConstraint("octet_length(entry) = 32", name=op.f("ck_log_entries_entry_length")),
        sa.CheckConstraint("octet_length(issuer) = 32", name=op.f("ck_log_entries_issuer_length")),
        sa.PrimaryKeyConstraint("index", name=op.f("pk_log_entries")),
    )


def _grant(*, tiles: list[str]) -> None:
    op.set_access(
        "log_entries",
        {"counterfoil_server": ["insert", "select"], "counterfoil_worker": ["select"]},
    )
    op.set_access("log_tiles", {"counterfoil_server": tiles, "counterfoil_worker": ["select"]})
