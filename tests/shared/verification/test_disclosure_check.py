"""A tenant's disclosures: what the protocol makes passes, and each way of hiding or overreaching has its name."""

from dataclasses import dataclass
from typing import Any

import pytest

from shared.runtime.errors import Code, CounterfoilError
from shared.statements.disclosures import DisclosureReason
from shared.statements.verdicts import Reason
from shared.verification.disclosure_check import DAY_MS, HOUR_MS
from tests.shared.verification.disclosures import DEADLINE, Book
from tests.vectors.samples import NOW, octets, signing_key

LATE = DEADLINE + DAY_MS + 1


@dataclass
class Case:
    """Two receipts, one of them drawn, and a seal over everything."""

    book: Book
    receipt: bytes
    other: bytes
    draw: bytes


@pytest.fixture
def case() -> Case:
    book = Book()
    receipt, other = book.receipt(), book.receipt()
    return Case(book, receipt, other, book.draw(receipt))


# -- honest --------------------------------------------------------------------------------------------


def test_every_disclosure_is_shown_with_who_why_which_draw_and_verdict(case: Case):
    book = case.book
    request = book.disclosed(case.receipt, case.draw)
    asked = book.audit_request(case.other)
    own = book.request(case.other, asked, DisclosureReason.TENANT)
    book.seal()
    answer = book.answer()
    assert answer.faults == ()
    assert (answer.receipts, answer.size) == (2, len(book.raw))
    assert answer.sealed == (0, len(book.raw) - 1)
    first, second = answer.rows
    assert (first.at, first.receipt, first.reason) == (book.index(request), case.receipt, "draw")
    assert (first.basis, first.worker, first.verdict) == (case.draw, "worker-1", "PASS exact")
    assert first.released == (
        ("custodian-1", first.at + 1),
        ("custodian-2", first.at + 2),
    )
    assert (second.at, second.reason, second.basis) == (book.index(own), "tenant", asked)
    assert (second.epoch, second.worker, second.verdict, second.released) == (None, None, None, ())


def test_what_was_asked_for_in_vain_and_what_a_client_showed_are_told_apart(case: Case):
    book = case.book
    vain = book.audit_request(case.other)
    asked = book.audit_request(case.receipt)
    book.disclosed(case.receipt, asked, reason=DisclosureReason.TENANT)
    shown = book.verdict(case.other, case.other)
    book.disclosed(case.receipt, case.draw)
    answer = book.answer()
    assert answer.unanswered == (book.index(vain),)
    assert [row.reason for row in answer.rows] == ["tenant", "shown", "draw"]
    row = answer.rows[1]
    assert (row.at, row.receipt, row.worker) == (book.index(shown), case.other, "worker-1")
    assert (row.basis, row.recipient, row.released, row.verdict) == (None, None, (), "PASS exact")


def test_what_no_seal_counts_yet_is_said_to_be_the_servers_word(case: Case):
    assert case.book.answer().sealed == (0, 0)
    case.book.seal(counts=False)  # as before disclosures were counted
    case.book.disclosed(case.receipt, case.draw)
    assert case.book.answer().sealed == (0, 0)
    before = len(case.book.raw) - 5
    case.book.seal()
    answer = case.book.answer()
    assert answer.faults == ()
    assert answer.sealed == (before, len(case.book.raw) - 1)


def test_a_confirmation_follows_a_verdict_that_blames_the_node(case: Case):
    book = case.book
    request = book.request(case.receipt, case.draw)
    for name in ("custodian-1", "custodian-2"):
        book.release(request, case.receipt, name)
    book.verdict(request, case.receipt, Reason.TOKENS)
    book.disclosed(case.receipt, case.draw, reason=DisclosureReason.CONFIRM)
    asked = book.audit_request(case.receipt)
    book.disclosed(case.receipt, asked, reason=DisclosureReason.CONFIRM)
    assert book.faults() == set()


