"""Proofs of stored invoices' lines verify for whoever has the log's policy and the parties' keys."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import pytest

from audit_layer.costs.bookkeeping import Bookkeeping
from audit_layer.costs.closing import Closing
from audit_layer.costs.proving import gathering, service
from audit_layer.costs.proving.service import LineProofs
from audit_layer.trail.service import Submission
from shared.runtime.errors import Code, CounterfoilError
from shared.statements.cose import entry_of, open_as, sign
from shared.statements.orders import Order
from shared.statements.receipts import Finish, Receipt
from shared.statements.verdicts import Reason
from shared.verification.bundle_check import Report
from shared.verification.line_parts import verify_parts
from shared.verification.line_proof import verify_line
from shared.verification.line_proof_file import END_INDEX, LineProof, parse_line_proof
from shared.verification.trust import Trust
from tests.audit_layer.api import statements as made
from tests.audit_layer.costs.log_proofs import POLICY, LogProofs
from tests.audit_layer.costs.test_service import Books, books, invoice, line
from tests.audit_layer.trail.conftest import world

__all__ = ["books", "world"]

LATER = made.NOW + 90 * 86_400_000
TRUST = Trust(POLICY).with_signers(
    {
        name: {made.public(name)}
        for name in ("alpha", "beta", "acme", "bolt", "worker", "second", "authority")
    }
)


def proved(books: Books, number: int, line_id: str) -> tuple[LineProof, Report]:
    """Make a proof, and check it as a stranger does who pins the parties' keys."""
    proofs = LineProofs(books.world.database.engine("server"), LogProofs(books.world.database))
    proof = parse_line_proof(proofs.make(number, line_id))
    report = verify_line(proof, TRUST)
    assert report.verified, report.steps[-1]
    return proof, report


def pages(books: Books, number: int, line_id: str) -> list[LineProof]:
    """Make all files of a line's proof."""
    proofs = LineProofs(books.world.database.engine("server"), LogProofs(books.world.database))
    found: list[LineProof] = []
    first = 0
    while first < END_INDEX:
        found.append(parse_line_proof(proofs.make(number, line_id, first_index=first)))
        first = found[-1].scope.end_index
    return found


def refusal(books: Books, number: int, line_id: str) -> CounterfoilError:
    with pytest.raises(CounterfoilError) as caught:
        proved(books, number, line_id)
    return caught.value


@dataclass
class _Log:
    """The log as closing needs it."""

    books: Books

    def submit(self, statements: Sequence[bytes]) -> Any:
        return self.books.world.put(*map(Submission, statements))


def close(books: Books, number: int) -> None:
    """Close a billing period as people and the authority do."""
    engine = books.world.database.engine("worker")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("audit_layer.costs.bookkeeping.now_ms", lambda: LATER)
        for state in ("soft-closed", "closing"):
            Bookkeeping(engine).put_period(number, state, by="finance")
    authority = Closing("authority", engine, _Log(books), made.key("authority"))
    assert authority.tick(LATER) == 1


def test_a_line_is_proved_to_the_last_digit(books: Books):
    entries = [books.receipt() for _ in range(3)]
    books.receipt("bolt")
    books.costs.rate_new()
    number = books.take(invoice(line("output", 21 + 9, "2"), line("input", 15, "1")))
    proof, report = proved(books, number, "output-30")
    assert report.facts["entries"] == entries
    figures = report.facts["figures"]
    assert (figures["proven"], figures["billed"], figures["difference"]) == (
        "0.042",
        "0.06",
        "0.018",
    )
    assert "output 30 billed, 21 proven" in report.as_text()
    assert proof.invoice.number == number
    exact, _ = proved(books, number, "input-15")
    assert exact.figures.difference == "0"


