"""What the database itself refuses in the tables of the cost room: functions and triggers.

A journal that does not balance or is not whole, two payable attempts of one request, an account that is overdrawn, contracts
that overlap, and anything booked into a closed period. A test compares the migrated database with these definitions.
"""

from audit_layer.storage.base import declare_function, declare_trigger

declare_function(
    "costs_journal_balances",
    """
CREATE FUNCTION costs_journal_balances() RETURNS trigger
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
  concerned bigint := coalesce(to_jsonb(NEW), to_jsonb(OLD)) ->> TG_ARGV[0];
BEGIN
  IF EXISTS (
    SELECT FROM costs_postings WHERE journal = concerned GROUP BY currency HAVING sum(amount) <> 0
  ) OR (SELECT count(*) FROM costs_postings WHERE journal = concerned)
       <> coalesce((SELECT postings FROM costs_journals WHERE id = concerned), 0) THEN
    RAISE EXCEPTION 'the postings of journal % do not sum to zero, or are not all there', concerned
      USING ERRCODE = 'check_violation', CONSTRAINT = 'costs_postings_balance';
  END IF;
  RETURN NULL;
END $$
""",
)
declare_trigger(
    "costs_postings_balance",
    "costs_postings",
    """
CREATE CONSTRAINT TRIGGER costs_postings_balance
AFTER INSERT OR UPDATE OR DELETE ON costs_postings
DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION costs_journal_balances('journal')
""",
)
declare_trigger(
    "costs_journals_balance",
    "costs_journals",
    """
CREATE CONSTRAINT TRIGGER costs_journals_balance
AFTER INSERT ON costs_journals
DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION costs_journal_balances('id')
""",
)
declare_function(
    "costs_account_is_covered",
    """
CREATE FUNCTION costs_account_is_covered() RETURNS trigger
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
  -- Two withdrawals at once would each see the balance before the other's.
  PERFORM pg_advisory_xact_lock(hashtextextended(NEW.account || ' ' || NEW.currency, 0));
  IF (SELECT sum(amount) FROM costs_postings WHERE account = NEW.account AND currency = NEW.currency) * NEW.amount > 0 THEN
    RAISE EXCEPTION 'account % has less than is taken from it', NEW.account
      USING ERRCODE = 'check_violation', CONSTRAINT = 'costs_account_covered';
  END IF;
  RETURN NULL;
END $$
""",
)
declare_trigger(
    "costs_postings_covered",
    "costs_postings",
    """
CREATE CONSTRAINT TRIGGER costs_postings_covered
AFTER INSERT ON costs_postings
DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW WHEN (NEW.account ~ '^(stake|slash|bounty|dispute):' AND NEW.amount > 0 OR NEW.account ~ '^escrow:' AND NEW.amount < 0)
EXECUTE FUNCTION costs_account_is_covered()
""",
)
declare_function(
    "costs_contract_stands_alone",
    """
CREATE FUNCTION costs_contract_stands_alone() RETURNS trigger
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
  PERFORM pg_advisory_xact_lock(hashtextextended('contract ' || NEW.tenant || ' ' || NEW.operator, 0));
  IF EXISTS (
    SELECT FROM costs_contracts other
     WHERE other.tenant = NEW.tenant AND other.operator = NEW.operator AND other.id <> NEW.id
       AND int8range(other.valid_from, other.valid_to) && int8range(NEW.valid_from, NEW.valid_to)
       AND NOT EXISTS (SELECT FROM costs_contracts later WHERE later.supersedes = other.id)
       AND NOT EXISTS (SELECT FROM costs_contracts later WHERE later.supersedes = NEW.id)
  ) THEN
    RAISE EXCEPTION 'the contract of % with % overlaps another one', NEW.tenant, NEW.operator
      USING ERRCODE = 'exclusion_violation', CONSTRAINT = 'costs_contracts_overlap';
  END IF;
  IF EXISTS (SELECT FROM costs_contracts o WHERE o.id = NEW.supersedes
              AND (o.tenant, o.operator) <> (NEW.tenant, NEW.operator)) THEN
    RAISE EXCEPTION 'a contract supersedes one of the same parties only'
      USING ERRCODE = 'check_violation', CONSTRAINT = 'costs_contracts_parties';
  END IF;
  RETURN NULL;
END $$
""",
)
declare_trigger(
    "costs_contracts_alone",
    "costs_contracts",
    """
CREATE CONSTRAINT TRIGGER costs_contracts_alone
AFTER INSERT ON costs_contracts
DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION costs_contract_stands_alone()
""",
)
declare_function(
    "costs_closed_stays_closed",
    """
CREATE FUNCTION costs_closed_stays_closed() RETURNS trigger
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
  -- Whoever books into a period or closes it waits for the other.
  PERFORM pg_advisory_xact_lock(hashtextextended('costs_period', NEW.period));
  IF EXISTS (SELECT FROM costs_period_events e WHERE e.period = NEW.period AND e.state = 'closed'
              AND (TG_TABLE_NAME <> 'costs_period_events' OR e.turn < (to_jsonb(NEW) ->> 'turn')::int)) THEN
    RAISE EXCEPTION 'billing period % is closed', NEW.period
      USING ERRCODE = 'check_violation', CONSTRAINT = 'costs_period_closed';
  END IF;
  RETURN NULL;
END $$
""",
)
declare_function(
    "costs_one_attempt_is_paid",
    """
CREATE FUNCTION costs_one_attempt_is_paid() RETURNS trigger
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
  IF (
    SELECT count(DISTINCT other.attempt)
      FROM costs_rated_receipts this
      JOIN costs_rated_receipts other ON other.tenant = this.tenant AND other.number = this.number
     WHERE this.receipt = NEW.receipt AND other.billable
       AND coalesce((SELECT payable FROM costs_corrections WHERE receipt = other.receipt
                      ORDER BY turn DESC LIMIT 1), true)
  ) > 1 THEN
    RAISE EXCEPTION 'two attempts of one request are payable, one of them by receipt %', encode(NEW.receipt, 'hex')
      USING ERRCODE = 'check_violation', CONSTRAINT = 'costs_one_attempt';
  END IF;
  RETURN NULL;
END $$
""",
)
declare_trigger(
    "costs_period_events_closed",
    "costs_period_events",
    """
CREATE TRIGGER costs_period_events_closed
AFTER INSERT ON costs_period_events
FOR EACH ROW EXECUTE FUNCTION costs_closed_stays_closed()
""",
)
declare_trigger(
    "costs_corrections_closed",
    "costs_corrections",
    """
CREATE TRIGGER costs_corrections_closed
AFTER INSERT ON costs_corrections
FOR EACH ROW WHEN (NEW.period IS NOT NULL) EXECUTE FUNCTION costs_closed_stays_closed()
""",
)
declare_function(
    "costs_receipts_into_open_periods",
    """
CREATE FUNCTION costs_receipts_into_open_periods() RETURNS trigger
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
  into_period bigint;
BEGIN
  IF EXISTS (SELECT journal FROM fresh WHERE journal IS NOT NULL EXCEPT SELECT id FROM costs_journals)
     OR EXISTS (SELECT period FROM fresh WHERE period IS NOT NULL EXCEPT SELECT id FROM costs_periods) THEN
    RAISE EXCEPTION 'a rated receipt names a journal or a billing period that does not exist'
      USING ERRCODE = 'foreign_key_violation', CONSTRAINT = 'costs_rated_receipts_booked';
  END IF;
  FOR into_period IN SELECT DISTINCT period FROM fresh WHERE period IS NOT NULL ORDER BY 1 LOOP
    PERFORM pg_advisory_xact_lock(hashtextextended('costs_period', into_period));
    IF EXISTS (SELECT FROM costs_period_events WHERE period = into_period AND state = 'closed') THEN
      RAISE EXCEPTION 'billing period % is closed', into_period
        USING ERRCODE = 'check_violation', CONSTRAINT = 'costs_period_closed';
    END IF;
  END LOOP;
  RETURN NULL;
END $$
""",
)
declare_trigger(
    "costs_rated_receipts_closed",
    "costs_rated_receipts",
    """
CREATE TRIGGER costs_rated_receipts_closed
AFTER INSERT ON costs_rated_receipts
REFERENCING NEW TABLE AS fresh
FOR EACH STATEMENT EXECUTE FUNCTION costs_receipts_into_open_periods()
""",
)
declare_function(
    "costs_find_contested_requests",
    """
CREATE FUNCTION costs_find_contested_requests() RETURNS trigger
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
  INSERT INTO costs_contested_requests (receipt)
  SELECT receipt FROM fresh WHERE billable
     AND EXISTS (SELECT FROM costs_rated_receipts other WHERE other.tenant = fresh.tenant
                  AND other.number = fresh.number AND other.receipt <> fresh.receipt AND other.billable);
  RETURN NULL;
END $$
""",
)
declare_trigger(
    "costs_rated_receipts_contested",
    "costs_rated_receipts",
    """
CREATE TRIGGER costs_rated_receipts_contested
AFTER INSERT ON costs_rated_receipts
REFERENCING NEW TABLE AS fresh
FOR EACH STATEMENT EXECUTE FUNCTION costs_find_contested_requests()
""",
)
for _table in ("costs_contested_requests", "costs_corrections"):
    declare_trigger(
        f"{_table}_one_attempt",
        _table,
        f"""
CREATE CONSTRAINT TRIGGER {_table}_one_attempt
AFTER INSERT ON {_table}
DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION costs_one_attempt_is_paid()
""",
    )
