"""what is payable: one receipt for an order, one attempt for a request; corrections, and the verdicts heeded

Revises: 0005
"""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op

revision: str = "0006"
down_revision: str | Sequence[str] | None = "0005"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

# An order that was billed more than once: what the later receipts posted is mirrored, and they are no longer billable.
UNDO_DOUBLES = """DO $undo$
DECLARE
  doubled record;
  mirror bigint;
  now_ms bigint := (extract(epoch FROM now()) * 1000)::bigint;
BEGIN
  FOR doubled IN
    SELECT r.receipt, f.receipt AS first, l.tenant, l.operator, l.currency, sum(l.amount) AS amount
      FROM costs_rated_receipts r
      JOIN LATERAL (SELECT o.receipt FROM costs_rated_receipts o WHERE o.order_entry = r.order_entry
                     ORDER BY o.log_index LIMIT 1) f ON f.receipt <> r.receipt
      JOIN costs_rated_lines l ON l.receipt = r.receipt
     WHERE r.billable
     GROUP BY 1, 2, 3, 4, 5
  LOOP
    INSERT INTO costs_journals (tenant, operator, day, currency, posted_at)
    VALUES (doubled.tenant, doubled.operator, (now() AT TIME ZONE 'UTC')::date, doubled.currency, now_ms)
    RETURNING id INTO mirror;
    INSERT INTO costs_postings (journal, account, amount, currency)
    VALUES (mirror, 'expense:' || doubled.tenant, -doubled.amount, doubled.currency),
           (mirror, 'payable:' || doubled.operator, doubled.amount, doubled.currency);
    INSERT INTO costs_corrections (receipt, turn, payable, reason, because, journal, at)
    VALUES (doubled.receipt, 0, false, 'the order was answered before', doubled.first, mirror, now_ms);
  END LOOP;
  UPDATE costs_rated_receipts r SET billable = false, reason = 'the order was answered before'
   WHERE billable AND EXISTS (SELECT FROM costs_rated_receipts o
                               WHERE o.order_entry = r.order_entry AND o.log_index < r.log_index);
END $undo$"""

ONE_ATTEMPT = (
    "CREATE FUNCTION costs_one_attempt_is_paid() RETURNS trigger\n"
    "LANGUAGE plpgsql SET search_path = public, pg_temp AS $$\n"
    "BEGIN\n"
    "  IF (\n"
    "    SELECT count(DISTINCT other.attempt)\n"
    "      FROM costs_rated_receipts this\n"
    "      JOIN costs_rated_receipts other ON other.tenant = this.tenant AND other.number = this.number\n"
    "     WHERE this.receipt = NEW.receipt AND other.billable\n"
    "       AND coalesce((SELECT payable FROM costs_corrections WHERE receipt = other.receipt\n"
    "                      ORDER BY turn DESC LIMIT 1), true)\n"
    "  ) > 1 THEN\n"
    "    RAISE EXCEPTION 'two attempts of one request are payable, one of them by receipt %', encode(NEW.receipt, 'hex')\n"
    "      USING ERRCODE = 'check_violation', CONSTRAINT = 'costs_one_attempt';\n"
    "  END IF;\n"
    "  RETURN NULL;\n"
    "END $$"
)
TABLES = ("costs_rated_receipts", "costs_corrections")


