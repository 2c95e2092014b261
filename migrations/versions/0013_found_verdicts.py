"""found verdicts: what a worker came to about the other receipts of a chain of nodes

Revises: 0012
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0013"
down_revision: str | Sequence[str] | None = "0012"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("replay_work", sa.Column("found_by", sa.BigInteger(), nullable=True))
    op.create_foreign_key(
        op.f("fk_replay_work_found_by_replay_work"),
        "replay_work",
        "replay_work",
        ["found_by"],
        ["id"],
    )
    op.drop_constraint(op.f("uq_replay_work_receipt_kind"), "replay_work", type_="unique")
    op.create_index(
        "uq_replay_work_receipt_kind",
        "replay_work",
        ["receipt", "kind"],
        unique=True,
        postgresql_where=sa.text("found_by IS NULL"),
    )
    op.create_index(
        "uq_replay_work_found_by_receipt", "replay_work", ["found_by", "receipt"], unique=True
    )


def downgrade() -> None:
    # What was found beside other work has no place in the older list; its verdicts stay in the log.
    op.execute("DELETE FROM replay_work WHERE found_by IS NOT NULL")
    op.drop_index("uq_replay_work_found_by_receipt", table_name="replay_work")
    op.drop_index("uq_replay_work_receipt_kind", table_name="replay_work")
    op.create_unique_constraint(
        op.f("uq_replay_work_receipt_kind"), "replay_work", ["receipt", "kind"]
    )
    op.drop_constraint(
        op.f("fk_replay_work_found_by_replay_work"), "replay_work", type_="foreignkey"
    )
    op.drop_column("replay_work", "found_by")
