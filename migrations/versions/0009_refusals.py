"""refusals: what nodes signed about orders that they did not accept, and which of them the books have heeded

Revises: 0008
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0009"
down_revision: str | Sequence[str] | None = "0008"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "trail_refusals",
        sa.Column("entry", sa.LargeBinary(length=32), nullable=False),
        sa.Column("log_index", sa.BigInteger(), nullable=False),
        sa.Column("order_entry", sa.LargeBinary(length=32), nullable=False),
        sa.Column("bundle", sa.LargeBinary(length=32), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("attempt", sa.BigInteger(), nullable=False),
        sa.Column("operator", sa.Text(), nullable=False),
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("octet_length(entry) = 32", name=op.f("ck_trail_refusals_entry_length")),
        sa.PrimaryKeyConstraint("entry", name=op.f("pk_trail_refusals")),
        sa.UniqueConstraint("log_index", name=op.f("uq_trail_refusals_log_index")),
        sa.UniqueConstraint("order_entry", name=op.f("uq_trail_refusals_order_entry")),
    )
    for columns in (("tenant", "log_index"), ("operator", "node", "log_index")):
        op.create_index(
            op.f(f"ix_trail_refusals_{'_'.join(columns)}"), "trail_refusals", list(columns)
        )
    op.create_table(
        "costs_heeded_refusals",
        sa.Column("refusal", sa.LargeBinary(length=32), nullable=False),
        sa.Column("log_index", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "octet_length(refusal) = 32", name=op.f("ck_costs_heeded_refusals_refusal_length")
        ),
        sa.PrimaryKeyConstraint("refusal", name=op.f("pk_costs_heeded_refusals")),
        sa.UniqueConstraint("log_index", name=op.f("uq_costs_heeded_refusals_log_index")),
    )
    op.set_access(
        "trail_refusals",
        {"counterfoil_server": ["insert", "select"], "counterfoil_worker": ["select"]},
    )
    op.set_access(
        "costs_heeded_refusals",
        {"counterfoil_server": ["insert", "select"], "counterfoil_worker": ["insert", "select"]},
    )


def downgrade() -> None:
    for table in ("costs_heeded_refusals", "trail_refusals"):
        op.set_access(table, {})
        op.drop_table(table)
