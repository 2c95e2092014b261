"""What the log says of custodians: each figure has its entries, and no more is said than the log proves."""

import pytest

from shared.statements.cose import sign
from shared.statements.disclosures import DisclosureRelease
from shared.statements.verdicts import Reason
from shared.verification.custodian_record import CustodianRecord
from tests.shared.verification.disclosures import DEADLINE, Book
from tests.vectors.samples import NOW, octets, signing_key

ONE, TWO, THREE = "custodian-1", "custodian-2", "custodian-3"
LATER = DEADLINE + 5_000


class Court:
    """A tenant whose requests name three custodians, all of which have answered once."""

    def __init__(self) -> None:
        self.book = Book()
        self.put(ONE, TWO, THREE)

    def put(self, *names: str, reason: Reason | None = Reason.EXACT) -> tuple[bytes, bytes]:
        """Have a receipt disclosed by these; return (receipt, request)."""
        book = self.book
        receipt = book.receipt()
        request = book.request(receipt, book.draw(receipt))
        for name in names:
            book.release(request, receipt, name)
        if reason is not None:
            book.verdict(request, receipt, reason)
        return receipt, request

    def records(self, seen: int = NOW) -> dict[str, CustodianRecord]:
        answer = self.book.answer(seen=seen, now=NOW)
        assert {fault.wrong.value for fault in answer.faults} <= {"outcome"}
        return {record.custodian: record for record in answer.custodians}


@pytest.fixture
def court() -> Court:
    return Court()


def figures(record: CustodianRecord) -> dict[str, int]:
    names = ("asked", "in_time", "late", "undated", "missing", "unsealed", "open")
    return {name: getattr(record, name) for name in names if getattr(record, name)}


def test_who_answers_before_a_dated_statement_is_in_time(court: Court):
    records = court.records()
    assert set(records) == {ONE, TWO, THREE}
    for record in records.values():
        assert figures(record) == {"asked": 1, "in_time": 1}
        assert record.shown == ()


def test_who_stays_away_has_missed_it_once_a_seal_of_after_the_deadline_counts_all(court: Court):
    _, request = court.put(ONE, TWO)
    assert figures(court.records()[THREE]) == {"asked": 2, "in_time": 1, "open": 1}
    assert figures(court.records(LATER)[THREE]) == {"asked": 2, "in_time": 1, "unsealed": 1}
    court.book.seal(at=LATER)
    record = court.records(LATER)[THREE]
    assert figures(record) == {"asked": 2, "in_time": 1, "missing": 1}
    (shown,) = record.shown
    assert (shown.what, shown.request, shown.entry) == ("missing", request, None)
    assert figures(court.records(LATER)[ONE]) == {"asked": 2, "in_time": 2}


def test_a_server_that_hides_a_release_cannot_make_it_missing(court: Court):
    _, request = court.put(ONE, TWO, THREE)
    court.book.seal(at=LATER)
    hidden = next(
        entry
        for entry, raw in zip(court.book.entries, court.book.raw, strict=True)
        if THREE.encode() in raw and request in raw
    )
    answer = court.book.answer(hiding=[hidden], seen=LATER)
    assert "hidden" in {fault.wrong.value for fault in answer.faults}


def test_an_answer_after_a_statement_of_after_the_deadline_is_late(court: Court):
    receipt, request = court.put(ONE, TWO)
    court.book.seal(at=LATER)
    late = court.book.release(request, receipt, THREE)
    record = court.records(LATER)[THREE]
    assert figures(record) == {"asked": 2, "in_time": 1, "late": 1}
    assert [(one.what, one.entry) for one in record.shown] == [("late", late)]


def test_an_answer_that_nothing_dates_is_neither_in_time_nor_late(court: Court):
    court.put(ONE, TWO, THREE, reason=None)
    assert figures(court.records()[ONE]) == {"asked": 2, "in_time": 1, "undated": 1}


def test_a_request_that_nobody_answered_is_nobodys(court: Court):
    court.put(reason=Reason.WITHHELD)
    court.book.seal(at=LATER)
    for record in court.records(LATER).values():
        assert record.asked == 1


def test_nothing_is_asked_of_a_custodian_before_its_first_answer():
    court = Court.__new__(Court)
    court.book = Book()
    court.put(ONE, TWO)
    court.put(ONE, TWO, THREE)
    court.book.seal(at=LATER)
    assert figures(court.records(LATER)[THREE]) == {"asked": 1, "in_time": 1}


def test_reports_count_against_whom_they_are_about(court: Court):
    book = court.book
    receipt = book.receipt()
    request = book.request(receipt, book.draw(receipt))
    releases = [book.release(request, receipt, name) for name in (ONE, TWO)]
    accused = book.share_report(releases[1], request, receipt, TWO)
    alone = book.escrow_report(request, receipt, THREE)
    book.verdict(request, receipt)
    records = court.records()
    assert (records[TWO].share_reports, records[TWO].contradicted) == (1, 0)
    assert (records[THREE].share_reports, records[THREE].contradicted) == (0, 1)
    assert records[TWO].shown[0].entry == accused
    assert records[THREE].shown[0].entry == alone
    assert figures(records[THREE]) == {"asked": 2, "in_time": 2}


@pytest.mark.parametrize("reason", [Reason.ESCROW, Reason.UNAVAILABLE, Reason.ORDER])
def test_an_escrow_report_that_nobody_refuted_counts_against_nobody(court: Court, reason: Reason):
    book = court.book
    receipt = book.receipt()
    request = book.request(receipt, book.draw(receipt))
    book.escrow_report(request, receipt, THREE)
    book.verdict(request, receipt, reason)
    assert court.records()[THREE].contradicted == 0


def test_a_stranger_that_signs_a_release_is_a_fault_and_no_record_of_another(court: Court):
    receipt, request = court.put(ONE, TWO)
    value = DisclosureRelease(
        request=request, receipt=receipt, custodian=THREE, share=octets("share")
    )
    court.book.log(sign(value, key=signing_key("stranger"), issuer=THREE))
    faults = {fault.wrong.value for fault in court.book.answer().faults}
    assert "signature" in faults
