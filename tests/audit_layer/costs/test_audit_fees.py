"""An audit that a tenant asked for is paid for once, if it was answered, and the books compute that again."""

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from audit_layer.costs.contracts.terms import Terms
from audit_layer.trail.service import Submission
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cose import entry_of
from shared.statements.disclosures import DisclosureReason
from shared.statements.verdicts import Reason
from tests.audit_layer.api import statements as made
from tests.audit_layer.costs.keeping import Keeping, keeping_over
from tests.postgres import PostgresServer

PRICE = Decimal("0.05")
WITH_AUDITOR: dict[str, Any] = {"operator": "authority", "currency": "EUR"}


@pytest.fixture
def keeping(postgres: PostgresServer, tmp_path: Path) -> Iterator[Keeping]:
    with keeping_over(postgres, tmp_path) as found:
        yield found


def ask(keeping: Keeping, receipt: bytes) -> bytes:
    """Have acme ask for an audit, and the authority answer; return the disclosure request's entry."""
    (audit,) = keeping.world.put(Submission(made.audit_request(receipt)))
    request = made.disclosure_request(receipt, audit.entry, DisclosureReason.TENANT)
    keeping.world.put(Submission(request))
    return entry_of(request)


def judge(
    keeping: Keeping, receipt: bytes, request: bytes, reason: Reason = Reason.EXACT, **more
) -> bytes:
    raw = made.verdict(receipt, request=request, reason=reason, **more)
    return keeping.world.put(Submission(raw))[0].entry


def fees(keeping: Keeping) -> Decimal:
    """Book what is new; return what acme has paid for audits, on which both sides of the books agree."""
    costs = keeping.scene.books.costs
    while costs.rate_new() or costs.heed_new() or costs.charge_audits():
        continue
    assert costs.check() == []
    posted = keeping.world.rows(
        "SELECT account, sum(amount) FROM costs_postings JOIN costs_journals j ON j.id = journal"
        " WHERE kind = 'audit' GROUP BY account"
    )
    sides: dict[str, Decimal] = dict(posted)
    paid = sides.pop("expense:acme", Decimal(0))
    assert sides.pop("payable:authority", Decimal(0)) == -paid
    assert not sides
    return paid


@pytest.mark.parametrize("reason", [Reason.EXACT, Reason.TOKENS])
def test_an_answered_audit_costs_what_the_contract_with_the_auditor_says_once(
    keeping: Keeping, reason: Reason
):
    keeping.contract(per_audit=str(PRICE), **WITH_AUDITOR)
    receipt = keeping.serve(0)
    request = ask(keeping, receipt)
    assert fees(keeping) == 0  # not answered yet
    judge(keeping, receipt, request, reason)
    assert fees(keeping) == PRICE
    confirm = made.disclosure_request(
        receipt, entry_of(made.audit_request(receipt)), DisclosureReason.CONFIRM
    )
    keeping.world.put(Submission(confirm))
    judge(keeping, receipt, entry_of(confirm), reason, worker="second")
    judge(keeping, receipt, request, reason, evidence=bytes(32))  # a worker that answers twice
    assert fees(keeping) == PRICE
    judge(keeping, other := keeping.serve(1), ask(keeping, other))
    assert fees(keeping) == 2 * PRICE


def test_what_was_not_asked_for_or_came_to_nothing_costs_nothing(keeping: Keeping):
    keeping.contract(per_audit=str(PRICE), **WITH_AUDITOR)
    drawn, vain, shown = (keeping.serve(number) for number in range(3))
    request = made.disclosure_request(drawn)
    keeping.world.put(Submission(request))
    judge(keeping, drawn, entry_of(request))
    judge(keeping, vain, ask(keeping, vain), Reason.UNAVAILABLE)
    judge(keeping, shown, shown)  # shown by its client
    assert fees(keeping) == 0


def test_without_a_price_audits_are_free_and_stay_so(keeping: Keeping):
    receipt = keeping.serve(0)
    judge(keeping, receipt, ask(keeping, receipt))
    assert fees(keeping) == 0
    keeping.contract(per_audit=str(PRICE), **WITH_AUDITOR)
    assert fees(keeping) == 0


def test_a_fee_that_is_not_what_verdict_and_contract_make_it_is_found(keeping: Keeping):
    keeping.contract(per_audit=str(PRICE), **WITH_AUDITOR)
    receipt = keeping.serve(0)
    judge(keeping, receipt, ask(keeping, receipt))
    assert fees(keeping) == PRICE
    costs, rows = keeping.scene.books.costs, keeping.world.rows
    rows("UPDATE costs_postings SET amount = 2 * amount WHERE account ~ 'authority|acme' AND journal ="
         " (SELECT id FROM costs_journals WHERE kind = 'audit')")  # fmt: skip
    assert any("does not post the price" in problem for problem in costs.check())
    rows("DELETE FROM costs_audit_fees")
    assert any("no verdict answered" in problem for problem in costs.check())


def test_a_price_of_audits_is_for_the_auditor_and_in_a_currency():
    whole = {"tenant": "acme", "valid_from": "2026-01-01", "per_audit": "1"}
    for wrong in ({"operator": "alpha", "currency": "EUR"}, {"operator": "authority"}):
        with pytest.raises(CounterfoilError) as caught:
            Terms.parse(json.dumps({**whole, **wrong}).encode())
        assert caught.value.code is Code.MALFORMED
        assert "per_audit" in caught.value.detail


def test_contracts_without_a_price_of_audits_keep_the_digest_that_closed_bills_name():
    terms = Terms.parse(b'{"tenant": "acme", "operator": "alpha", "valid_from": "2026-01-01"}')
    assert b"per_audit" not in terms.canonical
    assert Terms.parse(terms.canonical).digest == terms.digest