def test_a_refused_and_a_held_receipt_are_proved_to_be_so(books: Books):
    books.world.trail.add_party("second", "worker", made.public("second"))
    paid, convicted, doubted, failed = (
        books.receipt(), books.receipt(), books.receipt(), books.receipt(finish=Finish.FAILED),
    )  # fmt: skip
    (first,) = books.world.put(Submission(made.verdict(convicted, reason=Reason.TOKENS)))
    second = made.verdict(convicted, reason=Reason.TOKENS, worker="second", confirms=first.entry)
    books.world.put(Submission(second), Submission(made.verdict(doubted, reason=Reason.USAGE)))
    books.costs.rate_new()
    books.costs.heed_new()
    number = books.take(invoice(line("output", 28, "2")))
    _, report = proved(books, number, "output-28")
    assert report.facts["receipts"] == {"payable": 1, "held": 1, "refused": 2}
    assert report.facts["figures"]["proven"] == "0.028"
    assert report.facts["figures"]["held"] == "0.014"
    assert set(report.facts["entries"]) == {paid, convicted, doubted, failed}
    owed = books.reconcile(number)
    assert Decimal(report.facts["figures"]["difference"]) == Decimal("0.028")
    assert owed.held == Decimal("0.019")  # prompt tokens too


def test_another_attempt_that_supersedes_comes_with_the_proof(books: Books):
    """Attempt 1, at another operator's node, makes attempt 0 unpayable."""
    first = books.receipt()
    elsewhere = books.node("beta")
    later = _attempt(books, elsewhere, 1)
    books.costs.rate_new()
    number = books.take(invoice(line("output", 7, "2")))
    proof, report = proved(books, number, "output-7")
    assert report.facts["receipts"] == {"payable": 0, "held": 0, "refused": 1}
    assert report.facts["entries"] == [first]
    assert proof.receipts[0].because == later.hex()
    assert [part.index for part in proof.others] == [
        index
        for (index,) in books.world.rows(
            "SELECT log_index FROM trail_receipts WHERE entry = %s", later
        )
    ]


def test_the_bill_of_a_closed_period_comes_with_the_proof(books: Books):
    for _ in range(3):
        books.receipt()
    books.costs.rate_new()
    ((period,),) = books.world.rows("SELECT id FROM costs_periods")
    close(books, period)
    number = books.take(invoice(line("output", 21, "2")))
    proof, report = proved(books, number, "output-21")
    assert report.facts["seals"] == 1
    assert [part.sealed[0].net for part in proof.receipts] == [1, 1, 1]
    assert "3 lines on 1 bills" in report.as_text()
    unsealed = [part.model_copy(update={"sealed": ()}) for part in proof.receipts]
    last = verify_line(proof.model_copy(update={"receipts": tuple(unsealed)}), TRUST).steps[-1]
    assert "its period lacks it" in (last.detail or "")


def test_a_receipt_that_is_refused_after_the_close_is_still_on_the_closed_bill(books: Books):
    books.world.trail.add_party("second", "worker", made.public("second"))
    entry = books.receipt()
    books.costs.rate_new()
    ((period,),) = books.world.rows("SELECT id FROM costs_periods")
    close(books, period)
    (first,) = books.world.put(Submission(made.verdict(entry, reason=Reason.TOKENS)))
    books.world.put(
        Submission(made.verdict(entry, reason=Reason.TOKENS, worker="second", confirms=first.entry))
    )
    books.costs.heed_new()
    number = books.take(invoice(line("output", 7, "2")))
    proof, report = proved(books, number, "output-7")
    assert report.facts["receipts"] == {"payable": 0, "held": 0, "refused": 1}
    assert [item.net for item in proof.receipts[0].sealed] == [1]


def test_a_line_without_receipts_is_proved_to_be_unproven(books: Books):
    number = books.take(invoice(line("output", 7, "2")))
    proof, _ = proved(books, number, "output-7")
    assert (proof.receipts, proof.figures.proven, proof.figures.difference) == ((), "0", "0.014")


def test_a_bill_in_another_currency_is_exchanged_at_the_contracts_rate(books: Books):
    books.receipt()
    books.costs.rate_new()
    number = books.take(invoice(line("output", 7, "2"), currency="USD"))
    assert refusal(books, number, "output-7").code is Code.CONFLICT
    terms = {
        "tenant": "acme", "operator": "alpha", "valid_from": "2020-01-01", "currency": "USD",
        "fx": [{"currency": "EUR", "valid_from": "2020-01-01", "rate": "1.25"}],
    }  # fmt: skip
    engine = books.world.database.engine("server")
    Bookkeeping(engine).record_contract(json.dumps(terms).encode(), by="finance")
    _, report = proved(books, number, "output-7")
    assert report.facts["figures"]["proven"] == "0.0175"


