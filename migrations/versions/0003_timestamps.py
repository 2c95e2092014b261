"""timestamps

Revises: 0002
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0003"
down_revision: str | Sequence[str] | None = "0002"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "log_timestamps",
        sa.Column("size", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("time", sa.BigInteger(), nullable=False),
        sa.Column("reply", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("size >= 0", name=op.f("ck_log_timestamps_size_not_negative")),
        sa.PrimaryKeyConstraint("size", name=op.f("pk_log_timestamps")),
    )
    op.set_access(
        "log_timestamps",
        {"counterfoil_server": ["insert", "select"], "counterfoil_worker": ["select"]},
    )


def downgrade() -> None:
    op.set_access("log_timestamps", {})
    op.drop_table("log_timestamps")
