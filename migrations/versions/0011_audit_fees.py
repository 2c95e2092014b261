"""audit fees: what tenants paid for audits that they asked for

Revises: 0010
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0011"
down_revision: str | Sequence[str] | None = "0010"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "costs_audit_fees",
        sa.Column("verdict", sa.LargeBinary(length=32), nullable=False),
        sa.Column("log_index", sa.BigInteger(), nullable=False),
        sa.Column("contract", sa.LargeBinary(length=32), nullable=True),
        sa.Column("journal", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "octet_length(verdict) = 32", name=op.f("ck_costs_audit_fees_verdict_length")
        ),
        sa.CheckConstraint(
            "octet_length(contract) = 32", name=op.f("ck_costs_audit_fees_contract_length")
        ),
        sa.CheckConstraint(
            "(contract IS NULL) = (journal IS NULL)", name=op.f("ck_costs_audit_fees_priced")
        ),
        sa.ForeignKeyConstraint(
            ["journal"],
            ["costs_journals.id"],
            name=op.f("fk_costs_audit_fees_journal_costs_journals"),
        ),
        sa.PrimaryKeyConstraint("verdict", name=op.f("pk_costs_audit_fees")),
        sa.UniqueConstraint("log_index", name=op.f("uq_costs_audit_fees_log_index")),
        sa.UniqueConstraint("journal", name=op.f("uq_costs_audit_fees_journal")),
    )
    op.set_access(
        "costs_audit_fees",
        {"counterfoil_server": ["insert", "select"], "counterfoil_worker": ["insert", "select"]},
    )


def downgrade() -> None:
    op.set_access("costs_audit_fees", {})
    op.drop_table("costs_audit_fees")
