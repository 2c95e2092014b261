"""every token expires; those that were made before it live for another 90 days

Revises: 0007
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0008"
down_revision: str | Sequence[str] | None = "0007"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

LIFE_MS = 90 * 86_400_000


def upgrade() -> None:
    op.add_column("api_tokens", sa.Column("expires", sa.BigInteger(), nullable=True))
    now = "(extract(epoch FROM now()) * 1000)::bigint"
    op.execute(f"UPDATE api_tokens SET expires = greatest(created, {now}) + {LIFE_MS}")  # noqa: S608
    op.alter_column("api_tokens", "expires", nullable=False)
    op.create_check_constraint("life", "api_tokens", "expires > created")


def downgrade() -> None:
    op.drop_constraint(op.f("ck_api_tokens_life"), "api_tokens", type_="check")
    op.drop_column("api_tokens", "expires")
