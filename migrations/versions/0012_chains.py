"""chains: what links the receipts of a chain of nodes to each other

Revises: 0011
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0012"
down_revision: str | Sequence[str] | None = "0011"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_HASHES = (("trail_orders", "head"), ("trail_receipts", "sent"), ("trail_receipts", "received"))


def upgrade() -> None:
    for table, name in _HASHES:
        op.add_column(table, sa.Column(name, sa.LargeBinary(length=32), nullable=True))
        op.create_check_constraint(
            op.f(f"ck_{table}_{name}_length"), table, f"octet_length({name}) = 32"
        )
    op.add_column("trail_orders", sa.Column("place", sa.BigInteger(), nullable=True))
    op.add_column("trail_receipts", sa.Column("stages", sa.LargeBinary(), nullable=True))
    op.add_column(
        "trail_receipts",
        sa.Column("part", sa.Boolean(), server_default=sa.text("false"), nullable=False),
    )


def downgrade() -> None:
    for name in ("part", "stages"):
        op.drop_column("trail_receipts", name)
    op.drop_column("trail_orders", "place")
    for table, name in reversed(_HASHES):
        op.drop_constraint(op.f(f"ck_{table}_{name}_length"), table)
        op.drop_column(table, name)
