"""completeness and erasure: gaps in numberings, resolved findings, tenant seals, data keys

Revises: 0003
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0004"
down_revision: str | Sequence[str] | None = "0003"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "replay_seals",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("statement", sa.LargeBinary(), nullable=False),
        sa.Column("log_index", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("tenant", "number", name=op.f("pk_replay_seals")),
    )
    op.create_index(
        op.f("ix_replay_seals_tenant"),
        "replay_seals",
        ["tenant"],
        unique=False,
        postgresql_where=sa.text("log_index IS NULL"),
    )
    op.create_table(
        "trail_counters",
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("issuer", sa.Text(), nullable=False),
        sa.Column("next", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("next >= 0", name=op.f("ck_trail_counters_next_not_negative")),
        sa.PrimaryKeyConstraint("kind", "issuer", name=op.f("pk_trail_counters")),
    )
    # A finding's statements are too long for an index; each pair has its own digest.
    op.add_column("trail_findings", sa.Column("digest", sa.LargeBinary(length=32), nullable=True))
    op.execute(
        "UPDATE trail_findings SET digest = sha256("
        "convert_to(kind, 'UTF8') || sha256(first_statement) || sha256(second_statement))"
    )
    op.alter_column("trail_findings", "digest", nullable=False)
    op.drop_constraint(
        op.f("uq_trail_findings_kind_first_statement_second_statement"),
        "trail_findings",
        type_="unique",
    )
    op.create_unique_constraint(op.f("uq_trail_findings_digest"), "trail_findings", ["digest"])
    op.create_check_constraint(
        op.f("ck_trail_findings_digest_length"), "trail_findings", "octet_length(digest) = 32"
    )
    op.create_table(
        "trail_gaps",
        sa.Column(
            "id", sa.BigInteger(), sa.Identity(always=True), autoincrement=True, nullable=False
        ),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("issuer", sa.Text(), nullable=False),
        sa.Column("first", sa.BigInteger(), nullable=False),
        sa.Column("last", sa.BigInteger(), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("finding", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["finding"], ["trail_findings.id"], name=op.f("fk_trail_gaps_finding_trail_findings")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_trail_gaps")),
    )
    op.create_index(op.f("ix_trail_gaps_finding"), "trail_gaps", ["finding"], unique=False)
    op.create_index(
        op.f("ix_trail_gaps_kind_issuer_last"),
        "trail_gaps",
        ["kind", "issuer", "last"],
        unique=False,
    )
    op.create_table(
        "trail_resolutions",
        sa.Column("finding", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["finding"],
            ["trail_findings.id"],
            name=op.f("fk_trail_resolutions_finding_trail_findings"),
        ),
        sa.PrimaryKeyConstraint("finding", name=op.f("pk_trail_resolutions")),
    )
    op.create_table(
        "trail_erasures",
        sa.Column(
            "id", sa.BigInteger(), sa.Identity(always=True), autoincrement=True, nullable=False
        ),
        sa.Column("statement", sa.LargeBinary(), nullable=False),
        sa.Column("done_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_trail_erasures")),
    )
    op.create_table(
        "trail_data_keys",
        sa.Column(
            "id", sa.BigInteger(), sa.Identity(always=True), autoincrement=True, nullable=False
        ),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("day", sa.BigInteger(), nullable=False),
        sa.Column("wrapped", sa.LargeBinary(), nullable=True),
        sa.Column("erasure", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "wrapped IS NOT NULL OR erasure IS NOT NULL",
            name=op.f("ck_trail_data_keys_kept_or_erased"),
        ),
        sa.ForeignKeyConstraint(
            ["erasure"],
            ["trail_erasures.id"],
            name=op.f("fk_trail_data_keys_erasure_trail_erasures"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_trail_data_keys")),
    )
    op.create_index(
        op.f("ix_trail_data_keys_tenant_day"),
        "trail_data_keys",
        ["tenant", "day"],
        unique=True,
        postgresql_where=sa.text("erasure IS NULL"),
    )
    op.create_index(
        "ix_trail_statements_seals",
        "trail_statements",
        ["subject", "log_index"],
        unique=False,
        postgresql_where=sa.text("type = 'tenant-seal'"),
    )
    op.set_access(
        "replay_seals",
        {"counterfoil_server": ["select"], "counterfoil_worker": ["insert", "select", "update"]},
    )
    op.set_access(
        "trail_counters",
        {"counterfoil_server": ["insert", "select", "update"], "counterfoil_worker": ["select"]},
    )
    for table in ("trail_data_keys", "trail_erasures"):
        op.set_access(
            table,
            {
                "counterfoil_server": ["insert", "select", "update"],
                "counterfoil_worker": ["select"],
            },
        )
    op.set_access(
        "trail_gaps",
        {
            "counterfoil_server": ["delete", "insert", "select", "update"],
            "counterfoil_worker": ["select"],
        },
    )
    op.set_access(
        "trail_resolutions",
        {"counterfoil_server": ["insert", "select"], "counterfoil_worker": ["select"]},
    )


def downgrade() -> None:
    for table in (
        "trail_data_keys",
        "trail_erasures",
        "trail_resolutions",
        "trail_gaps",
        "trail_counters",
        "replay_seals",
    ):
        op.set_access(table, {})
    op.drop_index(op.f("ix_trail_data_keys_tenant_day"), table_name="trail_data_keys")
    op.drop_table("trail_data_keys")
    op.drop_table("trail_erasures")
    op.drop_index("ix_trail_statements_seals", table_name="trail_statements")
    op.drop_table("trail_resolutions")
    op.drop_table("trail_gaps")
    op.drop_constraint(op.f("ck_trail_findings_digest_length"), "trail_findings", type_="check")
    op.drop_constraint(op.f("uq_trail_findings_digest"), "trail_findings", type_="unique")
    op.create_unique_constraint(
        op.f("uq_trail_findings_kind_first_statement_second_statement"),
        "trail_findings",
        ["kind", "first_statement", "second_statement"],
    )
    op.drop_column("trail_findings", "digest")
    op.drop_table("trail_counters")
    op.drop_index(op.f("ix_replay_seals_tenant"), table_name="replay_seals")
    op.drop_table("replay_seals")