def test_a_verdict_about_another_node_of_the_chain_needs_no_other_disclosure(case: Case):
    """One disclosure of a request opens it for all of its chain's receipts; its own receipt has a verdict all the same."""
    book = case.book
    request = book.request(case.receipt, case.draw)
    for name in ("custodian-1", "custodian-2"):
        book.release(request, case.receipt, name)
    book.verdict(request, case.other, Reason.ACTIVATIONS)
    assert book.faults(now=LATE) == {(8, "outcome")}
    book.verdict(request, case.receipt, Reason.BOUNDARY)
    book.disclosed(case.receipt, case.draw, reason=DisclosureReason.CONFIRM)
    assert book.faults(now=LATE) == set()


def test_that_a_boundary_was_wrong_takes_a_reader(case: Case):
    book = case.book
    book.verdict(book.request(case.receipt, case.draw), case.receipt, Reason.BOUNDARY)
    assert (6, "share") in book.faults()


def test_an_erased_receipt_needs_no_verdict(case: Case):
    case.book.request(case.receipt, case.draw)
    assert case.book.faults(now=LATE) == {(8, "outcome")}
    assert case.book.faults(now=LATE, erased=[case.receipt]) == set()


# -- hidden ----------------------------------------------------------------------------------------------


def test_a_server_that_hides_anything_that_is_sealed_is_caught(case: Case):
    book = case.book
    asked = book.audit_request(case.other)
    book.disclosed(case.other, asked, reason=DisclosureReason.TENANT)
    request = book.disclosed(case.receipt, case.draw)
    book.seal()
    about = [entry for entry in book.entries if entry not in (case.receipt, case.other, case.draw)]
    for entry in about[1:-1]:  # without the epoch's seal and the tenant's
        assert (2, "hidden") in book.faults(hiding=[entry]), entry.hex()
    whole = book.index(request)
    assert (2, "hidden") in book.faults(hiding=book.entries[whole : whole + 4])


def test_a_request_that_its_draw_entails_cannot_be_hidden_even_before_a_seal(case: Case):
    request = case.book.disclosed(case.receipt, case.draw)
    at = case.book.index(request)
    hidden = case.book.entries[at:]
    assert case.book.faults(hiding=hidden, now=NOW + HOUR_MS) == set()  # not due yet
    assert case.book.faults(hiding=hidden, now=NOW + HOUR_MS + 1) == {(7, "request")}


def test_an_authority_that_seals_without_a_statement_is_convicted_by_whoever_shows_it(case: Case):
    request = case.book.disclosed(case.receipt, case.draw)
    case.book.seal(hiding=[request])
    assert case.book.faults() == {(2, "hidden")}
    assert (5, "release") in case.book.faults(hiding=[request])  # releases still name it


def test_a_seal_that_does_not_follow_the_one_before_is_named(case: Case):
    case.book.seal()
    case.book.seal()
    case.book.seal()
    middle = case.book.seals[1][1]
    assert (2, "seal") in case.book.faults(hiding=[middle])


def test_a_statement_that_the_log_does_not_hold_is_named(case: Case):
    case.book.disclosed(case.receipt, case.draw)

    def moved(data: dict[str, Any]) -> None:
        data["lines"][0]["index"] = 1

    def swapped(data: dict[str, Any]) -> None:
        one, other = data["lines"][:2]
        one["statement"], other["statement"] = other["statement"], one["statement"]

    assert (1, "proof") in case.book.faults(edit=moved)
    assert (1, "proof") in case.book.faults(edit=swapped)


# -- overreaching ------------------------------------------------------------------------------------------


def test_a_request_outside_its_draw_is_named(case: Case):
    book = case.book
    book.request(case.other, case.draw)
    assert book.faults() == {(4, "draw")}


@pytest.mark.parametrize("basis", [octets("no draw"), None])
def test_a_request_under_no_draw_or_another_statement_is_named(case: Case, basis: bytes | None):
    case.book.request(case.receipt, basis or case.receipt)
    assert (4, "draw") in case.book.faults()


