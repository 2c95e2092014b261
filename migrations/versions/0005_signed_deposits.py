"""deposits carry the node's signature over the final record; receipts are found by their order; work counts its failures

Revises: 0004
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0005"
down_revision: str | Sequence[str] | None = "0004"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    # Earlier deposits were checked against nothing, and cannot be now: their final records are under no signature.
    op.execute("DELETE FROM trail_evidence")
    op.add_column("trail_evidence", sa.Column("final_signature", sa.LargeBinary(), nullable=False))
    op.create_index(
        op.f("ix_trail_receipts_order_entry"), "trail_receipts", ["order_entry"], unique=False
    )
    op.add_column(
        "replay_work",
        sa.Column("failures", sa.Integer(), server_default=sa.text("0"), nullable=False),
    )
    op.add_column("replay_work", sa.Column("asked_at", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    op.drop_column("replay_work", "asked_at")
    op.drop_column("replay_work", "failures")
    op.drop_index(op.f("ix_trail_receipts_order_entry"), table_name="trail_receipts")
    op.execute("DELETE FROM trail_evidence")
    op.drop_column("trail_evidence", "final_signature")
