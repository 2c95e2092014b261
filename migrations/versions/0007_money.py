"""money: contracts, billing periods, one rated row a receipt, journals with keys, cases; what an order bounds as columns

Revises: 0006
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0007"
down_revision: str | Sequence[str] | None = "0006"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


JOURNALS = (
    "UPDATE costs_journals j SET key = 'journal ' || j.id,"
    " kind = CASE WHEN EXISTS (SELECT FROM costs_corrections c WHERE c.journal = j.id) THEN 'correction' ELSE 'usage' END,"
    " postings = (SELECT count(*) FROM costs_postings p WHERE p.journal = j.id)"
)


def _month(ms: str, months: int = 0) -> str:
    """Return, as SQL, when the UTC month of a time begins, or the one after it (ms)."""
    begins = f"date_trunc('month', to_timestamp({ms} / 1000.0) AT TIME ZONE 'UTC') + interval '{months} month'"
    return f"(extract(epoch FROM ({begins}) AT TIME ZONE 'UTC') * 1000)::bigint"


# The lines of a receipt, one for each kind of token, become its row; the months that were booked become periods.
ONE_ROW = (
    (
        "UPDATE costs_rated_receipts c SET operator = r.operator, node = r.node, model_root = r.model_root,"
        " day = (to_timestamp(r.ended / 1000.0) AT TIME ZONE 'UTC')::date, started = r.started, ended = r.ended,"
        " input = r.input_tokens - r.cached_tokens, cached = r.cached_tokens, output = r.output_tokens,"
        " rate_card = r.rate_card FROM trail_receipts r WHERE r.entry = c.receipt"
    ),
    (
        "UPDATE costs_rated_receipts c SET amount = l.amount, currency = l.currency, cost_centre = l.cost_centre,"
        " journal = l.journal FROM (SELECT receipt, sum(amount) AS amount, min(currency) AS currency,"
        " (array_agg(cost_centre))[1] AS cost_centre, min(journal) AS journal FROM costs_rated_lines GROUP BY receipt) l"
        " WHERE l.receipt = c.receipt"
    ),
    (
        'INSERT INTO costs_periods (tenant, operator, currency, start, "end", time_zone)'  # noqa: S608  # constants
        f" SELECT DISTINCT tenant, operator, currency, {_month('ended')}, {_month('ended', 1)}, 'UTC'"
        " FROM costs_rated_receipts WHERE amount IS NOT NULL"
    ),
    (
        "UPDATE costs_rated_receipts c SET period = p.id FROM costs_periods p WHERE c.amount IS NOT NULL"
        ' AND (p.tenant, p.operator, p.currency) = (c.tenant, c.operator, c.currency) AND c.ended >= p.start AND c.ended < p."end"'
    ),
    (
        "UPDATE costs_corrections x SET period = c.period FROM costs_rated_receipts c"
        " WHERE c.receipt = x.receipt AND x.journal IS NOT NULL"
    ),
)
# The earlier version makes the books up again from the log.
FORGET = (
    "TRUNCATE costs_corrections, costs_rated_receipts, costs_postings, costs_journals, costs_heeded_verdicts,"
    " costs_periods, costs_period_events"
)


def upgrade() -> None:
    op.create_table(
        "costs_contracts",
        sa.Column(
            "id", sa.BigInteger(), sa.Identity(always=True), autoincrement=True, nullable=False
        ),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("operator", sa.Text(), nullable=False),
        sa.Column("valid_from", sa.BigInteger(), nullable=False),
        sa.Column("valid_to", sa.BigInteger(), nullable=True),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("supersedes", sa.BigInteger(), nullable=True),
        sa.Column("recorded_at", sa.BigInteger(), nullable=False),
        sa.Column("recorded_by", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "octet_length(digest) = 32", name=op.f("ck_costs_contracts_digest_length")
        ),
        sa.CheckConstraint(
            "supersedes < id", name=op.f("ck_costs_contracts_supersedes_an_earlier_one")
        ),
        sa.CheckConstraint(
            "valid_to IS NULL OR valid_from < valid_to", name=op.f("ck_costs_contracts_period")
        ),
        sa.ForeignKeyConstraint(
            ["supersedes"],
            ["costs_contracts.id"],
            name=op.f("fk_costs_contracts_supersedes_costs_contracts"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_costs_contracts")),
        sa.UniqueConstraint("digest", name=op.f("uq_costs_contracts_digest")),
        sa.UniqueConstraint("supersedes", name=op.f("uq_costs_contracts_supersedes")),
    )
    op.create_index(
        op.f("ix_costs_contracts_tenant_operator"),
        "costs_contracts",
        ["tenant", "operator"],
        unique=False,
    )
    op.create_table(
        "costs_periods",
        sa.Column(
            "id", sa.BigInteger(), sa.Identity(always=True), autoincrement=True, nullable=False
        ),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("operator", sa.Text(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("start", sa.BigInteger(), nullable=False),
        sa.Column("end", sa.BigInteger(), nullable=False),
        sa.Column("time_zone", sa.Text(), nullable=False),
        sa.CheckConstraint('"start" < "end"', name=op.f("ck_costs_periods_period")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_costs_periods")),
        sa.UniqueConstraint(
            "tenant",
            "operator",
            "currency",
            "start",
            name=op.f("uq_costs_periods_tenant_operator_currency_start"),
        ),
    )
    op.create_table(
        "costs_model_names",
        sa.Column(
            "id", sa.BigInteger(), sa.Identity(always=True), autoincrement=True, nullable=False
        ),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("model_root", sa.LargeBinary(length=32), nullable=False),
        sa.Column("recorded_at", sa.BigInteger(), nullable=False),
        sa.Column("recorded_by", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "octet_length(model_root) = 32", name=op.f("ck_costs_model_names_model_root_length")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_costs_model_names")),
    )
    op.create_index(op.f("ix_costs_model_names_name"), "costs_model_names", ["name"], unique=False)
    op.create_table(
        "costs_case_events",
        sa.Column("invoice", sa.BigInteger(), nullable=False),
        sa.Column("turn", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("amount", sa.Numeric(precision=48, scale=24), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "state IN ('matched', 'within-tolerance', 'open', 'disputed', 'credited', 'write-off-asked', 'written-off')",
            name=op.f("ck_costs_case_events_state"),
        ),
        sa.CheckConstraint("turn >= 0", name=op.f("ck_costs_case_events_turn_not_negative")),
        sa.ForeignKeyConstraint(
            ["invoice"],
            ["costs_invoices.id"],
            name=op.f("fk_costs_case_events_invoice_costs_invoices"),
        ),
        sa.PrimaryKeyConstraint("invoice", "turn", name=op.f("pk_costs_case_events")),
    )
    op.create_table(
        "costs_period_events",
        sa.Column("period", sa.BigInteger(), nullable=False),
        sa.Column("turn", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("root", sa.LargeBinary(length=32), nullable=True),
        sa.Column("statement", sa.LargeBinary(), nullable=True),
        sa.Column("bill", sa.LargeBinary(), nullable=True),
        sa.CheckConstraint(
            "num_nonnulls(statement, root, bill) = CASE WHEN state = 'closed' THEN 3 ELSE 0 END",
            name=op.f("ck_costs_period_events_sealed"),
        ),
        sa.CheckConstraint(
            "state IN ('open', 'soft-closed', 'closing', 'closed')",
            name=op.f("ck_costs_period_events_state"),
        ),
        sa.CheckConstraint(
            "octet_length(root) = 32", name=op.f("ck_costs_period_events_root_length")
        ),
        sa.CheckConstraint("turn >= 0", name=op.f("ck_costs_period_events_turn_not_negative")),
        sa.ForeignKeyConstraint(
            ["period"],
            ["costs_periods.id"],
            name=op.f("fk_costs_period_events_period_costs_periods"),
        ),
        sa.PrimaryKeyConstraint("period", "turn", name=op.f("pk_costs_period_events")),
    )
    op.add_column("costs_corrections", sa.Column("period", sa.BigInteger(), nullable=True))
    op.create_index(
        op.f("ix_costs_corrections_period"), "costs_corrections", ["period"], unique=False
    )
    op.create_foreign_key(
        op.f("fk_costs_corrections_period_costs_periods"),
        "costs_corrections",
        "costs_periods",
        ["period"],
        ["id"],
    )
    op.add_column("costs_invoices", sa.Column("format", sa.Text(), nullable=True))
    op.add_column("costs_invoices", sa.Column("mapping", sa.LargeBinary(), nullable=True))
    op.add_column("costs_invoices", sa.Column("received_by", sa.Text(), nullable=True))
    op.execute("UPDATE costs_invoices SET format = 'json', received_by = ''")
    op.alter_column("costs_invoices", "format", nullable=False)
    op.alter_column("costs_invoices", "received_by", nullable=False)
    op.add_column("costs_journals", sa.Column("kind", sa.Text(), nullable=True))
    op.add_column("costs_journals", sa.Column("key", sa.Text(), nullable=True))
    op.add_column("costs_journals", sa.Column("postings", sa.Integer(), nullable=True))
    op.add_column("costs_journals", sa.Column("mirrors", sa.BigInteger(), nullable=True))
    op.add_column("costs_journals", sa.Column("memo", sa.Text(), nullable=True))
    op.execute(JOURNALS)
    op.alter_column("costs_journals", "kind", nullable=False)
    op.alter_column("costs_journals", "key", nullable=False)
    op.alter_column("costs_journals", "postings", nullable=False)
    op.alter_column("costs_journals", "tenant", existing_type=sa.TEXT(), nullable=True)
    op.alter_column("costs_journals", "operator", existing_type=sa.TEXT(), nullable=True)
    op.create_unique_constraint(op.f("uq_costs_journals_key"), "costs_journals", ["key"])
    op.create_unique_constraint(op.f("uq_costs_journals_mirrors"), "costs_journals", ["mirrors"])
    op.create_foreign_key(
        op.f("fk_costs_journals_mirrors_costs_journals"),
        "costs_journals",
        "costs_journals",
        ["mirrors"],
        ["id"],
    )
    op.create_check_constraint(
        op.f("ck_costs_journals_mirrors_an_earlier_one"), "costs_journals", "mirrors < id"
    )
    op.create_check_constraint(
        op.f("ck_costs_journals_postings"), "costs_journals", "postings >= 2"
    )
    op.drop_column("costs_journals", "currency")
    op.drop_index(op.f("ix_costs_postings_account"), table_name="costs_postings")
    op.create_index(
        op.f("ix_costs_postings_account_currency"),
        "costs_postings",
        ["account", "currency"],
        unique=False,
    )
    op.create_check_constraint(
        op.f("ck_costs_postings_account"),
        "costs_postings",
        "account ~ '^(expense|payable|escrow|stake|slash|bounty|dispute|rounding|discount|credit|fx|cash|tax)"
        "(:[a-z0-9][a-z0-9./-]{0,126})?$'",
    )
    op.add_column("costs_rated_receipts", sa.Column("operator", sa.Text(), nullable=True))
    op.add_column("costs_rated_receipts", sa.Column("node", sa.Text(), nullable=True))
    op.add_column(
        "costs_rated_receipts", sa.Column("model_root", sa.LargeBinary(length=32), nullable=True)
    )
    op.add_column("costs_rated_receipts", sa.Column("day", sa.Date(), nullable=True))
    op.add_column("costs_rated_receipts", sa.Column("started", sa.BigInteger(), nullable=True))
    op.add_column("costs_rated_receipts", sa.Column("ended", sa.BigInteger(), nullable=True))
    op.add_column("costs_rated_receipts", sa.Column("input", sa.BigInteger(), nullable=True))
    op.add_column("costs_rated_receipts", sa.Column("cached", sa.BigInteger(), nullable=True))
    op.add_column("costs_rated_receipts", sa.Column("output", sa.BigInteger(), nullable=True))
    op.add_column(
        "costs_rated_receipts", sa.Column("rate_card", sa.LargeBinary(length=32), nullable=True)
    )
    op.add_column(
        "costs_rated_receipts",
        sa.Column("amount", sa.Numeric(precision=48, scale=24), nullable=True),
    )
    op.add_column("costs_rated_receipts", sa.Column("currency", sa.Text(), nullable=True))
    op.add_column(
        "costs_rated_receipts", sa.Column("cost_centre", sa.LargeBinary(length=32), nullable=True)
    )
    op.add_column("costs_rated_receipts", sa.Column("journal", sa.BigInteger(), nullable=True))
    op.add_column("costs_rated_receipts", sa.Column("period", sa.BigInteger(), nullable=True))
    for step in ONE_ROW:
        op.execute(step)
    op.alter_column("costs_rated_receipts", "operator", nullable=False)
    op.alter_column("costs_rated_receipts", "node", nullable=False)
    op.alter_column("costs_rated_receipts", "model_root", nullable=False)
    op.alter_column("costs_rated_receipts", "day", nullable=False)
    op.alter_column("costs_rated_receipts", "started", nullable=False)
    op.alter_column("costs_rated_receipts", "ended", nullable=False)
    op.alter_column("costs_rated_receipts", "input", nullable=False)
    op.alter_column("costs_rated_receipts", "cached", nullable=False)
    op.alter_column("costs_rated_receipts", "output", nullable=False)
    op.alter_column("costs_rated_receipts", "rate_card", nullable=False)
    op.drop_index(op.f("ix_costs_rated_lines_operator_day"), table_name="costs_rated_lines")
    op.drop_table("costs_rated_lines")
    op.create_index(
        op.f("ix_costs_rated_receipts_operator_day"),
        "costs_rated_receipts",
        ["operator", "day"],
        unique=False,
    )
    op.create_index(
        op.f("ix_costs_rated_receipts_period"), "costs_rated_receipts", ["period"], unique=False
    )
    op.create_unique_constraint(
        op.f("uq_costs_rated_receipts_log_index"), "costs_rated_receipts", ["log_index"]
    )
    op.create_check_constraint(
        op.f("ck_costs_rated_receipts_billable_has_amount"),
        "costs_rated_receipts",
        "NOT billable OR num_nulls(amount, currency, journal, period) = 0",
    )
    op.create_check_constraint(
        op.f("ck_costs_rated_receipts_cached_not_negative"), "costs_rated_receipts", "cached >= 0"
    )
    op.create_check_constraint(
        op.f("ck_costs_rated_receipts_input_not_negative"), "costs_rated_receipts", "input >= 0"
    )
    op.create_check_constraint(
        op.f("ck_costs_rated_receipts_output_not_negative"), "costs_rated_receipts", "output >= 0"
    )
    op.create_check_constraint(
        op.f("ck_costs_rated_receipts_reason"),
        "costs_rated_receipts",
        "billable = (reason IS NULL)",
    )
    op.add_column("trail_orders", sa.Column("max_input_tokens", sa.BigInteger(), nullable=True))
    op.add_column("trail_orders", sa.Column("max_output_tokens", sa.BigInteger(), nullable=True))
    op.add_column("trail_orders", sa.Column("max_ms", sa.BigInteger(), nullable=True))
    op.add_column(
        "trail_orders", sa.Column("cost_centre", sa.LargeBinary(length=32), nullable=True)
    )
    op.add_column("trail_receipts", sa.Column("cancelled", sa.Boolean(), nullable=True))
    op.set_access(
        "costs_contracts",
        {"counterfoil_server": ["insert", "select"], "counterfoil_worker": ["insert", "select"]},
    )
    op.set_access(
        "costs_periods",
        {"counterfoil_server": ["insert", "select"], "counterfoil_worker": ["insert", "select"]},
    )
    op.set_access(
        "costs_model_names",
        {"counterfoil_server": ["insert", "select"], "counterfoil_worker": ["insert", "select"]},
    )
    op.set_access(
        "costs_case_events",
        {"counterfoil_server": ["insert", "select"], "counterfoil_worker": ["insert", "select"]},
    )
    op.set_access(
        "costs_period_events",
        {"counterfoil_server": ["insert", "select"], "counterfoil_worker": ["insert", "select"]},
    )
    op.drop_object(
        "costs_postings_balance",
        table="costs_postings",
    )
    op.drop_object(
        "costs_journal_balances",
    )
    op.create_object(
        "costs_account_is_covered",
        "CREATE FUNCTION costs_account_is_covered() RETURNS trigger\n"
        "LANGUAGE plpgsql SET search_path = public, pg_temp AS $$\n"
        "BEGIN\n"
        "  -- Two withdrawals at once would each see the balance before the other's.\n"
        "  PERFORM pg_advisory_xact_lock(hashtextextended(NEW.account || ' ' || NEW.currency, 0));\n"
        "  IF (SELECT sum(amount) FROM costs_postings WHERE account = NEW.account"
        " AND currency = NEW.currency) * NEW.amount > 0 THEN\n"
        "    RAISE EXCEPTION 'account % has less than is taken from it', NEW.account\n"
        "      USING ERRCODE = 'check_violation', CONSTRAINT = 'costs_account_covered';\n"
        "  END IF;\n"
        "  RETURN NULL;\n"
        "END $$",
    )
    op.create_object(
        "costs_closed_stays_closed",
        "CREATE FUNCTION costs_closed_stays_closed() RETURNS trigger\n"
        "LANGUAGE plpgsql SET search_path = public, pg_temp AS $$\n"
        "BEGIN\n"
        "  -- Whoever books into a period or closes it waits for the other.\n"
        "  PERFORM pg_advisory_xact_lock(hashtextextended('costs_period', NEW.period));\n"
        "  IF EXISTS (SELECT FROM costs_period_events e WHERE e.period = NEW.period AND e.state = 'closed'\n"
        "              AND (TG_TABLE_NAME <> 'costs_period_events' OR e.turn < (to_jsonb(NEW) ->> 'turn')::int)) THEN\n"
        "    RAISE EXCEPTION 'billing period % is closed', NEW.period\n"
        "      USING ERRCODE = 'check_violation', CONSTRAINT = 'costs_period_closed';\n"
        "  END IF;\n"
        "  RETURN NULL;\n"
        "END $$",
    )
    op.create_object(
        "costs_contract_stands_alone",
        "CREATE FUNCTION costs_contract_stands_alone() RETURNS trigger\n"
        "LANGUAGE plpgsql SET search_path = public, pg_temp AS $$\n"
        "BEGIN\n"
        "  PERFORM pg_advisory_xact_lock(hashtextextended('contract ' || NEW.tenant || ' ' || NEW.operator, 0));\n"
        "  IF EXISTS (\n"
        "    SELECT FROM costs_contracts other\n"
        "     WHERE other.tenant = NEW.tenant AND other.operator = NEW.operator AND other.id <> NEW.id\n"
        "       AND int8range(other.valid_from, other.valid_to) && int8range(NEW.valid_from, NEW.valid_to)\n"
        "       AND NOT EXISTS (SELECT FROM costs_contracts later WHERE later.supersedes = other.id)\n"
        "       AND NOT EXISTS (SELECT FROM costs_contracts later WHERE later.supersedes = NEW.id)\n"
        "  ) THEN\n"
        "    RAISE EXCEPTION 'the contract of % with % overlaps another one', NEW.tenant, NEW.operator\n"
        "      USING ERRCODE = 'exclusion_violation', CONSTRAINT = 'costs_contracts_overlap';\n"
        "  END IF;\n"
        "  IF EXISTS (SELECT FROM costs_contracts o WHERE o.id = NEW.supersedes\n"
        "              AND (o.tenant, o.operator) <> (NEW.tenant, NEW.operator)) THEN\n"
        "    RAISE EXCEPTION 'a contract supersedes one of the same parties only'\n"
        "      USING ERRCODE = 'check_violation', CONSTRAINT = 'costs_contracts_parties';\n"
        "  END IF;\n"
        "  RETURN NULL;\n"
        "END $$",
    )
    op.create_object(
        "costs_journal_balances",
        "CREATE FUNCTION costs_journal_balances() RETURNS trigger\n"
        "LANGUAGE plpgsql SET search_path = public, pg_temp AS $$\n"
        "DECLARE\n"
        "  concerned bigint := coalesce(to_jsonb(NEW), to_jsonb(OLD)) ->> TG_ARGV[0];\n"
        "BEGIN\n"
        "  IF EXISTS (\n"
        "    SELECT FROM costs_postings WHERE journal = concerned GROUP BY currency HAVING sum(amount) <> 0\n"
        "  ) OR (SELECT count(*) FROM costs_postings WHERE journal = concerned)\n"
        "       <> coalesce((SELECT postings FROM costs_journals WHERE id = concerned), 0) THEN\n"
        "    RAISE EXCEPTION 'the postings of journal % do not sum to zero, or are not all there', concerned\n"
        "      USING ERRCODE = 'check_violation', CONSTRAINT = 'costs_postings_balance';\n"
        "  END IF;\n"
        "  RETURN NULL;\n"
        "END $$",
    )
    op.create_object(
        "costs_receipts_into_open_periods",
        "CREATE FUNCTION costs_receipts_into_open_periods() RETURNS trigger\n"
        "LANGUAGE plpgsql SET search_path = public, pg_temp AS $$\n"
        "DECLARE\n"
        "  into_period bigint;\n"
        "BEGIN\n"
        "  IF EXISTS (SELECT journal FROM fresh WHERE journal IS NOT NULL EXCEPT SELECT id FROM costs_journals)\n"
        "     OR EXISTS (SELECT period FROM fresh WHERE period IS NOT NULL EXCEPT SELECT id FROM costs_periods) THEN\n"
        "    RAISE EXCEPTION 'a rated receipt names a journal or a billing period that does not exist'\n"
        "      USING ERRCODE = 'foreign_key_violation', CONSTRAINT = 'costs_rated_receipts_booked';\n"
        "  END IF;\n"
        "  FOR into_period IN SELECT DISTINCT period FROM fresh WHERE period IS NOT NULL ORDER BY 1 LOOP\n"
        "    PERFORM pg_advisory_xact_lock(hashtextextended('costs_period', into_period));\n"
        "    IF EXISTS (SELECT FROM costs_period_events WHERE period = into_period AND state = 'closed') THEN\n"
        "      RAISE EXCEPTION 'billing period % is closed', into_period\n"
        "        USING ERRCODE = 'check_violation', CONSTRAINT = 'costs_period_closed';\n"
        "    END IF;\n"
        "  END LOOP;\n"
        "  RETURN NULL;\n"
        "END $$",
    )
    op.create_object(
        "costs_contracts_alone",
        "CREATE CONSTRAINT TRIGGER costs_contracts_alone\n"
        "AFTER INSERT ON costs_contracts\n"
        "DEFERRABLE INITIALLY DEFERRED\n"
        "FOR EACH ROW EXECUTE FUNCTION costs_contract_stands_alone()",
        table="costs_contracts",
    )
    op.create_object(
        "costs_corrections_closed",
        "CREATE TRIGGER costs_corrections_closed\n"
        "AFTER INSERT ON costs_corrections\n"
        "FOR EACH ROW WHEN (NEW.period IS NOT NULL) EXECUTE FUNCTION costs_closed_stays_closed()",
        table="costs_corrections",
    )
    op.create_object(
        "costs_journals_balance",
        "CREATE CONSTRAINT TRIGGER costs_journals_balance\n"
        "AFTER INSERT ON costs_journals\n"
        "DEFERRABLE INITIALLY DEFERRED\n"
        "FOR EACH ROW EXECUTE FUNCTION costs_journal_balances('id')",
        table="costs_journals",
    )
    op.create_object(
        "costs_period_events_closed",
        "CREATE TRIGGER costs_period_events_closed\n"
        "AFTER INSERT ON costs_period_events\n"
        "FOR EACH ROW EXECUTE FUNCTION costs_closed_stays_closed()",
        table="costs_period_events",
    )
    op.create_object(
        "costs_postings_balance",
        "CREATE CONSTRAINT TRIGGER costs_postings_balance\n"
        "AFTER INSERT OR UPDATE OR DELETE ON costs_postings\n"
        "DEFERRABLE INITIALLY DEFERRED\n"
        "FOR EACH ROW EXECUTE FUNCTION costs_journal_balances('journal')",
        table="costs_postings",
    )
    op.create_object(
        "costs_postings_covered",
        "CREATE CONSTRAINT TRIGGER costs_postings_covered\n"
        "AFTER INSERT ON costs_postings\n"
        "DEFERRABLE INITIALLY DEFERRED\n"
        "FOR EACH ROW WHEN (NEW.account ~ '^(stake|slash|bounty|dispute):'"
        " AND NEW.amount > 0 OR NEW.account ~ '^escrow:' AND NEW.amount < 0)\n"
        "EXECUTE FUNCTION costs_account_is_covered()",
        table="costs_postings",
    )
    op.create_object(
        "costs_rated_receipts_closed",
        "CREATE TRIGGER costs_rated_receipts_closed\n"
        "AFTER INSERT ON costs_rated_receipts\n"
        "REFERENCING NEW TABLE AS fresh\n"
        "FOR EACH STATEMENT EXECUTE FUNCTION costs_receipts_into_open_periods()",
        table="costs_rated_receipts",
    )
    op.create_table(
        "costs_contested_requests",
        sa.Column("receipt", sa.LargeBinary(length=32), nullable=False),
        sa.ForeignKeyConstraint(
            ["receipt"],
            ["costs_rated_receipts.receipt"],
            name=op.f("fk_costs_contested_requests_receipt_costs_rated_receipts"),
        ),
        sa.PrimaryKeyConstraint("receipt", name=op.f("pk_costs_contested_requests")),
    )
    op.set_access(
        "costs_contested_requests",
        {"counterfoil_server": ["insert", "select"], "counterfoil_worker": ["insert", "select"]},
    )
    op.drop_object(
        "costs_rated_receipts_one_attempt",
        table="costs_rated_receipts",
    )
    op.create_object(
        "costs_find_contested_requests",
        "CREATE FUNCTION costs_find_contested_requests() RETURNS trigger\n"
        "LANGUAGE plpgsql SET search_path = public, pg_temp AS $$\n"
        "BEGIN\n"
        "  INSERT INTO costs_contested_requests (receipt)\n"
        "  SELECT receipt FROM fresh WHERE billable\n"
        "     AND EXISTS (SELECT FROM costs_rated_receipts other WHERE other.tenant = fresh.tenant\n"
        "                  AND other.number = fresh.number AND other.receipt <> fresh.receipt AND other.billable);\n"
        "  RETURN NULL;\n"
        "END $$",
    )
    op.create_object(
        "costs_contested_requests_one_attempt",
        "CREATE CONSTRAINT TRIGGER costs_contested_requests_one_attempt\n"
        "AFTER INSERT ON costs_contested_requests\n"
        "DEFERRABLE INITIALLY DEFERRED\n"
        "FOR EACH ROW EXECUTE FUNCTION costs_one_attempt_is_paid()",
        table="costs_contested_requests",
    )
    op.create_object(
        "costs_rated_receipts_contested",
        "CREATE TRIGGER costs_rated_receipts_contested\n"
        "AFTER INSERT ON costs_rated_receipts\n"
        "REFERENCING NEW TABLE AS fresh\n"
        "FOR EACH STATEMENT EXECUTE FUNCTION costs_find_contested_requests()",
        table="costs_rated_receipts",
    )
    op.create_table(
        "costs_budgets",
        sa.Column(
            "id", sa.BigInteger(), sa.Identity(always=True), autoincrement=True, nullable=False
        ),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("operator", sa.Text(), nullable=True),
        sa.Column("cost_centre", sa.LargeBinary(length=32), nullable=True),
        sa.Column("amount", sa.Numeric(precision=48, scale=24), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("thresholds", sa.ARRAY(sa.Integer()), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("recorded_at", sa.BigInteger(), nullable=False),
        sa.Column("recorded_by", sa.Text(), nullable=False),
        sa.CheckConstraint("amount > 0", name=op.f("ck_costs_budgets_amount")),
        sa.CheckConstraint(
            "cardinality(thresholds) BETWEEN 1 AND 10", name=op.f("ck_costs_budgets_thresholds")
        ),
        sa.CheckConstraint(
            "octet_length(cost_centre) = 32", name=op.f("ck_costs_budgets_cost_centre_length")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_costs_budgets")),
    )
    op.create_index(
        op.f("ix_costs_budgets_tenant_name"), "costs_budgets", ["tenant", "name"], unique=False
    )
    op.create_table(
        "costs_budget_alerts",
        sa.Column("budget", sa.BigInteger(), nullable=False),
        sa.Column("month", sa.Text(), nullable=False),
        sa.Column("threshold", sa.Integer(), nullable=False),
        sa.Column("turn", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "(body IS NOT NULL) = (state = 'raised')", name=op.f("ck_costs_budget_alerts_body")
        ),
        sa.CheckConstraint(
            "(turn = 0) = (state = 'raised')", name=op.f("ck_costs_budget_alerts_raised_first")
        ),
        sa.CheckConstraint(
            "state IN ('raised', 'failed', 'sent', 'given-up')",
            name=op.f("ck_costs_budget_alerts_state"),
        ),
        sa.CheckConstraint("turn >= 0", name=op.f("ck_costs_budget_alerts_turn_not_negative")),
        sa.ForeignKeyConstraint(
            ["budget"],
            ["costs_budgets.id"],
            name=op.f("fk_costs_budget_alerts_budget_costs_budgets"),
        ),
        sa.PrimaryKeyConstraint(
            "budget", "month", "threshold", "turn", name=op.f("pk_costs_budget_alerts")
        ),
    )
    for table in ("costs_budgets", "costs_budget_alerts"):
        op.set_access(
            table,
            {
                "counterfoil_server": ["insert", "select"],
                "counterfoil_worker": ["insert", "select"],
            },
        )


def downgrade() -> None:
    for table in ("costs_budget_alerts", "costs_budgets"):
        op.set_access(table, {})
    op.drop_table("costs_budget_alerts")
    op.drop_index(op.f("ix_costs_budgets_tenant_name"), table_name="costs_budgets")
    op.drop_table("costs_budgets")
    op.drop_object(
        "costs_rated_receipts_contested",
        table="costs_rated_receipts",
    )
    op.drop_object(
        "costs_contested_requests_one_attempt",
        table="costs_contested_requests",
    )
    op.drop_object(
        "costs_find_contested_requests",
    )
    op.create_object(
        "costs_rated_receipts_one_attempt",
        "CREATE CONSTRAINT TRIGGER costs_rated_receipts_one_attempt AFTER INSERT ON public.costs_rated_receipts"
        " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION costs_one_attempt_is_paid()",
        table="costs_rated_receipts",
    )
    op.set_access("costs_contested_requests", {})
    op.drop_table("costs_contested_requests")
    op.drop_object(
        "costs_rated_receipts_closed",
        table="costs_rated_receipts",
    )
    op.drop_object(
        "costs_postings_covered",
        table="costs_postings",
    )
    op.drop_object(
        "costs_postings_balance",
        table="costs_postings",
    )
    op.drop_object(
        "costs_period_events_closed",
        table="costs_period_events",
    )
    op.drop_object(
        "costs_journals_balance",
        table="costs_journals",
    )
    op.drop_object(
        "costs_corrections_closed",
        table="costs_corrections",
    )
    op.drop_object(
        "costs_contracts_alone",
        table="costs_contracts",
    )
    op.drop_object(
        "costs_receipts_into_open_periods",
    )
    op.drop_object(
        "costs_journal_balances",
    )
    op.drop_object(
        "costs_contract_stands_alone",
    )
    op.drop_object(
        "costs_closed_stays_closed",
    )
    op.drop_object(
        "costs_account_is_covered",
    )
    op.create_object(
        "costs_journal_balances",
        "CREATE OR REPLACE FUNCTION public.costs_journal_balances()\n"
        " RETURNS trigger\n"
        " LANGUAGE plpgsql\n"
        " SET search_path TO 'public', 'pg_temp'\n"
        "AS $function$\n"
        "BEGIN\n"
        "  IF EXISTS (\n"
        "    SELECT FROM costs_postings WHERE journal IN (OLD.journal, NEW.journal)\n"
        "     GROUP BY journal, currency HAVING sum(amount) <> 0\n"
        "  ) THEN\n"
        "    RAISE EXCEPTION 'the postings of journal % do not sum to zero', coalesce(NEW.journal, OLD.journal)\n"
        "      USING ERRCODE = 'check_violation', CONSTRAINT = 'costs_postings_balance';\n"
        "  END IF;\n"
        "  RETURN NULL;\n"
        "END $function$",
    )
    op.create_object(
        "costs_postings_balance",
        "CREATE CONSTRAINT TRIGGER costs_postings_balance AFTER INSERT OR DELETE OR UPDATE ON public.costs_postings"
        " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION costs_journal_balances()",
        table="costs_postings",
    )
    op.set_access("costs_period_events", {})
    op.set_access("costs_case_events", {})
    op.set_access("costs_model_names", {})
    op.set_access("costs_periods", {})
    op.set_access("costs_contracts", {})
    op.execute(FORGET)
    op.drop_column("trail_receipts", "cancelled")
    op.drop_column("trail_orders", "cost_centre")
    op.drop_column("trail_orders", "max_ms")
    op.drop_column("trail_orders", "max_output_tokens")
    op.drop_column("trail_orders", "max_input_tokens")
    op.drop_constraint(
        op.f("ck_costs_rated_receipts_reason"), "costs_rated_receipts", type_="check"
    )
    op.drop_constraint(
        op.f("ck_costs_rated_receipts_output_not_negative"), "costs_rated_receipts", type_="check"
    )
    op.drop_constraint(
        op.f("ck_costs_rated_receipts_input_not_negative"), "costs_rated_receipts", type_="check"
    )
    op.drop_constraint(
        op.f("ck_costs_rated_receipts_cached_not_negative"), "costs_rated_receipts", type_="check"
    )
    op.drop_constraint(
        op.f("ck_costs_rated_receipts_billable_has_amount"), "costs_rated_receipts", type_="check"
    )
    op.drop_constraint(
        op.f("uq_costs_rated_receipts_log_index"), "costs_rated_receipts", type_="unique"
    )
    op.drop_index(op.f("ix_costs_rated_receipts_period"), table_name="costs_rated_receipts")
    op.drop_index(op.f("ix_costs_rated_receipts_operator_day"), table_name="costs_rated_receipts")
    op.drop_column("costs_rated_receipts", "period")
    op.drop_column("costs_rated_receipts", "journal")
    op.drop_column("costs_rated_receipts", "cost_centre")
    op.drop_column("costs_rated_receipts", "currency")
    op.drop_column("costs_rated_receipts", "amount")
    op.drop_column("costs_rated_receipts", "rate_card")
    op.drop_column("costs_rated_receipts", "output")
    op.drop_column("costs_rated_receipts", "cached")
    op.drop_column("costs_rated_receipts", "input")
    op.drop_column("costs_rated_receipts", "ended")
    op.drop_column("costs_rated_receipts", "started")
    op.drop_column("costs_rated_receipts", "day")
    op.drop_column("costs_rated_receipts", "model_root")
    op.drop_column("costs_rated_receipts", "node")
    op.drop_column("costs_rated_receipts", "operator")
    op.drop_constraint(op.f("ck_costs_postings_account"), "costs_postings", type_="check")
    op.drop_index(op.f("ix_costs_postings_account_currency"), table_name="costs_postings")
    op.create_index(op.f("ix_costs_postings_account"), "costs_postings", ["account"], unique=False)
    op.add_column(
        "costs_journals", sa.Column("currency", sa.TEXT(), autoincrement=False, nullable=False)
    )
    op.drop_constraint(op.f("ck_costs_journals_postings"), "costs_journals", type_="check")
    op.drop_constraint(
        op.f("ck_costs_journals_mirrors_an_earlier_one"), "costs_journals", type_="check"
    )
    op.drop_constraint(
        op.f("fk_costs_journals_mirrors_costs_journals"), "costs_journals", type_="foreignkey"
    )
    op.drop_constraint(op.f("uq_costs_journals_mirrors"), "costs_journals", type_="unique")
    op.drop_constraint(op.f("uq_costs_journals_key"), "costs_journals", type_="unique")
    op.alter_column("costs_journals", "operator", existing_type=sa.TEXT(), nullable=False)
    op.alter_column("costs_journals", "tenant", existing_type=sa.TEXT(), nullable=False)
    op.drop_column("costs_journals", "memo")
    op.drop_column("costs_journals", "mirrors")
    op.drop_column("costs_journals", "postings")
    op.drop_column("costs_journals", "key")
    op.drop_column("costs_journals", "kind")
    op.drop_column("costs_invoices", "received_by")
    op.drop_column("costs_invoices", "mapping")
    op.drop_column("costs_invoices", "format")
    op.drop_constraint(
        op.f("fk_costs_corrections_period_costs_periods"), "costs_corrections", type_="foreignkey"
    )
    op.drop_index(op.f("ix_costs_corrections_period"), table_name="costs_corrections")
    op.drop_column("costs_corrections", "period")
    op.create_table(
        "costs_rated_lines",
        sa.Column(
            "id",
            sa.BIGINT(),
            sa.Identity(
                always=True,
                start=1,
                increment=1,
                minvalue=1,
                maxvalue=9223372036854775807,
                cycle=False,
                cache=1,
            ),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("receipt", postgresql.BYTEA(), autoincrement=False, nullable=False),
        sa.Column("log_index", sa.BIGINT(), autoincrement=False, nullable=False),
        sa.Column("journal", sa.BIGINT(), autoincrement=False, nullable=False),
        sa.Column("tenant", sa.TEXT(), autoincrement=False, nullable=False),
        sa.Column("operator", sa.TEXT(), autoincrement=False, nullable=False),
        sa.Column("node", sa.TEXT(), autoincrement=False, nullable=False),
        sa.Column("model_root", postgresql.BYTEA(), autoincrement=False, nullable=False),
        sa.Column("rate_card", postgresql.BYTEA(), autoincrement=False, nullable=False),
        sa.Column("day", sa.DATE(), autoincrement=False, nullable=False),
        sa.Column("started", sa.BIGINT(), autoincrement=False, nullable=False),
        sa.Column("ended", sa.BIGINT(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.TEXT(), autoincrement=False, nullable=False),
        sa.Column("quantity", sa.BIGINT(), autoincrement=False, nullable=False),
        sa.Column(
            "unit_price", sa.NUMERIC(precision=48, scale=24), autoincrement=False, nullable=False
        ),
        sa.Column("per", sa.BIGINT(), autoincrement=False, nullable=False),
        sa.Column(
            "amount", sa.NUMERIC(precision=48, scale=24), autoincrement=False, nullable=False
        ),
        sa.Column("currency", sa.TEXT(), autoincrement=False, nullable=False),
        sa.Column("cost_centre", postgresql.BYTEA(), autoincrement=False, nullable=True),
        sa.CheckConstraint(
            "kind = ANY (ARRAY['input'::text, 'cached'::text, 'output'::text])",
            name=op.f("ck_costs_rated_lines_kind"),
        ),
        sa.CheckConstraint(
            "octet_length(receipt) = 32", name=op.f("ck_costs_rated_lines_receipt_length")
        ),
        sa.CheckConstraint(
            "quantity >= 0", name=op.f("ck_costs_rated_lines_quantity_not_negative")
        ),
        sa.ForeignKeyConstraint(
            ["journal"],
            ["costs_journals.id"],
            name=op.f("fk_costs_rated_lines_journal_costs_journals"),
        ),
        sa.ForeignKeyConstraint(
            ["rate_card"],
            ["costs_rate_cards.entry"],
            name=op.f("fk_costs_rated_lines_rate_card_costs_rate_cards"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_costs_rated_lines")),
        sa.UniqueConstraint(
            "receipt",
            "kind",
            name=op.f("uq_costs_rated_lines_receipt_kind"),
            postgresql_include=[],
            postgresql_nulls_not_distinct=False,
        ),
    )
    op.create_index(
        op.f("ix_costs_rated_lines_operator_day"),
        "costs_rated_lines",
        ["operator", "day"],
        unique=False,
    )
    op.drop_table("costs_period_events")
    op.drop_table("costs_case_events")
    op.drop_index(op.f("ix_costs_model_names_name"), table_name="costs_model_names")
    op.drop_table("costs_model_names")
    op.drop_table("costs_periods")
    op.drop_index(op.f("ix_costs_contracts_tenant_operator"), table_name="costs_contracts")
    op.drop_table("costs_contracts")