def test_a_request_before_its_draw_or_of_the_wrong_kind_is_named(case: Case):
    case.book.request(case.receipt, case.draw, DisclosureReason.WHOLE)
    assert case.book.faults() == {(4, "draw")}
    book = Book()
    receipt = book.receipt()
    whole = book.draw(receipt, whole=True)
    book.request(receipt, whole, DisclosureReason.FLOOR)
    assert book.faults() == {(4, "draw")}


def test_a_request_in_the_tenants_name_needs_the_tenants_request(case: Case):
    book = case.book
    of_other = book.audit_request(case.other)
    book.request(case.receipt, of_other, DisclosureReason.TENANT)
    assert book.faults() == {(4, "audit-request")}
    forged = book.audit_request(case.receipt, key=signing_key("stranger"))
    book.request(case.receipt, forged, DisclosureReason.TENANT)
    assert (1, "signature") in book.faults()
    book.request(case.other, case.draw, DisclosureReason.TENANT)
    assert (4, "audit-request") in book.faults()


def test_a_confirmation_of_nothing_is_named(case: Case):
    case.book.disclosed(case.receipt, case.draw)
    case.book.request(case.receipt, case.draw, DisclosureReason.CONFIRM)
    assert case.book.faults() == {(4, "confirm")}


def test_a_request_about_another_index_or_no_receipt_is_named(case: Case):
    case.book.request(case.receipt, case.draw, index=case.book.index(case.other))
    assert (3, "receipt") in case.book.faults()
    book = Book()
    book.request(octets("nothing"), book.draw(book.receipt()))
    assert (3, "receipt") in book.faults()


def test_a_release_without_its_request_or_a_second_one_is_named(case: Case):
    book = case.book
    book.release(octets("no request"), case.receipt)
    assert book.faults() == {(5, "release")}
    book = Book()
    receipt, other = book.receipt(), book.receipt()
    request = book.request(receipt, book.draw(receipt))
    book.release(request, other)
    assert book.faults() == {(5, "release")}
    book.release(request, receipt)
    assert (5, "second") in book.faults()


def test_a_share_that_was_used_without_a_logged_release_is_named(case: Case):
    book = case.book
    request = book.request(case.receipt, case.draw)
    book.release(request, case.receipt)
    book.verdict(request, case.receipt)
    book.release(request, case.receipt, "custodian-2")  # logged after it was used
    assert book.faults() == {(6, "share")}
    assert book.faults(threshold=1) == set()


@pytest.mark.parametrize("reason", [Reason.ORDER, Reason.WITHHELD, Reason.UNAVAILABLE])
def test_a_verdict_that_needs_no_plaintext_needs_no_release(case: Case, reason: Reason):
    request = case.book.request(case.receipt, case.draw)
    case.book.verdict(request, case.receipt, reason)
    assert case.book.faults() == set()


def test_a_verdict_under_no_request_is_named(case: Case):
    case.book.verdict(octets("no request"), case.receipt)
    assert case.book.faults() == {(6, "request")}


def test_a_request_that_nobody_judges_is_named_a_day_after_its_deadline(case: Case):
    case.book.request(case.receipt, case.draw)
    assert case.book.faults(now=LATE - 1) == set()
    assert case.book.faults(now=LATE) == {(8, "outcome")}


def test_anothers_signature_is_named_and_a_foreign_log_is_refused(case: Case):
    case.book.request(case.receipt, case.draw, key=signing_key("stranger"))
    assert case.book.faults() == {(1, "signature")}

    def forged(data: dict[str, Any]) -> None:
        data["checkpoint"] = data["checkpoint"].replace("\n", "\nx", 1)

    with pytest.raises(CounterfoilError) as refused:
        case.book.answer(edit=forged)
    assert refused.value.code in {Code.MALFORMED, Code.BAD_SIGNATURE, Code.UNTRUSTED_KEY}
