"""A client is to blame for its escrow only when n − k + 1 of the header's custodians report it, each for itself."""

from dataclasses import replace

import pytest

from shared.statements.disclosures import EscrowReport
from shared.verification.escrow_check import escrow_is_bad
from tests.shared.envelope.sealed import sealed_request
from tests.vectors.samples import hpke_key, octets

K, N = 3, 5
KEYS = [hpke_key(f"custodian {place}") for place in range(1, N + 1)]
SEALED = sealed_request(custodians=[key.public_bytes for key in KEYS], threshold=K)
HEADER, ENVELOPE, RECEIPT = SEALED.header, SEALED.envelope_hash, octets("receipt")


def report(place: int, **changes: object) -> EscrowReport:
    value = EscrowReport(
        request=octets("request"),
        receipt=RECEIPT,
        envelope=ENVELOPE,
        custodian=f"custodian-{place + 1}",
        key=KEYS[place].key_id,
    )
    return replace(value, **changes)  # type: ignore[arg-type]


def bad(*reports: EscrowReport) -> bool:
    return escrow_is_bad(HEADER, RECEIPT, ENVELOPE, reports)


def test_as_many_reports_as_leave_fewer_than_k_custodians_convict_and_one_less_does_not():
    assert bad(report(0), report(2), report(4))
    assert bad(*(report(place) for place in range(N)))
    assert not bad(report(0), report(4))
    assert not bad()


@pytest.mark.parametrize(
    "third",
    [
        report(1),
        report(1, request=octets("another request")),
        report(2, receipt=octets("another receipt")),
        report(2, envelope=octets("another envelope")),
        report(2, key=octets("a key that the header does not name")),
        report(2, key=KEYS[1].key_id),
        report(2, custodian="custodian-2"),
    ],
    ids=["repeated", "second request", "receipt", "envelope", "stranger", "same wrap", "same name"],
)
def test_a_report_that_is_repeated_or_about_something_else_is_none_more(third):
    assert not bad(report(0), report(1), third)