def test_what_is_not_there_is_not_found(books: Books):
    assert refusal(books, 7, "output-7").code is Code.NOT_FOUND
    number = books.take(invoice(line("output", 7, "2")))
    assert refusal(books, number, "output-8").code is Code.NOT_FOUND


def test_a_line_with_more_receipts_than_a_file_holds_takes_several(
    books: Books, monkeypatch: pytest.MonkeyPatch
):
    entries = [books.receipt() for _ in range(5)]
    books.costs.rate_new()
    number = books.take(invoice(line("output", 36, "2")))
    monkeypatch.setattr(gathering, "MAX_RECEIPTS", 2)
    parts = pages(books, number, "output-36")
    assert [len(part.receipts) for part in parts] == [2, 2, 1]
    report = verify_parts(parts, TRUST)
    assert report.verified, report.steps[-1]
    assert report.facts["entries"] == entries
    assert report.facts["figures"]["difference"] == "0.002"


def test_a_page_leaves_room_for_the_other_attempts_of_its_requests(
    books: Books, monkeypatch: pytest.MonkeyPatch
):
    """Both attempts are the line's: each is in the file of its own index, and among the others of the other file."""
    books.receipt()
    _attempt(books, books.world.node, 1)
    _attempt(books, books.world.node, 2)
    books.costs.rate_new()
    number = books.take(invoice(line("output", 7, "2")))
    for most, sizes in ((3, [3]), (2, None)):
        monkeypatch.setattr(gathering, "MAX_RECEIPTS", most)
        if sizes is None:
            with pytest.raises(CounterfoilError, match="other receipts") as caught:
                pages(books, number, "output-7")
            assert caught.value.code is Code.INVALID_ARGUMENT
        else:
            assert [len(part.receipts) for part in pages(books, number, "output-7")] == sizes


def test_attempts_in_different_parts_are_judged_together(
    books: Books, monkeypatch: pytest.MonkeyPatch
):
    books.receipt()
    for _ in range(3):
        books.receipt()
    _attempt(books, books.world.node, 1)
    books.costs.rate_new()
    number = books.take(invoice(line("output", 28, "2")))
    monkeypatch.setattr(gathering, "MAX_RECEIPTS", 3)
    parts = pages(books, number, "output-28")
    assert len(parts) > 1
    report = verify_parts(parts, TRUST)
    assert report.verified, report.steps[-1]
    assert report.facts["receipts"] == {"payable": 4, "held": 0, "refused": 1}
    assert report.facts["figures"]["difference"] == "0"


def test_a_file_that_would_be_too_long_is_refused(books: Books, monkeypatch: pytest.MonkeyPatch):
    books.receipt()
    books.costs.rate_new()
    number = books.take(invoice(line("output", 7, "2")))
    monkeypatch.setattr(service, "MAX_FILE", 1000)
    error = refusal(books, number, "output-7")
    assert error.code is Code.INVALID_ARGUMENT
    assert "of at most 1000" in error.detail


def test_books_that_were_changed_prove_nothing(books: Books):
    """The seal's root no longer follows from the books: no proof is made up from them."""
    books.receipt()
    entry = books.receipt()
    books.costs.rate_new()
    ((period,),) = books.world.rows("SELECT id FROM costs_periods")
    close(books, period)
    number = books.take(invoice(line("output", 14, "2")))
    books.world.rows("UPDATE costs_rated_receipts SET period = NULL, billable = false, reason = 'x'"
                     " WHERE receipt = %s", entry)  # fmt: skip
    assert refusal(books, number, "output-14").code is Code.CORRUPT


def _attempt(books: Books, node: made.Node, attempt: int) -> bytes:
    """Log an answer to the tenant's first request by another node, as a later attempt."""
    given = node.receipt("acme")
    assert given.order is not None
    value, _ = open_as(Order, given.order, None)
    order = sign(replace(value, number=0, attempt=attempt), key=made.key("acme"), issuer="acme")
    receipt, _ = open_as(Receipt, given.statement, None)
    name = f"{node.operator}/one"
    changed = replace(receipt, order=entry_of(order), number=0, attempt=attempt)
    raw = sign(changed, key=made.key(name), issuer=name)
    node.previous = entry_of(raw)
    return books.world.put(Submission(raw, order))[0].entry