def upgrade() -> None:
    op.create_table(
        "costs_corrections",
        sa.Column("receipt", sa.LargeBinary(length=32), nullable=False),
        sa.Column("turn", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("payable", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("because", sa.LargeBinary(length=32), nullable=True),
        sa.Column("journal", sa.BigInteger(), nullable=True),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "octet_length(because) = 32", name=op.f("ck_costs_corrections_because_length")
        ),
        sa.CheckConstraint("payable = (reason IS NULL)", name=op.f("ck_costs_corrections_reason")),
        sa.CheckConstraint("turn >= 0", name=op.f("ck_costs_corrections_turn_not_negative")),
        sa.ForeignKeyConstraint(
            ["journal"],
            ["costs_journals.id"],
            name=op.f("fk_costs_corrections_journal_costs_journals"),
        ),
        sa.ForeignKeyConstraint(
            ["receipt"],
            ["costs_rated_receipts.receipt"],
            name=op.f("fk_costs_corrections_receipt_costs_rated_receipts"),
        ),
        sa.PrimaryKeyConstraint("receipt", "turn", name=op.f("pk_costs_corrections")),
    )
    op.create_index(op.f("ix_costs_corrections_at"), "costs_corrections", ["at"], unique=False)
    op.create_table(
        "costs_heeded_verdicts",
        sa.Column("verdict", sa.LargeBinary(length=32), nullable=False),
        sa.Column("log_index", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "octet_length(verdict) = 32", name=op.f("ck_costs_heeded_verdicts_verdict_length")
        ),
        sa.PrimaryKeyConstraint("verdict", name=op.f("pk_costs_heeded_verdicts")),
        sa.UniqueConstraint("log_index", name=op.f("uq_costs_heeded_verdicts_log_index")),
    )
    columns: dict[str, sa.types.TypeEngine[Any]] = {
        "order_entry": sa.LargeBinary(length=32),
        "tenant": sa.Text(),
        "number": sa.BigInteger(),
        "attempt": sa.BigInteger(),
        "complete": sa.Boolean(),
    }
    for name, kind in columns.items():
        op.add_column("costs_rated_receipts", sa.Column(name, kind, nullable=True))
    op.execute(
        "UPDATE costs_rated_receipts c SET order_entry = r.order_entry, tenant = r.tenant,"
        " number = r.number, attempt = r.attempt,"
        " complete = r.finish IN ('stop', 'length') FROM trail_receipts r WHERE r.entry = c.receipt"
    )
    for name in columns:
        op.alter_column("costs_rated_receipts", name, nullable=False)
    op.execute(UNDO_DOUBLES)
    op.create_index(
        "uq_costs_rated_receipts_order",
        "costs_rated_receipts",
        ["order_entry"],
        unique=True,
        postgresql_where=sa.text("billable"),
    )
    op.create_index(
        op.f("ix_costs_rated_receipts_tenant_number"),
        "costs_rated_receipts",
        ["tenant", "number"],
        unique=False,
    )
    op.create_object("costs_one_attempt_is_paid", ONE_ATTEMPT)
    for table in TABLES:
        op.create_object(
            f"{table}_one_attempt",
            f"CREATE CONSTRAINT TRIGGER {table}_one_attempt\n"
            f"AFTER INSERT ON {table}\n"
            "DEFERRABLE INITIALLY DEFERRED\n"
            "FOR EACH ROW EXECUTE FUNCTION costs_one_attempt_is_paid()",
            table=table,
        )
    for table in ("costs_corrections", "costs_heeded_verdicts"):
        op.set_access(
            table,
            {
                "counterfoil_server": ["insert", "select"],
                "counterfoil_worker": ["insert", "select"],
            },
        )


def downgrade() -> None:
    for table in TABLES:
        op.drop_object(f"{table}_one_attempt", table=table)
    op.drop_object("costs_one_attempt_is_paid")
    for table in ("costs_corrections", "costs_heeded_verdicts"):
        op.set_access(table, {})
    op.drop_index(op.f("ix_costs_rated_receipts_tenant_number"), table_name="costs_rated_receipts")
    op.drop_index("uq_costs_rated_receipts_order", table_name="costs_rated_receipts")
    for name in ("complete", "attempt", "number", "tenant", "order_entry"):
        op.drop_column("costs_rated_receipts", name)
    op.drop_table("costs_heeded_verdicts")
    op.drop_index(op.f("ix_costs_corrections_at"), table_name="costs_corrections")
    op.drop_table("costs_corrections")
