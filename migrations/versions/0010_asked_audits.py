"""asked audits: what tenants asked for, work that no epoch draws, and which verdicts came of it

Revises: 0009
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0010"
down_revision: str | Sequence[str] | None = "0009"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "replay_asked",
        sa.Column("audit_request", sa.LargeBinary(length=32), nullable=False),
        sa.Column("log_index", sa.BigInteger(), nullable=False),
        sa.Column("receipt", sa.LargeBinary(length=32), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("request_statement", sa.LargeBinary(), nullable=True),
        sa.Column("left_why", sa.Text(), nullable=True),
        sa.Column("logged", sa.Boolean(), nullable=False),
        sa.CheckConstraint(
            "octet_length(audit_request) = 32", name=op.f("ck_replay_asked_audit_request_length")
        ),
        sa.CheckConstraint(
            "octet_length(receipt) = 32", name=op.f("ck_replay_asked_receipt_length")
        ),
        sa.CheckConstraint(
            "(request_statement IS NULL) <> (left_why IS NULL)",
            name=op.f("ck_replay_asked_answered_or_left"),
        ),
        sa.PrimaryKeyConstraint("audit_request", name=op.f("pk_replay_asked")),
        sa.UniqueConstraint("log_index", name=op.f("uq_replay_asked_log_index")),
    )
    for columns in (("tenant", "at"), ("receipt",)):
        op.create_index(op.f(f"ix_replay_asked_{'_'.join(columns)}"), "replay_asked", list(columns))
    op.create_index(
        "ix_replay_asked_unlogged",
        "replay_asked",
        ["log_index"],
        postgresql_where=sa.text("request_statement IS NOT NULL AND NOT logged"),
    )
    op.set_access(
        "replay_asked",
        {"counterfoil_server": ["select"], "counterfoil_worker": ["insert", "select", "update"]},
    )
    op.alter_column("replay_work", "epoch", existing_type=sa.BigInteger(), nullable=True)
    op.add_column(
        "trail_verdicts",
        sa.Column("asked", sa.Boolean(), server_default=sa.text("false"), nullable=False),
    )


def downgrade() -> None:
    op.drop_column("trail_verdicts", "asked")
    # What no epoch draws has no place in the older list; its statements stay in the log.
    op.execute("DELETE FROM replay_work WHERE epoch IS NULL")
    op.alter_column("replay_work", "epoch", existing_type=sa.BigInteger(), nullable=False)
    op.set_access("replay_asked", {})
    op.drop_table("replay_asked")
